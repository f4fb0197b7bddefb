"""Tables: versions of a data source, each an ordered list of immutable parts.

A part is one Parquet object: the rows of one window. A table version is a manifest of parts, so appending costs one
part and one small document, a training window is a table with fewer parts (no byte is copied), and a correction is
another version beside the old one.

    table (manifest) -> chunk of parts, one per calendar month -> Parquet, sketch
                     -> identity: what `Table.id` is the digest of

`Table.id` covers what the rows say (windows, schema, a logical digest of each part's rows in canonical order), not how
Parquet wrote them: another writer's version gives the same id, and equal ids mean equal rows in equal order, for
training too. Chunks go by month, so that an append or a cut rewrites one small document however long the history is.

In these documents a 64-digit digest is a reference to an object (gc follows it). Everything else is written so that it
can't look like one: logical digests as `rows:...`, users' own names with a `=` before them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from itertools import groupby, pairwise
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import Conflict, Corrupt, InvalidInput, NotFound
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Schema, SourceSpec, Usual, micros, settled, usual
from staytrue.kernel.release import Digest
from staytrue.kernel.sketch import Sketch, describe, kind_of, merge, moved, psi, sketch
from staytrue.store.frames import (
    Column,
    Rows,
    column,
    concat,
    conform,
    content_digest,
    in_order,
    no_rows,
    read_parquet,
    schema,
    select,
    take,
    to_pydict,
    write_parquet,
)
from staytrue.store.objects import LocalObjects, digest

__all__ = [
    "Part",
    "Table",
    "append",
    "changes",
    "correct",
    "diff",
    "empty",
    "history",
    "load",
    "make_part",
    "part_sketches",
    "read",
    "save",
    "sketches",
    "window",
    "without",
]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of one window, `since <= time < until`.

    `content` is the logical digest of the rows, `object` the Parquet, `sketch` the sketches of its columns;
    `unlabelled` counts rows whose label is null, that is: not known yet.
    """

    since: datetime
    until: datetime
    rows: int
    unlabelled: int
    content: Digest
    object: Digest
    sketch: Digest
    schema: Schema

    @cached_property
    def identity(self) -> list[Any]:
        """What the part adds to the id of its table."""
        return [self.since.isoformat(), self.until.isoformat(), self.rows, f"rows:{self.content}"]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The parts whose window begins in one calendar month (UTC)."""

    month: str
    parts: tuple[Part, ...]

    def __hash__(self) -> int:
        # By id, computed once: the caches below look up hundreds of chunks of thousands of parts.
        return hash(self.id)

    @cached_property
    def id(self) -> str:
        """Digest of what its parts say."""
        return f"rows:{digest(canonical_json([part.identity for part in self.parts]))}"

    @cached_property
    def rows(self) -> int:
        """How many rows its parts have together."""
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One version of a source: parts in order of time, never overlapping.

    Example:
        >>> table = empty(SourceSpec(name="sales", time="at", key="id"))
        >>> table.rows, table.parts, table.since
        (0, (), None)
    """

    source: str
    time: str | None
    key: str | None
    label: str | None
    schema: Schema
    chunks: tuple[Chunk, ...]

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All parts, oldest first."""
        return tuple(part for chunk in self.chunks for part in chunk.parts)

    @cached_property
    def id(self) -> Digest:
        """Names the rows: equal for equal windows, schema and content, whichever Parquet writer wrote them."""
        return digest(canonical_json(self.identity))

    @property
    def identity(self) -> dict[str, Any]:
        """The document whose digest is `id`; `save` keeps it, so that whoever names a table refers to an object."""
        return {
            "kind": "table identity",
            "source": f"={self.source}",
            **{name: None if value is None else f"={value}" for name, value in self._roles()},
            "schema": _spell(self.schema),
            "parts": [[chunk.month, chunk.id] for chunk in self.chunks],
        }

    def _roles(self) -> tuple[tuple[str, str | None], ...]:
        return (("time", self.time), ("key", self.key), ("label", self.label))

    @cached_property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(chunk.rows for chunk in self.chunks)

    @cached_property
    def unlabelled(self) -> int:
        """How many rows still wait for their label."""
        return sum(part.unlabelled for part in self.parts)

    @property
    def since(self) -> datetime | None:
        """Where the first window begins."""
        return self.chunks[0].parts[0].since if self.chunks else None

    @property
    def until(self) -> datetime | None:
        """Where the last window ends."""
        return self.chunks[-1].parts[-1].until if self.chunks else None


# -- making -----------------------------------------------------------------------------------------------------------


def empty(spec: SourceSpec) -> Table:
    """The table of a source before anything was fetched."""
    return Table(source=spec.name, time=spec.time, key=spec.key, label=spec.label, schema=(), chunks=())


def make_part(
    objects: LocalObjects,
    rows: Rows,
    window: tuple[datetime, datetime],
    spec: SourceSpec,
    *,
    like: Schema | None = None,
) -> Part:
    """Stores the rows of one window and gives back the part; nothing refers to it until a table with it is saved.

    The rows are put into canonical order (time, key, then all columns), so the same rows in another order are the same
    part. What must hold of the rows is the contract's business (`kernel.contract.check`), which comes first.

    Args:
        window: `since` and `until`, aware.
        like: the schema of the table that the part is for: columns beyond it are dropped, and types made equal where
            nothing is lost.

    Raises:
        InvalidInput: ST211, a window that is naive or not in order; ST207, rows that can't be made like the schema;
            ST206, no such time or key column.
    """
    since, until = _checked(window)
    if like:
        # An empty list has no columns: as a part it is the same as rows of the table's columns, none of them.
        rows = conform(rows, _merged(like, schema(rows), extend=False)) if rows.num_columns else no_rows(like)
    by = [name for name in (spec.time, spec.key) if name is not None]
    rows = in_order(rows, by if rows.num_columns else [])
    columns = {name: column(rows, name) for name in rows.column_names}
    label = columns.get(spec.label) if spec.label else None
    return Part(
        since=since,
        until=until,
        rows=rows.num_rows,
        unlabelled=0 if label is None else int(np.count_nonzero(~label.valid)),
        content=content_digest(rows),
        object=objects.put(write_parquet(rows)),
        sketch=_put_sketches(objects, _sketched(columns, spec.key)),
        schema=schema(rows),
    )


def append(table: Table, part: Part) -> Table:
    """The table with one more part, anywhere in time where none is.

    Raises:
        Conflict: ST212, its window overlaps one that is there; ST213 says so when `correct` is meant.
        InvalidInput: ST214, its columns or types differ from the table's.
    """
    for other in _around(table, part):
        if part.since < other.until and other.since < part.until:
            raise Conflict(
                "ST212",
                f"Can't append the window {_span(part)} to table {table.source!r}: {_span(other)} is there already. "
                "To replace its rows, correct the part of the same window.",
                window=_span(part),
                existing=_span(other),
            )
    return _with(table, part)


def correct(table: Table, part: Part) -> Table:
    """The table with the part of the same window replaced: rows that came late, labels that came, errors set right.

    The table given stays as it is, and loadable; a part with the same rows gives back an equal table.

    Raises:
        NotFound: ST213, the table has no part of exactly this window.
        InvalidInput: ST214, its columns or types differ from the table's.
    """
    if not any(other.since == part.since and other.until == part.until for other in _around(table, part)):
        raise NotFound(
            "ST213",
            f"Can't correct the window {_span(part)} of table {table.source!r}: "
            "it has no part of exactly that window. Append it.",
            window=_span(part),
        )
    return _with(table, part)


def window(objects: LocalObjects, table: Table, since: datetime, until: datetime) -> Table:
    """The table of the rows with `since <= time < until`: fewer parts, and at most two cut anew.

    A snapshot without time has no windows and comes back whole.

    Raises:
        InvalidInput: ST211, a window that is naive or not in order.
    """
    since, until = _checked((since, until))
    if table.time is None:
        return table
    chunks = []
    for chunk in table.chunks:
        if chunk.parts[0].since >= since and chunk.parts[-1].until <= until:
            chunks.append(chunk)  # as it is: its document is in the store already
            continue
        inside = [part for part in chunk.parts if part.since < until and since < part.until]
        cut = [
            part if since <= part.since and part.until <= until else _cut(objects, table, part, since, until)
            for part in inside
        ]
        chunks += _chunked(cut)
    return replace(
        table, chunks=_chunked(part for chunk in chunks for part in chunk.parts) if _split(chunks) else tuple(chunks)
    )


def without(table: Table, parts: Collection[Part]) -> Table:
    """The table without some of its parts: the others are not read, and the given table stays as it is."""
    gone = {tuple(part.identity) for part in parts}
    kept = [part for part in table.parts if tuple(part.identity) not in gone]
    return table if len(kept) == len(table.parts) else replace(table, chunks=_chunked(kept))


def _cut(objects: LocalObjects, table: Table, part: Part, since: datetime, until: datetime) -> Part:
    """The part of a part that lies inside the window."""
    rows = read_parquet(objects.get(part.object))
    low, high = max(since, part.since), min(until, part.until)
    if part.rows and table.time is not None:
        times = column(rows, table.time)
        rows = take(rows, times.valid & (times.values >= micros(low)) & (times.values < micros(high)))
    spec = SourceSpec(name=table.source, time=table.time, key=table.key, label=table.label)
    return make_part(objects, rows, (low, high), spec)


def _split(chunks: Sequence[Chunk]) -> bool:
    """Whether a cut moved a part into a month that has a chunk of its own."""
    return any(a.month == b.month for a, b in pairwise(chunks))


def _chunked(parts: Iterable[Part]) -> tuple[Chunk, ...]:
    return tuple(Chunk(month=month, parts=tuple(group)) for month, group in groupby(parts, key=_month))


def _month(part: Part) -> str:
    return f"{part.since:%Y-%m}"


def _around(table: Table, part: Part) -> list[Part]:
    """The parts that a window could touch: those of its months, and the last one before."""
    first = max(bisect_left(table.chunks, _month(part), key=lambda chunk: chunk.month) - 1, 0)
    found: list[Part] = []
    for chunk in table.chunks[first:]:
        if chunk.parts[0].since >= part.until:
            break
        found += chunk.parts
    return found


def _with(table: Table, part: Part) -> Table:
    """The table with the part in its place, instead of one of the same beginning."""
    merged = _merged(table.schema, part.schema, extend=True) if part.schema else table.schema
    month = _month(part)
    before = [chunk for chunk in table.chunks if chunk.month < month]
    after = [chunk for chunk in table.chunks if chunk.month > month]
    same = [
        other for chunk in table.chunks if chunk.month == month for other in chunk.parts if other.since != part.since
    ]
    parts = tuple(sorted([*same, part], key=lambda other: other.since))
    return replace(table, schema=merged, chunks=(*before, Chunk(month=month, parts=parts), *after))


def _merged(table: Schema, part: Schema, *, extend: bool) -> Schema:
    """The table's schema with a type for what was null so far.

    Raises:
        InvalidInput: ST214, with `extend`, when the part doesn't fit.
    """
    have = dict(part)
    made = tuple((name, settled(known, have.get(name, known))) for name, known in table)
    if not extend:
        return made
    if not table:
        return part
    other = {name: [dict(made).get(name), have.get(name)] for name in {**dict(made), **have}}
    wrong = {
        name: (want, got)
        for name, (want, got) in other.items()
        if want is None or got is None or settled(got, want) != want
    }
    if wrong:
        raise InvalidInput(
            "ST214",
            "Can't take the part into the table: "
            + "; ".join(
                f"column {name!r} is {got or 'missing'}, the table has {want or 'no such column'}"
                for name, (want, got) in wrong.items()
            )
            + ". Make it with like=table.schema, or begin a new table.",
            columns=wrong,
        )
    return made


def _checked(window: tuple[datetime, datetime]) -> tuple[datetime, datetime]:
    since, until = window
    if since.tzinfo is None or until.tzinfo is None or since >= until:
        raise InvalidInput(
            "ST211",
            f"Can't use the window {since.isoformat()} .. {until.isoformat()}; "
            "expected two aware times, the earlier one first.",
            since=since.isoformat(),
            until=until.isoformat(),
        )
    return since.astimezone(UTC), until.astimezone(UTC)


# -- keeping ----------------------------------------------------------------------------------------------------------

_FORMAT: Final = 1


def save(objects: LocalObjects, table: Table) -> Digest:
    """Stores the table and gives back the digest of its manifest, which is what to refer to.

    Only the documents that are not there yet are written: for an append the chunk of one month, the identity and the
    manifest.
    """
    identity = objects.put_document(table.identity)
    chunks = []
    for chunk in table.chunks:
        name = _put_chunk(objects, chunk)
        if not objects.has(name):  # collected since this process stored it
            objects.put_document(_chunk_document(chunk))
        chunks.append(name)
    return objects.put_document(
        table.identity
        | {"kind": "table", "format": _FORMAT, "id": identity, "rows": table.rows}
        | {"parts": [[chunk.month, chunk.rows, name] for chunk, name in zip(table.chunks, chunks, strict=True)]}
    )


def load(objects: LocalObjects, manifest: Digest) -> Table:
    """The table that `save` stored under this digest.

    Raises:
        NotFound, Corrupt: as `LocalObjects.get`.    Corrupt: ST216, the object is something else.
    """
    document = objects.get_document(manifest)
    if document["kind"] != "table" or document.get("format") != _FORMAT:
        raise Corrupt(
            "ST216",
            f"Can't load {manifest[:12]} as a table: it is {document['kind']!r} of format {document.get('format')}; "
            f"expected 'table' of format {_FORMAT}. A newer staytrue may have written it.",
            digest=manifest,
        )
    roles = {name: None if document[name] is None else document[name][1:] for name in ("time", "key", "label")}
    return Table(
        source=document["source"][1:],
        **roles,
        schema=_unspell(document["schema"]),
        chunks=tuple(_chunk(objects, Digest(name)) for _, _, name in document["parts"]),
    )


@lru_cache(maxsize=4096)
def _put_chunk(objects: LocalObjects, chunk: Chunk) -> Digest:
    # Chunks are shared between versions and never change: one that this process stored before is not written again.
    return objects.put_document(_chunk_document(chunk))


def _chunk_document(chunk: Chunk) -> dict[str, Any]:
    schemas = list(dict.fromkeys(part.schema for part in chunk.parts))
    parts = [
        [
            *part.identity,
            part.unlabelled,
            schemas.index(part.schema),
            part.object,
            part.sketch,
        ]
        for part in chunk.parts
    ]
    return {"kind": "parts", "month": chunk.month, "schemas": [_spell(known) for known in schemas], "parts": parts}


@lru_cache(maxsize=4096)
def _chunk(objects: LocalObjects, name: Digest) -> Chunk:
    document = objects.get_document(name)
    schemas = [_unspell(spelled) for spelled in document["schemas"]]
    parts = tuple(
        Part(
            since=datetime.fromisoformat(since),
            until=datetime.fromisoformat(until),
            rows=rows,
            unlabelled=unlabelled,
            content=Digest(content.removeprefix("rows:")),
            object=Digest(parquet),
            sketch=Digest(sketched),
            schema=schemas[number],
        )
        for since, until, rows, content, unlabelled, number, parquet, sketched in document["parts"]
    )
    return Chunk(month=document["month"], parts=parts)


def _spell(known: Schema) -> list[str]:
    return [f"{name}: {type_name}" for name, type_name in known]


def _unspell(spelled: Iterable[str]) -> Schema:
    pairs = (text.rpartition(": ") for text in spelled)
    return tuple((name, type_name) for name, _, type_name in pairs)


# -- reading ----------------------------------------------------------------------------------------------------------


def read(objects: LocalObjects, table: Table, columns: Sequence[str] | None = None) -> Rows:
    """All rows of the table, oldest part first, with the table's columns in the table's order.

    Args:
        columns: only these, in this order.

    Raises:
        InvalidInput: ST206, no such column.    NotFound, Corrupt: as `LocalObjects.get`; every object is checked
        against its digest.
    """
    parts = [conform(read_parquet(objects.get(part.object)), table.schema) for part in table.parts if part.rows]
    rows = concat(parts) if parts else no_rows(table.schema)
    return rows if columns is None else select(rows, columns)


def sketches(objects: LocalObjects, table: Table) -> dict[str, Sketch]:
    """The sketch of every column over all rows of the table; reads stored sketches only, no rows.

    Limit: the first call of a process reads one small object a part; later calls remember each month.
    """
    return _together([_chunk_sketches(objects, chunk) for chunk in table.chunks])


def part_sketches(objects: LocalObjects, part: Part) -> dict[str, Sketch]:
    """The sketch of every column of one part; empty for a part without rows."""
    return _get_sketches(objects, part.sketch) if part.rows else {}


def history(objects: LocalObjects, table: Table, *, last: int = 90) -> list[Usual]:
    """What the newest windows held, oldest first: the history that `kernel.contract.check` asks for."""
    parts: list[Part] = []
    for chunk in reversed(table.chunks):
        parts = [*chunk.parts, *parts]
        if len(parts) >= last:
            break
    return [_usual(objects, part.sketch, part.rows) for part in parts[-last:]]


def _sketched(columns: dict[str, Column], key: str | None) -> dict[str, Sketch]:
    made = {}
    for name, values in columns.items():
        kind = kind_of(values.type)
        # Every key is a category of its own, so only its length says anything.
        made[name] = sketch(values.values, values.valid, "list" if name == key and kind == "text" else kind)
    return made


def _put_sketches(objects: LocalObjects, made: dict[str, Sketch]) -> Digest:
    return objects.put_document({"kind": "sketch", "columns": {f"={name}": one for name, one in made.items()}})


def _get_sketches(objects: LocalObjects, name: Digest) -> dict[str, Sketch]:
    return {column_name[1:]: one for column_name, one in objects.get_document(name)["columns"].items()}


@lru_cache(maxsize=4096)
def _usual(objects: LocalObjects, name: Digest, rows: int) -> Usual:
    return usual(rows, _get_sketches(objects, name))


@lru_cache(maxsize=256)
def _chunk_sketches(objects: LocalObjects, chunk: Chunk) -> dict[str, Sketch]:
    return _together([_get_sketches(objects, part.sketch) for part in chunk.parts if part.rows])


def _together(each: Sequence[dict[str, Sketch]]) -> dict[str, Sketch]:
    names = dict.fromkeys(name for made in each for name in made)
    return {name: merge(*(made[name] for made in each if name in made)) for name in names}


# -- comparing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How many rows came, went, and stayed with another value somewhere."""

    added: int = 0
    removed: int = 0
    changed: int = 0


def changes(objects: LocalObjects, old: Part, new: Part, *, key: str | None) -> Changes:
    """How the rows of one part differ from those of another.

    By key; without one as whole rows, of which none is `changed`. Parts with the same rows are not read.
    """
    return Changes() if old.content == new.content else _changes(objects, [old], [new], key)


def diff(objects: LocalObjects, a: Table, b: Table) -> dict[str, Any]:
    """How table `b` differs from `a`, as a document.

    `rows`: counts of both, and added, removed, changed in all; `windows`: the same for every stretch of time that
    differs, exact: where both have other parts for the same time these are read, and nothing else is; `schema`: columns
    added, removed, changed; `columns`: for each column of both how far its distribution moved (`moved` in [0, 1],
    `psi`), from sketches alone, and what it was and is.
    """
    windows = [_window_changes(objects, stretch, b.key) for stretch in _stretches(a, b)]
    have, known = dict(b.schema), dict(a.schema)
    ours, theirs = sketches(objects, a), sketches(objects, b)
    columns = {}
    for name in (name for name in ours if name in theirs):
        if ours[name]["is"] == theirs[name]["is"] or "null" in {ours[name]["is"], theirs[name]["is"]}:
            distance = {"moved": moved(ours[name], theirs[name]), "psi": psi(ours[name], theirs[name])}
            columns[name] = distance | {"a": describe(ours[name]), "b": describe(theirs[name])}
    return {
        "kind": "table diff",
        "a": a.id,
        "b": b.id,
        "rows": {"a": a.rows, "b": b.rows}
        | {what: sum(w[what] for w in windows) for what in ("added", "removed", "changed")},
        "windows": windows,
        "schema": {
            "added": {name: have[name] for name in have if name not in known},
            "removed": {name: known[name] for name in known if name not in have},
            "changed": {
                name: [known[name], have[name]] for name in known if have.get(name, known[name]) != known[name]
            },
        },
        "columns": columns,
    }


_Stretch: TypeAlias = tuple[list[Part], list[Part]]


def _stretches(a: Table, b: Table) -> list[_Stretch]:
    """The parts in which two tables differ, in groups that overlap in time."""
    same = {chunk.id for chunk in a.chunks} & {chunk.id for chunk in b.chunks}
    sides = [
        {tuple(part.identity): part for c in table.chunks if c.id not in same for part in c.parts} for table in (a, b)
    ]
    only = [(part, side) for side in (0, 1) for name, part in sides[side].items() if name not in sides[1 - side]]
    found: list[_Stretch] = []
    until = datetime.min.replace(tzinfo=UTC)
    for part, side in sorted(only, key=lambda item: (item[0].since, item[1])):
        if part.since >= until:
            found.append(([], []))
        found[-1][side].append(part)
        until = max(until, part.until)
    return found


def _window_changes(objects: LocalObjects, stretch: _Stretch, key: str | None) -> dict[str, Any]:
    old, new = stretch
    if old and new:
        counted = _changes(objects, old, new, key)
    else:
        counted = Changes(added=sum(part.rows for part in new), removed=sum(part.rows for part in old))
    span = {"since": min(p.since for p in old + new).isoformat(), "until": max(p.until for p in old + new).isoformat()}
    return span | {"added": counted.added, "removed": counted.removed, "changed": counted.changed}


def _changes(objects: LocalObjects, old: Sequence[Part], new: Sequence[Part], key: str | None) -> Changes:
    sides = [[read_parquet(objects.get(part.object)) for part in parts if part.rows] for parts in (old, new)]
    if not all(sides):
        return Changes(added=sum(rows.num_rows for rows in sides[1]), removed=sum(rows.num_rows for rows in sides[0]))
    before, after = (concat(side) for side in sides)
    if key is None or key not in before.column_names or key not in after.column_names:
        return _whole_rows(before, after)
    columns = [{name: column(rows, name) for name in rows.column_names} for rows in (before, after)]
    keys = [side[key].values for side in columns]
    if columns[0][key].type != columns[1][key].type or any(len(np.unique(k)) < len(k) for k in keys):
        return _whole_rows(before, after)
    both, at_old, at_new = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    differs = np.full(len(both), columns[0].keys() != columns[1].keys())
    for name in columns[0].keys() & columns[1].keys():
        differs |= _differs(columns[0][name], at_old, columns[1][name], at_new)
    return Changes(added=len(keys[1]) - len(both), removed=len(keys[0]) - len(both), changed=int(differs.sum()))


def _differs(a: Column, at_a: NDArray[np.intp], b: Column, at_b: NDArray[np.intp]) -> NDArray[np.bool_]:
    valid_a, valid_b = a.valid[at_a], b.valid[at_b]
    left, right = a.values[at_a], b.values[at_b]
    if a.type.startswith("list<") or b.type.startswith("list<"):
        unequal = np.array([not np.array_equal(x, y) for x, y in zip(left, right, strict=True)], np.bool_)
    else:
        # A NaN is the same as a NaN here, though it equals nothing.
        unequal = np.asarray((left != right) & ~((left != left) & (right != right)), np.bool_)  # noqa: PLR0124
    differs: NDArray[np.bool_] = (valid_a != valid_b) | (valid_a & valid_b & unequal)
    return differs


def _whole_rows(before: Rows, after: Rows) -> Changes:
    old, new = (
        Counter(map(repr, zip(*(values for _, values in sorted(to_pydict(rows).items())), strict=True)))
        for rows in (before, after)
    )
    return Changes(added=(new - old).total(), removed=(old - new).total())


def _span(part: Part) -> str:
    return f"{part.since.isoformat()} .. {part.until.isoformat()}"
