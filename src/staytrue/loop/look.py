"""Look: the last look that anybody had at the champion, a controller's or a replay's, and the verdict that follows from it.

`status` says it in words, `/metrics` in numbers. Both ask here, so that they can't differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from staytrue.kernel.health import Health, health
from staytrue.kernel.incidents import Incident
from staytrue.loop.few_labels import are_few, few_known, traffic_mark
from staytrue.loop.lease import alive
from staytrue.store.ledger import LIVE
from staytrue.store.store import Store

__all__ = ["Look", "clock", "last_look", "system_alarms", "verdict"]

_OLD: Final = timedelta(days=2)
"""A look whose clock was further back than this when it was written down was a replay's."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look, and whoever had it."""

    seen: Mapping[str, Any]
    """As `Life.look` gives it; empty: nobody has looked."""
    at: datetime | None
    runs: bool | None
    """Whether a controller is at work; None where there never was one."""
    as_of_then: bool
    """Whether the answers are about the moment of the look, on a clock that need not be this machine's."""
    paused: bool = False
    few: Mapping[str, Any] | None = None
    """What labels of the newest predictions say (`loop/few_labels.py`); empty: nobody has looked; None: nobody was answered."""

    def at_release(self, release: str | None) -> Mapping[str, Any]:
        """What it saw of a release: numbers about another one say nothing about it."""
        return self.seen if release and self.seen.get("champion") == release else {}

    def judged_at(self, wall: datetime, at: str | None) -> datetime:
        """The moment to judge it by: `now`, its own (`end`), or (None) its own if it was a replay's or a running controller's."""
        return self.at if self.at and (at == "end" or (at is None and self.as_of_then)) else wall


def last_look(store: Store, app: str, wall: datetime) -> Look:
    """The last look.

    Args:
        wall: now.
    """
    event = next(iter(store.ledger.events(app, LIVE, kinds=("looked",), newest_first=True, limit=1)), None)
    lease = store.ledger.lease(app)
    memory = lease.state if lease else {}
    if lease and memory.get("looked_at") and (event is None or event.recorded_at < lease.at):
        runs = alive(store.root, app)
        looked = datetime.fromisoformat(memory["looked_at"])
        # A loop that is at work looks all the time. But in a drill its clock is not this machine's.
        at = wall if runs and abs(wall - looked) < _OLD else looked
        seen = (memory.get("life") or {}).get("look", {})
        return Look(
            seen=seen,
            at=at,
            runs=runs,
            as_of_then=runs,
            paused=bool(memory.get("paused")),
            few=memory.get("few") or _unlooked(store, app),
        )
    replayed = event is not None and event.recorded_at - event.at > _OLD
    seen = event.body["evidence"] if event else {}
    few = _unlooked(store, app)
    return Look(seen=seen, at=event.at if event else None, runs=None, as_of_then=replayed, few=few)


def _unlooked(store: Store, app: str) -> Mapping[str, Any] | None:
    return {} if any(traffic_mark(store, app)) else None


def clock(store: Store, app: str, wall: datetime) -> datetime:
    """The time by which a controller of the app lives, which in a drill is not this machine's; `wall` where none does."""
    look = last_look(store, app, wall)
    return look.at if look.runs and look.at else wall


def verdict(
    look: Look,
    release: str | None,
    *,
    system: Iterable[str],
    now: datetime,
    answered: Callable[[], int],
) -> Health:
    """Whether the champion is right at `now`.

    Args:
        release: the champion; None: there is none.
        system: alarms about machine and server, as `system_alarms` gives them.
        answered: asked of a plain service only: rows that were answered in the last hour.
    """
    seen = look.at_release(release)
    rows, interval, loss = int(seen.get("rows", 0)), seen.get("loss_interval"), seen.get("loss")
    # Who was asked nothing has no newest predictions: then what the loop saw is all that there is.
    few = look.few if are_few(seen) and look.few is not None and look.few.get("predictions") != 0 else None
    if few and "labels" in few:
        rows, loss, interval = few["labels"], few["loss"], _bounds(few["interval"])
    return health(
        rows=rows,
        loss=loss,
        interval=interval,
        fresh_loss=seen.get("fresh_loss"),
        new_loss=seen.get("new_loss"),
        is_warm=seen.get("is_warm", True),
        alarms=[*seen.get("alarms", ()), *system],
        looked_at=look.at if seen else None,
        now=now,
        runs=look.runs is not False,
        answered=answered() if seen.get("service") else None,
        few=None if few is None else few_known(few, seen.get("belief", "untested")),
    )


def _bounds(interval: Sequence[float | None] | None) -> Sequence[float] | None:
    """As numbers: a side of which nothing is known has no end."""
    if interval is None:
        return None
    low, high = interval
    return (-math.inf if low is None else low, math.inf if high is None else high)


def system_alarms(open_: Iterable[Incident]) -> list[str]:
    """What is wrong with the machine or the server, and was not said to be over."""
    return [f"system ({one.cause})" for one in open_ if one.kind == "system"]
