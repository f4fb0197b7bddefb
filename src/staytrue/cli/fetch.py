"""`staytrue fetch`: ask the sources for new rows."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from functools import partial

from staytrue.cli.screen import Screen
from staytrue.cli.times import moment
from staytrue.engines.process import ProcessPool
from staytrue.loop.context import Context, open_context
from staytrue.loop.fetch import Fetched, fetch
from staytrue.loop.jobs import drive

__all__ = ["arguments", "fetched", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("source", nargs="*", help="which sources (default: all)")
    parser.add_argument(
        "--since", metavar="TIME", help="from when on; windows that are there already are looked at again"
    )
    parser.add_argument("--until", metavar="TIME", help="up to when (default: now)")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when a window went into quarantine."""
    ctx = open_context(args.app, args.store)
    found = fetched(ctx, screen, args.source, since=moment(args.since), until=moment(args.until))
    screen.document({"app": ctx.app.name, "fetched": [f.document() for f in found]})
    if not found:
        screen.say(f"{ctx.app.name} has no source: there is nothing to fetch.")
    for one in found:
        fixed = f", {one.corrected} windows corrected" if one.corrected else ""
        screen.say(
            f"{one.source}: {one.rows:,} rows in {one.parts} windows{fixed}, up to {one.until:%Y-%m-%d %H:%M} UTC."
        )
        for breach in one.breaches[:10]:
            likely = f" Likely: {breach.likely}." if breach.likely else ""
            screen.say(
                f"  {breach.code} {breach.sentence}{likely}", style="red" if breach.severity == "refuse" else "yellow"
            )
    return 1 if any(f.quarantined for f in found) else 0


def fetched(
    ctx: Context, screen: Screen, sources: list[str], *, since: datetime | None = None, until: datetime | None = None
) -> list[Fetched]:
    """What each source brought, with a bar while it goes on."""
    found = []
    with screen.bars() as bars, ProcessPool(ctx.store.work / "jobs") as pool:
        for name in sources or list(ctx.app.sources):
            kept = partial(bars.moved, f"fetch {name}")
            steps = fetch(ctx, name, now=datetime.now(UTC), since=since, until=until, kept=kept)
            found.append(drive({name: steps}, pool)[name])
    return found
