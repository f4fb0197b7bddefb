"""Place: the folder of a drill: the app's git repository, its database, the clock, the store, and `staytrue` run in it.

place/app/     the app, a git repository        place/store/   what staytrue keeps
place/rows.db  what the app's source reads      place/now      the time, for the loop
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from stream import Database, Stream

from staytrue.cli.asker import Asker
from staytrue.cli.feeder import Feeder, Loop, until
from staytrue.cli.server import said, serving
from staytrue.loop.process import FileClock
from staytrue.store.ledger import Event
from staytrue.store.store import Store, open_store

__all__ = ["Place", "Up", "percentile", "until"]

_GIT = ("git", "-c", "user.name=drill", "-c", "user.email=drill@localhost", "-c", "commit.gpgsign=false")


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
        return self._clock()

    @clock.setter
    def clock(self, now: datetime) -> None:
        self._clock.set(now)

    @property
    def _clock(self) -> FileClock:
        return FileClock(self.folder / "now")

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

    @cached_property
    def loop(self) -> Loop:
        """The loop, to look at."""
        return Loop(store=self.store, app=self.stream.name, clock=self._clock, said=self.said)

    def feeder(self, asker: Asker, told: Callable[[Event], None]) -> Feeder:
        """Who plays the days."""
        return Feeder(loop=self.loop, world=self.database, asker=asker, told=told)

    @contextlib.contextmanager
    def up(self, *words: str) -> Iterator[Up]:
        """`staytrue up` on a free port, once it answers; ended afterwards."""
        out = self.folder / "up.out"
        where = ["--store", str(self.folder / "store"), "--app", str(self.app / "app.py")]
        words = ("--port", "0", "--json", *where, "--clock", str(self._clock.file), *words)
        with serving(words, folder=self.folder, log=self._log, out=out, env=self.environment) as process:
            url = until(lambda: self._url(process, out), "the address at which it answers")
            yield Up(process=process, port=int(url.rpartition(":")[2]))

    def _url(self, process: subprocess.Popen[bytes], out: Path) -> str:
        if process.poll() is not None:
            raise RuntimeError(f"staytrue up ended with {process.returncode}: {self.said()}")
        with contextlib.suppress(ValueError):
            return str(json.loads(out.read_text())["url"])
        return ""

    def said(self) -> str:
        """The last of what `staytrue up` said to people."""
        return said(self._log)

    @property
    def _log(self) -> Path:
        return self.folder / "up.err"

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
