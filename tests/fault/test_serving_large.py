"""Requests of eight megabytes beside requests of one row: both are answered, and the small ones hardly notice."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from asker import apart
from load import Load, ask
from served import Judge, Kept, Up, large, predict, up, whole

MIB = 1 << 20
LONG = pytest.mark.fault_long


@pytest.fixture(scope="module")
def server(tmp_path_factory, kept: Kept):
    """For all tests here: after each it serves as before. The deadline is no part of what they show."""
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(dir=memory)) if memory.is_dir() else tmp_path_factory.mktemp("large")
    try:
        with up(kept.copied(place / "store"), "--deadline-s", "10") as running:
            yield running
    finally:
        shutil.rmtree(place)


SOME = {"connections": 8, "at_most": 200, "rate": 200.0}
ALL_THAT_GOES = {"connections": 64}


@pytest.mark.parametrize(("small", "pause_s", "rounds", "seconds"), [
    pytest.param(SOME, 0.1, 1, 1.0, id="short"),
    # What eight megabytes cost has to come from somewhere: on two cores one after the other takes most of one.
    pytest.param(SOME, 0.5, 7, 3.0, id="some small ones", marks=LONG),
    pytest.param(ALL_THAT_GOES, 0.0, 7, 3.0, id="all that goes", marks=LONG),
])  # fmt: skip
def test_small_requests_beside_a_large_one_wait_hardly_longer(  # noqa: PLR0917 - what pytest hands in
    tmp_path, server: Up, kept: Kept, small, pause_s, rounds, seconds
) -> None:
    judge, request = Judge.of(kept), large(40_000, 8 * MIB)
    alone_s, beside_s, answered = [], [], []
    path = tmp_path / "request"
    path.write_bytes(request)
    warm = ask(server.port, request, timeout_s=60)  # the process that reads large requests starts with the first
    for _ in range(rounds):
        with Load(server.port, predict, **small, check=judge) as load:
            load.wait_for(10)
            time.sleep(seconds)  # a length of time is what is wanted
        alone_s.append(load.report)
        with (
            apart("again", server.port, path, pause_s) as lines,
            Load(server.port, predict, **small, check=judge) as load,
        ):
            load.wait_for(10)
            time.sleep(seconds)
        beside_s.append(load.report)
        answered += [status for status, _ in lines]

    assert answered == [200] * len(answered)
    assert whole(warm, 40_000)
    assert [report.faults for report in (*alone_s, *beside_s)] == [[]] * (2 * rounds)
    pairs = [(a.latency_s(0.99), b.latency_s(0.99)) for a, b in zip(alone_s, beside_s, strict=True)]
    # Others work on this machine too: the middle ones of the rounds count.
    ratio = statistics.median(beside for _, beside in pairs) / statistics.median(alone for alone, _ in pairs)
    shown = " ".join(f"{1000 * alone:.1f}->{1000 * beside:.1f}" for alone, beside in pairs)
    print(f"{len(answered)} requests of 8 MiB beside {beside_s[-1].good_per_s:.0f} small ones a second: p99 of these {shown} ms,"
          f" ratio of the middle ones {ratio:.2f}")  # fmt: skip
    if rounds > 1:
        assert ratio <= 2.0


def test_small_requests_are_let_in_while_a_large_one_takes_its_time(server: Up, kept: Kept) -> None:
    # 60,000 rows of 0.05 ms: three seconds of work, more rows than may wait, and far more than the deadline.
    request = large(60_000, 3 * MIB, ms=0.05)
    judge = Judge.of(kept)
    ask(server.port, large(1_000, MIB, ms=0.05))  # learns how long a row takes
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, server.port, request, timeout_s=60)
        with Load(server.port, predict, connections=4, at_most=200, rate=100, check=judge) as load:
            done = slow.result()
    report = load.report

    assert done.status == 200, done.body[:300]
    assert whole(done, 60_000)
    assert report.faults == [], report.faults[:2]
    assert len(report.good) > 50
    print(f"{len(report.good)} small requests beside it, p99 {1000 * report.latency_s(0.99):.0f} ms")


@pytest.mark.parametrize("at_once", [4, pytest.param(16, marks=LONG)])
def test_several_large_requests_at_once_are_answered_or_told_to_come_again(
    server: Up, kept: Kept, at_once: int
) -> None:
    judge, request = Judge.of(kept), large(20_000, 8 * MIB)
    usual_mb = server.pss_mb()
    with (
        ThreadPoolExecutor(at_once) as pool,
        Load(server.port, predict, connections=4, at_most=200, rate=50, check=judge) as load,
    ):
        replies = list(pool.map(lambda _: ask(server.port, request, timeout_s=60), range(at_once)))
        load.wait_for(10)
    again = ask(server.port, request, timeout_s=60)

    print(
        f"{at_once} at once: {Counter(reply.status for reply in replies)}, PSS {usual_mb:.0f} -> {server.pss_mb():.0f} MB"
    )
    assert {reply.status for reply in replies} <= {200, 503}
    assert all(whole(reply, 20_000) for reply in replies if reply.status == 200)
    assert any(reply.status == 200 for reply in replies)
    assert all("retry-after" in reply.headers for reply in replies if reply.status == 503)
    assert load.report.faults == []
    assert again.status == 200


@pytest.mark.parametrize("told", ["content-length", "chunked"])
def test_a_body_beyond_the_limit_is_refused(server: Up, told: str) -> None:
    request = large(60_000, 17 * MIB)
    if told == "chunked":
        body = request.partition(b"\r\n\r\n")[2]
        pieces = [body[at : at + MIB] for at in range(0, len(body), MIB)]
        head = b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
        request = head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    refused = ask(server.port, request)
    after = ask(server.port, predict(1))

    assert (refused.status, after.status) == (413, 200)
