"""`staytrue revert`: a new release with code, data or model taken from an older one."""

from __future__ import annotations

import argparse

from staytrue.cli.screen import Screen
from staytrue.engines.process import ProcessPool
from staytrue.errors import InvalidInput, NotFound
from staytrue.kernel.release import AXES, Axis
from staytrue.loop.context import open_context
from staytrue.loop.jobs import drive
from staytrue.loop.revert import revert
from staytrue.store.ledger import LIVE

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


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when the gate kept it out."""
    axes: list[Axis] = [axis for axis in AXES if args.all or getattr(args, axis)]
    if not axes:
        raise InvalidInput("ST135", "Say what to revert: --code, --data, --model or --all.", expected=list(AXES))
    ctx = open_context(args.app, args.store)
    to = args.to or _before(ctx.store.ledger.role(ctx.app.name, LIVE, "previous"))
    with ProcessPool(ctx.store.work / "jobs") as pool:
        done = drive({"revert": revert(ctx, ctx.store.release(to), axes, now=args.now)}, pool)["revert"]
    screen.document({"axes": axes, "to": to, "delivered": done.document()})
    screen.say(done.sentence, style="green" if done.promoted else "yellow")
    return 0 if done.promoted else 1


def _before(role: object) -> str:
    release = getattr(role, "release", None)
    if not release:
        raise NotFound(
            "ST136", "There is no release before the champion: say which to take from. `staytrue log` lists them."
        )
    return str(release)
