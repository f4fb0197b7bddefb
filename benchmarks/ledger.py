"""The ledger against its limit: bare sqlite3 inserts into an equal table with WAL and synchronous=FULL. Take the ratios.

python benchmarks/ledger.py [--folder DIR] [--events N]
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from staytrue.store.ledger import Entry, Ledger, Ref
from staytrue.store.objects import digest

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SENTENCE = "Kept the champion: no evidence that the loss rose."
BODY = {"rows": 1234, "loss": 0.1234, "evidence": 1.5, "policy": "payback"}


def main() -> None:
    """Prints events per second, one and a hundred to a transaction."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=None, help="on the disk to measure; default: the system's temporary"
    )
    parser.add_argument("--events", type=int, default=2000)
    arguments = parser.parse_args()
    print(f"{'batch':>6} {'ledger':>12} {'bare sqlite3':>14}   ratio")
    for batch in (1, 100):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
            bare = inserted(Path(temporary) / "bare.db", arguments.events, batch)
            ours = appended(Path(temporary) / "ledger.db", arguments.events, batch)
        print(f"{batch:>6} {ours:>10.0f}/s {bare:>12.0f}/s   {ours / bare:.2f}", flush=True)


def appended(path: Path, count: int, batch: int) -> float:
    """Events per second through the ledger; every tenth makes something exist."""
    with closing(Ledger.open(path)) as ledger:
        begun = time.perf_counter()
        for start in range(0, count, batch):
            ledger.append([entry(number) for number in range(start, start + batch)], recorded_at=NOW)
        return count / (time.perf_counter() - begun)


def entry(number: int) -> Entry:
    """A typical event."""
    refs = (Ref(kind="model", name=str(number), digest=digest(b"")),) if number % 10 == 0 else ()
    return Entry(app="rates", key=f"decision {number}", at=NOW, kind="held", sentence=SENTENCE, body=BODY, refs=refs)


def inserted(path: Path, count: int, batch: int) -> float:
    """Rows per second into a table of the same columns with the same keys, without hash, checks or references."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(
            "CREATE TABLE event (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, app TEXT, timeline TEXT, key TEXT, at INTEGER, "
            "recorded_at INTEGER, kind TEXT, sentence TEXT, body TEXT, hash TEXT, UNIQUE (app, timeline, key))"
        )
        begun = time.perf_counter()
        for start in range(0, count, batch):
            rows = [
                (i, f"{i:036}", "rates", "live", f"decision {i}", 0, 0, "held", SENTENCE, str(BODY), "0" * 64)
                for i in range(start, start + batch)
            ]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            connection.execute("COMMIT")
        return count / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
