"""Whether the rows have the form that was agreed: columns, types, keys, times inside the window, labels that are numbers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.checks.case import Case, counted
from staytrue.kernel.source import EPOCH, Breach, Column, Window, micros, settled
from staytrue.kernel.usual import ENOUGH_WINDOWS

__all__ = ["columns", "keys", "labels", "times"]

_QUARTER: Final = 900_000_000
_MOST_QUARTERS: Final = 14 * 4

# -- columns and types ------------------------------------------------------------------------------------------------


def columns(case: Case) -> Iterable[Breach]:
    """Columns that are missing, new, or of another type."""
    spec, columns = case.spec, case.columns
    wanted = {name: case.terms.of(name).type or type_name for name, type_name in case.schema or ()}
    needed = [name for name in (spec.time, spec.key, spec.label, *(spec.features or ())) if name is not None]
    missing = [name for name in dict.fromkeys([*wanted, *needed]) if name not in columns]
    extra = [name for name in columns if wanted and name not in wanted]
    for name in missing:
        alike = [other for other in extra if columns[other].type == wanted.get(name)]
        yield Breach(
            code="ST231",
            column=name,
            sentence=f"The column {name!r} is missing; there are {', '.join(columns)}.",
            likely=f"{name!r} was renamed to {alike[0]!r}"
            if len(alike) == 1
            else "the column was dropped or renamed upstream",
            facts={"columns": list(columns)},
        )
    for name in extra:
        yield Breach(
            code="ST232",
            column=name,
            sentence=f"The column {name!r} ({columns[name].type}) is new; the table goes on without it.",
            likely="a column was added or renamed upstream",
            severity="warn",
            facts={"type": columns[name].type},
        )
    for name, type_name in wanted.items():
        column = columns.get(name)
        if column is None or settled(type_name, column.type) == column.type or column.fits(type_name):
            continue
        # Whole numbers gain a fraction, or texts become numbers: named, since a model would take them without a word.
        yield Breach(
            code="ST233",
            column=name,
            sentence=f"The column {name!r} is {column.type} now; it has been {type_name} before.",
            likely=_why_other_type(column.type, type_name),
            facts={"got": column.type, "expected": type_name},
        )


def _why_other_type(got: str, wanted: str) -> str:
    if wanted == "int64" and got.startswith("float"):
        return "whole numbers now have fractions: another unit, or an average"
    if got == "string":
        return "numbers or times now come as text: another export format, or a word for missing values"
    if wanted == "string":
        return "codes now come as numbers: leading zeros may be lost"
    if {got, wanted} == {"timestamp", "timestamp[UTC]"}:
        return "the time zone was lost or added"
    return "the type was changed upstream"


# -- key, time, label -------------------------------------------------------------------------------------------------


def keys(case: Case) -> Iterable[Breach]:
    """Keys that are null, come twice, or came in an earlier window; and whatever else a person wants unique."""
    spec, columns = case.spec, case.columns
    for name, column in columns.items():
        unique = case.terms.of(name).unique
        # The key of a first window too, of which no terms are known yet.
        if unique or (unique is None and name == spec.key):
            yield from _repeated(name, column, is_key=name == spec.key)
    if spec.key is None or spec.key not in columns:
        return
    column = columns[spec.key]
    nulls = int((~column.valid).sum())
    if nulls:
        yield Breach(
            code="ST235",
            column=spec.key,
            sentence=f"{counted(nulls, 'has', 'have')} no key: {spec.key!r} is null.",
            facts={"rows": nulls},
        )
    if not case.seen or spec.snapshot or column.type.startswith("list<"):
        return
    before = frozenset(case.seen)
    again = [key for key in dict.fromkeys(column.values[column.valid].tolist()) if key in before]
    if again:
        yield Breach(
            code="ST234",
            column=spec.key,
            sentence=f"{counted(len(again), 'has', 'have')} a key that came in an earlier window: "
            f"for example {spec.key!r} = {again[0]!r}.",
            likely="rows of an earlier window were sent again, or the key is not unique over time",
            facts={"rows": len(again), "example": again[0], "where": "earlier windows"},
        )


def _repeated(name: str, column: Column, *, is_key: bool) -> Iterable[Breach]:
    if column.type.startswith("list<"):
        return
    values, counts = np.unique(column.values[column.valid], return_counts=True)
    again = int(counts.sum() - len(counts))
    if again:
        worst = int(counts.argmax())
        example = values[worst].item() if isinstance(values[worst], np.generic) else values[worst]
        yield Breach(
            code="ST234",
            column=name,
            sentence=f"{counted(again, 'repeats', 'repeat')} a {'key' if is_key else 'value that should be unique'}: "
            f"{name!r} = {example!r} comes {int(counts[worst])} times.",
            likely="a join that multiplies rows, or the window was fetched twice into one answer",
            facts={"rows": again, "example": example, "times": int(counts[worst])},
        )


def times(case: Case) -> Iterable[Breach]:
    """Times that are null, are no aware times, or lie outside the window."""
    spec, window, columns = case.spec, case.window, case.columns
    if spec.time is None or spec.time not in columns:
        return
    column = columns[spec.time]
    nulls = int((~column.valid).sum())
    if nulls:
        yield Breach(
            code="ST236",
            column=spec.time,
            sentence=f"{counted(nulls, 'has', 'have')} no time: {spec.time!r} is null.",
            facts={"rows": nulls},
        )
    if column.type not in {"date", "timestamp[UTC]", "null"}:
        naive = column.type == "timestamp"
        yield Breach(
            code="ST237",
            column=spec.time,
            sentence=f"The time {spec.time!r} {'has no time zone' if naive else f'is {column.type}'}; "
            "expected aware times or dates.",
            likely=f"make it aware in the source, for example df[{spec.time!r}].dt.tz_localize('UTC')"
            if naive
            else "parse it in the source",
            facts={"got": column.type},
        )
        return
    if column.type == "null" or spec.snapshot:
        return
    values = column.values[column.valid]
    since, until = micros(window[0]), micros(window[1])
    early, late = values < since, values >= until
    outside = int(early.sum() + late.sum())
    if outside:
        example = EPOCH + timedelta(microseconds=int(values[early | late][0]))
        hours = _shifted_hours(case, values)
        yield Breach(
            code="ST238",
            column=spec.time,
            sentence=f"{counted(outside, 'lies', 'lie')} outside the window {_span(window)}: "
            f"for example {spec.time!r} = {example.isoformat()}.",
            likely=f"another time zone: the times moved by {hours:+g} hours"
            if hours
            else "the source's border is wrong (it must be since <= time < until), or another time zone",
            facts={
                "rows": outside,
                "early": int(early.sum()),
                "late": int(late.sum()),
                "example": example.isoformat(),
                "hours": hours,
            },
        )


def _shifted_hours(case: Case, values: NDArray[Any]) -> float:
    """By how many hours both ends of the rows moved alike, in quarters; 0 when they did not, or nobody knows.

    Time zones are at most 14 hours from UTC, and whole quarters of an hour.
    """
    spans = [one.spans[case.spec.time] for one in case.recent if case.spec.time and case.spec.time in one.spans]
    if len(spans) < ENOUGH_WINDOWS:
        return 0.0
    every = case.spec.every // timedelta(microseconds=1)
    since, until = micros(case.window[0]), micros(case.window[1])
    lead = float(np.median([low - low // every * every for low, _ in spans]))
    lag = float(np.median([(high // every + 1) * every - high for _, high in spans]))
    quarters = [round(moved / _QUARTER) for moved in (values.min() - since - lead, values.max() - until + lag)]
    return quarters[0] / 4 if quarters[0] == quarters[1] and 0 < abs(quarters[0]) <= _MOST_QUARTERS else 0.0


def labels(case: Case) -> Iterable[Breach]:
    """Labels that are NaN or infinite."""
    spec, columns = case.spec, case.columns
    if spec.label is None or spec.label not in columns:
        return
    column = columns[spec.label]
    if not column.type.startswith("float"):
        return
    present = column.values[column.valid]
    nan, infinite = int(np.isnan(present).sum()), int(np.isinf(present).sum())
    if nan or infinite:
        yield Breach(
            code="ST239",
            column=spec.label,
            sentence=f"The label {spec.label!r} is NaN in {nan} and infinite in {infinite} of {len(present)} rows; "
            "expected finite numbers.",
            likely="a division by zero upstream; a label that is not known yet must be null",
            facts={"nan": nan, "infinite": infinite},
        )


def _span(window: Window) -> str:
    return f"{window[0].isoformat()} .. {window[1].isoformat()}"
