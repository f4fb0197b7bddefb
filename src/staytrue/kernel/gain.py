"""Gain: what one mixture of two releases wins back over another on the same rows, with an interval over blocks of time.

Rows of one day are alike, so whole blocks are drawn, not rows: row by row, noise looks significant (measured on elec2:
day blocks gave +-.10 to .40 where rows said .02 to .05).

Source:
    Hall, "Theoretical comparison of bootstrap confidence intervals", Annals of Statistics 16 (1988): the studentised one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Final, TypeAlias

import numpy as np

from staytrue.errors import InvalidInput

__all__ = ["ALPHA", "Cell", "Change", "Gain", "Lost", "blocks_of", "gain", "runs", "student"]

ALPHA: Final = 0.05
"""The chance that a change is blamed although none did harm, all looks of one search together."""
_RESAMPLES: Final = 2000
_SEED: Final = 20160409
_MOST_ALIKE: Final = 0.8
_BLOCKS: Final = (12, 60)
"""Fewer blocks than this are cut up, more are put together."""


@dataclass(frozen=True, kw_only=True, order=True)
class Change:
    """One thing that may be done to the bad release.

    Attributes:
        axis: what is changed, such as `data`; of two changes on one axis only one can be made.
        how: `back` (taken from the good release) or `fresh` (made anew from the newest rows).
    """

    axis: str
    how: str = "back"


Cell: TypeAlias = frozenset[Change]
"""A mixture: the bad release with these changes made."""

Lost: TypeAlias = "np.ndarray | str"
"""(n,) what a mixture loses on each row, oldest first; or why it does not run: that too is an outcome."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What a mixture wins back a row over another one, with its interval; `fails` instead when it does not run."""

    changes: tuple[Change, ...]
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    fails: str | None = None

    @property
    def half(self) -> float:
        """What is between the mean and the lower end: less than this could not be told from nothing."""
        return self.mean - self.low

    def document(self) -> dict[str, Any]:
        """As JSON: an end of the interval that is not known (one block alone) is None."""
        changes = [[change.axis, change.how] for change in self.changes]
        if self.fails is not None:
            return {"changes": changes, "fails": self.fails}
        low, high = (end if math.isfinite(end) else None for end in (self.low, self.high))
        return {"changes": changes, "gain": self.mean, "low": low, "high": high}


def blocks_of(ticks: Sequence[int]) -> np.ndarray:
    """(sum of `ticks`,) the block of each row, for ticks of so many rows, oldest first.

    A block is one tick; of many ticks, several that follow each other; where there are hardly any, a stretch of one.

    Example:
        >>> blocks_of([2, 1] * 6).tolist()
        [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11]
        >>> blocks_of([24]).tolist()[:4]
        [0, 0, 1, 1]
    """
    filled = [n for n in ticks if n > 0]
    rows, (fewest, most) = sum(filled), _BLOCKS
    if not rows:
        return np.empty(0, dtype=np.intp)
    if len(filled) < fewest:
        return np.arange(rows) * min(fewest, rows) // rows
    place = np.arange(len(filled)) * min(most, len(filled)) // len(filled)
    return np.repeat(place, filled)


def gain(
    before: Lost, after: Lost, blocks: np.ndarray, changes: Sequence[Change] = (), *, alpha: float = ALPHA
) -> Gain:
    """What `after` loses less than `before` a row, with a two-sided interval of level 1 - `alpha`.

    The interval is a studentised bootstrap over whole blocks, always with the same draws: equal losses give equal intervals.

    Args:
        before, after: (n,) losses of the same rows.    blocks: (n,) the block of each row, as `blocks_of` gives them.
        changes: what led from one to the other, for the reader.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> old = rng.exponential(size=600)
        >>> found = gain(old, old - 0.1 + rng.normal(size=600) / 9, blocks_of([50] * 12))
        >>> round(found.mean, 1), found.low > 0.05, found.high < 0.15
        (0.1, True, True)
        >>> gain(old, "fit raised KeyError: 'age'", blocks_of([50] * 12)).fails
        "fit raised KeyError: 'age'"
    """
    made = tuple(sorted(changes))
    old, new = runs(before, blocks), runs(after, blocks)
    if isinstance(old, str) or isinstance(new, str):
        return Gain(changes=made, fails=new if isinstance(new, str) else str(old))
    # Losses may be as large as numbers go: their squares must not overflow.
    largest = max(float(np.abs(old).max()), float(np.abs(new).max()), 1e-300)
    d = old / largest - new / largest
    rows = np.bincount(blocks)
    sums = np.bincount(blocks, weights=d)
    mean, low, high = (largest * each for each in _interval(sums[rows > 0], rows[rows > 0], alpha))
    return Gain(changes=made, mean=mean, low=low, high=high)


def runs(lost: Lost, blocks: np.ndarray) -> Lost:
    """The losses as float64; where one of them is no number, that the mixture gives no answers: an outcome, like any failure.

    Raises:
        InvalidInput: ST996, not one loss for each row, or no rows at all.
    """
    if isinstance(lost, str):
        return lost
    values = np.asarray(lost, dtype=np.float64)
    if values.shape != blocks.shape or not len(values):
        got = f"losses of shape {values.shape} for {len(blocks)} rows"
        msg = f"Comparing mixtures: got {got}, expected one loss a row and at least one row. Ask on rows that have labels."
        raise InvalidInput("ST996", msg, losses=list(values.shape), rows=len(blocks))
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    return f"its loss is NaN or infinite on {wrong:,} of {len(values):,} rows" if wrong else values


def _interval(sums: np.ndarray, rows: np.ndarray, alpha: float) -> tuple[float, float, float]:
    """Of a mean over rows, from the sum and the rows of each block, oldest first."""
    n, mean = len(rows), float(sums.sum() / rows.sum())
    if n < 2:  # nothing is known of how much one block differs from the next
        return mean, -math.inf, math.inf
    off = sums - mean * rows
    error = math.sqrt(float((off**2).sum()) * n / (n - 1)) / float(rows.sum())
    if error <= 1e-12 * abs(mean) + 1e-300:
        return mean, mean, mean
    t = _studentised(off, rows)
    upper, lower = np.quantile(t, [1 - alpha / 2, alpha / 2]) if len(t) else (math.inf, -math.inf)
    # No narrower than Student's would be: with few blocks the draws know too little of the tails.
    least = student(1 - alpha / 2, n - 1)
    error *= _longer(off)
    return mean, mean - max(float(upper), least) * error, mean + max(-float(lower), least) * error


def _studentised(off: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The mean of each draw over its own standard error; draws in which all blocks are one say nothing and are left out."""
    times, n = _draws(len(rows)), len(rows)
    total = times @ rows
    means = (times @ off) / total
    squares = times @ off**2 - 2 * means * (times @ (off * rows)) + means**2 * (times @ rows.astype(np.float64) ** 2)
    enough = squares > 1e-9 * float((off**2).sum())
    found: np.ndarray = means[enough] * total[enough] / np.sqrt(squares[enough] * n / (n - 1))
    return found


@lru_cache(maxsize=16)
def _draws(n: int) -> np.ndarray:
    """(draws, n) how often each block is in each draw: sums over draws are then one product, several times faster."""
    drawn = np.random.default_rng(_SEED).integers(0, n, (_RESAMPLES, n)) + n * np.arange(_RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=_RESAMPLES * n).reshape(_RESAMPLES, n).astype(np.float64)


def _longer(off: np.ndarray) -> float:
    """How much more uncertain a mean is because a block resembles the one before it: 1 where it does not.

    As for a first-order autoregression. Drift makes days alike too: without this, intervals of 90 % hold the truth on 70 % of
    made-up streams of that kind, with it on 85 % (`make bench-blame`).
    """
    alike = float((off[1:] * off[:-1]).sum() / (off**2).sum())
    alike = min(max(alike, 0.0), _MOST_ALIKE)
    return math.sqrt((1 + alike) / (1 - alike))


def student(p: float, freedom: int) -> float:
    """Student's quantile for p above one half: exact for 1 and 2 degrees of freedom, a little too far out for 3 to 5."""
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    z = NormalDist().inv_cdf(p)
    # Inverts the normal approximation of Wallace, Annals of Mathematical Statistics 30 (1959).
    return math.sqrt(freedom * math.expm1((z * (8 * freedom + 3) / (8 * freedom + 1)) ** 2 / freedom))
