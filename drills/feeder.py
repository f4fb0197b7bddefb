"""Feeder: plays day after day, in step with the loop: who books asks for a quote, what was paid becomes known, midnight comes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from callers import Asker, Quote
from place import Place, until
from stream import DAY

from staytrue.kernel.rollout import in_canary
from staytrue.store.ledger import Event

__all__ = ["Feeder"]

_PROBES = range(10**9, 10**9 + 32)
"""Keys that no row has: asked to see who answers."""
_PATIENCE_S = 600.0
"""For a day of the loop, which may train in it, or for the check of a commit: a busy machine is not a bug."""


@dataclass
class Feeder:
    """Plays a place's stream against its server.

    Attributes:
        told: called with each event of the live timeline, once.
        quotes: key -> the answer that was given.
        stood_in: answers by the champion in a challenger's place, which failed or could not keep up.
        astray: answers by any other release than the one that the roles name for that key.
        days: how many were played.
        by_kind: kind -> the events of the live timeline.
    """

    place: Place
    asker: Asker
    told: Callable[[Event], None]
    quotes: dict[Any, Quote] = field(default_factory=dict)
    stood_in: int = 0
    astray: int = 0
    days: int = 0
    by_kind: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    _seq: int = 0
    _served: dict[str, tuple[str, float]] = field(default_factory=dict)

    def play(self, until_day: datetime, moved: Callable[[], None] = lambda: None) -> None:
        """Day after day up to the beginning of `until_day`."""
        while self.place.clock < until_day:
            self._day(self.place.clock)
            self.days += 1
            moved()

    def _day(self, today: datetime) -> None:
        place, stream = self.place, self.place.stream
        rows = stream.day(today)
        place.database.insert(rows)
        keys = rows[stream.key].tolist()
        quotes = self.asker.quotes(stream.requests(rows))
        expected = self._expected(keys, self._served)
        self.quotes.update((key, quote) for key, quote in zip(keys, quotes, strict=True) if quote)
        others = [q.release for q, e in zip(quotes, expected, strict=True) if q is not None and q.release != e]
        self.stood_in += others.count(self._served["champion"][0])
        self.astray += len(others) - others.count(self._served["champion"][0])
        tomorrow = today + DAY
        known = stream.known(tomorrow)
        place.database.label(known)
        self.asker.label(dict(zip(known[stream.key].tolist(), known[stream.label].tolist(), strict=True)))
        place.clock = tomorrow
        self.catch_up()

    def catch_up(self) -> None:
        """Wait until the loop has lived through every day that is over, and the front serves the roles of the ledger."""
        now = self.place.clock
        what = f"the loop to have lived up to {now:%Y-%m-%d}"
        until(lambda: self.place.lived_until() >= now, what, seconds=_PATIENCE_S, why=self.place.said)
        self._follow_roles()
        self.listen()

    def wait_for(self, *kinds: str) -> Event:
        """Wait for a new event of one of these kinds, while no time goes by; the first one."""
        before = self._seq

        def found() -> Event | None:
            new = [event for event in self.place.events(after=before) if event.kind in kinds]
            return new[0] if new else None

        event = until(found, f"an event {' or '.join(kinds)}", seconds=_PATIENCE_S, why=self.place.said)
        self._follow_roles()
        self.listen()
        return event

    def listen(self) -> None:
        """Tell what is new on the live timeline."""
        for event in self.place.events(after=self._seq):
            self._seq = event.seq
            self.by_kind[event.kind].append(event)
            self.told(event)

    # ------------------------------------------------------------ who answers

    def _follow_roles(self) -> None:
        """Wait until the front has seen that roles changed; as long as they stand, each quote says whether it has."""
        until(self._follows, "the front to serve the roles of the ledger", why=self.place.said)

    def _follows(self) -> bool:
        found = {name: role for name, role in self.place.roles().items() if name in {"champion", "challenger"}}
        if found == self._served:
            return True
        key, expected = self.place.stream.key, self._expected(_PROBES, found)
        if self.asker.releases([{**self.row, key: probe} for probe in _PROBES]) != expected:
            return False
        self._served = found
        return True

    @staticmethod
    def _expected(keys: Sequence[Any], roles: Mapping[str, tuple[str, float]]) -> list[str]:
        """Who answers rows with these keys, by the roles."""
        champion, _ = roles["champion"]
        challenger, share = roles.get("challenger", ("", 0.0))
        return np.where(in_canary(keys, share, salt=challenger), challenger, champion).tolist()

    @property
    def row(self) -> Mapping[str, Any]:
        """What somebody asks who books nothing: no key, so nobody ever learns what it would have cost."""
        stream = self.place.stream
        (row,) = stream.requests(stream.rows[stream.rows[stream.time] < stream.first].tail(1))
        return {name: value for name, value in row.items() if name != stream.key}
