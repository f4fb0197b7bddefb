"""Repair: what a person says is wrong with the rows of a window, undone column by column. A copy: the rows given stay.

In this order: columns are swapped, scaled, filled, and then rows that repeat a key are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.contract import Column, Schema

__all__ = ["Repair", "repaired"]

_NUMBERS: Final = frozenset({"int64", "uint64", "float32", "float64"})
_WORDS: Final = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What to undo.

    `scale`: column -> factor, as written (`1/100`). `swap`: pairs of columns. `fill`: column -> what stands where it is null or
    missing, as written; None: nobody knows, so every row of it becomes null. `without_duplicates`: of rows with one key the
    first stays.

    Example:
        >>> Repair.read(scale=["price=1/100"], swap=["a,b"]).sentence
        "'a' and 'b' swapped; 'price' times 1/100"
    """

    scale: Mapping[str, str] = field(default_factory=dict)
    swap: tuple[tuple[str, str], ...] = ()
    fill: Mapping[str, str | None] = field(default_factory=dict)
    without_duplicates: bool = False

    @classmethod
    def read(
        cls,
        *,
        scale: Sequence[str] = (),
        swap: Sequence[str] = (),
        fill: Sequence[str] = (),
        without_duplicates: bool = False,
    ) -> Repair:
        """As people write it: `COLUMN=1/100`, `A,B`, `COLUMN=VALUE` or `COLUMN=null`.

        Raises:
            InvalidInput: ST933, it can't be read, or says nothing.
        """
        factors = dict(_pair(text, "=", "--scale COLUMN=1/100") for text in scale)
        for column, factor in factors.items():
            _factor(column, factor)
        filled = dict(_pair(text, "=", "--fill COLUMN=VALUE") for text in fill)
        made = cls(
            scale=factors,
            swap=tuple(_pair(text, ",", "--swap A,B") for text in swap),
            fill={column: None if value == "null" else value for column, value in filled.items()},
            without_duplicates=without_duplicates,
        )
        if not made.sentence:
            raise _unreadable("", "at least one of --scale, --swap, --fill and --without-duplicates")
        return made

    @property
    def sentence(self) -> str:
        """What is done, in words; empty for nothing."""
        said = [f"{a!r} and {b!r} swapped" for a, b in self.swap]
        said += [f"{column!r} times {factor}" for column, factor in self.scale.items()]
        said += [f"{c!r} made null" if v is None else f"{c!r} filled with {v}" for c, v in self.fill.items()]
        return "; ".join([*said, *(["rows that repeat a key left out"] if self.without_duplicates else [])])

    def document(self) -> dict[str, Any]:
        """As JSON; `from_document` reads it."""
        return {
            "scale": dict(self.scale),
            "swap": [list(pair) for pair in self.swap],
            "fill": dict(self.fill),
            "without_duplicates": self.without_duplicates,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Repair:
        """The repair that `document` made."""
        return cls(
            scale=dict(document["scale"]),
            swap=tuple((a, b) for a, b in document["swap"]),
            fill=dict(document["fill"]),
            without_duplicates=bool(document["without_duplicates"]),
        )


def repaired(
    columns: Mapping[str, Column], repair: Repair, *, key: str | None, schema: Schema = ()
) -> tuple[dict[str, Column], NDArray[np.bool_]]:
    """The columns, repaired, and which rows stay: (n,).

    Args:
        columns: of one length; they stay as they are.
        key: the column that tells rows apart.
        schema: the table's, for the type of a column that is missing.

    Raises:
        InvalidInput: ST933, a column that is not there, one that holds no numbers, or a value that does not fit it.

    Example:
        >>> cents = Column(type="int64", values=np.array([1250, 300]), valid=np.ones(2, bool))
        >>> made, stay = repaired({"price": cents}, Repair.read(scale=["price=1/100"]), key=None)
        >>> made["price"].values.tolist(), stay.tolist()
        ([12.5, 3.0], [True, True])
    """
    made = dict(columns)
    rows = len(next(iter(columns.values())).valid) if columns else 0
    for one, other in repair.swap:
        made[one], made[other] = _known(made, other), _known(made, one)
    for name, factor in repair.scale.items():
        made[name] = _scaled(name, _known(made, name), _factor(name, factor))
    for name, text in repair.fill.items():
        made[name] = _filled(name, made.get(name), text, rows, dict(schema))
    stay = np.ones(rows, np.bool_)
    if repair.without_duplicates:
        stay = _first_of_each(_known(made, key or ""), rows)
    return made, stay


def _scaled(name: str, column: Column, factor: Fraction) -> Column:
    if column.type not in _NUMBERS:
        raise _unreadable(f"{name}={factor}", f"a column of numbers; {name!r} is {column.type}", column=name)
    # A division by 100 is exact where a product with 0.01 is not.
    values = column.values.astype(np.float64) * factor.numerator / factor.denominator
    return Column(type="float64", values=values, valid=column.valid)


def _filled(name: str, column: Column | None, text: str | None, rows: int, types: Mapping[str, str]) -> Column:
    if column is None and name not in types:
        raise _unreadable(name, f"a column of the window or of its table; there is no {name!r}", column=name)
    if column is None or column.type == "null":
        column = _nothing(types.get(name, "null" if text is None else _type_of(text)), rows)
    if text is None:
        return Column(type=column.type, values=column.values, valid=np.zeros(rows, np.bool_))
    value = _value(name, column.type, text)
    values = column.values.copy()
    if isinstance(value, float) and values.dtype.kind in "iu":
        if not value.is_integer():
            raise _unreadable(f"{name}={text}", f"a whole number: {name!r} is {column.type}", column=name)
        value = int(value)
    values[~column.valid] = value
    return Column(type=column.type, values=values, valid=np.ones(rows, np.bool_))


def _nothing(type_name: str, rows: int) -> Column:
    dtype: Any = type_name if type_name in _NUMBERS or type_name == "bool" else object
    if type_name in {"date", "timestamp", "timestamp[UTC]"}:
        dtype = np.int64
    return Column(type=type_name, values=np.zeros(rows, dtype), valid=np.zeros(rows, np.bool_))


def _type_of(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return "bool" if text in _WORDS else "string"
    return "float64"


def _value(name: str, type_name: str, text: str) -> float | bool | str:
    if type_name == "string":
        return text
    if type_name == "bool" and text in _WORDS:
        return _WORDS[text]
    if type_name in _NUMBERS:
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if np.isfinite(value):
            return value
    raise _unreadable(f"{name}={text}", f"a value for {name!r}, which is {type_name}, or null", column=name)


def _first_of_each(column: Column, rows: int) -> NDArray[np.bool_]:
    seen: set[Any] = set()
    stay = np.ones(rows, np.bool_)
    for row, (value, there) in enumerate(zip(column.values.tolist(), column.valid.tolist(), strict=True)):
        again = there and value in seen
        stay[row] = not again
        if there:
            seen.add(value)
    return stay


def _known(columns: Mapping[str, Column], name: str) -> Column:
    if name not in columns:
        raise _unreadable(name, f"a column of the window: there are {', '.join(columns) or 'none'}", column=name)
    return columns[name]


def _pair(text: str, between: str, expected: str) -> tuple[str, str]:
    left, found, right = text.partition(between)
    if not found or not left.strip() or not right.strip():
        raise _unreadable(text, expected)
    return left.strip(), right.strip()


def _factor(column: str, text: str) -> Fraction:
    try:
        factor = Fraction(text)
    except (ValueError, ZeroDivisionError):
        factor = Fraction(0)
    if not factor or abs(factor) > Fraction(10) ** 15 or abs(factor) < Fraction(1, 10**15):
        raise _unreadable(f"{column}={text}", "a factor other than 0, such as 1/100 or 2.54")
    return factor


def _unreadable(got: str, expected: str, **facts: Any) -> InvalidInput:
    return InvalidInput(
        "ST933",
        f"Can't repair the window by {got[:80]!r}: expected {expected}.",
        got=got[:80],
        expected=expected,
        **facts,
    )
