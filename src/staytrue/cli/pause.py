"""`staytrue pause`: the loop begins nothing until `staytrue resume`."""

from __future__ import annotations

import argparse

from staytrue.cli import order
from staytrue.cli.screen import Screen
from staytrue.loop.orders import paused
from staytrue.store.store import open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    order.arguments(parser)


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Pausing what is paused writes nothing."""
    store = open_store(args.store, must_exist=True)
    app = store.app(args.name)
    if paused(store.ledger, app):
        return order.tell(store, app, screen, f"The loop of {app} is paused already.", order=None)
    will = (
        f"The loop of {app} begins nothing new until `staytrue resume`. The champion goes on answering, and what makes "
        "errors is still stopped."
    )
    return order.place(store, args, screen, "pause", will)
