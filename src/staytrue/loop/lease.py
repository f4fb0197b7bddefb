"""Lease: which controller runs an app's loop. One at a time in the usual case, and harmless with two.

The lease is a row of the ledger whose epoch counts its owners; every write of a controller names its epoch, so whoever was
overtaken writes nothing more, however late it wakes up. When to take over is only a matter of courtesy: the owner rewrites a
file, its beat, twice a second, and whoever waits takes over once the beat stood still for a while by its own monotonic clock,
or its process is gone. No wall clock is compared with another, and a beat costs no write to the ledger.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from staytrue.errors import Conflict
from staytrue.store.ledger import Ledger

__all__ = ["Beats", "FileBeats", "Tenancy", "alive", "held"]

_BEAT_S: Final = 0.5
_PATIENCE_S: Final = 2.0
_ALIVE_S: Final = 3.0


class Beats(Protocol):
    """How controllers of one app see each other: files, or what a simulation has in their place."""

    def read(self) -> Mapping[str, Any] | None:
        """The last beat of any owner; None when there never was one, or it can't be read."""

    def write(self, beat: Mapping[str, Any]) -> None:
        """Replace the beat."""

    def gone(self, beat: Mapping[str, Any]) -> bool:
        """Whether the process of that beat is surely dead. False where that can't be known."""


@dataclass(frozen=True)
class FileBeats:
    """Beats as a file of the store; for processes of one machine."""

    root: Path
    app: str

    @property
    def path(self) -> Path:
        """Where the beat lies."""
        return self.root / "work" / "loop" / f"{self.app}.beat"

    def read(self) -> Mapping[str, Any] | None:
        """The last beat."""
        try:
            found = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, beat: Mapping[str, Any]) -> None:
        """Replace the beat; a disk that refuses it stops nobody, since the epoch decides."""
        temporary = self.path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):  # see above
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(beat))
            temporary.replace(self.path)

    def gone(self, beat: Mapping[str, Any]) -> bool:
        """Whether there is no process of that number any more."""
        pid = beat.get("pid")
        if not isinstance(pid, int) or pid <= 0 or os.name == "nt":  # there, the signal 0 kills
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # it is somebody else's, so it is there
            return False
        return False


class Tenancy:
    """One controller's claim to an app's loop.

    Args:
        owner: a name that no other controller has.
        monotonic: seconds, by a clock that never jumps.
    """

    def __init__(
        self, ledger: Ledger, app: str, owner: str, beats: Beats, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger, self.app, self._owner = ledger, app, owner
        self._beats, self._monotonic = beats, monotonic
        self.epoch: int | None = None
        """Of the lease, while we believe that it is ours."""
        self._count = 0
        self._beat_s = float("-inf")
        self._seen: tuple[Any, float] | None = None

    def hold(self, state: str, at: Any) -> bool:
        """Whether the lease is ours: keep it with a beat, or take it if nobody does. To be called several times a second.

        Args:
            state: what the controller is doing, for people.
            at: now, by the wall clock.
        """
        if self.epoch is None:
            self._try(at)
        if self.epoch is None:
            return False
        now_s = self._monotonic()
        if now_s - self._beat_s >= _BEAT_S:
            self._beat_s, self._count = now_s, self._count + 1
            beat = {"pid": os.getpid(), "owner": self._owner, "epoch": self.epoch, "count": self._count, "state": state}
            self._beats.write(beat)
        return True

    def lose(self) -> None:
        """Somebody else has it: a write was refused."""
        self.epoch, self._seen = None, None

    def _try(self, at: Any) -> None:
        lease = self._ledger.lease(self.app)
        if lease is not None and lease.owner != self._owner and not self._abandoned(lease.owner):
            return
        with contextlib.suppress(Conflict):  # somebody else was first
            self.epoch = self._ledger.take(
                self.app, owner=self._owner, expect_epoch=lease.epoch if lease else 0, at=at
            ).epoch
            self._beat_s = float("-inf")

    def _abandoned(self, owner: str) -> bool:
        """Whether the owner's beat stands still, or its process is gone."""
        beat = self._beats.read()
        if beat is not None and beat.get("owner") == owner and self._beats.gone(beat):
            return True
        mark = (owner, (beat or {}).get("owner"), (beat or {}).get("count"))
        now_s = self._monotonic()
        if self._seen is None or self._seen[0] != mark:
            self._seen = (mark, now_s)
        return now_s - self._seen[1] >= _PATIENCE_S


@contextlib.contextmanager
def held(tenancy: Tenancy, state: str, at: datetime) -> Iterator[None]:
    """Within this block the lease is ours, whatever this process does meanwhile: a controller that comes waits.

    Raises:
        Conflict: ST1030, a controller has it.
    """
    if not tenancy.hold(state, at):
        raise Conflict("ST1030", f"A controller runs the loop of {tenancy.app}. End it first.", app=tenancy.app)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT_S):
            tenancy.hold(state, at)  # the lease is ours, so it only rewrites the beat

    thread = threading.Thread(target=beat, name="beat")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def alive(root: Path, app: str) -> bool:
    """Whether a controller of the app gave a sign within the last three seconds."""
    beats = FileBeats(root, app)
    try:
        age_s = time.time() - beats.path.stat().st_mtime
    except OSError:
        return False
    beat = beats.read()
    return age_s < _ALIVE_S and beat is not None and not beats.gone(beat)
