"""Heard: every incident of an app from its first word on, with all that followed from it. Read once, then only what is new.

A year of events takes a quarter of a second to read, and a page is asked for every few seconds: what was read stays in mind, and
is thrown away when the ledger turns out to be another one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from staytrue.kernel.incidents import BODIES, KINDS, Incident, Open, fold
from staytrue.store.browse import events_at, told
from staytrue.store.ledger import Ledger
from staytrue.store.store import Store

__all__ = ["Case", "cases", "open_cases"]

_PAGE: Final = 2_000
_APPS: Final = 64


@dataclass(frozen=True, kw_only=True)
class Case:
    """An incident: what was said of it each time that its state changed, oldest first."""

    steps: tuple[Incident, ...]

    @property
    def now(self) -> Incident:
        """As it stands."""
        return self.steps[-1]

    @property
    def number(self) -> int:
        """Of the event that opened it: what its page is called by."""
        return self.steps[0].seq

    @property
    def is_open(self) -> bool:
        """Whether it still stands."""
        return self.now.state != "resolved"


@dataclass
class _Heard:
    """What was read of one app."""

    seq: int = 0
    hash: str = ""
    open: Open = field(default_factory=dict)
    steps: dict[str, list[Incident]] = field(default_factory=dict)

    def catch_up(self, ledger: Ledger, app: str) -> None:
        if self.seq and not self._is_same(ledger, app):
            self.seq, self.hash, self.open, self.steps = 0, "", {}, {}
        before = self.seq
        while events := list(told(ledger, app, kinds=KINDS, with_body=BODIES, after=self.seq, limit=_PAGE)):
            for event in events:
                self.open, changed = fold(self.open, event)
                for incident in changed:
                    self.steps.setdefault(incident.id, []).append(incident)
            self.seq = events[-1].seq
        if self.seq != before:
            self.hash = events_at(ledger, [self.seq])[self.seq].hash

    def _is_same(self, ledger: Ledger, app: str) -> bool:
        known = events_at(ledger, [self.seq]).get(self.seq)
        return known is not None and (known.app, known.hash) == (app, self.hash)


_lock = threading.Lock()
_all: OrderedDict[tuple[str, str], _Heard] = OrderedDict()


def cases(store: Store, app: str) -> list[Case]:
    """All incidents, the newest first."""
    with _lock:
        heard = _all.setdefault((str(store.root), app), _Heard())
        _all.move_to_end((str(store.root), app))
        while len(_all) > _APPS:
            _all.popitem(last=False)
        heard.catch_up(store.ledger, app)
        found = [Case(steps=tuple(steps)) for steps in heard.steps.values()]
    return sorted(found, key=lambda case: -case.number)


def open_cases(store: Store, app: str) -> list[Case]:
    """Those that stand, the newest first."""
    return [case for case in cases(store, app) if case.is_open]
