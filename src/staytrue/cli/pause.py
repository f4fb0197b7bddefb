"""`staytrue pause`: the loop begins nothing until `staytrue resume`."""

from __future__ import annotations

import argparse

from staytrue.cli import order
from staytrue.cli.screen import Screen
from staytrue.loop.orders import needless, will
from staytrue.store.store import open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    order.arguments(parser)


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Pausing what is paused writes nothing."""
    store = open_store(args.store, must_exist=True)
    app = store.app(args.name)
    why_not = needless(store.ledger, app, "pause")
    if why_not is not None:
        return order.tell(store, app, screen, why_not, order=None)
    return order.place(store, args, screen, "pause", will(app, "pause"))
