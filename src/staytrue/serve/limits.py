"""Limits: what one caller may take from the others: bytes, rows, time, connections. All of it is decided before parsing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

__all__ = ["Certificate", "ServerLimits", "most_descriptors"]


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """What a server takes on at most.

    Attributes:
        body_bytes: of one request; beyond it 413, before it is read where its length is told.
        bodies_bytes: of all requests that are being read or wait; beyond it 503.
        rows: of one request.
        queue_rows: that wait for one release, in small requests and again in large ones; beyond it 503.
        shadow_rows: that wait for a shadow; beyond it they are left out.
        deadline_s: who would be answered later is told so at once, and who has waited longer is not answered any more.
        hang_s: a predict function that takes longer is given up, and its process replaced (not of async ones).
        head_s, request_s: from a request's first byte to the end of its head, and to its last byte; beyond it closed. request_s
            also: how long an answer may lie there without a byte of it being read.
        idle_s: how long a connection may stay open between two requests.
        connections: at once; beyond it whoever has been sending for longest has to go.
    """

    body_bytes: int = 16 << 20
    bodies_bytes: int = 128 << 20
    rows: int = 100_000
    queue_rows: int = 20_000
    shadow_rows: int = 5_000
    deadline_s: float = 2.0
    hang_s: float = 60.0
    head_s: float = 5.0
    request_s: float = 9.0
    idle_s: float = 60.0
    connections: int = 8_000


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The files of a TLS certificate and its key."""

    cert: str
    key: str


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
