"""Main: the front's process, from the store to the last answer. `staytrue up` keeps it alive (`engines/keeper.py`).

The first thing it does is to start the champion's worker, which loads its libraries while this process loads the
server's: a quarter of the time until the first answer. Without a release yet it serves all the same, and says so.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from staytrue.engines.keeper import Line, Notice
from staytrue.errors import NotFound, StaytrueError

if TYPE_CHECKING:
    from staytrue.serve.handshake import Begun
    from staytrue.serve.health import PredictiveHealth
    from staytrue.serve.otel import Sender
    from staytrue.serve.service import Service
    from staytrue.serve.spawn import Started
    from staytrue.serve.supervisor import Supervisor
    from staytrue.store.ledger import Entry
    from staytrue.store.store import Store

__all__ = ["Options", "declared_name", "run_front"]

_ASK_AGAIN_S: Final = 0.1
_BEAT_S: Final = 0.5
_PATIENCE_S: Final = 5.0
_PROCESSES: Final = ("front", "controller", "page")
"""What `staytrue up` keeps alive, as alarms name it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a front is told.

    Attributes:
        root: the store's folder.
        app: which app; None: the one that `app_file` declares, else the only one of the store.
        app_file: of the controller that fetches and trains beside it; None: there is none, and so must be a release.
        host, allowed_hosts, behind_proxy: of the gate.
        certificate: files of certificate and key, to speak TLS.
        limits: those of `ServerLimits` that are not as usual.
        lanes, threads: of each release.
        page: where the process listens that draws pages; None: there is none.
    """

    root: Path
    app: str | None = None
    app_file: Path | None = None
    host: str = "127.0.0.1"
    allowed_hosts: Sequence[str] = ()
    behind_proxy: bool = False
    certificate: tuple[str, str] | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    lanes: int = 1
    threads: int = 1
    page: str | None = None


def run_front(
    options: Options,
    listening: socket.socket,
    line: Line,
    *,
    say: Callable[[str], None],
    ready: Callable[[str, str, Supervisor], None],
    again: bool = False,
) -> int:
    """Serve until SIGTERM, and until what is under way then is answered; 0.

    Over the line it tells `{"is": "empty"}` when there is no release to serve yet, and hears of siblings that died.

    Args:
        ready: called with the address, the app and the champion, once it can answer.
        again: another front has answered before: whoever comes now waits for this one, and is not told that it starts.

    Raises:
        NotFound: ST772, no release and nobody who would make one. And as `open_store`, `Store.app`, `Gate`.
    """
    from staytrue.serve.spawn import start_worker

    begun = start_worker(options.root, threads=options.threads) if (options.root / "ledger.db").exists() else None
    try:
        _serve(options, listening, line, begun, say=say, ready=ready, again=again)
    finally:
        if begun is not None:
            _end(begun)
    return 0


def _serve(
    options: Options,
    listening: socket.socket,
    line: Line,
    begun: Started | None,
    *,
    say: Callable[[str], None],
    ready: Callable[[str, str, Supervisor], None],
    again: bool,
) -> None:
    from staytrue.serve.gate import Gate
    from staytrue.serve.limits import Certificate, ServerLimits
    from staytrue.store.store import open_store
    from staytrue.store.tokens import tokens

    store = open_store(options.root, must_exist=options.app_file is None)
    app = _app(store, options, line)
    ahead = _on_its_errand(store, app, options, begun, line)
    gate = Gate(
        host=options.host,
        allowed_hosts=options.allowed_hosts,
        tokens=tokens(store.ledger),
        tls=options.certificate is not None,
        behind_proxy=options.behind_proxy,
    )
    from staytrue.serve.health import PredictiveHealth
    from staytrue.serve.otel import otel_sender
    from staytrue.serve.server import serve
    from staytrue.serve.service import Service

    kinds = {name: type(getattr(ServerLimits(), name)) for name in options.limits}
    service = Service(
        store,
        app,
        gate=gate,
        limits=ServerLimits(**{name: kinds[name](value) for name, value in options.limits.items()}),
        lanes=options.lanes,
        threads=options.threads,
        say=say,
        begun=ahead,
    )
    health = PredictiveHealth(store, app, metrics=service.metrics)
    sender = otel_sender(service.metrics, app, say=say)
    watches: list[PredictiveHealth | Sender] = [health, sender] if sender else [health]
    serve(
        service,
        listening,
        certificate=Certificate(cert=options.certificate[0], key=options.certificate[1])
        if options.certificate
        else None,
        ready=lambda url, champion: ready(url, app, champion),
        beside=lambda: _beside(line, service, say, watches, is_first=not again),
        patience_s=_PATIENCE_S if again and ahead is not None else 0.0,
        page=options.page,
    )
    store.close()


def _app(store: Store, options: Options, line: Line) -> str:
    """Which app is served; as long as nobody can know that, it is waited for: the controller will write it down."""
    if options.app_file is None:
        return store.app(options.app)
    declared = options.app or declared_name(options.app_file)
    while declared is None:
        known = store.apps()
        if len(known) == 1:
            return known[0]
        if known:
            return store.app(None)  # which says that they are several
        if not line.tell({"is": "empty"}):
            os._exit(1)
        time.sleep(_ASK_AGAIN_S)
    return declared


def declared_name(file: Path) -> str | None:
    """The name of the app that a file declares, read without running it; None where that can't be seen.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "app.py"
        >>> _ = file.write_text('app = App("rates")')
        >>> declared_name(file)
        'rates'
    """
    import ast

    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    named = [
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and getattr(call.func, "attr", getattr(call.func, "id", "")) == "App"
        and call.args
        and isinstance(call.args[0], ast.Constant)
    ]
    return str(named[0]) if len(named) == 1 else None


def _on_its_errand(store: Store, app: str, options: Options, begun: Started | None, line: Line) -> Begun | None:
    """The worker that was started ahead, told to load the champion, if there is one.

    Raises:
        NotFound: ST772, there is none, and no controller.
    """
    from staytrue.kernel.release import Digest
    from staytrue.serve.handshake import Begun, Errand, send_errand
    from staytrue.store.ledger import LIVE

    role = store.ledger.role(app, LIVE, "champion")
    if role is not None and role.release:
        release = Digest(role.release)
        if begun is None:
            return None
        send_errand(begun[1], Errand.of(store, release))
        return Begun(release, begun)
    if options.app_file is None:
        raise NotFound(
            "ST772",
            f"{app} has no release to serve yet. `staytrue fetch` and `staytrue train` make one; so does `staytrue up` "
            "with --app, the app's file.",
            app=app,
        )
    line.tell({"is": "empty"})
    if begun is not None:
        _end(begun)
    return None


def _end(begun: Started) -> None:
    process, control = begun
    process.kill()
    process.wait()
    control.close()


# ------------------------------------------------------------ beside the answers


async def _beside(
    line: Line,
    service: Service,
    say: Callable[[str], None],
    watches: Sequence[PredictiveHealth | Sender],
    *,
    is_first: bool,
) -> None:
    """Give the keeper signs of life, write down what it tells, and run the watches."""
    import asyncio  # not by the keeper, which has this module and stays small

    await asyncio.gather(_keep_in_touch(line, service, say, is_first=is_first), *(watch.run() for watch in watches))


async def _keep_in_touch(line: Line, service: Service, say: Callable[[str], None], *, is_first: bool) -> None:
    """`is_first`: no front of this keeper has answered before."""
    import asyncio

    waiting: list[Notice] = []
    are_over = not is_first
    while True:
        if not line.beat():
            os._exit(1)  # what the kernel does on Linux: nobody would start us again, and nobody could end us
        waiting += line.heard()
        if waiting or not are_over:
            try:
                before = [] if are_over else await asyncio.to_thread(_left_open, service.store, service.app)
                entries = [*before, *(_alarm(service.app, notice) for notice in waiting)]
                if entries:
                    await asyncio.to_thread(service.store.ledger.append, entries, recorded_at=datetime.now(UTC))
            except StaytrueError as exc:
                say(f"The ledger does not take what happened to processes, it is tried again: {exc}")
                waiting = waiting[-50:]
            else:
                waiting, are_over = [], True
        await asyncio.sleep(_BEAT_S)


def _left_open(store: Store, app: str) -> list[Entry]:
    """That the alarms about processes are over which another `staytrue up` left open: those processes are no more."""
    from staytrue.kernel.incidents import standing
    from staytrue.store.ledger import LIVE, Entry

    open_ = standing(store.ledger.events(app, LIVE, kinds=["alarm"]))
    now = datetime.now(UTC)
    return [
        Entry(
            app=app,
            key=f"alarm:{one.id}:left",
            at=now,
            kind="alarm",
            sentence=f"System alarm resolved: `staytrue up` was started anew, and with it the {one.cause}.",
            body={"alarm": "system", "what": one.cause, "state": "resolved", "evidence": {"opened": one.seq}},
        )
        for one in open_
        if one.kind == "system" and one.cause in _PROCESSES
    ]


def _alarm(app: str, notice: Notice) -> Entry:
    """The event that says so. Told twice, it happens once: its key is made of what it tells."""
    from staytrue.store.ledger import Entry

    what, state, why = str(notice["what"]), str(notice["state"]), str(notice["why"])
    at = datetime.fromtimestamp(notice["at"], UTC)
    evidence: dict[str, Any] = {"why": why, "restarts": notice["restarts"]}
    tail = "it was started again" if state == "opened" else f"after {notice['restarts']} restart(s)"
    return Entry(
        app=app,
        key=f"alarm:{what}:{notice['by']}:{notice['number']}:{state}",
        at=at,
        kind="alarm",
        sentence=f"System alarm {state}: the {what} {why}; {tail}.",
        body={"alarm": "system", "what": what, "state": state, "evidence": evidence},
    )
