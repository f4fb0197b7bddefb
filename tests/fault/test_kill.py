"""kill -9 at any moment, beside another process on the same store: what was acknowledged is there, and all is sound."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from serving import WORKLOAD

from staytrue.store.ledger import Ledger
from staytrue.store.objects import LocalObjects
from staytrue.store.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 60


class Writer:
    """A process that writes until it is killed; `acknowledged` is what it said is done."""

    def __init__(self, store: Path, name: str) -> None:
        command = [sys.executable, str(WORKLOAD), "loop", str(store), name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.acknowledged: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                # The last line may be cut: then nobody was told.
                self.acknowledged += [line.rstrip()] if line.endswith("\n") else []
                self._more.notify_all()

    def wait_for(self, count: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: len(self.acknowledged) >= count, DEADLINE_S)

    def kill(self) -> str:
        """Ends it like a power switch; gives back what it complained of."""
        self.process.kill()
        self._reader.join()
        assert self.process.stderr is not None
        with self.process.stderr, self.process.stdout or self.process.stderr:
            said = self.process.stderr.read()
        self.process.wait()
        return said


@pytest.mark.parametrize("kills", [5, pytest.param(40, marks=pytest.mark.fault_long)])
def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path, kills: int) -> None:
    source = random.Random(kills)
    acknowledged: set[str] = set()
    witness = Writer(tmp_path, "witness")
    try:
        for _ in range(kills):
            victim = Writer(tmp_path, "victim")
            try:
                victim.wait_for(source.randrange(1, 40))
                # Not a wait for anything: the moment of the kill is what is random.
                time.sleep(source.random() * 0.01)
            finally:
                assert victim.kill() == ""
            acknowledged |= set(victim.acknowledged)
            assert_sound(tmp_path, acknowledged)
        witness.wait_for(1)
    finally:
        assert witness.kill() == ""
    assert_sound(tmp_path, acknowledged | set(witness.acknowledged))


def assert_sound(store: Path, acknowledged: set[str]) -> None:
    objects = LocalObjects(store)
    with closing(Ledger.open(store / "ledger.db")) as ledger:
        there = {f"event {event.app} {event.key}" for event in ledger.events()}
        there |= {f"object {stored.digest}" for stored in objects.list()}
        assert acknowledged <= there
        assert verify(objects, ledger).problems == []
