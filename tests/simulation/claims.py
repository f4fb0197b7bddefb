"""What must hold of the ledger, whatever happens: looked at after every write, by somebody who only reads."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from staytrue.loop.fetch import DATA
from staytrue.loop.train import TRAININGS
from staytrue.store import tables
from staytrue.store.ledger import LIVE, Event, Ledger, Role, RoleName
from staytrue.store.objects import LocalObjects

__all__ = ["Broken", "Observer"]

_PROVEN = ("better", "not_worse")


class Broken(AssertionError):
    """Something that must always hold does not."""


class Observer:
    """Reads what each write left behind, and holds it against what was there before."""

    def __init__(self, root: Path, app: str) -> None:
        self._ledger, self._objects, self._app = Ledger.open(root / "ledger.db"), LocalObjects(root), app
        self._seq = 0
        self._roles: dict[str, tuple[str | None, int]] = {}
        self._recipes: set[str] = set()
        self._told = 0
        self.epoch = 0
        self.acted: Counter[int] = Counter()
        """Order or trip -> how often it was acted on."""
        self.trips: dict[str, int] = {}
        self.lived: list[datetime] = []
        """When the next tick begins, each time that memory said another one."""
        self.memories: dict[datetime, dict[str, Any]] = {}
        """What was remembered when a tick was over, by its end."""
        self._until: datetime | None = None
        self._windows: set[datetime] = set()
        self._late: set[datetime] = set()
        """Windows that came when later ones were there already: out of quarantine. They are history, and not lived through."""
        self.foreign = False
        """Somebody else than the loop changed a role."""

    def close(self) -> None:
        """Give the connection back."""
        self._ledger.close()

    def look(self, by: int | None = None) -> None:
        """Whether all holds now. `by` is the epoch of the controller that wrote.

        Raises:
            Broken: it does not.
        """
        for event in self._ledger.events(self._app, after=self._seq):
            self._seq = event.seq
            self._see(event)
        self._see_roles()
        lease = self._ledger.lease(self._app)
        if lease is None:
            return
        if by is not None and by != lease.epoch:
            raise Broken(f"a controller of epoch {by} wrote, and the lease is at {lease.epoch}")
        self._see_memory(lease.state)

    def _see(self, event: Event) -> None:
        body = event.body
        if event.timeline == TRAININGS and event.kind == "trained":
            if body["recipe"] in self._recipes:
                raise Broken(f"recipe {body['recipe'][:8]} was trained twice")
            self._recipes.add(body["recipe"])
        if event.kind == "fetched":
            windows = {part.since for part in self.table().parts}
            self._late |= {since for since in windows - self._windows if self._until and since < self._until}
            self._windows, self._until = windows, max(windows)
        if event.timeline != LIVE:
            return
        told = event.key.startswith("loop:")
        self._told += told
        self.foreign |= bool(event.roles) and not told
        for change in event.roles:
            _, epoch = self._roles.get(change.role, (None, 0))
            if change.expect_epoch != epoch:
                raise Broken(f"{event.kind} changed the role {change.role} at epoch {epoch}, not {change.expect_epoch}")
            self._roles[change.role] = (change.release, epoch + 1)
        if event.kind == "tripped":
            self.trips[event.id] = event.seq
        if told:
            self._see_word(event)

    def _see_word(self, event: Event) -> None:
        """What the loop did for an order or a trip, it did once; and it promotes on proof, or on a person's word."""
        evidence = event.body.get("evidence") or {}
        order = event.body.get("order") or evidence.get("order") or self.trips.get(evidence.get("event"))
        if order is not None:
            self.acted[order] += 1
            if self.acted[order] > 1:
                raise Broken(f"order or trip {order} was acted on twice, the second time by {event.sentence!r}")
        if event.kind == "promoted" and not (evidence.get("verdict") in _PROVEN or "order" in evidence):
            raise Broken(f"promoted without proof or a word: {evidence}")

    def _see_roles(self) -> None:
        found = {role.role: (role.release, role.epoch) for role in self._ledger.roles(self._app, LIVE)}
        if found != self._roles:
            raise Broken(f"roles {found} are not what the events made: {self._roles}")
        champion, challenger = found.get("champion"), found.get("challenger", (None, 0))
        if champion is not None and champion[0] is None:
            raise Broken("there is no champion any more")
        if challenger[0] is not None and (champion is None or challenger[0] == champion[0]):
            raise Broken("the challenger has nobody to challenge")

    def _see_memory(self, state: dict[str, Any]) -> None:
        if state.get("count", 0) != self._told:
            raise Broken(f"memory counts {state.get('count')} events, the ledger has {self._told}")
        life = state.get("life")
        if not life:
            return
        if life["release"] != self._roles["champion"][0] and not self.foreign:
            raise Broken("memory has another champion than the roles")
        challenger = life["trial"] and life["trial"]["release"]
        if challenger != self._roles.get("challenger", (None, 0))[0] and not self.foreign:
            raise Broken("memory has another challenger than the roles")
        until = datetime.fromisoformat(life["look"]["until"])
        self.memories[until] = state
        if self.lived and until != self.lived[-1]:
            self._see_tick(self.lived[-1], until)
        if not self.lived or until != self.lived[-1]:
            self.lived.append(until)

    def _see_tick(self, before: datetime, until: datetime) -> None:
        if until < before:
            raise Broken(f"lived up to {before:%Y-%m-%d} before, and only to {until:%Y-%m-%d} now")
        passed = sorted({since for since in self._windows if before <= since < until} - self._late)
        if len(passed) > 1 and not self.foreign:
            raise Broken(f"ticks were skipped: one of {', '.join(f'{since:%Y-%m-%d}' for since in passed)}")

    def table(self) -> tables.Table:
        """The newest table."""
        ref = self._ledger.ref("source", "sales", app=self._app, timeline=DATA)
        if ref is None:
            raise Broken("nothing was fetched")
        return tables.load(self._objects, ref.digest)

    def role(self, name: RoleName) -> Role | None:
        """Who has a role."""
        return self._ledger.role(self._app, LIVE, name)

    def events(self, timeline: str | None = LIVE) -> list[Event]:
        """All events of a timeline."""
        return self._ledger.events(self._app, timeline)

    def verify(self) -> None:
        """Whether the chain is whole.

        Raises:
            Broken: it is not.
        """
        if problems := self._ledger.verify():
            raise Broken("; ".join(problems))

    @property
    def state(self) -> dict[str, Any]:
        """What the loop remembers."""
        lease = self._ledger.lease(self._app)
        return lease.state if lease else {}
