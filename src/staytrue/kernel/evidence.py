"""How sure we are that one release loses less than another, or that a champion has become worse, at any look.

A trial and a watch are looked at after every tick, for weeks, and stopped when someone likes what is seen. A t-test
read that way is wrong most of the time; what stands here keeps its error rate however often it is read.

- `Differences`: paired losses, challenger minus champion, as sums per tick; any sharding or order gives equal state.
- `interval`: where the mean difference lies, from *block means* (rows of one day are alike; blocks of days hardly are).
- `bounded_interval`: the same from single rows, slower to decide, proved for differences in a known range.
- `Guard`: a bet against "every row is at most as bad", for errors and faults, where harm now is the question.
- `Harm`: an alarm on a champion's loss that may run for years, with a bound on the mean time between false alarms.

Sums are whole numbers (fixed point in units of `scale`), since float sums depend on the order in which shards arrive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from staytrue.errors import InvalidInput

__all__ = [
    "BLOCK_ROWS",
    "Differences",
    "Guard",
    "Harm",
    "Interval",
    "bounded_interval",
    "fewest_blocks",
    "fold",
    "fold_guard",
    "fold_harm",
    "interval",
    "interval_path",
    "merge",
    "merge_guards",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Rows in the smallest block. At alpha .01 AR(1) rho .9 went wrong in .014 of runs with 30, .006 with 50; where a day has
# 30 rows, blocks of two days need 0 to 80 % more rows for a verdict (the larger the change, the more).
BLOCK_ROWS = 30
# The mixture is narrowest near this many blocks. 20 and 50 need up to 6 % more or less rows, 50 up to 20 % for large changes.
_SHARPEST_AT = 30
# Blocks are doubled when the lag-1 autocorrelation of their means is above this by more than one standard error.
_ALIKE = 0.1
# Fixed point: differences and squares in scale * 2**-36; what clipping took off, up to 2**20 scales a row, in 2**-20.
# So a state holds 134 million rows at the scale, or 8 million that are a million times beyond it.
_UNIT = 2.0**36
_COARSE = 2.0**20
_STAKES = (0.1, 0.2, 0.4, 0.7, 0.95)
# A grid of bets in place of one tuned bet: 1.5 apart, from 1e-5 of the largest allowed one.
_BETS: Floats = 0.49 * 1.5 ** -np.arange(28.0)
# Older blocks leave the alarm's memory. 128 blocks of at least a day are four months.
_MEMORY = 128
_HARM_SPREAD = 0.5


# ---------------------------------------------------------------------------------------------- paired differences


@dataclass(frozen=True, kw_only=True, eq=False)
class Differences:
    """Paired losses so far, challenger minus champion, as sums per tick. Start with `Differences.fresh(scale=...)`.

    Fields:
        scale: rows count at most this much, up or down. Fixed before the trial (a high quantile of past |difference|).
        ticks: (k,) ascending tick keys.
        sums: (k, 5) whole numbers: rows, sum, sum of squares, rows clipped, sum of what clipping took off.
    """

    scale: float
    ticks: Ints
    sums: Ints

    def __post_init__(self) -> None:
        self.ticks.setflags(write=False)
        self.sums.setflags(write=False)

    @classmethod
    def fresh(cls, *, scale: float) -> Self:
        """No rows seen. `scale` > 0, in units of the loss; ST501 otherwise.

        Example:
            >>> Differences.fresh(scale=10).rows
            0
        """
        return cls(scale=_scale(scale), ticks=np.empty(0, np.int64), sums=np.empty((0, 5), np.int64))

    @property
    def rows(self) -> int:
        """Rows of all ticks, also of one that is still open."""
        return int(self.sums[:, 0].sum())

    @property
    def mean(self) -> float:
        """Mean clipped difference a row, in units of the loss; 0 before a row was seen.

        Example:
            >>> round(fold(Differences.fresh(scale=10), 1, [1.0, 3.0, 30.0]).mean, 3)
            4.667
        """
        return float(self.sums[:, 1].sum()) * (self.scale / _UNIT) / self.rows if self.rows else 0.0

    def by_tick(self, before: int | None) -> tuple[Floats, Floats]:
        """(k,) rows, and (k,) summed clipped differences in units of the loss, of each tick below `before` (None: of all)."""
        sums = self.sums if before is None else self.sums[: np.searchsorted(self.ticks, before)]
        return sums[:, 0].astype(np.float64), sums[:, 1].astype(np.float64) * (self.scale / _UNIT)

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal state."""
        table = np.column_stack([self.ticks, self.sums])
        return {"scale": self.scale, "ticks": table.tolist()}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The state that `document()` wrote; ST507 when it is not one."""
        try:
            scale, lines = _scale(document["scale"]), document["ticks"]
            table = np.array(lines, dtype=np.int64).reshape(len(lines), 6)
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise _unreadable("differences", exc) from exc
        if (np.diff(table[:, 0]) <= 0).any() or (table[:, 1] < 0).any():
            raise _unreadable("differences", "ticks out of order or rows below 0")
        return cls(scale=scale, ticks=table[:, 0].copy(), sums=table[:, 1:].copy())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Differences):
            return NotImplemented
        return (
            self.scale == other.scale
            and np.array_equal(self.ticks, other.ticks)
            and np.array_equal(self.sums, other.sums)
        )

    __hash__ = None  # type: ignore[assignment]


def fold(differences: Differences, ticks: ArrayLike, d: ArrayLike) -> Differences:
    """The differences with more rows. Order does not matter, but each row must be given once.

    Args:
        ticks: (n,) whole numbers, for instance the number of the day on which the label *arrived*; or one for all.
        d: (n,) loss of the challenger minus loss of the champion; n = 0 gives back an equal state.

    Raises:
        InvalidInput: ST502, a difference is NaN, infinite or no number; ST503, ticks don't fit the rows.

    Example:
        >>> one = fold(Differences.fresh(scale=10), [1, 1, 2], [-1.0, 0.5, 30.0])
        >>> one == merge(fold(Differences.fresh(scale=10), 2, [30.0]), fold(Differences.fresh(scale=10), 1, [0.5, -1]))
        True
    """
    with np.errstate(over="ignore"):
        x = _numbers(d, "difference") / differences.scale
    keys = _keys(ticks, x.size)
    kept = np.clip(x, -1.0, 1.0)
    columns = np.empty((x.size, 5), np.int64)
    columns[:, 0] = 1
    columns[:, 1] = np.rint(kept * _UNIT)
    columns[:, 2] = np.rint(kept * kept * _UNIT)
    columns[:, 3] = np.abs(x) > 1.0
    columns[:, 4] = np.rint(np.clip(x - kept, -_COARSE, _COARSE) * _COARSE)
    return _summed(differences, keys, columns)


def merge(a: Differences, b: Differences) -> Differences:
    """Both states' rows together: exact, in any order.

    Raises:
        InvalidInput: ST504, the scales differ, so that the sums count different things.
    """
    if a.scale != b.scale:
        raise InvalidInput(
            "ST504",
            f"Can't merge differences clipped at {a.scale:g} with differences clipped at {b.scale:g}: "
            "the sums count different things. Use one scale for the whole trial.",
            scales=[a.scale, b.scale],
        )
    return _summed(a, b.ticks, b.sums)


def _summed(state: Differences, keys: Ints, columns: Ints) -> Differences:
    if keys.size == 0:
        return state
    keys = np.concatenate([state.ticks, keys])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])
    sums = np.add.reduceat(np.concatenate([state.sums, columns])[order], starts, axis=0)
    return Differences(scale=state.scale, ticks=keys[starts], sums=sums)


# ---------------------------------------------------------------------------------------------- the interval


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where the mean difference a row lies, at every look with one error budget; unknown sides are infinite.

    Fields:
        lo, hi: bounds of the clipped mean, in units of the loss. mean: its estimate (NaN without rows).
        rows, ticks, blocks: what the bounds rest on; an open tick and a part of a block are not in it.
        block_rows: mean number of rows in a block, after doubling. raw_mean: the mean without clipping.
        clipped_share: share of rows beyond the scale. alpha: chance that the mean is ever outside.
    """

    lo: float
    hi: float
    mean: float
    raw_mean: float
    rows: int
    ticks: int
    blocks: int
    block_rows: float
    clipped_share: float
    alpha: float

    @property
    def enough(self) -> bool:
        """Whether there were blocks enough to say anything."""
        return math.isfinite(self.lo) or math.isfinite(self.hi)

    def document(self) -> dict[str, Any]:
        """The numbers as JSON: None stands for what is not known."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def interval(
    differences: Differences, *, alpha: float, before: int | None = None, block_rows: int = BLOCK_ROWS
) -> Interval:
    """The confidence interval of the mean (clipped) difference, valid when read after every tick.

    Whole ticks are joined, oldest first, into blocks of at least `block_rows` rows. While the blocks' lag-1
    autocorrelation is clearly above .1 they are doubled, and below that the variance is widened by what is left of it.
    Over the blocks runs a scale-free t-mixture: as a t-test, but with every possible moment of looking paid for.

    The promise "outside at any look: at most alpha" is exact for independent Gaussian means of equal blocks that are not
    doubled, and an approximation otherwise. Measured at alpha .01 over 10,000 rows, read after every block (share of
    1,000 runs that were ever wrong): independent .004, AR(1) rho .5 .005, rho .9 .012, day effects .002, t3 clipped
    .000, exponential .003, clipped lognormal .012, differences of rare errors .004. Limit: it does not hold where few
    days decide: exponential day effects as large as the rows' noise .030, day effects with AR(1) rho .5 .051. Price of
    looking: 1.7 x the rows of one test that knew its sample size for a 5 % change, more for large ones, which wait
    for `fewest_blocks` (all figures: benchmarks/evidence_power.py).

    Rows may hide a loss not met yet, so the interval is never narrower than +- scale * ln(2 / alpha) / rows. Without
    that, releases that have agreed on every row so far would be called equal for good after ten blocks.

    Args:
        alpha: in (0, 1), for both sides together. before: only ticks below it count; give the open tick's key.
        block_rows: at least 1, and fixed before the trial.

    Returns:
        The interval; lo = -inf and hi = inf while there are fewer than `fewest_blocks(alpha)` blocks.

    Raises:
        InvalidInput: ST505, alpha outside (0, 1); ST506, block_rows below 1.

    Source:
        Lai, "On confidence sequences", Annals of Statistics 4 (1976); Wang and Ramdas, "Anytime-valid t-tests and
        confidence sequences for Gaussian means with unknown variance" (2024). Unequal blocks as in Fieller (1954).

    Example:
        >>> rng = np.random.default_rng(1)
        >>> pairs = fold(Differences.fresh(scale=5), np.arange(1200) // 40, rng.normal(-0.3, 1, 1200))
        >>> found = interval(pairs, alpha=0.01)
        >>> found.blocks, found.hi < 0
        (30, True)
    """
    _check_alpha(alpha)
    _check_block_rows(block_rows)
    sums = differences.sums if before is None else differences.sums[: np.searchsorted(differences.ticks, before)]
    cuts = _cuts(sums[:, 0].tolist(), block_rows)
    if len(cuts) == 1:
        return _described(sums[:0], differences.scale, alpha)
    blocks = np.add.reduceat(sums[: cuts[-1]], cuts[:-1], axis=0)
    total, rows = blocks[:, 1] * (differences.scale / _UNIT), blocks[:, 0].astype(np.float64)
    width, used = 1, (len(blocks), -math.inf, math.inf)
    while total.size >= 2:
        lo, hi, alike = _band(_moments(total, rows, running=False), alpha, differences.scale)
        if not alike:
            used = (total.size * width, float(lo), float(hi))
            break
        total, rows, width = _paired(total), _paired(rows), width * 2
    last, low, high = used
    return _described(sums[: cuts[last]], differences.scale, alpha, blocks=last // width, lo=low, hi=high)


def interval_path(sums: ArrayLike, rows: ArrayLike, *, alpha: float, scale: float) -> tuple[Floats, Floats]:
    """What `interval` would have said after each block: the band of a chart, or many simulated trials at once.

    Args:
        sums: (..., blocks) sum of clipped differences in each block. rows: the same shape, or one for all.
        alpha, scale: as for `interval`.

    Returns:
        lo, hi: each (..., blocks), in units of the loss.

    Example:
        >>> lo, hi = interval_path(np.tile([-3.0, -1.0], 10), 30, alpha=0.05, scale=1)
        >>> lo[1], bool(hi[-1] < 0)
        (np.float64(-inf), True)
    """
    _check_alpha(alpha)
    total = np.asarray(sums, np.float64)
    n = np.broadcast_to(np.asarray(rows, np.float64), total.shape)
    looks = np.arange(1, total.shape[-1] + 1)
    lo, hi = np.full(total.shape, -np.inf), np.full(total.shape, np.inf)
    open_ = np.ones(total.shape, bool)
    width = 1
    while total.shape[-1] >= 2:
        low, high, alike = _band(_moments(total, n, running=True), alpha, scale)
        seen = looks // width - 1
        at = np.maximum(seen, 0)
        use = open_ & (seen >= 0) & ~alike[..., at]
        lo, hi = np.where(use, low[..., at], lo), np.where(use, high[..., at], hi)
        open_ &= ~use
        total, n, width = _paired(total), _paired(n), width * 2
    return lo, hi


def fewest_blocks(alpha: float) -> int:
    """The number of blocks below which `interval` can't say anything at this alpha.

    Example:
        >>> fewest_blocks(0.01), fewest_blocks(0.001)
        (8, 9)
    """
    _check_alpha(alpha)
    spread, n = _spread(alpha), 2
    while (n - 1) * math.log1p(n * spread) <= -2 * math.log(alpha):
        n += 1
    return n


class _Moments(NamedTuple):
    """Sums over blocks of s (sum of differences) and r (rows), their squares and products, and those of neighbours."""

    n: Any
    s: Any
    r: Any
    ss: Any
    sr: Any
    rr: Any
    next_ss: Any
    next_sr: Any
    next_rr: Any


def _moments(s: Floats, r: Floats, *, running: bool) -> _Moments:
    add: Callable[[Floats], Any] = _cumulated if running else _added
    n = np.arange(1.0, s.shape[-1] + 1) if running else float(s.shape[-1])
    s0, s1, r0, r1 = s[..., :-1], s[..., 1:], r[..., :-1], r[..., 1:]

    def neighbours(product: Floats) -> Any:  # the first block has none: a 0 in front keeps the looks aligned
        if not running:
            return _added(product)
        return _cumulated(np.concatenate([np.zeros_like(s[..., :1]), product], axis=-1))

    return _Moments(
        n, add(s), add(r), add(s * s), add(s * r), add(r * r),
        neighbours(s0 * s1), neighbours(s0 * r1 + s1 * r0), neighbours(r0 * r1),
    )  # fmt: skip


def _added(x: Floats) -> Any:
    return np.add.reduce(x, axis=-1)


def _cumulated(x: Floats) -> Any:
    return np.add.accumulate(x, axis=-1)


def _band(m: _Moments, alpha: float, scale: float) -> tuple[Any, Any, Any]:
    """lo, hi, and whether the blocks are too much alike for them. One formula for one look and for all looks.

    With x_b(mu) = s_b - mu * r_b, the looks at which mu is kept are T(mu)^2 <= n k Q(mu), T = sum x_b, Q = sum x_b^2:
    a quadratic in mu. k comes from the t-mixture's threshold.
    """
    with np.errstate(all="ignore"):
        mean = m.s / m.r
        variance = m.ss - 2 * mean * m.sr + mean * mean * m.rr
        covariance = m.next_ss - mean * m.next_sr + mean * mean * m.next_rr
        # The sample autocorrelation of n independent values is -1/n on average. Rounding can leave a variance below 0.
        r1 = np.where(variance > 1e-12 * m.ss, covariance / variance, 0.0) + 1 / m.n
        k = _threshold(m.n, alpha, np.maximum(1 + 2 * r1, 1.0))
        a = m.r * m.r - m.n * k * m.rr
        b = m.s * m.r - m.n * k * m.sr
        root = np.sqrt(np.maximum(b * b - a * (m.s * m.s - m.n * k * m.ss), 0.0))
        floor = scale * math.log(2 / alpha) / m.r
        known = (k < 1) & (a > 0)
        lo = np.where(known, np.minimum((b - root) / a, mean - floor), -np.inf)
        hi = np.where(known, np.maximum((b + root) / a, mean + floor), np.inf)
    return lo, hi, r1 > _ALIKE + 1 / np.sqrt(m.n)


def _threshold(n: Any, alpha: float, inflation: Any) -> Any:
    """The share k of T^2 / (n Q) at which the mixture reaches 1 / alpha; 1 when it can't.

    E = (1 + n g)^(-1/2) * [(1 + u) / (1 + u / (1 + n g))]^(n/2), u = T^2 / (n Q - T^2), is solved for u in closed form.
    """
    gain = 1 + n * _spread(alpha)
    needed = np.exp(np.minimum((np.log(gain) - 2 * math.log(alpha)) / n, 700.0))
    u = inflation * (needed - 1) / (1 - needed / gain)
    return np.where(needed < gain, u / (1 + u), 1.0)


def _spread(alpha: float) -> float:
    """Prior variance of the effect (mean over standard deviation of a block): best near `_SHARPEST_AT` blocks."""
    cost = -2 * math.log(alpha)
    return (cost + math.log1p(cost)) / _SHARPEST_AT


def _cuts(rows: list[int], block_rows: int) -> list[int]:
    """Tick positions between which blocks lie: [0, ..., end of the last whole block]."""
    cuts, held = [0], 0
    for position, n in enumerate(rows, start=1):
        held += n
        if held >= block_rows:
            cuts.append(position)
            held = 0
    return cuts


def _paired(x: Floats) -> Floats:
    even = x.shape[-1] // 2 * 2
    return x[..., 0:even:2] + x[..., 1:even:2]


def _described(
    sums: Ints, scale: float, alpha: float, *, blocks: int = 0, lo: float = -math.inf, hi: float = math.inf
) -> Interval:
    rows, total, _, clipped, excess = (int(v) for v in sums.sum(axis=0))
    mean = total / _UNIT * scale / rows if rows else math.nan
    return Interval(
        lo=lo,
        hi=hi,
        mean=mean,
        raw_mean=mean + excess / _COARSE * scale / rows if rows else math.nan,
        rows=rows,
        ticks=len(sums),
        blocks=blocks,
        block_rows=rows / blocks if blocks else 0.0,
        clipped_share=clipped / rows if rows else 0.0,
        alpha=alpha,
    )


# ---------------------------------------------------------------------------------------------- proofs over single rows


def bounded_interval(differences: Differences, *, alpha: float, before: int | None = None) -> Interval:
    """The interval for "on the rows of this trial, how much worse was the challenger, on average", proved row by row.

    No independence is needed: it holds for the average of each row's conditional mean given all before it, whatever
    the dependence, for differences within +- scale (or their clipped values). That is a statement about these rows, not
    about next month: where one release is favoured for days, use `interval`. Rows of a tick must have come after
    those of the ticks below it.

    Args:
        alpha, before: as for `interval`.

    Returns:
        An interval with one block a row; never wider than the range [-scale, scale].

    Source:
        Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
        Statistics 49 (2021), theorem 4 (empirical Bernstein), with a mixture over a fixed grid of bets as boundary.

    Example:
        >>> found = bounded_interval(fold(Differences.fresh(scale=1), 1, [0.0, 1.0] * 500), alpha=0.05)
        >>> found.lo > 0, found.rows
        (True, 1000)
    """
    _check_alpha(alpha)
    sums = differences.sums if before is None else differences.sums[: np.searchsorted(differences.ticks, before)]
    found = _described(sums, differences.scale, alpha, blocks=int(sums[:, 0].sum()))
    if not found.rows:
        return found
    n, x, xx = sums[:, 0], sums[:, 1] / _UNIT, sums[:, 2] / _UNIT
    # A tick's guess is the mean of the rows of earlier ticks: it must be known before the tick's first row.
    guess = np.concatenate([[0.0], np.cumsum(x)[:-1] / np.maximum(np.cumsum(n)[:-1], 1)])
    variance = float(np.maximum(xx - 2 * guess * x + guess * guess * n, 0.0).sum())
    half = _boundary(variance, alpha / 2) * differences.scale / found.rows
    return replace(found, lo=max(found.mean - half, -differences.scale), hi=min(found.mean + half, differences.scale))


def _boundary(variance: float, alpha: float) -> float:
    """The s at which the mean over bets of exp(bet * s - psi(bet) * variance) is 1 / alpha (range of a row: 2)."""
    psi = (-np.log1p(-2 * _BETS) - 2 * _BETS) / 4
    low, high = 0.0, 4.0
    while _log_mean_exp(_BETS * high - psi * variance) < -math.log(alpha):
        low, high = high, high * 2
    for _ in range(40):
        middle = (low + high) / 2
        reached = _log_mean_exp(_BETS * middle - psi * variance) >= -math.log(alpha)
        low, high = (low, middle) if reached else (middle, high)
    return high


def _log_mean_exp(logs: Floats) -> float:
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).mean()))


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A bet that some row was expected to be worse than its pair; for errors and faults of a canary.

    While every row's expected difference is at most 0, given all before it, `evidence` ever reaches 1 / alpha with
    probability at most alpha. It says "harm happens", not "worse on average": acting on it means rolling back now.

    Fields:
        scale: rows count at most this much, up or down. rows: how many were seen.
        logs: log wealth of each of five stakes, in whole 2**-36, so that shards merge exactly.
    """

    scale: float
    rows: int
    logs: tuple[int, ...]

    @classmethod
    def fresh(cls, *, scale: float = 1.0) -> Self:
        """Nothing seen, evidence 1. ST501 for a scale that is not a finite number above 0."""
        return cls(scale=_scale(scale), rows=0, logs=(0,) * len(_STAKES))

    @property
    def evidence(self) -> float:
        """The e-value: the mean wealth over the stakes, at most 1e300."""
        return math.exp(min(_log_mean_exp(np.array(self.logs) / _UNIT), 690.0))

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal state."""
        return {"scale": self.scale, "rows": self.rows, "logs": list(self.logs)}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The state that `document()` wrote; ST507 when it is not one."""
        try:
            logs = tuple(int(v) for v in document["logs"])
            state = cls(scale=_scale(document["scale"]), rows=int(document["rows"]), logs=logs)
        except (KeyError, TypeError, ValueError) as exc:
            raise _unreadable("a guard", exc) from exc
        if len(logs) != len(_STAKES):
            raise _unreadable("a guard", f"{len(logs)} stakes instead of {len(_STAKES)}")
        return state


def fold_guard(guard: Guard, d: ArrayLike) -> Guard:
    """The guard after more rows.

    Args:
        d: (n,) challenger minus champion, for instance 1 where only the challenger failed and -1 where only the
            champion did; clipped at +- scale.

    Raises:
        InvalidInput: ST502, a difference is NaN, infinite or no number.

    Source:
        Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (2024).

    Example:
        >>> fold_guard(Guard.fresh(), [1] * 9).evidence > 100, fold_guard(Guard.fresh(), [1, -1] * 9).evidence < 1
        (True, True)
    """
    x = np.clip(_numbers(d, "difference") / guard.scale, -1.0, 1.0)
    gains = np.rint(np.log1p(np.multiply.outer(np.array(_STAKES), x)) * _UNIT).astype(np.int64).sum(axis=1)
    logs = tuple(a + b for a, b in zip(guard.logs, gains.tolist(), strict=True))
    return replace(guard, rows=guard.rows + x.size, logs=logs)


def merge_guards(a: Guard, b: Guard) -> Guard:
    """Both guards' rows together, exact; ST504 when their scales differ."""
    if a.scale != b.scale:
        raise InvalidInput(
            "ST504",
            f"Can't merge guards of scale {a.scale:g} and {b.scale:g}. Use one scale.",
            scales=[a.scale, b.scale],
        )
    return replace(a, rows=a.rows + b.rows, logs=tuple(x + y for x, y in zip(a.logs, b.logs, strict=True)))


# ---------------------------------------------------------------------------------------------- harm


@dataclass(frozen=True, kw_only=True)
class Harm:
    """Whether a champion's loss has risen above `baseline + tolerance`; made for running through years.

    The evidence is the sum, over every block at which the rise may have begun, of the evidence for a rise since then:
    so a rise is seen after a quiet year as soon as after a quiet month. While the loss has not risen, at least `arl`
    blocks pass on average until `fired`. The proof is for independent Gaussian block means, until the memory of 128 blocks
    is full. Measured over 1,000 blocks with `arl` 500 and no tolerance, blocks of 30 rows between false alarms:
    exponential losses 1,700, errors at 10 % 1,800, day effects of 30 % 1,000. Limit: day effects of 20 % with AR(1) rho
    .5 came to 440. Delay after 60 quiet blocks, standard deviation = mean: a 20 % rise 13 blocks, 50 % 4; with a
    tolerance of 5 %: 24 and 5.

    Fields:
        baseline: mean loss of the champion when fresh. tolerance: the rise that is not worth an alarm; it must
            also cover the error of the baseline itself. scale: losses count at most this much, up or down.
        arl: mean number of blocks between false alarms, at least. block_rows: rows in the smallest block.
        evidence: now; `fired` and stays so once it reached `arl`. started: tick of the block at which the rise most
            likely began (None while nothing speaks for one), kept when fired.
        blocks: the last 128 blocks as (first tick, mean loss). open: the block under way: first tick, last tick, rows,
            sum in whole scale * 2**-36.
    """

    baseline: float
    tolerance: float
    scale: float
    arl: float
    block_rows: int
    evidence: float = 0.0
    fired: bool = False
    started: int | None = None
    blocks: tuple[tuple[int, float], ...] = ()
    open: tuple[int, int, int, int] | None = None

    @classmethod
    def fresh(
        cls, *, baseline: float, scale: float, tolerance: float = 0.0, arl: float = 1000.0, block_rows: int = BLOCK_ROWS
    ) -> Self:
        """No losses seen.

        Raises:
            InvalidInput: ST501, scale; ST506, block_rows; ST508, baseline not finite, tolerance below 0, arl below 1.

        Example:
            >>> Harm.fresh(baseline=2.0, scale=20, tolerance=0.1, arl=365).fired
            False
        """
        _check_block_rows(block_rows)
        if not (math.isfinite(baseline) and math.isfinite(tolerance) and tolerance >= 0 and arl >= 1):
            raise InvalidInput(
                "ST508",
                f"Can't watch for harm with baseline {baseline!r}, tolerance {tolerance!r} and arl {arl!r}: "
                "baseline must be finite, tolerance 0 or more, arl (blocks between false alarms) 1 or more.",
                baseline=str(baseline), tolerance=str(tolerance), arl=str(arl),
            )  # fmt: skip
        return cls(
            baseline=float(baseline),
            tolerance=float(tolerance),
            scale=_scale(scale),
            arl=float(arl),
            block_rows=block_rows,
        )

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal state."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"blocks": [list(b) for b in self.blocks], "open": self.open and list(self.open)}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The state that `document()` wrote; ST507 when it is not one."""
        try:
            limits = {name: document[name] for name in ("baseline", "tolerance", "scale", "arl", "block_rows")}
            state = {name: document[name] for name in ("evidence", "fired", "started")}
            state["blocks"] = tuple((int(tick), float(mean)) for tick, mean in document["blocks"])
            if document["open"] is not None:
                first, last, rows, total = (int(v) for v in document["open"])
                state["open"] = (first, last, rows, total)
            return replace(cls.fresh(**limits), **state)
        except (KeyError, TypeError, ValueError) as exc:
            raise _unreadable("a harm alarm", exc) from exc


def fold_harm(harm: Harm, ticks: ArrayLike, losses: ArrayLike, *, closed: bool = False) -> Harm:
    """The alarm after more of the champion's losses, in order of arrival.

    A block ends with the tick that fills it, so it counts when a later tick begins; a row that is older than the
    open tick counts as the open tick's.

    Args:
        ticks: (n,) whole numbers, or one for all. losses: (n,), clipped at +- scale; n = 0 changes nothing.
        closed: the newest tick is complete, so it need not wait for a later one.

    Raises:
        InvalidInput: ST502, a loss is NaN, infinite or no number; ST503, ticks don't fit the losses.

    Source:
        The restart form (Shiryaev-Roberts) of Shin, Ramdas, Rinaldo, "E-detectors" (NEJSDS 2023), with the t-mixture of
        `interval` for a rise since each block.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> calm = fold_harm(Harm.fresh(baseline=1, scale=10), np.repeat(range(50), 30), rng.exponential(1, 1500))
        >>> risen = fold_harm(calm, np.repeat(range(50, 70), 30), rng.exponential(1.5, 600), closed=True)
        >>> calm.fired, risen.fired, risen.started
        (False, True, 50)
    """
    values = np.rint(np.clip(_numbers(losses, "loss") / harm.scale, -1.0, 1.0) * _UNIT).astype(np.int64)
    keys = _keys(ticks, values.size)
    for tick in np.unique(keys).tolist():
        part = values[keys == tick]
        if harm.open and tick > harm.open[1]:
            harm = _closed(harm)
        first, last, rows, total = harm.open or (tick, tick, 0, 0)
        harm = replace(harm, open=(first, max(last, tick), rows + part.size, total + int(part.sum())))
    return _closed(harm) if closed else harm


def _closed(harm: Harm) -> Harm:
    """The alarm with its open block counted, when that is full."""
    if harm.open is None or harm.open[2] < harm.block_rows:
        return harm
    first, _, rows, total = harm.open
    blocks = (*harm.blocks, (first, total / _UNIT * harm.scale / rows))[-_MEMORY:]
    since = _evidence_since(np.array([mean for _, mean in blocks]) - harm.baseline - harm.tolerance)
    evidence = float(since.sum())
    likely = blocks[int(since.argmax())][0] if evidence > 0 else None
    return replace(
        harm,
        blocks=blocks,
        open=None,
        evidence=evidence,
        started=harm.started if harm.fired else likely,
        fired=harm.fired or evidence >= harm.arl,
    )


def _evidence_since(z: Floats) -> Floats:
    """(n,) t-mixture e-value for "the mean is above 0 from block i on", for each i; all blocks tell the variance."""
    n = z.size
    spread = float(z @ z)
    if spread == 0:
        return np.zeros(n)
    rise = np.cumsum(z[::-1])[::-1]
    gain = 1 + np.arange(n, 0, -1) * _HARM_SPREAD
    share = _HARM_SPREAD * rise * rise / (gain * spread)
    share /= max(1 + 2 * _lag_beside_a_rise(z, int(np.where(rise > 0, share, 0.0).argmax())), 1.0)
    # A sum of n values has T^2 <= n Q: the share stays below 1 but for rounding.
    logs = -0.5 * np.log(gain) - 0.5 * n * np.log1p(-np.minimum(share, 1 - 1e-12))
    return np.where(rise > 0, np.exp(np.minimum(logs, 600.0)), 0.0)


def _lag_beside_a_rise(z: Floats, start: int) -> float:
    """Lag-1 autocorrelation around a mean before and one after `start`, freed of its bias (-2/n).

    Around one mean a true rise would itself look like autocorrelation: seen so, 50 % after 7 quiet blocks took 17 blocks
    to be found and not 8.
    """
    around = np.concatenate([z[:start] - z[:start].mean() if start else z[:0], z[start:] - z[start:].mean()])
    variance = float(around @ around)
    return (float(around[1:] @ around[:-1]) / variance if variance > 0 else 0.0) + 2 / z.size


# ---------------------------------------------------------------------------------------------- checks at the edge


def _scale(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < float(value) < math.inf:
        raise InvalidInput(
            "ST501",
            f"Can't clip at a scale of {value!r}: it must be a finite number above 0, fixed before the trial "
            "(for instance a high quantile of past differences).",
            scale=str(value),
        )
    return float(value)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InvalidInput("ST505", f"Can't use alpha = {alpha!r}: it must be between 0 and 1.", alpha=str(alpha))


def _check_block_rows(block_rows: int) -> None:
    if block_rows < 1:
        raise InvalidInput("ST506", f"Can't form blocks of {block_rows} rows: give 1 or more.", block_rows=block_rows)


def _numbers(values: ArrayLike, what: str) -> Floats:
    try:
        raw = np.asarray(values)
        if raw.dtype.kind in "USMm":  # numpy would turn "1.5" or a date into a number
            raise TypeError(f"{what}s of type {raw.dtype}")  # noqa: TRY301 - one message for all wrong types
        numbers = np.atleast_1d(raw.astype(np.float64))
    except (TypeError, ValueError) as exc:
        raise InvalidInput("ST502", f"Can't read the {what}s as numbers: {exc}.", what=what) from exc
    if numbers.ndim != 1:
        raise InvalidInput("ST502", f"Can't take {what}s of shape {numbers.shape}: give one number a row.", what=what)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        position = int(bad[0])
        raise InvalidInput(
            "ST502",
            f"Can't count {what} number {position}: it is {numbers[position]}, expected a finite number. "
            "Leave rows without a label out.",
            what=what, position=position, value=str(numbers[position]),
        )  # fmt: skip
    return numbers


def _keys(ticks: ArrayLike, rows: int) -> Ints:
    keys = np.asarray(ticks)
    if keys.ndim == 0:
        keys = np.full(rows, keys)
    if (keys.dtype.kind not in "iu" and keys.size) or keys.shape != (rows,):
        raise InvalidInput(
            "ST503",
            f"Can't place {rows} rows on ticks of type {keys.dtype} and shape {keys.shape}: "
            "give one whole number (such as a day number) for each row.",
            rows=rows, shape=list(keys.shape), dtype=str(keys.dtype),
        )  # fmt: skip
    return keys.astype(np.int64)


def _unreadable(what: str, why: object) -> InvalidInput:
    return InvalidInput(
        "ST507", f"Can't read {what} from a document: {why}. Expected what `document()` wrote.", what=what
    )
