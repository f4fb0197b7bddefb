"""Few labels: where the mean loss lies when only some rows have a label, and which rows to label next.

A sample that was drawn by chance, with known probabilities, says honestly what the loss of all rows is, however alike rows
of one day are: chance was in the drawing. Labels that came by themselves are no such sample; then whole ticks are taken for
what varies. An estimate of each row's loss that costs no label (`kernel/confidence.py`) narrows the interval as far as it
is right, and can't make it wrong: it is held against the labels, with a weight that they choose (PPI++).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from staytrue.errors import InvalidInput

__all__ = ["Bounds", "Draw", "FewLabels", "beta_quantile", "few_labels", "next_to_label", "t_quantile", "width_with"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Below this many units the weight of the estimate is itself a guess from noise: labels only.
_FEWEST_FOR_PPI = 12
# Share of a draw that goes to the fifth of the rows of which the model is least sure. After drift a draw that was guided by
# confidence alone was worse than chance, so the most unsure row is at most 2.25 times as likely as the surest.
_GUIDED = 0.2
_UNSURE = 0.2


# ---------------------------------------------------------------------------------------------- the interval


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A mean loss and where it lies; unknown sides are infinite, the mean is NaN without labels, `error` its standard error."""

    mean: float
    lo: float
    hi: float
    error: float

    @property
    def half_width(self) -> float:
        """Half of what lies between the bounds."""
        return (self.hi - self.lo) / 2

    def document(self) -> dict[str, Any]:
        """As JSON: None stands for what is not known."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class FewLabels:
    """What few labels say of the mean loss.

    Fields:
        rows: labels. units: what varies independently: rows of a random sample, or ticks.
        labels: from the labels alone. ppi: with the estimate's help, None without an estimate or with too few units.
        weight: how much of the estimate was used, 0 or more: 1 where it is right, 0 where it says nothing.
        alike: correlation of loss and estimate. The interval narrows by about sqrt(1 - alike^2).
        chosen: which of the two has the smaller standard error.
    """

    rows: int
    units: int
    labels: Bounds
    ppi: Bounds | None
    weight: float
    alike: float
    chosen: Literal["labels", "ppi"]

    @property
    def best(self) -> Bounds:
        """The chosen one."""
        return self.ppi if self.chosen == "ppi" and self.ppi is not None else self.labels

    def document(self) -> dict[str, Any]:
        """As JSON, with both intervals."""
        return {
            "rows": self.rows,
            "units": self.units,
            "chosen": self.chosen,
            "labels": self.labels.document(),
            "ppi": self.ppi and self.ppi.document(),
            "weight": self.weight,
            "alike": self.alike,
        }


def few_labels(
    losses: ArrayLike,
    *,
    expected: ArrayLike | None = None,
    expected_mean: float | None = None,
    probabilities: ArrayLike | None = None,
    ticks: ArrayLike | None = None,
    population: int | None = None,
    most: float | None = None,
    alpha: float = 0.05,
) -> FewLabels:
    """The interval of the mean loss over all rows of a window, from the losses of those that have a label.

    Assumed is one of two things. Without `ticks`, that the labelled rows were drawn by chance from the window with these
    probabilities: then nothing is assumed of how rows depend on one another. With `ticks`, that the labelled ticks are
    like the others, and differ independently of one another: rows of a tick may be as alike as they like. One unit tells
    no spread, so its interval is all that is possible. The interval is for one look; it is not valid at any time.

    Where losses have a bound (`most`) the interval is Clopper and Pearson's, with the number of rows that would have this
    standard error (Korn and Graubard): exact for errors counted in a plain sample, and never beyond 0 and `most`. Without
    it is a t interval freed of its skewness (Hall). Measured at nominal .95 on elec2 and hotel, n = 30, 100 and 400, with
    harm and without: benchmarks/few_labels.py.

    Args:
        losses: (n,) finite, one for each labelled row, in any order; n = 0 gives bounds without an end.
        expected: (n,) the estimate of each of these losses, made without its label. expected_mean: the mean of the
            estimate over all rows of the window. Both or neither.
        probabilities: (n,) in (0, 1]: how likely each row was to be drawn; all alike when left out.
        ticks: (n,) whole numbers: when each label's row was, if the labels were not drawn by chance.
        population: rows in the window; a sample of most of them is nearly sure.
        most: the largest possible loss, where there is one; losses are then 0 or more.
        alpha: in (0, 1), for both sides together.

    Raises:
        InvalidInput: ST940, a loss or estimate is NaN, infinite, no number, or outside 0 .. `most`; ST941, arguments of
            different lengths, or an estimate without its mean; ST942, a probability outside (0, 1], or alpha.

    Source:
        Angelopoulos, Duchi, Zrnic, "PPI++: Efficient prediction-powered inference" (2311.01453). Korn and Graubard,
        "Confidence intervals for proportions with small expected number of positive counts", Survey Methodology 24 (1998).
        Hall, "On the removal of skewness by transformation", JRSS B 54 (1992). Horvitz and Thompson, JASA 47 (1952).

    Example:
        >>> found = few_labels([0, 1, 0, 0, 0, 1, 0, 0, 0, 0], most=1)
        >>> round(found.labels.lo, 3), found.labels.mean, round(found.labels.hi, 3)
        (0.025, 0.2, 0.556)
    """
    loss = _numbers(losses, "loss", most)
    guess = None if expected is None else _numbers(expected, "estimate", None)
    _check(loss.size, guess, expected_mean, alpha, population)
    weight = 1 / _probabilities(probabilities, loss.size)
    units = _units(ticks, loss.size)
    n = int(units.max()) + 1 if units.size else 0
    # A sample of single rows without replacement: what was looked at can't vary any more.
    left = max(1 - loss.size / population, 0.0) if population and ticks is None else 1.0
    plain = ticks is None and probabilities is None and (most is None or bool(np.isin(loss, (0.0, most)).all()))
    alone = _moments(loss, weight, units, n, spent=1)
    labels = _bounds(alone, left=left, most=most, alpha=alpha, exact=plain and most is not None)
    if guess is None or expected_mean is None or n < _FEWEST_FOR_PPI or not guess.std() > 0:
        return FewLabels(rows=loss.size, units=n, labels=labels, ppi=None, weight=0.0, alike=0.0, chosen="labels")
    tuned, alike, pull = _tuned(loss, guess, weight)
    # A row that pulls at the weight lies too near to what the weight makes of it: as in HC3 it counts as if left out.
    helped = _moments(loss - tuned * guess, weight / np.maximum(1 - pull, 0.1), units, n, spent=2, whole=weight)
    helped = helped._replace(mean=helped.mean + tuned * expected_mean)
    ppi = _bounds(helped, left=left, most=most, alpha=alpha, exact=False)
    chosen: Literal["labels", "ppi"] = "ppi" if ppi.error < labels.error else "labels"
    return FewLabels(rows=loss.size, units=n, labels=labels, ppi=ppi, weight=tuned, alike=alike, chosen=chosen)


def width_with(found: Bounds, units: int, more: int) -> float | None:
    """About how wide (half of it) the interval would become with so many more units; None where nothing is known yet.

    Example:
        >>> width_with(few_labels([0.0, 1.0] * 50).labels, 100, 300) < 0.051
        True
    """
    if units < 2 or not math.isfinite(found.half_width):
        return None
    return found.half_width * math.sqrt(units / (units + more))


# ---------------------------------------------------------------------------------------------- which rows to label next


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Rows that were drawn by chance, and how likely each row was to be.

    Fields:
        indices: (n,) positions of the drawn rows, ascending. probabilities: (n,) their inclusion probabilities.
        rows: how many there were to draw from. rate: probability of a row of which the model is sure;
            unsure_rate: of one whose unsureness is above `cut`. cut: None where all rows were alike.
    """

    indices: Ints
    probabilities: Floats
    rows: int
    rate: float
    unsure_rate: float
    cut: float | None


def next_to_label(
    unsureness: ArrayLike | None,
    ids: Sequence[str],
    n: int,
    *,
    seed: int,
    already: Collection[str] = (),
    guided: float = _GUIDED,
) -> Draw:
    """Rows to label next: mostly by chance, some of them among those of which the model is least sure.

    Each row once, whatever the order in which rows are given. The probabilities are exact, so `few_labels` can undo the
    preference.

    Args:
        unsureness: (rows,) greater where the model is less sure, such as the expected loss; None or NaN: not known.
        ids: (rows,) their names; a name that comes again is the same row. n: how many, 0 or more.
        already: names of rows that have a label or wait for one.
        guided: share of `n` that goes to the fifth of the rows with the greatest unsureness, 0 to 1.

    Raises:
        InvalidInput: ST941, not one unsureness for each id; ST943, `n` below 0 or `guided` outside 0 .. 1.

    Source:
        Madow, "On the theory of systematic sampling, II", Annals of Mathematical Statistics 20 (1949), rows in random order.

    Example:
        >>> draw = next_to_label(None, ["a", "b", "c", "d"], 2, seed=1, already=["c"])
        >>> len(draw.indices), 2 in draw.indices, draw.probabilities.round(3).tolist()
        (2, False, [0.667, 0.667])
    """
    if n < 0 or not 0 <= guided <= 1:
        raise InvalidInput(
            "ST943", f"Can't draw {n} rows, {guided:g} of them guided: give 0 or more, and a share from 0 to 1.", n=n
        )
    unsure = None if unsureness is None else np.asarray(unsureness, np.float64)
    if unsure is not None and unsure.shape != (len(ids),):
        raise _different("unsureness", unsure.size, len(ids))
    place: dict[str, int] = {}
    for position, id_ in enumerate(ids):
        place.setdefault(id_, position)
    gone = frozenset(already)
    # In the order of their ids, so that the same rows in another order give the same draw.
    rows = np.array([place[id_] for id_ in sorted(place) if id_ not in gone], np.int64)
    if unsure is None or not rows.size:
        return _drawn(rows, n, seed=seed)
    known = np.nan_to_num(unsure[rows], nan=-np.inf)
    cut = float(np.quantile(known, 1 - _UNSURE, method="lower"))
    above = known > cut
    if not above.any():
        return _drawn(rows, n, seed=seed)
    return _drawn(rows, n, seed=seed, above=above, guided=guided, cut=cut)


def _drawn(
    rows: Ints,
    n: int,
    *,
    seed: int,
    above: NDArray[np.bool_] | None = None,
    guided: float = 0.0,
    cut: float | None = None,
) -> Draw:
    above = np.zeros(rows.size, bool) if above is None else above
    wanted, total, many = min(n, rows.size), rows.size, int(above.sum())
    rate = (1 - guided) * wanted / max(total, 1)
    unsure_rate = rate + (guided * wanted / many if many else 0.0)
    if unsure_rate > 1:  # the unsure are all taken, the rest of the draw is for the others
        unsure_rate, rate = 1.0, (wanted - many) / max(total - many, 1)
    rate = min(rate, 1.0)
    likely = np.where(above, unsure_rate, rate)
    rng = np.random.default_rng(seed)
    order = rng.permutation(total)
    # Each step of length 1 along the summed probabilities takes one row; exactly `wanted` steps fit.
    ends = np.cumsum(likely[order])
    if total:
        ends[-1] = wanted
    taken = order[np.unique(np.searchsorted(ends, np.arange(wanted) + rng.random(), side="right"))]
    chosen = np.sort(taken)
    at = np.argsort(rows[chosen], kind="stable")
    return Draw(
        indices=rows[chosen][at],
        probabilities=likely[chosen][at],
        rows=total,
        rate=float(rate),
        unsure_rate=float(unsure_rate),
        cut=cut,
    )


# ---------------------------------------------------------------------------------------------- sums over units


class _Moments(NamedTuple):
    mean: float
    variance: float
    """Of the mean."""
    skewness: float
    """Of one unit."""
    units: int
    freedom: int


def _moments(
    values: Floats, weight: Floats, units: Ints, n: int, *, spent: int, whole: Floats | None = None
) -> _Moments:
    """The mean weighted by `whole`, and its error, to which each unit adds by `weight` (the same when left out)."""
    if not n:
        return _Moments(math.nan, math.nan, 0.0, 0, 0)
    by = weight if whole is None else whole
    total = float(by.sum())
    mean = float(by @ values) / total
    added = np.bincount(units, weights=weight * (values - mean) / total, minlength=n)
    squares = float(added @ added)
    if n <= spent or squares <= 0:
        return _Moments(mean, 0.0 if n > spent else math.nan, 0.0, n, max(n - spent, 0))
    skewness = float((added**3).mean()) / (squares / n) ** 1.5
    return _Moments(mean, squares * n / (n - spent), skewness, n, n - spent)


def _tuned(loss: Floats, guess: Floats, weight: Floats) -> tuple[float, float, Floats]:
    """The weight of the estimate that makes the variance least, how alike loss and estimate are, and each row's leverage."""
    total = weight.sum()
    x, y = guess - weight @ guess / total, loss - weight @ loss / total
    spread, other, both = float(weight @ (x * x)), float(weight @ (y * y)), float(weight @ (x * y))
    if spread <= 0 or other <= 0:
        return 0.0, 0.0, np.zeros(loss.size)
    pull: Floats = weight * x * x / spread
    return max(both / spread, 0.0), both / math.sqrt(spread * other), pull


def _bounds(found: _Moments, *, left: float, most: float | None, alpha: float, exact: bool) -> Bounds:
    lowest, highest = (-math.inf, math.inf) if most is None else (0.0, most)
    if not found.units:
        return Bounds(mean=math.nan, lo=lowest, hi=highest, error=math.inf)
    error = math.sqrt(found.variance * left) if found.freedom else math.inf
    if most is not None:
        lo, hi = _beta_bounds(found, error, most, alpha, exact=exact)
    elif not found.freedom:
        lo, hi = lowest, highest
    else:
        lo, hi = _skewed_bounds(found, error, alpha)
    return Bounds(mean=found.mean, lo=max(lo, lowest), hi=min(hi, highest), error=error)


def _beta_bounds(found: _Moments, error: float, most: float, alpha: float, *, exact: bool) -> tuple[float, float]:
    """Clopper and Pearson's bounds for so many rows as would have this error."""
    share = min(max(found.mean / most, 0.0), 1.0)
    like = float(found.units)
    if not exact and not found.freedom:
        return 0.0, most
    spread = share * (1 - share)
    if 0 < error < math.inf and spread > 0:
        like = spread / (error / most) ** 2
        if exact:  # of a sample of single errors the variance is known from the mean: none was estimated
            like *= found.units / (found.units - 1)
        else:
            like *= (NormalDist().inv_cdf(1 - alpha / 2) / t_quantile(1 - alpha / 2, found.freedom)) ** 2
    hits = share * like
    lo = 0.0 if hits <= 0 else beta_quantile(alpha / 2, hits, like - hits + 1)
    hi = 1.0 if hits >= like else beta_quantile(1 - alpha / 2, hits + 1, like - hits)
    return lo * most, hi * most


def _skewed_bounds(found: _Moments, error: float, alpha: float) -> tuple[float, float]:
    """A t interval, moved to where a skewed mean may be."""
    reach = t_quantile(1 - alpha / 2, found.freedom)
    return found.mean - error * _unskewed(reach, found), found.mean + error * -_unskewed(-reach, found)


def _unskewed(x: float, found: _Moments) -> float:
    root = math.sqrt(found.units)
    bend = found.skewness / root
    if abs(bend) < 1e-6:
        return x
    return 3 / bend * (math.cbrt(1 + bend * (x - bend / 6)) - 1)


# ---------------------------------------------------------------------------------------------- quantiles


@lru_cache(maxsize=256)
def t_quantile(share: float, freedom: float) -> float:
    """Student's t: below which value lies this share, in (0, 1), with so many degrees of freedom, above 0.

    Example:
        >>> round(t_quantile(0.975, 4), 4), round(t_quantile(0.025, 1), 3)
        (2.7764, -12.706)
    """
    if share < 0.5:
        return -t_quantile(1 - share, freedom)
    x = beta_quantile(2 * (1 - share), freedom / 2, 0.5)
    return math.sqrt(freedom * (1 - x) / x) if x > 0 else math.inf


def beta_quantile(share: float, a: float, b: float) -> float:
    """The beta distribution: below which value in [0, 1] lies this share. a, b: above 0.

    Example:
        >>> round(beta_quantile(0.975, 3, 8), 4)
        0.5561
    """
    a, b = float(a), float(b)  # numpy's own would warn where Python's go to infinity
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    low, high, x = 0.0, 1.0, a / (a + b)
    for _ in range(200):
        beyond = _beta_below(x, a, b) - share
        low, high = (low, x) if beyond > 0 else (x, high)
        slope = math.exp(min(front + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x), 700.0))
        step = x - beyond / slope if slope > 0 else low
        # Newton's step where it stays between what is known; else half of that.
        new = step if low < step < high else (low + high) / 2
        if abs(new - x) <= 1e-10 * x or not 0 < new < 1:
            return new
        x = new
    return x


def _beta_below(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by Lentz's continued fraction."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_below(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away(1 + term * d)
            c = _away(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return front * value


def _away(value: float) -> float:
    """Not 0, so that it can be divided by."""
    return value if abs(value) > 1e-300 else 1e-300


# ---------------------------------------------------------------------------------------------- checks at the edge


def _numbers(values: ArrayLike, what: str, most: float | None) -> Floats:
    try:
        raw = np.asarray(values)
        if raw.dtype.kind not in "biuf" and raw.size:
            raise TypeError(f"{what}s of type {raw.dtype}")  # noqa: TRY301 - one message for all wrong types
        numbers = raw.astype(np.float64).reshape(-1)
    except (TypeError, ValueError) as exc:
        raise InvalidInput("ST940", f"Can't read the {what}s as numbers: {exc}.", what=what) from exc
    good = np.isfinite(numbers) if most is None else (numbers >= 0) & (numbers <= most)
    if not good.all():
        position = int(np.flatnonzero(~good)[0])
        span = "a finite number" if most is None else f"a number from 0 to {most:g}"
        raise InvalidInput(
            "ST940",
            f"Can't use {what} number {position}: it is {numbers[position]}, expected {span}. Leave rows without a label out.",
            what=what, position=position, value=str(numbers[position]),
        )  # fmt: skip
    return numbers


def _check(rows: int, guess: Floats | None, mean: float | None, alpha: float, population: int | None) -> None:
    if guess is not None and guess.size != rows:
        raise _different("estimates", guess.size, rows)
    if (guess is None) != (mean is None) or (mean is not None and not math.isfinite(mean)):
        raise InvalidInput(
            "ST941", f"Can't use an estimate whose mean over all rows is {mean}: give both, or neither.", mean=str(mean)
        )
    if not 0 < alpha < 1:
        raise InvalidInput("ST942", f"Can't use alpha = {alpha!r}: it must be between 0 and 1.", alpha=str(alpha))
    if population is not None and population < rows:
        raise InvalidInput(
            "ST941", f"Can't have {rows} labelled rows of {population}: `population` counts all rows of the window."
        )


def _probabilities(values: ArrayLike | None, rows: int) -> Floats:
    if values is None:
        return np.ones(rows)
    likely = np.asarray(values, np.float64).reshape(-1)
    if likely.size != rows:
        raise _different("probabilities", likely.size, rows)
    if not ((likely > 0) & (likely <= 1)).all():
        raise InvalidInput(
            "ST942",
            "Can't weigh rows by these probabilities: each must be above 0 and at most 1 (as `next_to_label` says).",
        )
    return likely


def _units(ticks: ArrayLike | None, rows: int) -> Ints:
    if ticks is None:
        return np.arange(rows)
    keys = np.asarray(ticks)
    if keys.shape != (rows,):
        raise _different("ticks", keys.size, rows)
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _different(what: str, given: int, rows: int) -> InvalidInput:
    return InvalidInput(
        "ST941", f"Can't use {given} {what} for {rows} rows: give exactly one a row.", given=given, rows=rows
    )
