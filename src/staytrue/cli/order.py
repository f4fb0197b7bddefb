"""Order: how the verbs that ask something of the loop ask it, and tell what will come of it."""

from __future__ import annotations

import argparse
import getpass
from datetime import UTC, datetime

from staytrue.cli.screen import Screen
from staytrue.kernel.release import Digest
from staytrue.loop.lease import alive
from staytrue.loop.orders import What, ask
from staytrue.store.store import Store

__all__ = ["arguments", "place", "tell", "who"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that all of them have."""
    parser.add_argument("--name", help="the app, when the store holds several")
    parser.add_argument("--why", metavar="TEXT", help="the reason, for the log")


def place(
    store: Store, args: argparse.Namespace, screen: Screen, what: What, will: str, *, release: Digest | None = None
) -> int:
    """Write the order down and say what will happen: exit code 0, it is kept even where nobody lives to act on it."""
    app = store.app(args.name)
    order = ask(store.ledger, app, what, by=who(), now=datetime.now(UTC), release=release, why=args.why)
    return tell(store, app, screen, will, order=order.document())


def tell(store: Store, app: str, screen: Screen, will: str, *, order: dict[str, object] | None) -> int:
    """What comes of an order, or why none was needed."""
    lives = alive(store.root, app)
    screen.document({"app": app, "order": order, "controller_alive": lives, "sentence": will})
    screen.say(will)
    if order is not None and not lives:
        screen.note(f"No controller of {app} is alive: the order is kept, and acted on as soon as `staytrue up` runs.")
    return 0


def who() -> str:
    """The person at this machine, as the log names them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name, as in many containers
        return "somebody"
