"""Process: a controller as a process of its own: its clock, its jobs, its signals and its beat.

    python -m staytrue.loop.process --store DIR --app-file FILE [--clock FILE]

`staytrue up` starts it and starts it again. Exit code 0: it was told to end. 75: the champion's code is another one, start me
again to import it. Anything else: it failed, and the reason is on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from staytrue.engines.guard import Guard
from staytrue.engines.keeper import AGAIN, Line
from staytrue.engines.process import ProcessPool
from staytrue.errors import Conflict, StaytrueError, Unavailable
from staytrue.kernel.release import Digest
from staytrue.loop.context import Context, open_context, release_context
from staytrue.loop.controller import Controller, Ended
from staytrue.loop.follow import follower
from staytrue.loop.jobs import drive
from staytrue.loop.lease import FileBeats, Tenancy
from staytrue.loop.notify import Notifier, Way, ways
from staytrue.loop.proposal import described_release
from staytrue.loop.service_controller import ServiceController
from staytrue.settings import setting
from staytrue.store.ledger import LIVE
from staytrue.store.ledger_file import ledger_times
from staytrue.store.store import Store, open_store

__all__ = ["FileClock", "main"]


_LOOK_S: Final = 0.1
_TURN_S: Final = 1.0
"""A turn is taken whenever the ledger or the clock moved, and this often anyway."""
_TROUBLE_S: Final = 5.0


@dataclass(frozen=True)
class FileClock:
    """The time that a file says, for drills: an ISO moment, replaced by whoever plays the past.

    Example:
        >>> import tempfile
        >>> clock = FileClock(Path(tempfile.mkdtemp()) / "now")
        >>> clock.set(datetime(2016, 7, 1, tzinfo=UTC))
        >>> clock().year
        2016
    """

    file: Path

    def __call__(self) -> datetime:
        """Now.

        Raises:
            Unavailable: ST803, the file can't be read or holds no aware moment.
        """
        try:
            found = datetime.fromisoformat(self.file.read_text().strip())
            return found.astimezone(UTC)
        except (OSError, ValueError) as exc:
            raise Unavailable("ST803", f"Can't read the time from {self.file}: {exc}.", path=str(self.file)) from exc

    def set(self, now: datetime) -> None:
        """From now on it is that time; whoever reads the file sees the old time or the new one."""
        temporary = self.file.with_suffix(".new")
        temporary.write_text(now.isoformat())
        temporary.replace(self.file)


def wall() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


@dataclass
class _Process:
    """One controller's life as a process."""

    store: Store
    app: str
    name: str | None
    owner: str
    clock: Callable[[], datetime]
    args: argparse.Namespace
    line: Line | None
    ended: bool = False
    code: int = 0
    _marks: tuple[Any, ...] = ()
    _turned_s: float = float("-inf")
    _looked_s: float = float("-inf")
    _told_s: float = float("-inf")
    _tenancy: Tenancy | None = field(default=None)
    _notifier: Notifier | None = None
    _out: list[Way] | None = None
    _guard: Guard = field(default_factory=Guard)

    def run(self) -> int:
        """Until it is told to end, or has to be started again."""
        name = self._name()
        self._tenancy = tenancy = Tenancy(self.store.ledger, name, self.owner, FileBeats(self.store.root, name))
        slots = int(setting("slots")) or None
        with ProcessPool(self.store.work / "jobs", slots=slots, background=True) as pool:
            controller: Controller | None = None
            while not self.ended:
                if tenancy.hold("waits" if controller is None else "looks", wall()):
                    if controller is None:
                        controller = self._controller(pool, tenancy)
                    if self._is_due() and not self._turn(controller):
                        break
                    if self._turned_s > float("-inf"):
                        self._tell(controller)
                self._give_a_sign()
                time.sleep(_LOOK_S)
        if self._notifier is not None:
            self._notifier.close()
        if controller is not None and tenancy.epoch is not None:
            with contextlib.suppress(StaytrueError):  # what was told may then be told once more
                controller.save()
        return self.code

    def _give_a_sign(self) -> None:
        """That this process lives, for the keeper that starts it again; a keeper that is gone wants nothing any more."""
        if self.line is not None and not self.line.beat():
            self.ended = True

    def _tell(self, controller: Controller) -> None:
        """Tell people of incidents; whatever goes wrong with that, the loop goes on."""
        now_s = time.monotonic()
        if self._out is None:
            self._out = ways(controller.ctx.home)
            if self._out:
                newest = self.store.ledger.events(newest_first=True, limit=1)
                # Where the controller before left off; of what was before the first one, nobody is told.
                after = controller.told = controller.told or (newest[0].seq if newest else 0)
                controller.save()
                self._notifier = Notifier(controller.ctx.app.name, self._out, after=after, guard=self._guard)
        if self._notifier is not None and (self._notifier.busy or now_s - self._told_s >= _TURN_S):
            self._told_s = now_s
            with contextlib.suppress(StaytrueError):  # the ledger is busy: the next turn does it
                self._notifier.turn(self.store.ledger, wall(), now_s)
            controller.told = self._notifier.done

    def _name(self) -> str:
        """The app's name: as told, the store's only one, or what the app's file says."""
        apps = self.store.apps()
        if self.name or len(apps) == 1:
            return self.name or apps[0]
        return open_context(self.app, self.store.root).app.name

    def _controller(self, pool: ProcessPool, tenancy: Tenancy) -> Controller:
        file = self._file()
        followed = None
        if not self.args.no_follow:
            followed = follower(self.store, file, branch=self.args.branch, watch=self.args.watch)
        ctx = self._context(tenancy.app, file, pool)
        kind = ServiceController if ctx.app.is_service else Controller
        return kind(
            ctx=ctx,
            tenancy=tenancy,
            clock=self.clock,
            wall=wall,
            run=lambda steps: drive({"loop": steps}, pool, stop=self._stop)["loop"],
            say=_say,
            follower=followed,
        )

    def _file(self) -> Path:
        path, _, _ = self.app.rpartition(":") if not Path(self.app).exists() else (self.app, "", "")
        return Path(path).resolve()

    def _context(self, app: str, file: Path, pool: ProcessPool) -> Context:
        """The app as its champion has it; before there is one, as it stands in the user's folder.

        The code of a champion is imported here only if it judges or decides itself: without its libraries this process is a
        third of the size.
        """
        role = self.store.ledger.role(app, LIVE, "champion")
        if role is None or not role.release:
            return open_context(self.app, self.store.root)
        release = self.store.release_document(Digest(role.release))
        described = described_release(self.store, release, home=file.parent)
        ctx = drive({"app": described}, pool, stop=self._stop)["app"]
        own = ctx.app.retraining is not None
        return release_context(self.store, release, file.parent) if own else ctx

    def _is_due(self) -> bool:
        """Whether something moved since the last turn, or a while has passed."""
        marks = (*ledger_times(self.store.root), self._now())
        moved, self._marks = marks != self._marks, marks
        return moved or time.monotonic() - self._turned_s >= _TURN_S

    def _now(self) -> datetime | None:
        return self.clock() if isinstance(self.clock, FileClock) else None

    def _turn(self, controller: Controller) -> bool:
        """One turn; False when this process is to end."""
        try:
            again = not controller.turn()
        except Ended:
            return False
        except Conflict as exc:
            controller.forget()
            if exc.code == "ST800" and self._tenancy is not None:
                _say(str(exc))
                self._tenancy.lose()
            return True
        except (StaytrueError, OSError) as exc:
            # This machine is in trouble, or the app is: nothing is concluded from it, and it is tried again.
            controller.forget()
            _say(f"The loop could not go on, and tries again in {_TROUBLE_S:g} s: {exc}")
            self._wait(_TROUBLE_S)
            return not self.ended
        self._turned_s = time.monotonic()
        if again:
            self.code = AGAIN
            return False
        return True

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.ended and self._tenancy is not None:
            self._tenancy.hold("in trouble", wall())
            self._give_a_sign()
            time.sleep(_LOOK_S)

    def _stop(self) -> BaseException | None:
        """Looked at while jobs run: whether to go on waiting for them."""
        self._give_a_sign()
        if self.ended or self._tenancy is None:
            return Ended()
        self._tenancy.hold("works", wall())
        now_s = time.monotonic()
        if now_s - self._looked_s >= _TURN_S:
            self._looked_s = now_s
            if self._notifier is not None:
                with contextlib.suppress(StaytrueError):  # as in `_tell`
                    self._notifier.turn(self.store.ledger, wall(), now_s)
            lease = self.store.ledger.lease(self._tenancy.app)
            if lease is not None and lease.epoch != self._tenancy.epoch:
                return Conflict("ST800", f"Another controller took the loop of {self._tenancy.app} over.")
        return None

    def end(self, *_: object) -> None:
        """Told to end."""
        self.ended = True


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a controller until it is told to end; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m staytrue.loop.process")
    parser.add_argument("--store", required=True)
    parser.add_argument("--app-file", required=True)
    parser.add_argument("--owner", default=f"{os.getpid()}-{secrets.token_hex(4)}")
    parser.add_argument("--name")
    parser.add_argument("--clock")
    parser.add_argument("--branch")
    parser.add_argument("--watch", action="store_true")
    parser.add_argument("--no-follow", action="store_true")
    args = parser.parse_args(argv)
    line = Line.inherited()
    store = open_store(args.store)
    clock = FileClock(Path(args.clock)) if args.clock else wall
    process = _Process(
        store=store, app=args.app_file, name=args.name, owner=args.owner, clock=clock, args=args, line=line
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, process.end)
    try:
        return process.run()
    except Ended:
        return 0
    except StaytrueError as exc:
        _say(str(exc))
        if line is not None:
            line.tell({"is": "failed", "error": exc.document()})
        return exc.exit_code
    finally:
        store.close()


if __name__ == "__main__":
    sys.exit(main())
