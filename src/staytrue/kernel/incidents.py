"""Incidents: what a person should hear of, folded from the events of the live timeline.

An alarm may be told again and again, and many events follow from it; people hear of it once, when the loop begins to do
something about it, and when it is over. At most one incident stands open for each kind and cause: never one for a feature,
a row or a repetition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

__all__ = ["BODIES", "ENDS", "KINDS", "Incident", "Open", "State", "Told", "changes", "fold", "standing"]

State = Literal["opened", "acting", "resolved"]

_ACTS = frozenset({"retrain", "backtest", "shadow", "canary"})
ENDS = frozenset({"promoted", "rolled_back", "reverted", "repaired", "undone", "deployed"})
"""Another champion: what was wrong with the one before is over, and so is waiting."""
_STEPS_BACK = frozenset({"rejected", "withdrawn"})
"""The challenger is gone: nobody acts any more, and there is nothing left to approve."""
_ONCE = frozenset({"refused"})
_CALMS = frozenset({"calmed"})
"""A retraining brought nothing better: what the champion loses now is what fresh means, and the alarm is over."""
_BLAMES = frozenset({"blamed"})
"""It was found out what is to blame, or that nothing is: the verdict belongs to the incident."""
_OPENS = frozenset({"alarm", "tripped", "serve_failed", "waiting", "failed"})

KINDS = tuple(sorted({"noted"} | _ACTS | _CALMS | ENDS | _STEPS_BACK | _ONCE | _OPENS | _BLAMES))
"""The kinds of events that incidents are folded from; all others change nothing."""
BODIES = _OPENS | _BLAMES | {"noted"}
"""Those of them of which the body is looked at."""

_LOSSES = frozenset({"harm", "shift", "answers"})
"""Kinds of incidents that a retraining is an answer to, and that another champion ends. Not those about the rows themselves."""
_OVER_WITH_CHAMPION = _LOSSES | {"release", "approval", "training"}


class Told(Protocol):
    """An event, as far as incidents look at it."""

    @property
    def seq(self) -> int:
        """Its place in the ledger."""

    @property
    def at(self) -> datetime:
        """When it happened."""

    @property
    def kind(self) -> str:
        """What happened."""

    @property
    def sentence(self) -> str:
        """It, for a person."""

    @property
    def body(self) -> Mapping[str, Any]:
        """The numbers seen."""


@dataclass(frozen=True, kw_only=True)
class Incident:
    """Something that a person should hear of, as it stands after the event `seq`."""

    id: str
    """Kind, cause, and the event that opened it."""
    kind: str
    """`harm`, `system`, `release` (one that is broken), `approval`, `push`, `training`, ..."""
    cause: str
    """Of a `system` incident what it is about (`disk`, `latency`, ...), of a broken release the guard."""
    state: State
    sentence: str
    opened_at: datetime
    changed_at: datetime
    seq: int

    @property
    def title(self) -> str:
        """What and how it stands, in a few words."""
        named = self.kind if self.cause == self.kind else f"{self.kind} ({self.cause})"
        return f"{named} {self.state}"


Open: TypeAlias = Mapping[tuple[str, str], Incident]
"""The incidents that stand open, by kind and cause."""


def fold(before: Open, event: Told) -> tuple[Open, list[Incident]]:  # noqa: PLR0911 - a table of kinds reads best as one
    """The incidents that stand open after the event, and those whose state it changed, as they stand now.

    What is over from the start (a challenger that was cut off, a commit that was refused) is one change, to `resolved`.
    """
    if event.kind == "alarm" or (event.kind == "noted" and event.body.get("state") == "resolved"):
        return _alarm(before, event)
    if event.kind == "tripped" and event.body.get("role") == "challenger":
        return before, [_new(("release", str(event.body.get("guard"))), event, "resolved")]
    if event.kind in _ONCE:
        return before, [_new(("push", "check"), event, "resolved")]
    if event.kind in _OPENS:
        return _opened(before, _cause(event), event)
    if event.kind in _ACTS:
        return _moved(before, event, "opened", "acting")
    if event.kind in _BLAMES:
        return _blamed(before, event)
    if event.kind in _STEPS_BACK:
        # What opened again is told so: it stands, and the retraining has not helped.
        after, back = _moved(before, event, "acting", "opened")
        over, ended = _resolved(
            after, [key for key in after if key[0] == "approval" or key == ("release", "start")], event
        )
        return over, [*back, *ended]
    if event.kind in _CALMS:
        return _resolved(before, [key for key in before if key[0] == "harm"], event)
    if event.kind in ENDS:
        return _resolved(before, [key for key in before if key[0] in _OVER_WITH_CHAMPION], event)
    return before, []


def changes(events: Iterable[Told]) -> list[Incident]:
    """Every change of state, oldest first; `events` are those of one app's live timeline, from its beginning."""
    found: list[Incident] = []
    open_: Open = {}
    for event in events:
        open_, changed = fold(open_, event)
        found += changed
    return found


def standing(events: Iterable[Told]) -> list[Incident]:
    """The incidents that stand open after the events, oldest first."""
    open_: Open = {}
    for event in events:
        open_, _ = fold(open_, event)
    return sorted(open_.values(), key=lambda one: (one.opened_at, one.id))


def _alarm(before: Open, event: Told) -> tuple[Open, list[Incident]]:
    kind = str(event.body.get("alarm", "system"))
    what = event.body.get("what")
    # The champion could not answer rows: said without a `what` by whoever lives through ticks, and mended by another champion.
    key = (kind, str(what)) if what else ("answers", "answers") if kind == "system" else (kind, kind)
    if event.body.get("state") == "resolved":
        return _resolved(before, [key], event)
    return _opened(before, key, event)


def _cause(event: Told) -> tuple[str, str]:
    return {
        "tripped": ("release", str(event.body.get("guard"))),
        "serve_failed": ("release", "start"),
        "waiting": ("approval", "approval"),
        "failed": ("training", "training"),
    }[event.kind]


def _new(key: tuple[str, str], event: Told, state: State) -> Incident:
    kind, cause = key
    return Incident(
        id=f"{kind}:{cause}:{event.seq}",
        kind=kind,
        cause=cause,
        state=state,
        sentence=event.sentence,
        opened_at=event.at,
        changed_at=event.at,
        seq=event.seq,
    )


def _opened(before: Open, key: tuple[str, str], event: Told) -> tuple[Open, list[Incident]]:
    if key in before:
        return before, []
    made = _new(key, event, "opened")
    return {**before, key: made}, [made]


def _moved(before: Open, event: Told, old: State, new: State) -> tuple[Open, list[Incident]]:
    """Incidents that a retraining answers go from one state to another."""
    changed = {key: _changed(one, event, new) for key, one in before.items() if key[0] in _LOSSES and one.state == old}
    return {**before, **changed}, list(changed.values())


def _blamed(before: Open, event: Told) -> tuple[Open, list[Incident]]:
    """The verdict stands in the open harm incident; people are told when it leads to a repair."""
    acts = event.body.get("outcome") == "changes"
    found = {
        key: _changed(one, event, "acting" if acts else one.state) for key, one in before.items() if key[0] == "harm"
    }
    return {**before, **found}, [one for one in found.values() if acts]


def _resolved(before: Open, keys: Iterable[tuple[str, str]], event: Told) -> tuple[Open, list[Incident]]:
    over = {key: _changed(before[key], event, "resolved") for key in keys if key in before}
    return {key: one for key, one in before.items() if key not in over}, list(over.values())


def _changed(one: Incident, event: Told, state: State) -> Incident:
    return replace(one, state=state, sentence=event.sentence, changed_at=event.at, seq=event.seq)
