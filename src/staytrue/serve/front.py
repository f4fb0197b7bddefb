"""Front: the process that talks HTTP. A thin ASGI application: gate, rows, router, answer; no framework on this path.

`POST /predict` is here; the page's routes go to `serve/page.py`, every other one to `serve/control.py`. All go through one gate,
before anything is parsed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias

from staytrue.serve.connection import reply
from staytrue.serve.control import Control
from staytrue.serve.gate import Gate
from staytrue.serve.ids import new_id
from staytrue.serve.metrics import Histogram, method_label
from staytrue.serve.page import Call, Page
from staytrue.serve.problem import UNEXPECTED, Problem
from staytrue.serve.protocols import oip
from staytrue.serve.response import JSON, HeaderList, Response
from staytrue.serve.routes import match
from staytrue.serve.schema import Read
from staytrue.serve.service import IDS_AT_ONCE, Predicted, Receive, Service
from staytrue.serve.supervisor import Supervisor

__all__ = ["Front"]

Scope: TypeAlias = Any
Send: TypeAlias = Callable[[Any], Awaitable[None]]

_EVENTS: Final = (b"content-type", b"text/event-stream")


class Front:
    """The ASGI application of one app's server.

    Args:
        service: what is served.
        gate: who may come in.
        page: where the process listens that draws pages; None: there is none.
    """

    def __init__(self, service: Service, gate: Gate, page: str | None = None) -> None:
        self._service, self._gate = service, gate
        self._control = Control(service)
        self._page = Page(gate, page, service.vitals.shown)
        self._durations: dict[tuple[str, str, int], Histogram] = {}

    # ------------------------------------------------------------ every request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the life of the server."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        began_s = time.perf_counter()
        # Taken out: it holds the scope, and a circle for each request is a pause of 200 ms for every 30,000 of them.
        exchange = scope.pop("staytrue.exchange", None)
        method, path, headers = scope["method"], scope["path"], scope["headers"]
        self._service.metrics.active_requests.inc()
        route = path
        status = 500
        try:
            problem = self._gate.check(method, path, headers, scope["scheme"])
            if problem is None and path == "/predict" and method == "POST":
                status = await self._predict(exchange, headers, receive, send)
            else:
                found, parts = match(path)
                route = found.path if found is not None else "(none)"
                if found is not None and found.is_page:
                    call = Call(scope=scope, route=found, receive=receive, send=send, exchange=exchange)
                    status = await self._of_page(call, problem)
                    return
                answer = problem or await self._control.answer(scope, found, parts, receive)
                if isinstance(answer, Problem) and path.startswith("/v2"):
                    answer = oip.error(answer)
                status = await self._send(send, answer, headers)
        except Exception:  # noqa: BLE001 - the outermost frame: whatever it is, the caller gets an answer without a traceback
            sys.stderr.write(traceback.format_exc())
            with contextlib.suppress(Exception):  # it may be the sending that failed
                await self._send(send, UNEXPECTED, headers)
        finally:
            self._service.metrics.active_requests.inc(-1)
            # How long somebody stays to hear of changes is no duration of an answer.
            if route != "/events":
                self._observe(method, route, status, time.perf_counter() - began_s)

    async def _of_page(self, call: Call, problem: Problem | None) -> int:
        # It does not count as under way: a lone prediction beside an open page is still alone.
        self._service.metrics.active_requests.inc(-1)
        try:
            return await self._page.answer(call, problem)
        finally:
            self._service.metrics.active_requests.inc()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                await self._service.start()
            else:
                await self._service.close()
                self._control.close()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return

    def _observe(self, method: str, route: str, status: int, seconds: float) -> None:
        key = (method, route, status)
        child = self._durations.get(key)
        if child is None:
            child = self._service.metrics.duration.labels(method_label(method), route, str(status))
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

    async def _predict(self, exchange: Any, headers: HeaderList, receive: Receive, send: Send) -> int:
        done = await self._predicted(headers, receive, send)
        if isinstance(done, int):
            return done
        if isinstance(done, Problem):
            return await self._send(send, done, headers)
        # The usual case at its cheapest: one champion, all of it logged, nobody traces.
        plain = len(done.by) == 1 and done.logged and not any(name == b"traceparent" for name, _ in headers)
        body = done.body() if done.size <= IDS_AT_ONCE else await _in_turns(done.pieces())
        if plain and reply(exchange, done.by[0].by.head, body):
            return 200
        return await self._send(send, Response(headers=[JSON, *done.headers()], body=body), headers)

    async def _predicted(self, headers: HeaderList, receive: Receive, send: Send) -> Predicted | Problem | int:
        """The answers, what is wrong, or the status of what was sent already, piece by piece."""
        body = await self._service.body(headers, receive)
        if isinstance(body, Problem):
            return body
        champion = self._service.ready()
        if isinstance(champion, Problem):
            return champion
        taken = await self._service.read(champion, "predict", "", body)
        if isinstance(taken, Problem):
            return taken
        if champion.facts.in_pieces and _wants_events(headers):
            return await self._stream(taken.read, champion, headers, send)
        return await self._service.predicted(taken.read, champion)

    async def _stream(self, read: Read, champion: Supervisor, headers: HeaderList, send: Send) -> int:
        """The answer to one row as server-sent events: `piece`s as they come, then `done` with the whole answer."""
        if read.size != 1:
            return await self._send(send, ONE_ROW, headers)
        at = time.time_ns() // 1000
        first_id = new_id(at)
        share = self._service.router.shares(read, champion, first_id)[0]
        request = self._service.request(share, first_id, at, read.flags)
        came: asyncio.Queue[bytes | None] = asyncio.Queue()
        request.piece = came.put_nowait
        request.answered.add_done_callback(lambda _: came.put_nowait(None))
        share.by.ask(request)
        first = await came.get()
        by = share.by
        instead: Predicted | Problem | None = None
        if first is None and isinstance(problem := request.answered.result(), Problem):
            instead = await self._service.instead(read, champion, share, request, problem)
            if isinstance(instead, Problem):
                return await self._send(send, instead, headers)
            by = instead.by[0].by
        begun = [_EVENTS, (b"cache-control", b"no-store"), (b"staytrue-release", by.release.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": begun})
        while first is not None:
            await send(_event(b"piece", first, more=True))
            first = await came.get()
        if instead is not None:
            await send(_event(b"done", instead.body(), more=False))
            return 200
        outcome = request.answered.result()
        if isinstance(outcome, Problem):
            await send(_event(b"error", outcome.body(), more=False))
            return 200
        done = Predicted(
            parts=outcome.parts, first_id=first_id, size=1, by=[share], flags=outcome.flags, logged=outcome.logged
        )
        await send(_event(b"done", done.body(), more=False))
        return 200


async def _in_turns(pieces: Iterable[bytes]) -> bytes:
    """All pieces of a large answer, with a pause for others between them."""
    made = []
    for piece in pieces:
        made.append(piece)
        await asyncio.sleep(0)
    return b"".join(made)


def _wants_events(headers: HeaderList) -> bool:
    return any(name == b"accept" and b"text/event-stream" in value for name, value in headers)


def _event(name: bytes, data: bytes, *, more: bool) -> dict[str, Any]:
    # JSON text has no line breaks, so one `data` line holds it.
    return {"type": "http.response.body", "body": b"event: %s\ndata: %s\n\n" % (name, data), "more_body": more}


ONE_ROW: Final = Problem(
    status=422, code="ST768", detail="An answer in pieces is given to one row at a time; send one."
)
