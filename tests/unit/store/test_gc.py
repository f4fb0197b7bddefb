"""Garbage collection: frees what nothing leads to, late; loses nothing, ever."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from staytrue.errors import InvalidInput
from staytrue.store.gc import Report, collect
from staytrue.store.ledger import Entry, Ledger, Ref
from staytrue.store.objects import LocalObjects

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from staytrue.kernel.release import Digest

HOUR = timedelta(hours=1)


class Store:
    """Objects and ledger in one folder, with ages to order."""

    def __init__(self, root: Path) -> None:
        self.objects = LocalObjects(root)
        self.ledger = Ledger.open(root / "ledger.db")

    def refer(self, name: Digest, kind: str = "release") -> None:
        now = datetime.now(UTC)
        ref = Ref(kind=kind, name=name, digest=name)
        entry = Entry(app="rates", key=f"{kind}:{name}", at=now, kind=kind, sentence="Made it.", refs=(ref,))
        self.ledger.append([entry], recorded_at=now)

    def age(self, hours: float) -> None:
        """Lets time pass for every file."""
        for folder in ("objects", "trash", "tmp"):
            for path in (self.objects.root / folder).rglob("*"):
                if path.is_file():
                    then = path.stat().st_mtime - hours * 3600
                    os.utime(path, (then, then))

    def collect(self, *, dry_run: bool = False) -> Report:
        return collect(self.objects, self.ledger, now=datetime.now(UTC), dry_run=dry_run)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    with closing(store.ledger):
        yield store


def test_what_nothing_refers_to_is_condemned_after_a_day_and_deleted_after_another(store: Store) -> None:
    name = store.objects.put(b"garbage")

    young = store.collect()
    store.age(25)
    condemned = store.collect()
    waiting = store.collect()
    store.age(25)
    deleted = store.collect()

    assert (young.condemned, young.deleted, young.kept) == ((), (), 1)
    assert (condemned.condemned, condemned.deleted) == ((name,), ())
    assert (waiting.condemned, waiting.deleted, waiting.kept) == ((), (), 1)
    assert (deleted.deleted, deleted.freed_bytes, deleted.kept) == ((name,), 7, 0)
    assert list(store.objects.trashed()) == []


def test_everything_that_a_reference_leads_to_stays(store: Store) -> None:
    part = store.objects.put(b"PAR1 rows")
    table = store.objects.put_document({"kind": "table", "parts": [{"id": part}]})
    release = store.objects.put_document({"kind": "release", "tables": {"bookings": table}})
    store.refer(release)
    store.age(1000)

    report = store.collect()

    assert (report.kept, report.condemned) == (3, ())
    assert [store.objects.has(name) for name in (part, table, release)] == [True] * 3


def test_a_document_that_is_not_canonical_keeps_what_it_names(store: Store) -> None:
    part = store.objects.put(b"rows")
    by_hand = store.objects.put(
        b'{ "kind": "note", "part": "%s", "hash of something else": "%s" }' % (part.encode(), b"0" * 64)
    )
    store.refer(by_hand)
    store.age(1000)

    report = store.collect()

    assert (report.kept, report.blocked) == (2, ())


def test_a_condemned_object_comes_back_when_it_is_referred_to(store: Store) -> None:
    name = store.objects.put(b"late")
    store.age(25)
    store.collect()
    store.refer(name)
    store.age(25)

    report = store.collect()

    assert (report.restored, report.deleted) == ((name,), ())
    assert store.objects.has(name)


def test_a_condemned_object_that_was_put_again_outlives_its_copy_in_the_trash(store: Store) -> None:
    name = store.objects.put(b"again")
    store.age(25)
    store.collect()
    store.age(25)
    store.objects.put(b"again")
    store.refer(name)

    report = store.collect()

    assert (report.restored, report.deleted) == ((), (name,))
    assert store.objects.get(name) == b"again"


def test_putting_again_starts_the_grace_anew(store: Store) -> None:
    store.objects.put(b"x")
    store.age(25)
    store.objects.put(b"x")

    assert store.collect().condemned == ()


def test_a_dry_run_changes_nothing_and_says_why_each_thing_stays(store: Store) -> None:
    used, old = store.objects.put(b"used"), store.objects.put(b"old")
    store.refer(used, kind="model")
    store.age(25)
    new = store.objects.put(b"new")

    report = store.collect(dry_run=True)

    assert report.condemned == (old,)
    assert report.why[used] == f"model {used[:12]} of rates refers to it"
    assert "within the grace" in report.why[new]
    assert store.objects.has(old)


def test_nothing_is_freed_while_a_document_that_is_referred_to_can_not_be_read(store: Store) -> None:
    part = store.objects.put(b"rows")
    table = store.objects.put_document({"kind": "table", "parts": [part]})
    store.refer(table)
    store.age(25)
    path = store.objects.root / "objects" / table[:2] / table[2:]
    path.chmod(0o644)
    path.write_bytes(b"?" + path.read_bytes()[1:])  # it does not even look like a document any more
    os.utime(path, (0, 0))

    damaged = store.collect()
    path.unlink()
    missing = store.collect()

    assert damaged.blocked == (f"object {table[:12]} is referred to and damaged",)
    assert missing.blocked == (f"object {table[:12]} is referred to and missing",)
    assert store.objects.has(part)


def test_what_dead_writers_left_is_swept_after_the_grace(store: Store) -> None:
    store.objects.put(b"x")
    left = store.objects.root / "tmp" / "99-dead"
    left.write_bytes(b"1234")

    assert store.collect().freed_bytes == 0
    store.age(25)
    assert store.collect().freed_bytes == 4
    assert not left.exists()


@pytest.mark.parametrize(("now", "grace"), [(datetime(2026, 1, 1), HOUR), (datetime(2026, 1, 1, tzinfo=UTC), -HOUR)])
def test_a_senseless_time_is_refused(store: Store, now: datetime, grace: timedelta) -> None:
    with pytest.raises(InvalidInput, match="ST421"):
        collect(store.objects, store.ledger, now=now, grace=grace)
