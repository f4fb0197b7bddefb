"""What evidence costs and whether it keeps its word: wrong verdicts, rows until a verdict, false alarms, delays.

Everything is seeded and runs through the package's own `interval_path`, `bounded_interval` and `fold_harm`.

    python benchmarks/evidence_power.py [--runs 1000]       under a minute; tests/property/test_error_rates.py runs it smaller
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from staytrue.kernel.evidence import Differences, Harm, bounded_interval, fold, fold_harm, interval_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

TICK_ROWS = 30
DAY_ROWS = 100
# Kept: the promise is meant to hold. Broken: few days decide, and no method that looks at block means can know.
KEPT = (
    "independent",
    "AR(1) .5",
    "AR(1) .9",
    "day effects",
    "t3, clipped",
    "exponential",
    "lognormal, clipped",
    "rare errors",
)
BROKEN = ("exponential day effects", "AR(1) .5 day effects")


def autoregressive(rho: float, runs: int, n: int, rng: np.random.Generator) -> Floats:
    """(runs, n) standard normal values, each correlated by rho with the one before."""
    x = rng.normal(size=(runs, n)) * np.sqrt(1 - rho**2)
    x[:, 0] /= np.sqrt(1 - rho**2)
    for i in range(1, n):
        x[:, i] += rho * x[:, i - 1]
    return np.asarray(x)


def equal_pairs(kind: str, runs: int, rows: int, rng: np.random.Generator) -> tuple[Floats, float, int]:  # noqa: PLR0911
    """Differences (runs, rows) of a long-run mean of exactly 0, the clip scale, and the rows in a tick."""
    noise = rng.normal(size=(runs, rows))
    days = rows // DAY_ROWS
    match kind:
        case "independent":
            return noise, 5.0, TICK_ROWS
        case "AR(1) .5" | "AR(1) .9":
            return autoregressive(float(kind[-2:]), runs, rows, rng), 5.0, TICK_ROWS
        case "day effects":
            return noise + np.repeat(rng.normal(size=(runs, days)), DAY_ROWS, axis=1), 6.0, DAY_ROWS
        case "t3, clipped":
            return np.clip(rng.standard_t(3, size=(runs, rows)), -5, 5), 5.0, TICK_ROWS
        case "exponential":
            return rng.exponential(size=(runs, rows)) - 1, 8.0, TICK_ROWS
        case "lognormal, clipped":
            mean = np.minimum(np.random.default_rng(9).lognormal(-0.72, 1.2, 4_000_000), 8.0).mean()
            return np.minimum(rng.lognormal(-0.72, 1.2, size=(runs, rows)), 8.0) - mean, 8.0, TICK_ROWS
        case "rare errors":
            chance = rng.random((runs, rows))
            return (chance < 0.02).astype(np.float64) - (chance > 0.98), 1.0, TICK_ROWS
        case "exponential day effects":
            return noise + np.repeat(rng.exponential(size=(runs, days)) - 1, DAY_ROWS, axis=1), 8.0, DAY_ROWS
        case "AR(1) .5 day effects":
            return noise + np.repeat(autoregressive(0.5, runs, days, rng), DAY_ROWS, axis=1), 6.0, DAY_ROWS
    raise ValueError(kind)


def by_tick(d: Floats, tick_rows: int) -> Floats:
    """(runs, ticks) sums of whole ticks."""
    runs, rows = d.shape
    whole = rows // tick_rows
    return np.asarray(d[:, : whole * tick_rows].reshape(runs, whole, tick_rows).sum(axis=2))


def wrong_shares(kind: str, runs: int, rows: int, alpha: float, seed: int = 1) -> tuple[float, float]:
    """Share of equal pairs called better or worse at any look: by the interval, and by a t-test every 100 rows."""
    rng = np.random.default_rng(seed)
    wrong = foil = 0
    for size in batches(runs, 250):
        d, scale, tick_rows = equal_pairs(kind, size, rows, rng)
        lo, hi = interval_path(by_tick(d, tick_rows), tick_rows, alpha=alpha, scale=scale)
        wrong += int(((lo > 0) | (hi < 0)).any(axis=1).sum())
        foil += int(t_test_rejects(d).sum())
    return wrong / runs, foil / runs


def t_test_rejects(d: Floats) -> NDArray[np.bool_]:
    """Whether a two-sided t-test at p < .01, read every 100 rows, ever rejects."""
    n = np.arange(100, d.shape[1] + 1, 100)
    mean, square = (np.cumsum(x, axis=1)[:, n - 1] / n for x in (d, d * d))
    rejects = np.abs(mean) > 2.576 * np.sqrt((square - mean**2) / (n - 1))
    return np.asarray(np.any(rejects, axis=1))


def batches(runs: int, size: int) -> Iterator[int]:
    """Sizes that add up to `runs`: what fits in memory at once."""
    yield from (min(size, runs - start) for start in range(0, runs, size))


def paired_losses(
    change: float, correlation: float, runs: int, rows: int, rng: np.random.Generator
) -> tuple[Floats, float]:
    """Differences of exponential losses (standard deviation = mean = 1); the challenger's are `1 + change` as large."""
    shared = rng.gamma(correlation, size=(runs, rows))
    champion = shared + rng.gamma(1 - correlation, size=(runs, rows))
    challenger = shared + rng.gamma(1 - correlation, size=(runs, rows))
    scale = float(np.quantile(np.abs(challenger - champion)[:20], 0.999))
    return np.clip((1 + change) * challenger - champion, -scale, scale), scale


def rows_needed(change: float, correlation: float, tick_rows: int, alpha: float, runs: int) -> tuple[float, float]:
    """Rows until half and until four in five of the runs are decided, rightly."""
    rows = int(160 * 2 * (1 - correlation) / change**2) + 30 * tick_rows
    rng = np.random.default_rng(2)
    first = []
    for size in batches(runs, max(1, 4_000_000 // rows)):
        d, scale = paired_losses(change, correlation, size, rows, rng)
        lo, hi = interval_path(by_tick(d, tick_rows), tick_rows, alpha=alpha, scale=scale)
        right = lo > 0 if change > 0 else hi < 0
        first.append(np.where(right.any(axis=1), (right.argmax(axis=1) + 1) * tick_rows, np.inf))
    half, most = np.quantile(np.concatenate(first), [0.5, 0.8], method="higher")
    return float(half), float(most)


def rows_needed_bounded(change: float, correlation: float, alpha: float, runs: int) -> float:
    """Rows until `bounded_interval` has decided half of the runs: by halving, since it hardly ever turns back."""
    rows = int(400 * 2 * (1 - correlation) / change**2) + 3000
    ticks = np.arange(rows) // TICK_ROWS
    rng = np.random.default_rng(3)
    first = []
    for _ in range(runs):
        d, scale = paired_losses(change, correlation, 1, rows, rng)
        state = fold(Differences.fresh(scale=scale), ticks, d[0])
        low, high = 0, int(ticks[-1]) + 1
        while high - low > 1:
            middle = (low + high) // 2
            found = bounded_interval(state, alpha=alpha, before=middle)
            decided = found.lo > 0 if change > 0 else found.hi < 0
            low, high = (low, middle) if decided else (middle, high)
        first.append(high * TICK_ROWS)
    return float(np.median(first))


def fixed_sample(change: float, correlation: float) -> int:
    """Rows of one two-sided test at .01 that decides four in five, had the change been known."""
    variance = (1 + (1 + change) ** 2) - 2 * (1 + change) * correlation
    return int((2.576 + 0.842) ** 2 * variance / change**2)


def champion_losses(kind: str, days: int, rng: np.random.Generator) -> Floats:
    """(days, TICK_ROWS) losses of mean 1."""
    losses = rng.exponential(size=(days, TICK_ROWS))
    if kind == "day effects of 30 %":
        losses *= np.exp(0.3 * rng.normal(size=(days, 1)) - 0.045)
    if kind == "errors at 10 %":
        losses = (losses > -np.log(0.1)) * 10.0
    return losses


def false_alarms(kind: str, arl: float, tolerance: float, runs: int, days: int) -> tuple[int, int]:
    """Blocks watched and false alarms seen while nothing changes; the alarm starts again after each."""
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(runs):
        fresh = Harm.fresh(baseline=1, scale=10, tolerance=tolerance, arl=arl)
        harm = fresh
        for day, losses in enumerate(champion_losses(kind, days, rng)):
            harm = fold_harm(harm, day, losses, closed=True)
            if harm.fired:
                alarms, harm = alarms + 1, fresh
    return runs * days, alarms


def delay(rise: float, quiet: int, arl: float, tolerance: float, runs: int) -> float:
    """Median blocks until the alarm after a rise that begins after `quiet` blocks."""
    rng = np.random.default_rng(5)
    waits = []
    for _ in range(runs):
        harm = Harm.fresh(baseline=1, scale=10, tolerance=tolerance, arl=arl)
        losses = champion_losses("independent", quiet + 400, rng)
        losses[quiet:] *= 1 + rise
        for day, row in enumerate(losses):
            harm = fold_harm(harm, day, row, closed=True)
            if harm.fired:
                break
        waits.append(day + 1 - quiet if day >= quiet else np.nan)
    return float(np.nanmedian(waits))


def main() -> None:
    """Print the four tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    alpha = 0.01
    bound = alpha + 3 * (alpha * (1 - alpha) / runs) ** 0.5
    print(
        f"Equal pairs, {runs} runs x 10,000 rows, alpha {alpha}: share ever called better or worse (bound {bound:.4f})"
    )
    for kind in KEPT + BROKEN:
        wrong, foil = wrong_shares(kind, runs, 10_000, alpha)
        note = "  (known limit)" if kind in BROKEN else ""
        print(f"  {kind:24s} interval {wrong:.3f}   t-test every 100 rows {foil:.3f}{note}", flush=True)

    print("\nRows until decided (half / four in five of the runs); exponential losses, pairs correlated .8 and .95")
    print("  change corr  one test, n known |  ticks of 30, alpha .01    ticks of 100, alpha .01   ticks of 30, .001")
    for correlation in (0.8, 0.95):
        for change in (-0.05, 0.05, 0.20):
            cells = [(30, 0.01), (100, 0.01), (30, 0.001)]
            found = [rows_needed(change, correlation, t, a, max(runs // 5, 20)) for t, a in cells]
            text = "   ".join(f"{half:9,.0f} /{most:9,.0f}" for half, most in found)
            print(
                f"  {change:+.0%}  {correlation:.2f}  {fixed_sample(change, correlation):12,d}      |  {text}",
                flush=True,
            )
    for change in (-0.05, 0.20):
        print(
            f"  {change:+.0%}  0.80 by bounded_interval, half: {rows_needed_bounded(change, 0.8, 0.01, 30):,.0f}",
            flush=True,
        )

    print("\nHarm alarm, arl 500: blocks of 30 rows between false alarms (at least)")
    for kind in ("independent", "errors at 10 %", "day effects of 30 %"):
        for tolerance in (0.0, 0.05):
            blocks, alarms = false_alarms(kind, 500, tolerance, max(runs // 20, 5), 1000)
            print(
                f"  {kind:20s} tolerance {tolerance:.2f}: {alarms} in {blocks:,}: one in {blocks // max(alarms, 1):,}",
                flush=True,
            )
    print("Delay in blocks (median) after 60 and 600 quiet blocks")
    for rise in (0.2, 0.5):
        for tolerance in (0.0, 0.05):
            waits = [delay(rise, quiet, 500, tolerance, max(runs // 25, 5)) for quiet in (60, 600)]
            print(f"  +{rise:.0%}, tolerance {tolerance:.2f}: {waits[0]:.0f}, {waits[1]:.0f}", flush=True)


if __name__ == "__main__":
    main()
