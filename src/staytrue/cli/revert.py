"""`staytrue revert`: a new release with code, data or model taken from an older one."""

from __future__ import annotations

import argparse

from staytrue.cli import order
from staytrue.cli.screen import Screen
from staytrue.engines.process import ProcessPool
from staytrue.errors import InvalidInput
from staytrue.kernel.release import AXES, Axis
from staytrue.loop.deliver import Delivered
from staytrue.loop.jobs import Steps, drive
from staytrue.loop.outlook import Outlook, foreseen
from staytrue.loop.revert import before, champion_of, context_of, planned, revert
from staytrue.store.store import KeptRelease, Store, open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument(
        "to", nargs="?", metavar="TO", help="the release to take from (default: the one before the champion)"
    )
    for axis in AXES:
        parser.add_argument(f"--{axis}", action="store_true", help=f"take the {axis}")
    parser.add_argument("--all", action="store_true", help="take all three")
    parser.add_argument("--now", action="store_true", help="make it champion without a trial")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, and change nothing")
    order.arguments(parser)


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when the gate kept it out. The app in the folder is not asked: it may be broken, or gone."""
    axes: list[Axis] = [axis for axis in AXES if args.all or getattr(args, axis)]
    if not axes:
        raise InvalidInput("ST135", "Say what to revert: --code, --data, --model or --all.", expected=list(AXES))
    store = open_store(args.store, must_exist=True)
    app = order.app_of(store, args)
    champion = champion_of(store, app)
    to = store.release(args.to) if args.to else before(store, app)
    with ProcessPool(store.work / "jobs") as pool, screen.busy("asking the releases"):
        done = drive({"revert": _steps(args, store, (champion, to), axes)}, pool)["revert"]
    if isinstance(done, Outlook):
        screen.document({"app": app, "dry_run": True, "axes": axes, "to": to.id, **done.document()})
        for sentence in done.sentences:
            screen.say(sentence)
        return 0
    screen.document({"app": app, "dry_run": False, "axes": axes, "to": to.id, "delivered": done.document()})
    screen.say(done.sentence, style="green" if done.promoted else "yellow")
    return 0 if done.promoted or done.order else 1


def _steps(
    args: argparse.Namespace, store: Store, releases: tuple[KeptRelease, KeptRelease], axes: list[Axis]
) -> Steps[Delivered | Outlook]:
    to = releases[1]
    ctx = yield from context_of(store, releases, home=order.home_of(args))
    if args.dry_run:
        return (yield from foreseen(ctx, planned(store, ctx.app.name, to, axes), now=args.now))
    return (yield from revert(ctx, to, axes, now=args.now, by=order.who(), why=args.why))
