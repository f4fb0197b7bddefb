"""Limits: what one caller may take from the others: bytes, rows, time, connections. All of it is decided before parsing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Connection", "ServerLimits", "most_descriptors", "sweep"]


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """What a server takes on at most.

    Attributes:
        body_bytes: of one request; beyond it 413, before it is read where its length is told.
        bodies_bytes: of all requests that are being read or wait; beyond it 503.
        rows: of one request.
        queue_rows: that wait for one release; beyond it 503.
        shadow_rows: that wait for a shadow; beyond it they are left out.
        deadline_s: who would wait longer is told so at once, and who has waited longer is not answered any more.
        head_s, request_s: from a request's first byte to the end of its head, and to its last byte; beyond it closed.
        idle_s: how long a connection may stay open between two requests.
        connections: at once; beyond it whoever has been sending for longest has to go.
    """

    body_bytes: int = 16 << 20
    bodies_bytes: int = 128 << 20
    rows: int = 100_000
    queue_rows: int = 20_000
    shadow_rows: int = 5_000
    deadline_s: float = 2.0
    head_s: float = 5.0
    request_s: float = 9.0
    idle_s: float = 60.0
    connections: int = 8_000


_HEAD_BYTES: Final = 64 << 10
_PIPELINED: Final = 100
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
)


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which also knows since when a request has been coming in, and how long its head is.

    uvicorn alone limits neither: 1,000 half-sent requests stay for ever, and so does a head of a gigabyte.
    """

    most: ClassVar[int] = ServerLimits.connections

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.began_s: float | None = None
        """Since when bytes of a request have been awaited; None while none are."""
        self.in_head = True
        self._head_bytes = 0

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
            # The rest of these bytes may be a body, so this is said of heads only.
            if self._head_bytes > _HEAD_BYTES and len(data) < _HEAD_BYTES:
                self.turn_away(_TOO_LARGE)
                return
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

    def on_message_complete(self) -> None:
        """All of it is there."""
        self.began_s = None
        self.in_head = True
        super().on_message_complete()

    def turn_away(self, answer: bytes) -> None:
        """Say why, if that can still be said, and close."""
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                self.transport.write(answer)
            self.transport.close()


def sweep(connections: Any, limits: ServerLimits, now_s: float) -> int:
    """Closes every connection that has been sending for too long; how many. To be called about once a second."""
    late = [
        one
        for one in list(connections)
        if isinstance(one, Connection)
        and one.began_s is not None
        and now_s - one.began_s > (limits.head_s if one.in_head else limits.request_s)
    ]
    for one in late:
        one.turn_away(_TOO_SLOW)
    return len(late)


def most_descriptors() -> int:
    """How many files and sockets this process may have open, once it has asked for all that it may."""
    try:
        import resource
    except ImportError:  # Windows
        return 8192
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 16 if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):  # macOS refuses what it said it would allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
