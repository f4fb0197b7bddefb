"""A small app, trained once in two releases, and real `staytrue up` processes that serve copies of its store.

Both releases answer x plus a fraction of their own, so an answer tells which release gave it, and to which request. A row
also says how long the model takes for it (`ms`), so a test knows what a server can do at most.

    with up(store, "--deadline-s", "1") as server, Load(server.port, predict, connections=8) as load: ...
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import psutil
from load import Reply, post

from staytrue.store.ledger import LIVE, Entry, RoleChange, RoleName
from staytrue.store.store import Store

T = TypeVar("T")
APP = "even"
FIRST, SECOND = 0.25, 0.5
"""What the releases add to x."""
_WORKER = "staytrue.serve.worker"
PATIENCE_S = 60.0
"""For what must happen at all; a busy machine is not a bug."""

_TEXT = """
import time

import numpy as np
import pandas as pd

from staytrue import App

app = App("even")


@app.data(time="at", key="id", label="y", every="1d", features=["x", "ms"])
def drawn(since, until):
    days = pd.date_range(since, until, freq="1D", inclusive="left")
    number = np.arange(len(days) * 20)
    at = days.repeat(20) + pd.to_timedelta(np.tile(np.arange(20), len(days)), unit="h")
    return pd.DataFrame({"id": number, "at": at, "x": number * 1.0, "ms": 0.0, "y": number + 0.25})


@app.train
def fit(drawn):
    return ADDED


@app.predict(metric="mae", inputs={"*": {"range": "accept", "unit": "accept", "missing": "accept", "null": "accept"}})
def answer(model, rows):
    slow_s = np.nansum(rows["ms"].to_numpy(float)) / 1000
    if slow_s > 0:
        time.sleep(slow_s)
    return rows["x"].to_numpy() + model
"""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A trained store that nobody serves: copy it. Each release by what it adds; the second one is champion."""

    path: Path
    releases: dict[float, str]

    def copied(self, place: Path) -> Path:
        """A store of one's own."""
        return Path(shutil.copytree(self.path, place))


def trained(place: Path) -> Kept:
    """The store of the small app, made under `place`."""
    app = place / "app.py"
    releases = {}
    for added in (FIRST, SECOND):
        app.write_text(_TEXT.replace("ADDED", str(added)))
        if added == FIRST:
            _run(app, place / "store", "fetch", "--since", "2026-01-01", "--until", "2026-01-11")
        said = _run(app, place / "store", "train", "--now")
        releases[added] = said["delivered"]["release"]
    return Kept(path=place / "store", releases=releases)


def _run(app: Path, store: Path, *verb: str) -> dict:
    command = [sys.executable, "-m", "staytrue", *verb, "--app", str(app), "--store", str(store), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ------------------------------------------------------------ requests


def row(number: int, ms: float = 0.0) -> bytes:
    """The JSON of a row whose answer nobody else gets."""
    return b'{"id":%d,"x":%d,"ms":%.3f}' % (number, number, ms)


def predict(number: int, ms: float = 0.0) -> bytes:
    """The request of one row."""
    return post("/predict", b'{"rows":[%s]}' % row(number, ms))


def large(rows: int, size: int, ms: float = 0.0) -> bytes:
    """A request of so many rows and so many bytes; spaces fill up what the rows leave."""
    width = size // rows - 1
    lines = [b'{"id":%d,"x":%d.000000000000000000,"ms":%.6f' % (number, number, ms) for number in range(rows)]
    return post("/predict", b'{"rows":[%s]}' % b",".join(line.ljust(width - 1) + b"}" for line in lines))


def whole(reply: Reply, rows: int) -> bool:
    """Whether every row has its own answer, all of one release."""
    said = json.loads(reply.body)
    added = said["predictions"][0]
    assert added in {FIRST, SECOND}
    return len(set(said["ids"])) == rows and said["predictions"] == [number + added for number in range(rows)]


@dataclass(kw_only=True)
class Judge:
    """Says what is wrong with an answer to `predict`, and remembers the ids of those with which nothing is.

    Attributes:
        releases: what each release adds.
        allowed: statuses that are no fault, beside 200.
        ids: request -> id of its prediction.
    """

    releases: dict[str, float]
    allowed: frozenset[int] = frozenset()
    ids: dict[int, str] = field(default_factory=dict)

    def __call__(self, number: int, reply: Reply) -> str:
        if reply.status != 200:
            return "" if reply.status in self.allowed else f"{reply.status}: {reply.body[:300]!r}"
        said = json.loads(reply.body)
        if reply.headers["staytrue-release"] != said["release"]:
            return f"header and body name different releases: {said}"
        if said["predictions"] != [number + self.releases[said["release"]]]:
            return f"mixed: {number} was answered {said}"
        if "staytrue-logged" in reply.headers:
            return "not logged"
        self.ids[number] = said["ids"][0]
        return ""

    @classmethod
    def of(cls, kept: Kept, *allowed: int) -> Judge:
        return cls(releases={release: added for added, release in kept.releases.items()}, allowed=frozenset(allowed))


# ------------------------------------------------------------ the server


@dataclass
class Up:
    """A server that runs, and where."""

    process: subprocess.Popen[bytes]
    store: Path
    port: int
    errors: Path

    def tree(self) -> list[psutil.Process]:
        """The keeper, the front, its workers, their lanes, its guard: whatever lives, also lanes that outlived their worker."""
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            keeper = psutil.Process(self.process.pid)
            found = [keeper, *keeper.children(recursive=True)]
        return [*found, *(one for one in self._of_releases() if one not in found)]

    def front(self) -> psutil.Process | None:
        """The process that talks HTTP, a fork of the keeper."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            others = ("staytrue.loop", "staytrue.dashboard")
            return next((one for one in children if not any(_runs(one, other) for other in others)), None)
        return None

    def _front_pid(self) -> int:
        front = self.front()
        return front.pid if front is not None else -1

    def _of_releases(self) -> list[psutil.Process]:
        """All workers and lanes that serve this store, whoever is their parent."""
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = one.cmdline()
                mine = any(str(self.store) in word for word in words)
                if _WORKER in words and mine and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one)
        return found

    def workers(self) -> list[psutil.Process]:
        """One for each release that is warm."""
        front = self._front_pid()
        return [one for one in self._of_releases() if one.ppid() == front]

    def lanes(self) -> list[psutil.Process]:
        """What the workers have forked."""
        front = self._front_pid()
        return [one for one in self._of_releases() if one.ppid() != front]

    def reader(self) -> psutil.Process | None:
        """The process that reads large requests, while there is one."""
        # A zombie has no command line.
        front = self.front()
        children = front.children() if front is not None else []
        return next((one for one in children if _runs(one, "staytrue.serve.intake")), None)

    def pss_mb(self, tree: list[psutil.Process] | None = None) -> float:
        """The memory of the whole tree (as it is, or as it was); pages that several share count once."""
        size = 0
        for one in self.tree() if tree is None else tree:
            with contextlib.suppress(psutil.Error):
                size += one.memory_full_info().pss
        return size / (1 << 20)

    def stderr(self) -> str:
        return self.errors.read_text(errors="replace")

    def get(self, path: str, timeout_s: float = 30) -> int:
        """The status of a GET on a connection of its own."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status

    def kill_all(self, how: str) -> list[psutil.Process]:
        """kill -9; gives back all that were in the tree.

        Args:
            how: `keeper` alone, `keeper and guard`, `all` at once, or `backwards`: all, the leaves first.
        """
        tree = self.tree()
        hit = tree
        if how in {"keeper", "keeper and guard"}:
            hit = [one for place, one in enumerate(tree) if place == 0 or (how != "keeper" and _runs(one, "guard.py"))]
        for one in reversed(hit) if how == "backwards" else hit:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()
        return tree


def _runs(process: psutil.Process, what: str) -> bool:
    try:
        return any(what in word for word in process.cmdline())
    except psutil.Error:
        return False


@contextlib.contextmanager
def up(store: Path, *arguments: str, says: Path | None = None) -> Iterator[Up]:
    """`staytrue up` on a free port, once it answers; ended afterwards, if a test has not done so. `says`: folder of its words."""
    said_path = (says or store.parent) / f"{store.name}.{time.monotonic_ns()}.out"
    errors = said_path.with_suffix(".err")
    command = [sys.executable, "-m", "staytrue", "up", "--store", str(store), "--port", "0", "--json", *arguments]
    with said_path.open("wb") as out, errors.open("wb") as err:
        environment = {**os.environ, "NO_COLOR": "1"}
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment)
    server = Up(process, store, 0, errors)
    try:
        said = until(lambda: _said(process, said_path, errors), "the document that says where it is")
        server.port = int(said["url"].rpartition(":")[2])
        yield server
    finally:
        left = server.tree()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


def _said(process: subprocess.Popen[bytes], out: Path, errors: Path) -> dict | None:
    assert process.poll() is None, f"it ended: {out.read_text()} {errors.read_text()}"
    with contextlib.suppress(ValueError):
        return json.loads(out.read_text())
    return None


def until(condition: Callable[[], T], what: str, *, seconds: float = PATIENCE_S) -> T:
    """What `condition()` gives as soon as it is something; fails when that takes too long."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.005)
    return found


# ------------------------------------------------------------ the store


def give(store: Store, **roles: str) -> float:
    """Give these releases their roles, as a delivery does it; gives back when it was written down."""
    now = datetime.now(UTC)
    epochs = {role.role: role.epoch for role in store.ledger.roles(APP, LIVE)}
    changes = []
    for name, release in roles.items():
        role: RoleName = name  # type: ignore[assignment]
        share = float(name == "champion")
        changes.append(RoleChange(role=role, release=release, share=share, expect_epoch=epochs.get(role, 0)))
    entry = Entry(
        app=APP, key=f"given:{now.isoformat()}", at=now, kind="given", sentence="Roles.", roles=tuple(changes)
    )
    store.ledger.append([entry], recorded_at=now)
    return time.monotonic()


def kept_traffic(path: Path) -> dict[str, tuple[float, float | None]]:
    """id -> (answer, label) of all that `store.traffic()` shows; an id that it shows twice fails."""
    with closing(Store(path)) as store:
        rows = store.traffic().to_arrow()
    found = {name: rows.column(name).to_pylist() for name in ("id", "answer", "label")}
    assert len(set(found["id"])) == len(found["id"]), "shown twice"
    return dict(zip(found["id"], zip(found["answer"], found["label"], strict=True), strict=True))
