"""Traffic against its limits: a bare write of the same bytes, a bare fdatasync, a bare read of Parquet. Take the ratios.

python benchmarks/traffic.py [--folder DIR] [--rows N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from staytrue.store import frames
from staytrue.store.block import Block
from staytrue.store.compaction import compact
from staytrue.store.labels import Label, Labels
from staytrue.store.ledger import Entry
from staytrue.store.records import pack_answers, pack_body, pack_labels
from staytrue.store.segment import SegmentWriter, Syncer, traffic_folder
from staytrue.store.store import Store

APP = "rates"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
NOW_US = int(NOW.timestamp() * 1_000_000)
COLUMNS = tuple((f"x{i}", "float64") for i in range(20))
HEADER = {"kind": "predictions", "app": APP, "release": "a" * 64, "columns": COLUMNS, "key": None, "time": None}


def main() -> None:
    """Prints the cost of a write, of a wait for the disk, and of reading."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=None, help="on the disk to measure; default: the system's temporary"
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read is not None:
        read_whole(arguments.read)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        appending(Path(temporary))
        waiting(Path(temporary))
        reading(Path(temporary), arguments.rows)


# -- writing ----------------------------------------------------------------------------------------------------------


def batch(rows: int, number: int, requests: int) -> tuple[bytes, bytes]:
    """A micro-batch of so many rows in so many requests, all of them random."""
    source = np.random.default_rng(number)
    none = np.zeros((rows, 0))
    block = Block(
        n=rows, floats=source.normal(size=(rows, 20)), whole=none.astype(np.int64), valid=None,
        bools=none.astype(np.uint8), texts=[], lists=[],
    )  # fmt: skip
    each = rows // requests
    first = (NOW_US // 1000) << 80 | 0x7 << 76 | 0b10 << 62
    ids = [((first | (number * requests + i) << 32).to_bytes(16, "big"), each) for i in range(requests)]
    answers = [json.dumps(source.normal(size=each).tolist()).encode() for _ in range(requests)]
    body = pack_body(seq=number, at_us=NOW_US + number, arm="champion", block=block.pack(), requests=ids)
    return body, pack_answers(answers)


def appending(folder: Path) -> None:
    """Microseconds for one batch, as the lane pays them, beside one os.write of the same bytes."""
    print(f"{'append':<22} {'ours':>9} {'os.write':>9}   ratio")
    for rows in (1, 64, 1000):
        body, answers = batch(rows, 1, rows)
        whole = body + answers
        descriptor = os.open(folder / f"bare{rows}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with SegmentWriter(folder / f"ours{rows}", HEADER) as writer, Syncer(writer):
            ours: list[float] = []
            bare: list[float] = []
            for _ in range(60):
                ours.append(timed(lambda: writer.append(body, answers), 50))  # noqa: B023 - called here and now
                bare.append(timed(lambda: os.write(descriptor, whole), 50))  # noqa: B023 - called here and now
        os.close(descriptor)
        a, b = statistics.median(ours), statistics.median(bare)
        size = f"{rows} rows, {len(whole):,} B"
        print(f"{size:<22} {a * 1e6:>6.1f} us {b * 1e6:>6.1f} us   {a / b:.2f}", flush=True)


def timed(call: Callable[[], object], times: int) -> float:
    """Seconds for one call."""
    begun = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begun) / times


def waiting(folder: Path) -> None:
    """Labels per second that wait for the disk, one a call, beside a bare write and fdatasync."""
    one = [Label(id=bytes(16), key=None, label=1.5, at_us=NOW_US, got_us=NOW_US)]
    record = pack_labels(one)
    descriptor = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def bare() -> None:
        os.write(descriptor, record)
        os.fdatasync(descriptor)

    alone = 1 / timed(bare, 200)
    os.close(descriptor)
    print(f"\n{'labels on disk':<22} {'ours':>9} {'bare':>9}   ratio")
    for threads in (1, 16):
        with Labels(folder, APP) as labels:
            each = 200
            begun = time.perf_counter()
            running = [threading.Thread(target=timed, args=(lambda: labels.add(one), each)) for _ in range(threads)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            rate = threads * each / (time.perf_counter() - begun)
        print(f"{f'{threads} threads':<22} {rate:>7.0f}/s {alone:>7.0f}/s   {rate / alone:.2f}", flush=True)


# -- reading ----------------------------------------------------------------------------------------------------------


def reading(folder: Path, rows: int) -> None:
    """Rows per second out of segments, into Parquet and out of it; with a label for every tenth."""
    root = folder / "store"
    with closing(Store(root)) as store:
        store.ledger.append([Entry(app=APP, key="made", at=NOW, kind="made", sentence="Made it.")], recorded_at=NOW)
        of_batch = 50
        with SegmentWriter(traffic_folder(root, APP, "predictions"), HEADER) as writer, Labels(root, APP) as labels:
            for number in range(rows // of_batch):
                body, answers = batch(of_batch, number, of_batch)
                writer.append(body, answers)
                if number % 10 == 0:
                    first = (NOW_US // 1000) << 80 | 0x7 << 76 | 0b10 << 62 | (number * of_batch) << 32
                    labels.add(
                        [
                            Label((first + (i << 32)).to_bytes(16, "big"), None, 0.5, NOW_US, NOW_US)
                            for i in range(of_batch)
                        ]
                    )
        size = sum(path.stat().st_size for path in root.glob("traffic/*/*/*"))
        print(f"\n{rows:,} rows of 20 floats, {size / rows:.0f} B a row in segments")
        in_a_process("read segments", root, rows)
        begun = time.perf_counter()
        compact(store, APP, NOW)
        took = time.perf_counter() - begun
        kept = sum(stored.size_bytes for stored in store.objects.list())
        print(f"{'compact':<22} {rows / took:>11,.0f} rows/s, {kept / rows:.0f} B a row")
        in_a_process("read Parquet", root, rows)


def in_a_process(what: str, root: Path, rows: int) -> None:
    """Reading in a process of its own, whose memory is then known."""
    command = [sys.executable, __file__, "--read", str(root)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rate, ratio = rows / told["seconds"], told["peak_bytes"] / told["table_bytes"]
    print(
        f"{what:<22} {rate:>11,.0f} rows/s, peak {told['peak_bytes'] / 1e6:,.0f} MB = {ratio:.1f} x the table",
        flush=True,
    )


def read_whole(root: Path) -> None:
    """Reads all and says what it took."""
    with closing(Store(root)) as store:
        before = peak_bytes()
        begun = time.perf_counter()
        table = store.traffic().to_arrow()
        seconds = time.perf_counter() - begun
        peak = peak_bytes()
        size = sum(column.nbytes for column in table.columns)
        assert frames.column(table, "label").valid.sum() == table.num_rows // 10
    print(json.dumps({"seconds": seconds, "peak_bytes": peak - before, "table_bytes": size}))


def peak_bytes() -> int:
    """The most memory that this process ever had. Not ru_maxrss, which counts the process it was forked from too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
