"""What do alarms lead to, and is it worth it? The loop on real bookings and on a stream with real drift, with and without.

    python benchmarks/remedies.py [--keep DIR]

Side by side under the same trial: `payback` as it stands (when the champion has become worse, champions of before are looked
at before anything is trained), the same without that, and retraining on the harm alarm alone. Below it, how many of the
ticks raise any alarm, beside a Kolmogorov-Smirnov test (chi-square for categories) of each column against the training rows
at .05 with Bonferroni's correction, as today's tools do it; and what became of each alarm.
Targets: `payback` costs no more than without looking back on any stream, and less on one.
Elec2 may not be shipped: set ELEC2 to its Parquet file, or keep it in ../shared/data; else it is skipped.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from payback import ROOT, STREAMS, lived, moment
from scipy.stats import chi2_contingency, ks_2samp

from staytrue.loop.context import Context, open_context
from staytrue.loop.past import Past
from staytrue.store import frames

POLICIES = ("payback", "payback restore=false", "alarm")
NOISE = 1.001
"""Costs that differ by less are the same."""


def tests_per_tick(ctx: Context, first: str, end: str) -> tuple[int, int]:
    """Ticks in which a test of any column against the training rows says that it moved, and ticks with enough rows."""
    source = next(iter(ctx.app.sources))
    past = Past.of(ctx, ctx.store.table(source).table, since=moment(first), until=moment(end))
    names = list(past.spec.features or ())
    before = _columns(ctx, past, range(past.first), names)
    moved = looked = 0
    for tick in range(past.first, past.until):
        now = _columns(ctx, past, [tick], names)
        if min(map(len, now.values())) < 5:
            continue
        looked += 1
        moved += min(_p(before[name], now[name]) for name in names) < 0.05 / len(names)
    return moved, looked


def _columns(ctx: Context, past: Past, ticks: Any, names: list[str]) -> dict[str, np.ndarray]:
    rows = [frames.read_parquet(ctx.store.objects.get(past.ticks[t].part.object)) for t in ticks if past.ticks[t].rows]
    found = {}
    for name in names:
        columns = [frames.column(part, name) for part in rows]
        found[name] = np.concatenate([column.values[column.valid] for column in columns] or [np.empty(0)])
    return found


def _p(a: np.ndarray, b: np.ndarray) -> float:
    if not len(a) or not len(b):
        return 1.0
    if a.dtype.kind in "fiub":
        return float(ks_2samp(a.astype(float), b.astype(float)).pvalue)
    kinds = sorted(set(a.tolist()) | set(b.tolist()))
    table = np.array([[np.sum(x == kind) for kind in kinds] for x in (a, b)])
    return float(chi2_contingency(table).pvalue) if len(kinds) > 1 else 1.0


def show(name: str, place: Path) -> float:
    """Print one stream; the cost with looking back over the cost without."""
    document, seconds = lived(name, place, POLICIES)
    found = {p["policy"]: p for p in document["policies"]}
    print(f"\n{name}: {document['rows']:,} rows, {document['since'][:10]} .. {document['until'][:10]}, {seconds:.0f} s")
    titles = ("retrains", "restored", "promoted", "rejected", "bad days")
    print(f"  {'policy':24} {'loss':>8} {' '.join(titles)} {'cost':>10}")
    for policy, p in found.items():
        counts = " ".join(f"{p[t.replace(' ', '_')]:>{len(t)}}" for t in titles)
        print(f"  {policy:24} {p['loss']:8.4f} {counts} {p['cost']:10,.0f}")
    app, _, first, end, _ = STREAMS[name]
    moved, looked = tests_per_tick(open_context(str(app), place / name), first, end)
    told = [e for e in document["timeline"] if e["policy"] == "payback" and e["kind"] in ("alarm", "noted", "restore")]
    kinds = Counter(e["kind"] for e in told)
    ticks = len({e["at"] for e in told if e["kind"] in ("alarm", "noted")})
    print(f"  ticks with any alarm or note: {ticks} of {looked} ({dict(kinds)}); KS + Bonferroni: {moved} of {looked}")
    for event in told:
        print(f"    {event['at'][:10]} {event['sentence']}")
    return float(found["payback"]["cost"] / found["payback restore=false"]["cost"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="keep the stores there, so that a second run trains nothing")
    args = parser.parse_args()
    shared = ROOT.parent / "shared" / "data" / "elec2.parquet"
    if "ELEC2" not in os.environ and shared.exists():
        os.environ["ELEC2"] = str(shared)
    names = ["hotel", *(["elec2"] if "ELEC2" in os.environ else [])]
    if len(names) == 1:
        print("elec2 is skipped: its file is not there")
    place = nullcontext(str(args.keep)) if args.keep else tempfile.TemporaryDirectory()
    with place as root:
        ratios = {name: show(name, Path(root)) for name in names}
    print("\nwith looking back over without: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))
    met = max(ratios.values()) <= NOISE and (len(names) == 1 or min(ratios.values()) < 1 / NOISE)
    print("target: no worse on any, better on one: " + ("met" if met else "MISSED"))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
