"""`staytrue log`: what happened, and why."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Final

from staytrue.cli.screen import Screen
from staytrue.cli.times import moment
from staytrue.errors import InvalidInput, NotFound, Unavailable
from staytrue.loop.log import TOLD, document
from staytrue.store.ledger import Event
from staytrue.store.ledger_file import LedgerFile
from staytrue.store.store import Store, open_store

__all__ = ["arguments", "run"]

_LOOK_S: Final = 0.1
_TAIL: Final = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--name", help="the app, when the store holds several")
    parser.add_argument(
        "--timeline",
        default=None,
        help="live, data, orders, trainings, replay/...; `all` for every one (default: live, data and orders)",
    )
    parser.add_argument("--kind", action="append", help="only events of this kind; may stand several times")
    parser.add_argument("--since", metavar="TIME")
    parser.add_argument("--until", metavar="TIME")
    parser.add_argument(
        "-n", type=int, default=None, metavar="COUNT", help=f"only the newest so many (default with --follow: {_TAIL})"
    )
    parser.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="go on with each event as it is written down, until Ctrl-C; with --json one document a line",
    )


def run(args: argparse.Namespace, screen: Screen) -> int:
    """The events, oldest first."""
    if args.n is not None and args.n < 0:
        raise InvalidInput("ST855", f"-n is {args.n}; expected how many events to show, 0 or more.", got=args.n)
    store = open_store(args.store, must_exist=True)
    app = store.app(args.name)
    known = store.ledger.timelines(app)
    if args.timeline not in (None, "all", *known) and not args.follow:
        raise NotFound("ST134", f"{app} has no timeline {args.timeline!r}; there are {', '.join(known)}.", known=known)
    if args.follow:
        return _follow(store, app, args, screen)
    found = store.ledger.events(
        app,
        None if args.timeline in (None, "all") else args.timeline,
        kinds=args.kind,
        since=moment(args.since),
        until=moment(args.until),
    )
    wanted = _Wanted(args)
    events = _newest(sorted(filter(wanted, found), key=lambda e: (e.at, e.seq)), args.n)
    screen.document({"app": app, "events": [document(e) for e in events]})
    for event in events:
        screen.event(event.at.strftime("%Y-%m-%d"), event.kind, event.sentence)
    others = [t for t in known if t.startswith("replay/")]
    if others and args.timeline is None:
        screen.note(f"{len(others)} replays have a timeline of their own: staytrue log --timeline {others[0]}")
    return 0


class _Wanted:
    """Whether an event passes the flags."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._timeline, self._kinds = args.timeline, args.kind
        self._since, self._until = moment(args.since), moment(args.until)

    def __call__(self, event: Event) -> bool:
        return (
            (event.timeline in TOLD if self._timeline is None else self._timeline in ("all", event.timeline))
            and (self._kinds is None or event.kind in self._kinds)
            and (self._since is None or event.at >= self._since)
            and (self._until is None or event.at < self._until)
        )


def _newest(events: list[Event], count: int | None) -> list[Event]:
    return events if count is None else events[max(len(events) - count, 0) :]


def _follow(store: Store, app: str, args: argparse.Namespace, screen: Screen) -> int:
    """Ctrl-C is how it ends, so it ends well."""
    wanted = _Wanted(args)
    tail: int | None = _TAIL if args.n is None else args.n
    try:
        for events in _coming(store, app, screen):
            for event in _newest(list(filter(wanted, events)), tail):
                screen.line(document(event))
                screen.event(event.at.strftime("%Y-%m-%d %H:%M"), event.kind, event.sentence)
            screen.flush()
            tail = None
    except KeyboardInterrupt:
        return 0
    return 0


def _coming(store: Store, app: str, screen: Screen) -> Iterator[list[Event]]:
    """First all that is there, then all that is new, in the order of the ledger; each event once.

    It ends when nobody can read it any more, so that no `log --follow | head` is left behind.
    """
    file = LedgerFile(store.root)
    after: int | None = None
    refused = False
    while screen.has_reader():
        if file.may_have_moved(time.monotonic()):
            try:
                events = store.ledger.events(app, after=after)
            except Unavailable as exc:
                # Busy or full: what is written meanwhile is read later, and nothing is lost.
                if not refused:
                    screen.note(f"{exc} It is looked at again.")
                refused = True
            else:
                refused = False
                if events or after is None:
                    after = max((event.seq for event in events), default=0)
                    yield events
        time.sleep(_LOOK_S)
