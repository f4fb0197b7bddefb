"""`staytrue reject`: take the challenger off trial; the champion stays."""

from __future__ import annotations

import argparse

from staytrue.cli import order
from staytrue.cli.screen import Screen
from staytrue.loop.orders import challenger, will
from staytrue.store.store import open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument(
        "release", nargs="?", metavar="RELEASE", help="the challenger that is meant (default: whichever it is)"
    )
    order.arguments(parser)


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 3 when nobody is on trial, 4 when another release is."""
    store = open_store(args.store, must_exist=True)
    wanted = store.release(args.release).id if args.release else None
    app = store.app(args.name)
    found = challenger(store.ledger, app, wanted)
    return order.place(store, args, screen, "reject", will(app, "reject", found), release=found)
