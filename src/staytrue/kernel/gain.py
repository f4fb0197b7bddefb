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
from statistics import NormalDist
from typing import Any, Final, TypeAlias

import numpy as np

from staytrue.errors import InvalidInput

__all__ = ["ALPHA", "Cell", "Change", "Gain", "Lost", "blocks_of", "gain"]

ALPHA: Final = 0.05
"""The chance that a change is blamed although none did harm, all looks of one search together."""
_RESAMPLES: Final = 2000
_SEED: Final = 20160409
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
        """As JSON, without NaN."""
        changes = [[change.axis, change.how] for change in self.changes]
        if self.fails is not None:
            return {"changes": changes, "fails": self.fails}
        return {"changes": changes, "gain": self.mean, "low": self.low, "high": self.high}


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
    if isinstance(after, str) or isinstance(before, str):
        return Gain(changes=made, fails=after if isinstance(after, str) else str(before))
    d = np.asarray(before, dtype=np.float64) - np.asarray(after, dtype=np.float64)
    if d.shape != blocks.shape or not len(d):
        msg = f"Comparing mixtures: got losses of {d.shape} rows in blocks of {blocks.shape}, expected one block for each row."
        raise InvalidInput("ST996", msg, losses=list(d.shape), blocks=list(blocks.shape))
    mean, low, high = _interval(np.bincount(blocks, weights=d), np.bincount(blocks), alpha)
    return Gain(changes=made, mean=mean, low=low, high=high)


def _interval(sums: np.ndarray, rows: np.ndarray, alpha: float) -> tuple[float, float, float]:
    mean = float(sums.sum() / rows.sum())
    if len(rows) < 2:  # nothing is known of how much one block differs from the next
        return mean, -math.inf, math.inf
    error = float(_error(sums, rows))
    if error <= 1e-12 * abs(mean) + 1e-300:
        return mean, mean, mean
    at = np.random.default_rng(_SEED).integers(0, len(rows), (_RESAMPLES, len(rows)))
    drawn_sums, drawn_rows = sums[at], rows[at]
    errors = _error(drawn_sums, drawn_rows)
    means = drawn_sums.sum(1) / drawn_rows.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (means - mean) / errors
    t = t[np.isfinite(t)]
    upper, lower = np.quantile(t, [1 - alpha / 2, alpha / 2]) if len(t) else (math.inf, -math.inf)
    # No narrower than the normal interval would be: with few blocks the draws know too little of the tails.
    least = NormalDist().inv_cdf(1 - alpha / 2)
    return mean, mean - max(float(upper), least) * error, mean + max(-float(lower), least) * error


def _error(sums: np.ndarray, rows: np.ndarray) -> Any:
    """The standard error of sum/rows over blocks, along the last axis."""
    total = rows.sum(-1, keepdims=True)
    off = sums - sums.sum(-1, keepdims=True) / total * rows
    n = rows.shape[-1]
    return np.sqrt((off**2).sum(-1) * n / (n - 1)) / total[..., 0]
