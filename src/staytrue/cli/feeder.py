"""Feeder: plays days in step with a running loop: who books asks over HTTP, labels become known, midnight comes.

The demo and the drills feed with it. The loop's clock is a file (`staytrue up --clock FILE`), which is moved on as soon as the
loop has lived through the days before and the front serves what the ledger says: so no decision depends on how fast it goes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from staytrue.cli.asker import Asker, Quote
from staytrue.kernel.rollout import in_canary
from staytrue.loop.process import FileClock
from staytrue.store.ledger import LIVE, Event
from staytrue.store.store import Store

__all__ = ["DAY", "Feeder", "Loop", "World", "until"]

T = TypeVar("T")
DAY = timedelta(days=1)
PATIENCE_S = 600.0
"""For what must happen at all; a day of the loop may train, and a busy machine is not a bug."""
_LOOK_S = 0.01
_PROBES = range(10**9, 10**9 + 32)
"""Keys that no row has: asked to see who answers."""


def until(
    condition: Callable[[], T], what: str, *, seconds: float = PATIENCE_S, why: Callable[[], str] = lambda: ""
) -> T:
    """What `condition()` gives as soon as it is something.

    Raises:
        TimeoutError: that takes too long; it tells what `why` knows of it.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}. {why()}")
        time.sleep(_LOOK_S)
    return found


class World(Protocol):
    """What goes on outside. `key` is the column that tells rows apart; `row` is one to ask about that belongs to nobody."""

    @property
    def key(self) -> str: ...  # noqa: D102 - told above

    @property
    def row(self) -> Mapping[str, Any]: ...  # noqa: D102 - told above

    def came(self, day: datetime) -> list[dict[str, Any]]:
        """The rows of that day, each as a caller asks about it: the app's source finds them from now on."""

    def became_known(self, now: datetime) -> dict[Any, Any]:
        """The labels that are known when that day begins, and were not the day before: key -> label."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A live loop, looked at from outside.

    Attributes:
        check: raises when its processes are gone. said: the last of what they said to people.
    """

    store: Store
    app: str
    clock: FileClock
    check: Callable[[], None] = lambda: None
    said: Callable[[], str] = lambda: ""

    def lived_until(self) -> datetime | None:
        """Up to when it has lived, and nothing that it decided then is still under way; None: it has not begun, or is busy."""
        self.check()
        lease = self.store.ledger.lease(self.app)
        life = (lease.state.get("life") if lease else None) or {}
        return datetime.fromisoformat(life["look"]["until"]) if life and not life["retraining"] else None

    def events(self, after: int = 0) -> list[Event]:
        """The live timeline."""
        return self.store.ledger.events(self.app, LIVE, after=after)

    def roles(self) -> dict[str, tuple[str, float]]:
        """Who answers, with which share."""
        roles = self.store.ledger.roles(self.app, LIVE)
        return {r.role: (r.release, r.share) for r in roles if r.release and r.role in {"champion", "challenger"}}


@dataclass
class Feeder:
    """Plays a world against the server of a loop.

    Attributes:
        told: called with each event of the live timeline, once.
        quotes: key -> the answer that was given.
        stood_in: answers by the champion in a challenger's place, which failed or could not keep up.
        astray: answers by any other release than the one that the roles name for that key.
        days: how many were played.
        by_kind: kind -> the events of the live timeline.
    """

    loop: Loop
    world: World
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
        while (today := self.loop.clock()) < until_day:
            rows = self.world.came(today)
            self._note([row[self.world.key] for row in rows], self.asker.quotes(rows))
            tomorrow = today + DAY
            self.asker.label(self.world.became_known(tomorrow))
            self.loop.clock.set(tomorrow)
            self.catch_up()
            self.days += 1
            moved()

    def _note(self, keys: Sequence[Any], quotes: Sequence[Quote | None]) -> None:
        expected = self._expected(keys, self._served)
        self.quotes.update((key, quote) for key, quote in zip(keys, quotes, strict=True) if quote)
        others = [q.release for q, e in zip(quotes, expected, strict=True) if q is not None and q.release != e]
        stood_in = others.count(self._served["champion"][0])
        self.stood_in += stood_in
        self.astray += len(others) - stood_in

    def catch_up(self) -> None:
        """Wait until the loop has lived through every day that is over, and the front serves the roles of the ledger."""
        now = self.loop.clock()
        what = f"the loop to have lived up to {now:%Y-%m-%d}"
        until(lambda: (lived := self.loop.lived_until()) is not None and lived >= now, what, why=self.loop.said)
        self._follow_roles()
        self.listen()

    def wait_for(self, *kinds: str) -> Event:
        """Wait for a new event of one of these kinds, while no time goes by; the first one."""
        before = self._seq

        def found() -> Event | None:
            return next((event for event in self.loop.events(after=before) if event.kind in kinds), None)

        event = until(found, f"an event {' or '.join(kinds)}", why=self.loop.said)
        self._follow_roles()
        self.listen()
        assert event is not None  # noqa: S101 - `until` gives nothing else
        return event

    def skip(self) -> None:
        """Tell nothing of what has happened by now."""
        newest = self.loop.store.ledger.events(self.loop.app, LIVE, newest_first=True, limit=1)
        self._seq = newest[0].seq if newest else 0

    def listen(self) -> None:
        """Tell what is new on the live timeline."""
        for event in self.loop.events(after=self._seq):
            self._seq = event.seq
            self.by_kind[event.kind].append(event)
            self.told(event)

    # ------------------------------------------------------------ who answers

    def _follow_roles(self) -> None:
        """Wait until the front has seen that roles changed; as long as they stand, each quote says whether it has."""
        until(self._follows, "the front to serve the roles of the ledger", why=self.loop.said)

    def _follows(self) -> bool:
        found = self.loop.roles()
        if found == self._served:
            return True
        expected = self._expected(_PROBES, found)
        if self.asker.releases([{**self.world.row, self.world.key: probe} for probe in _PROBES]) != expected:
            return False
        self._served = found
        return True

    @staticmethod
    def _expected(keys: Sequence[Any], roles: Mapping[str, tuple[str, float]]) -> list[str]:
        """Who answers rows with these keys, by the roles."""
        champion, _ = roles["champion"]
        challenger, share = roles.get("challenger", ("", 0.0))
        return [challenger if is_in else champion for is_in in in_canary(keys, share, salt=challenger)]
