"""Rows: what a source gave, as one Arrow table with few types, whatever library it came from.

Owns every crossing between Arrow and the frames people use. Equal data gets equal types here, so that a source that
moves from pandas to DuckDB neither breaks its contract nor changes the identity of its table. The light Arrow libraries
(arro3, nanoarrow) are on purpose: pyarrow alone is heavier than all of our dependencies together, and pandas cannot
speak Arrow without it, hence the numpy bridge below.

The types that rows may have: `int64`, `uint64` (only where a value needs it), `float32`, `float64`, `bool`, `string`,
`date`, `timestamp[UTC]`, `timestamp` (naive; the contract refuses it as the time of a row), `list<T>`, `list<T>[n]`,
and `null` (a column in which nothing came). Decimals become float64, since models compute with floats; whole decimals
become int64.
"""

from __future__ import annotations

import importlib
import io
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import arro3.core as ac
import arro3.io
import nanoarrow as na  # type: ignore[import-untyped]
import numpy as np
from arro3.core import DataType
from blake3 import blake3
from numpy.typing import NDArray

from staytrue.errors import Corrupt, InvalidInput
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Column, Schema, list_item, settled
from staytrue.kernel.release import Digest

__all__ = [
    "Column",
    "FrameKind",
    "Rows",
    "Schema",
    "column",
    "concat",
    "conform",
    "content_digest",
    "drop",
    "from_columns",
    "in_order",
    "no_rows",
    "read_parquet",
    "schema",
    "select",
    "take",
    "to_frame",
    "to_pandas",
    "to_pydict",
    "to_rows",
    "uuid_texts",
    "write_parquet",
]

Rows: TypeAlias = ac.Table
FrameKind = Literal["pandas", "polars", "pyarrow", "arro3", "dicts"]


# -- in ---------------------------------------------------------------------------------------------------------------


def to_rows(value: Any, *, doing: str) -> Rows:
    """What a source gave, as rows.

    Args:
        value: a pandas, polars or pyarrow frame, a DuckDB relation, anything else with `__arrow_c_stream__`, a list of
            dicts (a key that a dict lacks is null there), or a dict of columns. Of pandas the index is dropped, and a
            NaN in a float column is a null; everywhere else a NaN stays a NaN. An empty list has neither rows nor
            columns.
        doing: what is going on, for messages: "fetch bookings".

    Raises:
        InvalidInput: ST201 not a frame; ST202 a column name; ST203 a type that rows can't have; ST204 values that fit
            no one type; ST205 columns of different lengths. Each but ST201 names the column.

    Example:
        >>> rows = to_rows([{"id": 1, "price": 9.5}, {"id": 2}], doing="fetch")
        >>> schema(rows), to_pydict(rows)["price"]
        ((('id', 'int64'), ('price', 'float64')), [9.5, None])
    """
    columns = _columns_of(value, doing)
    for name in (bad for bad, _ in columns if not _is_name(bad)):
        raise InvalidInput(
            "ST202",
            f"Can't {doing}: a column is named {name!a}; expected a text that is not empty and can be written. "
            "Name the columns of the frame.",
            column=repr(name),
        )
    names = [name for name, _ in columns]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(
                "ST202",
                f"Can't {doing}: {names.count(name)} columns are named {name!r}. Rename all but one.",
                column=name,
            )
    arrays = [_array(name, values, doing) for name, values in columns]
    if len({len(array) for array in arrays}) > 1:
        lengths = {name: len(array) for name, array in zip(names, arrays, strict=True)}
        raise InvalidInput("ST205", f"Can't {doing}: the columns have different lengths: {lengths}.", lengths=lengths)
    return _table(names, arrays)


def _is_name(name: Any) -> bool:
    if not isinstance(name, str) or not name or "\0" in name:  # a NUL ends a name in Arrow's C interface
        return False
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _columns_of(value: Any, doing: str) -> list[tuple[Any, Any]]:
    """(name, values) of each column, from whatever frame it is."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame):
        if len(value) and not len(value.columns):
            raise InvalidInput("ST202", f"Can't {doing}: got {len(value)} rows without any column.", rows=len(value))
        return [(name, value.iloc[:, i]) for i, name in enumerate(value.columns)]
    if type(value).__module__.startswith("polars") and hasattr(value, "collect"):
        value = value.collect()
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return _columns_of_dicts(value, doing)
    if hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__"):
        table = _from_stream(value, doing)
        return list(zip(table.column_names, table.columns, strict=True))
    raise _not_rows(value, doing)


def _from_stream(value: Any, doing: str) -> ac.Table:
    try:
        return ac.Table.from_arrow(value)
    except Exception as exc:
        if not hasattr(value, "write_ipc"):
            raise _not_rows(value, doing) from exc
        # polars hands out a column of nothing but nulls in a form that arro3 refuses; as a file the two understand one
        # another.
        buffer = io.BytesIO()
        value.write_ipc(buffer)
        buffer.seek(0)
        return arro3.io.read_ipc(buffer).read_all()


def _columns_of_dicts(dicts: Sequence[Any], doing: str) -> list[tuple[Any, Any]]:
    for position, row in enumerate(dicts):
        if not isinstance(row, Mapping):
            raise InvalidInput(
                "ST201",
                f"Can't {doing}: item {position} of the list is {_shown(row)}; expected a list of dicts, one per row.",
                position=position,
            )
    names = dict.fromkeys(name for row in dicts for name in row)
    return [(name, [row.get(name) for row in dicts]) for name in names]


def _not_rows(value: Any, doing: str) -> InvalidInput:
    hint = " Did the function forget to `return`?" if value is None else ""
    return InvalidInput(
        "ST201",
        f"Can't {doing}: got {_shown(value)}; expected a pandas, polars or pyarrow frame, a DuckDB relation, "
        f"a list of dicts or a dict of columns.{hint}",
        got=type(value).__name__,
    )


def _array(name: str, values: Any, doing: str) -> ac.Array:
    """One column of any origin, in one of our types."""
    try:
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(
            values, (pandas.Series, pandas.Index, pandas.api.extensions.ExtensionArray)
        ):
            return _from_pandas(values)
        if isinstance(values, np.ndarray):
            return _from_numpy(values, nan_is_null=False)
        if hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__"):
            return _normal(ac.ChunkedArray.from_arrow(values))
        if isinstance(values, (list, tuple)):
            return _from_values(values)
    except _UnfitError as exc:
        raise InvalidInput(exc.code, f"Can't {doing}: column {name!r} {exc}.", column=name) from exc
    raise InvalidInput(
        "ST203",
        f"Can't {doing}: column {name!r} is {_shown(values)}; expected a list or an array of values.",
        column=name,
    )


class _UnfitError(Exception):
    """A column that fits none of our types; `_array` adds the name of the column."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


# -- in: Arrow --------------------------------------------------------------------------------------------------------

_ITEM: Final = partial(ac.Field, "item", nullable=True)
_UTC_STAMP: Final = DataType.timestamp("us", tz="UTC")
_NAIVE_STAMP: Final = DataType.timestamp("us")
_ARROW_TYPES: Final[dict[str, DataType]] = {
    "int64": DataType.int64(),
    "uint64": DataType.uint64(),
    "float32": DataType.float32(),
    "float64": DataType.float64(),
    "bool": DataType.bool(),
    "string": DataType.string(),
    "date": DataType.date32(),
    "timestamp": _NAIVE_STAMP,
    "timestamp[UTC]": _UTC_STAMP,
    "null": DataType.null(),
}
# In the stubs the predicates give back `bool`, which inside that class is the method of that name.
_Is: Final[Any] = DataType
# Refused by name, with the way out.
_REFUSED: Final[tuple[tuple[Any, str], ...]] = (
    (_Is.is_struct, "is a struct: give each of its fields a column of its own"),
    (_Is.is_map, "is a map: give each key a column of its own"),
    (_Is.is_duration, "is a duration: give it as a number, say seconds"),
    (_Is.is_interval, "is an interval: give it as a number, say seconds"),
    (_Is.is_time, "is a time of day: give it as a number, say minutes"),
    (_Is.is_binary, "holds bytes: give text, or a list of numbers"),
    (_Is.is_large_binary, "holds bytes: give text, or a list of numbers"),
    (_Is.is_binary_view, "holds bytes: give text, or a list of numbers"),
    (_Is.is_fixed_size_binary, "holds bytes: give text, or a list of numbers"),
)


def _normal(chunked: ac.ChunkedArray) -> ac.Array:
    array = chunked.combine_chunks() if chunked.num_chunks else _of_type([], chunked.type)
    if _Is.is_dictionary(array.type):
        value_type = array.type.value_type
        array = array.cast(DataType.string() if value_type is None else value_type)
    target = _target(array.type)
    if _Is.is_uint64(array.type):
        values, valid = _fixed(array)
        target = DataType.uint64() if bool((values[valid] > np.iinfo(np.int64).max).any()) else DataType.int64()
    # The name of a list's items is in the Parquet bytes, though types that differ in it alone count as equal.
    if array.type == target and (array.type.value_field is None or array.type.value_field.name == "item"):
        return array
    try:
        cast = array.cast(target)
    except Exception as exc:
        raise _UnfitError("ST204", f"can't be read as {_name(target)}: {exc}") from exc
    # The cast gives a null for a value that is too large, without a word.
    if cast.null_count != array.null_count and not _Is.is_null(array.type):
        raise _UnfitError("ST204", f"has values too large for {_name(target)}")
    return cast


def _target(given: DataType) -> DataType:
    """Our type for an Arrow type."""
    for test, message in _REFUSED:
        if test(given):
            raise _UnfitError("ST203", message)
    for test, ours in _TARGETS:
        if test(given):
            return ours(given)
    item = given.value_type
    if item is None or item.value_type is not None:
        hint = "give numbers, text, times or flat lists"
        raise _UnfitError("ST203", f"has the Arrow type {_bare(given)}, which rows can't have: {hint}")
    field = _ITEM(_target(item))
    return DataType.list(field, given.list_size) if _Is.is_fixed_size_list(given) else DataType.list(field)


def _same(given: DataType) -> DataType:
    return given


def _decimal(given: DataType) -> DataType:
    return DataType.float64() if (na.schema(given).scale or 0) > 0 else DataType.int64()


def _stamp(given: DataType) -> DataType:
    return _UTC_STAMP if given.tz else _NAIVE_STAMP


_TARGETS: Final[tuple[tuple[Any, Callable[[DataType], DataType]], ...]] = (
    (_Is.is_string, _same),
    (_Is.is_large_string, lambda _: DataType.string()),
    (_Is.is_string_view, lambda _: DataType.string()),
    (_Is.is_integer, lambda _: DataType.int64()),
    (_Is.is_float64, _same),
    (_Is.is_floating, lambda _: DataType.float32()),
    (_Is.is_decimal, _decimal),
    (_Is.is_date, lambda _: DataType.date32()),
    (_Is.is_timestamp, _stamp),
    (_Is.is_boolean, _same),
    (_Is.is_null, _same),
)


def _name(given: DataType) -> str:
    """The name of one of our types."""
    for name, known in _ARROW_TYPES.items():
        if known == given:
            return name
    item = given.value_type
    if item is None:
        return _bare(given)
    size = f"[{given.list_size}]" if _Is.is_fixed_size_list(given) else ""
    return f"list<{_name(item)}>{size}"


def _type(name: str) -> DataType:
    """The Arrow type of one of our names."""
    if name in _ARROW_TYPES:
        return _ARROW_TYPES[name]
    item, size = list_item(name)
    return DataType.list(_ITEM(_type(item)), size)


def _bare(given: DataType) -> str:
    return repr(given).strip().removeprefix("arro3.core.DataType<").removesuffix(">")


# -- in: numpy, pandas, Python values ---------------------------------------------------------------------------------

_NA_TYPES: Final[dict[str, Any]] = {
    "int64": na.int64(),
    "uint64": na.uint64(),
    "float32": na.float32(),
    "float64": na.float64(),
    "bool": na.bool_(),
    "date": na.date32(),
    "timestamp": na.timestamp("us"),
    "timestamp[UTC]": na.timestamp("us", "UTC"),
}


def _build(values: NDArray[Any], valid: NDArray[np.bool_] | None, type_name: str) -> ac.Array:
    """An Arrow array over numpy buffers; nothing is copied but booleans and masks."""
    size = len(values)
    values = np.packbits(values, bitorder="little") if type_name == "bool" else np.ascontiguousarray(values)
    mask = None if valid is None or bool(valid.all()) else np.packbits(valid, bitorder="little")
    return ac.Array.from_arrow(na.c_array_from_buffers(_NA_TYPES[type_name], size, [mask, values]))


def _of_type(values: list[Any], wanted: DataType) -> ac.Array:
    if _Is.is_null(wanted):
        return ac.Array.from_arrow(na.c_array_from_buffers(na.null(), len(values), [], null_count=len(values)))
    # There is no constructor from Python values for every type, but nothing at all can be cast to any.
    return ac.Array(values, wanted) if values else _of_type([], DataType.null()).cast(wanted)


def _from_numpy(values: NDArray[Any], *, nan_is_null: bool) -> ac.Array:  # noqa: PLR0911  a case for each kind
    kind = values.dtype.kind
    if values.ndim == 2 and kind in "iuf":
        flat = _from_numpy(values.reshape(-1), nan_is_null=False)
        lists = ac.fixed_size_list_array(flat, values.shape[1])
        return lists.cast(DataType.list(_ITEM(flat.type), values.shape[1]))
    if values.ndim != 1:
        raise _UnfitError("ST203", f"has {values.ndim} dimensions: expected one value, or one list of numbers, per row")
    if kind == "b":
        return _build(values, np.ones(len(values), np.bool_), "bool")
    if kind in "iu":
        large = kind == "u" and len(values) > 0 and int(values.max()) > np.iinfo(np.int64).max
        return _build(values.astype(np.uint64 if large else np.int64, copy=False), None, "uint64" if large else "int64")
    if kind == "f":
        wanted = np.float64 if values.dtype.itemsize >= 8 else np.float32
        numbers = values.astype(wanted, copy=False)
        return _build(numbers, ~np.isnan(numbers) if nan_is_null else None, np.dtype(wanted).name)
    if kind == "M":
        return _stamps(values, "timestamp")
    if kind == "U":
        return ac.Array(values.tolist(), DataType.string())
    if kind == "O":
        return _from_values(values.tolist(), nan_is_null=nan_is_null)
    hint = ": give it as a number, say seconds" if kind == "m" else ""
    raise _UnfitError("ST203", f"has the type {values.dtype}, which rows can't have{hint}")


def _stamps(values: NDArray[Any], type_name: str) -> ac.Array:
    valid = ~np.isnat(values)
    micros = values.astype("M8[us]", copy=False).view(np.int64)
    if len(values) and bool((micros[valid].view("M8[us]").astype("M8[D]") != values[valid].astype("M8[D]")).any()):
        raise _UnfitError("ST204", "has times too far away for microseconds")
    return _build(np.where(valid, micros, 0), valid, type_name)


def _from_pandas(series: Any) -> ac.Array:  # noqa: PLR0911  a case for each family
    import pandas as pd  # loaded only where a frame of its own came

    dtype = series.dtype
    if isinstance(dtype, np.dtype):
        values = np.asarray(series)
        # pandas makes floats of a column in which nothing came, whatever it holds on other days.
        if values.dtype.kind == "f" and len(values) and bool(np.isnan(values).all()):
            return _of_type([None] * len(values), DataType.null())
        return _from_numpy(values, nan_is_null=True)
    if isinstance(dtype, pd.StringDtype):
        texts = np.asarray(series, dtype=object)
        return ac.Array(
            [None if gone else text for text, gone in zip(texts.tolist(), series.isna(), strict=True)],
            DataType.string(),
        )
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _stamps(np.asarray(pd.DatetimeIndex(series).tz_convert(None)), "timestamp[UTC]")
    if isinstance(dtype, pd.CategoricalDtype):
        categorical: Any = series.array if isinstance(series, (pd.Series, pd.Index)) else series
        codes = np.asarray(categorical.codes, dtype=np.int64)
        if not len(categorical.categories):
            return _of_type([None] * len(codes), DataType.null())
        categories = _from_pandas(categorical.categories)
        return categories.take(_build(np.where(codes < 0, 0, codes), codes >= 0, "int64"))
    if isinstance(dtype, pd.ArrowDtype):
        array: Any = series.array if isinstance(series, (pd.Series, pd.Index)) else series
        return _normal(ac.ChunkedArray.from_arrow(array.__arrow_array__()))
    if hasattr(dtype, "numpy_dtype") and dtype.kind in "biuf":
        valid = ~np.asarray(series.isna())
        filled = series.to_numpy(dtype=dtype.numpy_dtype, na_value=0)
        plain = _from_numpy(filled, nan_is_null=False)
        values, _ = _fixed(plain)
        return _build(values, valid, _name(plain.type))
    raise _UnfitError(
        "ST203", f"has the pandas type {dtype}, which rows can't have: give numbers, text, times or flat lists"
    )


_FAMILIES: Final[tuple[tuple[tuple[type, ...], str], ...]] = (
    ((bool, np.bool_), "bool"),
    ((int, np.integer), "int"),
    ((float, np.floating, Decimal), "float"),
    ((str,), "string"),
    ((datetime, np.datetime64), "timestamp"),
    ((date,), "date"),
    ((list, tuple, np.ndarray), "list"),
)


def _from_values(values: Sequence[Any], *, nan_is_null: bool = False) -> ac.Array:
    """Python values in the one type that fits them all."""
    kinds = set(map(type, values))
    if kinds <= {str, type(None)} and str in kinds:
        return ac.Array(list(values), DataType.string())
    nothing = {kind for kind in kinds if kind.__name__ in {"NoneType", "NAType", "NaTType"}}
    families = {_family(kind) for kind in kinds - nothing}
    numbers = families <= {"int", "float"}
    if "float" in families and (nan_is_null or not numbers):
        # pandas writes a missing text as NaN.
        floats = (float, np.floating, Decimal)
        values = [None if isinstance(value, floats) and value != value else value for value in values]  # noqa: PLR0124
        families -= set() if any(isinstance(value, floats) for value in values) else {"float"}
    valid = np.fromiter((value is not None and type(value) not in nothing for value in values), np.bool_, len(values))
    if not families or not valid.any():
        return _of_type([None] * len(values), DataType.null())
    if numbers and len(families) > 1:
        families = {"float"}
    if len(families) > 1:
        raise _UnfitError("ST204", f"mixes {_listed(families)}: give all of its values one type")
    present = [value for value, there in zip(values, valid.tolist(), strict=True) if there]
    return _FROM_VALUES[families.pop()](present, valid)


def _family(kind: type) -> str:
    for types, family in _FAMILIES:
        if issubclass(kind, types):
            return family
    hint = {"dict": ": give each of its keys a column of its own", "bytes": ": give text, or a list of numbers"}.get(
        kind.__name__, ""
    )
    raise _UnfitError("ST203", f"holds values of the type {kind.__name__}, which rows can't have{hint}")


def _spread(present: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """The present values at their places, zero elsewhere."""
    if len(present) == len(valid):
        return present
    values = np.zeros(len(valid), dtype=present.dtype)
    values[valid] = present
    return values


def _bools(present: list[Any], valid: NDArray[np.bool_]) -> ac.Array:
    return _build(_spread(np.array(present, np.bool_), valid), valid, "bool")


def _ints(present: list[Any], valid: NDArray[np.bool_]) -> ac.Array:
    low, high = int(min(present)), int(max(present))
    if low < -(2**63) or high >= 2**64 or (low < 0 and high >= 2**63):
        raise _UnfitError("ST204", f"has whole numbers from {low} to {high}, more than 64 bits: give them as text")
    name = "uint64" if high >= 2**63 else "int64"
    return _build(_spread(np.array(present, name), valid), valid, name)


def _floats(present: list[Any], valid: NDArray[np.bool_]) -> ac.Array:
    values = _spread(np.array(present, np.float64), valid)
    return _build(values, valid, "float64")


def _texts(present: list[Any], valid: NDArray[np.bool_]) -> ac.Array:
    texts = iter(present)
    return ac.Array([str(next(texts)) if there else None for there in valid.tolist()], DataType.string())


def _datetimes(present: list[Any], valid: NDArray[np.bool_]) -> ac.Array:
    if isinstance(present[0], np.datetime64):
        return _stamps(_spread(np.array(present), valid).astype("M8[us]"), "timestamp")
    aware = {value.tzinfo is not None for value in present}
    if len(aware) > 1:
        raise _UnfitError("ST204", "mixes times with and without a time zone: give them all in UTC")
    epoch = datetime(1970, 1, 1, tzinfo=UTC) if aware == {True} else datetime(1970, 1, 1)  # noqa: DTZ001
    micros = np.array([(value - epoch) // timedelta(microseconds=1) for value in present], np.int64)
    return _build(_spread(micros, valid), valid, "timestamp[UTC]" if aware == {True} else "timestamp")


def _dates(present: list[Any], valid: NDArray[np.bool_]) -> ac.Array:
    return _build(_spread(np.array(present, "M8[D]").view(np.int64).astype(np.int32), valid), valid, "date")


def _lists(present: list[Any], valid: NDArray[np.bool_]) -> ac.Array:
    lengths = np.zeros(len(valid), np.int64)
    lengths[valid] = [len(value) for value in present]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    if all(isinstance(value, np.ndarray) for value in present):
        items = _from_numpy(np.concatenate(present), nan_is_null=False)
    else:
        items = _from_values([item for value in present for item in value])
    if items.type.value_type is not None:
        raise _UnfitError("ST203", "holds lists of lists: give flat lists")
    target = DataType.list(_ITEM(items.type))
    mask = _build(~valid, np.ones(len(valid), np.bool_), "bool")
    return ac.list_array(ac.Array.from_numpy(offsets), items, mask=mask).cast(target)


_FROM_VALUES: Final = {
    "bool": _bools,
    "int": _ints,
    "float": _floats,
    "string": _texts,
    "timestamp": _datetimes,
    "date": _dates,
    "list": _lists,
}


# -- out --------------------------------------------------------------------------------------------------------------


def to_frame(rows: Rows, kind: FrameKind = "pandas") -> Any:
    """The rows as a frame of the library that the caller likes.

    pandas: whole numbers with nulls become float64 with NaN, text the default `str` type with NaN, booleans with nulls
    object with None, aware times `datetime64[us, UTC]`, dates `datetime64[s]`, lists numpy arrays in an object column.
    dicts: a list of them with Python's own values, None where null.

    Raises:
        InvalidInput: ST208, no such kind, or its library is not installed.

    Example:
        >>> to_frame(to_rows({"n": [1, None]}, doing="read"))["n"].tolist()
        [1.0, nan]
    """
    if kind == "arro3":
        return rows
    if kind == "dicts":
        by_column = to_pydict(rows)
        return [dict(zip(by_column, values, strict=True)) for values in zip(*by_column.values(), strict=True)]
    try:
        if kind == "pandas":
            return to_pandas({name: column(rows, name) for name in rows.column_names}, rows.num_rows)
        # By name: both are extras, which nothing of ours may need.
        if kind == "polars":
            return importlib.import_module("polars").DataFrame(rows)
        if kind == "pyarrow":
            return importlib.import_module("pyarrow").table(rows)
    except ImportError as exc:
        raise InvalidInput(
            "ST208", f"Can't give rows as {kind}: it is not installed. Run `pip install {kind}`.", kind=kind
        ) from exc
    raise InvalidInput(
        "ST208", f"Can't give rows as {kind!r}; expected pandas, polars, pyarrow, arro3 or dicts.", kind=kind
    )


def to_pandas(columns: Mapping[str, Column], size: int) -> Any:
    """Columns as a pandas frame of `size` rows, with the types that `to_frame` gives.

    Example:
        >>> to_pandas({"n": Column(type="int64", values=np.array([1, 0]), valid=np.array([True, False]))}, 2)["n"].tolist()
        [1.0, nan]
    """
    import pandas as pd

    made: dict[str, Any] = {}
    for name, col in columns.items():
        values: Any = col.values  # noqa: PD011  of a Column, not of a frame
        valid, full = col.valid, bool(col.valid.all())
        if col.type in {"int64", "uint64"} and not full:
            values = np.where(valid, values, np.nan).astype(np.float64)
        elif col.type in {"float32", "float64"} and not full:
            values = np.where(valid, values, values.dtype.type(np.nan))
        elif col.type == "bool" and not full:
            values = _or_none(values, valid)
        elif col.type == "string":
            texts = values if full else np.where(valid, values, np.nan)
            values = pd.array(texts, dtype="str") if int(pd.__version__.partition(".")[0]) >= 3 else texts
        elif col.type == "date":
            values = np.where(valid, values.view("M8[us]"), np.datetime64("NaT", "us")).astype("M8[s]")
        elif col.type.startswith("timestamp"):
            stamps = np.where(valid, values.view("M8[us]"), np.datetime64("NaT", "us"))
            values = pd.DatetimeIndex(stamps, tz="UTC") if col.type == "timestamp[UTC]" else stamps
        made[name] = values
    return pd.DataFrame(made, index=pd.RangeIndex(size))


def _or_none(values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    made = values.astype(object)
    made[~valid] = None
    return made


def to_pydict(rows: Rows) -> dict[str, list[Any]]:
    """The rows as Python lists, by column.

    Example:
        >>> to_pydict(to_rows({"n": [1, 2]}, doing="read"))
        {'n': [1, 2]}
    """
    return {name: list(col.to_pylist()) for name, col in zip(rows.column_names, rows.columns, strict=True)}


def from_columns(columns: Mapping[str, Column]) -> Rows:
    """Rows from what `column` gives: the way back.

    Example:
        >>> rows = to_rows({"at": [date(2026, 3, 1), None], "t": ["x", None]}, doing="read")
        >>> content_digest(from_columns({name: column(rows, name) for name in rows.column_names})) == content_digest(rows)
        True
    """
    return _table(list(columns), [_from_column(col) for col in columns.values()])


def _from_column(col: Column) -> ac.Array:
    values: Any = col.values  # noqa: PD011  of a Column, not of a frame
    if col.type == "null":
        return _of_type([None] * len(col.valid), DataType.null())
    if col.type == "string":
        return ac.Array(
            [value if there else None for value, there in zip(values.tolist(), col.valid.tolist(), strict=True)],
            DataType.string(),
        )
    if col.type.startswith("list<"):
        lists = [value if there else None for value, there in zip(values, col.valid.tolist(), strict=True)]
        made = _from_values(lists)
        return made if _name(made.type) == col.type else made.cast(_type(col.type))
    if col.type == "date":
        values = (values // 86_400_000_000).astype(np.int32)
    return _build(np.where(col.valid, values, np.zeros(1, values.dtype)), col.valid, col.type)


def uuid_texts(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> ac.Array:
    """A column of UUIDs as people write them, from their halves; no Python object is made for each.

    Example:
        >>> to_pydict(to_rows({"id": uuid_texts(np.array([1], np.uint64), np.array([2], np.uint64))}, doing="read"))
        {'id': ['00000000-0000-0001-0000-000000000002']}
    """
    raw = np.stack([hi, lo], axis=1).astype(">u8").view(np.uint8).reshape(len(hi), 16)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    hexes = np.stack([digits[raw >> 4], digits[raw & 15]], axis=2).reshape(len(hi), 32)
    texts = np.insert(hexes, [8, 12, 16, 20], ord("-"), axis=1)
    # Limit: 59 million in one column, whose offsets have 32 bits.
    offsets = np.arange(len(hi) + 1, dtype=np.int32) * texts.shape[1]
    buffers = [None, offsets, np.ascontiguousarray(texts).reshape(-1)]
    return ac.Array.from_arrow(na.c_array_from_buffers(na.string(), len(hi), buffers))


def schema(rows: Rows) -> Schema:
    """(name, type) of each column, in order.

    Example:
        >>> schema(to_rows({"at": [date(2026, 3, 1)], "vector": [[1.5, 2.5]]}, doing="read"))
        (('at', 'date'), ('vector', 'list<float64>'))
    """
    return tuple((field.name, _name(field.type)) for field in map(rows.schema.field, range(rows.num_columns)))


def column(rows: Rows, name: str) -> Column:
    """One column for numpy: `values` and `valid`, both (n,).

    Numbers and booleans as they are; dates and timestamps int64 microseconds since 1970 UTC; text object (str); lists
    object (one numpy array a row). Where `valid` is False the value means nothing.

    Raises:
        InvalidInput: ST206, no such column.

    Example:
        >>> column(to_rows({"n": [1, None]}, doing="read"), "n").valid.tolist()
        [True, False]
    """
    _known(rows, [name])
    array = _whole(rows.column(name))
    type_name = _name(array.type)
    if type_name == "null":
        return Column(
            type=type_name, values=np.full(len(array), None, dtype=object), valid=np.zeros(len(array), np.bool_)
        )
    if type_name == "string":
        values, valid = _text_values(array)
    elif type_name.startswith("list<"):
        values, valid = _list_values(array)
    else:
        values, valid = _fixed(array)
        if type_name == "date":
            values = values.astype(np.int64) * 86_400_000_000
    return Column(type=type_name, values=values, valid=valid)


def _whole(chunked: ac.ChunkedArray) -> ac.Array:
    if chunked.num_chunks == 1:
        return chunked.chunk(0)
    return chunked.combine_chunks() if chunked.num_chunks else _of_type([], chunked.type)


def _validity(array: ac.Array, view: Any) -> NDArray[np.bool_]:
    if not array.null_count:
        return np.ones(len(array), np.bool_)
    bits = np.unpackbits(np.asarray(view.buffer(0)), bitorder="little")
    return bits[view.offset : view.offset + len(array)].view(np.bool_)


def _fixed(array: ac.Array) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The values of a column of fixed width, as they lie in memory; booleans unpacked."""
    view = na.c_array(array).view()
    raw = np.asarray(view.buffer(1))
    if _Is.is_boolean(array.type):
        raw = np.unpackbits(raw, bitorder="little").view(np.bool_)
    return raw[view.offset : view.offset + len(array)], _validity(array, view)


def _text_parts(array: ac.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.bool_]]:
    """Byte lengths (0 where null), the bytes of all valid texts, and which are valid."""
    view = na.c_array(array).view()
    valid = _validity(array, view)
    if not len(array):
        return np.zeros(0, np.int64), np.zeros(0, np.uint8), valid
    offsets = np.asarray(view.buffer(1))[view.offset : view.offset + len(array) + 1].astype(np.int64)
    raw = np.asarray(view.buffer(2)).view(np.uint8)[offsets[0] : offsets[-1]]
    lengths = np.diff(offsets)
    if bool(lengths[~valid].any()):
        raw = raw[np.repeat(valid, lengths)]
    return np.where(valid, lengths, 0), raw, valid


def _text_values(array: ac.Array) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    # Through a dictionary: a text that comes often is decoded once (5.7x faster on the columns of hotel_rates).
    coded = array.cast(DataType.dictionary(DataType.int32(), DataType.string()))
    texts = np.array([*ac.dictionary_dictionary(coded).to_pylist(), None], dtype=object)
    codes, valid = _fixed(ac.dictionary_indices(coded))
    return texts[np.where(valid, codes, len(texts) - 1)], valid


def _list_values(array: ac.Array) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    lengths, items, valid = _list_parts(array)
    ends = np.cumsum(lengths).tolist()
    flat = column(_table(["item"], [items]), "item")
    plain: Any = flat.values  # noqa: PD011  of a Column, not of a frame
    if not flat.valid.all():
        plain = np.where(flat.valid, plain, np.nan) if plain.dtype.kind in "iuf" else _or_none(plain, flat.valid)
    values = np.full(len(array), None, dtype=object)
    for i, (length, end) in enumerate(zip(lengths.tolist(), ends, strict=True)):
        values[i] = plain[end - length : end] if valid[i] else None
    return values, valid


def _list_parts(array: ac.Array) -> tuple[NDArray[np.int64], ac.Array, NDArray[np.bool_]]:
    """Lengths (0 where null), the items of all valid lists, and which are valid."""
    valid = _validity(array, na.c_array(array).view())
    there = array if bool(valid.all()) else array.take(ac.Array.from_numpy(np.flatnonzero(valid)))
    lengths = np.zeros(len(array), np.int64)
    size = array.type.list_size
    if _Is.is_fixed_size_list(array.type) and size is not None:
        lengths[valid] = size
    elif len(there):
        lengths[valid] = np.diff(_fixed(ac.list_offsets(there))[0])
    items = ac.list_flatten(there)
    return lengths, items, valid


# -- rows from rows ---------------------------------------------------------------------------------------------------


def _table(names: Sequence[str], arrays: Sequence[ac.Array]) -> Rows:
    """Fields without metadata and always nullable: the same rows are then the same Parquet bytes."""
    fields = ac.Schema([ac.Field(name, array.type, nullable=True) for name, array in zip(names, arrays, strict=True)])
    if not names:
        return ac.Table.from_batches([], schema=fields)
    return ac.Table.from_arrays(list(arrays), schema=fields)


def _known(rows: Rows, names: Sequence[str]) -> None:
    for name in names:
        if name not in rows.column_names:
            raise InvalidInput(
                "ST206",
                f"No column {name!r} in these rows; there are {', '.join(rows.column_names) or 'none'}.",
                column=name,
            )


def take(rows: Rows, which: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> Rows:
    """The rows at these positions (in this order), or where the mask is true.

    Args:
        which: (k,) positions, or (n,) booleans.

    Raises:
        InvalidInput: ST205, a mask of another length than the rows, or a position outside them.

    Example:
        >>> to_pydict(take(to_rows({"n": [1, 2, 3]}, doing="read"), np.array([2, 0])))
        {'n': [3, 1]}
    """
    if which.dtype.kind == "b":
        if len(which) != rows.num_rows:
            raise InvalidInput(
                "ST205", f"Can't take rows by a mask of {len(which)} from {rows.num_rows} rows.", rows=rows.num_rows
            )
        which = np.flatnonzero(which)
    if len(which) and (int(which.min()) < 0 or int(which.max()) >= rows.num_rows):
        raise InvalidInput("ST205", f"Can't take row {int(which.max())} of {rows.num_rows} rows.", rows=rows.num_rows)
    if len(which) == 0 or not rows.num_columns:
        return rows.slice(0, 0)
    at = ac.Array.from_numpy(np.ascontiguousarray(which, dtype=np.int64))
    return _table(rows.column_names, [_whole(col).take(at) for col in rows.columns])


def select(rows: Rows, names: Sequence[str]) -> Rows:
    """These columns, in this order.

    Raises:
        InvalidInput: ST206, no such column.

    Example:
        >>> select(to_rows({"a": [1], "b": [2]}, doing="read"), ["b"]).column_names
        ['b']
    """
    _known(rows, names)
    return rows.select(list(names))


def drop(rows: Rows, names: Sequence[str]) -> Rows:
    """The rows without these columns; one that is not there is no error.

    Example:
        >>> drop(to_rows({"a": [1], "b": [2]}, doing="read"), ["b", "c"]).column_names
        ['a']
    """
    return rows.select([name for name in rows.column_names if name not in names])


def put(rows: Rows, name: str, col: Column) -> Rows:
    """The same rows with another column in the place of this one.

    Example:
        >>> rows = to_rows({"a": [1, 2], "b": [3.0, None]}, doing="read")
        >>> to_pydict(put(rows, "b", column(rows, "a")))["b"]
        [1, 2]
    """
    _known(rows, [name])
    arrays = [_from_column(col) if known == name else _whole(rows.column(known)) for known in rows.column_names]
    return _table(rows.column_names, arrays)


def concat(parts: Sequence[Rows]) -> Rows:
    """All rows, part after part, with the columns in the order of the first part.

    A column in which nothing came (type `null`) takes the type that it has in another part; rows without columns are
    left out.

    Raises:
        InvalidInput: ST207, a column that is missing, or has another type, in one of the parts.

    Example:
        >>> parts = [to_rows({"n": [1], "t": [None]}, doing="read"), to_rows({"t": ["x"], "n": [2]}, doing="read")]
        >>> to_pydict(concat(parts))
        {'n': [1, 2], 't': [None, 'x']}
    """
    given = [part for part in parts if part.num_columns]
    if not given:
        return parts[0] if parts else _table([], [])
    types = dict(schema(given[0]))
    for part in given[1:]:
        types.update({name: settled(types[name], type_name) for name, type_name in schema(part) if name in types})
    same = [conform(part, tuple(types.items()), exact=True) for part in given]
    batches = [batch for part in same for batch in part.to_batches() if batch.num_rows]
    return ac.Table.from_batches(batches, schema=same[0].schema)


def no_rows(wanted: Schema) -> Rows:
    """Rows of this schema, none of them.

    Example:
        >>> no_rows((("n", "int64"), ("vector", "list<float32>[2]"))).shape
        (0, 2)
    """
    return _table(
        [name for name, _ in wanted], [_of_type([], DataType.null()).cast(_type(type_name)) for _, type_name in wanted]
    )


def conform(rows: Rows, wanted: Schema, *, exact: bool = False) -> Rows:
    """The rows with exactly the columns and types of `wanted`; columns beyond them are dropped.

    Changes of type that lose nothing are made: nothing but nulls to anything, whole numbers that became floats (as
    pandas does when some are missing) back to whole numbers, whole numbers to float64, float32 to float64, not-negative
    int64 to uint64. With `exact`, only `null` changes and no column may be dropped.

    Raises:
        InvalidInput: ST207, a column that is missing, or whose type can't become the wanted one without loss.

    Example:
        >>> schema(conform(to_rows({"n": [1.0, None]}, doing="read"), (("n", "int64"),)))
        (('n', 'int64'),)
    """
    if schema(rows) == wanted:
        return rows
    have = dict(schema(rows))
    extra = [name for name in have if name not in dict(wanted)]
    missing = [name for name, _ in wanted if name not in have]
    if missing or (exact and extra):
        raise InvalidInput(
            "ST207",
            f"These rows don't fit the table: missing {missing or 'nothing'}, beyond it {extra or 'nothing'}.",
            missing=missing,
            extra=extra,
        )
    arrays = []
    for name, type_name in wanted:
        array = _whole(rows.column(name))
        if have[name] != type_name:
            array = _converted(name, array, type_name, exact=exact)
        arrays.append(array)
    return _table([name for name, _ in wanted], arrays)


def _converted(name: str, array: ac.Array, wanted: str, *, exact: bool) -> ac.Array:
    have = _name(array.type)
    if array.null_count == len(array) and not exact:
        return _of_type([None] * len(array), DataType.null()).cast(_type(wanted))
    if settled(have, wanted) == wanted:
        return array.cast(_type(wanted))
    whole = Column(type=have, values=_fixed(array)[0], valid=_fixed(array)[1]) if have in _NA_TYPES else None
    if exact or whole is None or not whole.fits(wanted):
        raise InvalidInput(
            "ST207", f"Column {name!r} is {have}; the table has it as {wanted}.", column=name, got=have, expected=wanted
        )
    return _build(np.where(whole.valid, whole.values, 0).astype(wanted), whole.valid, wanted)


def in_order(rows: Rows, by: Sequence[str]) -> Rows:
    """The rows in their canonical order: by these columns, nulls last, and where those tie by all columns.

    So the same set of rows has one order, whatever order it came in.

    Raises:
        InvalidInput: ST206, no such column.

    Example:
        >>> to_pydict(in_order(to_rows({"n": [2, 1], "t": ["b", "a"]}, doing="read"), ["n"]))
        {'n': [1, 2], 't': ['a', 'b']}
    """
    _known(rows, by)
    if rows.num_rows < 2:
        return rows
    keys = [key for name in by for key in _sort_keys(_whole(rows.column(name)))]
    order = np.lexsort(keys[::-1]) if keys else np.arange(rows.num_rows)
    tied = np.ones(rows.num_rows - 1, np.bool_)
    for key in keys:
        tied &= key[order][1:] == key[order][:-1]
    if bool(tied.any()):
        others = [name for name in sorted(rows.column_names) if name not in by]
        keys += [key for name in others for key in _sort_keys(_whole(rows.column(name)))]
        order = np.lexsort(keys[::-1])
    return rows if bool((order[1:] > order[:-1]).all()) else take(rows, order)


_LONGEST_PADDED: Final = 64


def _sort_keys(array: ac.Array) -> list[NDArray[Any]]:
    """Arrays to sort by, the weightiest first; equal rows, and only those, are equal in all of them."""
    type_name = _name(array.type)
    if type_name == "null":
        return []
    if type_name == "string":
        lengths, raw, valid = _text_parts(array)
        width = int(lengths.max())
        if width <= _LONGEST_PADDED:
            return [~valid, *_padded(lengths, raw, width), lengths]
        return [~valid, np.unique(np.where(valid, _text_values(array)[0], ""), return_inverse=True)[1]]
    if type_name.startswith("list<"):
        valid = _validity(array, na.c_array(array).view())
        return [
            ~valid,
            np.unique(np.array([repr(value) for value in array.to_pylist()], dtype=object), return_inverse=True)[1],
        ]
    values, valid = _fixed(array)
    values = np.where(valid, values, 0)
    if values.dtype.kind == "f":
        return [~valid, np.isnan(values), np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)]
    return [~valid, values]


def _padded(lengths: NDArray[np.int64], raw: NDArray[np.uint8], width: int) -> list[NDArray[np.uint64]]:
    """Texts as columns of eight bytes each, which compare as the texts do."""
    wide = max(8, -(-width // 8) * 8)
    grid = np.zeros((len(lengths), wide), np.uint8)
    grid[np.arange(wide) < lengths[:, None]] = raw
    words = grid.view(">u8").astype(np.uint64)
    return [np.ascontiguousarray(words[:, i]) for i in range(words.shape[1])]


# -- bytes ------------------------------------------------------------------------------------------------------------


def write_parquet(rows: Rows) -> bytes:
    """The rows as one Parquet file (zstd); equal rows give equal bytes as long as the writer's version is the same.

    Example:
        >>> to_pydict(read_parquet(write_parquet(to_rows({"n": [1]}, doing="read"))))
        {'n': [1]}
    """
    buffer = io.BytesIO()
    dictionary: dict[str | Sequence[str], bool] = {name: False for name in rows.column_names if _is_varied(rows, name)}
    arro3.io.write_parquet(rows, buffer, compression="zstd(3)", column_dictionary_enabled=dictionary)
    return buffer.getvalue()


def _is_varied(rows: Rows, name: str) -> bool:
    """Whether a dictionary of the column's values would be about as long as the column.

    Without one such columns are written twice as fast and a fifth smaller (116,000 rows, benchmarks/table_append.py).
    """
    if rows.num_rows < 2 * _SAMPLE or _name(rows.field(name).type) not in _NA_TYPES:
        return False
    values, _ = _fixed(_whole(rows.column(name)))
    return len(np.unique(values[:: len(values) // _SAMPLE])) > _SAMPLE // 2


_SAMPLE: Final = 1_000
_ALL_ROWS: Final = 1 << 20


def read_parquet(data: bytes) -> Rows:
    """The rows of one Parquet file.

    Raises:
        Corrupt: ST209, the bytes are no Parquet file.
    """
    if data[:4] != b"PAR1" or data[-4:] != b"PAR1":
        raise Corrupt(
            "ST209", f"Can't read rows: {len(data)} bytes are no Parquet file. Run `staytrue verify`.", size=len(data)
        )
    try:
        return arro3.io.read_parquet(data, batch_size=_ALL_ROWS).read_all()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # the library panics on damaged files, which is no `Exception`
        raise Corrupt(
            "ST209", f"Can't read rows: the Parquet file is damaged: {exc}. Run `staytrue verify`.", size=len(data)
        ) from exc


def content_digest(rows: Rows, by: Sequence[str] = ()) -> Digest:
    """BLAKE3 over what the rows say: names, types, and values, in canonical order when `by` is given (see `in_order`).

    The same for any order of columns, chunking, slicing, Parquet writer or library that the rows went through; -0.0
    equals 0.0 and every NaN equals every other.

    Example:
        >>> one, two = to_rows({"n": [1, 2]}, doing="read"), to_rows([{"n": 2}, {"n": 1}], doing="read")
        >>> content_digest(one, by=["n"]) == content_digest(two, by=["n"])
        True
    """
    rows = in_order(rows, by) if by else rows
    types = sorted(schema(rows))
    hasher = blake3(canonical_json({"rows": rows.num_rows, "columns": types, "format": 1}))
    for name, _ in types:
        for buffer in _canonical_buffers(_whole(rows.column(name))):
            hasher.update(struct.pack("<q", buffer.nbytes))
            hasher.update(np.ascontiguousarray(buffer).view(np.uint8).data if buffer.nbytes else b"")
    return Digest(hasher.hexdigest())


def _canonical_buffers(array: ac.Array) -> list[NDArray[Any]]:
    """Validity bits (none when all is valid) and values, with everything that means nothing set to zero."""
    type_name = _name(array.type)
    if type_name == "null":
        return []
    if type_name == "string":
        lengths, raw, valid = _text_parts(array)
        return [_bits(valid), lengths, raw]
    if type_name.startswith("list<"):
        lengths, items, valid = _list_parts(array)
        return [_bits(valid), lengths, *_canonical_buffers(items)]
    values, valid = _fixed(array)
    if not valid.all():
        values = np.where(valid, values, values.dtype.type(0))
    if values.dtype.kind == "b":
        values = np.packbits(values, bitorder="little")
    if values.dtype.kind == "f":
        values = values + values.dtype.type(0)  # -0.0 becomes 0.0
        values[np.isnan(values)] = np.nan
    return [_bits(valid), values.astype(values.dtype.newbyteorder("<"), copy=False)]


def _bits(valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.zeros(0, np.uint8) if valid.all() else np.packbits(valid, bitorder="little")


def _shown(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _listed(words: set[str]) -> str:
    return " and ".join(sorted(words))
