"""Objects against the limits: `cp` with fsync of the same bytes, and BLAKE3 alone. Take the ratios.

python benchmarks/objects.py [--folder DIR] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from staytrue.store.objects import LocalObjects, digest

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (("1 KB", 1000, 1000), ("1 MB", 1_000_000, 100), ("256 MB", 256_000_000, 1))


def main() -> None:
    """Prints one row per size: seconds for all objects of that size, and put and get as multiples of their limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=None, help="on the disk to measure; default: the system's temporary"
    )
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many is shown")
    arguments = parser.parse_args()
    print(
        f"{'objects':>14} {'cp+fsync':>9} {'put':>9} {'put file':>9} {'put again':>9} {'blake3':>9} {'get':>9}"
        "   put/cp  get/blake3"
    )
    for name, size_bytes, count in SIZES:
        rounds = [measured(arguments.folder, size_bytes, count) for _ in range(arguments.rounds)]
        copied, put, filed, again, hashed, got = (statistics.median(column) for column in zip(*rounds, strict=True))
        figures = " ".join(f"{seconds:8.3f}s" for seconds in (copied, put, filed, again, hashed, got))
        print(f"{name:>7} x {count:<4} {figures}   {put / copied:5.2f}x  {got / hashed:9.2f}x", flush=True)


def measured(folder: Path | None, size_bytes: int, count: int) -> tuple[float, ...]:
    """Seconds of one round: cp+fsync, put, put_file, put of the same again, blake3, get."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        root = Path(temporary)
        sources = [root / f"source{number}" for number in range(count)]
        for source in sources:
            source.write_bytes(os.urandom(size_bytes))
        os.sync()
        data = [source.read_bytes() for source in sources]
        objects, others = LocalObjects(root / "store"), LocalObjects(root / "other")
        (root / "copies").mkdir()
        copied = seconds(lambda: [copy(source, root / "copies" / source.name) for source in sources])
        put = seconds(lambda: [objects.put(item) for item in data])
        filed = seconds(lambda: [others.put_file(source) for source in sources])
        again = seconds(lambda: [objects.put(item) for item in data])
        hashed = seconds(lambda: [digest(item) for item in data])
        names = [digest(item) for item in data]
        got = seconds(lambda: [objects.get(name) for name in names])
    return copied, put, filed, again, hashed, got


def copy(source: Path, target: Path) -> Path:
    """`cp`, then fsync of the file."""
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    return target


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
