"""kill -9 of what serves: a lane, a worker, the whole tree. Nobody's request is lost, and nothing that was acknowledged."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psutil
import pytest
from load import Load, Reply, Report, ask, post
from served import Judge, Kept, Up, kept_traffic, large, predict, until, up, whole

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc for processes that live on")

LONG = pytest.mark.fault_long
CONNECTIONS = 8
WAYS = ("keeper", "keeper and guard", "all", "backwards")


# -- a lane, a worker ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=LONG)])
def test_a_lane_that_is_killed_costs_nobody_an_answer(tmp_path, kept: Kept, kills: int) -> None:
    silent_s = killed_under_load(tmp_path, kept, kills, ["lanes"])

    assert max(silent_s["lanes"]) < 1.0


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=LONG)])
def test_a_worker_that_is_killed_with_or_without_its_lanes_costs_nobody_an_answer(tmp_path, kept, kills) -> None:
    silent_s = killed_under_load(tmp_path, kept, kills, ["workers", "workers and lanes"])

    # Its lanes go on without it.
    assert max(silent_s["workers"]) < 1.0


def killed_under_load(tmp_path, kept: Kept, kills: int, victims: list[str]) -> dict[str, list[float]]:
    """Kill again and again, at random moments; how long nobody got an answer, by victim."""
    judge, source = Judge.of(kept), random.Random(kills)
    killed: list[tuple[str, float, float]] = []
    # Loading a model anew takes as long as it takes; whoever may wait for it is answered.
    with up(kept.copied(tmp_path / "store"), "--deadline-s", "20") as server:
        # Some rows take their time, so that a kill hits work under way.
        with Load(server.port, some_slow, connections=CONNECTIONS, check=judge) as load:
            load.wait_for(50)
            for number in range(kills):
                what = victims[number % len(victims)]
                hit = until(lambda what=what: to_kill(server, what), f"{what} to kill")
                time.sleep(source.uniform(0, 0.03))  # a random moment
                began = time.monotonic()
                for one in hit:
                    one.kill()
                load.wait_for(2 * CONNECTIONS)
                killed.append((what, began, time.monotonic()))
                until(lambda hit=hit: not any(alive(one) for one in hit), "the death of the killed")
        report = load.report

    assert report.faults == []
    assert report.statuses.keys() == {200}
    kept_rows = kept_traffic(server.store)
    assert set(judge.ids.values()) <= kept_rows.keys(), "answered, and not in the log"
    silent_s = {what: [silence(report, begun, end) for w, begun, end in killed if w == what] for what in victims}
    for what, times in silent_s.items():
        print(f"{what} killed {len(times)} times: silent for {1000 * max(times):.0f} ms at most, "
              f"{1000 * sorted(times)[len(times) // 2]:.0f} ms at the median; {len(report.good)} answers")  # fmt: skip
    return silent_s


def some_slow(number: int) -> bytes:
    return predict(number, ms=5.0 if number % 3 == 0 else 0.0)


def to_kill(server: Up, what: str) -> list[psutil.Process]:
    """The processes to kill, once every worker has its lane."""
    workers, lanes = server.workers(), server.lanes()
    if len(workers) < 2 or len(lanes) < 2:
        return []
    return {"lanes": lanes, "workers": workers, "workers and lanes": [*workers, *lanes]}[what]


def silence(report: Report, begun: float, end: float) -> float:
    """The longest time from one answer to the next, from the kill on."""
    times = sorted(answer.done_at for answer in report.good if begun - 0.1 <= answer.done_at <= end)
    return max(b - a for a, b in zip([begun, *times], [*times, end], strict=True) if b >= begun)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=LONG)])
def test_a_large_request_survives_the_death_of_the_process_that_reads_it(tmp_path, kept: Kept, kills: int) -> None:
    source = random.Random(kills)
    request = large(20_000, 4 << 20)
    with up(kept.copied(tmp_path / "store")) as server, ThreadPoolExecutor(1) as pool:
        replies = [ask(server.port, request)]
        for _ in range(kills):
            waiting = pool.submit(ask, server.port, request)
            reader = until(server.reader, "the process that reads large requests")
            time.sleep(source.uniform(0, 0.2))  # a random moment
            with contextlib.suppress(psutil.NoSuchProcess):  # it was still dying of the kill before
                reader.kill()
            replies.append(waiting.result())

    assert [reply.status for reply in replies] == [200] * (1 + kills)
    assert all(whole(reply, 20_000) for reply in replies)


# -- the whole tree -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=LONG)])
def test_what_was_acknowledged_survives_a_kill_of_everything(tmp_path, kept: Kept, kills: int) -> None:
    store, source = kept.copied(tmp_path / "store"), random.Random(kills)
    life = Life(judge=Judge.of(kept))
    cut: Counter[int] = Counter()
    ended_s = []
    for number in range(kills):
        with up(store) as server:
            with (
                Load(server.port, life.asked, connections=CONNECTIONS, check=life.answered) as asking,
                Load(server.port, life.labelled, connections=CONNECTIONS, check=life.acknowledged) as labelling,
            ):
                asking.wait_for(CONNECTIONS)
                labelling.wait_for(CONNECTIONS)
                time.sleep(source.uniform(0, 0.3))  # a random moment
                tree = server.kill_all(WAYS[number % len(WAYS)])
                began = time.monotonic()
                until(lambda tree=tree: not any(alive(one) for one in tree), "the end of the tree", seconds=10)
                ended_s.append(time.monotonic() - began)
            cut.update(answer.status for load in (asking, labelling) for answer in load.report.answers)
        life.next()
        if number % 10 == 9 or number == kills - 1:
            life.check(kept_traffic(store))

    assert cut.keys() == {0, 200}, f"a server that is killed says nothing else: {cut}"
    print(f"killed {kills} times: {len(life.judge.ids)} predictions and {len(life.labels)} labels acknowledged, all there;"
          f" the tree had ended after {1000 * max(ended_s):.0f} ms at most")  # fmt: skip
    assert max(ended_s) < 2.0


@dataclass(kw_only=True)
class Life:
    """Predictions and labels across the lives of a server: what was acknowledged, by number of the prediction's row."""

    judge: Judge
    labels: dict[int, float] = field(default_factory=dict)
    _base: int = 0
    _ready: deque[int] = field(default_factory=deque)
    _sent: dict[int, int] = field(default_factory=dict)

    def asked(self, number: int) -> bytes:
        return predict(self._base + number, ms=1.0)

    def answered(self, number: int, reply: Reply) -> str:
        fault = self.judge(self._base + number, reply)
        if not fault:
            self._ready.append(self._base + number)
        return fault

    def labelled(self, number: int) -> bytes:
        """A label of a prediction that has been acknowledged, by its id or by its key."""
        of = self._ready.popleft() if self._ready else next(iter(self.judge.ids), 0)
        self._sent[number] = of
        who = b'"id":"%s"' % self.judge.ids[of].encode() if of % 2 and of in self.judge.ids else b'"key":%d' % of
        return post("/labels", b'{"labels":[{%s,"label":%d}]}' % (who, of))

    def acknowledged(self, number: int, reply: Reply) -> str:
        if reply.status != 200:
            return f"{reply.status}: {reply.body[:300]!r}"
        self.labels[self._sent[number]] = float(self._sent[number])
        return ""

    def next(self) -> None:
        """Another server; no row of an earlier one comes again."""
        self._base += 1_000_000
        self._ready.clear()
        self._sent.clear()

    def check(self, found: dict[str, tuple[float, float | None]]) -> None:
        """Everything acknowledged is there, with its own answer and its own label."""
        lost = [number for number, id_ in self.judge.ids.items() if id_ not in found]
        assert lost == [], f"{len(lost)} predictions lost"
        wrong = [n for n, id_ in self.judge.ids.items() if found[id_][0] - n not in self.judge.releases.values()]
        assert wrong == [], f"logged with another answer: {wrong[:5]}"
        lost = [n for n, label in self.labels.items() if n in self.judge.ids and found[self.judge.ids[n]][1] != label]
        assert lost == [], f"{len(lost)} labels lost: {lost[:5]}"
