"""`staytrue deploy`: check the present code and send it: to the loop where it lives, else through the gate by hand."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from staytrue.cli.check import Bench, bench, champion_base, checked, limits
from staytrue.cli.order import who
from staytrue.cli.screen import Screen
from staytrue.dashboard.report import report
from staytrue.loop.checked import Base, Checked
from staytrue.loop.deploy import deliver_candidate
from staytrue.loop.jobs import drive
from staytrue.loop.lease import alive
from staytrue.loop.orders import ask

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument(
        "--now", action="store_true", help="make it champion without a trial, once it has passed its check"
    )
    parser.add_argument("--why", metavar="TEXT", help="the reason, for the log")
    limits(parser)


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when the check or the gate kept it out."""
    with bench(args, scratch=False) as place, screen.busy("checking"):
        base = champion_base(place)
        found = checked(place, base, args, screen)
        order, delivered = _sent(place, base, found, args)
    screen.document(
        {"check": found.document(), "order": order, "delivered": delivered.document() if delivered else None}
    )
    if not found.passed:
        screen.say(report(found.document()).rstrip("\n"))
        return 1
    screen.say(found.sentence)
    if order:
        screen.say(
            f"Sent to the loop of {found.app}, which tries it on live traffic. `staytrue log --follow` tells of it."
        )
    elif delivered is None:
        screen.say(
            "The champion is this code already." if base else "There is nothing to release yet: `staytrue fetch` first."
        )
    else:
        screen.say(delivered.sentence, style="green" if delivered.promoted else "yellow")
    return 0 if delivered is None or delivered.promoted else 1


def _sent(
    place: Bench, base: Base | None, found: Checked, args: argparse.Namespace
) -> tuple[dict[str, Any] | None, Any]:
    """The order to the loop, or what became of the delivery by hand; neither where there is nothing to send."""
    if found.candidate is None:
        return None, None
    if alive(place.store.root, found.app) and not args.now:
        code = found.proposal.code
        order = ask(place.store.ledger, found.app, "deploy", by=who(), now=datetime.now(UTC), code=code, why=args.why)
        return order.document(), None
    steps = deliver_candidate(found.candidate, base, now=args.now)
    return None, drive({"deploy": steps}, place.pool)["deploy"]
