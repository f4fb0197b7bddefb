"""Join: predictions written any number of times, each once, beside the label that counts. Rows in, rows out.

What comes in are rows as `store/records.py` makes them of segments and as compaction keeps them; what goes out are the rows
that `store.traffic()` gives. Values stay in Arrow throughout; only ids, times and labels become numpy arrays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.contract import Column, Schema, settled
from staytrue.kernel.traffic import Ints, first_of_each, ranks, winners
from staytrue.store import frames
from staytrue.store.records import LOGGED, json_text, texts_of

__all__ = [
    "Chunk",
    "alike",
    "as_text",
    "joined",
    "label_of_keys",
    "no_predictions",
    "once",
    "own_name",
    "own_names",
    "union",
]

_NUMERIC: Final = frozenset({"int64", "uint64", "float32", "float64"})
_BEFORE: Final[Schema] = (
    ("id", "string"),
    ("at", "timestamp[UTC]"),
    ("release", "string"),
    ("arm", "string"),
    ("weight", "float64"),
)
_AFTER: Final[Schema] = (
    ("answer", "float64"),
    ("label", "float64"),
    ("label_at", "timestamp[UTC]"),
    ("label_got_at", "timestamp[UTC]"),
    ("flags", "string"),
)
_OURS: Final = frozenset(name for name, _ in _BEFORE + _AFTER)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Rows of one release and arm, as `prediction_rows` gives them; `key` is the logged column that tells rows apart."""

    release: str
    arm: str
    key: str | None
    rows: frames.Rows


def joined(chunks: list[Chunk], columns: Schema, labels: frames.Rows) -> frames.Rows:
    """The predictions of these chunks, each once, ordered by time, with the labels that count.

    Args:
        chunks: at least one, with at least one row together.
        columns: the logged columns to give, see `union`.
        labels: all that may matter and more, see `LABEL_SCHEMA`.
    """
    return _finished(_labelled(_once(_Chunks.of(chunks, columns)), labels), columns)


def no_predictions(columns: Schema) -> frames.Rows:
    """What `joined` gives when there are none."""
    logged = tuple((name, "string" if kind == "null" else kind) for name, kind in own_names(columns))
    return frames.no_rows((*_BEFORE, *logged, *_AFTER))


def own_name(column: str) -> str:
    """A logged column as it is called beside ours.

    Example:
        >>> own_name("size"), own_name("id")
        ('size', 'row.id')
    """
    return f"row.{column}" if column in _OURS else column


def own_names(schema: Schema) -> Schema:
    """The logged columns as they are called beside ours.

    Example:
        >>> own_names((("size", "float64"), ("at", "timestamp[UTC]")))
        (('size', 'float64'), ('row.at', 'timestamp[UTC]'))
    """
    return tuple((own_name(name), kind) for name, kind in schema)


def _values(rows: frames.Rows, name: str) -> NDArray[Any]:
    values: NDArray[Any] = frames.column(rows, name).values
    return values


# -- one row for each prediction --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Chunks:
    """Chunks under one another: `rows`, and for each row where it comes from."""

    chunks: list[Chunk]
    rows: frames.Rows
    chunk: Ints

    @classmethod
    def of(cls, chunks: list[Chunk], columns: Schema) -> Self:
        wanted = tuple((LOGGED + name, kind) for name, kind in columns)
        rows = frames.concat(alike([_with_columns(chunk.rows, wanted) for chunk in chunks]))
        sizes = [chunk.rows.num_rows for chunk in chunks]
        return cls(chunks=chunks, rows=rows, chunk=np.repeat(np.arange(len(chunks)), sizes))

    def words(self, name: str) -> tuple[list[str], Ints]:
        """The releases or arms in order, and for each row the place of its own among them."""
        of_chunk = [getattr(chunk, name) for chunk in self.chunks]
        words = sorted(set(of_chunk))
        return words, np.array([words.index(word) for word in of_chunk], np.int64)[self.chunk]

    @cached_property
    def ids(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        return _ids(self.rows)

    def take(self, which: Ints) -> Self:
        whole = len(which) == self.rows.num_rows and bool((which[1:] > which[:-1]).all())
        return self if whole else replace(self, rows=frames.take(self.rows, which), chunk=self.chunk[which])


def _ids(rows: frames.Rows) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return _values(rows, "id_hi").view(np.uint64), _values(rows, "id_lo").view(np.uint64)


def once(rows: frames.Rows) -> frames.Rows:
    """Each prediction of one release and arm once, ordered by time."""
    chunk = Chunk(release="", arm="", key=None, rows=rows)
    return _once(_Chunks(chunks=[chunk], rows=rows, chunk=np.zeros(rows.num_rows, np.int64))).rows


def _once(given: _Chunks) -> _Chunks:
    (hi, lo), at = given.ids, _values(given.rows, "at")
    release, arm = given.words("release")[1], given.words("arm")[1]
    kept = first_of_each([hi, lo, release, arm], [at, _order_of(given.rows)])
    return given.take(kept[np.lexsort([key[kept] for key in (arm, release, lo, hi, at)])])


def _order_of(rows: frames.Rows) -> NDArray[Any]:
    """An order of answers, for the rare prediction that was answered twice and differently."""
    answer = frames.column(rows, "answer")
    values: Any = answer.values
    if answer.type == "string":
        return np.unique(np.where(answer.valid, values, "").astype(str), return_inverse=True)[1]
    return np.where(answer.valid, values, -np.inf)


# -- labels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Joined:
    given: _Chunks
    labels: frames.Rows
    which: Ints
    """For each prediction the row of its label, -1 without one."""


def _labelled(given: _Chunks, labels: frames.Rows) -> _Joined:
    hi, lo = given.ids
    which = np.full(given.rows.num_rows, -1, np.int64)
    if labels.num_rows and len(which):
        by_key = frames.column(labels, "key").valid
        label_hi, label_lo = _ids(labels)
        wanted = by_key | ((label_hi >= hi.min()) & (label_hi <= hi.max()))
        if not wanted.all():
            labels = frames.take(labels, wanted)
            return _labelled(given, labels)
        strength = _strength(labels)
        found = _by_id((hi, lo), (label_hi, label_lo), ~by_key, strength), _by_key(given, labels, by_key, strength)
        power = [np.where(one >= 0, strength.order[one], -1) for one in found]
        which = np.where(power[0] >= power[1], found[0], found[1])
    return _Joined(given=given, labels=labels, which=which)


@dataclass(frozen=True, kw_only=True)
class _Strength:
    """What decides between labels, as `winners` takes it; `order` is greater for the one that counts."""

    at: Ints
    got: Ints
    label: Ints
    source: Ints

    @cached_property
    def order(self) -> Ints:
        return ranks(self.at, self.got, self.label, self.source)

    def winners(self, which: Ints, target: Ints) -> Ints:
        at, got, label, source = (key[which] for key in (self.at, self.got, self.label, self.source))
        return which[winners(target, at=at, got=got, label=label, source=source)]


def _strength(labels: frames.Rows) -> _Strength:
    number, text = frames.column(labels, "number"), frames.column(labels, "text")
    kind = np.where(text.valid, 2, np.where(number.valid, 1, 0))
    value = np.where(number.valid, number.values, 0.0)
    return _Strength(
        at=_values(labels, "at"),
        got=_values(labels, "got"),
        label=ranks(kind, value, _text_ranks(text)),
        source=_text_ranks(frames.column(labels, "source")),
    )


def _text_ranks(column: Column) -> Ints:
    """Ranks in the order of their UTF-8 bytes, which is that of their code points; nulls count as empty."""
    values: Any = column.values
    texts = [text if there else "" for text, there in zip(values.tolist(), column.valid.tolist(), strict=True)]
    places = {text: place for place, text in enumerate(sorted(set(texts)))}
    return np.fromiter((places[text] for text in texts), np.int64, len(texts))


_Halves = tuple[NDArray[np.uint64], NDArray[np.uint64]]


def _by_id(ids: _Halves, labels: _Halves, there: NDArray[np.bool_], strength: _Strength) -> Ints:
    which = np.flatnonzero(there)
    both = [np.concatenate([mine, theirs[which]]) for mine, theirs in zip(ids, labels, strict=True)]
    codes = ranks(*both)
    n = len(ids[0])
    winner = np.full(len(codes), -1, np.int64)
    winning = strength.winners(which, codes[n:])
    winner[codes[n + np.searchsorted(which, winning)]] = winning
    return winner[codes[:n]]


def label_of_keys(keys: Column, labels: frames.Rows) -> Column:
    """For each key the label that counts: numbers where all labels are, else JSON texts; none where nobody gave one.

    Args:
        keys: of rows, of any type. labels: see `LABEL_SCHEMA`; those that name a prediction by its id are passed over.
    """
    places, winner = _winners_by_key(labels, frames.column(labels, "key").valid, _strength(labels))
    which = winner[_key_codes(keys, places)] if len(winner) else np.full(len(keys.valid), -1, np.int64)
    which = np.where(_key_codes(keys, places) >= 0, which, -1)
    has = which >= 0
    number, text = (_taken(frames.column(labels, name), which, has) for name in ("number", "text"))
    return _label(number, text)


def _winners_by_key(labels: frames.Rows, there: NDArray[np.bool_], strength: _Strength) -> tuple[dict[str, int], Ints]:
    """Key -> place, and for each place the row of the label that counts."""
    which = np.flatnonzero(there)
    keys: Any = frames.column(frames.take(labels, which), "key").values
    places: dict[str, int] = {}
    codes = np.array([places.setdefault(key, len(places)) for key in keys.tolist()], np.int64)
    winning = strength.winners(which, codes)
    winner = np.full(len(places), -1, np.int64)
    winner[codes[np.searchsorted(which, winning)]] = winning
    return places, winner


def _by_key(given: _Chunks, labels: frames.Rows, there: NDArray[np.bool_], strength: _Strength) -> Ints:
    found = np.full(given.rows.num_rows, -1, np.int64)
    if not there.any():
        return found
    places, winner = _winners_by_key(labels, there, strength)
    for key in {chunk.key for chunk in given.chunks if chunk.key is not None}:
        of_this = np.isin(given.chunk, [i for i, chunk in enumerate(given.chunks) if chunk.key == key])
        if LOGGED + key in given.rows.column_names:
            code = _key_codes(frames.column(given.rows, LOGGED + key), places)
            found = np.where(of_this & (code >= 0), winner[code], found)
    return found


def _key_codes(column: Column, places: Mapping[str, int]) -> Ints:
    """Which of these keys each row has, -1 for none of them. A key is compared as text: 7, "7" and 7.0 are one."""
    values: Any = column.values
    if column.type in {"int64", "uint64"}:
        digits = {int(text): place for text, place in places.items() if re.fullmatch(r"0|-?[1-9][0-9]{0,19}", text)}
        limits = np.iinfo(values.dtype)
        fit = np.array([number for number in sorted(digits) if limits.min <= number <= limits.max], values.dtype)
        if not len(fit):
            return np.full(len(values), -1, np.int64)
        at = np.minimum(np.searchsorted(fit, values), len(fit) - 1)
        codes = np.array([digits[number] for number in fit.tolist()], np.int64)
        return np.where(column.valid & (fit[at] == values), codes[at], -1)
    if values.dtype.kind == "f":
        texts = texts_of(values.tolist(), lambda value: str(int(value)) if value.is_integer() else json_text(value))
        texts = replace(texts, valid=column.valid)
    else:
        texts = as_text(column)
    held: Any = texts.values
    listed = zip(held.tolist(), texts.valid.tolist(), strict=True)
    return np.fromiter((places.get(text, -1) if there else -1 for text, there in listed), np.int64, len(held))


# -- columns ----------------------------------------------------------------------------------------------------------


def _finished(joined: _Joined, columns: Schema) -> frames.Rows:
    """The rows as people see them."""
    given, rows = joined.given, joined.given.rows
    n = rows.num_rows
    every, has = np.ones(n, np.bool_), joined.which >= 0
    made: dict[str, Any] = {"id": frames.uuid_texts(*given.ids), "at": rows.column("at")}
    for name in ("release", "arm"):
        words, codes = given.words(name)
        made[name] = _array(Column(type="string", values=np.array(words, object)[codes], valid=every))
    made["weight"] = rows.column("weight")
    for (name, _), (own, _) in zip(columns, own_names(columns), strict=True):
        made[own] = rows.column(LOGGED + name)
    made["answer"] = rows.column("answer")
    of_rows = {name: _taken(frames.column(joined.labels, name), joined.which, has) for name in _LABEL_COLUMNS}
    made["label"] = _array(_label(of_rows["number"], of_rows["text"]))
    made["label_at"], made["label_got_at"] = _array(of_rows["at"]), _array(of_rows["got"])
    made["flags"] = rows.column("flags")
    return frames.to_rows(made, doing="read traffic")


_LABEL_COLUMNS: Final = ("number", "text", "at", "got")


def _array(column: Column) -> Any:
    return frames.from_columns({"it": column}).column("it")


def _taken(column: Column, which: Ints, has: NDArray[np.bool_]) -> Column:
    if not len(column.valid):
        empty = (
            np.full(len(which), None, object) if column.type == "string" else np.zeros(len(which), column.values.dtype)
        )
        return Column(type=column.type, values=empty, valid=has)
    return Column(type=column.type, values=column.values[which], valid=column.valid[which] & has)


def _label(number: Column, text: Column) -> Column:
    if not text.valid.any():
        return number
    numbers = as_text(number)
    values = np.where(text.valid, text.values, numbers.values)
    return Column(type="string", values=values, valid=text.valid | numbers.valid)


def union(schemas: Sequence[Schema]) -> Schema:
    """The columns of all of these, in the order in which they first come, each with a type that all of its values fit."""
    kinds: dict[str, str] = {}
    for schema in schemas:
        for name, kind in schema:
            kinds[name] = _common(kinds.get(name, "null"), kind)
    return tuple(kinds.items())


def _common(one: str, other: str) -> str:
    kind = settled(one, other)
    if settled(other, one) == kind:
        return kind
    return "float64" if {one, other} <= _NUMERIC else "string"


def alike(parts: list[frames.Rows]) -> list[frames.Rows]:
    """The same rows, with answers and labels of one type in all of them."""
    for name in ("answer", "label"):
        kinds = {kind for part in parts for known, kind in frames.schema(part) if known == name}
        if len(kinds) > 1:
            parts = [_replaced(part, name, "string") for part in parts]
    return parts


def _with_columns(rows: frames.Rows, wanted: Schema) -> frames.Rows:
    """The rows with these logged columns, in this order and of these types; one that is missing is null."""
    have = dict(frames.schema(rows))
    made: dict[str, Any] = {name: rows.column(name) for name in have if not name.startswith(LOGGED)}
    nothing = Column(type="null", values=np.full(rows.num_rows, None), valid=np.zeros(rows.num_rows, np.bool_))
    for name, kind in wanted:
        if have.get(name) == kind:
            made[name] = rows.column(name)
        else:
            made[name] = _converted(frames.column(rows, name) if name in have else nothing, kind)
    return frames.to_rows(made, doing="read traffic")


def _replaced(rows: frames.Rows, name: str, kind: str) -> frames.Rows:
    made = {known: rows.column(known) for known in rows.column_names}
    made[name] = _converted(frames.column(rows, name), kind)
    return frames.to_rows(made, doing="read traffic")


def _converted(column: Column, kind: str) -> Any:
    """The column, as Arrow, in the common type of several releases; nulls take any type."""
    if not column.valid.any():
        return frames.conform(frames.from_columns({"it": column}), (("it", kind),)).column("it")
    if kind == "string":
        return _array(as_text(column))
    return _array(Column(type=kind, values=column.values.astype(kind), valid=column.valid))


def as_text(column: Column) -> Column:
    """As text: whole numbers in digits, times in ISO form, anything else but text as JSON."""
    values: Any = column.values
    if column.type == "string":
        return column
    spelled: Callable[[Any], str | None] = _spelled
    if column.type == "date" or column.type.startswith("timestamp"):
        spelled = _iso_date if column.type == "date" else _iso
    plain = [
        (value.tolist() if isinstance(value, np.ndarray) else value) if there else None
        for value, there in zip(values.tolist(), column.valid.tolist(), strict=True)
    ]
    if column.type.startswith("list<"):
        return texts_of([json_text(value) for value in plain], lambda text: text)
    return texts_of(plain, spelled)


def _spelled(value: Any) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else json_text(value)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _iso(value: int | None) -> str | None:
    return None if value is None else (_EPOCH + timedelta(microseconds=value)).isoformat()


def _iso_date(value: int | None) -> str | None:
    return None if value is None else (_EPOCH.date() + timedelta(days=value // 86_400_000_000)).isoformat()
