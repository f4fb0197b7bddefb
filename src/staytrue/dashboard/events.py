"""Events: tells open pages that something moved, as server-sent events.

Whether something moved is seen by the times of the ledger's files, four times a second while a page is open and never else; the
ledger itself is not asked. A page about jobs hears of their files too: what a job prints is in no ledger. A commit moves the
times before it can be read, so a move is told twice: at once, and when all is quiet again. Whether a controller lives is seen by
its beat. A reader that does not read is dropped: it comes again by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from staytrue.engines.job_log import mark
from staytrue.loop.lease import alive
from staytrue.store.ledger_file import ledger_times

__all__ = ["HEADERS", "Events", "ledger_mark"]

HEADERS: Final = {"content-type": "text/event-stream", "cache-control": "no-store"}

_LOOK_S: Final = 0.25
_AGAIN_S: Final = 1.0
"""From one `changed` to the next, at least."""
_SETTLED_S: Final = 0.6
_BEAT_S: Final = 2.0
"""A page that hears nothing for longer than two of these says that it is cut off."""
_COMMENT_S: Final = 15.0
_UNREAD_BYTES: Final = 64 << 10
_MOST: Final = 128
_JOBS: Final = frozenset({"job", "jobs"})
"""Elements of pages that show what jobs print."""

Controller = Literal["alive", "dead", "none"]


@dataclass(eq=False)
class _Reader:
    """A page that listens."""

    app: str
    writer: asyncio.StreamWriter
    jobs: bool
    """Whether it shows what jobs print."""
    told: Controller = "none"


@dataclass
class _Moves:
    """What was seen of the files, and what of it is still to be told; times are monotonic."""

    mark: tuple[Any, ...] = ()
    due_s: float = float("inf")
    settles_s: float = float("inf")
    told_s: float = float("-inf")

    def look(self, mark: tuple[Any, ...], now_s: float) -> bool:
        """Whether to say `changed` now."""
        if mark != self.mark:
            self.mark = mark
            self.due_s = min(self.due_s, max(now_s, self.told_s + _AGAIN_S))
            self.settles_s = now_s + _SETTLED_S
        if min(self.due_s, self.settles_s) > now_s:
            return False
        if self.settles_s <= now_s:
            self.settles_s = float("inf")
        self.due_s, self.told_s = float("inf"), now_s
        return True


@dataclass
class Events:
    """Everybody who listens. `serve` each; the looking begins and ends by itself.

    Args:
        root: the store's folder.
    """

    root: Path
    _readers: set[_Reader] = field(default_factory=set)
    _moves: _Moves = field(default_factory=_Moves)
    _prints: _Moves = field(default_factory=_Moves)
    _task: asyncio.Task[None] | None = None

    @property
    def is_crowded(self) -> bool:
        """Whether nobody else is let in."""
        return len(self._readers) >= _MOST

    async def serve(
        self, app: str, fragments: Sequence[str], last: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Tell this page of changes until it goes, or does not read.

        Args:
            app: the one that it is about; empty: all of them.
            fragments: what on it changes; said first.
            last: the id of the last event that it has heard.
        """
        if self._task is None or self._task.done():
            self._moves = _Moves(mark=ledger_times(self.root))
            self._task = asyncio.get_running_loop().create_task(self._watch())
        one = _Reader(app, writer, not _JOBS.isdisjoint(fragments), controller(self.root, app))
        hello = {"fragments": list(fragments), "controller": one.told, "mark": ledger_mark(self.root)}
        _send(one, "hello", hello, id_=self._id(one))
        if last and last != self._id(one):
            _send(one, "changed", {}, id_=self._id(one))
        self._readers.add(one)
        try:
            with contextlib.suppress(ConnectionError):
                while await reader.read(1 << 10):
                    pass
        finally:
            self._readers.discard(one)

    def close(self) -> None:
        """Nobody listens any more."""
        if self._task is not None:
            self._task.cancel()
        for one in list(self._readers):
            one.writer.close()

    # ------------------------------------------------------------ looking

    async def _watch(self) -> None:
        beat_s = comment_s = time.monotonic()
        while self._readers:
            now_s = time.monotonic()
            changed = self._moves.look(ledger_times(self.root), now_s)
            shown = any(one.jobs for one in self._readers)
            printed = shown and self._prints.look(mark(self.root / "work" / "jobs"), now_s)
            lives = {app: controller(self.root, app) for app in {one.app for one in self._readers}}
            beats, comments = now_s - beat_s >= _BEAT_S, now_s - comment_s >= _COMMENT_S
            beat_s, comment_s = now_s if beats else beat_s, now_s if comments else comment_s
            for one in list(self._readers):
                turned, one.told = one.told != lives[one.app], lives[one.app]
                if turned or beats:
                    _send(one, "beat", {"controller": one.told})
                if turned or changed or (printed and one.jobs):
                    _send(one, "changed", {}, id_=self._id(one))
                if comments:
                    _write(one, b": here\n\n")
            await asyncio.sleep(_LOOK_S)

    def _id(self, one: _Reader) -> str:
        text = f"{self._moves.mark} {one.told}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def ledger_mark(root: Path) -> str:
    """What is another one once the ledger has moved: a page that was drawn before says so by the one that it carries."""
    return hashlib.blake2b(repr(ledger_times(root)).encode(), digest_size=8).hexdigest()


def controller(root: Path, app: str) -> Controller:
    """Whether the controller of the app gives signs of life; of no app, of all that ever did. `none`: none ever did."""
    names = [app] if app else [file.stem for file in (root / "work" / "loop").glob("*.beat")]
    known = [name for name in names if (root / "work" / "loop" / f"{name}.beat").exists()]
    if not known:
        return "none"
    return "alive" if all(alive(root, name) for name in known) else "dead"


def _send(one: _Reader, event: str, data: dict[str, Any], *, id_: str = "") -> None:
    head = f"id: {id_}\n" if id_ else ""
    first = "retry: 1000\n" if event == "hello" else ""
    _write(one, f"{first}{head}event: {event}\ndata: {json.dumps(data)}\n\n".encode())


def _write(one: _Reader, data: bytes) -> None:
    if one.writer.transport.get_write_buffer_size() > _UNREAD_BYTES:
        one.writer.transport.abort()
    elif not one.writer.is_closing():
        one.writer.write(data)
