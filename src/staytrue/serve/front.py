"""Front: the process that talks HTTP. A thin ASGI application: gate, rows, router, answer; no framework on this path.

`POST /predict` is here; every other route is in `serve/control.py`. Both go through one gate, before anything is parsed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from staytrue.engines.guard import Guard
from staytrue.serve.batch import Reply, Request
from staytrue.serve.connection import reply
from staytrue.serve.gate import Gate
from staytrue.serve.ids import ids_json, new_id
from staytrue.serve.limits import ServerLimits
from staytrue.serve.metrics import Histogram, Metrics, method_label
from staytrue.serve.problem import UNEXPECTED, Problem
from staytrue.serve.response import JSON, HeaderList, Response
from staytrue.serve.router import Router, Share
from staytrue.serve.routes import match
from staytrue.serve.schema import Flag, Read
from staytrue.serve.supervisor import Limits, Supervisor
from staytrue.store.store import Store
from staytrue.store.tokens import tokens

__all__ = ["Front", "Predicted"]

Scope: TypeAlias = Any
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]

_EVENTS: Final = (b"content-type", b"text/event-stream")
_LAG_S: Final = 0.5
_encode = msgspec.json.Encoder().encode


class Predicted(NamedTuple):
    """The answers to the rows of a request.

    Attributes:
        parts: JSON texts of lists, which together hold one answer a row, in order.
        first_id, size: the ids: row i has the one that is i higher.
        by: who answered which rows.
        flags: what was accepted though it is not like training.
        logged: whether all of it is in the log.
    """

    parts: Sequence[bytes]
    first_id: bytes
    size: int
    by: Sequence[Share]
    flags: Sequence[Flag]
    logged: bool

    @property
    def answers(self) -> bytes:
        """One JSON text of the list of all answers."""
        if len(self.parts) == 1:
            return self.parts[0]
        return b"[" + b",".join([part[1:-1] for part in self.parts]) + b"]"

    @property
    def release(self) -> str:
        """Who answered; of a request that a canary split, the champion."""
        return self.by[-1].by.release if len(self.by) == 1 else _champion_of(self.by).release

    def releases(self) -> list[str] | None:
        """Who answered each row, where that was not one and the same."""
        if len({id(share.by) for share in self.by}) == 1:
            return None
        return [share.by.release for share in self.by for _ in share.rows]

    def headers(self) -> HeaderList:
        """What every protocol says of an answer."""
        headers: HeaderList = [(b"staytrue-release", self.release.encode())]
        return headers if self.logged else [*headers, (b"staytrue-logged", b"false")]

    def body(self) -> bytes:
        """The answer to `POST /predict`."""
        made = [
            b'{"predictions":',
            self.answers,
            b',"ids":',
            ids_json(self.first_id, self.size),
            b',"release":"',
            self.release.encode(),
            b'"',
        ]
        releases = self.releases() if len(self.by) > 1 else None
        if releases is not None:
            made += [b',"releases":', _encode(releases)]
        if self.flags:
            made += [b',"flags":', _encode([one.document(row) for row, one in self.flags])]
        made.append(b"}")
        return b"".join(made)


def _champion_of(by: Sequence[Share]) -> Supervisor:
    return next((share.by for share in by if share.arm == "champion"), by[-1].by)


class Front:
    """The ASGI application of one app's server.

    Args:
        store: opened; the front reads roles and tokens from it and writes labels.
        app: which one.
        gate: who may come in.
        limits: of the server. lanes, threads: of each release.
        say: called with a sentence for the person who runs the server.
    """

    def __init__(
        self,
        store: Store,
        app: str,
        *,
        gate: Gate,
        limits: ServerLimits,
        lanes: int = 1,
        threads: int = 1,
        say: Callable[[str], None],
    ) -> None:
        from staytrue.serve.control import Control

        self.store, self.app, self.gate, self.limits = store, app, gate, limits
        self.metrics = Metrics()
        self.guard = Guard()
        self._lanes, self._threads, self._say = lanes, threads, say
        self.router: Router
        self.ending = False
        self._bodies_bytes = 0
        self._durations: dict[tuple[str, str, int], Histogram] = {}
        self._control = Control(self)
        self._loop: asyncio.AbstractEventLoop
        self._lag: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Begin to start what the ledger wants served."""
        self._loop = asyncio.get_running_loop()
        limits = Limits(
            most_rows=self.limits.rows,
            queue_rows=self.limits.queue_rows,
            shadow_rows=self.limits.shadow_rows,
            lanes=self._lanes,
            threads=self._threads,
        )
        self.router = Router(
            self.store,
            self.app,
            limits=limits,
            guard=self.guard,
            metrics=self.metrics,
            say=self._say,
            also=lambda: self.gate.renew(tokens(self.store.ledger)),
        )
        self.metrics.queue_rows.follow(self._queue_rows)
        await self.router.start()
        self._lag = self._loop.create_task(self._watch_lag())

    async def ready_release(self) -> str:
        """The release that answers, once one does."""
        while not hasattr(self, "router") or self.router.table.champion is None:
            if hasattr(self, "router"):
                await self.router.changed.wait()
            else:
                await asyncio.sleep(0)
        return self.router.table.champion.release

    async def close(self) -> None:
        """Answer what is under way; end every process of ours."""
        self.ending = True
        if self._lag is not None:
            self._lag.cancel()
        await self.router.close()
        self._control.close()
        self.guard.close()

    def _queue_rows(self) -> float:
        table = self.router.table
        return float(sum(one.queue.rows for one in (table.champion, table.challenger) if one is not None))

    async def _watch_lag(self) -> None:
        while True:
            planned = self._loop.time() + _LAG_S
            await asyncio.sleep(_LAG_S)
            self.metrics.loop_lag.set(max(0.0, self._loop.time() - planned))

    # ------------------------------------------------------------ every request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the life of the server."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        began_s = time.perf_counter()
        method, path, headers = scope["method"], scope["path"], scope["headers"]
        self.metrics.active_requests.inc()
        route = path
        status = 500
        try:
            problem = self.gate.check(method, path, headers, scope["scheme"])
            if problem is None and path == "/predict" and method == "POST":
                status = await self._predict(scope, headers, receive, send)
            else:
                found, parts = match(path)
                route = found.path if found is not None else "(none)"
                answer = problem or await self._control.answer(scope, found, parts, receive)
                status = await self._send(send, answer, headers)
        except Exception:  # noqa: BLE001 - the outermost frame: whatever it is, the caller gets an answer without a traceback
            sys.stderr.write(traceback.format_exc())
            with contextlib.suppress(Exception):
                await self._send(send, UNEXPECTED, headers)
        finally:
            self.metrics.active_requests.inc(-1)
            self._observe(method, route, status, time.perf_counter() - began_s)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                await self.start()
            else:
                await self.close()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return

    def _observe(self, method: str, route: str, status: int, seconds: float) -> None:
        key = (method, route, status)
        child = self._durations.get(key)
        if child is None:
            child = self.metrics.duration.labels(method_label(method), route, str(status))
            if len(self._durations) < 500:
                self._durations[key] = child
        child.observe(seconds)

    async def _send(self, send: Send, answer: Response | Problem, asked: HeaderList) -> int:
        if isinstance(answer, Problem):
            body = answer.body()
            headers = answer.all_headers(body)
        else:
            body = answer.body
            headers = [*answer.headers, (b"content-length", b"%d" % len(body))]
        for name, value in asked:
            if name == b"traceparent":
                headers.append((name, value))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return answer.status

    # ------------------------------------------------------------ predictions

    async def _predict(self, scope: Scope, headers: HeaderList, receive: Receive, send: Send) -> int:
        body = await self.body(headers, receive)
        champion = self.ready() if not isinstance(body, Problem) else body
        if isinstance(body, Problem) or isinstance(champion, Problem):
            return await self._send(send, body if isinstance(body, Problem) else champion, headers)  # type: ignore[arg-type]
        read = champion.schema.read(body)
        if isinstance(read, Problem):
            self.count_refused(read)
            return await self._send(send, read, headers)
        if champion.facts.in_pieces and _wants_events(headers):
            return await self._stream(read, headers, send)
        done = await self.predicted(read, champion)
        if isinstance(done, Problem):
            return await self._send(send, done, headers)
        # The usual case at its cheapest: one champion, all of it logged, nobody traces.
        plain = len(done.by) == 1 and done.logged and not any(name == b"traceparent" for name, _ in headers)
        if plain and reply(scope.get("staytrue.exchange"), done.by[0].by.head, done.body()):
            return 200
        return await self._send(send, Response(headers=[JSON, *done.headers()], body=done.body()), headers)

    def ready(self) -> Supervisor | Problem:
        """The champion, if it can still answer in time."""
        champion = self.router.table.champion
        if champion is None:
            return NOT_READY
        if champion.queue.wait_s(1) > self.limits.deadline_s:
            self.metrics.shed.labels("deadline").inc()
            return BUSY
        return champion

    async def predicted(self, read: Read, champion: Supervisor) -> Predicted | Problem:
        """The answers to rows that the champion's schema has read, whoever gives them."""
        at = time.time_ns() // 1000
        first_id = new_id(at)
        rows = read.rows
        size = len(rows)
        if not champion.queue.has_room(size):
            self.metrics.shed.labels("queue").inc()
            return BUSY
        self.metrics.rows.inc(size)
        shares = self.router.shares(rows, first_id)
        if len(shares) == 1:
            request = self._request(shares[0], first_id, at, read.flags)
            shares[0].by.ask(request)
            outcome = await request.answered
            if isinstance(outcome, Problem):
                return outcome
            return Predicted(outcome.parts, first_id, size, shares, outcome.flags, outcome.logged)
        return await self._split(read, shares, first_id, at)

    async def _split(self, read: Read, shares: list[Share], first_id: bytes, at: int) -> Predicted | Problem:
        """A request whose rows go to two releases."""
        requests = []
        for share in shares:
            stop = share.start + len(share.rows)
            flags = (
                None if read.flags is None else [(r - share.start, f) for r, f in read.flags if share.start <= r < stop]
            )
            request = self._request(share, _later(first_id, share.start), at, flags)
            requests.append(request)
            share.by.ask(request)
        replies = await asyncio.gather(*(request.answered for request in requests))
        parts: list[bytes] = []
        found: list[Flag] = []
        logged = True
        for share, outcome in zip(shares, replies, strict=True):
            if isinstance(outcome, Problem):
                return outcome
            parts += outcome.parts
            found += [(share.start + row, one) for row, one in outcome.flags]
            logged = logged and outcome.logged
        return Predicted(parts=parts, first_id=first_id, size=len(read.rows), by=shares, flags=found, logged=logged)

    def _request(self, share: Share, first_id: bytes, at: int, flags: list[Flag] | None) -> Request:
        answered: asyncio.Future[Reply | Problem] = self._loop.create_future()
        return Request(
            id=first_id,
            at=at,
            size=len(share.rows),
            rows=share.rows,
            deadline_s=self._loop.time() + self.limits.deadline_s,
            answered=answered,
            arm=share.arm,
            flags=flags,
        )

    async def _stream(self, read: Read, headers: HeaderList, send: Send) -> int:
        """The answer to one row as server-sent events: `piece`s as they come, then `done` with the whole answer."""
        if len(read.rows) != 1:
            return await self._send(send, ONE_ROW, headers)
        at = time.time_ns() // 1000
        first_id = new_id(at)
        share = self.router.shares(read.rows, first_id)[0]
        request = self._request(share, first_id, at, read.flags)
        came: asyncio.Queue[bytes | None] = asyncio.Queue()
        request.piece = came.put_nowait
        request.answered.add_done_callback(lambda _: came.put_nowait(None))
        share.by.ask(request)
        first = await came.get()
        if first is None and isinstance(problem := request.answered.result(), Problem):
            return await self._send(send, problem, headers)
        begun = [_EVENTS, (b"cache-control", b"no-store"), (b"staytrue-release", share.by.release.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": begun})
        while first is not None:
            await send(_event(b"piece", first, more=True))
            first = await came.get()
        outcome = request.answered.result()
        if isinstance(outcome, Problem):
            await send(_event(b"error", outcome.body(), more=False))
            return 200
        done = Predicted(
            parts=outcome.parts, first_id=first_id, size=1, by=[share], flags=outcome.flags, logged=outcome.logged
        )
        await send(_event(b"done", done.body(), more=False))
        return 200

    def count_refused(self, problem: Problem) -> None:
        """Count what a schema would not take."""
        for one in problem.errors:
            self.metrics.refused_rows.labels(str(one.get("fault")), str(one.get("field"))).inc()

    # ------------------------------------------------------------ bodies

    async def body(self, headers: HeaderList, receive: Receive) -> bytes | Problem:
        """All bytes of a request, unless they are too many."""
        event = await receive()
        if not event.get("more_body"):
            whole: bytes = event.get("body", b"")
            return whole if len(whole) <= self.limits.body_bytes else TOO_LARGE
        told = _told_length(headers)
        if told is not None and told > self.limits.body_bytes:
            return TOO_LARGE
        return await self._rest(event, told or 0, receive)

    async def _rest(self, event: Mapping[str, Any], told: int, receive: Receive) -> bytes | Problem:
        """A body that comes in several pieces, counted against what all bodies together may take."""
        reserved = max(told, 1)
        if self._bodies_bytes + reserved > self.limits.bodies_bytes:
            self.metrics.shed.labels("memory").inc()
            return BUSY
        self._bodies_bytes += reserved
        try:
            pieces = [event.get("body", b"")]
            size = len(pieces[0])
            while event.get("more_body"):
                event = await receive()
                if event["type"] == "http.disconnect":
                    return GONE
                pieces.append(event.get("body", b""))
                size += len(pieces[-1])
                if size > self.limits.body_bytes:
                    return TOO_LARGE
                if size > reserved:
                    self._bodies_bytes += size - reserved
                    reserved = size
                    if self._bodies_bytes > self.limits.bodies_bytes:
                        self.metrics.shed.labels("memory").inc()
                        return BUSY
            return b"".join(pieces)
        finally:
            self._bodies_bytes -= reserved


def _told_length(headers: HeaderList) -> int | None:
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None


def _wants_events(headers: HeaderList) -> bool:
    return any(name == b"accept" and b"text/event-stream" in value for name, value in headers)


def _event(name: bytes, data: bytes, *, more: bool) -> dict[str, Any]:
    # JSON text has no line breaks, so one `data` line holds it.
    return {"type": "http.response.body", "body": b"event: %s\ndata: %s\n\n" % (name, data), "more_body": more}


def _later(first: bytes, row: int) -> bytes:
    return (int.from_bytes(first, "big") + row).to_bytes(16, "big")


_RETRY: Final = ((b"retry-after", b"1"),)
BUSY: Final = Problem(
    status=503,
    code="ST764",
    detail="The server has more to do than it can answer in time. Try again.",
    headers=_RETRY,
)
NOT_READY: Final = Problem(
    status=503,
    code="ST765",
    detail="No release is ready to answer yet. `GET /readyz` tells when one is.",
    headers=_RETRY,
)
TOO_LARGE: Final = Problem(
    status=413,
    code="ST766",
    detail="The body is too large. Send fewer rows at a time, or use `staytrue predict` for files.",
    headers=((b"connection", b"close"),),
)
GONE: Final = Problem(status=400, code="ST767", detail="The request broke off.")
ONE_ROW: Final = Problem(
    status=422, code="ST768", detail="An answer in pieces is given to one row at a time; send one."
)
