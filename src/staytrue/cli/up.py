"""`staytrue up`: serve the champion over HTTP, log every prediction, join the labels, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import math
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn

from staytrue.cli.screen import Screen
from staytrue.errors import InvalidInput, NotFound, Unavailable
from staytrue.serve.connection import Connection, sweep
from staytrue.serve.front import Front
from staytrue.serve.gate import Gate
from staytrue.serve.limits import ServerLimits, most_descriptors
from staytrue.serve.service import Service
from staytrue.store.ledger import LIVE
from staytrue.store.store import open_store
from staytrue.store.tokens import tokens

__all__ = ["arguments", "run"]

PORT = 8484
_GRACE_S = 10
_SWEEP_S = 0.5
_OWN_DESCRIPTORS = 256
_COLLECT = (5_000, 20, 50)
"""Often and little: a pause for garbage is a pause for every request."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--name", help="the app, when the store holds several")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=PORT, help=f"the port (default: {PORT}; 0: any free one)")
    parser.add_argument("--lanes", type=int, default=1, help="processes that answer for each release (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="native threads of each of them (default: 1)")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name in Host to answer for"
    )
    parser.add_argument("--behind-proxy", action="store_true", help="a proxy that speaks TLS stands before it")
    parser.add_argument("--tls-cert", metavar="FILE", help="the certificate, to speak TLS itself")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    for name, what in _LIMITS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=what)


_LIMITS = {
    "body_bytes": "most bytes of a request",
    "rows": "most rows of a request",
    "queue_rows": "most rows that wait",
    "deadline_s": "most seconds that a request waits",
    "connections": "most connections at once",
}


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 0 when it was ended, 3 when there is nothing to serve."""
    store = open_store(args.store, must_exist=True)
    app = store.app(args.name)
    role = store.ledger.role(app, LIVE, "champion")
    if role is None or not role.release:
        raise NotFound(
            "ST772", f"{app} has no release to serve yet. `staytrue fetch` and `staytrue train` make one.", app=app
        )
    _check_certificate(args.tls_cert, args.tls_key)
    gate = Gate(
        host=args.host,
        allowed_hosts=args.allow_host,
        tokens=tokens(store.ledger),
        tls=bool(args.tls_cert),
        behind_proxy=args.behind_proxy,
    )
    limits = _limits(args)
    Connection.most = max(16, min(limits.connections, most_descriptors() - _OWN_DESCRIPTORS))
    listening = _listening(args.host, args.port)
    service = Service(store, app, gate=gate, limits=limits, lanes=args.lanes, threads=args.threads, say=screen.note)
    server = _Server(_config(args, Front(service, gate), limits), limits)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_served(server, service, listening, screen))
    store.close()
    return 0


def _limits(args: argparse.Namespace) -> ServerLimits:
    given = {name: getattr(args, name) for name in (*_LIMITS, "lanes", "threads") if getattr(args, name) is not None}
    for name, value in given.items():
        least = 0 if name == "deadline_s" else 1
        if not math.isfinite(value) or value < least or value == 0:
            raise InvalidInput("ST773", f"--{name.replace('_', '-')} is {value:g}; expected a number above 0.")
    kinds = {name: type(getattr(ServerLimits(), name)) for name in _LIMITS}
    return ServerLimits(**{name: kinds[name](given[name]) for name in _LIMITS if name in given})


def _check_certificate(cert: str | None, key: str | None) -> None:
    if bool(cert) != bool(key):
        raise InvalidInput("ST773", "--tls-cert and --tls-key go together: give both, or neither.")
    if cert is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
        except OSError as exc:  # of ssl too
            raise InvalidInput("ST773", f"--tls-cert {cert} with --tls-key {key} can't be used: {exc}.") from exc


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except (OSError, OverflowError) as exc:
        raise Unavailable(
            "ST774", f"Can't listen on {host}:{port}: {exc}. Give another --port, or end who has it.", port=port
        ) from exc
    return made


def _config(args: argparse.Namespace, front: Any, limits: ServerLimits) -> uvicorn.Config:
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
        ssl_certfile=args.tls_cert,
        ssl_keyfile=args.tls_key,
    )


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
            sweep(self.server_state.connections, self._limits, loop.time())


async def _served(server: _Server, service: Service, listening: socket.socket, screen: Screen) -> None:
    sweeping = asyncio.create_task(server.sweep())
    announcing = asyncio.create_task(_announce(service, listening, "https" if server.config.is_ssl else "http", screen))
    try:
        await server.serve(sockets=[listening])
    finally:
        sweeping.cancel()
        announcing.cancel()


async def _announce(service: Service, listening: socket.socket, scheme: str, screen: Screen) -> None:
    """Say where it is, once it can answer."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{shown}:{port}"
    champion = await service.first_champion()
    # What is there by now stays: the collector need not look at it again, which would hold up everybody.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    screen.document({"url": url, "app": service.app, "release": champion.release})
    screen.say(f"{service.app}: release {champion.release[:8]} answers at {url}", style="bold green")
    body = json.dumps({"rows": [dict(champion.facts.example)]}, ensure_ascii=False).replace("'", "'\\''")
    screen.say(f"\nAsk it:\n\n  curl {url}/predict -d '{body}'\n")
    screen.note(f"What it wants: {url}/openapi.json   What it counts: {url}/metrics   End: Ctrl-C")
