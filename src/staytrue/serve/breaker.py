"""Breaker: cuts a release off as soon as its guards have seen enough, in the front itself, whoever else is alive.

It is told what became of requests with the challenger and with the champion, keeps the evidence (`kernel/guard.py`), and
remembers who is cut off: for as long as the release keeps that role, after a restart by the event `tripped` in the ledger.
It moves no role: that is for whoever reads the event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeAlias

from staytrue.kernel.guard import GuardName, Guards, fold_failures, fold_seconds, fold_unread
from staytrue.kernel.release import Digest
from staytrue.serve.batch import Batch
from staytrue.serve.metrics import Metrics
from staytrue.store.event import Entry

__all__ = ["Breaker", "Held", "Trip", "Watched"]

Watched: TypeAlias = Literal["challenger", "champion"]
"""The roles in which a release can be cut off, because somebody else can answer."""

_CAREFUL: Final = 20
"""A challenger is asked one request at a time until it has answered so many, and again after each failure: so that what
becomes of one is known before the next, however many come at once."""
_TOLERATED: Final = 0.01


class Held(NamedTuple):
    """A role as the ledger has it: whose it is, for which share, and how often it has changed."""

    release: Digest
    share: float
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Trip:
    """A guard that tripped: what it saw. `against`: who answered the same requests."""

    release: Digest
    role: Watched
    guard: GuardName
    rows: int
    failed: int
    evidence: float
    needed: float
    against: Digest | None
    why: str

    def entry(self, app: str, epoch: int, now: datetime) -> Entry:
        """The event that tells of it."""
        return Entry(
            app=app,
            # Each role counts its own epochs: as challenger and as champion a release may have the same one.
            key=f"tripped:{self.role}:{self.release}:{epoch}",
            at=now,
            kind="tripped",
            sentence=self.sentence(),
            body={
                "release": self.release,
                "role": self.role,
                "guard": self.guard,
                "rows": self.rows,
                "failed": self.failed,
                "evidence": round(self.evidence, 3),
                "needed": self.needed,
                "against": self.against,
                "why": self.why,
                "epoch": epoch,
            },
        )

    def sentence(self) -> str:
        """It as a person reads it."""
        other = self.against[:8] if self.against else "the other release"
        what = {
            "errors": f"failed on {self.failed} of {self.rows} rows, {other} did not",
            "latency": f"took many times as long as {other} on the same batches, {self.rows} rows in all",
            "schema": f"can't read rows that {other} reads",
        }[self.guard]
        then = "it gets no more requests" if self.role == "challenger" else f"{other} answers in its place"
        last = f" Last: {self.why.rstrip('.')}." if self.why else ""
        return f"{self.role.capitalize()} {self.release[:8]} {what}: {then} from now on.{last}"


@dataclass(kw_only=True)
class _Watch:
    """One release in one role, and what is known against it."""

    release: Digest
    against: Digest | None
    guards: Guards
    rows: int = 0
    failed: int = 0
    well: int = 0
    """Requests that it answered, not folded yet: that is for when it matters."""
    streak: int = 0
    """Requests that it answered since it last failed."""
    why: str = ""
    trip: Trip | None = None
    told: set[int] = field(default_factory=set)


class Breaker:
    """Who is cut off, and why. Told of everything by the router; not for several threads.

    Args:
        metrics: what is shown.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._watches: dict[Watched, _Watch] = {}
        self.known: frozenset[tuple[str, str, int]] = frozenset()
        """(role, release, epoch) of the trips that the ledger tells of."""

    # ------------------------------------------------------------ roles

    def watch(self, role: Watched, release: Digest | None, *, against: Digest | None) -> None:
        """From now on this release has that role, and is held against another one; what is known of the same one stays."""
        watch = self._watches.get(role)
        if watch is not None and watch.release == release:
            watch.against = against or watch.against
            return
        if watch is not None:
            del self._watches[role]
            for guard in watch.guards.evidence:
                self._metrics.guard_evidence.forget(watch.release[:12], role, guard)
        if release is not None:
            tolerance = _TOLERATED if role == "champion" else 0.0
            self._watches[role] = _Watch(release=release, against=against, guards=Guards(tolerance=tolerance))
            self._show(role)

    def is_cut(self, role: Watched, held: Held | None) -> bool:
        """Whether nobody is to be sent to that release in that role."""
        if held is None:
            return False
        watch = self._watches.get(role)
        tripped = watch is not None and watch.release == held.release and watch.trip is not None
        return tripped or (role, held.release, held.epoch) in self.known

    def untold(self, role: Watched, held: Held | None) -> Trip | None:
        """A trip that this epoch's event does not tell of yet; from now on it counts as told."""
        watch = self._watches.get(role)
        if held is None or watch is None or watch.trip is None or watch.release != held.release:
            return None
        if held.epoch in watch.told:
            return None
        watch.told.add(held.epoch)
        return watch.trip

    # ------------------------------------------------------------ what became of requests

    def is_careful(self, role: Watched = "challenger") -> bool:
        """Whether that release is to be asked one request at a time."""
        watch = self._watches.get(role)
        return watch is not None and watch.streak < _CAREFUL

    def paired(self, shadow: Batch, *, by_challenger: bool) -> None:
        """A batch that one of them answered was shown to the other one, which has answered it now."""
        watch = self._watches.get("challenger")
        first = shadow.beside
        if watch is None or watch.trip is not None or first is None:
            return
        mine, other = (shadow, first) if by_challenger else (first, shadow)
        if mine.failed or other.failed:
            # What the challenger failed on in its own share was answered by the champion, and is counted there.
            alone = mine.failed - other.failed if by_challenger else frozenset()
            guards = fold_failures(watch.guards, alone=len(alone), other=len(other.failed - mine.failed))
            watch.guards = guards
        elif mine.seconds > 0 and other.seconds > 0:
            watch.guards = fold_seconds(watch.guards, mine.seconds, other.seconds)
        if by_challenger:
            self._asked(watch, shadow, shadow.failed - first.failed)
        self._look("challenger", watch)

    def answered(self, role: Watched, batch: Batch) -> None:
        """A release has answered a batch in its role: what it failed on is told of when somebody else has tried it."""
        watch = self._watches.get(role)
        if watch is None or watch.trip is not None:
            return
        watch.rows += batch.size - batch.failed_rows
        well = len(batch.chunks) - len(batch.failed)
        watch.well += well
        watch.streak = 0 if batch.failed else watch.streak + well

    def stood_in(self, role: Watched, release: Digest, rows: int, *, alone: float, why: str) -> None:
        """A request that a release did not answer was tried by another one.

        Args:
            alone: 1 when that one answered; less when several went down with one process; 0 when it failed too.
        """
        watch = self._watches.get(role)
        if watch is None or watch.release != release or watch.trip is not None:
            return
        watch.rows += rows
        watch.failed += rows
        watch.streak = 0
        watch.why = why
        if alone:
            watch.guards = fold_failures(watch.guards, alone=alone, well=watch.well)
            watch.well = 0
        self._look(role, watch)

    def died(self, batch: Batch, *, by_challenger: bool) -> None:
        """A process died with a batch that nobody waits for any more, or that will be tried again."""
        watch = self._watches.get("challenger")
        if watch is None or watch.trip is not None:
            return
        if not by_challenger:
            watch.guards = fold_failures(watch.guards, other=1)
        elif batch.arm == "shadow":
            watch.rows += batch.size
            watch.failed += batch.size
            watch.streak = 0
            watch.why = "its process died"
            first = batch.beside
            if first is None or len(first.failed) < len(first.chunks):
                watch.guards = fold_failures(watch.guards, alone=1)
            self._look("challenger", watch)

    def unpaired(self, batch: Batch) -> None:
        """The champion failed, and the challenger did not get to see it: counted as if it would have answered."""
        # Limit: while shadows are dropped, what the champion fails on is seen in his share only. So a challenger with more
        # than half of the traffic can be cut off for failures that both have at random.
        watch = self._watches.get("challenger")
        if watch is not None and watch.trip is None and batch.failed:
            watch.guards = fold_failures(watch.guards, other=len(batch.failed))

    def unread(self, sizes: Sequence[int], why: str) -> None:
        """Requests of so many rows that the champion has read and the challenger can't."""
        watch = self._watches.get("challenger")
        if watch is None or watch.trip is not None or not sizes:
            return
        watch.rows += sum(sizes)
        watch.failed += sum(sizes)
        watch.why = why
        watch.guards = fold_unread(watch.guards, len(sizes))
        self._look("challenger", watch)

    # ------------------------------------------------------------ inside

    @staticmethod
    def _asked(watch: _Watch, batch: Batch, alone: frozenset[int]) -> None:
        watch.rows += batch.size
        watch.failed += batch.failed_rows
        watch.streak = 0 if alone else watch.streak + len(batch.chunks)
        watch.why = batch.why or watch.why

    def _look(self, role: Watched, watch: _Watch) -> None:
        guards = watch.guards
        guard = guards.tripped
        if guard is not None:
            watch.trip = Trip(
                release=watch.release,
                role=role,
                guard=guard,
                rows=watch.rows,
                failed=watch.failed,
                evidence=guards.evidence[guard],
                needed=guards.needed,
                against=watch.against,
                why="" if guard == "latency" else watch.why,
            )
            self._metrics.tripped.labels(role, guard).inc()
        self._show(role)

    def _show(self, role: Watched) -> None:
        watch = self._watches[role]
        for guard, evidence in watch.guards.evidence.items():
            self._metrics.guard_evidence.labels(watch.release[:12], role, guard).set(evidence)
