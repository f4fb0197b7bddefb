"""Clients that send half a request and wait, or a byte a second, or nothing: they are sent away, and nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import pytest
from asker import apart
from load import Hung, Load, Report, ask, get, half_sent, post
from served import Judge, Kept, Up, predict, row, until, up

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory in /proc")

LONG = pytest.mark.fault_long
RATE = 200.0
CLOSED_S = 10.0
REQUEST = predict(1)
HEAD_BYTES = REQUEST.index(b"\r\n\r\n") + 4
KINDS = {
    "half a head": (HEAD_BYTES // 2, 0.0),
    "half a body": ((HEAD_BYTES + len(REQUEST)) // 2, 0.0),
    "a byte a second": (10, 1.0),
    "a byte of the body a second": (HEAD_BYTES, 1.0),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory, kept: Kept):
    """For tests after which it serves as before."""
    with up(kept.copied(tmp_path_factory.mktemp("slow") / "store")) as running:
        yield running


def test_requests_that_never_become_whole_are_closed_in_time(server: Up, kept: Kept) -> None:
    judge = Judge.of(kept)
    with (
        ThreadPoolExecutor(len(KINDS)) as pool,
        Load(server.port, predict, connections=4, rate=50, check=judge) as load,
    ):
        hung = dict(zip(KINDS, pool.map(lambda kind: halves(server, *KINDS[kind]), KINDS), strict=True))
    report = load.report

    for kind, ones in hung.items():
        print(f"{kind}: closed after {max(one.closed_s for one in ones):.1f} s, {Counter(one.status for one in ones)}")
    assert {one.status for ones in hung.values() for one in ones} == {408}
    assert max(one.closed_s for ones in hung.values() for one in ones) <= CLOSED_S
    assert report.faults == []
    assert len(report.good) > 100


def halves(server: Up, cut: int, drip_s: float) -> list[Hung]:
    return half_sent(server.port, REQUEST, 50, sent=cut, drip_s=drip_s or None, deadline_s=15)


@LONG
def test_others_hardly_notice_a_thousand_half_sent_requests(fast_disk, kept: Kept) -> None:
    kinds, count, rounds, seconds = list(KINDS), 1000, 3, 6.0
    judge = Judge.of(kept)
    path = fast_disk / "request"
    path.write_bytes(REQUEST)
    alone: dict[str, list[Report]] = {kind: [] for kind in kinds}
    beside: dict[str, list[Report]] = {kind: [] for kind in kinds}
    closed_s: dict[str, list[float]] = {kind: [] for kind in kinds}
    memory_mb: dict[str, float] = {}
    with up(kept.copied(fast_disk / "store")) as server:
        memory_mb["alone"] = server.pss_mb()
        for kind in kinds * rounds:
            alone[kind].append(steady(server.port, judge, seconds))
            with apart("halves", server.port, path, count, *KINDS[kind]) as lines:
                beside[kind].append(steady(server.port, judge, seconds))
                memory_mb[kind] = server.pss_mb()
            closed_s[kind] += [seconds_open for seconds_open, _ in lines]
        after = ask(server.port, get("/healthz"))

    for kind in kinds:
        print(figures(f"{count} of {kind}", alone[kind], beside[kind]), f"closed after {max(closed_s[kind]):.1f} s")
    print({name: f"{size:.0f} MB" for name, size in memory_mb.items()})
    assert [report.faults for kind in kinds for report in (*alone[kind], *beside[kind])] == [[]] * 2 * len(
        kinds
    ) * rounds
    assert max(max(closed) for closed in closed_s.values()) <= CLOSED_S
    assert [len(closed) for closed in closed_s.values()] == [count * rounds] * len(kinds)
    assert after.status == 200
    for kind in kinds:
        assert ratio(alone[kind], beside[kind]) <= 2.0, kind


def test_bodies_that_are_only_told_of_take_no_room_from_others(server: Up) -> None:
    # All of them together say that they will send more than the server holds of bodies, and send a byte.
    told = post("/predict", b"").replace(b"content-length: 0", b"content-length: %d") + b"{"
    rows = b'{"rows":[%s]}' % b",".join(row(number) for number in range(4_000))
    with contextlib.ExitStack() as hung:
        for size in [15_000_000] * 10 + [1_000_000] * 20 + [100_000] * 20 + [20_000] * 20:
            hung.enter_context(socket.create_connection(("127.0.0.1", server.port))).sendall(told % size)
        other = in_two_pieces(server.port, post("/predict", rows))

    assert b" 200 " in other, other


def test_a_head_of_a_megabyte_is_refused(server: Up) -> None:
    request = get("/healthz", x=1_000_000 * "a")
    before_mb = server.pss_mb()
    hung = half_sent(server.port, request, 20, sent=len(request) - 10, deadline_s=15)
    after = ask(server.port, REQUEST)

    print(f"closed after {max(one.closed_s for one in hung):.2f} s, {Counter(one.status for one in hung)},"
          f" PSS {before_mb:.0f} -> {server.pss_mb():.0f} MB")  # fmt: skip
    # 0: the client was still sending when the connection was reset, and could not read why.
    assert {one.status for one in hung} <= {431, 0}
    assert max(one.closed_s for one in hung) < 3
    assert after.status == 200


@pytest.mark.parametrize(("count", "rounds", "seconds"), [(500, 1, 1.0), pytest.param(5000, 5, 3.0, marks=LONG)])
def test_idle_connections_cost_nobody_anything(fast_disk, kept: Kept, count: int, rounds: int, seconds: float) -> None:
    judge = Judge.of(kept)
    alone, beside = [], []
    with up(kept.copied(fast_disk / "store")) as server:
        before_mb = server.pss_mb()
        for _ in range(rounds):
            alone.append(steady(server.port, judge, seconds))
            with contextlib.ExitStack() as open_ones:
                idle = [open_ones.enter_context(asked_once(server.port)) for _ in range(count)]
                beside.append(steady(server.port, judge, seconds))
                during_mb = server.pss_mb()
                closed = sum(is_closed(sock) for sock in idle)

    print(figures(f"{count} idle connections", alone, beside), f"PSS {before_mb:.0f} -> {during_mb:.0f} MB")
    assert [report.faults for report in (*alone, *beside)] == [[]] * 2 * rounds
    assert closed == 0


def test_more_connections_than_are_allowed_make_the_slowest_go(tmp_path, kept: Kept) -> None:
    with up(kept.copied(tmp_path / "store"), "--connections", "50") as server, contextlib.ExitStack() as open_ones:
        for _ in range(80):
            sock = open_ones.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            sock.sendall(REQUEST[:20])
        answered = [ask(server.port, REQUEST).status for _ in range(20)]

    assert answered == [200] * 20


def test_who_does_not_read_the_answer_is_let_go(server: Up) -> None:
    # An answer of megabytes that nobody takes would stay in the server's memory.
    rows = b'{"rows":[%s]}' % b",".join(row(number) for number in range(90_000))
    with unread(server.port, post("/predict", rows)) as deaf:
        until(lambda: deaf in established(server), "the request", seconds=10)
        began = time.monotonic()
        until(lambda: deaf not in established(server), "the end of who does not read", seconds=30)
        print(f"let go after {time.monotonic() - began:.1f} s")
    after = ask(server.port, REQUEST)

    assert after.status == 200


@contextlib.contextmanager
def unread(port: int, request: bytes):
    """Sends a request and reads no byte of the answer; the port that it does so from."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.sendall(request)
        yield sock.getsockname()[1]


def established(server: Up) -> set[int]:
    """The ports of clients to which the server holds a connection."""
    front = server.front()
    held = front.net_connections("tcp") if front is not None else []
    return {one.raddr.port for one in held if one.status == "ESTABLISHED"}


def steady(port: int, judge: Judge, seconds: float) -> Report:
    """A load far below what the server can do."""
    with Load(port, predict, connections=8, at_most=200, rate=RATE, check=judge) as load:
        load.wait_for(10)
        time.sleep(seconds)  # a length of time is what is wanted
    return load.report


def ratio(alone: list[Report], beside: list[Report]) -> float:
    """Of the p99; the middle one of the rounds, for others work on this machine too."""
    return median(one.latency_s(0.99) for one in beside) / median(one.latency_s(0.99) for one in alone)


def figures(what: str, alone: list[Report], beside: list[Report]) -> str:
    pairs = [(1000 * a.latency_s(0.99), 1000 * b.latency_s(0.99)) for a, b in zip(alone, beside, strict=True)]
    shown = " ".join(f"{a:.1f}->{b:.1f}" for a, b in pairs)
    return f"{what}: p99 of others {shown} ms, ratio of the middle ones {ratio(alone, beside):.2f};"


def in_two_pieces(port: int, request: bytes) -> bytes:
    """The beginning of the answer to a request whose body comes in two pieces."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(request[: len(request) // 2])
        time.sleep(0.3)  # so that they are two
        sock.sendall(request[len(request) // 2 :])
        return sock.recv(1000)


def asked_once(port: int) -> socket.socket:
    """A connection that has had its answer."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    sock.sendall(get("/healthz"))
    assert b" 200 " in sock.recv(1000)
    return sock


def is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
