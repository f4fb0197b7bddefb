"""The command line as processes of their own: how the fault tests start staytrue, and find what it leaves running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staytrue.store.ledger import Event, Ledger, Role, StoredRef
from staytrue.store.objects import LocalObjects
from staytrue.store.verify import verify

if TYPE_CHECKING:
    from collections.abc import Mapping

DEADLINE_S = 120
FETCH = ("fetch", "--since", "2025-01-01", "--until", "2025-05-01")
TRAIN = ("train",)
REPLAY = ("replay", "--policy", "payback", "--policy", "every:28d")


class Order:
    """One `staytrue VERB --json ...` under way, in a session of its own. `id` is in the environment of all its processes."""

    def __init__(
        self, app: Path, store: Path, verb: tuple[str, ...], environment: Mapping[str, str] | None = None
    ) -> None:
        self.id = uuid.uuid4().hex
        self.verb = verb[0]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "staytrue", *verb, "--json", "--app", str(app), "--store", str(store)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **(environment or {}), "FAULT_ORDER": self.id},
        )

    def done(self, within_s: float = DEADLINE_S) -> Done:
        """How it ended.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        out, err = self.process.communicate(timeout=within_s)
        return Done(verb=self.verb, exit_code=self.process.returncode, out=out, err=err)

    def kill(self) -> None:
        """kill -9 of this one process: its children are told by nobody."""
        self.process.kill()
        self.process.communicate()

    def survivors(self) -> list[int]:
        """Processes that it has started, directly or not, and that live."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._started(entry)]

    def wait_for_its_children(self) -> None:
        """Until none of its processes lives."""
        deadline = time.monotonic() + DEADLINE_S
        while self.survivors():
            assert time.monotonic() < deadline, f"processes of a killed {self.verb} live on: {self.survivors()}"
            time.sleep(0.01)

    def _started(self, entry: Path) -> bool:
        try:
            return f"FAULT_ORDER={self.id}".encode() in (entry / "environ").read_bytes()
        except OSError:
            return False


@dataclass(frozen=True, kw_only=True)
class Done:
    """What an order came to."""

    verb: str
    exit_code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def code(self) -> str:
        """The code of its error; empty when it has none."""
        return str(self.document["code"]) if self.out.startswith('{\n  "error"') else ""

    @property
    def timeline(self) -> str:
        return json.dumps(self.document["timeline"])

    def well(self) -> Done:
        assert self.exit_code == 0, self.err
        return self


def run(app: Path, store: Path, verb: tuple[str, ...], **environment: str) -> Done:
    """One order from beginning to end."""
    return Order(app, store, verb, environment).done()


@dataclass
class Witness:
    """Remembers all that a store ever said of itself, and insists on it."""

    store: Path
    events: dict[str, Event] = field(default_factory=dict)
    refs: set[StoredRef] = field(default_factory=set)
    champion: Role | None = None

    def look(self) -> None:
        """The store is sound, and nothing that was there is gone or changed."""
        with closing(Ledger.open(self.store / "ledger.db")) as ledger:
            report = verify(LocalObjects(self.store), ledger)
            events, refs = {event.id: event for event in ledger.events()}, set(ledger.refs())
            champion = ledger.role("prices", "live", "champion")
        assert report.problems == []
        assert self.events.items() <= events.items(), "events were lost or changed"
        assert self.refs <= refs, "references were lost"
        if self.champion is not None:
            assert champion is not None, "the champion is gone"
            assert champion.epoch > self.champion.epoch or champion == self.champion, "the champion changed silently"
        self.events, self.refs, self.champion = events, refs, champion

    def heard(self, done: Done) -> None:
        """What a finished order reported is there. Look first."""
        names = {(ref.kind, ref.name) for ref in self.refs}
        models = {ref.digest for ref in self.refs if ref.kind == "model"}
        document = done.document
        if done.verb == "fetch":
            assert {("table", fetched["table"]) for fetched in document["fetched"]} <= names
        if done.verb == "train":
            assert document["model"] in models
            assert document["delivered"] is None or ("release", document["delivered"]["release"]) in names
        if done.verb == "replay":
            assert {("release", line["release"]) for line in document["timeline"] if line["release"]} <= names
            told = [(event.kind, event.at.isoformat(), event.sentence) for event in self.events.values()]
            assert {(line["kind"], line["at"], line["sentence"]) for line in document["timeline"]} <= set(told)
