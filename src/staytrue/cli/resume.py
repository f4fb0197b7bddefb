"""`staytrue resume`: the loop goes on after `staytrue pause`."""

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
    """Resuming what goes on writes nothing."""
    store = open_store(args.store, must_exist=True)
    app = store.app(args.name)
    why_not = needless(store.ledger, app, "resume")
    if why_not is not None:
        return order.tell(store, app, screen, why_not, order=None)
    return order.place(store, args, screen, "resume", will(app, "resume"))
