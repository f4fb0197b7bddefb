"""Connection: uvicorn's HTTP connection, which also minds the time and the size of what comes in, and answers in one write.

uvicorn alone limits neither heads nor time: 1,000 half-sent requests stay for ever, and so does a head of a gigabyte. And
it writes head and body apart, each a system call: together they cost a third of a small request (benchmarks/serving).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from staytrue.serve.limits import ServerLimits

__all__ = ["Connection", "reply", "sweep"]

_HEAD_BYTES: Final = 64 << 10
_PIPELINED: Final = 100
_AT_ONCE: Final = 32
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
)


class Connection(HttpToolsProtocol):
    """A connection that knows since when a request has been coming in, and how long its head is."""

    most: ClassVar[int] = ServerLimits.connections

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.began_s: float | None = None
        """Since when bytes of a request have been awaited; None while none are."""
        self.in_head = True
        self.ending: Callable[[], object] | None = None
        """Of an answer that has no end of its own: called when the server ends."""
        self._head_bytes = 0
        self._unread_bytes = 0
        self._unread_since_s = 0.0

    def connection_made(self, transport: Any) -> None:
        """Begin to count the time."""
        super().connection_made(transport)
        self.began_s = self.loop.time()
        if len(self.connections) > self.most and not self._make_room():
            self.turn_away(_TOO_MANY)

    def _make_room(self) -> bool:
        """Whether somebody else could be closed: of those that send a request and don't come to its end, the slowest."""
        slow = [one for one in self.connections if isinstance(one, Connection) and one is not self and one.began_s]
        if slow:
            min(slow, key=lambda one: one.began_s or 0.0).turn_away(_TOO_SLOW)
        return bool(slow)

    def data_received(self, data: bytes) -> None:
        """Pass on what came, unless it is too much."""
        if self.in_head:
            self._head_bytes += len(data)
        # Only the parser knows how much of it is head: a body may follow the head's last piece.
        super().data_received(data)
        if self.in_head and self._head_bytes > _HEAD_BYTES and self.began_s is not None:
            self.turn_away(_TOO_LARGE)
        elif len(self.pipeline) > _PIPELINED:
            self.turn_away(_TOO_MANY)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.in_head = True
        if self.began_s is None:
            self.began_s = self.loop.time()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self.in_head = False
        self._head_bytes = 0
        super().on_headers_complete()
        # Before the application runs: its task was only made just now.
        self.scope["staytrue.exchange"] = self.cycle  # type: ignore[typeddict-unknown-key]

    def on_message_complete(self) -> None:
        """All of it is there."""
        self.began_s = None
        self.in_head = True
        super().on_message_complete()

    def shutdown(self) -> None:
        """The server ends."""
        super().shutdown()
        if self.ending is not None:
            self.ending()

    def reads(self, now_s: float, within_s: float) -> bool:
        """Whether the other end has taken all of its answers, or some of them lately. To be asked now and then."""
        unread = self.transport.get_write_buffer_size()
        if not unread or unread < self._unread_bytes or not self._unread_bytes:
            self._unread_since_s = now_s
        self._unread_bytes = unread
        return now_s - self._unread_since_s <= within_s

    def turn_away(self, answer: bytes) -> None:
        """Say why, if that can still be said, and close."""
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                self.transport.write(answer)
            self.transport.close()


def reply(exchange: Any, head: bytes, body: bytes) -> bool:
    """Answer a request at once: the head, which ends with the name of the last header, content-length, and the body.

    False where this is not possible (another server than uvicorn, a slow reader, a half-closed connection): then the
    usual ASGI messages have to be sent.
    """
    if not isinstance(exchange, RequestResponseCycle):
        return False
    if exchange.disconnected or exchange.response_started or exchange.flow.write_paused or not exchange.keep_alive:
        return False
    exchange.response_started = exchange.response_complete = True
    exchange.waiting_for_100_continue = False
    exchange.transport.write(b"%s%d\r\n\r\n%s" % (head, len(body), body))
    exchange.message_event.set()
    exchange.on_response()
    return True


def sweep(connections: Any, limits: ServerLimits, now_s: float) -> int:
    """Closes connections that have been sending, or not reading, for too long; how many. To be called every second.

    At most `_AT_ONCE` of each kind, for a thousand are a pause for everybody: again, after a breath, until it gives back 0.
    """
    late = [
        one
        for one in list(connections)
        if isinstance(one, Connection)
        and one.began_s is not None
        and now_s - one.began_s > (limits.head_s if one.in_head else limits.request_s)
        and not one.transport.is_closing()
    ][:_AT_ONCE]
    for one in late:
        one.turn_away(_TOO_SLOW)
    # Not `close`: that waits until everything is read.
    deaf = [one for one in list(connections) if isinstance(one, Connection) and not one.reads(now_s, limits.request_s)]
    deaf = deaf[:_AT_ONCE]
    for one in deaf:
        one.transport.abort()
    return len(late) + len(deaf)
