"""Releases that change under load: nobody is refused, and every answer is that of the release which it names."""

from __future__ import annotations

import itertools
import sys
import time
from contextlib import closing

import pytest
from load import Answer, Load, Report
from served import FIRST, SECOND, Judge, Kept, Up, give, predict, up

from staytrue.store.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")

CONNECTIONS = 32


@pytest.mark.parametrize(("swaps", "best_s"), [(20, 0.5), pytest.param(1000, 5.0, marks=pytest.mark.fault_long)])
def test_swaps_under_load_fail_nobody_and_mix_nothing(tmp_path, kept: Kept, swaps: int, best_s: float) -> None:
    judge = Judge.of(kept)
    with up(kept.copied(tmp_path / "store")) as server:
        rate = 0.8 * best(server, best_s)
        with Load(server.port, predict, connections=CONNECTIONS, rate=rate, check=judge) as load:
            load.wait_for(100)
            given = swapped(server, kept, load, swaps)
        report = load.report

    assert report.faults == []
    assert report.statuses.keys() == {200}
    took_s = effects_s(report, given)
    print(
        f"{swaps} swaps at {rate:.0f} requests/s: {len(report.good)} good answers, p99 {1000 * report.latency_s(0.99):.1f} ms"
        f" ({1000 * sent_p99_s(report):.1f} from when they were sent); in effect after {1000 * max(took_s):.0f} ms at most,"
        f" {1000 * sorted(took_s)[len(took_s) // 2]:.0f} ms at the median"
    )
    assert max(took_s) < 1.0


def best(server: Up, seconds: float) -> float:
    """What this load generator and the server do together when nothing swaps."""
    with Load(server.port, predict, connections=CONNECTIONS) as load:
        load.wait_for(200)
        time.sleep(seconds)  # a length of time is what is wanted here
    return load.report.good_per_s


def swapped(server: Up, kept: Kept, load: Load, swaps: int) -> list[tuple[float, float, str]]:
    """Each swap, once the one before is in effect: when it was begun, when it was written down, and to which release."""
    given = []
    with closing(Store(server.store)) as store:
        for new, old in itertools.islice(itertools.cycle([(FIRST, SECOND), (SECOND, FIRST)]), swaps):
            release = kept.releases[new]
            begun = time.monotonic()
            written = give(store, champion=release, previous=kept.releases[old])
            given.append((begun, written, release))
            seen(load, release, written)
    return given


def sent_p99_s(report: Report) -> float:
    """Without what a request waited for the load generator to send it."""
    times = sorted(answer.done_at - answer.sent_at for answer in report.good)
    return times[int(0.99 * len(times))]


def seen(load: Load, release: str, since: float) -> None:
    """Wait until this release has answered a request that was sent after the swap."""
    looked = max(0, len(load.answers) - CONNECTIONS)
    while time.monotonic() < since + 30:
        now = len(load.answers)
        if any(answer.release == release and answer.sent_at >= since for answer in load.answers[looked:now]):
            return
        looked = now
        time.sleep(0.001)
    raise TimeoutError(f"{release[:8]} does not answer; last answers: {load.answers[-3:]}")


def effects_s(report: Report, given: list[tuple[float, float, str]]) -> list[float]:
    """How long each swap took until it was in effect; from then on, no request may be answered by the old release."""
    answers = sorted(report.good, key=lambda answer: answer.sent_at)
    ends = [begun for begun, _, _ in given[1:]] + [float("inf")]
    took = []
    at = 0
    for (_, written, release), end in zip(given, ends, strict=True):
        while at < len(answers) and answers[at].sent_at < written:
            at += 1
        mine: list[Answer] = []
        while at < len(answers) and answers[at].sent_at < end:
            mine.append(answers[at])
            at += 1
        effect = min(answer.done_at for answer in mine if answer.release == release)
        old = [a for a in mine if a.sent_at >= effect and a.done_at < end and a.release != release]
        assert old == [], f"answered by the old release after the new one had answered: {old[:3]}"
        took.append(effect - written)
    return took
