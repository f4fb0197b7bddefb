"""Inspection: many rows, as columns, held against a signature: the same verdicts as `signature.read_row`, by arrays.

A file may have a hundred million rows, and read_row takes ten microseconds for one. So each column is looked at as a
whole, and only what is refused is put into words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.contract import Column, Schema, list_item, settled
from staytrue.kernel.signature import Action, Fault, Feature, Signature, about
from staytrue.kernel.sketch import category, kind_of

__all__ = ["Inspected", "Misfit", "Remark", "inspect", "misfits"]

_FLOATS: Final = ("float64", "float32")
_WHOLE: Final = ("int64", "uint64")
_LARGEST_EXACT: Final = 2**53


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """A column because of which no row of a file can be answered."""

    column: str
    fault: Fault
    got: str
    expected: str

    def sentence(self) -> str:
        """It in words."""
        if self.fault == "missing":
            return f"{self.column!r} is missing (expected {self.expected})"
        if self.fault == "extra":
            return f"{self.column!r} is no column of this app, which refuses such"
        return f"{self.column!r} is {self.got}, expected {self.expected}"


@dataclass(frozen=True, kw_only=True)
class Remark:
    """What is to be said about the same column of some rows (n,)."""

    column: str
    fault: Fault
    action: Action
    rows: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What an inspection found.

    Attributes:
        columns: by name, in the types of the signature, and null where that can't be; one that is missing is left out.
        refused: (n,) rows that can't be answered.
        remarks: all that is to be said, in the order of the signature's columns.
    """

    columns: Mapping[str, Column]
    refused: NDArray[np.bool_]
    remarks: Sequence[Remark]
    _words: Mapping[tuple[str, Fault], Callable[[int], str]] = field(default_factory=dict)

    def reasons(self, row: int) -> str:
        """Why a row is refused, in words."""
        refusing = [one for one in self.remarks if one.action == "refuse" and one.rows[row]]
        return " ".join(self._words[one.column, one.fault](row) for one in refusing)


def misfits(sig: Signature, schema: Schema) -> list[Misfit]:
    """Why no row of these columns can be answered: columns that are missing, or have a type that never fits.

    Whole numbers may come as floats and floats as whole numbers, as in JSON; whether a value fits is looked at row by
    row. Of nothing but nulls any column may be.

    Example:
        >>> sig = Signature(features=(Feature(name="size", type="float64"), Feature(name="n", type="int64")))
        >>> [one.sentence() for one in misfits(sig, (("size", "string"),))]
        ["'size' is string, expected float64", "'n' is missing (expected int64)"]
    """
    given = dict(schema)
    found = []
    for one in sig.features:
        got = given.get(one.name)
        if got is None:
            if one.actions["missing"] == "refuse":
                found.append(Misfit(column=one.name, fault="missing", got="nothing", expected=one.type))
        elif not _may_fit(got, one.type):
            found.append(Misfit(column=one.name, fault="type", got=got, expected=one.type))
    if sig.extra == "refuse":
        known = {one.name for one in sig.features} | sig.ignored
        found += [
            Misfit(column=name, fault="extra", got=type_name, expected="nothing")
            for name, type_name in schema
            if name not in known
        ]
    return found


def _may_fit(got: str, wanted: str) -> bool:
    numbers = (*_FLOATS, *_WHOLE)
    if wanted.startswith("list<") and got.startswith("list<") and list_item(got)[0] == list_item(wanted)[0]:
        return True  # of any length: that is looked at row by row
    return (
        "null" in {got, wanted}
        or got == wanted
        or settled(got, wanted) == wanted
        or (got in numbers and wanted in numbers)
    )


def inspect(sig: Signature, columns: Mapping[str, Column], n: int) -> Inspected:
    """What is to be said about n rows, none of whose columns is a misfit.

    A NaN among floats is a null, as it is for whoever wrote the file with pandas.

    Example:
        >>> sig = Signature(features=(Feature(name="size", type="float64", low=1.0, high=5.0),))
        >>> column = Column(type="float64", values=np.array([2.0, 7.0, 0.0]), valid=np.array([True, True, False]))
        >>> found = inspect(sig, {"size": column}, 3)
        >>> [(one.fault, one.action, one.rows.tolist()) for one in found.remarks], found.refused.tolist()
        ([('null', 'refuse', [False, False, True]), ('range', 'flag', [False, True, False])], [False, False, True])
        >>> found.reasons(2)
        "'size' is null; training never saw it so; expected a number from 1 to 5."
    """
    made: dict[str, Column] = {}
    remarks: list[Remark] = []
    words: dict[tuple[str, Fault], Callable[[int], str]] = {}
    refused = np.zeros(n, np.bool_)
    for one in sig.features:
        if one.name not in columns:
            if one.actions["missing"] == "flag":
                remarks.append(Remark(column=one.name, fault="missing", action="flag", rows=np.ones(n, np.bool_)))
            continue
        if one.type == "null":
            continue  # nothing came in training, so the model knows nothing of it
        column, unfit = _fitted(columns[one.name], one.type)
        made[one.name] = column
        for fault, rows, say in _looked_at(one, column, columns[one.name], unfit):
            action: Action = "refuse" if fault == "type" else one.actions[fault]
            if action != "accept" and bool(rows.any()):
                remarks.append(Remark(column=one.name, fault=fault, action=action, rows=rows))
                words[one.name, fault] = say
                if action == "refuse":
                    refused |= rows
    return Inspected(columns=made, refused=refused, remarks=remarks, _words=words)


def _fitted(column: Column, wanted: str) -> tuple[Column, NDArray[np.bool_] | None]:
    """The column in the wanted type, and which of its rows have a value that this type can't hold (None: none has)."""
    values, valid = column.values, column.valid
    if column.type == "null":
        numbers: Mapping[str, Any] = {"number": wanted, "bool": np.bool_, "time": np.int64}
        return Column(type=wanted, values=np.zeros(len(valid), numbers.get(kind_of(wanted), object)), valid=valid), None
    if column.type in _FLOATS:
        # The largest of a column with a NaN is a NaN: most columns are done after one look.
        if len(values) and np.isnan(values.max()):
            valid = valid & ~np.isnan(values)
        if wanted in _FLOATS:
            with np.errstate(over="ignore"):  # what float32 can't hold is infinite then, and outside of any range
                return Column(type=wanted, values=values.astype(wanted, copy=False), valid=valid), None
        return _whole_of_floats(values, valid, wanted)
    if wanted.startswith("list<") and column.type != wanted:
        return _of_size(column, wanted)
    if column.type == wanted or column.type not in _WHOLE:
        return Column(type=wanted, values=values, valid=valid), None
    return _of_whole(column, wanted)


def _of_whole(column: Column, wanted: str) -> tuple[Column, NDArray[np.bool_] | None]:
    values, valid = column.values, column.valid
    if wanted in _FLOATS:
        unfit = values > _LARGEST_EXACT
        if column.type == "int64":
            unfit |= values < -_LARGEST_EXACT
    elif wanted == "uint64":
        unfit = values < 0
    else:
        unfit = values > np.iinfo(np.int64).max
    return _without(values.astype(wanted), valid, unfit & valid, wanted)


def _whole_of_floats(
    values: NDArray[Any], valid: NDArray[np.bool_], wanted: str
) -> tuple[Column, NDArray[np.bool_] | None]:
    lowest = 0.0 if wanted == "uint64" else -(2.0**63)
    highest = 2.0**64 if wanted == "uint64" else 2.0**63
    with np.errstate(invalid="ignore"):
        fits = (values == np.trunc(values)) & (values >= lowest) & (values < highest)
    infinite = np.isinf(values) & valid
    whole = np.where(fits & valid, values, 0.0).astype(wanted)
    column, unfit = _without(whole, valid, ~fits & valid & ~infinite, wanted)
    return Column(type=wanted, values=whole, valid=column.valid & ~infinite), unfit


def _of_size(column: Column, wanted: str) -> tuple[Column, NDArray[np.bool_] | None]:
    _, size = list_item(wanted)
    pairs = zip(column.values.tolist(), column.valid.tolist(), strict=True)
    other = [there and size is not None and len(items) != size for items, there in pairs]
    return _without(column.values, column.valid, np.array(other, np.bool_), wanted)


def _without(
    values: NDArray[Any], valid: NDArray[np.bool_], unfit: NDArray[np.bool_], wanted: str
) -> tuple[Column, NDArray[np.bool_] | None]:
    if not bool(unfit.any()):
        return Column(type=wanted, values=values, valid=valid), None
    return Column(type=wanted, values=values, valid=valid & ~unfit), unfit


_Look = tuple[Fault, NDArray[np.bool_], Callable[[int], str]]


def _looked_at(one: Feature, column: Column, given: Column, unfit: NDArray[np.bool_] | None) -> Iterator[_Look]:
    """The faults of a column, which rows have them, and how to say of one of these what is the matter."""
    values, valid = column.values, column.valid
    infinite = _infinite_lists(one, column) if one.type.startswith("list<") else _infinite(given)
    if unfit is not None:
        yield "type", unfit, lambda row: f"{one.name!r} is {given.values[row]}, which is no {one.type}."
    if infinite is not None:
        yield "nonfinite", infinite, lambda _: f"{one.name!r} is not a finite number."
    if not bool(valid.all()):
        gone = ~valid
        for other in (unfit, infinite):
            gone = gone if other is None else gone & ~other
        yield "null", gone, _words_of(one, lambda _: None)
    if kind_of(one.type) == "number":
        yield from _outside(one, values, valid if infinite is None else valid & ~infinite)
    elif one.categories is not None:
        known = {text: category(text) in one.categories for text in set(values[valid].tolist())}
        strange = np.fromiter((not known.get(text, True) for text in values.tolist()), np.bool_, len(values))
        yield "category", strange & valid, _words_of(one, lambda row: values[row])


def _infinite(given: Column) -> NDArray[np.bool_] | None:
    if given.type not in _FLOATS or not len(given.values):
        return None
    # Adding up would overflow; the ends tell as well.
    found = np.isinf(given.values) & given.valid
    return found if bool(found.any()) else None


def _infinite_lists(one: Feature, column: Column) -> NDArray[np.bool_] | None:
    item, size = list_item(one.type)
    if item not in _FLOATS:
        return None
    # Among the numbers of a list a null is a NaN; only a list of any length may hold some.
    lacks = np.isinf if size is None else lambda numbers: ~np.isfinite(numbers)
    pairs = zip(column.values.tolist(), column.valid.tolist(), strict=True)
    found = np.array([there and bool(lacks(numbers).any()) for numbers, there in pairs], np.bool_)
    return found if bool(found.any()) else None


def _outside(one: Feature, values: NDArray[Any], there: NDArray[np.bool_]) -> Iterator[_Look]:
    if one.low is None or one.high is None or not len(values):
        return
    if one.low <= values.min() and values.max() <= one.high:
        return  # as nearly always; a NaN, and the 0 in the place of a null, may lead to a closer look
    with np.errstate(invalid="ignore"):
        outside = there & ((values < one.low) | (values > one.high))
        say = _words_of(one, lambda row: values[row].item())
        if one.unit_low is not None and one.unit_high is not None and one.tells_units:
            other_unit = outside & ((values < one.unit_low) | (values > one.unit_high))
            yield "unit", other_unit, say
            outside &= ~other_unit
    yield "range", outside, say


def _words_of(one: Feature, value: Callable[[int], Any]) -> Callable[[int], str]:
    said: dict[Any, str] = {}

    def words(row: int) -> str:
        got = value(row)
        if got not in said:
            said[got] = " ".join(finding.message for finding in about(one, got))
        return said[got]

    return words
