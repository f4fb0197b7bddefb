"""Losses: what the champions of an app lost over time, and what the first one would have lost had nobody ever retrained.

From what the loop keeps anyway: stories of replays, and the weeks and newest ticks that a living controller remembers.
No row is read and no model asked. What is not known is left out, and the document says why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from staytrue.kernel.release import Digest
from staytrue.store import tables
from staytrue.store.ledger import LIVE
from staytrue.store.objects import LocalObjects
from staytrue.store.store import Store

__all__ = ["losses", "stories"]

_SPAN: Final = 6
"""So many points, and those that the band rests on, are one point of the line."""
_FEWEST: Final = 3
_T95: Final = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)
"""The 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom."""
_WEEK: Final = timedelta(days=7)
_NAMES: Final = {_WEEK: "week", timedelta(days=1): "day", timedelta(hours=1): "hour"}


@dataclass(frozen=True, kw_only=True)
class _Point:
    """Rows of one week or tick with a label, and their mean loss."""

    since: datetime
    until: datetime
    rows: int
    loss: float


def losses(store: Store, app: str, *, fresh: float | None = None) -> dict[str, Any]:
    """The losses of an app over time, as a document; described in docs/page.md.

    Args:
        fresh: what the champion lost when it was fresh.
    """
    live, never, why = _found(store, app)
    every = _NAMES.get(live[0].until - live[0].since, "tick") if live else "tick"
    line, base = _line(live), _line(never)
    return {
        "every": every,
        "joined": _SPAN,
        "fresh": fresh,
        "points": [
            {"since": p.since.isoformat(), "until": p.until.isoformat(), "rows": p.rows, "loss": p.loss} for p in live
        ],
        "line": line,
        "never": base or None,
        "never_why": why,
        "sentence": _sentence(live, never, line, every),
    }


def stories(store: Store, app: str) -> list[dict[str, Any]]:
    """Every replay that was lived to its end, the newest first: `{"at", "timeline", "live", "result"}`."""
    refs = store.ledger.refs(app=app, kind="replay")
    return [
        {
            "at": ref.at.isoformat(),
            "seq": ref.seq,
            "timeline": ref.timeline,
            "live": ref.timeline == LIVE,
            "result": _story(store.objects, ref.digest),
        }
        for ref in reversed(refs)
        if store.objects.has(ref.digest)
    ]


@lru_cache(maxsize=64)
def _story(objects: LocalObjects, digest: Digest) -> dict[str, Any]:
    return dict(json.loads(objects.get_document(digest)["story"])["result"])


# ------------------------------------------------------------ where they come from


def _found(store: Store, app: str) -> tuple[list[_Point], list[_Point], str]:
    """What was lost, what the first champion would have lost, and why nothing is said of the latter."""
    told = stories(store, app)
    lived = next((one["result"] for one in told if one["live"]), None)
    memory = _memory(store, app)
    weeks = _weeks([_week(*one) for one in lived["weekly"]] if lived else [], memory)
    ticks = _ticks(store, app, memory)
    # Of an app that lives since a few weeks its ticks tell more.
    points = weeks if lived or len(weeks) >= 2 * _SPAN or not ticks else ticks
    never = [one["result"] for one in told if one["result"]["policy"] == "never"]
    same = next((one for one in never if points is weeks and weeks and _begins(one) == weeks[0].since), None)
    if same is None:
        missing = "nothing was replayed under `never` from the same day on" if points else "no loss is known yet"
        return points, [], f"What would have been lost without any retraining is not known: {missing}."
    return points, [_week(*one) for one in same["weekly"]], ""


def _begins(result: Mapping[str, Any]) -> datetime | None:
    weekly = result.get("weekly") or []
    return _week(*weekly[0]).since if weekly else None


def _weeks(replayed: Sequence[_Point], memory: Mapping[str, Any]) -> list[_Point]:
    """Week by week what was replayed, and what a controller remembers, which knows better where both tell of a week."""
    lived = [_week(monday, rows, total / rows) for monday, rows, total in memory.get("weeks", ())]
    return [p for p in replayed if not lived or p.since < lived[0].since] + lived


def _week(monday: str, rows: int, loss: float) -> _Point:
    since = datetime.combine(date.fromisoformat(monday), datetime.min.time(), UTC)
    return _Point(since=since, until=since + _WEEK, rows=int(rows), loss=float(loss))


def _memory(store: Store, app: str) -> Mapping[str, Any]:
    lease = store.ledger.lease(app)
    return (lease.state if lease else {}).get("life") or {}


def _ticks(store: Store, app: str, life: Mapping[str, Any]) -> list[_Point]:
    """The newest ticks that the controller learned from; where each lies is read from the parts of the table."""
    recent = life.get("recent") or []
    if not recent or not life.get("known"):
        return []
    known = datetime.fromisoformat(life["known"])
    parts = next(
        (
            table.parts
            for ref in reversed(store.ledger.refs(app=app, kind="source"))
            if (table := tables.load(store.objects, ref.digest)).label is not None
        ),
        (),
    )
    past = [part for part in parts if part.since < known][-len(recent) :]
    return [
        _Point(since=part.since, until=part.until, rows=int(rows), loss=float(total) / int(rows))
        for part, (rows, total) in zip(past, recent[-len(past) :] if past else [], strict=True)
        if rows
    ]


# ------------------------------------------------------------ the line and its band


def _line(points: Sequence[_Point]) -> list[dict[str, Any]]:
    """For each point the mean loss of the rows of it and of those before it, with the 95 % interval of that mean.

    What varies is whole points: rows of one week are alike. With so few of them Student's t has its say.
    """
    made = []
    # No mean of losses that are never below 0 is.
    floor = 0.0 if all(p.loss >= 0 for p in points) else float("-inf")
    for at in range(len(points)):
        some = points[max(0, at - _SPAN + 1) : at + 1]
        rows = sum(p.rows for p in some)
        mean = sum(p.rows * p.loss for p in some) / rows
        low = high = None
        if len(some) >= _FEWEST:
            spread = sum((p.rows * (p.loss - mean)) ** 2 for p in some) ** 0.5 / rows
            half = _T95[len(some) - 2] * spread * (len(some) / (len(some) - 1)) ** 0.5
            low, high = round(max(mean - half, floor), 6), round(mean + half, 6)
        made.append(
            {"at": points[at].until.isoformat(), "loss": round(mean, 6), "low": low, "high": high, "rows": rows}
        )
    return made


def _sentence(live: Sequence[_Point], never: Sequence[_Point], line: Sequence[Mapping[str, Any]], every: str) -> str:
    if not live:
        return "No loss is known yet: no answer has a label."
    last = line[-1]
    bounds = f" ({last['low']:.4g} .. {last['high']:.4g})" if last["low"] is not None else ""
    many = min(len(live), _SPAN)
    span = f"the last {many} {every}s" if many > 1 else f"the last {every}"
    said = f"In {span} {last['loss']:.4g} was lost a row{bounds}, on {last['rows']:,} rows."
    both = [p for p in live if never and p.since <= never[-1].since]
    if not both:
        return said
    ours, theirs = (sum(p.rows * p.loss for p in each) / sum(p.rows for p in each) for each in (both, never))
    if theirs <= 0:
        return said
    less = 1 - ours / theirs
    word = f"{abs(less):.0%} {'less' if less >= 0 else 'more'} than without any retraining"
    return f"{said} Since {both[0].since:%Y-%m-%d} it was {ours:.4g} a row, {word} ({theirs:.4g})."
