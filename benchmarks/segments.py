"""Are alarms about segments right, and is a slice in which a model does badly found?

    python benchmarks/segments.py [--streams N] [--slices N]

1. A watch over 20 segments that nothing harms, a whole year each, alpha .05 a year for all of them together. Beside it: every
   segment's week against its fresh loss by a t-test at .05, and the same with Bonferroni. Target: false alarms at most alpha + 3
   standard errors, whatever the losses are like.
2. The delay in days when the loss of one of the 20 rises. Target: one that doubles is named, unless an error in ten is all there
   is to see.
3. Slices: how often a planted one is among the first three found, and how often one is found where none is; beside the
   value or pair of values with the worst mean, which there always is. On made census-like rows, on hotel bookings and on elec2
   with the losses of a plain model, shuffled so that no slice is left. Targets: found in 90 %, false in 5 % + 3 standard errors.

Hotel bookings ship with the pricing example. Elec2 may not be shipped: set ELEC2 to its Parquet file, or keep it in
../shared/data; else it is skipped. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from staytrue.kernel.segments import SegmentSums, SegmentWatch, fold_segments, fold_watch
from staytrue.kernel.slices import found

ROOT = Path(__file__).resolve().parents[1]
ALPHA = 0.05
SEGMENTS, A_DAY, FRESH, YEAR = 20, 12, 60, 365
NAMES = [f"s{i}" for i in range(SEGMENTS)]
Losses = Callable[[np.random.Generator, int], np.ndarray]


def bound(level: float, runs: int) -> float:
    return level + 3 * (level * (1 - level) / runs) ** 0.5


# ------------------------------------------------------------ segments


def exponential(rng: np.random.Generator, days: int) -> np.ndarray:
    """(days, segments, rows) independent, standard deviation = mean."""
    return rng.exponential(1, (days, SEGMENTS, A_DAY))


def errors(rng: np.random.Generator, days: int) -> np.ndarray:
    """Wrong or right: 10 % wrong."""
    return (rng.random((days, SEGMENTS, A_DAY)) < 0.1).astype(float)


def days_alike(rng: np.random.Generator, days: int) -> np.ndarray:
    """Each day is up to a third better or worse, in all segments."""
    return exponential(rng, days) * rng.uniform(0.67, 1.33, (days, 1, 1))


def unequal(rng: np.random.Generator, days: int) -> np.ndarray:
    """Segments that differ tenfold in how hard they are, with heavy tails."""
    return np.linspace(1, 10, SEGMENTS)[:, None] * rng.lognormal(0, 1, (days, SEGMENTS, A_DAY))


KINDS: dict[str, Losses] = {
    "exponential": exponential, "errors 10 %": errors, "days alike": days_alike, "unequal, lognormal": unequal,
}  # fmt: skip


def first_alarm(losses: np.ndarray) -> tuple[int | None, tuple[str, ...]]:
    """The day (after the fresh ones) on which the watch names segments, and which."""
    rows = np.tile(np.repeat(NAMES, A_DAY), FRESH)
    empty = SegmentSums.fresh("segment", NAMES, scale=float(losses[:FRESH].max()) * 2, keep=FRESH)
    fresh = fold_segments(empty, np.repeat(np.arange(FRESH), SEGMENTS * A_DAY), rows, losses=losses[:FRESH].ravel())
    watch = SegmentWatch.over([fresh], alpha=ALPHA, year_blocks=YEAR)
    a_day = rows[: SEGMENTS * A_DAY]
    for day in range(FRESH, len(losses)):
        watch = fold_watch(watch, day, {"segment": a_day}, losses[day].ravel())
        if watch.fired:
            return day - FRESH, watch.fired
    return None, ()


def weekly_tests(losses: np.ndarray, level: float) -> bool:
    """What a scheduled report does: each segment's week against its fresh rows, one-sided."""
    z = 1.645 if level >= ALPHA else 2.807  # .05, and .05 / 20
    fresh = losses[:FRESH].transpose(1, 0, 2).reshape(SEGMENTS, -1)
    weeks = losses[FRESH : FRESH + YEAR // 7 * 7].reshape(YEAR // 7, 7, SEGMENTS, A_DAY).transpose(0, 2, 1, 3)
    weeks = weeks.reshape(YEAR // 7, SEGMENTS, -1)
    error = np.sqrt(weeks.var(axis=2) / weeks.shape[2] + fresh.var(axis=1) / fresh.shape[1])
    return bool(((weeks.mean(axis=2) - fresh.mean(axis=1)) > z * error).any())


def false_alarms(streams: int) -> bool:
    print(
        f"\nA year without harm, {SEGMENTS} segments of {A_DAY} rows a day, {streams} streams each: share with any alarm"
    )
    print(f"{'losses':<20} {'watch':>8} {'t .05':>8} {'t Bonf.':>8}   target {bound(ALPHA, streams):.3f}")
    well = True
    for name, make in KINDS.items():
        counts = np.zeros(3)
        for seed in range(streams):
            losses = make(np.random.default_rng([seed, 1]), FRESH + YEAR)
            named, _ = first_alarm(losses)
            counts += [named is not None, weekly_tests(losses, ALPHA), weekly_tests(losses, ALPHA / SEGMENTS)]
        shares = counts / streams
        met = shares[0] <= bound(ALPHA, streams)
        well &= bool(met)
        print(f"{name:<20} {shares[0]:>8.3f} {shares[1]:>8.3f} {shares[2]:>8.3f}   {'ok' if met else 'MISSED'}")
    return well


def delays(streams: int) -> bool:
    print(
        f"\nOne of {SEGMENTS} segments rises after 30 quiet days, {streams} streams each: days (and its rows) to its name"
    )
    print(f"{'losses':<20} {'rise':>6} {'named':>7} {'median days':>12} {'rows':>6} {'others':>7}")
    well = True
    for (name, make), rise in itertools.product(list(KINDS.items())[:3], (0.25, 0.5, 1.0)):
        waits, others = [], 0
        for seed in range(streams):
            rng = np.random.default_rng([seed, 2])
            losses = make(rng, FRESH + 30 + 150)
            hit = losses[FRESH + 30 :, 3]
            if name.startswith("errors"):
                losses[FRESH + 30 :, 3] = np.maximum(hit, rng.random(hit.shape) < 0.1 * rise / 0.9)
            else:
                losses[FRESH + 30 :, 3] = hit * (1 + rise)
            day, fired = first_alarm(losses)
            others += day is not None and (day < 30 or fired != ("segment=s3",))
            waits.append(day - 30 if day is not None and day >= 30 else 999)
        median = float(np.median(waits))
        shown = f"{median:.0f}" if median < 999 else ">150"
        rows = f"{median * A_DAY:.0f}" if median < 999 else "-"
        share = float(np.mean(np.array(waits) < 999))
        print(f"{name:<20} {rise:>6.0%} {share:>7.2f} {shown:>12} {rows:>6} {others:>7}")
        well &= rise < 1 or name.startswith("errors") or share == 1
    return well


# ------------------------------------------------------------ slices


def census(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    n = 8000
    columns = {
        "age": rng.integers(17, 90, n),
        "hours": np.clip(rng.normal(40, 12, n).round(), 1, 99),
        "gain": np.where(rng.random(n) < 0.08, rng.exponential(8000, n).round(), 0),
        "education": rng.choice(list("abcdefghijkl"), n, p=np.array([30, 20, 15, 8, 7, 5, 4, 3, 3, 2, 2, 1]) / 100),
        "work": rng.choice(["private", "self", "state", "none"], n, p=[0.7, 0.12, 0.12, 0.06]),
        "race": rng.choice(["w", "b", "a", "o"], n, p=[0.85, 0.1, 0.03, 0.02]),
        "sex": rng.choice(["m", "f"], n),
        "country": rng.choice(["us", "mx", "other"], n, p=[0.9, 0.03, 0.07]),
    }
    return columns, (rng.random(n) < 0.15).astype(float), np.arange(n) // 100


def hotel(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rows = _HOTEL
    start = int(rng.integers(0, len(rows) - 6000))
    rows = rows.iloc[start : start + 6000]
    names = ["lead_time", "adults", "children", "stays_in_week_nights", "stays_in_weekend_nights", "historical_adr", "meal",
             "market_segment", "distribution_channel", "reserved_room_type", "customer_type", "agent"]  # fmt: skip
    columns = {name: rows[name].to_numpy() for name in names}
    usual = rows.groupby(["market_segment", "reserved_room_type"])["rate"].transform("mean")
    day = pd.factorize(rows["booked_at"])[0]
    return columns, rng.permutation((rows["rate"] - usual).abs().to_numpy()), day


def elec2(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rows = _ELEC
    start = int(rng.integers(0, len(rows) - 9600))
    rows = rows.iloc[start : start + 9600]
    columns = {
        name: rows[name].to_numpy() for name in ("period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
    }
    columns["weekday"] = rows["at"].dt.day_name().to_numpy(object)
    wrong = (rows["class"] != rows["class"].shift(1, fill_value=0)).to_numpy(float)
    return columns, rng.permutation(wrong), np.arange(9600) // 48


def planted(rng: np.random.Generator, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Some 4 to 15 % of the rows: a pair of a value or a side of a number, each of its own column."""
    while True:
        names = [str(name) for name in rng.choice(list(columns), 2, replace=False)]
        mask = np.ones(len(next(iter(columns.values()))), bool)
        for name in names:
            values = columns[name]
            if values.dtype.kind in "iuf":
                cut = np.quantile(values, rng.uniform(0.5, 0.8))
                mask &= values > cut
            else:
                seen, counts = np.unique(values.astype(str), return_counts=True)
                mask &= values.astype(str) == str(rng.choice(seen[np.argsort(-counts)][:4]))
        if 0.04 <= mask.mean() <= 0.15:
            return mask


def worst_mean(columns: dict[str, np.ndarray], losses: np.ndarray) -> np.ndarray:
    """The pair of quarters or values (30 rows at least) with the highest mean loss."""
    codes = {}
    for name, values in columns.items():
        if values.dtype.kind in "iuf":
            codes[name] = np.searchsorted(np.unique(np.quantile(values, [0.25, 0.5, 0.75])), values)
        else:
            codes[name] = pd.factorize(values)[0] + 1
    best = (-1.0, np.zeros(len(losses), bool))
    for a, b in itertools.combinations(codes, 2):
        both = codes[a] * (codes[b].max() + 1) + codes[b]
        n, total = np.bincount(both), np.bincount(both, losses)
        means = np.where(n >= 30, total / np.maximum(n, 1), -1)
        if means.max() > best[0]:
            best = (float(means.max()), both == int(means.argmax()))
    return best[1]


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """At least a third of the rows that are in one of them are in both."""
    return bool(3 * (one & other).sum() >= (one | other).sum())


def slices(runs: int) -> bool:
    print(f"\nSlices, {runs} runs each; planted: twice as much lost in a pair of conditions (4 to 15 % of the rows)")
    print(
        f"{'rows':<10} {'recall@3':>9} {'false':>7} {'wrong':>7} {'naive recall':>13} {'naive false':>12} {'s a run':>8}"
    )
    well = True
    for name, make in sources():
        hits = false = wrong = naive = 0
        spent = time.process_time()
        for seed in range(runs):
            rng = np.random.default_rng([seed, 3])
            columns, losses, day = make(rng)
            false += bool(found(columns, losses, rng=rng, ticks=day))
            mask = planted(rng, columns)
            if set(np.unique(losses)) <= {0.0, 1.0}:
                more = rng.random(len(losses)) < losses.mean() / (1 - losses.mean())
                losses = np.where(mask, np.maximum(losses, more), losses)
            else:
                losses = losses * np.where(mask, 2, 1)
            first = found(columns, losses, rng=rng, ticks=day)[:3]
            hits += any(alike(one.inside(columns), mask) for one in first)
            wrong += sum(not (one.inside(columns) & mask).sum() > mask.mean() * one.rows for one in first)
            naive += alike(worst_mean(columns, losses), mask)
        spent = (time.process_time() - spent) / runs
        met = hits / runs >= 0.9 and false / runs <= bound(0.05, runs)
        well &= met
        print(
            f"{name:<10} {hits / runs:>9.2f} {false / runs:>7.3f} {wrong / runs:>7.3f} {naive / runs:>13.2f} {1.0:>12.2f} "
            f"{spent:>8.2f}   {'ok' if met else 'MISSED'}"
        )
    return well


def sources() -> Iterator[
    tuple[str, Callable[[np.random.Generator], tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]]
]:
    yield "census", census
    yield "hotel", hotel
    if _ELEC is None:
        print("elec2      skipped: no file; set ELEC2")
    else:
        yield "elec2", elec2


def _elec() -> pd.DataFrame | None:
    places = [os.environ.get("ELEC2"), ROOT.parent / "shared/data/elec2.parquet"]
    place = next((Path(p) for p in places if p and Path(p).exists()), None)
    return pd.read_parquet(place) if place else None


_HOTEL = pd.read_csv(ROOT / "examples/pricing/hotel_rates.csv.gz")
_ELEC = _elec()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=60)
    parser.add_argument("--slices", type=int, default=60)
    args = parser.parse_args()
    well = [slices(args.slices), delays(max(args.streams // 6, 4)), false_alarms(args.streams)]
    return 0 if all(well) else 1


if __name__ == "__main__":
    raise SystemExit(main())
