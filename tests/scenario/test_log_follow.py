"""`staytrue log --follow`: events as they are committed, in a process of its own that reads through a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from staytrue.store.ledger import Entry, Ledger

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PATIENCE_S = 30.0


def note(ledger: Ledger, *names: str, kind: str = "noted", timeline: str = "live") -> None:
    """Commit an event for each name, all of them at once."""
    entries = [
        Entry(
            app="shop",
            timeline=timeline,
            key=name,
            at=NOW - timedelta(days=len(name)),
            kind=kind,
            sentence=f"Noted {name}.",
        )
        for name in names
    ]
    ledger.append(entries, recorded_at=NOW)


class Following:
    """A running `staytrue log --follow` and the lines that it has written."""

    def __init__(self, root: Path, *flags: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {
            "NO_COLOR": "1"
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "staytrue", "log", "--follow", "--store", str(root), *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def lines(self, count: int) -> list[str]:
        """The next so many lines, as soon as they are there."""
        return [self._lines.get(timeout=PATIENCE_S) for _ in range(count)]

    def more(self) -> list[str]:
        """What else was written, after the process has ended."""
        self._reader.join(PATIENCE_S)
        return list(self._lines.queue)

    def interrupt(self) -> int:
        """Ctrl-C: the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def following(root: Path, *flags: str) -> Iterator[Following]:
    one = Following(root, *flags)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        one.process.stderr.close()
        one._reader.join(PATIENCE_S)
        one.process.stdout.close()


@pytest.fixture
def ledger(tmp_path) -> Iterator[Ledger]:
    made = Ledger.open(tmp_path / "ledger.db")
    note(made, "a", "bb", "ccc")
    yield made
    made.close()


def test_events_come_as_they_are_committed_and_ctrl_c_ends_it_well(ledger, tmp_path):
    with following(tmp_path) as log:
        assert [line.split()[-1] for line in log.lines(3)] == ["a.", "bb.", "ccc."]
        for name in ("one", "two"):
            note(ledger, name)
            (line,) = log.lines(1)
            assert line == f"2026-02-26 00:00 noted       Noted {name}."
        assert log.interrupt() == 0
        assert log.more() == []
        assert log.process.stderr.read() == ""


def test_with_json_each_line_is_a_document(ledger, tmp_path):
    with following(tmp_path, "--json", "-n", "1") as log:
        found = [json.loads(line) for line in log.lines(1)]
        note(ledger, "x", "y")
        found += [json.loads(line) for line in log.lines(2)]
        assert [one["seq"] for one in found] == [3, 4, 5]
        assert {"seq", "id", "kind", "sentence", "body", "hash"} <= set(found[0])


def test_only_the_newest_are_shown_first_and_then_only_what_the_flags_ask_for(ledger, tmp_path):
    note(ledger, "old", "older", kind="asked")
    with following(tmp_path, "-n", "1", "--kind", "asked", "--timeline", "all", "--json") as log:
        assert json.loads(*log.lines(1))["sentence"] == "Noted older."
        note(ledger, "no", "nor", timeline="orders")
        note(ledger, "yes", kind="asked", timeline="orders")
        note(ledger, "too", kind="asked", timeline="elsewhere")
        assert [json.loads(line)["sentence"] for line in log.lines(2)] == ["Noted yes.", "Noted too."]


HOLD = """
import fcntl, sys
# The bytes by which SQLite's readers and writers of a WAL see each other.
file = open(sys.argv[1] + "-shm", "r+b")
fcntl.lockf(file, fcntl.LOCK_EX, 8, 120)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Nobody can read or write the ledger within this block."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield


@pytest.mark.skipif(sys.platform == "win32", reason="the lock is taken as POSIX does")
@pytest.mark.parametrize("gives_up", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_ledger_that_nobody_can_read_for_a_while_is_waited_for(ledger, tmp_path, gives_up):
    with following(tmp_path, "-n", "1") as log:
        # given
        log.lines(1)
        # when
        with held(tmp_path / "ledger.db"):
            if gives_up:  # SQLite does, after some 10 s of trying
                while not log.process.stderr.readline().endswith("again.\n"):  # it may take several lines
                    assert log.process.poll() is None
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 1)
        note(ledger, "late")
        # then
        assert log.lines(1)[0].endswith("Noted late.")
        assert log.process.poll() is None


def test_waiting_costs_next_to_nothing(ledger, tmp_path):
    with following(tmp_path, "-n", "1") as log:
        log.lines(1)
        process = psutil.Process(log.process.pid)
        began, before = time.monotonic(), process.cpu_times()
        wait_until(lambda: time.monotonic() - began > 2)
        spent = sum(process.cpu_times()[:2]) - sum(before[:2])
        assert spent < 0.1 * (time.monotonic() - began)


def test_a_reader_that_has_gone_away_ends_it(ledger, tmp_path):
    command = [sys.executable, "-m", "staytrue", "log", "--follow", "-n", "1", "--store", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as log:
        # given
        assert log.stdout.readline()
        # when
        log.stdout.close()
        # then it does not wait for another event
        assert log.wait(PATIENCE_S) == 0
        assert log.stderr.read() == ""


def wait_until(holds) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("count", "shown"), [("0", 0), ("2", 2), ("99", 3)])
def test_n_shows_the_newest_so_many(ledger, tmp_path, staytrue, count, shown):
    code, out, _ = staytrue("log", "--store", tmp_path, "--json", "-n", count)
    assert code == 0
    # By the clock of the events: the longest name is the oldest.
    assert [e["sentence"] for e in json.loads(out)["events"]] == ["Noted ccc.", "Noted bb.", "Noted a."][3 - shown :]


def test_a_count_below_none_is_refused(ledger, tmp_path, staytrue):
    code, out, _ = staytrue("log", "--store", tmp_path, "--json", "-n", "-1")
    assert (code, json.loads(out)["code"]) == (2, "ST855")
