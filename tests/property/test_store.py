"""The store against a dict: whatever is put, referred to, condemned, damaged and healed, in any order, nothing is lost."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from staytrue.errors import Conflict, Corrupt, NotFound
from staytrue.kernel.release import Digest
from staytrue.store.gc import collect
from staytrue.store.ledger import Entry, Ledger, Ref, RoleChange
from staytrue.store.objects import LocalObjects, digest, manifest
from staytrue.store.verify import verify

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOURS_OF_GRACE = 24


class StoreMachine(RuleBasedStateMachine):
    """The model: `bytes_of` every object ever put, its `age_h` since the last put, what is `referred` to, the champion."""

    names = Bundle("names")

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="staytrue-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.objects = LocalObjects(self.root)
        self.ledger = Ledger.open(self.root / "ledger.db")
        self.bytes_of: dict[Digest, bytes] = {}
        self.age_h: dict[Digest, int] = {}
        self.referred: set[Digest] = set()
        self.damaged: set[Digest] = set()
        self.champion: tuple[str | None, int] = (None, 0)
        self.keys: dict[str, str] = {}

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.ledger.close()
            shutil.rmtree(self.root)

    def _remember(self, name: Digest, data: bytes) -> Digest:
        self.bytes_of[name] = data
        self.age_h[name] = 0
        self.damaged.discard(name)
        return name

    @rule(target=names, data=st.binary(max_size=40))
    def put(self, data: bytes) -> Digest:
        return self._remember(self.objects.put(data), data)

    @rule(target=names, children=st.lists(names, max_size=3))
    def put_document(self, children: list[Digest]) -> Digest:
        # As the product does: what a document names is put before it, so that gc sees it as new too.
        for child in children:
            self._heal(child)
        name = self.objects.put_document({"kind": "set", "of": children})
        return self._remember(name, self.objects.get(name))

    def _heal(self, name: Digest) -> None:
        data = self.bytes_of[name]
        self._remember(self.objects.put(data), data)
        found = manifest(data)
        for child in found.references if found else ():
            self._heal(child)

    @rule(name=names)
    def refer(self, name: Digest) -> None:
        self._heal(name)
        ref = Ref(kind="release", name=name[:8], digest=name)
        entry = Entry(app="a", key=f"refer {name}", at=NOW, kind="made", sentence="", refs=(ref,))
        self.ledger.append([entry], recorded_at=NOW)
        waiting = [name]
        while waiting:
            found = manifest(self.bytes_of[reached := waiting.pop()])
            self.referred.add(reached)
            waiting += found.references if found else ()

    @rule(name=names)
    def read(self, name: Digest) -> None:
        try:
            assert self.objects.get(name) == self.bytes_of[name]
            assert name not in self.damaged
        except Corrupt:
            assert name in self.damaged
        except NotFound:
            assert name not in self.referred
            assert self.age_h[name] > HOURS_OF_GRACE

    @rule(name=names)
    def delete(self, name: Digest) -> None:
        self.objects.delete(name)

    @rule(hours=st.sampled_from([1, 13, 25]))
    def time_passes(self, hours: int) -> None:
        for folder in ("objects", "trash"):
            for path in (self.root / folder).rglob("*"):
                if path.is_file():
                    then = path.stat().st_mtime - hours * 3600
                    os.utime(path, (then, then))
        for name in self.age_h:
            self.age_h[name] += hours

    @rule(name=names, position=st.integers(0, 1000))
    def damage(self, name: Digest, position: int) -> None:
        path = self.root / "objects" / name[:2] / name[2:]
        if path.exists() and path.stat().st_size and name not in self.damaged:
            stat, data = path.stat(), bytearray(path.read_bytes())
            data[position % len(data)] ^= 1
            path.chmod(0o644)
            path.write_bytes(data)
            os.utime(path, (stat.st_mtime, stat.st_mtime))
            self.damaged.add(name)

    @rule(dry_run=st.booleans())
    def gc(self, *, dry_run: bool) -> None:
        report = collect(self.objects, self.ledger, now=datetime.now(UTC), dry_run=dry_run)

        gone = {*report.condemned, *report.deleted}
        assert not gone & self.referred - {name for name in report.deleted if self.objects.has(name)}
        assert all(self.age_h[name] >= HOURS_OF_GRACE for name in report.condemned)
        assert bool(report.blocked) == bool(self.damaged & self.referred)
        if report.blocked:
            assert not gone

    @rule(release=st.sampled_from(["r1", "r2", None]), stale=st.integers(0, 1))
    def promote(self, release: str | None, stale: int) -> None:
        epoch = self.champion[1]
        change = RoleChange(role="champion", release=release, share=1.0, expect_epoch=epoch + stale)
        entry = Entry(app="a", key=f"promote {epoch}", at=NOW, kind="promoted", sentence="", roles=(change,))
        try:
            self.ledger.append([entry], recorded_at=NOW)
            assert not stale
            self.champion = (release, epoch + 1)
        except Conflict:
            assert stale

    @rule(key=st.sampled_from("abc"), value=st.sampled_from("xy"))
    def append(self, key: str, value: str) -> None:
        entry = Entry(app="b", key=key, at=NOW, kind="noted", sentence="", body={"value": value})
        try:
            self.ledger.append([entry], recorded_at=NOW)
            assert self.keys.setdefault(key, value) == value
        except Conflict:
            assert self.keys[key] != value

    @rule()
    def open_again(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.root / "ledger.db")
        self.objects = LocalObjects(self.root)

    @invariant()
    def what_is_referred_to_is_there(self) -> None:
        if hasattr(self, "root"):
            problems = verify(self.objects, self.ledger).problems
            assert {problem.kind for problem in problems} <= {"damaged"}
            assert {problem.digest for problem in problems} >= self.damaged & self.referred
            assert {problem.digest for problem in problems} <= self.damaged

    @invariant()
    def the_ledger_is_the_model(self) -> None:
        if hasattr(self, "root"):
            role = self.ledger.role("a", "live", "champion")
            assert ((role.release, role.epoch) if role else (None, 0)) == self.champion
            assert {event.key: event.body["value"] for event in self.ledger.events("b")} == self.keys


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=25, deadline=None, derandomize=True)


@given(
    st.recursive(
        st.none() | st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_json_survives_an_append_and_the_chain_holds(body: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(Path(folder) / "ledger.db")
        entry = Entry(app="a", key="k", at=NOW, kind="k", sentence="s", body={"value": body})

        ledger.append([entry], recorded_at=NOW)

        assert ledger.events()[0].body == {"value": body}
        assert ledger.append([entry], recorded_at=NOW) == ledger.events()
        assert ledger.verify() == []
        ledger.close()


@given(st.binary(max_size=5000))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_equal_bytes_have_equal_names_whatever_holds_them(data: bytes) -> None:
    assert digest(data) == digest(memoryview(data)) == digest(bytes(bytearray(data)))
