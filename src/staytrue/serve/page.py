"""Page: how a browser's requests reach the process that draws (`dashboard/process.py`), and what comes back.

Drawing happens elsewhere, so that a page costs a prediction nothing. Whoever comes here has passed the gate. What is passed on
is a line of JSON and a body, over a Unix socket that only this user may open, one connection for each request: between the two
nothing is parsed twice, so nothing can mean one thing here and another there. Headers of safety are set here, whatever the
other process says, and a process that is down is told in plain words.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

from staytrue.errors import from_document
from staytrue.serve import sign_in
from staytrue.serve.gate import Caller, Gate
from staytrue.serve.problem import UNEXPECTED, Problem, problem_of
from staytrue.serve.response import HeaderList, Response
from staytrue.serve.routes import Route
from staytrue.serve.sign_in import HTML, plain_page

__all__ = ["SAFETY", "Call", "Page"]

Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]

SAFETY: Final[HeaderList] = [
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            b"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    # Not `no-referrer`: with that a browser says `Origin: null` of our own forms.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_STORED: Final = (b"cache-control", b"no-store")
_VARY: Final = (b"vary", b"cookie, authorization")
_PASSED: Final = ("content-type", "cache-control", "etag", "location", "retry-after", "allow", "content-disposition")
_FORM_BYTES: Final = 64 << 10
_QUERY_BYTES: Final = 4 << 10
_FIELDS: Final = 100
_AT_ONCE: Final = 8
"""Asked of the page's process at a time; it has one thread."""
_WAITS_S: Final = 5.0
_ANSWERS_S: Final = 10.0
_STREAMS: Final = 100
_PIECE: Final = 64 << 10
_KEPT_BYTES: Final = 256 << 10
_KEPT_BY_ALL_BYTES: Final = 32 << 20


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request to one of the page's routes, as ASGI gives it; `exchange`: uvicorn's, to hear of the server's end."""

    scope: Any
    route: Route
    receive: Receive
    send: Send
    exchange: Any = None

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The last one of each name; those that decide who asks were looked at by the gate, all of them."""
        return dict(self.scope["headers"])

    @property
    def method(self) -> str:
        """As sent."""
        method: str = self.scope["method"]
        return method

    @property
    def query(self) -> str:
        """As sent."""
        query: bytes = self.scope["query_string"]
        return query.decode("latin-1")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A request as it is passed on."""

    call: Call
    caller: Caller
    body: str

    @property
    def form(self) -> Mapping[str, str]:
        return dict(parse_qsl(self.body, keep_blank_values=True))


class _Down(Exception):
    """The page's process does not answer, or no longer."""


class _Failed(Exception):
    """The page's process answers with an error of ours."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Page:
    """Answers the page's routes.

    Args:
        gate: knows who asks.
        address: of the page's process; None: there is none.
        live: what the server knows of itself at this moment, for pages to show.
    """

    def __init__(self, gate: Gate, address: str | None, live: Callable[[], Mapping[str, Any]]) -> None:
        self._gate, self._address, self._live = gate, address, live
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._streams = 0
        self._kept_bytes = 0

    async def answer(self, call: Call, problem: Problem | None) -> int:
        """Answer it; the status. `problem`: what the gate said."""
        problem = problem or self._unfit(call)
        if problem is not None:
            return await self._refused(call, problem)
        body = await _form(call) if call.method == "POST" else ""
        if isinstance(body, Problem):
            return await _say(call, body)
        asked = _Asked(call=call, caller=self._gate.caller(call.scope["headers"], call.scope["scheme"]), body=body)
        if call.route.path in {"/sign-in", "/sign-out"}:
            form = asked.form if call.route.path == "/sign-in" else None
            return await _send(call.send, sign_in.answer(self._gate, call.method, call.query, form, asked.caller))
        return await self._asked_there(asked)

    async def _asked_there(self, asked: _Asked) -> int:
        call = asked.call
        if call.method == "POST" and _is_forged(asked):
            return await _say(call, FORGED)
        try:
            events = call.route.path == "/events" and call.method == "GET"
            return await (self._stream(asked) if events else self._pass_on(asked))
        except _Down:
            return await _say(call, DOWN)
        except _Failed as exc:
            return await _say(call, exc.problem)

    def _unfit(self, call: Call) -> Problem | None:
        if call.method not in call.route.methods:
            allowed = ", ".join(call.route.methods)
            return _problem(405, "ST1010", f"{call.route.path} answers {allowed}.", ((b"allow", allowed.encode()),))
        if self._address is None:
            return NO_PAGE
        return TOO_LONG if len(call.scope["query_string"]) > _QUERY_BYTES else None

    async def _refused(self, call: Call, problem: Problem) -> int:
        """Say so; who has shown no token, and reads HTML, is asked for one."""
        if problem.status == 401 and _reads_html(call.headers) and call.method in {"GET", "HEAD"}:
            back = call.scope["path"] + (f"?{call.query}" if call.query else "")
            linked = call.headers.get(b"sec-fetch-site") in {b"cross-site", b"same-site"}
            return await _send(call.send, sign_in.form(sign_in.local(back), linked=linked, status=401))
        return await _say(call, problem)

    # ------------------------------------------------------------ what is passed on

    async def _pass_on(self, asked: _Asked) -> int:
        send = asked.call.send
        try:
            await asyncio.wait_for(self._turns.acquire(), _WAITS_S)
        except TimeoutError as exc:
            raise _Down from exc
        kept, held = 0, True
        try:
            async with self._asked(asked) as (head, reader):
                body, more = await _first_part(reader)
                left: int | None = head.get("length")
                if not more and left is not None and len(body) != left:
                    raise _Down  # it died meanwhile
                if not more and self._kept_bytes + len(body) < _KEPT_BY_ALL_BYTES:
                    # Who reads slowly holds up nobody: the process that draws is free for others.
                    kept = len(body)
                    self._kept_bytes += kept
                    self._turns.release()
                    held = False
                status: int = head["status"]
                await send({"type": "http.response.start", "status": status, "headers": _headers(head)})
                while more:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    left = None if left is None else left - len(body)
                    body = await _read(reader)
                    more = bool(body)
                if left is None or left == len(body):
                    await send({"type": "http.response.body", "body": body})
                else:
                    asked.call.exchange.transport.abort()  # it died meanwhile: a page that is cut off must not look whole
                return status
        finally:
            self._kept_bytes -= kept
            if held:
                self._turns.release()

    async def _stream(self, asked: _Asked) -> int:
        """Events, as long as the browser stays and the server serves."""
        if self._streams >= _STREAMS:
            return await _say(asked.call, CROWDED)
        send = asked.call.send
        self._streams += 1
        try:
            async with self._asked(asked) as (head, reader):
                status: int = head["status"]
                await send({"type": "http.response.start", "status": status, "headers": _headers(head)})
                ended = asyncio.ensure_future(_gone(asked.call.receive))
                _when_ending(asked.call.exchange, ended)
                try:
                    while await _next(reader, ended, send):
                        pass
                finally:
                    ended.cancel()
                await send({"type": "http.response.body", "body": b""})
                return status
        finally:
            self._streams -= 1

    @contextlib.asynccontextmanager
    async def _asked(self, asked: _Asked) -> AsyncIterator[tuple[Mapping[str, Any], asyncio.StreamReader]]:
        """Status and headers, and the rest of an answer, while the connection is open.

        Raises:
            _Down: nobody answers, or not in time, or not what can be understood.    _Failed: it answers with an error.
        """
        try:
            async with asyncio.timeout(_ANSWERS_S):
                reader, writer = await asyncio.open_unix_connection(self._address or "")
        except (OSError, TimeoutError) as exc:
            raise _Down from exc
        try:
            try:
                async with asyncio.timeout(_ANSWERS_S):
                    writer.write(self._line(asked) + asked.body.encode())
                    head = json.loads(await reader.readline())
            except (OSError, TimeoutError, ValueError) as exc:
                raise _Down from exc
            if "error" in head:
                error = from_document(head["error"] or {})
                raise _Failed(problem_of(error) if error is not None else UNEXPECTED)
            yield head, reader
        finally:
            writer.close()

    def _line(self, asked: _Asked) -> bytes:
        call, caller, headers = asked.call, asked.caller, asked.call.headers
        document = {
            "method": call.method,
            "path": call.scope["path"],
            "query": call.query,
            "etag": headers.get(b"if-none-match", b"").decode("latin-1"),
            "last_event": headers.get(b"last-event-id", b"").decode("latin-1"),
            "json": not _reads_html(headers),
            "length": len(asked.body.encode()),
            "live": {
                "who": caller.name,
                "may": sorted(caller.scopes),
                "signed_in": bool(caller.cookie),
                "csrf": csrf(caller.cookie),
                "server": self._live(),
            },
        }
        return json.dumps(document).encode() + b"\n"


def csrf(cookie: str) -> str:
    """What a form of ours says beside the cookie, and a form of nobody else can; empty where no cookie was shown."""
    return hmac.new(cookie.encode(), b"staytrue form", hashlib.sha256).hexdigest() if cookie else ""


def _is_forged(asked: _Asked) -> bool:
    """Whether this action may come from somebody else's page, for all we know. The gate has looked at Origin already."""
    headers = asked.call.headers
    if asked.caller.cookie:
        said = asked.form.get("csrf", "")
        return not hmac.compare_digest(said.encode(), csrf(asked.caller.cookie).encode())
    # No browser sends a token by itself. And one that sends a form says where from.
    return not {b"authorization", b"origin", b"sec-fetch-site"} & set(headers)


async def _form(call: Call) -> str | Problem:
    kind = call.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    told = call.headers.get(b"content-length", b"0")
    if told.isdigit() and int(told) > _FORM_BYTES:
        return TOO_LARGE
    body = b""
    more = True
    while more:
        event = await call.receive()
        if event["type"] == "http.disconnect":
            return BROKEN_OFF
        body += event.get("body", b"")
        more = event.get("more_body", False)
        if len(body) > _FORM_BYTES:
            return TOO_LARGE
    if body and kind != b"application/x-www-form-urlencoded":
        return NO_FORM
    text = body.decode("utf-8", "replace")
    return text if text.count("&") < _FIELDS else TOO_LARGE


async def _first_part(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """The body up to a certain size, and whether there is more."""
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < _KEPT_BYTES:
        piece = await _read(reader)
        if not piece:
            return b"".join(pieces), False
        pieces.append(piece)
    return b"".join(pieces), True


async def _read(reader: asyncio.StreamReader) -> bytes:
    """The next piece; nothing at the end, whatever ended it."""
    try:
        async with asyncio.timeout(_ANSWERS_S):
            return await reader.read(_PIECE)
    except (OSError, TimeoutError):
        return b""


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _when_ending(exchange: Any, ended: asyncio.Future[None]) -> None:
    """A server that ends waits for its connections, and these would never end by themselves."""
    transport = getattr(exchange, "transport", None)
    protocol = transport.get_protocol() if transport is not None else None
    if protocol is not None:
        protocol.ending = ended.cancel


async def _next(reader: asyncio.StreamReader, ended: asyncio.Future[None], send: Send) -> bool:
    """Pass the next piece on; False at the end."""
    piece = asyncio.ensure_future(reader.read(_PIECE))
    both: set[asyncio.Future[Any]] = {piece, ended}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if ended.done() or not piece.done() or piece.exception() is not None or not piece.result():
        piece.cancel()
        return False
    await send({"type": "http.response.body", "body": piece.result(), "more_body": True})
    return True


def _headers(head: Mapping[str, Any]) -> HeaderList:
    """What the page's process says, as far as it may, and what is said always."""
    told: HeaderList = [
        (name.encode(), str(value).encode("latin-1", "replace"))
        for name, value in head.get("headers", {}).items()
        if name in _PASSED and not any(sign in str(value) for sign in "\r\n\0")
    ]
    if not any(name == b"cache-control" for name, _ in told):
        told += [_STORED, _VARY]
    if isinstance(head.get("length"), int):
        told.append((b"content-length", b"%d" % head["length"]))
    return [*told, *SAFETY]


async def _say(call: Call, problem: Problem) -> int:
    """A problem, as a page for who reads HTML."""
    if _reads_html(call.headers):
        title = str(problem.document()["title"])
        page = plain_page(title, problem.detail, problem.code, again=problem is DOWN)
        return await _send(call.send, Response(status=problem.status, headers=[HTML, *problem.headers], body=page))
    body = problem.body()
    headers = [pair for pair in problem.all_headers(body) if pair[0] != b"content-length"]
    return await _send(call.send, Response(status=problem.status, headers=headers, body=body))


async def _send(send: Send, response: Response) -> int:
    length = (b"content-length", b"%d" % len(response.body))
    headers = [*response.headers, length, _STORED, _VARY, *SAFETY]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
    return response.status


def _reads_html(headers: Mapping[bytes, bytes]) -> bool:
    return b"text/html" in headers.get(b"accept", b"")


def _problem(status: int, code: str, detail: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Problem:
    return Problem(status=status, code=code, detail=detail, headers=headers)


_SOON: Final = ((b"retry-after", b"1"),)
_CLOSED: Final = ((b"connection", b"close"),)
NO_PAGE: Final = _problem(
    404, "ST1011", "This server was started without its page (`--no-page`). Predictions are answered."
)
DOWN: Final = _problem(503, "ST1012", "The page is starting; predictions go on. Try again in a second.", _SOON)
CROWDED: Final = _problem(
    503, "ST1013", "Too many pages are open here: this one is not told of changes. Reload to look.", _SOON
)
TOO_LARGE: Final = _problem(413, "ST1014", "The form is too large.", _CLOSED)
NO_FORM: Final = _problem(415, "ST1015", "Send an action as a form: `application/x-www-form-urlencoded`.")
FORGED: Final = _problem(
    403,
    "ST1016",
    "This did not come from a page of this server, as far as can be seen: nothing was done. Reload the page and try again; a "
    "program sends a token made with --scope operate.",
)
TOO_LONG: Final = _problem(414, "ST1017", "What is asked for is too long.")
BROKEN_OFF: Final = _problem(400, "ST1018", "The form broke off: nothing was done.", _CLOSED)
