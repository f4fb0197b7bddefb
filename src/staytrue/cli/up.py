"""`staytrue up`: serve the champion over HTTP, fetch, retrain and deploy beside it, until Ctrl-C.

This process only keeps three others alive, and the sockets open (`engines/keeper.py`): the front, which serves
(`serve/main.py`), the controller, which lives the loop (`loop/process.py`), and the page, which draws (`dashboard/process.py`)
and is asked by the front only. Otherwise they talk through the store.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staytrue.engines.keeper import Child, Failure, Keeper, Line, file_sign
from staytrue.errors import InvalidInput, NotFound, Unavailable, from_document
from staytrue.serve.main import Options, run_front
from staytrue.settings import setting

if TYPE_CHECKING:
    from staytrue.cli.screen import Screen
    from staytrue.serve.supervisor import Supervisor

__all__ = ["arguments", "run"]

PORT = 8484
_BACKLOG = 2048
_CONTROLLER = "staytrue.loop.process"
_PAGE = "staytrue.dashboard.process"
_SITE = "staytrue.dashboard.site"
_FIRST_S = 5.0
_LONGEST_SOCKET = 100
"""A Unix socket's path has room for 104 to 108 bytes."""


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
    parser.add_argument("--no-loop", action="store_true", help="serve only: nothing is fetched, retrained or deployed")
    parser.add_argument("--no-page", action="store_true", help="answer programs only: no page to look at")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--branch", metavar="NAME", help="the branch to follow (default: the one checked out)")
    parser.add_argument("--watch", action="store_true", help="follow the files as they are saved, not commits")
    parser.add_argument("--no-follow", action="store_true", help="follow no code at all")
    parser.add_argument("--clock", metavar="FILE", help="for drills: the time is what this file says")


_LIMITS = {
    "body_bytes": "most bytes of a request",
    "rows": "most rows of a request",
    "queue_rows": "most rows that wait",
    "deadline_s": "most seconds that a request waits",
    "connections": "most connections at once",
}


@dataclass(kw_only=True)
class _Known:
    """What this process knows of the front: whether it was announced that it answers, and whether it has nothing to serve.

    `page`: where the page is, to be said as soon as it can be looked at.
    """

    announced: bool = False
    empty: bool = False
    page: str = ""
    opens: bool = False
    _shown: bool = False

    def heard(self, said: dict[str, Any]) -> None:
        """What the front tells."""
        self.announced |= said.get("is") == "answers"
        self.empty = said.get("is") == "empty"
        if self.page and not self._shown and (self.announced or self.empty):
            self._shown = True
            if self.empty:
                sys.stderr.write(f"The page: {self.page}\n")
            if self.opens:
                # A browser in a terminal would wait for its user, and nobody here may wait.
                argv = [sys.executable, "-m", "webbrowser", "-t", self.page]
                subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 0 when it was asked to end, 3 when there is nothing to serve."""
    _check_numbers(args)
    certificate = _certificate(args.tls_cert, args.tls_key)
    root = Path(setting("store", args.store)).absolute()
    app_file, app_name = _app_file(args)
    if app_file is None and not (root / "ledger.db").exists():
        from staytrue.store.store import open_store

        open_store(args.store, must_exist=True)
    options = Options(
        root=root,
        app=args.name,
        app_file=app_file,
        host=args.host,
        allowed_hosts=args.allow_host,
        behind_proxy=args.behind_proxy,
        certificate=certificate,
        limits={name: getattr(args, name) for name in _LIMITS if getattr(args, name) is not None},
        lanes=args.lanes,
        threads=args.threads,
    )
    known = _Known(opens=args.open)
    with _listening(args.host, args.port) as listening, _page_socket(root, wanted=not args.no_page) as page:
        if page is not None:
            known.page = f"{_address(listening, tls=certificate is not None)}/"
            options = replace(options, page=page.getsockname())
        children = [_front(options, listening, known, screen)]
        if app_file is not None:
            children.append(_controller(args, root, f"{app_file}:{app_name}" if app_name else str(app_file), known))
        elif not args.no_loop:
            screen.note("There is no app.py here: it is served as it is, and nothing is fetched or retrained (--app).")
        if page is not None:
            children.append(_page(root, app_file.parent if app_file is not None else Path.cwd(), page, known))
        failure = Keeper(children, say=screen.note, told="front", ending=listening.close).run()
    return _gave_up(failure, screen) if failure else 0


def _app_file(args: argparse.Namespace) -> tuple[Path | None, str]:
    """The file of the app that the controller lives for, and the name in it; None: there is none to serve beside.

    Raises:
        NotFound: ST114, the file that was asked for is not there.
    """
    if args.no_loop or find_spec(_CONTROLLER) is None:
        return None, ""
    where, _, name = setting("app", args.app).partition(":")
    file = Path(where).absolute()
    file = file / "app.py" if file.is_dir() else file
    if file.is_file():
        return file, name
    if args.app is not None:
        raise NotFound("ST114", f"No app at {file}: expected a Python file with an App in it.", path=str(file))
    return None, ""


def _front(options: Options, listening: socket.socket, known: _Known, screen: Screen) -> Child:
    def run(line: Line) -> int:
        def ready(url: str, app: str, champion: Supervisor) -> None:
            if known.announced:
                screen.note(f"{app} answers again.")
            else:
                _told(app, url, champion, screen, page=known.page)
            line.tell({"is": "answers"})

        return run_front(options, listening, line, say=screen.note, ready=ready, again=known.announced)

    return Child(
        name="front",
        run=run,
        starts_s=30.0,
        silent_s=5.0,
        grace_s=25.0,
        needed=lambda: not known.announced,
        heard=known.heard,
    )


def _controller(args: argparse.Namespace, root: Path, app: str, known: _Known) -> Child:
    argv = [sys.executable, "-P", "-m", _CONTROLLER, "--store", str(root), "--app-file", app]
    argv += ["--owner", f"{os.getpid()}-{os.urandom(6).hex()}"]
    argv += [f"--{flag}={given}" for flag in ("name", "branch", "clock") if (given := getattr(args, flag)) is not None]
    argv += [f"--{flag.replace('_', '-')}" for flag in ("watch", "no_follow") if getattr(args, flag)]

    def run(line: Line) -> int:
        from staytrue.engines.guard import limit_this_process, stand_back
        from staytrue.engines.job import environment

        stand_back()  # the front comes first, and jobs last: they go on from here
        limit_this_process(oom_score=600)
        line.pass_on()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # stdout is for the document of this command
        os.execve(sys.executable, argv, environment(args.threads))  # noqa: S606 - a program of our own, without a shell

    return Child(
        name="controller",
        run=run,
        starts_s=60.0,
        silent_s=10.0,
        grace_s=10.0,
        sign=file_sign(root / "work" / "loop"),
        # A champion is served whatever the code that would succeed it looks like now.
        needed=lambda: known.empty,
    )


def _page(root: Path, home: Path, listening: socket.socket, known: _Known) -> Child:
    until_s = time.monotonic() + _FIRST_S
    argv = [sys.executable, "-P", "-m", _PAGE, "--store", str(root), "--home", str(home)]
    argv += ["--socket", str(listening.fileno()), "--site", _SITE]

    def run(line: Line) -> int:
        from staytrue.engines.guard import limit_this_process, stand_back
        from staytrue.engines.job import environment

        stand_back()
        limit_this_process(oom_score=800)
        line.pass_on()
        listening.set_inheritable(True)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os.execve(sys.executable, argv, environment(1))  # noqa: S606 - as the controller

    # A page that can't be drawn harms nobody who asks for a prediction: no alarm of the app.
    return Child(
        name="page",
        run=run,
        starts_s=60.0,
        silent_s=15.0,
        grace_s=3.0,
        matters=False,
        # On a busy machine the start of a page would put off the first answer by as long as it takes.
        waits=lambda: not known.announced and time.monotonic() < until_s,
    )


@contextlib.contextmanager
def _page_socket(root: Path, *, wanted: bool) -> Iterator[socket.socket | None]:
    """Where the front asks for pages: a socket that only this user may open. It stays when the page is started again."""
    if not wanted or find_spec(_SITE) is None:
        yield None
        return
    folder = root / "work" / "page"
    with contextlib.ExitStack() as cleanup:
        if len(os.fsencode(folder)) > _LONGEST_SOCKET - 20:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="staytrue-")))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob("*.sock"):
            if not _is_alive(left.stem):
                left.unlink(missing_ok=True)
        path = folder / f"{os.getpid()}.sock"
        cleanup.callback(path.unlink, missing_ok=True)
        made = cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        before = os.umask(0o177)
        try:
            path.unlink(missing_ok=True)
            made.bind(str(path))
        except OSError as exc:
            raise Unavailable(
                "ST774", f"Can't make the page's socket {path}: {exc}. Serve without it: --no-page."
            ) from exc
        finally:
            os.umask(before)
        made.listen(_BACKLOG)
        yield made


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _gave_up(failure: Failure, screen: Screen) -> int:
    error = from_document(failure.error) if failure.error else None
    screen.error(
        error
        or Unavailable(
            "ST880",
            f"The {failure.name} ended with exit code {failure.exit_code} before it was there. What it said stands above.",
            name=failure.name,
            exit_code=failure.exit_code,
        )
    )
    return failure.exit_code or 1


def _told(app: str, url: str, champion: Supervisor, screen: Screen, *, page: str) -> None:
    """Say where it is, and how it is asked."""
    screen.document({"url": url, "app": app, "release": champion.release, "page": page or None})
    screen.say(f"{app}: release {champion.release[:8]} answers at {url}", style="bold green")
    body = json.dumps({"rows": [dict(champion.facts.example)]}, ensure_ascii=False).replace("'", "'\\''")
    screen.say(f"\nAsk it:\n\n  curl {url}/predict -d '{body}'\n")
    if page:
        screen.say(f"The page: {page}\n", style="bold")
    screen.note(f"What it wants: {url}/openapi.json   What it counts: {url}/metrics   End: Ctrl-C")


def _check_numbers(args: argparse.Namespace) -> None:
    given = {name: getattr(args, name) for name in (*_LIMITS, "lanes", "threads") if getattr(args, name) is not None}
    for name, value in given.items():
        least = 0 if name == "deadline_s" else 1
        if not math.isfinite(value) or value < least or value == 0:
            raise InvalidInput("ST773", f"--{name.replace('_', '-')} is {value:g}; expected a number above 0.")


def _certificate(cert: str | None, key: str | None) -> tuple[str, str] | None:
    if cert is None and key is None:
        return None
    if not cert or not key:
        raise InvalidInput("ST773", "--tls-cert and --tls-key go together: give both, or neither.")
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except OSError as exc:  # of ssl too
        raise InvalidInput("ST773", f"--tls-cert {cert} with --tls-key {key} can't be used: {exc}.") from exc
    return cert, key


def _address(listening: socket.socket, *, tls: bool) -> str:
    host, port = listening.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(_BACKLOG)  # from now on whoever comes waits, whatever happens to the front
    except (OSError, OverflowError) as exc:
        raise Unavailable(
            "ST774", f"Can't listen on {host}:{port}: {exc}. Give another --port, or end who has it.", port=port
        ) from exc
    return made
