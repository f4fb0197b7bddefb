"""Notify: tell people of incidents, by apprise or by a command of their own.

Each way out (a URL, the command) has a queue of its own, and one process at a time that delivers: in its own process group,
with a deadline, without a shell. Nobody waits for it. A failed delivery is tried again and then given up; that a way fails is
told once, until it works again. A state that another one of the same incident has overtaken in the queue is left out.

At least once: whoever keeps `done` and gives it back after a restart may repeat a message, and loses none but those given up.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from staytrue.engines.guard import DETACHED, KILL, Guard, signal_group
from staytrue.kernel.incidents import KINDS, Incident, Open, fold
from staytrue.loop.sender import EXITS
from staytrue.settings import settings_list
from staytrue.store.ledger import LIVE, Entry, Event, Ledger

__all__ = ["Failure", "Notifier", "Way", "by_apprise", "by_command", "ways"]

DEADLINE_S: Final = 30.0
_PAUSES_S: Final = (5.0, 30.0, 120.0, 600.0)
"""Between one try and the next; after the last of them a message is given up."""
_TYPES: Final = {"opened": "warning", "acting": "info", "resolved": "success"}


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a message gets out: a process that reads it from stdin and ends with exit code 0 when it is delivered."""

    name: str
    """For events and people: holds no secret."""
    argv: tuple[str, ...] = field(repr=False)
    message: Callable[[dict[str, Any]], bytes] = field(repr=False)
    """What stdin gets, from the incident's document."""
    means: Callable[[int], str] = field(default=lambda code: f"it ended with exit code {code}", repr=False)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A way that worked so far, or was never tried, and fails now."""

    way: str
    why: str
    seq: int
    """Of the event that it should have told of."""

    def entry(self, app: str, now: datetime) -> Entry:
        """The event that tells of it."""
        return Entry(
            app=app,
            key=f"notify_failed:{self.way}:{self.seq}:{self.why}",
            at=now,
            kind="notify_failed",
            sentence=f"Nobody could be told by {self.way}: {self.why}. It is tried again; that it fails is said this once.",
            body={"way": self.way, "why": self.why, "event": self.seq},
        )


class Notifier:
    """Tells of incidents; its calls return at once.

    Args:
        app: named in each message.
        ways: where to.
        after: nothing is told of events up to this one: the `done` that was kept; or the newest event there is.
        deadline_s: for one delivery.
        guard: kills deliveries that outlive this process.
    """

    def __init__(
        self, app: str, ways: Sequence[Way], *, after: int, deadline_s: float = DEADLINE_S, guard: Guard | None = None
    ) -> None:
        self._app, self._after, self._heard = app, after, after
        self._open: Open = {}
        self._read = 0
        self._untold: list[Failure] = []
        self._lines = [_Line(way, deadline_s, guard) for way in ways]

    @property
    def done(self) -> int:
        """Everything up to this event was told, given up or nothing to tell of: keep it, and give it to the next one."""
        return min((line.first - 1 for line in self._lines if line.first), default=self._heard)

    @property
    def busy(self) -> bool:
        """Whether anything is still to be delivered."""
        return any(line.first for line in self._lines)

    def turn(self, ledger: Ledger, now: datetime, now_s: float) -> None:
        """Look for new events, begin and end deliveries, and write down which ways began to fail. To be called often.

        Args:
            now: by the wall clock, for events.    now_s: by a clock that never jumps.

        Raises:
            Unavailable: the ledger can't be read or written now; the next turn does what this one could not.
        """
        self._untold += self.work(now_s)
        self.hear(ledger.events(self._app, LIVE, kinds=KINDS, after=self._read))
        ledger.append([failure.entry(self._app, now) for failure in self._untold], recorded_at=now)
        self._untold = []

    def hear(self, events: Iterable[Event]) -> None:
        """Take in events of the app's live timeline (`kernel.incidents.KINDS`), each once and in order, from its beginning."""
        for event in events:
            self._read = event.seq
            self._open, changed = fold(self._open, event)
            self._heard = max(self._heard, event.seq)
            for incident in changed:
                if incident.seq > self._after:
                    for line in self._lines:
                        line.add(incident, _document(self._app, incident))

    def work(self, now_s: float) -> list[Failure]:
        """Begin and end deliveries. To be called often, with a clock that never jumps.

        Returns:
            The ways that began to fail; append their entries, so that somebody hears of it.
        """
        return [failure for line in self._lines if (failure := line.work(now_s))]

    def close(self) -> None:
        """End what is under way; it counts as not delivered."""
        for line in self._lines:
            line.stop()


def ways(folder: Path | None = None) -> list[Way]:
    """The ways that the settings `notify` and `notify_command` name.

    Raises:
        InvalidInput: ST139, a setting that can't be read.
    """
    command = settings_list("notify_command", folder=folder)
    urls = settings_list("notify", folder=folder)
    return [*([by_command(command)] if command else []), *(by_apprise(url, n) for n, url in enumerate(urls, 1))]


def by_command(argv: Sequence[str]) -> Way:
    """A command of the user's own: it gets the incident as one JSON document on stdin.

    Example:
        >>> by_command(["tell", "--password", "secret"])
        Way(name='command')
    """
    return Way(name="command", argv=tuple(argv), message=_json)


def by_apprise(url: str, number: int = 1) -> Way:
    """A service that apprise knows.

    Example:
        >>> by_apprise("mailto://anna:secret@example.org", 2)
        Way(name='mailto (2)')
    """
    scheme = url.partition("://")[0]
    named = scheme if scheme.isalnum() and len(scheme) < len(url) else "URL"

    def message(document: dict[str, Any]) -> bytes:
        text = {"title": f"{document['app']}: {document['title']}", "body": document["sentence"]}
        return _json({"url": url, "type": _TYPES[document["state"]], **text})

    return Way(
        name=f"{named} ({number})",
        argv=(sys.executable, "-P", "-m", "staytrue.loop.sender"),
        message=message,
        means=lambda code: EXITS.get(code, f"its process ended with exit code {code}"),
    )


# ---------------------------------------------------------------- one way, one process at a time


@dataclass
class _Line:
    """The queue of one way, and the delivery that is under way."""

    way: Way
    deadline_s: float
    guard: Guard | None
    queue: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    """incident -> the event of its newest state, and the document."""
    process: subprocess.Popen[bytes] | None = None
    sending: tuple[str, int] = ("", 0)
    ends_s: float = 0.0
    killed: bool = False
    tries: int = 0
    next_s: float = float("-inf")
    fails: bool = False

    @property
    def first(self) -> int:
        """The oldest event that is not told of yet; 0: none."""
        return min((seq for seq, _ in self.queue.values()), default=0)

    def add(self, incident: Incident, document: dict[str, Any]) -> None:
        self.queue[incident.id] = (incident.seq, document)

    def work(self, now_s: float) -> Failure | None:
        if self.process is not None:
            return self._ended(now_s)
        if self.queue and now_s >= self.next_s:
            return self._begun(now_s)
        return None

    def stop(self) -> None:
        if self.process is not None:
            signal_group(self.process.pid, KILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the system: it ends when that lets go of it
                self.process.wait(timeout=1)
            self._forget(self.process)

    def _begun(self, now_s: float) -> Failure | None:
        incident, (seq, document) = next(iter(self.queue.items()))
        self.sending = (incident, seq)
        try:
            # A file, not a pipe: whoever does not read must not make us wait.
            with tempfile.TemporaryFile() as file:
                file.write(self.way.message(document))
                file.seek(0)
                self.process = subprocess.Popen(
                    self.way.argv, stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **DETACHED
                )
        except (OSError, ValueError) as exc:
            # The text of the error may quote the command, and that a password.
            return self._failed(now_s, f"it can't be started: {getattr(exc, 'strerror', None) or type(exc).__name__}")
        self.ends_s, self.killed = now_s + self.deadline_s, False
        if self.guard is not None:
            self.guard.watch(self.process.pid)
        return None

    def _ended(self, now_s: float) -> Failure | None:
        process = self.process
        if process is None:
            return None
        code = process.poll()
        if code is None:
            if now_s >= self.ends_s:  # again at each turn until it has ended: nobody waits for it here
                signal_group(process.pid, KILL)
                self.killed = True
            return None
        if os.name == "posix":
            # What it has started ends with it; on Windows a group that has no leader can't be found any more.
            signal_group(process.pid, KILL)
        self._forget(process)
        if code == 0 and not self.killed:
            self._delivered()
            return None
        why = f"it did not end within {self.deadline_s:g} s" if self.killed else self.way.means(code)
        return self._failed(now_s, why)

    def _forget(self, process: subprocess.Popen[bytes]) -> None:
        if self.guard is not None:
            self.guard.forget(process.pid)
        self.process = None

    def _delivered(self) -> None:
        self.fails, self.tries, self.next_s = False, 0, float("-inf")
        self._drop()

    def _drop(self) -> None:
        """Let go of what was sent, unless its incident has another state by now."""
        incident, seq = self.sending
        if self.queue[incident][0] == seq:
            del self.queue[incident]

    def _failed(self, now_s: float, why: str) -> Failure | None:
        told, self.fails = self.fails, True
        if self.tries < len(_PAUSES_S):
            self.next_s = now_s + _PAUSES_S[self.tries]
            self.tries += 1
        else:
            # Given up: the next message is tried as seldom as this one was in the end.
            self.next_s = now_s + _PAUSES_S[-1]
            self._drop()
        return None if told else Failure(way=self.way.name, why=why, seq=self.sending[1])


def _document(app: str, incident: Incident) -> dict[str, Any]:
    return {
        "app": app,
        "id": incident.id,
        "kind": incident.kind,
        "cause": incident.cause,
        "state": incident.state,
        "title": incident.title,
        "sentence": incident.sentence,
        "opened_at": incident.opened_at.isoformat(),
        "changed_at": incident.changed_at.isoformat(),
        "event": incident.seq,
    }


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
