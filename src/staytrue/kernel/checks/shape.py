"""Whether a column's distribution is one that it has had; if not, which fault explains it: a unit, a sign, a swap.

One idea for all of them. A window is *strange* when it is farther from every recent window than any of those was from
the ones before it. Strange alone is no fault: seasons and customers change. It is a fault when undoing it (another unit,
the other sign, the column next to it) gives a distribution that the column did have. So a margin is learned from each
column's own past, and a column that moves a lot by itself is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.checks.case import Case, decimals_of
from staytrue.kernel.sketch import kind_of, sketch
from staytrue.kernel.source import Breach
from staytrue.kernel.usual import ENOUGH_WINDOWS, LEVELS, Usual

__all__ = ["Shape", "distances", "shape_of", "strangeness", "swaps", "units"]

# -- distributions and how far apart they are -------------------------------------------------------------------------

_ENOUGH_VALUES: Final = 30
_ENOUGH_FOR_SMALL: Final = 60
_BLUR: Final = 2  # buckets, of 1.6 % at most: the same value may fall into the next one


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One column of one window: as buckets at levels with the shares of zero and below, or as shares of categories."""

    n: int
    places: NDArray[np.int64] | None = None
    zero: float = 0.0
    below: float = 0.0
    shares: Mapping[str, float] | None = None

    @property
    def filled(self) -> int:
        """How many values are not zero."""
        return round(self.n * (1 - self.zero))


def shape_of(one: Usual, name: str) -> Shape | None:
    """A column's shape in a window; None when it has none: no values, or texts that are no categories."""
    if name in one.weights:
        below, zero, above = one.weights[name]
        n = below + zero + above
        return Shape(n=n, places=one.shapes.get(name), zero=zero / n, below=below / n) if n else None
    counts = one.categories.get(name)
    n = sum(counts.values()) if counts else 0
    return Shape(n=n, shares={text: count / n for text, count in counts.items()}) if counts and n else None


def distances(one: Shape, others: Sequence[Shape]) -> NDArray[np.float64]:
    """(len(others),) how far apart: the largest gap of the cumulative shares, or the shares that differ; in [0, 1].

    Less what chance alone makes of as many values.
    """
    if one.shares is not None:
        found = np.array([_differ(one.shares, other.shares or {}) for other in others])
    else:
        zero = np.array([max(abs(one.zero - other.zero), abs(one.below - other.below)) for other in others])
        most = np.array([min(1 - one.zero, 1 - other.zero) for other in others])
        found = np.maximum(zero, _gaps(one.places, [other.places for other in others]) * most)
    return np.maximum(found - _chance(one.n, [other.n for other in others]), 0)


def _differ(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The share of rows that would have to change category."""
    return 1 - sum(min(share, other[text]) for text, share in one.items() if text in other)


def _gaps(one: NDArray[np.int64] | None, others: Sequence[NDArray[np.int64] | None]) -> NDArray[np.float64]:
    """(len(others),) Kolmogorov-Smirnov gaps of the values that are not zero, blind to shifts within `_BLUR` buckets."""
    if one is None or not others:
        return np.zeros(len(others))
    rows = np.array([one if other is None else other for other in others])
    here = np.searchsorted(one, one, side="right")
    there = (rows[:, None, :] <= one[None, :, None] + _BLUR).sum(axis=2)
    own = (rows[:, None, :] <= rows[:, :, None]).sum(axis=2)
    back = np.searchsorted(one, rows + _BLUR, side="right")
    gaps = np.maximum((here[None, :] - there).max(axis=1), (own - back).max(axis=1)) / len(LEVELS)
    return np.asarray(np.maximum(gaps, 0), np.float64)


def _chance(n: int, others: Sequence[int]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(1 / n + 1 / np.array(others, float)), np.float64)


# -- strange ----------------------------------------------------------------------------------------------------------

_MARGIN: Final = 1.5
_LEAST: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Own:
    """A column's own past: its shapes in the recent windows, and how far a window may lie from all of them."""

    shapes: Sequence[Shape]
    usual: float

    @property
    def bar(self) -> float:
        """Farther than this is strange."""
        return _MARGIN * self.usual + _LEAST

    def away(self, shape: Shape) -> float:
        """How far a shape lies from the nearest of them."""
        return float(distances(shape, self.shapes).min(initial=1.0))


def own_past(shapes: Sequence[Shape]) -> Own | None:
    """What the windows say of a column; None when they are too few."""
    if len(shapes) <= ENOUGH_WINDOWS + 2:
        return None
    away = [float(distances(shapes[at], shapes[:at]).min()) for at in range(ENOUGH_WINDOWS, len(shapes))]
    return Own(shapes=shapes, usual=max(away))


def strangeness(case: Case, name: str) -> tuple[float, Own] | None:
    """How far this window's column lies from its past, and that past; None when nothing can be said."""
    shape = shape_of(case.now, name)
    past = [one for window in case.recent if (one := shape_of(window, name)) is not None and one.n >= _ENOUGH_VALUES]
    if shape is None or shape.n < _ENOUGH_VALUES:
        return None
    # What chance explains is not strange, and most columns end here.
    if not past or float(distances(shape, past).min()) <= _LEAST:
        return None
    own = own_past(past)
    return None if own is None else (own.away(shape), own)


# -- columns that changed places --------------------------------------------------------------------------------------


def swaps(case: Case, strange: Mapping[str, tuple[float, Own]]) -> Iterable[Breach]:
    """Columns that look like one another's past and not like their own: two that changed places, or more in a ring."""
    takes = {name: _donor(case, name, strange) for name in strange}
    done: set[str] = set()
    for name, (away, own) in strange.items():
        ring = _ring(name, takes)
        if not ring or done & set(ring) or away <= own.bar:
            continue
        done |= set(ring)
        for one in ring:
            yield Breach(
                code="ST924",
                column=one,
                sentence=f"The column {one!r} holds what {takes[one]!r} always held"
                f"{', and the other way round' if len(ring) == 2 else ''}.",
                likely=f"the columns {', '.join(map(repr, ring))} changed places upstream",
                facts={"columns": ring, "from": takes[one]},
            )


def _donor(case: Case, name: str, strange: Mapping[str, tuple[float, Own]]) -> str | None:
    """The column whose past this one looks most like, if it looks like it at all."""
    shape, kind = shape_of(case.now, name), kind_of(case.columns[name].type)
    others = [other for other in strange if other != name and kind_of(case.columns[other].type) == kind]
    if shape is None or not others:
        return None
    away = {other: strange[other][1].away(shape) for other in others}
    best = min(others, key=lambda other: away[other])
    fits = away[best] <= strange[best][1].usual + _LEAST and away[best] < strange[name][0] / 2
    return best if fits else None


def _ring(start: str, takes: Mapping[str, str | None]) -> list[str]:
    """The columns on the way from `start` back to it; empty when the way leads elsewhere."""
    ring = [start]
    while (following := takes.get(ring[-1])) is not None:
        if following == start:
            return ring
        if following in ring:
            return []
        ring.append(following)
    return []


# -- units and signs --------------------------------------------------------------------------------------------------

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
# By themselves, medians of hotel_rates and elec2 went at most 2.0 times beyond their past range (by day and by week).
# Limit: a number that is only a name moves further (movielens' userId: 22.7 times) and can be refused by mistake.
_FAR: Final = 6.0


def units(case: Case) -> Iterable[Breach]:
    """Columns of which nothing changed but the unit, or the sign."""
    for name in case.measured:
        if name not in case.now.quartiles:
            continue
        flipped = _sign(case, name)
        if flipped is not None:
            yield flipped
            continue
        scaled = _scaled(case, name)
        found = scaled and (_far(case, scaled) or _near(scaled, _leaves_range(case, scaled)))
        if found:
            yield _unit(case, name, *found)


def _sign(case: Case, name: str) -> Breach | None:
    """All values on the other side of zero than ever before."""
    before = [past.weights[name] for past in case.past if name in past.weights]
    below, _, above = case.now.weights[name]
    if len(before) < ENOUGH_WINDOWS or not below + above:
        return None
    ever_below, ever_above = sum(one[0] for one in before), sum(one[2] for one in before)
    flipped = (below and not above and not ever_below and ever_above) or (
        above and not below and not ever_above and ever_below
    )
    if not flipped:
        return None
    return Breach(
        code="ST241",
        column=name,
        sentence=f"The values of {name!r} are {'below' if below else 'above'} zero now in all {below + above} rows that are "
        f"not zero; they never were.",
        likely="the sign was flipped upstream: debits for credits",
        facts={"factor": -1.0, "rows": below + above},
    )


@dataclass(frozen=True, kw_only=True)
class _Scaled:
    """What a change of unit is judged by: the values that are not zero, and how they were before, zeros left out.

    Attributes:
        decimals: how many the values had before, and now; None when they had too many to tell.
    """

    name: str
    values: NDArray[np.float64]
    past: Sequence[Shape]
    whole: bool
    decimals: tuple[int, int] | None

    @cached_property
    def distinct(self) -> NDArray[np.float64]:
        """The different values."""
        return np.unique(self.values)

    @cached_property
    def away(self) -> float:
        """How far the values lie from the nearest window before."""
        return float(distances(_filled(self.values), self.past).min()) if self.past else 0.0

    @cached_property
    def grown(self) -> float:
        """By how much the values grew, as the logarithm of a ratio: from the buckets, 64 to a doubling."""
        before = np.array([one.places for one in self.past[-ENOUGH_WINDOWS:] if one.places is not None])
        now = _filled(self.values).places
        assert now is not None  # noqa: S101 (shapes of values have places)
        return float((np.abs(now).mean() - np.abs(before).mean()) / 64 * math.log(2))

    @cached_property
    def own(self) -> Own | None:
        """How far windows lie from one another by themselves."""
        return own_past(self.past)

    def undone(self, ratio: float) -> Shape | None:
        """The shape when a factor is undone; None when whole numbers would become zero."""
        with np.errstate(over="ignore"):
            values = np.rint(self.values / ratio) if self.whole else self.values / ratio
        return None if (values == 0).any() or not np.isfinite(values).all() else _filled(values)

    def grid(self, ratio: float) -> float:
        """The logarithm of how likely all values fit the old decimals once the factor is undone, were it not there.

        A price in cents times 1.8 leaves gaps: of nine cents only five can come. 0 when a value does not fit.
        """
        if self.decimals is None:
            return 0.0
        before, now = self.decimals
        step = max(10.0 ** (before - now) / ratio, 4 * _DUST)
        if step >= 1:
            return 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.distinct / ratio * 10.0**before
            off = np.abs(values - np.rint(values))
        return len(values) * math.log(step) if off.max() <= step / 2 + _DUST else 0.0


def _scaled(case: Case, name: str) -> _Scaled | None:
    column = case.columns[name]
    values = column.values[column.valid].astype(np.float64, copy=False)
    values = values[np.isfinite(values) & (values != 0)]
    if len(values) < _ENOUGH_VALUES:
        return None
    shapes = [one for window in case.recent if (one := shape_of(window, name)) is not None]
    before = [past.decimals[name] for past in case.recent if name in past.decimals]
    usual = before[len(before) // 2] if (before := sorted(before, key=lambda one: 99 if one is None else one)) else None
    now = decimals_of(values)
    return _Scaled(
        name=name,
        values=values,
        past=[_without_zeros(one) for one in shapes if one.filled >= _ENOUGH_VALUES],
        whole=case.terms.of(name).type in {"int64", "uint64"},
        decimals=None if usual is None else (max(usual, 0), _UNTOLD if now is None else max(now, usual, 0)),
    )


def _far(case: Case, scaled: _Scaled) -> tuple[float, str] | None:
    """Far outside of all the past, any change is one of unit."""
    name = scaled.name
    past = np.array([one.quartiles[name] for one in case.past if name in one.quartiles])
    if len(past) < ENOUGH_WINDOWS:
        return None
    now = np.array(case.now.quartiles[name])
    if past.max() < 0:
        now, past = -now[::-1], -past[:, ::-1]
    lows, highs = past.min(axis=0), past.max(axis=0)
    if lows[1] <= 0 or now[1] <= 0:
        return None
    with np.errstate(over="ignore"):
        beyond = max(now[1] / highs[1], lows[1] / now[1])
    if beyond < max(_FAR, float((highs[1] / lows[1]) ** 0.5)):
        return None
    middle = float(np.median(past[:, 1]))
    grown = math.log(now[1]) - math.log(middle)
    return _likeliest(scaled) or min(_BOTH_WAYS, key=lambda factor: abs(grown - math.log(factor[0])))


def _leaves_range(case: Case, scaled: _Scaled) -> bool:
    """Whether more than a tenth of the values are larger or smaller than any before."""
    spans = [past.ranges[scaled.name] for past in case.past if scaled.name in past.ranges]
    if len(spans) < ENOUGH_WINDOWS:
        return False
    low, high = min(one[0] for one in spans), max(one[1] for one in spans)
    return float(((scaled.values < low) | (scaled.values > high)).mean()) > _OUTSIDE


def _near(scaled: _Scaled, outside: bool) -> tuple[float, str] | None:  # noqa: FBT001 (one fact more)
    """Strange as it is, and as it always was when a known factor is undone; or on the grid that only a factor leaves."""
    best = _likeliest(scaled)
    if best is None or scaled.own is None:
        return None
    grid, small = scaled.grid(best[0]), 1 / _FAR < best[0] < _FAR
    if small and len(scaled.values) < _ENOUGH_FOR_SMALL:
        return None
    if grid < _SURELY and small:
        return best
    bar, fit = scaled.own.bar, 1 / 3
    if outside and (scaled.decimals is None or grid):
        # Something happened for sure: asked is only whether a factor explains it.
        bar, fit = scaled.own.usual / 2 + _LEAST, 1 / 2
    elif grid < _PROBABLY:
        bar = scaled.own.usual + _LEAST
    elif small and not grid:
        # By themselves, prices nearly double within a week: without a grid, a small factor needs a lot more.
        bar = math.inf if scaled.decimals is not None else 1.5 * bar
    undone = scaled.undone(best[0])
    return best if scaled.away > bar and undone is not None and scaled.own.away(undone) <= fit * scaled.away else None


_OUTSIDE: Final = 0.1
_UNTOLD: Final = 12
_DUST: Final = 1e-6
_SURELY: Final = -25.0
_PROBABLY: Final = -4.0


def _likeliest(scaled: _Scaled) -> tuple[float, str] | None:
    """The factor which undone gives a distribution that the column has had: by its grid, then by the windows before."""
    found = []
    for ratio, words in _BOTH_WAYS:
        grid = scaled.grid(ratio)
        if scaled.away <= _LEAST and grid > _SURELY:
            continue
        undone = scaled.undone(ratio)
        if undone is None or scaled.own is None:
            continue
        away = scaled.own.away(undone)
        if away > scaled.own.usual + _LEAST:
            continue
        gap = float(np.mean(distances(undone, scaled.past[-ENOUGH_WINDOWS:])))
        # Close calls go to the factor that is as large as the change: whole numbers can't tell neighbours apart.
        found.append(
            (grid > _SURELY, not grid, round(away, 1), round(gap, 2), abs(math.log(ratio) - scaled.grown), ratio, words)
        )
    return min(found)[5:] if found else None


def _filled(values: NDArray[np.float64]) -> Shape:
    """The shape of values of which none is zero."""
    values = values[values != 0]
    at = np.sort(values)[(LEVELS * len(values)).astype(np.int64)]
    made = sketch(at, np.ones(len(at), np.bool_), "number")
    places = np.repeat(np.array(made["at"], np.int64), np.array(made["n"], np.int64))
    return Shape(n=len(values), places=places, below=float((values < 0).mean()))


def _without_zeros(one: Shape) -> Shape:
    """A shape without its zeros."""
    return Shape(n=one.filled, places=one.places, below=one.below / (1 - one.zero))


def _unit(case: Case, name: str, ratio: float, words: str) -> Breach:
    medians = [past.quartiles[name][1] for past in case.past if name in past.quartiles]
    now, before = case.now.quartiles[name][1], float(np.median(medians))
    return Breach(
        code="ST241",
        column=name,
        sentence=f"The column {name!r} has the median {now:.4g}; it was {before:.4g}, from {min(medians):.4g} to "
        f"{max(medians):.4g}, and undoing one factor gives back what it was.",
        likely=f"another unit: {'multiplied' if ratio > 1 else 'divided'} by {words}",
        facts={"median": now, "before": before, "factor": ratio},
    )


_BOTH_WAYS: Final = tuple((ratio, words) for size, words in _FACTORS for ratio in (float(size), 1 / size))
