"""`staytrue demo`: the whole loop on shipped real data."""

from __future__ import annotations

import argparse
import importlib.util
from datetime import UTC, datetime
from pathlib import Path

from staytrue.cli.fetch import fetched
from staytrue.cli.new import make, templates
from staytrue.cli.replay import draw, show_policies, show_timeline
from staytrue.cli.screen import Screen
from staytrue.errors import Conflict, Unavailable
from staytrue.loop.context import open_context
from staytrue.loop.replay import replay

__all__ = ["arguments", "run"]

_SPANS = {
    "pricing": (datetime(2015, 4, 1, tzinfo=UTC), datetime(2016, 7, 1, tzinfo=UTC), datetime(2017, 9, 1, tzinfo=UTC))
}
"""template -> begin of its history, first day to live through, end."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument(
        "name", nargs="?", default="pricing", choices=sorted(_SPANS), help="which demo (default: pricing)"
    )
    parser.add_argument("--dir", metavar="DIR", help="where to put the app and its store (default: ./staytrue-demo)")
    parser.add_argument("--chart", metavar="FILE", help="draw the replay as an SVG picture into this file")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Fourteen months in a minute: what happened, what each policy cost, and a store that can be asked why."""
    if importlib.util.find_spec("sklearn") is None:
        raise Unavailable(
            "ST131", "The demo trains with scikit-learn, which is not installed: pip install 'staytrue[demo]'."
        )
    place = Path(args.dir or "staytrue-demo")
    if not (place / "app.py").exists():
        make(templates()[args.name], place)
    store = args.store or str(place / ".staytrue")
    ctx = open_context(str(place / "app.py"), store)
    begin, first, end = _SPANS[args.name]
    screen.note(f"The app is {place / 'app.py'}, its store {store}.")
    if ctx.store.ledger.ref("source", "bookings", app=ctx.app.name) is None:
        found = fetched(ctx, screen, [], since=begin, until=end)
        rows, refused = sum(f.rows for f in found), sum(f.quarantined for f in found)
        screen.say(f"Fetched {rows:,} real bookings, a part for each day; {refused} in quarantine.")
    policies = [ctx.app.settings.retrain, "never", "every:7d", "every:28d"]
    with screen.bars() as bars:
        try:
            lived = replay(ctx, policies, since=first, until=end, live=policies[0], moved_on=bars.moved)
        except Conflict as exc:
            raise Conflict(
                "ST138",
                f"{store} holds the story of another version of this app or of staytrue, and what happened is never "
                "written anew. Give another --dir, or delete that folder.",
                store=store,
            ) from exc
    screen.document(lived)
    draw(screen, lived, args.chart)
    screen.say(f"\nWhat happened under the policy {policies[0]} (loss = mean absolute error of a quote, in euros):\n")
    show_timeline(screen, lived, policies[:1])
    show_policies(screen, lived)
    last = next(
        (
            e
            for e in reversed(lived["timeline"])
            if e["release"] and e["kind"] == "promoted" and e["policy"] == policies[0]
        ),
        None,
    )
    where = f"--app {place / 'app.py'} --store {store}"
    screen.say("\nAsk it what happened and why:")
    for command in ("status", "log", *([f"show {last['release'][:8]}"] if last else []), "verify"):
        screen.say(f"  staytrue {command} {where}")
    screen.say("\nServe it, and ask it what a room should cost:")
    screen.say(f"  staytrue up --store {store}")
    return 0
