"""Power cuts: whatever the disk holds afterwards, what was acknowledged is there, whole."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from crash_images import Image, images, read_diary
from serving import workloads

from staytrue.errors import Corrupt
from staytrue.kernel.release import Digest
from staytrue.store.ledger import Ledger
from staytrue.store.objects import LocalObjects, digest
from staytrue.store.verify import verify

STEPS = 20


@pytest.fixture
def store(fast_disk: Path) -> Path:
    store = (fast_disk / "store").resolve()
    store.mkdir()
    return store


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.fault_long)])
def test_a_power_cut_takes_nothing_that_was_acknowledged(failing_io: Path, store: Path, count: int) -> None:
    found = cuts(failing_io, store, count, synchronous=None)

    assert found == Counter(sound=count)


def test_a_ledger_that_does_not_wait_for_the_disk_is_caught(failing_io: Path, store: Path) -> None:
    found = cuts(failing_io, store, 300, synchronous="NORMAL")

    assert found["lost"] > 0
    assert set(found) <= {"sound", "lost"}


def cuts(failing_io: Path, store: Path, count: int, *, synchronous: str | None) -> Counter[str]:
    diary = store.with_name("diary")
    with workloads(failing_io) as order:
        answer = order(store=str(store), steps=STEPS, diary=str(diary), synchronous=synchronous, pages=40)
    assert answer["error"] is None
    calls = read_diary(diary, store)
    found: Counter[str] = Counter()
    for number, image in enumerate(images(calls, count, seed=7)):
        # Objects are judged in memory, the ledger by itself; every hundredth store as a whole.
        found[verdict(image, store.with_name("image"), whole=number % 100 == 0)] += 1
    return found


def verdict(image: Image, folder: Path, *, whole: bool) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    for path, data in image.files.items():
        if whole or "/" not in path:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
    there = {f"object {path[8:].replace('/', '')}" for path in image.files if path.startswith("objects/")}
    if any(f"object {digest(image.files[f'objects/{name[7:9]}/{name[9:]}'])}" != name for name in there):
        return "corrupt object"
    try:
        with closing(Ledger.open(folder / "ledger.db")) as ledger:
            there |= {f"event {event.app} {event.key}" for event in ledger.events()}
            if ledger.verify() or (whole and verify(LocalObjects(folder), ledger).problems):
                return "broken chain"
            if {f"object {Digest(ref.digest)}" for ref in ledger.refs()} - there:
                return "hole"
        with closing(sqlite3.connect(folder / "ledger.db")) as connection:
            if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                return "corrupt ledger"
    except (Corrupt, sqlite3.DatabaseError):
        return "corrupt ledger"
    return "lost" if image.acknowledged - there else "sound"
