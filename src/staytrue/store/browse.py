"""Browse: the ledger a page at a time. What a person looks through may be long; what is read of it is what is shown."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import String, case, cast, func, literal, or_, select

from staytrue.kernel.release import Digest
from staytrue.store.chain import EVENT, REF, as_event
from staytrue.store.ledger import LIVE, Event, Ledger

__all__ = [
    "Made",
    "Told",
    "alarms_of",
    "events_about",
    "events_at",
    "found_events",
    "kinds_of",
    "made_releases",
    "told",
]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A release of the live timeline, and the number of the event that first told of it."""

    id: Digest
    seq: int


def made_releases(ledger: Ledger, app: str, *, begins: str = "", limit: int, offset: int = 0) -> tuple[list[Made], int]:
    """Releases of an app, the newest first, without those before `offset`; and how many there are (0 beyond the last one).

    Args:
        begins: only those whose id begins so.
    """
    first = func.min(REF.c.seq).label("first")
    query = (
        select(REF.c.digest, first, func.count().over().label("total"))
        .where(REF.c.app == app, REF.c.kind == "release", REF.c.timeline == LIVE)
        .group_by(REF.c.digest)
        .order_by(first.desc(), REF.c.digest)
        .limit(limit)
        .offset(offset)
    )
    if begins:
        query = query.where(REF.c.digest.startswith(begins, autoescape=True))
    rows = ledger.select(query)
    return [Made(id=Digest(row.digest), seq=int(row.first)) for row in rows], int(rows[0].total) if rows else 0


def events_at(ledger: Ledger, seqs: Collection[int]) -> dict[int, Event]:
    """The events with these numbers."""
    query = select(EVENT).where(EVENT.c.seq.in_(sorted(seqs)))
    return {event.seq: event for event in map(as_event, ledger.select(query))}


def events_about(ledger: Ledger, app: str, release: str) -> list[Event]:
    """The events of an app whose body names the release as the one it is about, oldest first."""
    query = select(EVENT).where(EVENT.c.app == app, cast(EVENT.c.body, String).contains(release, autoescape=True))
    found = map(as_event, ledger.select(query.order_by(EVENT.c.seq)))
    return [event for event in found if event.body.get("release") == release]


def alarms_of(ledger: Ledger, app: str, kind: str) -> list[Event]:
    """Alarms of one kind on the live timeline, oldest first; those that name no kind are of every one."""
    body = cast(EVENT.c.body, String)
    named = body.contains(f'"alarm":{json.dumps(kind)}', autoescape=True)
    query = select(EVENT).where(EVENT.c.app == app, EVENT.c.timeline == LIVE, EVENT.c.kind == "alarm")
    query = query.where(or_(named, ~body.contains('"alarm":', autoescape=True)))
    return [as_event(row) for row in ledger.select(query.order_by(EVENT.c.seq))]


@dataclass(frozen=True, slots=True)
class Told:
    """As much of an event as a story is folded from."""

    seq: int
    at: datetime
    kind: str
    sentence: str
    body: Mapping[str, Any]


def told(
    ledger: Ledger, app: str, *, kinds: Collection[str], with_body: Collection[str], after: int, limit: int
) -> Iterator[Told]:
    """Events of the live timeline, oldest first, in a tenth of the time: of other kinds than `with_body` without their body."""
    columns = EVENT.c
    body = case((columns.kind.in_(sorted(with_body)), columns.body), else_=literal("")).label("body")
    query = (
        select(columns.seq, columns.at, columns.kind, columns.sentence, body)
        .where(columns.app == app, columns.timeline == LIVE, columns.kind.in_(sorted(kinds)), columns.seq > after)
        .order_by(columns.seq)
        .limit(limit)
    )
    for row in ledger.select(query):
        yield Told(row.seq, row.at, row.kind, row.sentence, json.loads(row.body) if row.body else {})


def found_events(
    ledger: Ledger,
    app: str,
    *,
    timelines: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    text: str = "",
    before: int | None = None,
    after: int | None = None,
    limit: int,
    oldest_first: bool = False,
) -> list[Event]:
    """Events, the newest first: of these timelines and kinds, with `after < seq < before`.

    Args:
        text: words, each of which has to stand in sentence, kind or body.
    """
    columns = EVENT.c
    query = select(EVENT).where(columns.app == app).limit(limit)
    query = query.order_by(columns.seq if oldest_first else columns.seq.desc())
    if timelines is not None:
        query = query.where(columns.timeline.in_(list(timelines)))
    if kinds is not None:
        query = query.where(columns.kind.in_(list(kinds)))
    for word in text.split():
        query = query.where(
            or_(*(column.icontains(word, autoescape=True) for column in (columns.sentence, columns.kind, columns.body)))
        )
    if before is not None:
        query = query.where(columns.seq < before)
    if after is not None:
        query = query.where(columns.seq > after)
    return [as_event(row) for row in ledger.select(query)]


def kinds_of(ledger: Ledger, app: str, timelines: Sequence[str]) -> list[str]:
    """The kinds of events that these timelines have, sorted."""
    query = select(EVENT.c.kind).where(EVENT.c.app == app, EVENT.c.timeline.in_(list(timelines))).distinct()
    return sorted(row.kind for row in ledger.select(query))
