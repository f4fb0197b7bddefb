"""Browse: the ledger a page at a time. What a person looks through may be long; what is read of it is what is shown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import String, cast, func, or_, select

from staytrue.kernel.release import Digest
from staytrue.store.chain import EVENT, REF, as_event
from staytrue.store.ledger import LIVE, Event, Ledger

__all__ = ["Made", "events_about", "events_at", "found_events", "kinds_of", "made_releases"]


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
