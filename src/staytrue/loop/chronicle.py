"""Chronicle: the story of one timeline, written into the ledger tick by tick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from staytrue.kernel.release import Digest
from staytrue.loop.context import Context
from staytrue.store.ledger import Entry, Event, Fence, Ref, RoleChange, RoleName

__all__ = ["Chronicle"]


@dataclass
class Chronicle:
    """One timeline's story, written down entry by entry; a tick's entries become one transaction.

    Keys are made of the run (all that the story depends on) and a count, so the same story told again, after a crash or on
    purpose, finds its events already there and changes nothing. A controller's story goes on from `count`, and each write is
    fenced: it takes place together with what the controller remembers after it, or not at all.
    """

    ctx: Context
    timeline: str
    run: str
    fence: Callable[[], Fence] | None = None
    """What a write depends on and what it leaves behind, made when it is written; None in a replay."""
    count: int = 0
    epochs: dict[str, int] = field(default_factory=dict)
    """Role -> how often it has changed."""
    told: list[Event] = field(default_factory=list)
    _pending: list[Entry] = field(default_factory=list)

    def tell(
        self,
        kind: str,
        sentence: str,
        *,
        at: datetime,
        body: Mapping[str, Any],
        refs: tuple[Ref, ...] = (),
        roles: Mapping[RoleName, tuple[Digest | None, float]] | None = None,
    ) -> None:
        """Note an event; `roles` says who has which role from now on, with which share of the traffic."""
        changes = []
        for role, (release, share) in (roles or {}).items():
            epoch = self.epochs.get(role, 0)
            changes.append(RoleChange(role=role, release=release, share=share, expect_epoch=epoch))
            self.epochs[role] = epoch + 1
        self._pending.append(
            Entry(
                app=self.ctx.app.name,
                timeline=self.timeline,
                key=f"{self.run}:{self.count:06d}",
                at=at,
                kind=kind,
                sentence=sentence,
                body=body,
                refs=refs,
                roles=tuple(changes),
            )
        )
        self.count += 1

    def write(self) -> None:
        """Make what was noted durable: one transaction, roles included.

        Raises:
            Conflict: somebody else changed a role of this timeline meanwhile, or has the lease; nothing of it was written.
        """
        fence = self.fence() if self.fence else None
        if self._pending or fence:
            events = self.ctx.store.ledger.append(self._pending, recorded_at=datetime.now(UTC), fence=fence)
            if fence is None:
                self.told += events
            self._pending = []

    def write_if_told(self) -> None:
        """As `write`, if anything was noted."""
        if self._pending:
            self.write()

    def checkpoint(self) -> None:
        """Write now what a live story must not lose in the work that comes; a replay, which can be told again, writes later."""
        if self.fence:
            self.write()
