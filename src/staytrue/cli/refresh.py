"""`staytrue refresh`: ask the sources, and retrain the champion's own code on the newest rows."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from staytrue.cli import order
from staytrue.cli.screen import Screen
from staytrue.engines.process import ProcessPool
from staytrue.loop.jobs import Steps, drive
from staytrue.loop.refresh import Refreshed, refresh, rehearsed, sources_of
from staytrue.loop.revert import champion_of, context_of
from staytrue.store.store import KeptRelease, Store, open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("source", nargs="*", help="which sources to ask (default: all)")
    parser.add_argument("--now", action="store_true", help="make what comes out champion without a trial")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen; no source is asked")
    order.arguments(parser)


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when there was nothing newer, or the gate kept it out, or the loop is busy with another release."""
    store = open_store(args.store, must_exist=True)
    app = order.app_of(store, args)
    champion = champion_of(store, app)
    with ProcessPool(store.work / "jobs") as pool, screen.busy("refreshing"):
        done = drive({"refresh": _steps(args, store, champion, screen)}, pool)["refresh"]
    if isinstance(done, dict):
        screen.document({"app": app, "dry_run": True, "champion": champion.id, **done})
        for sentence in done["sentences"]:
            screen.say(sentence)
        return 0
    screen.document({"app": app, "dry_run": False, "champion": champion.id, **done.document()})
    delivered = done.delivered
    well = bool(done.news) and (delivered is None or delivered.promoted or delivered.order is not None)
    screen.say(done.sentence, style="green" if well else "yellow")
    return 0 if well else 1


def _steps(
    args: argparse.Namespace, store: Store, champion: KeptRelease, screen: Screen
) -> Steps[Refreshed | dict[str, Any]]:
    ctx = yield from context_of(store, [champion], home=order.home_of(args))
    sources = sources_of(ctx, args.source)
    if args.dry_run:
        return rehearsed(ctx, champion.release, sources, now=args.now, at=datetime.now(UTC))
    return (yield from refresh(ctx, champion, sources, now=args.now, by=order.who(), why=args.why, said=screen.note))
