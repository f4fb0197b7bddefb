"""Process: the page as a process of its own, so that drawing it never costs a prediction anything.

    python -m staytrue.dashboard.process --store DIR --home DIR --socket FD

`staytrue up` starts it and starts it again; the socket stays open meanwhile. It comes after everybody else (a low priority), has
one thread, a bounded memory, and reads the store by connections of its own. Who asks is the front (`serve/page.py`), which has
let the caller in; a request is a line of JSON and a body, an answer likewise:

    {"method": "GET", "path": "/apps/rates", "query": "", "etag": "", "last_event": "", "json": false, "length": 0, "live": {...}}
    {"status": 200, "headers": {"content-type": "text/html"}, "length": 5120}

`live` is what a page shows beside the store: `who` asks (the token's name, or the user), what he `may` do (scopes), whether he
`signed_in` by a cookie, what a form has to say (`csrf`), how the `server` is, and what was `asked` on the page before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hashlib
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, quote

from staytrue.dashboard.actions import Asked, Notes, act, user
from staytrue.dashboard.events import HEADERS as EVENT_HEADERS
from staytrue.dashboard.events import Events, ledger_mark
from staytrue.engines.guard import DETACHED, KILL, limited_memory, signal_group
from staytrue.engines.keeper import AGAIN, Line
from staytrue.errors import InvalidInput, NotFound, StaytrueError, Unavailable
from staytrue.store.store import Store, open_store

__all__ = ["Site", "main"]

_BEAT_S: Final = 0.5
_HEAD_S: Final = 5.0
_READ_S: Final = 30.0
_LINE_BYTES: Final = 256 << 10
_BODY_BYTES: Final = 64 << 10
_FIELDS: Final = 100
_ERRANDS: Final = 2
_MORE_BYTES: Final = 1 << 30
"""Of address space, beyond what is taken at the start: an answer that wants more fails, and the next one is drawn."""
_MOST_BYTES: Final = 512 << 20
"""Of memory; a process that has more is replaced between two answers."""
_APP: Final = re.compile(r"[a-z0-9-]{1,63}")
_DIGEST: Final = re.compile(r"[.-][0-9a-f]{8,64}\.[a-z0-9]+$")
_FOREVER: Final = "public, max-age=31536000, immutable"


class _Answer(Protocol):
    """What a site answers."""

    @property
    def status(self) -> int: ...
    @property
    def body(self) -> bytes: ...
    @property
    def content_type(self) -> str: ...


class Site(Protocol):
    """What draws: `dashboard/site.py`, or a stand-in of a test."""

    def respond(
        self, store: Store, path: str, query: Mapping[str, str], *, now: datetime, live: Mapping[str, Any] | None = None
    ) -> _Answer:
        """The page, document or file at a path. Reads only."""

    def fragments(self, path: str) -> tuple[str, ...]:
        """The ids of the elements of that page that change."""

    def slow_paths(self, store: Store) -> Iterable[str]:
        """Pages to be drawn once before anybody asks."""


@dataclass(frozen=True, kw_only=True)
class _Head:
    """What a request says."""

    method: str
    path: str
    query: Mapping[str, str]
    etag: str
    last_event: str
    json: bool
    live: Mapping[str, Any]
    sent: Mapping[str, str]

    @classmethod
    def read(cls, line: bytes, body: bytes) -> _Head:
        """From the line and the body.

        Raises:
            InvalidInput: ST1023, too many fields.
        """
        said = json.loads(line)
        return cls(
            method=said["method"],
            path=said["path"],
            query=_fields(said["query"]),
            etag=said["etag"],
            last_event=said["last_event"],
            json=said["json"],
            live=said["live"],
            sent=_fields(body.decode("utf-8", "replace")),
        )


def _fields(text: str) -> Mapping[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS))
    except ValueError as exc:
        raise InvalidInput("ST1023", f"Expected at most {_FIELDS} fields.") from exc


@dataclass
class _Process:
    """One life of the page."""

    root: Path
    home: Path
    site: Site
    line: Line | None
    code: int = 0
    _store: Store | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _errands: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.notes = Notes(self.root / "work" / "page" / "asked")
        self.events = Events(self.root)

    async def run(self, listening: socket.socket) -> int:
        """Until it is told to end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        with contextlib.suppress(StaytrueError):  # there is none yet, or it is busy: the first who asks is told
            self.store()
        self.notes.tidy()
        gc.collect()
        gc.freeze()
        server = await asyncio.start_server(self._serve, sock=listening, limit=_LINE_BYTES)
        threading.Thread(target=self._warm, name="staytrue-warm", daemon=True).start()
        while not self._ended.is_set():
            if self.line is not None and not self.line.beat():
                break
            self._look_after()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _BEAT_S)
        server.close()
        self.events.close()
        if self._under_way:  # cut off by the end of the event loop each of them would say so
            await asyncio.wait(self._under_way, timeout=_BEAT_S)
        for process in self._errands.values():
            signal_group(process.pid, KILL)
        return self.code

    def _warm(self) -> None:
        """In a thread: draw for nobody what takes a second the first time."""
        with contextlib.suppress(Exception):  # whoever asks for the page is told
            for path in self.site.slow_paths(self.store()):
                if self._ended.is_set():
                    return
                self.site.respond(self.store(), path, {}, now=datetime.now(UTC))

    def store(self) -> Store:
        """The store, opened.

        Raises:
            NotFound: ST470, it is not there yet.    Unavailable, Corrupt: as `open_store`.
        """
        if self._store is None:
            self._store = open_store(self.root, must_exist=True)
        return self._store

    def _look_after(self) -> None:
        """End what has ended; make room for another life of this process when it has grown too large."""
        for id_, process in list(self._errands.items()):
            if process.poll() is None:
                continue
            del self._errands[id_]
            asked = self.notes.read(id_)
            if asked is not None and asked.state == "under way":
                broken = Unavailable("ST1019", "It broke off before its end. The server's log tells more.")
                self.notes.write(asked.refused(broken))
        if _resident_bytes() > _MOST_BYTES and not self._errands:
            self.code = AGAIN
            self._ended.set()

    # ------------------------------------------------------------ one request

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a server calls it as one
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            async with asyncio.timeout(_HEAD_S):
                line = await reader.readline()
                length = min(int(json.loads(line)["length"]), _BODY_BYTES)
                body = await reader.readexactly(length) if length else b""
            if await self._answered(line, body, reader, writer):
                return
            async with asyncio.timeout(_READ_S):
                await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            writer.transport.abort()  # the front went away, or did not read: it tells whoever asked
        finally:
            writer.close()

    async def _answered(
        self, line: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer it; true for events, which were told until nobody listened any more."""
        try:
            head = _Head.read(line, body)
            if head.path == "/events" and head.method == "GET":
                await self._listened(head, reader, writer)
                return True
            if head.path.startswith("/actions/"):
                status, headers, answer = self._act(head)
            elif head.path == "/events":
                status, headers, answer = 200, dict(EVENT_HEADERS), b""
            else:
                status, headers, answer = self._drawn(head)
            length = None if status == 304 else len(answer)
            said: dict[str, Any] = {"status": status, "headers": headers, "length": length}
        except StaytrueError as exc:
            said, answer = {"error": exc.document()}, b""
        except Exception:  # noqa: BLE001 - the outermost frame: whatever it is, the front is told, and the next one is drawn
            sys.stderr.write(traceback.format_exc())
            said, answer = {"error": None}, b""
        writer.write(json.dumps(said).encode() + b"\n" + answer)
        return False

    def _drawn(self, head: _Head) -> tuple[int, dict[str, str], bytes]:
        live = {**head.live, "who": head.live.get("who") or user(), "mark": ledger_mark(self.root)}
        asked = self.notes.read(head.query.get("asked", ""))
        live["asked"] = asked.document() if asked else None
        answer = self.site.respond(self.store(), head.path, head.query, now=datetime.now(UTC), live=live)
        headers = {"content-type": answer.content_type}
        if answer.status != 200 or not head.path.startswith("/static/"):
            return answer.status, headers, answer.body
        etag = f'"{hashlib.blake2b(answer.body, digest_size=16).hexdigest()}"'
        headers |= {"etag": etag, "cache-control": _FOREVER if _DIGEST.search(head.path) else "no-cache"}
        if etag in (one.strip().removeprefix("W/") for one in head.etag.split(",")):
            return 304, headers, b""
        return 200, headers, answer.body

    async def _listened(self, head: _Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        app = head.query.get("app", "")
        if app and not _APP.fullmatch(app):
            raise NotFound("ST471", "This store holds no such app.")
        if self.events.is_crowded:
            raise Unavailable("ST1013", "Too many pages are open.")
        writer.write(json.dumps({"status": 200, "headers": EVENT_HEADERS, "length": None}).encode() + b"\n")
        path = head.query.get("path", f"/apps/{app}" if app else "/")
        await self.events.serve(app, self.site.fragments(path), head.last_event, reader, writer)

    # ------------------------------------------------------------ actions

    def _act(self, head: _Head) -> tuple[int, dict[str, str], bytes]:
        asked = act(self.store(), head.path.removeprefix("/actions/"), head.sent, by=head.live.get("who") or user())
        if asked.state == "under way":
            asked = self._sent_on_its_way(asked)
        else:
            self.notes.write(asked)
        if head.json:
            status = {"done": 200, "under way": 202, "refused": 409}[asked.state]
            return status, {"content-type": "application/json"}, json.dumps(asked.document()).encode()
        return 303, {"location": _back(head.sent.get("back", ""), asked)}, b""

    def _sent_on_its_way(self, asked: Asked) -> Asked:
        if len(self._errands) >= _ERRANDS:
            busy = Unavailable("ST1024", f"{_ERRANDS} actions are under way already: wait for one of them to end.")
            asked = asked.refused(busy)
            self.notes.write(asked)
            return asked
        self.notes.write(asked)
        argv = [
            sys.executable,
            "-P",
            "-m",
            "staytrue.dashboard.errand",
            "--store",
            str(self.root),
            "--home",
            str(self.home),
        ]
        argv += ["--notes", str(self.notes.folder), "--asked", asked.id]
        self._errands[asked.id] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=2, **DETACHED)
        return replace(asked)


def _back(wanted: str, asked: Asked) -> str:
    """The page that asked, or the app's, with the note to show."""
    path, _, query = wanted.partition("#")[0].partition("?")
    is_ours = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    if not is_ours or len(wanted) > 1_000:
        path, query = f"/apps/{asked.app}", ""
    kept = [pair for pair in query.split("&") if pair and not pair.startswith("asked=")]
    return f"{quote(path, safe='/%-._~+:,')}?{quote('&'.join([*kept, f'asked={asked.id}']), safe='&=%-._~+:,')}"


def _resident_bytes() -> int:
    """The memory that this process has; 0 where the platform does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw pages until it is told to end; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m staytrue.dashboard.process")
    parser.add_argument("--store", required=True)
    parser.add_argument("--home", required=True)
    parser.add_argument("--socket", required=True, type=int)
    parser.add_argument("--site", default="staytrue.dashboard.site", help="the module that draws")
    args = parser.parse_args(argv)
    line = Line.inherited()
    listening = socket.socket(fileno=args.socket)
    listening.setblocking(False)
    process = _Process(Path(args.store), Path(args.home), importlib.import_module(args.site), line)
    with limited_memory(_MORE_BYTES):
        return asyncio.run(process.run(listening))


if __name__ == "__main__":
    sys.exit(main())
