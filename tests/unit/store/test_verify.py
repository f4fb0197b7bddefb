"""Verify: names everything that is wrong, with the releases that it touches, and nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from staytrue.store.ledger import Entry, Ledger, Ref
from staytrue.store.objects import LocalObjects
from staytrue.store.verify import Problem, verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from staytrue.kernel.release import Digest

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(tmp_path / "ledger.db")) as opened:
        yield opened


def release(objects: LocalObjects, ledger: Ledger, name: str, part: Digest) -> Digest:
    table = objects.put_document({"kind": "table", "parts": [part], "of": name})
    ref = Ref(kind="release", name=name, digest=objects.put_document({"kind": "release", "table": table}))
    ledger.append([Entry(app="a", key=name, at=NOW, kind="released", sentence="", refs=(ref,))], recorded_at=NOW)
    return table


def file_of(objects: LocalObjects, name: Digest) -> Path:
    return objects.root / "objects" / name[:2] / name[2:]


def flip(path: Path, position: int) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_sound_store_has_no_problems(objects: LocalObjects, ledger: Ledger) -> None:
    release(objects, ledger, "r1", objects.put(b"rows"))
    seen: list[tuple[int, int]] = []

    report = verify(objects, ledger, lambda count, size_bytes: seen.append((count, size_bytes)))

    assert report.problems == []
    assert seen[-1] == (report.objects, report.bytes) == (3, sum(stored.size_bytes for stored in objects.list()))


@pytest.mark.parametrize("position", range(4))
def test_any_flipped_bit_is_found_with_the_releases_that_it_touches(
    objects: LocalObjects, ledger: Ledger, position: int
) -> None:
    part = objects.put(b"rows")
    for name in ("r1", "r2"):
        release(objects, ledger, name, part)
    flip(file_of(objects, part), position)

    [problem] = verify(objects, ledger).problems

    assert (problem.kind, problem.digest, problem.releases) == ("damaged", part, ("r1", "r2"))
    assert "Affected: release r1, r2." in problem.sentence


def test_a_missing_object_is_found_at_every_depth(objects: LocalObjects, ledger: Ledger) -> None:
    part = objects.put(b"rows")
    table = release(objects, ledger, "r1", part)

    file_of(objects, part).unlink()
    [leaf] = verify(objects, ledger).problems
    file_of(objects, table).unlink()
    [middle] = verify(objects, ledger).problems

    assert (leaf.kind, leaf.digest, leaf.releases) == ("missing", part, ("r1",))
    assert (middle.kind, middle.digest, middle.releases) == ("missing", table, ("r1",))


def test_a_damaged_object_that_nothing_needs_affects_nothing(objects: LocalObjects, ledger: Ledger) -> None:
    name = objects.put(b"loose")
    flip(file_of(objects, name), 0)

    [problem] = verify(objects, ledger).problems

    assert problem.releases == ()
    assert "Nothing refers to it" in problem.sentence


def test_a_condemned_object_that_is_referred_to_is_no_problem(objects: LocalObjects, ledger: Ledger) -> None:
    part = objects.put(b"rows")
    release(objects, ledger, "r1", part)
    objects.delete(part)

    assert verify(objects, ledger).problems == []
    assert not objects.has(part)  # looking changed nothing


def test_a_broken_chain_is_a_problem_of_the_ledger(objects: LocalObjects, ledger: Ledger, tmp_path: Path) -> None:
    release(objects, ledger, "r1", objects.put(b"rows"))
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, connection:
        connection.execute("UPDATE event SET sentence = 'forged'")

    sentence = ledger.verify()[0]

    assert verify(objects, ledger).problems == [Problem(kind="ledger", digest=None, sentence=sentence, releases=())]
