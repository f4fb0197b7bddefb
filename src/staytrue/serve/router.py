"""Router: which release answers whom. One table, replaced as a whole; the ledger says what should be in it.

Level-triggered: the ledger's roles are looked at again and again, the workers that they want are started, and as soon as
a release is ready and has the role, the next request goes to it. What it replaces answers what it has begun, and stays
warm as long as it has a role. A release that does not start changes nothing: whoever answers goes on. One that is cut off
(`serve/breaker.py`) gets nothing more, whatever its role: of a champion the previous one takes the place.
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
from staytrue.errors import Conflict, StaytrueError, Unavailable
from staytrue.kernel.release import Digest
from staytrue.kernel.rollout import in_canary
from staytrue.serve.batch import LATE, Arm, Batch
from staytrue.serve.breaker import Breaker, Held, Trip, Watched
from staytrue.serve.channel import Told
from staytrue.serve.handshake import Begun
from staytrue.serve.metrics import Metrics
from staytrue.serve.problem import Problem
from staytrue.serve.schema import Read, Structs
from staytrue.serve.supervisor import SLOW, Limits, Supervisor
from staytrue.store.ledger import LIVE, Entry, RoleName
from staytrue.store.ledger_file import LedgerFile
from staytrue.store.store import Store

__all__ = ["Router", "Share", "Table"]

_LOOK_S: Final = 0.05
"""So often it is looked whether the ledger may have moved, and how every release does."""
_TRY_AGAIN_S: Final = 30.0
_AGAIN_S: Final = 1.0
_SLOW: Final = 10
"""So many times what a batch takes the other release, nobody waits for an answer."""
_USUAL_ROWS: Final = 64
_NO_FAULT: Final = frozenset({"ST740", "ST760", "ST762", "ST820", "ST822"})
"""What a request is told that the release never got to see, or not to its end."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Who answers: the champion, and the challenger for a share of the keys (0: it is a shadow).

    previous: who answers when the champion fails. When the champion is cut off he is the champion here.
    """

    champion: Supervisor | None = None
    challenger: Supervisor | None = None
    previous: Supervisor | None = None
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
        self._breaker = Breaker(metrics)
        self._roles: Mapping[RoleName, Held] = {}
        self._ready: dict[Digest, Supervisor] = {}
        self._starting: dict[Digest, asyncio.Task[None]] = {}
        self._failed: dict[Digest, float] = {}
        self._begun = begun
        if begun is not None:
            guard.watch(begun.started[0].pid)
        self._closing: set[asyncio.Task[None]] = set()
        self._telling: set[asyncio.Task[None]] = set()
        self.read_s: float | None = 0.0
        """How long the ledger took to answer last; None: it did not."""
        self.champion_restarts = 0
        self._logs_none = False
        self._watch: asyncio.Task[None] | None = None
        self.changed = asyncio.Event()
        """Set, and replaced by another one, whenever the table changes."""

    async def start(self) -> None:
        """Begin to look at the ledger."""
        self._watch = asyncio.get_running_loop().create_task(self._watched())

    def shed_log(self, is_shed: bool) -> None:  # noqa: FBT001 - the one thing that it is told
        """Whether predictions are not to be logged for now; each of them says so."""
        self._logs_none = is_shed

    async def close(self) -> None:
        """Answer what is under way and end every worker."""
        for task in (self._watch, *self._starting.values(), *self._telling):
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
        if challenger is None or table.share <= 0 or read.packed or not self._may_ask(challenger, read.size):
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

    def _may_ask(self, challenger: Supervisor, rows: int) -> bool:
        if not challenger.is_there or not challenger.queue.has_room(rows):
            return False
        return challenger.is_free or not self._breaker.is_careful()

    def instead(self, read: Read, share: Share, champion: Supervisor, problem: Problem) -> Share | None:
        """Who answers a share that a release could not answer: for a challenger the champion, for him the previous one.

        Args:
            read: the whole request, as the champion's schema has read it.
            share: whose it was.
            problem: what came instead of an answer. What is the caller's to mend is answered by nobody else, nor is what
                came too late: whoever is asked then comes later still.
        """
        if problem.status < 500:
            return None
        rows = read.rows[share.start : share.start + share.size]
        if share.arm == "challenger":
            return Share(champion, "champion", share.start, share.size, rows)
        other = self.stand_in(champion)
        if other is None or share.by is not champion or problem is LATE:
            return None
        if read.packed and not other.schema.reads_all_of(champion.schema):
            return None  # its rows are packed already, as they were read
        theirs = _for(other, champion, rows)
        return Share(other, "champion", share.start, share.size, theirs) if theirs is not None else None

    def stand_in(self, champion: Supervisor) -> Supervisor | None:
        """Who answers when he can't."""
        table = self.table
        other = table.previous if table.champion is champion else table.champion
        return other if other is not champion else None

    def stood_in(self, share: Share, problem: Problem, *, answered: bool, together: int, seconds: float) -> None:
        """Another release was asked what one could not answer.

        Args:
            answered: whether it could.
            together: so many requests were lost with this one.
            seconds: how long it took. Who needs as long as the one that was given up is no better.
        """
        self._metrics.failed_rows.labels(share.by.release[:12], share.arm, problem.code).inc(share.size)
        if share.arm == "challenger":
            self._metrics.challenger_failed.inc(share.size)
        if problem.code in _NO_FAULT:
            return
        patience_s = share.by.stand_in_s
        alone = answered and (problem.code != SLOW.code or patience_s is None or seconds < patience_s / 4)
        role: Watched = "challenger" if share.arm == "challenger" else "champion"
        why = f"{problem.code} {problem.detail}"
        self._breaker.stood_in(role, share.by.release, share.size, alone=alone / together, why=why)
        self._cut_off()

    # ------------------------------------------------------------ what a supervisor tells of

    def answered(self, by: Supervisor, batch: Batch, said: Told) -> None:
        """Count a batch, and show it to whoever is on trial against the one that answered it."""
        size = batch.size
        metrics = self._metrics
        metrics.batch_rows.observe(size)
        metrics.predictions.labels(by.release[:12], batch.arm).inc(size)
        table = self.table
        if batch.arm == "shadow":
            if batch.failed:
                metrics.failed_rows.labels(by.release[:12], "shadow", batch.why[:5]).inc(batch.failed_rows)
            self._breaker.paired(batch, by_challenger=by is table.challenger)
            self._cut_off()
            return
        metrics.queue_wait.observe(batch.waited_s, len(batch.chunks))
        if not said.logged:
            metrics.unlogged_rows.inc(size)
        if by is table.challenger:
            self._breaker.answered("challenger", batch)
        elif by is table.champion and table.previous is not None:
            self._breaker.answered("champion", batch)
        other = table.challenger if by is table.champion else table.champion
        if table.challenger is not None and other is not None and other is not by:
            self._mirror(other, by, batch)

    def _mirror(self, other: Supervisor, by: Supervisor, batch: Batch) -> None:
        """Show a batch to the other one of a trial."""
        is_challenger = other is self.table.challenger
        packed, rows = batch.packed, batch.rows
        if not other.schema.reads_all_of(by.schema):
            theirs = _for(other, by, rows) if rows else None
            if theirs is None:
                self._metrics.shadow_dropped.inc(batch.size)
                if is_challenger and rows:
                    self._note_unread(other, by, batch)
                return
            rows, packed = theirs, other.schema.block(theirs).pack()
        shadow = Batch(
            arm="shadow",
            chunks=batch.chunks,
            size=batch.size,
            packed=packed,
            rows=rows,
            flags=batch.flags,
            beside=batch,
        )
        if not other.mirror(shadow):
            self._metrics.shadow_dropped.inc(batch.size)
            if is_challenger:
                self._breaker.unpaired(batch)

    def _note_unread(self, other: Supervisor, by: Supervisor, batch: Batch) -> None:
        """Which requests the challenger can't read though nothing about them was strange to the champion."""
        sizes = []
        why = ""
        at = 0
        for chunk in batch.chunks:
            if not chunk.request.flags:
                read = by.schema.read_as(other.schema, batch.rows[at : at + chunk.size])
                if isinstance(read, Problem):
                    sizes.append(chunk.size)
                    why = next((str(one["message"]) for one in read.errors if "message" in one), read.detail)
            at += chunk.size
        self._breaker.unread(sizes, why)
        self._cut_off()

    def died(self, by: Supervisor, batch: Batch) -> None:
        """Whom a process died with a batch."""
        if by in (self.table.challenger, self.table.champion):
            self._breaker.died(batch, by_challenger=by is self.table.challenger)
            self._cut_off()

    def noted(self, column: str, fault: str, refused: bool) -> None:  # noqa: FBT001 - see `Watcher`
        """Count a finding."""
        family = self._metrics.refused_rows if refused else self._metrics.flagged_rows
        family.labels(fault, column).inc()

    def restarted(self, by: Supervisor) -> None:
        """Count a lane that was replaced."""
        self._metrics.worker_restarts.inc()
        self.champion_restarts += by is self.table.champion

    def said(self, sentence: str) -> None:
        """Pass it on."""
        self._say(sentence)

    # ------------------------------------------------------------ roles

    async def _watched(self) -> None:
        file = LedgerFile(self._store.root)
        while True:
            now_s = time.monotonic()
            if file.may_have_moved(now_s):
                try:
                    self._roles = await asyncio.to_thread(self._look)
                    self.read_s = time.monotonic() - now_s
                except StaytrueError as exc:
                    self.read_s = None
                    self._say(f"The ledger can't be read: {exc}. The table stays as it is.")
                self._settle()
            for one in self._ready.values():
                one.logs_none = self._logs_none
                one.look_after()
            await asyncio.sleep(_LOOK_S)

    def _look(self) -> Mapping[RoleName, Held]:
        """Who has which role, and with which share; in a thread of its own."""
        self._also()
        ledger = self._store.ledger
        roles = ledger.roles(self._app, LIVE)
        held = {role.role: Held(Digest(role.release), role.share, role.epoch) for role in roles if role.release}
        if held != self._roles:
            trips = [event.body for event in ledger.events(self._app, LIVE, kinds=["tripped"])]
            self._breaker.known = frozenset((one["role"], one["release"], one["epoch"]) for one in trips)
        return held

    def _settle(self) -> None:
        """Start what is wanted and not there, let go of what nobody wants, and set the table."""
        challenger = self._roles.get("challenger")
        is_cut = self._breaker.is_cut("challenger", challenger)
        wanted = {held.release for role, held in self._roles.items() if role != "challenger" or not is_cut}
        for release in wanted:
            failed_s = self._failed.get(release)
            tried = failed_s is not None and time.monotonic() - failed_s < _TRY_AGAIN_S
            if release not in self._ready and release not in self._starting and not tried:
                self._starting[release] = asyncio.get_running_loop().create_task(self._started(release))
        self._set_table()
        self._be_patient()
        self._tell_of_trips()
        table = self.table
        serving = {one.release for one in (table.champion, table.challenger, table.previous) if one is not None}
        for release in [name for name in self._ready if name not in wanted | serving]:
            task = asyncio.get_running_loop().create_task(self._ready.pop(release).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _set_table(self) -> None:
        held = self._roles
        champion, challenger, previous = (self._of(held.get(role)) for role in ("champion", "challenger", "previous"))
        champion_cut = self._breaker.is_cut("champion", held.get("champion"))
        if champion_cut and (previous is not None or self._comes("previous")):
            champion, challenger, previous = previous, None, None
        elif champion is None and self.table.champion is None and not self._comes("champion"):
            champion, previous = previous, None  # better than nobody
        if self._breaker.is_cut("challenger", held.get("challenger")):
            challenger = None
        champion = champion or self.table.champion
        share = held["challenger"].share if challenger is not None else 0.0
        others = [None if one is champion else one for one in (challenger, previous)]
        table = Table(champion=champion, challenger=others[0], previous=others[1], share=share)
        self._watch_trial(table)
        if table == self.table:
            return
        if self.table.champion is not None and table.champion is not self.table.champion:
            self._metrics.swaps.inc()
        for one in (table.champion, table.challenger):
            if one is not None:
                one.logs_all = table.challenger is not None
        if table.previous is not None:
            table.previous.logs_all = True  # what it answers, the champion could not: nothing is rarer or of more use
        self.table = table
        self._be_patient()
        self.changed.set()
        self.changed = asyncio.Event()

    def _of(self, held: Held | None) -> Supervisor | None:
        return self._ready.get(held.release) if held is not None else None

    def _comes(self, role: RoleName) -> bool:
        """Whether whoever has that role may be there soon."""
        held = self._roles.get(role)
        return held is not None and held.release not in self._failed

    def _watch_trial(self, table: Table) -> None:
        """Who is held against whom. Who is cut off is remembered as long as he has the role."""
        champion, challenger = self._roles.get("champion"), self._roles.get("challenger")
        for role, held, other in (
            ("champion", champion, self._roles.get("previous")),
            ("challenger", challenger, champion),
        ):
            name: Watched = "champion" if role == "champion" else "challenger"
            self._breaker.watch(name, held.release if held else None, against=other.release if other else None)
        if table.challenger is not None:
            table.challenger.is_on_trial = True
        if table.champion is not None:
            table.champion.is_on_trial = False

    def _be_patient(self) -> None:
        """How long whoever can be stood in for may take."""
        table = self.table
        champion = table.champion
        if champion is None:
            return
        champion.stand_in_s = self._patience_s(table.previous, champion) if table.previous is not None else None
        if table.challenger is not None:
            table.challenger.stand_in_s = self._patience_s(champion)
        if table.previous is not None:
            table.previous.stand_in_s, table.previous.is_on_trial = None, False

    def _patience_s(self, *known: Supervisor | None) -> float:
        paces = [one.queue.pace for one in known if one is not None]
        took = [pace.seconds(_USUAL_ROWS) for pace in paces if pace.is_known]
        most_s = self._limits.hang_s
        return min(most_s, max(self._limits.patience_s, _SLOW * max(took))) if took else most_s

    # ------------------------------------------------------------ trips

    def _cut_off(self) -> None:
        """Act on a guard that has just tripped: at once, and before anybody is told."""
        table = self.table
        for role, one in (("challenger", table.challenger), ("champion", table.champion)):
            name: Watched = "champion" if role == "champion" else "challenger"
            held = self._roles.get(name)
            if one is None or held is None or held.release != one.release or not self._breaker.is_cut(name, held):
                continue
            self._set_table()
            if self.table == table:
                continue  # nobody else is there
            one.cut()
            self._tell_of_trips()

    def _tell_of_trips(self) -> None:
        roles: tuple[Watched, ...] = ("challenger", "champion")
        for role in roles:
            held = self._roles.get(role)
            trip = self._breaker.untold(role, held)
            if trip is not None and held is not None:
                self._say(trip.sentence())
                task = asyncio.get_running_loop().create_task(self._told(trip, held.epoch))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)

    async def _told(self, trip: Trip, epoch: int) -> None:
        """Write it down, as often as it takes."""
        entry = trip.entry(self._app, epoch, datetime.now(UTC))
        while True:
            began_s = time.monotonic()
            try:
                await asyncio.to_thread(self._store.ledger.append, [entry], recorded_at=datetime.now(UTC))
            except Conflict:
                return  # another front has told of the same trip
            except StaytrueError as exc:
                self._say(f"The ledger does not take that {trip.release[:8]} is cut off: {exc}. It is tried again.")
                await asyncio.sleep(_AGAIN_S)
            else:
                self._metrics.ledger_append.set(time.monotonic() - began_s)
                return

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
    if other.schema.reads_all_of(mine.schema):
        return rows
    read = mine.schema.read_as(other.schema, rows)
    return None if isinstance(read, Problem) else read.rows
