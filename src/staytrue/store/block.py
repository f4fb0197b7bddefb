"""Block: the rows of one micro-batch as a few arrays, which travel from front to worker and into the log as they are.

A batch is built, sent and logged thousands of times a second, mostly with a handful of rows. A frame of any library costs
100 microseconds and more to make from them, so columns of like types share one array: all floats one matrix, all whole
numbers and times another. What is written into the log is byte for byte what the worker was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from math import isnan
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from staytrue.errors import Corrupt, InvalidInput
from staytrue.kernel.contract import Column, Schema, list_item
from staytrue.store import frames

__all__ = ["Block", "Layout"]

_FLOATS: Final = ("float64", "float32")
_WHOLE: Final = ("int64", "uint64")
_TIMES: Final = ("date", "timestamp", "timestamp[UTC]")
_NULL_BOOL: Final = 2
_NULL_COLUMN: Final = "null"
_IN_CACHE: Final = 4096
"""Rows."""

_encode = msgspec.msgpack.Encoder().encode


class Block(NamedTuple):
    """`n` rows in the arrays of a `Layout`.

    Attributes:
        floats: (n, k) float64, NaN where null; a float32 column is widened.
        whole: (n, k) int64: whole numbers (uint64 by their bits) and times (microseconds since 1970 UTC); 0 where null.
        valid: (n, k) bool of `whole`, None when nothing is null.
        bools: (n, k) uint8: 0, 1, or 2 where null.
        texts, lists: k columns of n values each, None where null.
    """

    n: int
    floats: NDArray[np.float64]
    whole: NDArray[np.int64]
    valid: NDArray[np.bool_] | None
    bools: NDArray[np.uint8]
    texts: Sequence[Sequence[str | None]]
    lists: Sequence[Sequence[list[Any] | None]]

    def pack(self) -> bytes:
        """The block as MessagePack; what `Layout.unpack` reads."""
        return _encode(
            (
                self.n,
                self.floats.tobytes(),
                self.whole.tobytes(),
                None if self.valid is None else self.valid.tobytes(),
                self.bools.tobytes(),
                self.texts,
                self.lists,
            )
        )

    def slice(self, start: int, stop: int) -> Block:
        """The rows from `start` to before `stop`."""
        return Block(
            n=stop - start,
            floats=self.floats[start:stop],
            whole=self.whole[start:stop],
            valid=None if self.valid is None else self.valid[start:stop],
            bools=self.bools[start:stop],
            texts=[column[start:stop] for column in self.texts],
            lists=[column[start:stop] for column in self.lists],
        )

    def take(self, which: NDArray[np.intp]) -> Block:
        """The rows at these positions, in this order."""
        at = which.tolist()
        return Block(
            n=len(at),
            floats=self.floats[which],
            whole=self.whole[which],
            valid=None if self.valid is None else self.valid[which],
            bools=self.bools[which],
            texts=[[column[i] for i in at] for column in self.texts],
            lists=[[column[i] for i in at] for column in self.lists],
        )


class Layout:
    """Which column lies where in a block. Equal columns in equal order give equal layouts.

    Args:
        columns: (name, type) of each, types as in `store/frames.py`.

    Raises:
        InvalidInput: ST750, a type that rows can't have.

    Example:
        >>> layout = Layout((("size", "float64"), ("id", "int64"), ("city", "string")))
        >>> block = layout.block({"size": [1.5, None], "id": [7, None], "city": ["porto", None]})
        >>> {name: column.valid.tolist() for name, column in layout.columns(layout.unpack(block.pack())).items()}
        {'size': [True, False], 'id': [True, False], 'city': [True, False]}
    """

    def __init__(self, columns: Schema) -> None:
        self.schema = columns
        self.float_names: list[str] = []
        self.whole_names: list[str] = []
        self.bool_names: list[str] = []
        self.text_names: list[str] = []
        self.list_names: list[str] = []
        for name, type_name in columns:
            self._place(type_name).append(name)
        self._types = dict(columns)

    def _place(self, type_name: str) -> list[str]:
        if type_name in _FLOATS:
            return self.float_names
        if type_name in _WHOLE or type_name in _TIMES:
            return self.whole_names
        if type_name == "bool":
            return self.bool_names
        # A column in which nothing came in training may bring anything, so it travels as lists do: as it is.
        if type_name.startswith("list<") or type_name == _NULL_COLUMN:
            return self.list_names
        if type_name == "string":
            return self.text_names
        raise InvalidInput("ST750", f"Can't lay out a column of type {type_name!r}.", type=type_name)

    def block(self, values: Mapping[str, Sequence[Any]], floats: NDArray[np.float64] | None = None) -> Block:
        """Rows given as Python lists by column: times as microseconds, None where null; floats may come as their matrix.

        Example:
            >>> Layout((("n", "int64"),)).block({"n": [1, 2]}).whole.tolist()
            [[1], [2]]
        """
        n = len(next(iter(values.values()))) if values else 0
        if floats is None:
            # A None becomes a NaN by itself.
            by_column = np.array([values[name] for name in self.float_names], np.float64)
            floats = np.ascontiguousarray(by_column.reshape(-1, n).T) if n else np.zeros((0, len(self.float_names)))
        whole, valid = self._whole([values[name] for name in self.whole_names], n)
        return Block(
            n=n,
            floats=floats,
            whole=whole,
            valid=valid,
            bools=_matrix([np.array(_coded(values[name]), np.uint8) for name in self.bool_names], n, np.uint8),
            texts=[values[name] for name in self.text_names],
            lists=[values[name] for name in self.list_names],
        )

    def _whole(
        self, columns: Sequence[Sequence[int | None]], n: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        if not any(None in column for column in columns):
            signed = [
                _signed(column, self._types[name]) for name, column in zip(self.whole_names, columns, strict=True)
            ]
            return _matrix(signed, n, np.int64), None
        whole, valid = np.zeros((n, len(columns)), np.int64), np.zeros((n, len(columns)), np.bool_)
        for i, (name, column) in enumerate(zip(self.whole_names, columns, strict=True)):
            gone = column.count(None)
            if gone == n:
                continue  # key and time, which most requests leave out
            valid[:, i] = [value is not None for value in column] if gone else True
            whole[:, i] = _signed([value or 0 for value in column], self._types[name])
        return whole, valid

    def of_columns(self, columns: Mapping[str, Column], n: int) -> Block:
        """The block of n rows that `store/frames.py` has as columns; one that is missing is null throughout.

        Example:
            >>> layout = Layout((("n", "int64"), ("t", "string")))
            >>> rows = frames.to_rows({"n": [1, None]}, doing="read")
            >>> block = layout.of_columns({"n": frames.column(rows, "n")}, 2)
            >>> block.whole.tolist(), block.texts
            ([[1], [0]], [[None, None]])
        """
        absent = Column(type=_NULL_COLUMN, values=np.full(n, None, object), valid=np.zeros(n, np.bool_))
        given = {name: columns.get(name, absent) for name, _ in self.schema}
        masks = [given[name].valid for name in self.whole_names]
        whole = [_filled(given[name], 0) for name in self.whole_names]
        return Block(
            n=n,
            floats=_matrix([_filled(given[name], np.nan) for name in self.float_names], n, np.float64),
            whole=_matrix(
                [_signed(v, self._types[m]) for m, v in zip(self.whole_names, whole, strict=True)], n, np.int64
            ),
            valid=None if all(bool(mask.all()) for mask in masks) else _matrix(masks, n, np.bool_),
            bools=_matrix([_filled(given[name], _NULL_BOOL).astype(np.uint8) for name in self.bool_names], n, np.uint8),
            texts=[_plain(given[name]) for name in self.text_names],
            lists=[_plain(given[name]) for name in self.list_names],
        )

    def unpack(self, data: bytes | memoryview) -> Block:
        """The block that `Block.pack` wrote under this layout.

        Raises:
            Corrupt: ST751, it was written under another layout, or is damaged.
        """
        try:
            n, floats, whole, valid, bools, texts, lists = _decode(data)
            return Block(
                n=n,
                floats=np.frombuffer(floats, np.float64).reshape(n, len(self.float_names)),
                whole=np.frombuffer(whole, np.int64).reshape(n, len(self.whole_names)),
                valid=None if valid is None else np.frombuffer(valid, np.bool_).reshape(n, len(self.whole_names)),
                bools=np.frombuffer(bools, np.uint8).reshape(n, len(self.bool_names)),
                texts=_held(texts, len(self.text_names), n),
                lists=_held(lists, len(self.list_names), n),
            )
        except (msgspec.DecodeError, ValueError) as exc:
            raise Corrupt(
                "ST751", f"Can't read a block of rows: {exc}. Run `staytrue verify`.", cause=str(exc)
            ) from exc

    def columns(self, block: Block, names: Sequence[str] | None = None) -> dict[str, Column]:
        """These columns of a block (all of them when left out), as `store/frames.py` has columns."""
        made: dict[str, Column] = {}
        every = np.ones(block.n, np.bool_)
        wanted = self._types if names is None else {name: self._types[name] for name in names}
        by_column = _by_column(block.floats)
        for name, type_name in wanted.items():
            if type_name in _FLOATS:
                floats = by_column[self.float_names.index(name)]
                made[name] = Column(type=type_name, values=floats.astype(type_name), valid=~np.isnan(floats))
            elif name in self.whole_names:
                at = self.whole_names.index(name)
                numbers = np.ascontiguousarray(block.whole[:, at])
                valid = every if block.valid is None else np.ascontiguousarray(block.valid[:, at])
                made[name] = Column(
                    type=type_name, values=numbers.view(np.uint64) if type_name == "uint64" else numbers, valid=valid
                )
            elif type_name == "bool":
                codes = block.bools[:, self.bool_names.index(name)]
                made[name] = Column(type=type_name, values=codes == 1, valid=codes != _NULL_BOOL)
            else:
                made[name] = _objects(type_name, self._held_column(block, name))
        return made

    def _held_column(self, block: Block, name: str) -> Sequence[Any]:
        if name in self.text_names:
            return block.texts[self.text_names.index(name)]
        return block.lists[self.list_names.index(name)]

    def rows(self, block: Block, names: Sequence[str] | None = None) -> frames.Rows:
        """These columns of a block as Arrow.

        Example:
            >>> layout = Layout((("vector", "list<float64>"),))
            >>> frames.to_pydict(layout.rows(layout.block({"vector": [[1.0, 2.0], None]})))
            {'vector': [[1.0, 2.0], None]}
        """
        return frames.from_columns(self.columns(block, names))

    def dicts(self, block: Block, names: Sequence[str]) -> list[dict[str, Any]]:
        """These columns of a block as one dict a row, with Python's own values; as `frames.to_frame(..., "dicts")` gives them.

        No Arrow is made for it, which would take most of a small batch's time.

        Example:
            >>> layout = Layout((("size", "float64"), ("day", "date")))
            >>> layout.dicts(layout.block({"size": [1.5, None], "day": [None, 86_400_000_000]}), ["day", "size"])
            [{'day': None, 'size': 1.5}, {'day': datetime.date(1970, 1, 2), 'size': None}]
        """
        columns = [self._python(block, name) for name in names]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _python(self, block: Block, name: str) -> Sequence[Any]:
        """A column as Python's own values."""
        type_name = self._types[name]
        if type_name in _FLOATS:
            numbers = block.floats[:, self.float_names.index(name)].tolist()
            return [None if isnan(number) else number for number in numbers]
        if type_name == "bool":
            return [_BOOLS[code] for code in block.bools[:, self.bool_names.index(name)].tolist()]
        if type_name.startswith("list<"):
            # Copies: who is given them may write into them, and may be asked again.
            return [None if items is None else _items(items, type_name) for items in self._held_column(block, name)]
        if name not in self.whole_names:
            return self._held_column(block, name)
        at = self.whole_names.index(name)
        whole = block.whole[:, at]
        values: list[Any] = (whole.view(np.uint64) if type_name == "uint64" else whole).tolist()
        if type_name in _TIMES:
            values = [_moment(value, type_name) for value in values]
        if block.valid is None:
            return values
        return [value if there else None for value, there in zip(values, block.valid[:, at].tolist(), strict=True)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.schema == other.schema

    def __hash__(self) -> int:
        return hash(self.schema)


_decode = msgspec.msgpack.Decoder(
    tuple[int, bytes, bytes, bytes | None, bytes, list[list[str | None]], list[list[Any]]]
).decode


def _matrix(columns: Sequence[NDArray[Any]], n: int, kind: Any) -> NDArray[Any]:
    """(n, k) in C order: a row's values side by side."""
    if not columns:
        return np.zeros((n, 0), kind)
    if n <= _IN_CACHE:
        return np.ascontiguousarray(np.stack(columns, axis=1).astype(kind, copy=False))
    made = np.empty((n, len(columns)), kind)
    # Some thousand rows stay in the cache until all of their columns are there: 0.04 us a row of 20, 0.2 column by column.
    for start in range(0, n, _IN_CACHE):
        part = made[start : start + _IN_CACHE]
        for i, column in enumerate(columns):
            part[:, i] = column[start : start + _IN_CACHE]
    return made


_BOOLS: Final = (False, True, None)
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - the zone is put on where the type has one


def _moment(micros: int, type_name: str) -> datetime | date:
    moment = _EPOCH + timedelta(microseconds=micros)
    if type_name == "date":
        return moment.date()
    return moment.replace(tzinfo=UTC) if type_name == "timestamp[UTC]" else moment


def _items(items: Sequence[Any], type_name: str) -> list[Any]:
    item, _ = list_item(type_name)
    if item not in _TIMES:
        return list(items)
    return [None if value is None else _moment(value, item) for value in items]


def _by_column(matrix: NDArray[Any]) -> NDArray[Any]:
    """(k, n), from (n, k)."""
    if len(matrix) <= _IN_CACHE:
        return matrix.T
    made = np.empty(matrix.shape[::-1], matrix.dtype)
    for start in range(0, len(matrix), _IN_CACHE):
        made[:, start : start + _IN_CACHE] = matrix[start : start + _IN_CACHE].T
    return made


def _signed(values: Any, type_name: str) -> NDArray[np.int64]:
    """Whole numbers as int64, unsigned ones by their bits."""
    if type_name == "uint64":
        return np.asarray(values, np.uint64).view(np.int64)
    return np.asarray(values, np.int64)


def _coded(values: Sequence[bool | None]) -> list[int]:
    return [_NULL_BOOL if value is None else int(value) for value in values]


def _filled(column: Column, null: Any) -> NDArray[Any]:
    values: NDArray[Any] = column.values
    if column.type == _NULL_COLUMN:
        return np.full(len(column.valid), null)
    if bool(column.valid.all()):
        return values
    return np.where(
        column.valid, values, np.asarray(null).astype(np.uint8 if values.dtype == np.bool_ else values.dtype)
    )


def _plain(column: Column) -> list[Any]:
    values: Any = column.values
    return [
        (value.tolist() if isinstance(value, np.ndarray) else value) if there else None
        for value, there in zip(values.tolist(), column.valid.tolist(), strict=True)
    ]


def _objects(type_name: str, values: Sequence[Any]) -> Column:
    """Texts and lists as a column: lists become numpy arrays, as in `frames.column`."""
    valid = np.fromiter((value is not None for value in values), np.bool_, len(values))
    held = np.empty(len(values), object)
    as_list = type_name.startswith("list<")
    for i, value in enumerate(values):
        held[i] = np.asarray(value) if as_list and value is not None else value
    return Column(type=type_name, values=held, valid=valid)


def _held(columns: list[list[Any]], count: int, n: int) -> list[list[Any]]:
    if len(columns) != count or any(len(column) != n for column in columns):
        raise ValueError(f"{len(columns)} columns of text or lists, expected {count} of {n} values")
    return columns
