"""Router: which release answers whom. One table, replaced as a whole; the ledger says what should be in it.

Level-triggered: the ledger's roles are looked at again and again, the workers that they want are started, and as soon as
a release is ready and has the role, the next request goes to it. What it replaces answers what it has begun, and stays
warm as long as it has a role. A release that does not start changes nothing: whoever answers goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Final, NamedTuple

from staytrue.engines.guard import Guard
from staytrue.errors import StaytrueError, Unavailable
from staytrue.kernel.release import Digest
from staytrue.kernel.rollout import in_canary
from staytrue.serve.batch import Arm, Batch
from staytrue.serve.channel import Told
from staytrue.serve.handshake import Begun
from staytrue.serve.metrics import Metrics
from staytrue.serve.problem import Problem
from staytrue.serve.schema import Read, Structs
from staytrue.serve.supervisor import Limits, Supervisor
from staytrue.store.ledger import LIVE, Entry, RoleName
from staytrue.store.store import Store

__all__ = ["Router", "Share", "Table"]

_LOOK_S: Final = 0.05
_READ_S: Final = 0.5
_VISIBLE_S: Final = 0.5
"""The file's times are looked at twenty times a second; the ledger itself is read whenever they moved within the last
half second, and this often. A commit moves them before its sync to disk, and can be read only after it."""
_TRY_AGAIN_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """Who answers: the champion, and the challenger for a share of the keys (0: it is a shadow)."""

    champion: Supervisor | None = None
    challenger: Supervisor | None = None
    share: float = 0.0


class Share(NamedTuple):
    """Rows of a request, one after the other, that one release answers."""

    by: Supervisor
    arm: Arm
    start: int
    size: int
    rows: Structs


class Router:
    """Keeps the table true to the ledger.

    Args:
        store: opened; read in a thread.
        app: whose roles.
        limits: of each release.
        guard: kills what outlives this process.
        metrics: what is counted.
        say: called with a sentence for the person who runs the server.
        also: called, in a thread, whenever the ledger is looked at.
        begun: a worker that is starting already.
    """

    def __init__(
        self,
        store: Store,
        app: str,
        *,
        limits: Limits,
        guard: Guard,
        metrics: Metrics,
        say: Callable[[str], None],
        also: Callable[[], None],
        begun: Begun | None,
    ) -> None:
        self.table = Table()
        self._store, self._app, self._limits = store, app, limits
        self._guard, self._metrics, self._say, self._also = guard, metrics, say, also
        self._roles: Mapping[RoleName, tuple[Digest, float]] = {}
        self._ready: dict[Digest, Supervisor] = {}
        self._starting: dict[Digest, asyncio.Task[None]] = {}
        self._failed: dict[Digest, float] = {}
        self._begun = begun
        if begun is not None:
            guard.watch(begun.started[0].pid)
        self._closing: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self.changed = asyncio.Event()
        """Set, and replaced by another one, whenever the table changes."""

    async def start(self) -> None:
        """Begin to look at the ledger."""
        self._watch = asyncio.get_running_loop().create_task(self._watched())

    async def close(self) -> None:
        """Answer what is under way and end every worker."""
        for task in (self._watch, *self._starting.values()):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self.table = Table()
        await asyncio.gather(*(one.close() for one in self._ready.values()), *self._closing)

    # ------------------------------------------------------------ requests

    def shares(self, read: Read, champion: Supervisor, first_id: bytes) -> list[Share]:
        """Who answers which rows: each key always the same, as long as the canary does not shrink.

        Rows without a key go where their request's id sends them. A large request is the champion's alone: its keys are
        not looked at here.

        Args:
            champion: whose schema has read the rows.
        """
        rows = read.rows
        table = self.table
        # Reading took its time: whoever was champion then answers, and no challenger of somebody else's.
        challenger = table.challenger if table.champion is champion else None
        # A challenger that can't keep up must not make anybody wait.
        if challenger is None or table.share <= 0 or read.packed or not challenger.queue.has_room(read.size):
            return [Share(champion, "champion", 0, read.size, rows)]
        keys = champion.schema.keys(rows) or [None] * len(rows)
        named = [first_id.hex() if key is None else key for key in keys]
        chosen = in_canary(named, table.share, salt=challenger.release).tolist()
        made = []
        at = 0
        for is_canary, run in groupby(chosen):
            size = len(list(run))
            mine = rows[at : at + size]
            theirs = _for(challenger, champion, mine) if is_canary else None
            if theirs is not None:
                made.append(Share(challenger, "challenger", at, size, theirs))
            else:
                made.append(Share(champion, "champion", at, size, mine))
            at += size
        return made

    # ------------------------------------------------------------ what a supervisor tells of

    def answered(self, by: Supervisor, batch: Batch, said: Told) -> None:
        """Count a batch, and show it to whoever is on trial against the one that answered it."""
        size = batch.size
        metrics = self._metrics
        metrics.batch_rows.observe(size)
        metrics.predictions.labels(by.release[:12], batch.arm).inc(size)
        if batch.arm == "shadow":
            return
        metrics.queue_wait.observe(batch.waited_s, len(batch.chunks))
        if not said.logged:
            metrics.unlogged_rows.inc(size)
        table = self.table
        other = table.challenger if by is table.champion else table.champion
        if table.challenger is not None and other is not None and other is not by:
            self._mirror(other, by, batch)

    def _mirror(self, other: Supervisor, by: Supervisor, batch: Batch) -> None:
        packed, rows = batch.packed, batch.rows
        if other.schema.layout != by.schema.layout:
            theirs = _for(other, by, rows) if rows else None
            if theirs is None:
                self._metrics.shadow_dropped.inc(batch.size)
                return
            rows, packed = theirs, other.schema.block(theirs).pack()
        shadow = Batch(arm="shadow", chunks=batch.chunks, size=batch.size, packed=packed, rows=rows, flags=batch.flags)
        if not other.mirror(shadow):
            self._metrics.shadow_dropped.inc(batch.size)

    def noted(self, column: str, fault: str, refused: bool) -> None:  # noqa: FBT001 - see `Watcher`
        """Count a finding."""
        family = self._metrics.refused_rows if refused else self._metrics.flagged_rows
        family.labels(fault, column).inc()

    def restarted(self) -> None:
        """Count a lane that was replaced."""
        self._metrics.worker_restarts.inc()

    def said(self, sentence: str) -> None:
        """Pass it on."""
        self._say(sentence)

    # ------------------------------------------------------------ roles

    async def _watched(self) -> None:
        seen: tuple[int, ...] = ()
        read_s = moved_s = 0.0
        while True:
            now_s = time.monotonic()
            times = self._file_times()
            if times != seen:
                seen, moved_s = times, now_s
            if now_s - moved_s < _VISIBLE_S or now_s - read_s > _READ_S:
                read_s = now_s
                try:
                    self._roles = await asyncio.to_thread(self._look)
                except StaytrueError as exc:
                    self._say(f"The ledger can't be read: {exc}. The table stays as it is.")
                self._settle()
            for one in self._ready.values():
                one.look_after()
            await asyncio.sleep(_LOOK_S)

    def _file_times(self) -> tuple[int, ...]:
        found = []
        for name in ("ledger.db", "ledger.db-wal"):
            with contextlib.suppress(OSError):
                stat = (self._store.root / name).stat()
                found += [stat.st_mtime_ns, stat.st_size]
        return tuple(found)

    def _look(self) -> Mapping[RoleName, tuple[Digest, float]]:
        """Who has which role, and with which share; in a thread of its own."""
        self._also()
        roles = self._store.ledger.roles(self._app, LIVE)
        return {role.role: (Digest(role.release), role.share) for role in roles if role.release}

    def _settle(self) -> None:
        """Start what is wanted and not there, let go of what nobody wants, and set the table."""
        wanted = {release for release, _ in self._roles.values()}
        for release in wanted:
            failed_s = self._failed.get(release)
            tried = failed_s is not None and time.monotonic() - failed_s < _TRY_AGAIN_S
            if release not in self._ready and release not in self._starting and not tried:
                self._starting[release] = asyncio.get_running_loop().create_task(self._started(release))
        self._set_table()
        serving = {one.release for one in (self.table.champion, self.table.challenger) if one is not None}
        for release in [name for name in self._ready if name not in wanted | serving]:
            task = asyncio.get_running_loop().create_task(self._ready.pop(release).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _set_table(self) -> None:
        champion_id, _ = self._roles.get("champion", (None, 0.0))
        challenger_id, share = self._roles.get("challenger", (None, 0.0))
        champion = self._ready.get(champion_id) if champion_id else None
        challenger = self._ready.get(challenger_id) if challenger_id else None
        table = Table(champion=champion or self.table.champion, challenger=challenger, share=share)
        if table == self.table:
            return
        if self.table.champion is not None and table.champion is not self.table.champion:
            self._metrics.swaps.inc()
        for one in (table.champion, table.challenger):
            if one is not None:
                one.logs_all = challenger is not None
        self.table = table
        self.changed.set()
        self.changed = asyncio.Event()

    async def _started(self, release: Digest) -> None:
        begun = self._begun.started if self._begun is not None and self._begun.release == release else None
        if begun is not None:
            self._begun = None
        supervisor = Supervisor(self._store, release, limits=self._limits, guard=self._guard, watcher=self, begun=begun)
        try:
            await supervisor.start()
        except Exception as exc:  # noqa: BLE001 - a task that dies without a word would be an outage without a reason
            self._failed[release] = time.monotonic()
            ours = exc if isinstance(exc, StaytrueError) else Unavailable("ST777", f"{type(exc).__name__}: {exc}")
            await asyncio.to_thread(self._note_failure, release, ours)
        else:
            self._failed.pop(release, None)
            self._ready[release] = supervisor
            self._set_table()
        finally:
            self._starting.pop(release, None)

    def _note_failure(self, release: Digest, exc: StaytrueError) -> None:
        """A release that does not start is no outage, but nobody may miss it."""
        now = datetime.now(UTC)
        serving = self.table.champion
        goes_on = f"{serving.release[:8]} goes on answering" if serving else "nobody answers"
        sentence = f"Release {release[:8]} can't be served, {goes_on}: {exc}"
        self._say(sentence)
        entry = Entry(
            app=self._app,
            # It is tried again and again; told of once, until it fails in another way.
            key=f"serve_failed:{release}:{exc.code}",
            at=now,
            kind="serve_failed",
            sentence=sentence,
            body=exc.document() | {"release": release},
        )
        with contextlib.suppress(StaytrueError):
            self._store.ledger.append([entry], recorded_at=now)


def _for(other: Supervisor, mine: Supervisor, rows: Structs) -> Structs | None:
    """The rows as another release reads them; None when it can't."""
    if other.schema.layout == mine.schema.layout:
        return rows
    read = other.schema.read_dicts(mine.schema.dicts(rows))
    return None if isinstance(read, Problem) else read.rows
