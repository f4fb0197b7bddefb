"""The ledger: append-only, once per key, chained, and the only place where roles change."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import threading
import uuid
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.dialects import postgresql

from staytrue.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from staytrue.kernel.release import Digest
from staytrue.store import chain
from staytrue.store.ledger import Entry, Fence, Ledger, Ref, RoleChange
from staytrue.store.migrations import LATEST
from staytrue.store.objects import digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
A, B = digest(b"a"), digest(b"b")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(path)) as opened:
        yield opened


def entry(key: str, **changes: Any) -> Entry:
    fields = {"app": "rates", "key": key, "at": NOW, "kind": "fetched", "sentence": f"Fetched {key}.", **changes}
    return Entry(**fields)


def crown(key: str, release: str | None, epoch: int, role: Any = "champion", share: float = 1.0) -> Entry:
    change = RoleChange(role=role, release=release, share=share, expect_epoch=epoch)
    return entry(key, kind="promoted", roles=(change,))


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_an_event_comes_back_as_it_was_appended(ledger: Ledger) -> None:
    body = {"n": 1, "x": 0.1, "ünï": ["\x00", None, {"deep": True}]}

    [event] = ledger.append([entry("k", body=body, at=NOW.astimezone(timezone(timedelta(hours=5))))], recorded_at=NOW)

    assert (event.seq, event.app, event.timeline, event.key) == (1, "rates", "live", "k")
    assert (event.at, event.at.tzinfo, event.recorded_at, event.body) == (NOW, UTC, NOW, body)
    assert event.previous == "0" * 64
    assert ledger.events() == [event] == [ledger.event(event.id)]
    assert ledger.verify() == []


def test_an_event_id_is_a_uuid_of_version_7_that_begins_with_its_time(ledger: Ledger) -> None:
    events = ledger.append([entry(str(i)) for i in range(50)], recorded_at=NOW)

    ids = {uuid.UUID(event.id) for event in events}
    assert len(ids) == 50
    assert {(found.version, found.variant) for found in ids} == {(7, uuid.RFC_4122)}
    assert {found.int >> 80 for found in ids} == {int(NOW.timestamp() * 1000)}


def test_the_same_key_again_changes_nothing(ledger: Ledger) -> None:
    first = entry("k", body={"n": 1}, refs=(Ref(kind="model", name="m", digest=A),), roles=crown("", "r1", 0).roles)
    [event] = ledger.append([first], recorded_at=NOW)

    again = ledger.append([first, entry("k2"), first], recorded_at=NOW + timedelta(days=1))

    assert [e.seq for e in again] == [1, 2, 1]
    assert again[0] == event
    assert len(ledger.refs()) == 1
    assert [role.epoch for role in ledger.roles("rates", "live")] == [1]
    assert len(ledger.append([first, replace(first, timeline="replay/x")], recorded_at=NOW)) == 2
    assert ledger.verify() == []


@pytest.mark.parametrize("changes", [{"body": {"n": 2}}, {"kind": "trained"}])
def test_the_same_key_with_another_content_is_a_conflict(ledger: Ledger, changes: dict[str, Any]) -> None:
    ledger.append([entry("k", body={"n": 1})], recorded_at=NOW)

    with pytest.raises(Conflict, match="ST415"):
        ledger.append([entry("new"), entry("k", **{"body": {"n": 1}, **changes})], recorded_at=NOW)

    assert [event.key for event in ledger.events()] == ["k"]  # the other entry of the refused append is not there


def test_numbers_as_keys_of_a_body_do_not_break_the_chain(ledger: Ledger) -> None:
    body: dict[Any, Any] = {10: "ten", 9: "nine"}

    ledger.append([entry("k", body=body)], recorded_at=NOW)
    ledger.append([entry("k", body=body)], recorded_at=NOW)

    assert ledger.events()[0].body == {"9": "nine", "10": "ten"}
    assert ledger.verify() == []


def test_a_role_moves_only_from_the_epoch_that_was_read(ledger: Ledger) -> None:
    assert ledger.role("rates", "live", "champion") is None
    ledger.append([crown("1", "r1", 0)], recorded_at=NOW)

    with pytest.raises(
        Conflict, match=r"ST416 Can't make release r2 champion.*release r1 became champion after your read"
    ):
        ledger.append([entry("x"), crown("2", "r2", 0)], recorded_at=NOW)
    ledger.append([crown("3", "r3", 1), crown("4", "r4", 2, share=0.5)], recorded_at=NOW)

    champion = ledger.role("rates", "live", "champion")
    assert champion is not None
    assert (champion.release, champion.epoch, champion.share) == ("r4", 3, 0.5)
    assert [event.key for event in ledger.events()] == ["1", "3", "4"]
    assert ledger.verify() == []


def test_a_role_taken_back_keeps_its_epoch(ledger: Ledger) -> None:
    ledger.append([crown("1", "r1", 0, role="challenger"), crown("2", None, 1, role="challenger")], recorded_at=NOW)

    role = ledger.role("rates", "live", "challenger")

    assert role is not None
    assert (role.release, role.epoch) == (None, 2)
    with pytest.raises(Conflict, match="taken back after your read"):
        ledger.append([crown("3", "r2", 1, role="challenger")], recorded_at=NOW)
    with pytest.raises(Conflict, match="nobody ever had that role"):
        ledger.append([crown("3", "r2", 1, role="previous")], recorded_at=NOW)


def test_a_replay_has_its_own_roles(ledger: Ledger) -> None:
    ledger.append([crown("1", "r1", 0)], recorded_at=NOW)
    ledger.append([replace(crown("1", "r2", 0), timeline="replay/payback/1a2b")], recorded_at=NOW)

    assert [ledger.roles("rates", line)[0].release for line in ledger.timelines("rates")] == ["r1", "r2"]
    assert ledger.timelines("rates") == ["live", "replay/payback/1a2b"]


def test_two_writers_with_the_same_read_have_one_winner(path: Path, ledger: Ledger) -> None:
    start, won, lost = threading.Barrier(4), [], []

    def promote(name: str) -> None:
        with closing(Ledger.open(path)) as mine:
            start.wait()
            try:
                won.extend(mine.append([crown(name, name, 0)], recorded_at=NOW))
            except Conflict:
                lost.append(name)

    threads = [threading.Thread(target=promote, args=(f"r{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(won), len(lost)) == (1, 3)
    assert [role.release for role in ledger.roles("rates", "live")] == [won[0].key]
    assert ledger.verify() == []


def test_a_lease_keeps_what_the_loop_remembers_when_it_changes_hands(ledger: Ledger) -> None:
    first = ledger.take("rates", owner="a", expect_epoch=0, at=NOW)
    ledger.append([entry("x")], recorded_at=NOW, fence=Fence(app="rates", epoch=first.epoch, state={"lived": 3}))

    second = ledger.take("rates", owner="b", expect_epoch=first.epoch, at=NOW)

    assert (second.epoch, second.owner, second.state) == (2, "b", {"lived": 3})


def test_who_lost_the_lease_writes_neither_events_nor_roles_nor_state(ledger: Ledger) -> None:
    old = ledger.take("rates", owner="a", expect_epoch=0, at=NOW)
    ledger.take("rates", owner="b", expect_epoch=old.epoch, at=NOW)

    with pytest.raises(Conflict, match="ST800"):
        ledger.append([crown("x", A, 0)], recorded_at=NOW, fence=Fence(app="rates", epoch=old.epoch, state={"n": 1}))

    lease = ledger.lease("rates")
    assert ledger.events() == []
    assert ledger.roles("rates", "live") == []
    assert lease is not None
    assert lease.state == {}


def test_a_state_is_not_replaced_when_the_events_are_refused(ledger: Ledger) -> None:
    lease = ledger.take("rates", owner="a", expect_epoch=0, at=NOW)
    ledger.append([crown("x", A, 0)], recorded_at=NOW)

    with pytest.raises(Conflict, match="ST416"):
        ledger.append([crown("y", B, 0)], recorded_at=NOW, fence=Fence(app="rates", epoch=lease.epoch, state={"n": 1}))

    kept = ledger.lease("rates")
    assert kept is not None
    assert kept.state == {}


def test_one_of_two_takes_the_lease(ledger: Ledger) -> None:
    ledger.take("rates", owner="a", expect_epoch=0, at=NOW)
    with pytest.raises(Conflict, match="ST801"):
        ledger.take("rates", owner="b", expect_epoch=0, at=NOW)


def test_a_state_is_replaced_without_an_event(ledger: Ledger) -> None:
    lease = ledger.take("rates", owner="a", expect_epoch=0, at=NOW)
    ledger.append([], recorded_at=NOW, fence=Fence(app="rates", epoch=lease.epoch, state={"n": 2}))
    kept = ledger.lease("rates")
    assert kept is not None
    assert (kept.state, ledger.events(), ledger.lease("other")) == ({"n": 2}, [], None)


def test_events_are_filtered_and_ordered(ledger: Ledger) -> None:
    kinds = ["fetched", "trained", "fetched"]
    entries = [entry(str(i), at=NOW + timedelta(days=i), kind=kind) for i, kind in enumerate(kinds)]
    ledger.append([*entries, entry("o", app="other", timeline="replay/x")], recorded_at=NOW)

    def keys(*args: Any, **filters: Any) -> str:
        return "".join(event.key for event in ledger.events(*args, **filters))

    assert keys() == "012o"
    assert keys(newest_first=True, limit=2) == "o2"
    assert keys("rates", "live") == "012"
    assert keys(kinds=["fetched"]) == "02o"
    assert keys(kinds=[]) == ""
    assert keys("rates", since=NOW + timedelta(days=1), until=NOW + timedelta(days=2)) == "1"
    assert keys(after=2) == "2o"
    assert ledger.apps() == ["other", "rates"]


def test_references_are_found_by_name_newest_first(ledger: Ledger) -> None:
    source = {"kind": "source", "name": "bookings"}
    ledger.append([entry("1", refs=(Ref(**source, digest=A),))], recorded_at=NOW)
    ledger.append([entry("2", refs=(Ref(**source, digest=B), Ref(kind="model", name="m", digest=A)))], recorded_at=NOW)
    ledger.append([entry("3", timeline="replay/x", refs=(Ref(**source, digest=A),))], recorded_at=NOW)

    newest, live = ledger.ref("source", "bookings"), ledger.ref("source", "bookings", app="rates", timeline="live")

    assert newest is not None
    assert live is not None
    assert (newest.digest, newest.timeline) == (A, "replay/x")
    assert (live.digest, live.seq, live.at, live.app) == (B, 2, NOW, "rates")
    assert ledger.ref("source", "hotels") is None
    assert [ref.digest for ref in ledger.refs(kind="source", timeline="live")] == [A, B]
    assert [ref.name for ref in ledger.refs(name="m")] == ["m"]


def test_an_event_is_found_by_the_beginning_of_its_id(ledger: Ledger) -> None:
    first, second = ledger.append([entry("1"), entry("2")], recorded_at=NOW)

    assert ledger.event(first.id[:30]) == first
    with pytest.raises(InvalidInput, match=f"ST418.*{second.id}"):
        ledger.event(first.id[:8])
    for nothing in ("ffff", "%", "", "x" * 99):
        with pytest.raises(NotFound, match="ST417"):
            ledger.event(nothing)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("key", {"key": ""}),
        ("app", {"app": "a\x00"}),
        ("timeline", {"timeline": ""}),
        ("kind", {"kind": None}),
        ("sentence", {"sentence": "\x00"}),
        ("body", {"body": []}),
        ("at", {"at": datetime(2026, 1, 1)}),  # naive is the point
        ("digest", {"refs": (Ref(kind="k", name="n", digest=Digest(A[:63])),)}),
        ("ref", {"refs": (Ref(kind="", name="n", digest=A),)}),
        ("role", {"roles": (RoleChange(role="king", release="r", share=1, expect_epoch=0),)}),  # type: ignore[arg-type]
        ("share", {"roles": (RoleChange(role="champion", release="r", share=float("nan"), expect_epoch=0),)}),
        ("release", {"roles": (RoleChange(role="champion", release="", share=1, expect_epoch=0),)}),
        ("expect_epoch", {"roles": (RoleChange(role="champion", release="r", share=1, expect_epoch=-1),)}),
    ],
)
def test_an_entry_that_can_not_be_kept_is_refused_by_field(ledger: Ledger, field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"ST414.*{field} is") as refused:
        ledger.append([entry("good"), entry(**{"key": "k", **changes})], recorded_at=NOW)

    assert refused.value.facts["field"] == field
    assert ledger.events() == []


def test_a_body_that_is_not_json_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InvalidInput, match="ST401"):
        ledger.append([entry("k", body={"loss": float("nan")})], recorded_at=NOW)


def test_no_entries_are_no_transaction(ledger: Ledger) -> None:
    assert ledger.append([], recorded_at=NOW) == []


def test_more_keys_than_a_statement_takes_are_one_append(ledger: Ledger) -> None:
    entries = [entry(str(i), refs=(Ref(kind="part", name=str(i), digest=A),)) for i in range(2500)]

    events = ledger.append(entries, recorded_at=NOW)

    assert [event.seq for event in events] == list(range(1, 2501))
    assert ledger.append(entries, recorded_at=NOW) == events
    assert ledger.verify() == []


@pytest.mark.parametrize(
    ("crime", "found"),
    [
        ("UPDATE event SET sentence = 'all is well' WHERE seq = 2", "Event 2 .* does not match its hash"),
        ("UPDATE event SET body = '{' WHERE seq = 2", "Event 2 .* can't be read"),
        ("UPDATE event SET hash = x'00' WHERE seq = 2", "Event 2 .* can't be read"),
        ("UPDATE event SET at = at + 1 WHERE seq = 3", "Event 3 .* does not match its hash"),
        ("DELETE FROM event WHERE seq = 2", "Events 2 to 2 are missing"),
        ("DELETE FROM event WHERE seq = 4", "ends at event 3, but its head says 4"),
        ("DELETE FROM head", "no head"),
        ("UPDATE role SET release = 'mine'", "role champion of rates .live. is not what the events made it"),
        ("DELETE FROM role", "role champion of rates"),
        ("UPDATE ref SET name = 'other'", "Event 3 .* does not match its hash"),
        ("DELETE FROM ref", "Event 3 .* does not match its hash"),
        ("UPDATE ref SET seq = 9", "References of event 9"),
    ],
)
def test_tampering_is_found(ledger: Ledger, path: Path, crime: str, found: str) -> None:
    last = entry("3", refs=(Ref(kind="model", name="m", digest=A),))
    ledger.append([entry("1"), crown("2", "r", 0), last, entry("4")], recorded_at=NOW)
    assert ledger.verify() == []

    execute(path, crime)

    problems = ledger.verify()
    assert any(re.search(found, problem) for problem in problems), problems


def test_a_time_that_is_none_is_corrupt_not_a_traceback(ledger: Ledger, path: Path) -> None:
    ledger.append([entry("1")], recorded_at=NOW)
    execute(path, "UPDATE event SET at = 'soon'")

    for read in (ledger.events, ledger.verify):
        with pytest.raises(Corrupt, match=r"ST412.*'soon'"):
            read()


def test_the_ledger_waits_for_the_disk_at_every_commit(ledger: Ledger) -> None:
    with ledger._database.read("look") as connection:  # no public way to see a setting of a connection
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }

    assert pragmas == {"journal_mode": "wal", "synchronous": 2}


def test_a_ledger_opens_again_with_all_it_had(path: Path) -> None:
    with closing(Ledger.open(path)) as first:
        events = first.append([entry("1"), entry("2")], recorded_at=NOW)

    with closing(Ledger.open(str(path))) as by_path, closing(Ledger.open(f"sqlite:///{path}")) as by_url:
        assert by_path.events() == by_url.events() == events


def test_processes_that_make_the_ledger_at_once_all_succeed(path: Path) -> None:
    code = (
        "import sys; from datetime import datetime, UTC; from staytrue.store.ledger import Entry, Ledger\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "at = datetime(2026, 3, 1, tzinfo=UTC)\n"
        "entry = Entry(app='rates', key=sys.argv[2], at=at, kind='k', sentence='s')\n"
        "Ledger.open(sys.argv[1]).append([entry], recorded_at=at)"
    )
    command = [sys.executable, "-c", code, str(path)]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    processes = [subprocess.Popen([*command, str(i)], **pipes) for i in range(4)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    assert [process.communicate()[1] for process in processes] == [""] * 4

    with closing(Ledger.open(path)) as ledger:
        assert {event.key for event in ledger.events()} == {"0", "1", "2", "3"}
        assert ledger.verify() == []


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(ledger: Ledger, path: Path) -> None:
    ledger.close()
    execute(path, f"INSERT INTO schema_version VALUES ({LATEST + 1})")

    with pytest.raises(InvalidInput, match=rf"ST413.*version {LATEST + 1}.*up to {LATEST}"):
        Ledger.open(path)


def test_the_migrated_tables_have_the_columns_that_the_statements_name(path: Path) -> None:
    Ledger.open(path).close()
    engine = create_engine(f"sqlite:///{path}")
    found = inspect(engine)

    for table in chain.EVENT.metadata.sorted_tables:
        assert [column["name"] for column in found.get_columns(table.name)] == [column.name for column in table.columns]
    engine.dispose()


def test_postgres_gets_the_same_statements() -> None:
    query = chain.where(chain.EVENT.select(), {chain.EVENT.c.app: "rates"})

    assert "FROM event" in str(query.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]


def test_a_file_that_is_no_ledger_is_corrupt_not_a_traceback(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is not a database" * 1000)

    with pytest.raises(Corrupt, match="ST412"):
        Ledger.open(path)


@pytest.mark.parametrize("table", ["event", "head"], ids=["the first statement fails", "the last but one fails"])
def test_a_migration_that_fails_leaves_the_database_as_it_was(path: Path, table: str) -> None:
    path.parent.mkdir(parents=True)
    execute(path, f"CREATE TABLE {table} (what TEXT)")

    with pytest.raises(Corrupt, match="ST412"):
        Ledger.open(path)

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [(table,)]


@pytest.mark.parametrize("url", ["nonsense://x", "postgresql+nodriver://x/y", "://"])
def test_an_unknown_kind_of_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="ST420"):
        Ledger.open(url)


def test_a_directory_in_place_of_the_file_is_unavailable(path: Path) -> None:
    path.mkdir(parents=True)

    with pytest.raises(Unavailable, match="ST411"):
        Ledger.open(path)


def test_a_ledger_held_by_another_writer_is_unavailable_after_the_wait(ledger: Ledger, path: Path) -> None:
    ledger.close()
    impatient = Ledger(f"sqlite:///{path}?timeout=0.1")
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="ST410"):
            impatient.append([entry("k")], recorded_at=NOW)
        assert impatient.events() == []  # reading goes on
    impatient.close()
