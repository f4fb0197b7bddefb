"""Whether a column knows what a prediction can't know: the label, or a time after the row's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.checks.case import Case
from staytrue.kernel.checks.shape import Own
from staytrue.kernel.sketch import kind_of
from staytrue.kernel.source import Breach, Column
from staytrue.kernel.usual import ENOUGH_WINDOWS

__all__ = ["future", "leaks"]

_ENOUGH_ROWS: Final = 30
_ENOUGH_FOR_CLASSES: Final = 100
# Of ranks: what an honest feature does not reach on real data. Elec2's price orders its label to 0.99 within a day.
_KNOWS: Final = 0.99
_KNOWS_CLASSES: Final = 0.999
_CHANCE: Final = -30.0


def leaks(case: Case, strange: Mapping[str, tuple[float, Own]]) -> Iterable[Breach]:
    """Features that give the label away: equal to it, in its order, or deciding it value by value.

    Refused when the column is strange too, that is, when it was another before; else a word of warning.
    """
    label = case.columns.get(case.spec.label or "")
    if label is None or kind_of(label.type) not in {"number", "bool", "text"}:
        return
    for name in case.features:
        column = case.columns[name]
        if case.spec.features is not None and name not in case.spec.features:
            continue
        how = _knows(column, label)
        if how is None:
            continue
        away = strange.get(name)
        new = away is not None and away[0] > away[1].usual
        yield Breach(
            code="ST925",
            column=name,
            sentence=f"The column {name!r} {how} the label {case.spec.label!r}{', and did not before' if new else ''}.",
            likely="it is filled from the label, or after the outcome is known; a prediction will not have it",
            severity="refuse" if new else "warn",
            facts={"label": case.spec.label},
        )


def _knows(column: Column, label: Column) -> str | None:
    both = column.valid & label.valid
    if int(both.sum()) < _ENOUGH_ROWS or kind_of(column.type) not in {"number", "bool", "text"}:
        return None
    known, asked = _ranks(column.values[both]), _ranks(label.values[both])
    classes = int(asked.max()) + 1
    if int(known.max()) == 0 or classes == 1:
        return None
    if classes == int(known.max()) + 1 and np.array_equal(known, asked) and kind_of(column.type) == kind_of(label.type):
        return "has the values or the order of"
    if classes < _ENOUGH_ROWS // 2 and int(both.sum()) < _ENOUGH_FOR_CLASSES:
        return None
    ordered = "text" not in {kind_of(column.type), kind_of(label.type)}
    if ordered and _order(known, asked, classes) >= (_KNOWS if classes > 2 else _KNOWS_CLASSES):
        return "is in the order of"
    return "decides" if _decides(known, asked) else None


def _ranks(values: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) the place of each value among the distinct ones."""
    return np.asarray(np.unique(values, return_inverse=True)[1], np.int64)


def _order(known: NDArray[np.int64], asked: NDArray[np.int64], classes: int) -> float:
    """How far one orders the other, in [0, 1]: by Spearman's correlation, or by Gini's for two classes."""
    ranks = _middle_ranks(known)
    if classes == 2:
        ones = asked == 1
        n, m = int(ones.sum()), int((~ones).sum())
        if min(n, m) < ENOUGH_WINDOWS:
            return 0.0
        area = (ranks[ones].sum() - n * (n + 1) / 2) / (n * m)
        return abs(2 * float(area) - 1)
    return abs(float(np.corrcoef(ranks, _middle_ranks(asked))[0, 1]))


def _middle_ranks(places: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = np.bincount(places)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places], np.float64)


def _decides(known: NDArray[np.int64], asked: NDArray[np.int64]) -> bool:
    """Whether equal values always go with equal labels, oftener than chance could make them."""
    values = int(known.max()) + 1
    # Each value several times over: what holds of pairs holds of neighbours in time as well.
    if values > len(known) // _TIMES:
        return False
    classes = int(asked.max()) + 1
    table = np.bincount(known * classes + asked, minlength=values * classes).reshape(values, classes)
    if table.max(axis=1).sum() < _KNOWS * len(known):
        return False
    # Each further row of a value would agree with its first by the chance of the labels themselves.
    agrees = float(((np.bincount(asked) / len(asked)) ** 2).sum())
    return (len(known) - values) * math.log(agrees) < _CHANCE


_TIMES: Final = 5


def future(case: Case) -> Iterable[Breach]:
    """Times that lie after the row's own, in a column whose times never did."""
    spec = case.spec
    own = case.columns.get(spec.time or "")
    if own is None or own.type == "null" or own.values.dtype == object:
        return
    for name in case.features:
        column = case.columns[name]
        if kind_of(column.type) != "time" or (spec.features is not None and name not in spec.features):
            continue
        both = own.valid & column.valid
        later = int((column.values[both] > own.values[both]).sum())
        before = [
            past.spans[name][1] <= past.spans[spec.time or ""][1]
            for past in case.past
            if name in past.spans and spec.time in past.spans
        ]
        new = len(before) >= ENOUGH_WINDOWS and all(before)
        if not later or (case.past and not new):
            continue
        yield Breach(
            code="ST925",
            column=name,
            sentence=f"{name!r} is later than {spec.time!r} in {later} of {int(both.sum())} rows"
            f"{'; it never was before' if new else ''}.",
            likely="it is known only after the prediction, which will not have it"
            if new
            else "a planned date, which is well; or it is known only after the prediction, which will not have it",
            severity="refuse" if new else "warn",
            facts={"rows": later, "time": spec.time},
        )
