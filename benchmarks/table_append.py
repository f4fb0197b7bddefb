"""What it costs to append 1 % rows to a table: seconds and bytes, beside DVC (when installed) adding the file again.

    python benchmarks/table_append.py [--rows 11600000] [--keep FOLDER]

A part a day, ten columns (time, key, label, numbers, texts). DVC gets the same rows as one Parquet file, then the file
with the new rows. Both write to the same disk; DVC does not fsync, we do.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import arro3.core as ac
import arro3.io
import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.contract import SourceSpec
from staytrue.store import tables
from staytrue.store.frames import Rows, to_rows
from staytrue.store.objects import LocalObjects

SPEC = SourceSpec(name="sales", time="at", key="id", label="price")
START = datetime(2016, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
PARTS = 100
TOWNS = np.array([f"town-{i}" for i in range(300)], object)


def day_rows(number: int, rows: int) -> Rows:
    rng = np.random.default_rng(number)
    times: NDArray[np.int64] = np.sort(rng.integers(0, 86_400_000_000, rows)) + number * 86_400_000_000
    start = np.datetime64(START.replace(tzinfo=None), "us")
    naive = to_rows({"at": start + times.astype("m8[us]")}, doing="make rows")
    made = {
        "id": np.arange(rows, dtype=np.int64) + number * rows,
        "price": rng.lognormal(4, 1, rows).round(2),
        "nights": rng.integers(1, 15, rows),
        "lead": rng.integers(0, 400, rows),
        "score": rng.random(rows),
        "weight": rng.normal(70, 10, rows),
        "town": TOWNS[rng.integers(0, len(TOWNS), rows)],
        "channel": np.array(["web", "phone", "agent"], object)[rng.integers(0, 3, rows)],
        "paid": rng.random(rows) < 0.7,
    }
    aware = naive.column("at").cast(ac.DataType.timestamp("us", tz="UTC"))
    return to_rows({"at": aware, **made}, doing="make rows")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=11_600_000, help="rows of the table before the append")
    options.add_argument("--keep", type=Path, help="a folder to work in, kept afterwards")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        lines = [*ours(folder, given.rows // PARTS), *with_dvc(folder, given.rows // PARTS)]
    print(f"\n{'':44}{'seconds':>10}{'MB written':>12}")
    for name, seconds, written in lines:
        print(f"{name:44}{seconds:10.3f}{written / 1e6:12.2f}")


def ours(folder: Path, rows: int) -> Iterator[tuple[str, float, int]]:
    objects = LocalObjects(folder / "staytrue")
    table, spent = tables.empty(SPEC), 0.0
    for number in range(PARTS):
        made = day_rows(number, rows)
        seconds, table = timed(keep, objects, table, number, made)
        spent += seconds
        show(f"part {number + 1} of {PARTS}")
    yield f"staytrue: {table.rows:,} rows in {PARTS} parts", spent, size(folder / "staytrue")
    for name, count in ((f"staytrue: append 1 % ({rows:,} rows)", rows), ("staytrue: append 100 rows", 100)):
        number, before = len(table.parts), size(folder / "staytrue")
        made = day_rows(number, count)
        seconds, table = timed(keep, objects, table, number, made)
        yield name, seconds, size(folder / "staytrue") - before


def keep(objects: LocalObjects, table: tables.Table, number: int, made: Rows) -> tables.Table:
    """One append as the loop does it: part, new version, manifest; all on disk afterwards."""
    grown = tables.append(table, tables.make_part(objects, made, span(number), SPEC, like=table.schema))
    tables.save(objects, grown)
    return grown


def with_dvc(folder: Path, rows: int) -> Iterator[tuple[str, float, int]]:
    if importlib.util.find_spec("dvc") is None:
        yield "DVC: skipped, `dvc` is not installed here", float("nan"), 0
        return
    repo = folder / "dvc"
    repo.mkdir()
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=repo, check=True)
    batches = [batch for number in range(PARTS) for batch in day_rows(number, rows).to_batches()]
    for name, more in (
        ("DVC: add the file", []),
        ("DVC: add it again with 1 % more rows", day_rows(PARTS, rows).to_batches()),
    ):
        buffer = io.BytesIO()
        batches += more
        arro3.io.write_parquet(ac.Table.from_batches(batches), buffer, compression="zstd(3)")
        (repo / "sales.parquet").write_bytes(buffer.getvalue())
        before = size(repo / ".dvc" / "cache")
        seconds, _ = timed(subprocess.run, [*dvc, "add", "-q", "sales.parquet"], cwd=repo, check=True)
        yield name, seconds, size(repo / ".dvc" / "cache") - before


def span(number: int) -> tuple[datetime, datetime]:
    return START + number * DAY, START + (number + 1) * DAY


def timed(action: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = action(*arguments, **options)
    return time.perf_counter() - start, result


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def show(text: str) -> None:
    print(f"\r{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
