"""Load on an HTTP server, each request written down: closed loops, open loops, requests that are sent by halves.

The client is its own few lines of HTTP/1.1, so that nothing below a test retries, pools or waits without its knowledge.

    with Load(port, lambda number: post("/predict", body), connections=64) as load:      # closed loop
        load.wait_for(1000)                                                              # and meanwhile: kill, swap
    assert load.report.faults == []

    with Load(port, request, connections=8, rate=500): ...                               # 500 a second over 8 connections
    with Load(port, request, connections=8, at_most=2000, rate=500): ...                 # the same, whatever the server does

With a rate, latency counts from the moment when a request was due: a server that stalls does not hide behind requests that
could not be sent meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

T = TypeVar("T")
HOST = "127.0.0.1"
PAUSE_S = 0.01
"""Between two attempts to reach a server that is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request and what became of it.

    Attributes:
        number: the requests in the order in which they were due, from 0.
        due_at, sent_at, done_at: on the clock of `time.monotonic`. Without a rate a request is due when its connection is free.
        status: 0 when no whole answer came.
        release: the header `staytrue-release`, "" without.
        fault: "" for an answer that came and that the check had nothing against.
    """

    number: int
    due_at: float
    sent_at: float
    done_at: float
    status: int
    release: str
    fault: str

    @property
    def latency_s(self) -> float:
        return self.done_at - self.due_at

    @property
    def good(self) -> bool:
        return self.status == 200 and not self.fault


@dataclass(frozen=True, kw_only=True)
class Report:
    """All requests of one load, in the order in which they ended."""

    answers: list[Answer]
    connected: int
    unsent: int
    """Due when the load was stopped, and waiting for a free connection."""

    @property
    def good(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.good]

    @property
    def faults(self) -> list[Answer]:
        """Without a whole answer, or with one that the check refused. A status of 503 alone is no fault."""
        return [answer for answer in self.answers if answer.fault]

    @property
    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    @property
    def releases(self) -> Counter[str]:
        return Counter(answer.release for answer in self.good)

    @property
    def good_per_s(self) -> float:
        """Good answers a second, from the first request that was due to the last answer."""
        span = max(a.done_at for a in self.answers) - min(a.due_at for a in self.answers)
        return len(self.good) / span

    def latency_s(self, share: float, of: list[Answer] | None = None) -> float:
        """The latency that this share of the answers (the good ones) does not exceed; infinite without answers."""
        latencies = sorted(answer.latency_s for answer in (self.good if of is None else of))
        return latencies[max(math.ceil(share * len(latencies)) - 1, 0)] if latencies else math.inf

    def during(self, since: float, until: float) -> Report:
        """The requests that were due in that time."""
        answers = [answer for answer in self.answers if since <= answer.due_at < until]
        return Report(answers=answers, connected=self.connected, unsent=0)


def post(path: str, body: bytes, content_type: str = "application/json", **headers: str) -> bytes:
    """The bytes of a request on a connection that stays open; `authorization="Bearer ..."` and the like are headers."""
    lines = [f"POST {path} HTTP/1.1", f"host: {HOST}", f"content-type: {content_type}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str, **headers: str) -> bytes:
    """The bytes of a GET request."""
    lines = [f"GET {path} HTTP/1.1", f"host: {HOST}", *(f"{n.replace('_', '-')}: {v}" for n, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def ask(port: int, request: bytes, *, timeout_s: float = 30) -> Reply:
    """One request on a connection of its own.

    Raises:
        OSError: nobody listens, or no whole answer came (ConnectionError, TimeoutError).
    """

    async def asked() -> Reply:
        async with _Wires(port, timeout_s) as wires:
            return await (await wires.connected()).ask(request, timeout_s)

    return _run(asked())


# ------------------------------------------------------------ load


@dataclass(kw_only=True)
class _Due:
    number: int
    at: float


class Load:
    """Requests from a thread of its own, from `start` (or `with`) to `stop`.

    Args:
        make: number of the request -> its bytes (`post`, `get`).
        connections: kept alive and used in turn, opened when first needed.
        rate: requests a second in all; None: each connection asks again as soon as it has its answer.
        at_most: with a rate, connections that may be opened when all are busy.
        requests: how many in all; None: until `stop`.
        check: (number, reply) -> what is wrong with it, "" for nothing. It is called in the load's thread, for answers of every
            status; it may also keep what the test wants to know.
        timeout_s: an answer that takes longer is a fault, and its connection is closed.
    """

    def __init__(
        self,
        port: int,
        make: Callable[[int], bytes],
        *,
        connections: int,
        rate: float | None = None,
        at_most: int | None = None,
        requests: int | None = None,
        check: Callable[[int, Reply], str] | None = None,
        timeout_s: float = 30,
    ) -> None:
        self.answers: list[Answer] = []
        """What has ended so far; it only grows, and may be read at any time."""
        self._make, self._check = make, check
        self._connections, self._at_most = connections, max(at_most or 0, connections)
        self._rate, self._timeout_s = rate, timeout_s
        self._wires = _Wires(port, timeout_s)
        self._left = math.inf if requests is None else requests
        self._numbers = 0
        self._connected = self._busy = self._unsent = 0
        self._stopping = False
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._in_thread, name="load", daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> Report:
        """Send nothing more, wait for the answers under way, and tell."""
        self._stopping = True
        return self.wait()

    def wait(self) -> Report:
        """Wait for all the `requests`, and tell."""
        self._thread.join()
        return self.report

    @property
    def report(self) -> Report:
        """What has ended so far."""
        if self._failed is not None:
            raise self._failed
        return Report(answers=list(self.answers), connected=self._connected, unsent=self._unsent)

    def wait_for(self, more: int, *, good: bool = True, deadline_s: float = 60) -> list[Answer]:
        """Wait until so many more answers have come to requests that are due from now on.

        Args:
            good: count the good ones only.

        Raises:
            TimeoutError: they did not come.
        """
        begun, start = time.monotonic(), len(self.answers)
        while time.monotonic() < begun + deadline_s and self._failed is None:
            seen = [a for a in self.answers[start:] if a.due_at >= begun and (a.good or not good)]
            if len(seen) >= more:
                return seen
            if not self._thread.is_alive():
                break
            time.sleep(PAUSE_S)
        new = Counter((a.status, a.fault) for a in self.answers[start:]).most_common(5)
        raise TimeoutError(f"{more} answers did not come within {deadline_s} s; since then: {new}") from self._failed

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------ in the thread

    def _in_thread(self) -> None:
        try:
            _run(self._all())
        except BaseException as error:  # noqa: BLE001  # `report` raises it where the test sees it
            self._failed = error

    async def _all(self) -> None:
        async with self._wires, asyncio.TaskGroup() as users:
            if self._rate is None:
                for _ in range(self._connections):
                    users.create_task(self._closed())
            else:
                await self._open(self._rate, users)

    def _next(self, at: float) -> _Due:
        due = _Due(number=self._numbers, at=at)
        self._numbers += 1
        self._left -= 1
        return due

    async def _closed(self) -> None:
        """One connection that asks, waits, asks."""
        wire: _Wire | None = None
        while not self._stopping and self._left > 0:
            wire = await self._one(wire, self._next(time.monotonic()))

    async def _open(self, rate: float, users: asyncio.TaskGroup) -> None:
        """Requests fall due by the clock, whatever became of the earlier ones."""
        queue: asyncio.Queue[_Due | None] = asyncio.Queue()
        count = self._connections
        for _ in range(count):
            users.create_task(self._served(queue))
        due_at = time.monotonic()
        while not self._stopping and self._left > 0:
            while due_at <= time.monotonic() and self._left > 0:
                queue.put_nowait(self._next(due_at))
                due_at += 1 / rate
            for _ in range(min(queue.qsize() + self._busy - count, self._at_most - count)):
                users.create_task(self._served(queue))
                count += 1
            await asyncio.sleep(max(due_at - time.monotonic(), 0.0005))
        while self._stopping and not queue.empty():
            queue.get_nowait()
            self._unsent += 1
        for _ in range(count):
            queue.put_nowait(None)

    async def _served(self, queue: asyncio.Queue[_Due | None]) -> None:
        """One connection that takes what is due."""
        wire: _Wire | None = None
        while (due := await queue.get()) is not None:
            self._busy += 1
            wire = await self._one(wire, due)
            self._busy -= 1

    async def _one(self, wire: _Wire | None, due: _Due) -> _Wire | None:
        """One request; gives back the connection as long as it can be used."""
        sent_at = time.monotonic()
        status, release, fault = 0, "", ""
        try:
            if wire is None or wire.lost:
                if wire is not None:
                    wire.close()
                wire = await self._wires.connected()
                self._connected += 1
                sent_at = time.monotonic()
            reply = await wire.ask(self._make(due.number), self._timeout_s)
            done_at = time.monotonic()
            status, release = reply.status, reply.headers.get("staytrue-release", "")
            fault = self._check(due.number, reply) if self._check else ""
        except OSError as error:
            done_at = time.monotonic()
            fault = f"{type(error).__name__}: {error}"
            if wire is None or wire.lost:
                await asyncio.sleep(PAUSE_S)  # a server that is not there must not be asked a million times
            if wire is not None:
                wire.close()
                wire = None
        self.answers.append(
            Answer(
                number=due.number,
                due_at=due.at,
                sent_at=sent_at,
                done_at=done_at,
                status=status,
                release=release,
                fault=fault,
            )
        )
        return wire


# ------------------------------------------------------------ by halves


@dataclass(frozen=True, kw_only=True)
class Hung:
    """A connection whose request never became whole.

    Attributes:
        closed_s: until the server closed it, from the first byte; infinite when it did not.
        status: of what the server said first, 0 for nothing.
        fault: why there was no connection, "" otherwise.
    """

    closed_s: float
    status: int
    fault: str = ""


def half_sent(
    port: int,
    request: bytes,
    count: int,
    *,
    sent: int | None = None,
    drip_s: float | None = None,
    deadline_s: float = 30,
) -> list[Hung]:
    """Open so many connections at once, send the first `sent` bytes of the request on each, and wait for the server.

    Args:
        sent: half of the request when left out.
        drip_s: go on with one byte each so many seconds (but never to the end): a client that looks alive.
    """
    cut = len(request) // 2 if sent is None else sent

    async def one(wires: _Wires) -> Hung:
        try:
            wire = await wires.connected()
        except OSError as error:
            return Hung(closed_s=math.inf, status=0, fault=f"{type(error).__name__}: {error}")
        begun, position = time.monotonic(), cut
        wire.write(request[:cut])
        while not wire.lost and time.monotonic() < begun + deadline_s:
            with contextlib.suppress(TimeoutError):
                rest = begun + deadline_s - time.monotonic()
                await asyncio.wait_for(wire.gone.wait(), rest if drip_s is None else min(drip_s, max(rest, 0)))
            if drip_s is not None and position < len(request) - 1 and not wire.lost:
                wire.write(request[position : position + 1])
                position += 1
        closed_s = wire.lost_at - begun if wire.lost else math.inf
        return Hung(closed_s=closed_s, status=wire.first_status)

    async def everyone() -> list[Hung]:
        async with _Wires(port, deadline_s) as wires:
            return await asyncio.gather(*(one(wires) for _ in range(count)))

    return _run(everyone())


# ------------------------------------------------------------ the wire


@dataclass(kw_only=True)
class _Head:
    status: int
    headers: dict[str, str]
    length: int | None
    """None: in chunks."""
    end: int = field(default=0)
    """Where the body begins."""


class _Wire(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.when_gone: Callable[[_Wire], None] | None = None
        self.lost = False
        self.lost_at = math.inf
        self._transport: Any = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._got = bytearray()
        self._head: _Head | None = None

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        waiter = self._waiter
        if waiter is None or waiter.done():
            return  # nobody asked: what a server says before it hangs up
        try:
            reply = self._whole()
        except ValueError as error:
            waiter.set_exception(ConnectionError(f"not HTTP: {error}"))
            self.close()
            return
        if reply is not None:
            # From now on the connection counts as lost, so that nobody asks again on what the server is about to close.
            self.lost = self.lost or reply.headers.get("connection", "").lower() == "close"
            waiter.set_result(reply)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost, self.lost_at = True, time.monotonic()
        self.gone.set()
        if self.when_gone is not None:
            self.when_gone(self)
        if self._waiter is not None and not self._waiter.done():
            why = f" ({error})" if error else ""
            self._waiter.set_exception(ConnectionError(f"closed after {len(self._got)} bytes of the answer{why}"))

    # Called by the load.

    async def ask(self, request: bytes, timeout_s: float) -> Reply:
        """The whole answer.

        Raises:
            OSError: ConnectionError, TimeoutError.
        """
        if self.lost:
            raise ConnectionError("closed before the request was sent")
        if self._got:
            raise ConnectionError(f"{len(self._got)} bytes that nobody asked for: {bytes(self._got[:100])!r}")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Reply] = loop.create_future()
        self._waiter = waiter
        self.write(request)
        timer = loop.call_later(timeout_s, self._late, waiter, timeout_s)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    @property
    def first_status(self) -> int:
        """Of what has come without being asked for; 0 for nothing."""
        first = bytes(self._got[:12]).split()
        return int(first[1]) if len(first) == 2 and first[1].isdigit() else 0

    def _late(self, waiter: asyncio.Future[Reply], timeout_s: float) -> None:
        if not waiter.done():
            waiter.set_exception(TimeoutError(f"no whole answer within {timeout_s} s"))
            self.close()

    def _whole(self) -> Reply | None:
        """The answer, once all of it is there."""
        if self._head is None:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._head = _head(bytes(self._got[:end]), end + 4)
        head = self._head
        if head.length is None:
            found = _unchunked(self._got, head.end)
            if found is None:
                return None
            body, end = found
        else:
            end = head.end + head.length
            if len(self._got) < end:
                return None
            body = bytes(self._got[head.end : end])
        del self._got[:end]
        self._head = None
        return Reply(status=head.status, headers=head.headers, body=body)


def _head(text: bytes, end: int) -> _Head:
    first, *lines = text.decode("latin-1").split("\r\n")
    if not first.startswith("HTTP/1."):
        raise ValueError(first)
    status = first.partition(" ")[2][:3]
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    return _Head(
        status=int(status),
        headers=headers,
        length=None if chunked else int(headers.get("content-length", "0")),
        end=end,
    )


def _unchunked(got: bytearray, at: int) -> tuple[bytes, int] | None:
    """The body and where it ends, once the last chunk is there. Trailers are not expected."""
    parts: list[bytes] = []
    while (line := got.find(b"\r\n", at)) >= 0:
        size = int(got[at:line].partition(b";")[0], 16)
        end = line + 2 + size + 2
        if len(got) < end:
            return None
        if got[end - 2 : end] != b"\r\n":
            raise ValueError(f"a chunk of {size} bytes does not end where it should")
        if size == 0:
            return b"".join(parts), end
        parts.append(bytes(got[line + 2 : end - 2]))
        at = end
    return None


class _Wires:
    """The connections of one loop; none outlives it."""

    def __init__(self, port: int, timeout_s: float) -> None:
        self._port, self._timeout_s = port, timeout_s
        self._open: set[_Wire] = set()

    async def connected(self) -> _Wire:
        """A fresh connection.

        Raises:
            OSError: there is none.
        """
        connecting = asyncio.get_running_loop().create_connection(_Wire, HOST, self._port)
        _, wire = await asyncio.wait_for(connecting, self._timeout_s)
        self._open.add(wire)
        wire.when_gone = self._open.discard
        return wire

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        wires = list(self._open)
        for wire in wires:
            wire.close()
        for wire in wires:
            await wire.gone.wait()


def _run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
