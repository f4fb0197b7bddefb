"""Place: the folder of a drill: the app's git repository, its database, the clock, the store, and `staytrue` run in it.

place/app/     the app, a git repository        place/store/   what staytrue keeps
place/rows.db  what the app's source reads      place/now      the time, for the loop
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from stream import Database, Stream

from staytrue.store.ledger import LIVE, Event
from staytrue.store.store import Store, open_store

__all__ = ["Place", "Up", "percentile", "until"]

T = TypeVar("T")
PATIENCE_S = 600.0
"""For what must happen at all; a busy machine is not a bug."""
_GIT = ("git", "-c", "user.name=drill", "-c", "user.email=drill@localhost", "-c", "commit.gpgsign=false")


def until(
    condition: Callable[[], T], what: str, *, seconds: float = PATIENCE_S, why: Callable[[], str] = lambda: ""
) -> T:
    """What `condition()` gives as soon as it is something.

    Raises:
        TimeoutError: that takes too long; it tells what `why` knows of it.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}. {why()}")
        time.sleep(0.01)
    return found


@dataclass
class Place:
    """One app in a folder of its own, which is made."""

    folder: Path
    stream: Stream
    database: Database = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        shutil.copytree(self.stream.app, self.app, ignore=shutil.ignore_patterns("__pycache__", "*.patch", ".*"))
        self.git("init", "--quiet", "--initial-branch", "main")
        self.commit("Quote a room from what the guest wants")
        self.database = Database(self.folder / "rows.db", self.stream)
        self.clock = self.stream.first

    @property
    def app(self) -> Path:
        """The folder of the app's repository."""
        return self.folder / "app"

    # ------------------------------------------------------------ the repository

    def git(self, *words: str) -> str:
        """What git says."""
        done = subprocess.run([*_GIT, *words], cwd=self.app, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, subject: str, patch: Path | None = None) -> str:
        """Commit what is there, or with this patch applied; the new revision."""
        if patch is not None:
            self.git("apply", str(patch))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject)
        return self.git("rev-parse", "HEAD")

    def checkout_of(self, revision: str) -> Path:
        """The app as it was then, in a folder beside."""
        place = self.folder / f"app-{revision[:8]}"
        if not place.exists():
            self.git("worktree", "add", "--detach", str(place), revision)
        return place

    # ------------------------------------------------------------ the clock

    @property
    def clock(self) -> datetime:
        """The time by which the loop lives."""
        return datetime.fromisoformat(self._clock.read_text())

    @clock.setter
    def clock(self, now: datetime) -> None:
        temporary = self._clock.with_suffix(".new")
        temporary.write_text(now.isoformat())
        temporary.replace(self._clock)

    @property
    def _clock(self) -> Path:
        return self.folder / "now"

    # ------------------------------------------------------------ staytrue

    @property
    def environment(self) -> dict[str, str]:
        """Of every process in this place."""
        return {**os.environ, "DATABASE": str(self.folder / "rows.db"), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}

    def staytrue(self, verb: str, *words: str, app: Path | None = None, accept: Sequence[int] = (0,)) -> Any:
        """The document that a verb prints.

        Raises:
            RuntimeError: its exit code is not among those that are accepted.
        """
        where = ["--store", str(self.folder / "store")]
        where += ["--app", str((app or self.app) / "app.py")] if verb != "verify" else []
        command = [sys.executable, "-W", "ignore", "-m", "staytrue", verb, *words, *where, "--json"]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode not in accept:
            raise RuntimeError(f"staytrue {verb} ended with {done.returncode}: {done.stderr or done.stdout}")
        return json.loads(done.stdout)

    @cached_property
    def store(self) -> Store:
        """The store, to look into."""
        return open_store(self.folder / "store", must_exist=True)

    def lived_until(self) -> datetime:
        """Up to when the loop has lived, and nothing that it decided then is still under way."""
        lease = self.store.ledger.lease(self.stream.name)
        life = (lease.state.get("life") if lease else None) or {}
        if not life or life["retraining"]:
            return self.stream.begin
        return datetime.fromisoformat(life["look"]["until"])

    def events(self, after: int = 0) -> list[Event]:
        """The live timeline."""
        return self.store.ledger.events(self.stream.name, LIVE, after=after)

    def roles(self) -> dict[str, tuple[str, float]]:
        """Who has which role, with which share."""
        roles = self.store.ledger.roles(self.stream.name, LIVE)
        return {role.role: (role.release, role.share) for role in roles if role.release}

    @contextlib.contextmanager
    def up(self, *words: str) -> Iterator[Up]:
        """`staytrue up` on a free port, once it answers; ended afterwards."""
        said = self.folder / "up.out"
        command = [sys.executable, "-W", "ignore", "-m", "staytrue", "up", "--port", "0", "--json"]
        command += ["--store", str(self.folder / "store"), "--app", str(self.app / "app.py")]
        command += ["--clock", str(self._clock), *words]
        with said.open("wb") as out, (self.folder / "up.err").open("ab") as err:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL
            )
        try:
            url = until(lambda: self._url(process, said), "the address at which it answers")
            yield Up(process=process, port=int(url.rpartition(":")[2]))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=PATIENCE_S)

    def _url(self, process: subprocess.Popen[bytes], said: Path) -> str:
        if process.poll() is not None:
            raise RuntimeError(f"staytrue up ended with {process.returncode}: {self.said()}")
        with contextlib.suppress(ValueError):
            return str(json.loads(said.read_text())["url"])
        return ""

    def said(self) -> str:
        """The last of what `staytrue up` said to people."""
        return (self.folder / "up.err").read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """Let go of database and store."""
        self.database.close()
        if "store" in self.__dict__:
            self.store.close()


@dataclass(frozen=True, kw_only=True)
class Up:
    """A running `staytrue up`."""

    process: subprocess.Popen[bytes]
    port: int


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(int(len(ordered) * share + 0.999999) - 1, 0)] if ordered else float("nan")
