"""How long `staytrue why` looks for near rows and a sample in a training table: a million rows, 6 numbers and 4 texts.

    python benchmarks/why.py [PARTS ...]        default: 20 and 1000

Prints seconds and memory for each, beside one plain reading of the same parts in the same run. Exit code 1 when a pass takes
more than 6 times as long as that.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from staytrue.kernel.contract import Column, SourceSpec
from staytrue.kernel.why import units
from staytrue.loop.neighbours import neighbours
from staytrue.store import frames, tables
from staytrue.store.objects import LocalObjects

ROWS, TARGET = 1_000_000, 6.0
START = datetime(2020, 1, 1, tzinfo=UTC)
NUMBERS, TEXTS = [f"x{i}" for i in range(6)], [f"c{i}" for i in range(4)]


def part(rng: np.random.Generator, day: int, n: int) -> frames.Rows:
    every = np.ones(n, np.bool_)
    at = int((START + timedelta(days=day)).timestamp() * 1e6) + np.arange(n)
    made = {
        "at": Column(type="timestamp[UTC]", values=at, valid=every),
        "id": Column(type="int64", values=day * n + np.arange(n), valid=every),
        "y": Column(type="float64", values=rng.normal(size=n), valid=every),
    }
    made |= {name: Column(type="float64", values=rng.normal(size=n), valid=rng.random(n) < 0.95) for name in NUMBERS}
    words = np.array(["porto", "lisbon", "faro", "braga"], object)
    made |= {name: Column(type="string", values=words[rng.integers(0, 4, n)], valid=every) for name in TEXTS}
    return frames.from_columns(made)


def measured(parts: int) -> float:
    rng = np.random.default_rng(0)
    spec = SourceSpec(name="sales", time="at", key="id", label="y")
    with tempfile.TemporaryDirectory() as root:
        objects, table = LocalObjects(Path(root)), tables.empty(spec)
        for day in range(parts):
            window = (START + timedelta(days=day), START + timedelta(days=day + 1))
            table = tables.append(table, tables.make_part(objects, part(rng, day, ROWS // parts), window, spec))
        scale = units(tables.sketches(objects, table))
        row = part(np.random.default_rng(1), 0, 1)
        asked = {name: frames.column(row, name) for name in NUMBERS + TEXTS}
        began = time.perf_counter()
        for one in table.parts:
            frames.read_parquet(objects.get(one.object))
        plain = time.perf_counter() - began
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        found = neighbours(objects, table, asked, scale, nearest=5, draws=64)
        seconds = time.perf_counter() - began
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert (found.rows, len(found.distances), found.drawn.num_rows) == (ROWS // parts * parts, 5, 64)
    print(
        f"{parts:>5} parts: {seconds:.2f} s, {seconds / plain:.1f} times as long as to read them, {grown:.0f} MB more at most"
    )
    return seconds / plain


if __name__ == "__main__":
    worst = max(measured(int(text)) for text in sys.argv[1:] or ["20", "1000"])
    sys.exit(worst > TARGET)
