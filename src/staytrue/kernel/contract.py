"""The contract of a source: what must hold of a fetched window before anything is trained on it or judged by it.

Owns the order of the checks. The contract is not written by hand: the first window sets the columns and types, and the
windows since then say what is usual (`kernel/terms.py`, where a person may set it otherwise). A breach that is marked
`refuse` puts the window into quarantine; the champion stays. Bad data is worse than late data, but a contract that
cries wolf is switched off, so a check that rests on what is usual asks for a wide margin. The margins were set on
hotel_rates and elec2, of which no day is refused (tests/unit/kernel/test_contract.py); other data may see a false
refusal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from datetime import timedelta
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.sketch import kind_of, sketch
from staytrue.kernel.source import EPOCH as _EPOCH
from staytrue.kernel.source import Breach, Column, Schema, SourceSpec, Window, list_item, micros, settled
from staytrue.kernel.terms import ColumnTerms, Contract, WindowTerms, learned
from staytrue.kernel.usual import Usual, usual

__all__ = [
    "Breach",
    "Column",
    "ColumnTerms",
    "Contract",
    "Schema",
    "SourceSpec",
    "Usual",
    "WindowTerms",
    "check",
    "learned",
    "list_item",
    "micros",
    "settled",
    "usual",
]


def check(  # noqa: PLR0917 (source, window and rows as they come; a caller's contract last)
    spec: SourceSpec,
    window: Window,
    columns: Mapping[str, Column],
    schema: Schema | None,
    history: Sequence[Usual],
    contract: Contract | None = None,
    *,
    seen: Collection[Any] = frozenset(),
) -> list[Breach]:
    """What is wrong with one fetched window; an empty list when nothing is.

    A window without rows is well, if its columns are right or it has none.

    Args:
        spec: the source.
        window: `since` and `until`, aware; the rows must have since <= time < until (a snapshot's need not).
        columns: what came, by name, each of the same length.
        schema: of the table so far; None for the first window, which sets it.
        history: the windows before, oldest first; the newest 90 or so are enough.
        contract: what people pinned and switched off; None when nobody did. What nobody pinned is learned from
            `history` again.
        seen: keys of the newest parts, as `Column.values` has them, those of this very window left out: a key that
            comes again is a breach. Empty: not looked at.

    Returns:
        Breaches, those about columns first. Where a column that is asked for is missing the later checks of it are left
        out.

    Example:
        >>> from datetime import UTC, datetime
        >>> spec = SourceSpec(name="sales", time="at", key="id")
        >>> window = (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
        >>> ids = Column(type="int64", values=np.array([7, 7]), valid=np.ones(2, bool))
        >>> at = Column(type="timestamp[UTC]", values=np.full(2, micros(window[0])), valid=np.ones(2, bool))
        >>> [breach.sentence for breach in check(spec, window, {"id": ids, "at": at}, None, [])]
        ["1 row repeats a key: 'id' = 7 comes 2 times."]
    """
    rows = len(next(iter(columns.values())).valid) if columns else 0
    if not columns:
        return []
    fresh = learned(spec, schema, history)
    contract = fresh if contract is None else contract.moved_on(fresh)
    found = [*_columns(spec, columns, schema)]
    if rows:
        found += [
            *_keys(spec, columns),
            *_again(spec, columns, seen),
            *_times(spec, window, columns),
            *_labels(spec, columns),
        ]
        found += [*_volume(rows, history), *_units(spec, columns, history), *_nulls(spec, columns, rows, history)]
    return [breach for breach in found if not contract.ignores(breach.code, breach.column)]


# -- columns and types ------------------------------------------------------------------------------------------------


def _columns(spec: SourceSpec, columns: Mapping[str, Column], schema: Schema | None) -> Iterable[Breach]:
    wanted = dict(schema or ())
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


def _keys(spec: SourceSpec, columns: Mapping[str, Column]) -> Iterable[Breach]:
    if spec.key is None or spec.key not in columns:
        return
    column = columns[spec.key]
    nulls = int((~column.valid).sum())
    if nulls:
        yield Breach(
            code="ST235",
            column=spec.key,
            sentence=f"{_rows(nulls, 'has', 'have')} no key: {spec.key!r} is null.",
            facts={"rows": nulls},
        )
    if column.type.startswith("list<"):
        return
    values, counts = np.unique(column.values[column.valid], return_counts=True)
    again = int(counts.sum() - len(counts))
    if again:
        worst = int(counts.argmax())
        example = values[worst].item() if isinstance(values[worst], np.generic) else values[worst]
        yield Breach(
            code="ST234",
            column=spec.key,
            sentence=f"{_rows(again, 'repeats', 'repeat')} a key: "
            f"{spec.key!r} = {example!r} comes {int(counts[worst])} times.",
            likely="a join that multiplies rows, or the window was fetched twice into one answer",
            facts={"rows": again, "example": example, "times": int(counts[worst])},
        )


def _again(spec: SourceSpec, columns: Mapping[str, Column], seen: Collection[Any]) -> Iterable[Breach]:
    if not seen or spec.snapshot or spec.key is None or spec.key not in columns:
        return
    column = columns[spec.key]
    if column.type.startswith("list<"):
        return
    before = seen if isinstance(seen, Set) else set(seen)
    again = [key for key in dict.fromkeys(column.values[column.valid].tolist()) if key in before]
    if again:
        yield Breach(
            code="ST234",
            column=spec.key,
            sentence=f"{_rows(len(again), 'has', 'have')} a key that came in an earlier window: "
            f"for example {spec.key!r} = {again[0]!r}.",
            likely="rows of an earlier window were sent again, or the key is not unique over time",
            facts={"rows": len(again), "example": again[0], "where": "earlier windows"},
        )


def _times(spec: SourceSpec, window: Window, columns: Mapping[str, Column]) -> Iterable[Breach]:
    if spec.time is None or spec.time not in columns:
        return
    column = columns[spec.time]
    nulls = int((~column.valid).sum())
    if nulls:
        yield Breach(
            code="ST236",
            column=spec.time,
            sentence=f"{_rows(nulls, 'has', 'have')} no time: {spec.time!r} is null.",
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
        example = _EPOCH + timedelta(microseconds=int(values[early | late][0]))
        yield Breach(
            code="ST238",
            column=spec.time,
            sentence=f"{_rows(outside, 'lies', 'lie')} outside the window {_span(window)}: "
            f"for example {spec.time!r} = {example.isoformat()}.",
            likely="the source's border is wrong (it must be since <= time < until), or another time zone",
            facts={"rows": outside, "early": int(early.sum()), "late": int(late.sum()), "example": example.isoformat()},
        )


def _labels(spec: SourceSpec, columns: Mapping[str, Column]) -> Iterable[Breach]:
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


# -- against what is usual --------------------------------------------------------------------------------------------

_ENOUGH_WINDOWS: Final = 5
_RECENT: Final = 28


def _volume(rows: int, history: Sequence[Usual]) -> Iterable[Breach]:
    recent = [past.rows for past in history if past.rows][-_RECENT:]
    if len(recent) < _ENOUGH_WINDOWS or rows <= 100:
        return
    middle = median(recent)
    # Ten times the usual and twice the most ever: a source that swings by itself is not refused for swinging.
    if rows > 10 * middle and rows > 2 * max(past.rows for past in history):
        yield Breach(
            code="ST240",
            column=None,
            sentence=f"The window has {rows} rows, {rows / middle:.0f} times the usual {middle:g}.",
            likely="a join that multiplies rows, a test load, or a backfill with the wrong times",
            facts={"rows": rows, "usual": middle},
        )


# What people mix up: powers of ten, counts of time, and measures.
_FACTORS: Final[tuple[tuple[float, str], ...]] = (
    (10, "10"),
    (100, "100: cents for whole units, or percent for shares"),
    (1e3, "1000: thousands, or milli-units"),
    (1e4, "10^4"),
    (1e5, "10^5"),
    (1e6, "10^6: millions, or micro-units"),
    (1e9, "10^9: nano-units"),
    (60, "60: minutes for hours, or seconds for minutes"),
    (3600, "3600: seconds for hours"),
    (24, "24: hours for days"),
    (1440, "1440: minutes for days"),
    (86400, "86400: seconds for days"),
    (7, "7: days for weeks"),
    (12, "12: months for years, or a dozen"),
    (30.44, "30: days for months"),
    (365.25, "365: days for years"),
    (2.54, "2.54: centimetres for inches"),
    (1.609344, "1.609: kilometres for miles"),
    (2.204623, "2.205: pounds for kilograms"),
    (1.8, "1.8: degrees Fahrenheit for Celsius"),
    (3.28084, "3.281: feet for metres"),
    (28.3495, "28.35: grams for ounces"),
    (4.54609, "4.546: litres for gallons"),
    (3.785412, "3.785: litres for US gallons"),
)
_ENOUGH_VALUES: Final = 30
# By themselves, medians of hotel_rates and elec2 went at most 2.0 times beyond their past range (by day and by week).
# Limit: a number that is only a name moves further (movielens' userId: 22.7 times) and can be refused by mistake.
_FAR: Final = 6.0
_SMALL_FACTOR: Final = 5.0
_ENOUGH_FOR_SMALL: Final = 20
_MARGIN: Final = 1.3
_SLACK: Final = 1.1


def _units(spec: SourceSpec, columns: Mapping[str, Column], history: Sequence[Usual]) -> Iterable[Breach]:
    for name, column in columns.items():
        if kind_of(column.type) != "number" or name == spec.key or int(column.valid.sum()) < _ENOUGH_VALUES:
            continue
        past = np.array([window.quartiles[name] for window in history if name in window.quartiles])
        if len(past) < _ENOUGH_WINDOWS:
            continue
        now = usual(0, {name: sketch(column.values, column.valid, "number")}).quartiles.get(name)
        change = None if now is None else _change(np.array(now), past)
        if now is None or change is None:
            continue
        ratio, words = change
        before = float(np.median(past[:, 1]))
        yield Breach(
            code="ST241",
            column=name,
            sentence=f"The column {name!r} has the median {now[1]:.4g}; it was {before:.4g}, and never outside "
            f"{past[:, 1].min():.4g} to {past[:, 1].max():.4g}.",
            likely=f"another unit: {'multiplied' if ratio > 1 else 'divided'} by {words}",
            facts={"median": now[1], "before": before, "factor": ratio},
        )


def _change(now: NDArray[np.float64], past: NDArray[np.float64]) -> tuple[float, str] | None:
    """The known factor that explains these quartiles best, when nothing but another unit does; else None.

    Far outside of all the past, any change is one of unit. Nearer, two things must hold: the middle half of the window
    lies beyond every middle half before, and undoing the factor puts each quartile back into the range that it has had.
    That tells a unit from a season, and from a column that was constant until now. The wider the past, the wider the
    margin.
    """
    if past.max() < 0:
        now, past = -now[::-1], -past[:, ::-1]
    lows, highs = past.min(axis=0), past.max(axis=0)
    if lows[1] <= 0 or now[1] <= 0:
        return None
    beyond = max(now[1] / highs[1], lows[1] / now[1])
    wide = float((highs[1] / lows[1]) ** 0.5)
    middle = float(np.median(past[:, 1]))
    factors = [(ratio, words) for size, words in _FACTORS for ratio in (size, 1 / size)]
    if beyond < max(_FAR, wide):
        apart = now[0] > highs[2] or now[2] < lows[0]
        if beyond < max(_MARGIN, wide) or not apart:
            return None
        undone = [(now / ratio, ratio, words) for ratio, words in factors]
        factors = [
            (r, words) for q, r, words in undone if bool((q >= lows / _SLACK).all() and (q <= highs * _SLACK).all())
        ]
        if len(past) < _ENOUGH_FOR_SMALL:
            factors = [(ratio, words) for ratio, words in factors if not 1 / _SMALL_FACTOR < ratio < _SMALL_FACTOR]
    if not factors:
        return None
    return min(factors, key=lambda factor: abs(float(np.log(now[1] / factor[0] / middle))))


def _nulls(spec: SourceSpec, columns: Mapping[str, Column], rows: int, history: Sequence[Usual]) -> Iterable[Breach]:
    before = [past for past in history if past.rows]
    if len(before) < _ENOUGH_WINDOWS or rows < 10:
        return
    for name, column in columns.items():
        nulls = int((~column.valid).sum())
        # Null labels are labels to come; keys and times have checks of their own.
        if name in {spec.label, spec.key, spec.time} or 2 * nulls <= rows:
            continue
        if any(past.nulls.get(name, 1) for past in before):
            continue
        yield Breach(
            code="ST242",
            column=name,
            sentence=f"The column {name!r} is null in {nulls} of {rows} rows; "
            f"it never was in the {len(before)} windows before.",
            likely="a join that finds nothing, or the column is no longer filled upstream",
            facts={"nulls": nulls, "rows": rows},
        )


def _rows(n: int, one: str, many: str) -> str:
    return f"1 row {one}" if n == 1 else f"{n} rows {many}"


def _span(window: Window) -> str:
    return f"{window[0].isoformat()} .. {window[1].isoformat()}"
