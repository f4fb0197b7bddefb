"""Server: uvicorn, the front and the service put together, from a socket to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import uvicorn
from uvicorn.lifespan.on import LifespanOn

from staytrue.serve.connection import Connection, sweep
from staytrue.serve.front import Front
from staytrue.serve.limits import Certificate, ServerLimits, most_descriptors
from staytrue.serve.service import Service
from staytrue.serve.supervisor import Supervisor

__all__ = ["serve"]

_GRACE_S = 10
_SWEEP_S = 0.5
_BREATH_S = 0.005
_OWN_DESCRIPTORS = 512
_COLLECT = (5_000, 20, 50)
"""Often and little: a pause for garbage is a pause for every request."""


def serve(
    service: Service,
    listening: socket.socket,
    *,
    certificate: Certificate | None,
    ready: Callable[[str, Supervisor], None],
    beside: Callable[[], Coroutine[Any, Any, None]],
    patience_s: float = 0.0,
    page: str | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, and until what is under way then is answered.

    Args:
        listening: bound already.
        ready: called with the address and the champion, once it can answer.
        beside: gives what runs beside the server, as long as it does.
        patience_s: let nobody in until somebody can answer, but no longer than this: who comes meanwhile waits in the
            socket's queue, and would be told to come again otherwise.
        page: where the process listens that draws pages.
    """
    Connection.most = max(16, min(service.limits.connections, most_descriptors() - _OWN_DESCRIPTORS))
    config = _config(Front(service, service.gate, page), service.limits, certificate)
    config.load()
    config.lifespan_class = partial(_Lifespan, service=service, patience_s=patience_s)
    server = _Server(config, service.limits)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_served(server, service, listening, ready, beside))


def _config(front: Any, limits: ServerLimits, certificate: Certificate | None) -> uvicorn.Config:
    return uvicorn.Config(
        front,
        http=Connection,
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=2048,
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=certificate.cert if certificate else None,
        ssl_keyfile=certificate.key if certificate else None,
    )


class _Lifespan(LifespanOn):
    """uvicorn's start of the application, which ends when somebody can answer."""

    def __init__(self, config: uvicorn.Config, *, service: Service, patience_s: float) -> None:
        super().__init__(config)
        self._service, self._patience_s = service, patience_s

    async def startup(self) -> None:
        await super().startup()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                await self._service.first_champion()


class _Server(uvicorn.Server):
    """uvicorn's server, which also closes connections that send too slowly."""

    def __init__(self, config: uvicorn.Config, limits: ServerLimits) -> None:
        super().__init__(config)
        self._limits = limits

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the server, and that is that: uvicorn raises them once more when all is done."""
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()

    async def sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_S)
            while sweep(self.server_state.connections, self._limits, loop.time()):  # noqa: ASYNC110 - nobody sets an event
                await asyncio.sleep(_BREATH_S)


async def _served(
    server: _Server,
    service: Service,
    listening: socket.socket,
    ready: Callable[[str, Supervisor], None],
    beside: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    announced = _announced(service, _address(listening, tls=server.config.is_ssl), ready)
    tasks = [asyncio.create_task(one) for one in (server.sweep(), announced, beside())]
    try:
        await server.serve(sockets=[listening])
    finally:
        for task in tasks:
            task.cancel()


async def _announced(service: Service, url: str, ready: Callable[[str, Supervisor], None]) -> None:
    champion = await service.first_champion()
    # What is there by now stays: the collector need not look at it again, which would hold up everybody.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    ready(url, champion)


def _address(listening: socket.socket, *, tls: bool) -> str:
    host, port = listening.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
