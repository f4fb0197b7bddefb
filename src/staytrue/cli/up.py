"""`staytrue up`: serve the champion over HTTP, log every prediction, join the labels, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import math
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from staytrue.errors import InvalidInput, NotFound, Unavailable
from staytrue.serve.spawn import Started, start_worker
from staytrue.settings import setting

if TYPE_CHECKING:
    from staytrue.cli.screen import Screen
    from staytrue.serve.limits import Certificate, ServerLimits
    from staytrue.serve.supervisor import Supervisor

__all__ = ["arguments", "run"]

PORT = 8484


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
    _check_numbers(args)
    root = Path(setting("store", args.store)).absolute()
    if not (root / "ledger.db").exists():
        from staytrue.store.store import open_store

        open_store(args.store, must_exist=True)
    # First of all, so that the worker loads its libraries while this process loads the server's: a quarter of the time
    # until the first answer.
    process, control = started = start_worker(root, threads=args.threads)
    try:
        with control:
            _serve(args, screen, started)
    finally:
        process.kill()
        process.wait()
    return 0


def _serve(args: argparse.Namespace, screen: Screen, started: Started) -> None:
    from staytrue.kernel.release import Digest
    from staytrue.serve.gate import Gate
    from staytrue.serve.handshake import Begun, Errand, send_errand
    from staytrue.store.ledger import LIVE
    from staytrue.store.store import open_store
    from staytrue.store.tokens import tokens

    store = open_store(args.store, must_exist=True)
    app = store.app(args.name)
    role = store.ledger.role(app, LIVE, "champion")
    if role is None or not role.release:
        raise NotFound(
            "ST772", f"{app} has no release to serve yet. `staytrue fetch` and `staytrue train` make one.", app=app
        )
    release = Digest(role.release)
    send_errand(started[1], Errand.of(store, release))
    certificate = _certificate(args.tls_cert, args.tls_key)
    gate = Gate(
        host=args.host,
        allowed_hosts=args.allow_host,
        tokens=tokens(store.ledger),
        tls=certificate is not None,
        behind_proxy=args.behind_proxy,
    )
    with _listening(args.host, args.port) as listening:
        from staytrue.serve.server import serve
        from staytrue.serve.service import Service

        service = Service(
            store,
            app,
            gate=gate,
            limits=_limits(args),
            lanes=args.lanes,
            threads=args.threads,
            say=screen.note,
            begun=Begun(release, started),
        )
        serve(
            service, listening, certificate=certificate, ready=lambda url, champion: _told(app, url, champion, screen)
        )
    store.close()


def _told(app: str, url: str, champion: Supervisor, screen: Screen) -> None:
    """Say where it is, and how it is asked."""
    screen.document({"url": url, "app": app, "release": champion.release})
    screen.say(f"{app}: release {champion.release[:8]} answers at {url}", style="bold green")
    body = json.dumps({"rows": [dict(champion.facts.example)]}, ensure_ascii=False).replace("'", "'\\''")
    screen.say(f"\nAsk it:\n\n  curl {url}/predict -d '{body}'\n")
    screen.note(f"What it wants: {url}/openapi.json   What it counts: {url}/metrics   End: Ctrl-C")


def _check_numbers(args: argparse.Namespace) -> None:
    given = {name: getattr(args, name) for name in (*_LIMITS, "lanes", "threads") if getattr(args, name) is not None}
    for name, value in given.items():
        least = 0 if name == "deadline_s" else 1
        if not math.isfinite(value) or value < least or value == 0:
            raise InvalidInput("ST773", f"--{name.replace('_', '-')} is {value:g}; expected a number above 0.")


def _limits(args: argparse.Namespace) -> ServerLimits:
    from staytrue.serve.limits import ServerLimits

    given = {name: getattr(args, name) for name in _LIMITS if getattr(args, name) is not None}
    kinds = {name: type(getattr(ServerLimits(), name)) for name in _LIMITS}
    return ServerLimits(**{name: kinds[name](value) for name, value in given.items()})


def _certificate(cert: str | None, key: str | None) -> Certificate | None:
    from staytrue.serve.limits import Certificate

    if cert is None and key is None:
        return None
    if not cert or not key:
        raise InvalidInput("ST773", "--tls-cert and --tls-key go together: give both, or neither.")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except OSError as exc:  # of ssl too
        raise InvalidInput("ST773", f"--tls-cert {cert} with --tls-key {key} can't be used: {exc}.") from exc
    return Certificate(cert=cert, key=key)


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
