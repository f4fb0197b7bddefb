"""kill -9 and SIGSTOP of the processes of `staytrue up`, but for the keeper: the port stays open and service is back."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from typing import Any

import psutil
import pytest
from load import Load
from served import APP, Judge, Kept, Up, kept_traffic, predict, until, up

from staytrue.store.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

LONG = pytest.mark.fault_long
CONNECTIONS = 8


def front_of(server: Up, but: set[int]) -> psutil.Process:
    def found() -> psutil.Process | None:
        front = server.front()
        return front if front is not None and front.pid not in but else None

    return until(found, "a front")


def alarms(server: Up) -> list[dict[str, Any]]:
    store = Store(server.store)
    try:
        return [event.body for event in store.ledger.events(APP, kinds=["alarm"])]
    finally:
        store.close()


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=LONG)])
def test_a_front_that_is_killed_is_back_within_two_seconds_and_refuses_nobody(tmp_path, kept: Kept, kills: int) -> None:
    judge, source = Judge.of(kept), random.Random(kills)
    silent_s, seen = [], set()
    begun = time.monotonic()
    with up(kept.copied(tmp_path / "store"), "--deadline-s", "20") as server:
        start_s = time.monotonic() - begun
        with Load(server.port, predict, connections=CONNECTIONS, check=judge) as load:
            for _ in range(kills):
                load.wait_for(200)
                front = front_of(server, seen)
                seen.add(front.pid)
                time.sleep(source.uniform(0, 0.2))  # a random moment
                before = len(load.answers)
                began = time.monotonic()
                front.kill()
                load.wait_for(1)
                first = min(a.done_at for a in load.answers[before:] if a.good and a.due_at > began)
                silent_s.append(first - began)
        faults = [answer.fault for answer in load.report.faults]
        opened_and_resolved = until(lambda: len(alarms(server)) >= 2 and alarms(server), "that it is well again")

    # Whoever had a connection has lost it; whoever came while nobody listened was let in later.
    assert [fault for fault in faults if "refused" in fault.lower()] == []
    assert len(faults) <= kills * CONNECTIONS
    kept_rows = kept_traffic(server.store)
    assert set(judge.ids.values()) <= kept_rows.keys(), "answered, and not in the log"
    assert {(body["what"], body["state"]) for body in opened_and_resolved} == {
        ("front", "opened"),
        ("front", "resolved"),
    }
    print(f"front killed {kills} times: the next answer after {1000 * max(silent_s):.0f} ms at most,"
          f" {1000 * sorted(silent_s)[kills // 2]:.0f} ms at the median; {len(faults)} requests cut")  # fmt: skip
    # On a machine with nothing else to do 0.8 s; else as much more as a start takes more.
    assert sorted(silent_s)[kills // 2] < max(2.0, 1.5 * start_s)


@pytest.mark.fault_long
def test_a_front_that_is_stopped_is_replaced(tmp_path, kept: Kept) -> None:
    with up(kept.copied(tmp_path / "store")) as server:
        front = front_of(server, set())
        began = time.monotonic()
        os.kill(front.pid, signal.SIGSTOP)

        with Load(server.port, predict, connections=1, check=Judge.of(kept), timeout_s=2) as load:
            load.wait_for(10)
        back_s = time.monotonic() - began
        lane = until(server.lanes, "a lane")[0]

        assert not front.is_running() or front.status() == psutil.STATUS_ZOMBIE
        assert "gave no sign of life" in server.stderr()
        assert lane.is_running()
    print(f"a stopped front: service back after {back_s:.1f} s")
    assert back_s < 20


@pytest.mark.fault_long
def test_a_front_that_is_stopped_dies_with_its_keeper_and_the_port_is_free(tmp_path, kept: Kept) -> None:
    with up(kept.copied(tmp_path / "store")) as server:
        tree = server.tree()
        front = front_of(server, set())
        os.kill(front.pid, signal.SIGSTOP)

        server.process.kill()
        server.process.wait()

        until(
            lambda: not [one for one in tree if one.is_running() and one.status() != psutil.STATUS_ZOMBIE],
            "the end of all",
            seconds=3,
        )
        with up(server.store, "--port", str(server.port)) as again:
            assert again.get("/readyz") == 200
