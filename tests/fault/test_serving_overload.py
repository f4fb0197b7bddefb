"""Ten times more than a server can do: it goes on doing what it can, in time, and tells the others so at once."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import pytest
from load import Load, Reply, Report
from served import Judge, Kept, Up, predict, up

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory in /proc")

MS = 5.0
"""For a row, all of it slept: the model can do 200 a second, and takes no processor from the load."""
CAPACITY = 1000 / MS
DEADLINE_S = 1.0


@pytest.mark.parametrize(("rounds", "seconds"), [(1, 2.0), pytest.param(3, 12.0, marks=pytest.mark.fault_long)])
def test_ten_times_too_much_costs_no_goodput_no_memory_and_no_punctuality(
    fast_disk, kept: Kept, rounds: int, seconds: float
) -> None:
    judge = Overloaded(Judge.of(kept, 503))
    with up(kept.copied(fast_disk / "store"), "--deadline-s", str(DEADLINE_S)) as server:
        best, loaded, memory, health = [], [], [], []
        for _ in range(rounds):
            with Load(server.port, slow, connections=16, check=judge) as load, watched(server) as usual:
                load.wait_for(16)
                time.sleep(seconds)  # a length of time is what is wanted
            best.append(load.report)
            with (
                Load(server.port, slow, connections=64, at_most=1000, rate=10 * CAPACITY, check=judge) as load,
                watched(server) as under,
            ):
                load.wait_for(16)
                begun = time.monotonic()
                time.sleep(seconds)
                stopped = time.monotonic()
            loaded.append(load.report.during(begun, stopped))
            memory.append((max(usual.pss_mb), max(under.pss_mb)))
            health += under.health_s
        unhurried = Load(server.port, predict, connections=4, requests=100, check=judge).start().wait()

    for before, now, (usual_mb, under_mb) in zip(best, loaded, memory, strict=True):
        print(
            figures(before, now), f"PSS {usual_mb:.0f} -> {under_mb:.0f} MB, health {1000 * max(health):.0f} ms at most"
        )
    assert [report.faults for report in (*best, *loaded, unhurried)] == [[]] * (2 * rounds + 1)
    assert [report.statuses.keys() for report in best] == [{200}] * rounds
    assert [report.statuses.keys() for report in loaded] == [{200, 503}] * rounds
    assert len(unhurried.good) == 100
    assert judge.without_retry_after == []
    assert judge.codes <= {"ST760", "ST764"}
    # Nobody is made to wait for a refusal.
    assert [median(refusals_s(report)) < DEADLINE_S / 4 for report in loaded] == [True] * rounds
    if rounds > 1:
        # Others work on this machine too: the middle one of the rounds counts.
        assert median(goodput(now) / before.good_per_s for before, now in zip(best, loaded, strict=True)) >= 0.9
        assert median(report.latency_s(0.99) for report in loaded) <= DEADLINE_S
        assert median(under_mb / usual_mb for usual_mb, under_mb in memory) <= 1.3
        assert max(health) < DEADLINE_S


def slow(number: int) -> bytes:
    return predict(number, MS)


@dataclass
class Overloaded:
    """What the answers must be, and what the refusals said."""

    judge: Judge
    without_retry_after: list[Reply] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)

    def __call__(self, number: int, reply: Reply) -> str:
        if reply.status == 503:
            if not reply.headers.get("retry-after", "").isdigit():
                self.without_retry_after.append(reply)
            self.codes.add(reply.body.partition(b'"code":"')[2][:5].decode())
        return self.judge(number, reply)


@dataclass
class Watch:
    """Memory of the tree, and how long `/healthz` took, several times a second."""

    server: Up
    pss_mb: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)

    def look(self, over: threading.Event) -> None:
        tree = self.server.tree()  # once: to look for it takes the load generator's time
        while not over.is_set():
            began = time.monotonic()
            assert self.server.get("/healthz") == 200
            self.health_s.append(time.monotonic() - began)
            self.pss_mb.append(self.server.pss_mb(tree))
            over.wait(0.5)


@contextmanager
def watched(server: Up):
    """A watch beside what happens in this block."""
    watch, over = Watch(server), threading.Event()
    thread = threading.Thread(target=watch.look, args=[over])
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
    assert watch.pss_mb


def goodput(report: Report) -> float:
    """Good answers a second among those that were due in that time."""
    due = [answer.due_at for answer in report.answers]
    return len(report.good) / (max(due) - min(due))


def refusals_s(report: Report) -> list[float]:
    """How long each refusal took, sorted."""
    return sorted(answer.done_at - answer.sent_at for answer in report.answers if answer.status == 503)


def figures(before: Report, now: Report) -> str:
    refused = refusals_s(now)
    return (
        f"best {before.good_per_s:.0f}/s, at 10x {goodput(now):.0f}/s ({len(now.answers)} asked);"
        f" accepted p99 {1000 * now.latency_s(0.99):.0f} ms, refused after {1000 * median(refused):.1f} ms at"
        f" the median, {1000 * refused[int(0.99 * len(refused))]:.0f} ms at p99;"
    )
