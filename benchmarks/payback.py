"""Is `payback` near the schedule that hindsight would choose? On real bookings, on a stream with real drift, and on one without.

    python benchmarks/payback.py [--keep DIR]

Every policy goes through the same trial. Printed is the cost of each (loss plus retrainings at 200 rows' worth of fresh
loss) over the cheapest of never, every:1d, every:7d and every:28d, which is known only afterwards. Targets: payback at
most 1.15 on the first two, at most 1.10 x `never` where nothing drifts. Elec2 may not be shipped: set ELEC2 to its
Parquet file, or keep it in ../shared/data; else it is skipped.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from staytrue.engines.process import ProcessPool
from staytrue.loop.context import open_context
from staytrue.loop.fetch import fetch
from staytrue.loop.jobs import drive
from staytrue.loop.replay import replay

ROOT = Path(__file__).resolve().parents[1]
FIXED = ("never", "every:1d", "every:7d", "every:28d")
POLICIES = ("payback", *FIXED)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


STREAMS = {
    "hotel": (ROOT / "examples/pricing/app.py", "2015-04-01", "2016-07-01", "2017-09-01", 1.15),
    "elec2": (ROOT / "benchmarks/elec2/app.py", "1996-05-06", "1996-07-01", "1998-12-05", 1.15),
    "shuffled": (ROOT / "benchmarks/elec2/app.py", "1996-05-06", "1996-07-01", "1998-12-05", 1.10),
}


def lived(name: str, place: Path, policies: tuple[str, ...] = POLICIES) -> tuple[dict[str, Any], float]:
    """The replay document of one stream, and the seconds it took, fetching left out."""
    app, begin, first, end, _ = STREAMS[name]
    ctx = open_context(str(app), place / name)
    source = next(iter(ctx.app.sources))
    if ctx.store.ledger.ref("source", source) is None:
        with ProcessPool(ctx.store.work / "jobs") as pool:
            drive({source: fetch(ctx, source, now=moment(end), since=moment(begin), until=moment(end))}, pool)
    started = time.perf_counter()
    return replay(ctx, policies, since=moment(first), until=moment(end)), time.perf_counter() - started


def show(name: str, document: dict[str, Any], seconds: float) -> bool:
    """Print the table; whether the target was met."""
    found = {p["policy"]: p for p in document["policies"]}
    best = min(found[p]["cost"] for p in FIXED)
    base = found["never"]["cost"] if name == "shuffled" else best
    print(f"\n{name}: {document['rows']:,} rows, {document['since'][:10]} .. {document['until'][:10]}, {seconds:.0f} s")
    titles = ("retrains", "promoted", "rejected", "bad days")
    print(f"  {'policy':10} {'loss':>8} {' '.join(titles)} {'cost':>10} {'x best':>7}")
    for policy, p in found.items():
        print(
            f"  {policy:10} {p['loss']:8.4f} {p['retrains']:8} {p['promoted']:8} {p['rejected']:8} {p['bad_days']:8} "
            f"{p['cost']:10,.0f} {p['cost'] / best:7.3f}"
        )
    ratio, target = found["payback"]["cost"] / base, STREAMS[name][4]
    against = "never" if name == "shuffled" else "the best in hindsight"
    print(f"  payback costs {ratio:.3f} x {against}; target {target}: {'met' if ratio <= target else 'MISSED'}")
    return ratio <= target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="keep the stores there, so that a second run trains nothing")
    parser.add_argument("--only", choices=sorted(STREAMS), help="one stream, in this process")
    args = parser.parse_args()
    elec2 = Path(os.environ.get("ELEC2") or ROOT.parent / "shared/data/elec2.parquet").resolve()
    os.environ["ELEC2"] = str(elec2)
    with nullcontext(str(args.keep)) if args.keep else tempfile.TemporaryDirectory() as place:
        if args.only:
            return 0 if show(args.only, *lived(args.only, Path(place))) else 1
        codes = []
        for name in STREAMS:
            if name != "hotel" and not elec2.exists():
                print(f"\n{name}: skipped, {elec2} is not there (set ELEC2)")
                continue
            # A process for each: an app is a module, and the two streams of elec2 are one app under two settings.
            environment = os.environ | {"ELEC2_SHUFFLE": "1" if name == "shuffled" else "0"}
            command = [sys.executable, "-W", "ignore", __file__, "--only", name, "--keep", place]
            codes.append(subprocess.run(command, env=environment, check=False).returncode)
        return max(codes)


if __name__ == "__main__":
    raise SystemExit(main())
