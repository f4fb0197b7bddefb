"""Schema: from the JSON of a request to rows, and from rows to a block: what a release's signature is compiled to.

Rows that are like training go one way: decoded by msgspec straight into structs, checked many at once as arrays. All
others go the other way, through `kernel.signature.read_row`, which is forty times slower and has a word for everything.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import partial
from math import isfinite
from operator import attrgetter
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.contract import list_item, micros
from staytrue.kernel.signature import Bounds, Feature, Finding, Signature, read_row
from staytrue.serve.problem import Problem
from staytrue.store.block import Block, Layout

__all__ = ["Flag", "Schema", "Structs"]

Structs: TypeAlias = Sequence[Any]
"""Rows as structs of the schema that made them; no other schema may use them."""
Flag: TypeAlias = tuple[int, Finding]
"""(row, what was accepted all the same)."""

_MOST_ERRORS: Final = 50


class Read(NamedTuple):
    """A request that was read: its rows, and what was flagged on the way (None: nobody has looked at the values yet).

    Of a large request, which was read in another process, `packed` has the rows as chunks instead.
    """

    rows: Structs
    flags: list[Flag] | None = None
    packed: Sequence[tuple[int, bytes]] = ()

    @property
    def size(self) -> int:
        """How many rows it has."""
        return sum(size for size, _ in self.packed) if self.packed else len(self.rows)


class Schema:
    """Reads requests for one signature.

    Args:
        signature: what is wanted.
        most_rows: of one request.

    Example:
        >>> schema = Schema(Signature(features=(Feature(name="size", type="float64", low=1.0, high=5.0),)), most_rows=10)
        >>> read = schema.read(b'{"rows": [{"size": 2}, {"size": 7}]}')
        >>> block = schema.block(read.rows)
        >>> block.floats.tolist(), schema.suspects(block).tolist()
        ([[2.0], [7.0]], [False, True])
        >>> schema.read(b'{"rows": [{"size": "2"}]}').errors[0]["field"]
        'size'
    """

    def __init__(self, signature: Signature, *, most_rows: int) -> None:
        self.signature = signature
        self.layout = Layout(signature.schema)
        self._nullable = frozenset(one.name for one in signature.features if one.actions["null"] == "accept")
        self._missable = frozenset(one.name for one in signature.features if one.actions["missing"] == "accept")
        self.most_rows = most_rows
        by_name = {one.name: one for one in signature.features}
        # Floats first: of a row as a tuple they are then one slice.
        floats = self.layout.float_names
        self._names = [*floats, *(name for name in by_name if name not in floats)]
        row = msgspec.defstruct(
            "Row",
            [_field(f"c{i}", by_name[name]) for i, name in enumerate(self._names)],
            rename={f"c{i}": name for i, name in enumerate(self._names)},
            forbid_unknown_fields=True,
            # A column that may be left out may stand before one that may not.
            kw_only=True,
            # Nothing in a row can refer back to it, so the collector need not look at it.
            gc=False,
        )
        rows = Annotated[list[row], msgspec.Meta(min_length=1, max_length=most_rows)]  # type: ignore[valid-type]
        request = msgspec.defstruct("Request", [("rows", rows)], forbid_unknown_fields=True, gc=False)
        self._row: Any = row
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(request).decode
        self._convert: Callable[[Sequence[Any]], Structs] = partial(
            msgspec.convert,
            type=list[row],  # type: ignore[valid-type]
            # What a decoder of another protocol left as text.
            builtin_types=(datetime, date),
        )
        self._tuple = msgspec.structs.astuple
        fields = {name: f"c{i}" for i, name in enumerate(self._names)}
        types = dict(signature.schema)
        self._times = [name for name in self.layout.whole_names if types[name].startswith(("date", "timestamp"))]
        self._others = [(name, field) for name, field in fields.items() if name not in self.layout.float_names]
        self._floats = struct.Struct(f"={len(floats)}d").pack
        self._only_floats = not self._others
        keyed = signature.key is not None and signature.key in self._names
        self._key = attrgetter(f"c{self._names.index(signature.key)}") if keyed and signature.key else None
        self._float_bounds = Bounds.of([by_name[name] for name in self.layout.float_names])
        self._whole_bounds = Bounds.of([by_name[name] for name in self.layout.whole_names])
        self._known_texts = [
            (i, frozenset({None, *(text[1:] for text in known)}))
            for i, name in enumerate(self.layout.text_names)
            if (known := by_name[name].categories) is not None and by_name[name].actions["category"] != "accept"
        ]

    # ------------------------------------------------------------ from JSON

    def read(self, body: bytes) -> Read | Problem:
        """The rows of `{"rows": [...]}`, or what is wrong with it, by row and field."""
        try:
            return Read(rows=self._decode(body).rows)
        except msgspec.ValidationError:
            return self._explained(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return self._malformed(body, exc)

    def read_dicts(self, rows: Sequence[Any]) -> Read | Problem:
        """As `read`, for rows that another protocol has decoded already."""
        if not 1 <= len(rows) <= self.most_rows:
            return self._wrong_count(len(rows))
        with contextlib.suppress(msgspec.ValidationError):
            converted = self._convert(rows)
            if self._are_finite(converted):
                return Read(rows=converted)
        read, flags, errors = [], [], []
        for at, row in enumerate(rows):
            if not isinstance(row, dict):
                errors.append(
                    {"row": at, "field": None, "fault": "type", "message": f"Row {at} is no object of columns."}
                )
                continue
            values, found = read_row(self.signature, row)
            refused = [one for one in found if one.action == "refuse"]
            errors += [one.document(at) for one in refused]
            flags += [(at, one) for one in found if one.action == "flag"]
            if not refused and not errors:
                read.append(self._row(**{f"c{i}": values[name] for i, name in enumerate(self._names)}))
            if len(errors) >= _MOST_ERRORS:
                break
        return refusal(errors) if errors else Read(rows=read, flags=flags)

    def _are_finite(self, rows: Structs) -> bool:
        """Whether no float is NaN or infinite, which JSON can't be but tensors can."""
        width = len(self.layout.float_names)
        return all(value is None or isfinite(value) for row in rows for value in self._tuple(row)[:width])

    def _explained(self, body: bytes) -> Read | Problem:
        """What msgspec would not take, read slowly: it may be refused in words, or be well all the same."""
        try:
            document = msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            return self._malformed(body, exc)
        return self._from_document(document)

    def _from_document(self, document: Any) -> Read | Problem:
        rows = document.get("rows") if isinstance(document, dict) else None
        if not isinstance(rows, list):
            return Problem(status=422, code="ST756", detail='The body has no list of rows: expected {"rows": [{...}]}.')
        if len(document) > 1:
            other = next(name for name in document if name != "rows")
            return Problem(
                status=422, code="ST756", detail=f'The body has {other[:60]!r} beside "rows"; nothing reads it.'
            )
        return self.read_dicts(rows)

    def _malformed(self, body: bytes, exc: Exception) -> Read | Problem:
        # Python's own writer makes NaN and Infinity, which are no JSON: with them the field can be named.
        if b"NaN" in body or b"Infinity" in body or b"e" in body or b"E" in body:
            try:
                document = json.loads(body)
                # It also takes half of a surrogate pair, which nothing after it can write: a ValueError then.
                json.dumps(document, ensure_ascii=False).encode()
                return self._from_document(document)
            except (ValueError, RecursionError):
                pass
        said = "it is nested too deep" if isinstance(exc, RecursionError) else str(exc)[:200]
        return Problem(status=400, code="ST757", detail=f"The body is no JSON: {said}")

    def _wrong_count(self, count: int) -> Problem:
        return Problem(
            status=422,
            code="ST758",
            detail=f"The request has {count:,} rows; expected 1 to {self.most_rows:,}.",
        )

    def reads_all_of(self, other: Schema) -> bool:
        """Whether every row that the other schema has read is one of this schema as it is."""
        return self.layout == other.layout and self._nullable >= other._nullable and self._missable >= other._missable

    def read_as(self, other: Schema, rows: Structs) -> Read | Problem:
        """Rows of this schema as another one reads them."""
        known = other._nullable
        # A None may stand for a value that was left out: whoever takes no null is told so.
        given = [{name: v for name, v in row.items() if v is not None or name in known} for row in self.dicts(rows)]
        return other.read_dicts(given)

    # ------------------------------------------------------------ many rows at once

    def block(self, rows: Structs) -> Block:
        """The rows as one block.

        Raises:
            OverflowError: a whole number beyond 64 bits; `explain` names it.
        """
        n = len(rows)
        floats = self._float_matrix(rows)
        if self._only_floats:
            return Block(n=n, floats=floats, whole=_NO_WHOLE(n), valid=None, bools=_NO_BOOLS(n), texts=(), lists=())
        others = {name: [getattr(row, field) for row in rows] for name, field in self._others}
        for name in self._times:
            others[name] = [_micros(value) for value in others[name]]
        return self.layout.block(others, floats=floats)

    def _float_matrix(self, rows: Structs) -> NDArray[np.float64]:
        width = len(self.layout.float_names)
        tuples = [self._tuple(row)[:width] for row in rows]
        try:
            # Packed by `struct`, a third of the time that numpy needs for the same tuples.
            packed = b"".join([self._floats(*values) for values in tuples])
        except struct.error:  # a None, which becomes a NaN
            return np.array(tuples, np.float64)
        return np.frombuffer(packed, np.float64).reshape(len(rows), width)

    def suspects(self, block: Block) -> NDArray[np.bool_] | None:
        """(n,) which rows have a value that something may have to be said about; None when none has."""
        found: NDArray[np.bool_] | None = None
        for bounds, matrix in ((self._float_bounds, block.floats), (self._whole_bounds, block.whole)):
            if bounds is not None:
                outside = bounds.outside(matrix)
                found = outside if found is None else found | outside
        for i, known in self._known_texts:
            texts = block.texts[i]
            if not known.issuperset(texts):
                strange = np.fromiter((text not in known for text in texts), np.bool_, len(texts))
                found = strange if found is None else found | strange
        return found if found is not None and bool(found.any()) else None

    def explain(self, rows: Structs, which: Iterable[int]) -> tuple[list[Flag], list[Mapping[str, Any]]]:
        """All that is to be said about these rows: what is flagged, and the errors of what is refused."""
        flags: list[Flag] = []
        errors: list[Mapping[str, Any]] = []
        for at in which:
            row = dict(zip(self._names, self._tuple(rows[at]), strict=True))
            for one in read_row(self.signature, row)[1]:
                if one.fault in ("missing", "null"):
                    continue  # the decoder has let it through, so it is accepted
                if one.action == "refuse":
                    errors.append(one.document(at))
                else:
                    flags.append((at, one))
        return flags, errors

    def dicts(self, rows: Structs) -> list[dict[str, Any]]:
        """The rows as another schema may read them: values by column."""
        return [dict(zip(self._names, self._tuple(row), strict=True)) for row in rows]

    def keys(self, rows: Structs) -> list[Any] | None:
        """The key of each row, None where it has none; None for an app without keys."""
        return None if self._key is None else list(map(self._key, rows))


def _empty(kind: Any) -> Callable[[int], NDArray[Any]]:
    return lambda n: np.zeros((n, 0), kind)


_NO_WHOLE, _NO_BOOLS = _empty(np.int64), _empty(np.uint8)


def refusal(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """What a request is told that has rows which can't be answered."""
    fields = ", ".join(sorted({str(one["field"]) for one in errors if one["field"] is not None})[:5])
    return Problem(
        status=422,
        code="ST759",
        detail=f"These rows can't be answered{f': look at {fields}' if fields else ''}. Nothing was predicted.",
        errors=list(errors[:_MOST_ERRORS]),
    )


_PLAIN_TYPES: Final[Mapping[str, Any]] = {
    "float64": float,
    "float32": float,
    "int64": Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    "uint64": Annotated[int, msgspec.Meta(ge=0)],
    "bool": bool,
    "string": str,
    "date": date,
    "timestamp[UTC]": Annotated[datetime, msgspec.Meta(tz=True)],
    "timestamp": Annotated[datetime, msgspec.Meta(tz=False)],
    "null": Any,
}


def _field(name: str, one: Feature) -> tuple[str, Any] | tuple[str, Any, Any]:
    """How msgspec is told of a column."""
    kind = _PLAIN_TYPES[one.type] if one.type in _PLAIN_TYPES else _list_type(one.type)
    if one.actions["null"] == "accept":
        kind = kind | None
    return (name, kind, None) if one.actions["missing"] == "accept" else (name, kind)


def _list_type(type_name: str) -> Any:
    item, size = list_item(type_name)
    inner = _PLAIN_TYPES[item]
    if size is None:
        return list[inner | None]  # type: ignore[valid-type]
    return Annotated[list[inner], msgspec.Meta(min_length=size, max_length=size)]  # type: ignore[valid-type]


def _micros(value: datetime | date | int | None) -> int | None:
    """A time of any form that rows may have, as microseconds."""
    if value is None or isinstance(value, int):
        return value
    if not isinstance(value, datetime):
        return (value.toordinal() - _EPOCH_DAY) * _DAY
    return micros(value if value.tzinfo else value.replace(tzinfo=UTC))


_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_DAY: Final = 86_400_000_000
