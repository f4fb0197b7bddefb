"""Whether the feed runs as usual: how many rows, how new the newest is, and whether they are others than last time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from statistics import median
from typing import Final

from staytrue.kernel.checks.case import Case
from staytrue.kernel.source import Breach, micros
from staytrue.kernel.terms import lag_s
from staytrue.kernel.usual import ENOUGH_WINDOWS, Usual

__all__ = ["freshness", "repetition", "volume"]

# A volume is held against the median of the newest 5 windows; how far windows lay from theirs says how far is far.
_NEAR: Final = 5
_SLACK: Final = 1.25
# Beyond what windows did by themselves: 30 % fewer rows are worth a word (a holiday), three in four missing are too few; 40 %
# more are worth a word, three times too many.
_FEWER: Final = math.log(1 / 0.7)
_FAR_FEWER: Final = 0.25
_MORE: Final = math.log(3)
_WORTH: Final = 20  # rows: of so few, most may be missing by chance


def volume(case: Case) -> Iterable[Breach]:
    """Far more or far fewer rows than usual, or than a person wants."""
    rows, terms = case.now.rows, case.terms.window
    if "rows" in terms.pinned and terms.rows is not None:
        low, high = terms.rows
        if (low is not None and rows < low) or (high is not None and rows > high):
            yield Breach(
                code="ST240",
                column=None,
                sentence=f"The window has {rows} rows; the contract wants {_open(low)} to {_open(high)}.",
                likely="rows are missing" if low is not None and rows < low else "a join that multiplies rows",
                facts={"rows": rows, "low": low, "high": high},
            )
        return
    counts = [past.rows for past in case.recent]
    if len(counts) < ENOUGH_WINDOWS or case.spec.snapshot:
        return
    middle = median(counts[-_NEAR:])
    away = math.log(rows / middle)
    usual_away = max((abs(one) for one in _aways(counts)), default=math.inf)
    if away < -usual_away - _FEWER and rows < min(counts) and middle - rows >= _WORTH:
        yield Breach(
            code="ST240",
            column=None,
            sentence=f"The window has {rows} rows, {rows / middle:.0%} of the usual {middle:g}.",
            severity="refuse" if rows < _FAR_FEWER * middle else "warn",
            likely="a part of the feed did not arrive, or a filter upstream",
            facts={"rows": rows, "usual": middle},
        )
    elif away > usual_away + _FEWER and rows > max(counts) and rows > 100:
        yield Breach(
            code="ST240",
            column=None,
            sentence=f"The window has {rows} rows, {rows / middle:.1f} times the usual {middle:g}.",
            likely="a join that multiplies rows, a test load, or a backfill with the wrong times",
            severity="refuse" if away > usual_away + _MORE else "warn",
            facts={"rows": rows, "usual": middle},
        )


def _aways(counts: Sequence[int]) -> list[float]:
    """How far each window lay from those just before it, as the logarithm of a ratio."""
    return [math.log(counts[at] / median(counts[max(at - _NEAR, 0) : at])) for at in range(2, len(counts))]


def _open(bound: int | None) -> str:
    return "any number" if bound is None else str(bound)


# In rows that should have come since the newest one did.
_SPARE_ROWS: Final = 5.0


def freshness(case: Case) -> Iterable[Breach]:
    """The newest row lies further before the window's end than it ever did: the feed stopped on the way."""
    spec, terms = case.spec, case.terms.window
    span = case.now.spans.get(spec.time or "")
    if span is None or spec.snapshot:
        return
    lag = (micros(case.window[1]) - span[1]) / 1e6
    lags = [(one, found) for one in case.recent if (found := lag_s(spec, one)) is not None]
    if "lag_s" in terms.pinned and terms.lag_s is not None:
        if lag <= terms.lag_s:
            return
    elif len(lags) < ENOUGH_WINDOWS:
        return
    else:
        every = spec.every.total_seconds()
        rate = median(one.rows for one, _ in lags) / every
        # Fewer rows all over the window are another fault: among few rows, a long wait for the next is no wonder.
        if lag * case.now.rows / max(every - lag, 1.0) <= _SPARE_ROWS:
            return
        # In time as in rows: a source with few rows is late by chance.
        if lag * rate <= _SLACK * max(found * rate for _, found in lags) + _SPARE_ROWS:
            return
    usual = median(found for _, found in lags) if lags else None
    since = "" if usual is None else f"; usually it is {_told(usual)}"
    yield Breach(
        code="ST923",
        column=spec.time,
        sentence=f"The newest row is {_told(lag)} older than the window's end{since}.",
        likely="the feed stopped on the way, or the window was fetched before all rows were there",
        facts={"lag_s": lag, "usual_s": usual},
    )


def _told(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


# Beyond it, equal sums of other rows are no chance.
_TELLING_CELLS: Final = 20


def repetition(case: Case) -> Iterable[Breach]:
    """The rows of an earlier window again, or one column of them: a feed that is stuck."""
    spec, now = case.spec, case.now
    if spec.snapshot or not case.past:
        return
    compared = [name for name in case.features if name in now.prints] or [name for name in [spec.label] if name]
    cells = sum(now.cells.get(name, 0) - 1 for name in compared)
    again = [name for name in compared if _repeats(case, name)]
    whole = cells >= _TELLING_CELLS and any(
        all(past.prints.get(name) == now.prints[name] for name in compared) for past in case.past
    )
    if whole and (again or not _all_alike(case.past, compared)):
        yield Breach(
            code="ST926",
            column=None,
            sentence=f"All {now.rows} rows are those of an earlier window, but for key and time.",
            likely="the feed is stuck: upstream sends what it had, under new times",
            # Among the first windows, this may be a source that always says the same; later it is no breach then.
            severity="refuse" if len(case.past) >= ENOUGH_WINDOWS else "warn",
            facts={"rows": now.rows},
        )
        return
    for name in again:
        yield Breach(
            code="ST926",
            column=name,
            sentence=f"The values of {name!r} are exactly those of an earlier window; they never were before.",
            likely="this column is no longer filled anew upstream: a join with a table of before",
            facts={"rows": now.rows},
        )


def _repeats(case: Case, name: str) -> bool:
    """Whether a column that never repeated itself does so now."""
    prints = [past.prints[name] for past in case.past if name in past.prints]
    return (
        case.now.cells.get(name, 0) >= _TELLING_CELLS
        and case.now.prints.get(name) in prints
        and len(set(prints)) == len(prints) >= ENOUGH_WINDOWS
    )


def _all_alike(past: Sequence[Usual], names: Sequence[str]) -> bool:
    """Whether earlier windows were each other's repetitions already: a source that always says the same."""
    seen = [tuple(one.prints.get(name) for name in names) for one in past]
    return len(set(seen)) < len(seen)
