"""`staytrue log`: what happened, and why."""

from __future__ import annotations

import argparse
from typing import Any

from staytrue.cli.screen import Screen
from staytrue.cli.times import moment
from staytrue.errors import NotFound
from staytrue.store.ledger import LIVE, Event
from staytrue.store.store import open_store

__all__ = ["arguments", "document", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--name", help="the app, when the store holds several")
    parser.add_argument(
        "--timeline",
        default=None,
        help="live, data, trainings, replay/...; `all` for every one (default: live and data)",
    )
    parser.add_argument("--kind", action="append", help="only events of this kind; may stand several times")
    parser.add_argument("--since", metavar="TIME")
    parser.add_argument("--until", metavar="TIME")
    parser.add_argument("-n", type=int, default=None, metavar="COUNT", help="only the newest so many")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """The events, oldest first."""
    store = open_store(args.store, must_exist=True)
    app = store.app(args.name)
    known = store.ledger.timelines(app)
    if args.timeline not in (None, "all", *known):
        raise NotFound("ST134", f"{app} has no timeline {args.timeline!r}; there are {', '.join(known)}.", known=known)
    events = store.ledger.events(
        app,
        None if args.timeline in (None, "all") else args.timeline,
        kinds=args.kind,
        since=moment(args.since),
        until=moment(args.until),
    )
    if args.timeline is None:
        events = [e for e in events if e.timeline in (LIVE, "data")]
    events = sorted(events, key=lambda e: (e.at, e.seq))
    events = events[-args.n :] if args.n else events
    screen.document({"app": app, "events": [document(e) for e in events]})
    for event in events:
        screen.event(event.at.strftime("%Y-%m-%d"), event.kind, event.sentence)
    others = [t for t in known if t.startswith("replay/")]
    if others and args.timeline is None:
        screen.note(f"{len(others)} replays have a timeline of their own: staytrue log --timeline {others[0]}")
    return 0


def document(event: Event) -> dict[str, Any]:
    """An event as `--json` prints it."""
    return {
        "seq": event.seq,
        "id": event.id,
        "app": event.app,
        "timeline": event.timeline,
        "at": event.at.isoformat(),
        "recorded_at": event.recorded_at.isoformat(),
        "kind": event.kind,
        "sentence": event.sentence,
        "body": event.body,
        "hash": event.hash,
    }
