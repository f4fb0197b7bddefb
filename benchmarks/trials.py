"""How a live trial ends: wrong verdicts among equal challengers, how far a worse one gets, how soon a better one is live.

Simulated losses (exponential, the two releases' correlated by .8), the real trial: `loop.trial.Trial`, its evidence, steps and
budget as an app has them by default. Beside it what most canaries do: a t-test after every day, promote or reject at p < alpha.

    python benchmarks/trials.py [--runs 200]        about a minute; tests/property/test_trials.py runs it smaller
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from staytrue.kernel.evidence import Differences
from staytrue.kernel.policy import Settings
from staytrue.kernel.release import Digest
from staytrue.kernel.rollout import steps
from staytrue.kernel.trial import spend
from staytrue.loop.trial import Pairs, Trial

TICK_ROWS = 100
CORRELATION = 0.8
ALPHA = 0.01
MOST_DAYS = 42
WORSE_SHARE = 0.05
"""Of the rows of a trial, a challenger that is 20 % worse may have answered at most this share."""


@dataclass(frozen=True)
class Ended:
    """How one trial ended: as champion or not, after how many rows, of which it answered so many, and by a t-test's rule."""

    promoted: bool
    verdict: str
    rows: int
    shown: float
    naive_wrong: bool


def lived(gain: float, rng: np.random.Generator, *, settings: Settings) -> Ended:
    """One trial of a challenger whose mean loss is `1 - gain`, against a champion's of 1."""
    nobody: Any = None
    fresh = Differences.fresh(scale=4.0)
    evidence = Pairs(overall=fresh, segments={}, margin=settings.margin, alpha=spend(1, settings.alpha) / 2)
    plan = tuple(step for step in steps(settings.trial) if step.stage != "backtest")
    trial = Trial(
        number=1, challenger=nobody, release=Digest("0" * 64), steps=plan, started=0, pairs=evidence, live=evidence
    )
    rows, shown = 0, 0.0
    naive: list[float] = []
    naive_wrong = False
    for day in range(MOST_DAYS + 1):
        share = trial.step.share
        champion, challenger = losses(gain, rng)
        trial.seen(nobody, day, challenger, champion)
        rows, shown = rows + TICK_ROWS, shown + share * TICK_ROWS
        naive += (challenger - champion).tolist()
        naive_wrong |= abs(np.mean(naive)) > 2.576 * np.std(naive) / len(naive) ** 0.5
        move, verdict, _ = trial.advised(settings, days=day + 1)
        if move == "pass" and trial.last:
            return Ended(True, verdict, rows, shown, naive_wrong)
        if move == "reject":
            return Ended(False, verdict, rows, shown, naive_wrong)
        if move == "pass":
            trial.up()
    return Ended(False, "undecided", rows, shown, naive_wrong)


def losses(gain: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A day's losses of champion and challenger on the same rows: exponential, mean 1 and 1 - gain."""
    common = rng.exponential(1.0, TICK_ROWS)
    own = rng.exponential(1.0, (2, TICK_ROWS))
    mixed = CORRELATION * common + (1 - CORRELATION) * own
    return mixed[0], (1 - gain) * mixed[1]


def measured(gain: float, runs: int, *, seed: int = 1) -> list[Ended]:
    """The same trial again and again."""
    rng = np.random.default_rng(seed)
    settings = Settings(alpha=ALPHA)
    return [lived(gain, rng, settings=settings) for _ in range(runs)]


def bound(runs: int) -> float:
    """Alpha and three standard errors of a share of so many runs."""
    return float(ALPHA + 3 * (ALPHA * (1 - ALPHA) / runs) ** 0.5)


def main() -> int:
    """Print the table; exit code 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    bad = []
    print(f"{runs} trials each, {TICK_ROWS} rows a day, default trial and budget, alpha {ALPHA} for the app's life")
    print(
        f"{'challenger':<12} {'promoted':>8} {'rejected':>8} {'rows, median':>13} {'p95':>6} {'shown, mean':>12} {'most':>6}"
    )
    for name, gain in (
        ("equal", 0.0),
        ("5 % worse", -0.05),
        ("20 % worse", -0.2),
        ("5 % better", 0.05),
        ("20 % better", 0.2),
    ):
        found = measured(gain, runs)
        rows = np.array([one.rows for one in found])
        shown = np.array([one.shown / one.rows for one in found])
        promoted = np.mean([one.promoted for one in found])
        print(
            f"{name:<12} {promoted:>8.2f} {1 - promoted:>8.2f} {np.median(rows):>13,.0f} {np.quantile(rows, 0.95):>6,.0f} "
            f"{shown.mean():>12.3f} {shown.max():>6.3f}"
        )
        if name == "equal":
            wrong = float(np.mean([one.verdict in ("better", "worse") for one in found]))
            naive = float(np.mean([one.naive_wrong for one in found]))
            print(f"{'':<12} wrong verdicts {wrong:.4f} (bound {bound(runs):.4f}), a daily t-test {naive:.2f}")
            bad += ["wrong verdicts"] if wrong > bound(runs) else []
        if name == "20 % worse":
            bad += ["a worse one was promoted"] if promoted else []
            bad += ["a worse one was shown too much"] if shown.max() > WORSE_SHARE else []
    print("missed: " + ", ".join(bad) if bad else "all promises kept")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
