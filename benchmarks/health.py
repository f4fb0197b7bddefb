"""What a profile of a window costs: against one summing pass over the same arrays, and against other tools.

python benchmarks/health.py [--rows 10000 200000 1000000] [--repeat N]

50 columns: 35 of floats (of several shapes, some with nulls, zeros or one value only), 15 of texts with 2 to 1,000
levels, once as a dictionary keeps them (codes) and once as Python strings. All times are CPU seconds of one thread in
this run; whoever is on the same cores disturbs every row of a table alike, so take the ratios. Each is the smallest of
many, and passes and profiles take turns.

Other tools run in Pythons of their own, each skipped with a line when it is missing:
SCIPY_PYTHON, EVIDENTLY_PYTHON, NANNYML_PYTHON, WHYLOGS_PYTHON; PEERS_PYTHON stands for those that are not set. They get
a pandas frame with `category` columns and compare one window with a reference of 10,000 rows, as our figure does:
profile of the window and distances of all 50 columns. Building the reference is timed apart.

Exit code 1 when a target is missed: 10 x the pass, 1/200 of Evidently's CPU, 1 MB of state for 50 features x 20
segments after 1,000 windows, 100 shards bit-identical to one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

NUMERIC = 35
LEVELS = (2, 2, 3, 4, 5, 8, 12, 20, 30, 50, 100, 200, 300, 500, 1000)
TIMES_THE_PASS = 10
OF_EVIDENTLY = 200
STATE_BYTES = 1_000_000
SEGMENTS = 20
PEERS = ("scipy", "evidently", "nannyml", "whylogs")


def numbers(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """35 columns: normal, skewed, whole, uniform, both signs with zeros, one value only."""
    made = {}
    for at in range(NUMERIC):
        shapes = (
            lambda: rng.normal(50, 5, rows),
            lambda: rng.normal(0, 1, rows),
            lambda: rng.lognormal(3, 1, rows),
            lambda: rng.poisson(20, rows).astype(np.float64),
            lambda: rng.uniform(0, 1, rows),
            lambda: np.where(rng.random(rows) < 0.3, 0.0, rng.exponential(9, rows)),
            lambda: rng.gamma(2, 3, rows) - 4,
        )
        made[f"n{at:02}"] = np.full(rows, 3.0) if at == NUMERIC - 1 else shapes[at % len(shapes)]()
    return made


def codes(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """15 columns of codes, the frequent ones first."""
    made = {}
    for at, levels in enumerate(LEVELS):
        weights = 1 / np.arange(1, levels + 1)
        made[f"t{at:02}"] = rng.choice(levels, rows, p=weights / weights.sum()).astype(np.int32)
    return made


def names(levels: int) -> list[str]:
    return [f"level-{at}" for at in range(levels)]


def best(call: Callable[[], Any], *, seconds: float = 1.0, at_most: int = 300) -> float:
    """The least CPU time of many calls."""
    call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < at_most and (time.perf_counter() < until or len(times) < 3):
        began = time.process_time_ns()
        call()
        times.append((time.process_time_ns() - began) / 1e9)
    return min(times)


# -- ours -------------------------------------------------------------------------------------------------------------


def windows(rows: int, seed: int) -> tuple[dict[str, Any], dict[str, Any], list[np.ndarray]]:
    """The same window with codes and with strings, and its arrays for the pass."""
    from staytrue.kernel.contract import Column
    from staytrue.kernel.profile import Codes

    rng = np.random.default_rng(seed)
    valid = np.ones(rows, np.bool_)
    values, coded = numbers(rng, rows), codes(rng, rows)
    columns = {}
    for at, (name, one) in enumerate(values.items()):
        there = valid if at % 7 else rng.random(rows) > 0.03
        columns[name] = Column(type="float64", values=one, valid=there)
    categories = {name: names(levels) for name, levels in zip(coded, LEVELS, strict=True)}
    by_code = {n: Codes(codes=one, valid=valid, categories=categories[n]) for n, one in coded.items()}
    by_text = {
        n: Column(type="string", values=np.array(categories[n], object)[one], valid=valid) for n, one in coded.items()
    }
    return columns | by_code, columns | by_text, [*values.values(), *coded.values()]


def ours(all_rows: list[int], seconds: float) -> tuple[list[str], float]:
    """What missed its target, and our CPU seconds for 10,000 rows with distances."""
    from staytrue.kernel.distance import distances
    from staytrue.kernel.profile import by_segment, of_sketches, profile, reference
    from staytrue.kernel.sketch import kind_of, sketch

    missed = []
    _, texts, _ = windows(10_000, 0)
    began = time.process_time()
    sketches = {name: sketch(c.values, c.valid, kind_of(c.type)) for name, c in texts.items()}
    sketched = time.process_time() - began
    began = time.process_time()
    over = reference(sketches)
    before = of_sketches(over, sketches)
    print(f"sketches of 10,000 x 50: {sketched * 1e3:.1f} ms; reference and its counts from them: ", end="")
    print(f"{(time.process_time() - began) * 1e3:.1f} ms (once a part, once a release)")
    assert before == profile(over, texts), "sketches and rows disagree"

    full = 0.0
    heads = ("pass ms", "ns/value", "codes ms", "x pass", "strings ms", "x pass", "numbers x")
    print(f"\n{'rows x 50':>12}" + "".join(f"{head:>11}" for head in heads))
    for rows in all_rows:
        coded, texts, arrays = windows(rows, 1)
        floats = {name: column for name, column in coded.items() if name[0] == "n"}
        over_floats = reference({name: s for name, s in sketches.items() if name[0] == "n"})

        def one_pass(arrays: list[np.ndarray] = arrays) -> float:
            return sum(float(array.sum()) for array in arrays)

        def float_pass(arrays: list[np.ndarray] = arrays) -> float:
            return sum(float(array.sum()) for array in arrays[:NUMERIC])

        calls = {
            "pass": one_pass,
            "codes": lambda c=coded: profile(over, c),
            "strings": lambda c=texts: profile(over, c),
            "float pass": float_pass,
            "floats": lambda c=floats, o=over_floats: profile(o, c),
        }
        # In turns, so that a busy moment of the machine does not hit one alone.
        times = dict.fromkeys(calls, np.inf)
        for _ in range(3):
            times = {name: min(times[name], best(call, seconds=seconds / 3)) for name, call in calls.items()}
        ratio = times["codes"] / times["pass"]
        figures = (
            f"{times['pass'] * 1e3:.3f}",
            f"{times['pass'] / rows / 50 * 1e9:.3f}",
            f"{times['codes'] * 1e3:.3f}",
            f"{ratio:.1f}",
            f"{times['strings'] * 1e3:.3f}",
            f"{times['strings'] / times['pass']:.1f}",
            f"{times['floats'] / times['float pass']:.1f}",
        )
        print(f"{rows:>12,}" + "".join(f"{figure:>11}" for figure in figures))
        if ratio > TIMES_THE_PASS:
            missed.append(f"{rows:,} rows take {ratio:.1f} x the pass; target {TIMES_THE_PASS} x")
        assert profile(over, coded) == profile(over, texts), "codes and strings disagree"
        if rows == 10_000:

            def compared(c: dict[str, Any] = texts) -> None:
                now = profile(over, c)
                for name, bins in over.bins.items():
                    distances(bins, before.counts[name], now.counts[name])

            segment = np.random.default_rng(6).integers(0, SEGMENTS, rows)
            apart = best(lambda c=coded, s=segment: by_segment(over, c, s, SEGMENTS), seconds=seconds)
            stored = best(lambda: of_sketches(over, sketches), seconds=seconds)
            full = best(compared, seconds=seconds)
            print(
                f"{'':>12} in {SEGMENTS} segments, from codes: {apart * 1e3:.2f} ms; from stored sketches: {stored * 1e3:.2f} ms"
            )
            print(f"{'':>12} with all distances of 50 columns, from strings: {full * 1e3:.2f} ms")
    return missed + merging(over) + state(over), full


def merging(over: Any) -> list[str]:
    """100 shards in a shuffled order against one pass over all rows."""
    from staytrue.kernel.canonical_json import canonical_json
    from staytrue.kernel.profile import Profile, profile

    coded, _, _ = windows(100_000, 2)
    rng = np.random.default_rng(3)
    shard = rng.integers(0, 100, 100_000)
    shards = [profile(over, {name: cut(column, shard == at) for name, column in coded.items()}) for at in range(100)]
    merged = Profile.empty(over)
    for at in rng.permutation(100):
        merged = merged + shards[at]
    equal = canonical_json(merged.document()) == canonical_json(profile(over, coded).document())
    print(f"\n100 shards of 100,000 rows, merged in another order: {'bit-identical' if equal else 'DIFFERENT'}")
    return [] if equal else ["100 shards differ from one"]


def cut(column: Any, rows: np.ndarray) -> Any:
    from dataclasses import replace

    changed = {field: getattr(column, field)[rows] for field in ("valid", "values", "codes") if hasattr(column, field)}
    return replace(column, **changed)


def state(over: Any) -> list[str]:
    """What 50 features x 20 segments take after 1 and after 1,000 windows."""
    from staytrue.kernel.canonical_json import canonical_json
    from staytrue.kernel.profile import Profile, by_segment

    missed = []
    coded, _, _ = windows(10_000, 4)
    window = by_segment(over, coded, np.random.default_rng(5).integers(0, SEGMENTS, 10_000), SEGMENTS)
    kept = [Profile.empty(over)] * SEGMENTS
    for count in range(1, 1_001):
        kept = [mine + new for mine, new in zip(kept, window, strict=True)]
        if count in {1, 1_000}:
            text = sum(len(canonical_json(one.document())) for one in kept)
            arrays = sum(array.nbytes for one in kept for array in one.counts.values())
            print(f"state of 50 x {SEGMENTS} after {count:,} windows: {arrays:,} B of int64, {text:,} B as JSON")
            if max(text, arrays) > STATE_BYTES:
                missed.append(f"state is {max(text, arrays):,} B; target {STATE_BYTES:,} B")
    lookups = sum(bins.lookup.nbytes for bins in over.bins.values() if bins.kind == "number")
    print(f"beside it, once a process and derived: lookup tables of {lookups:,} B; the reference is ", end="")
    print(f"{len(canonical_json(over.document())):,} B as JSON")
    return missed


# -- others, each in its own Python -----------------------------------------------------------------------------------


def peers(full: float) -> list[str]:
    """Their CPU for the same, and what missed its target."""
    missed = []
    print(f"\n{'10,000 x 50, window against reference':>40} {'CPU ms':>10} {'x ours':>9}")
    print(f"{'staytrue, from strings':>40} {full * 1e3:>10.2f} {1:>9}")
    for peer in PEERS:
        python = os.environ.get(f"{peer.upper()}_PYTHON") or os.environ.get("PEERS_PYTHON")
        if not python:
            print(f"{peer:>40} skipped: set {peer.upper()}_PYTHON or PEERS_PYTHON")
            continue
        done = subprocess.run([python, __file__, "--peer", peer], capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no word"]
            print(f"{peer:>40} skipped: {last[0][:120]}")
            continue
        told = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{peer + ' ' + told['version']:>40} {told['cpu_s'] * 1e3:>10.1f} {told['cpu_s'] / full:>9.0f}")
        if peer == "evidently" and told["cpu_s"] < OF_EVIDENTLY * full:
            missed.append(f"Evidently takes {told['cpu_s'] / full:.0f} x ours; target {OF_EVIDENTLY} x")
    return missed


def frame(seed: int) -> Any:
    import pandas as pd

    rng = np.random.default_rng(seed)
    made = pd.DataFrame(numbers(rng, 10_000))
    for (name, one), levels in zip(codes(rng, 10_000).items(), LEVELS, strict=True):
        made[name] = pd.Categorical.from_codes(one, names(levels))
    return made


def peer(name: str) -> None:
    """Runs in the other Python; the last line says what it took."""
    before, after = frame(0), frame(1)
    if name != "scipy":
        for column in [c for c in before if c[0] == "t"]:
            before[column], after[column] = before[column].astype(str), after[column].astype(str)
    call, version = {"scipy": _scipy, "evidently": _evidently, "nannyml": _nannyml, "whylogs": _whylogs}[name](
        before, after
    )
    print(json.dumps({"cpu_s": best(call, seconds=5), "version": version}))


def _scipy(before: Any, after: Any) -> tuple[Callable[[], Any], str]:
    import scipy
    from scipy.stats import chi2_contingency, ks_2samp

    def call() -> None:
        for column in before:
            if column[0] == "n":
                ks_2samp(before[column].to_numpy(), after[column].to_numpy(), method="asymp")
            else:
                table = np.array([side[column].value_counts(sort=False).to_numpy() for side in (before, after)])
                chi2_contingency(table[:, table.sum(axis=0) > 0])

    return call, scipy.__version__


def _evidently(before: Any, after: Any) -> tuple[Callable[[], Any], str]:
    import evidently
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    defined = DataDefinition(
        numerical_columns=[c for c in before if c[0] == "n"], categorical_columns=[c for c in before if c[0] == "t"]
    )
    sides = [Dataset.from_pandas(side, data_definition=defined) for side in (after, before)]
    return lambda: Report([DataDriftPreset()]).run(*sides).dict(), evidently.__version__


def _nannyml(before: Any, after: Any) -> tuple[Callable[[], Any], str]:
    import nannyml

    made = nannyml.UnivariateDriftCalculator(
        column_names=list(before),
        chunk_size=10_000,
        continuous_methods=["kolmogorov_smirnov", "jensen_shannon"],
        categorical_methods=["chi2", "jensen_shannon"],
    ).fit(before)
    return lambda: made.calculate(after).to_df(), nannyml.__version__


def _whylogs(before: Any, after: Any) -> tuple[Callable[[], Any], str]:
    import whylogs
    from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores

    known = whylogs.log(pandas=before).view()

    def call() -> None:
        calculate_drift_scores(target_view=whylogs.log(pandas=after).view(), reference_view=known)

    return call, whylogs.__version__


def main() -> None:
    """Print the tables; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 200_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each is repeated")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        peer(arguments.peer)
        return
    missed, full = ours(arguments.rows, arguments.seconds)
    if full:
        missed += peers(full)
    print("\nmissed: " + "; ".join(missed) if missed else "\nevery target is met")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
