"""Order: how the verbs that ask something of the loop ask it, and tell what will come of it."""

from __future__ import annotations

import argparse
import getpass
from datetime import UTC, datetime
from pathlib import Path

from staytrue.app import load
from staytrue.cli.screen import Screen
from staytrue.errors import InvalidInput, StaytrueError
from staytrue.kernel.release import Digest
from staytrue.loop.lease import alive
from staytrue.loop.orders import What, ask
from staytrue.settings import setting
from staytrue.store.store import Store

__all__ = ["app_of", "arguments", "home_of", "place", "tell", "who"]


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


def app_of(store: Store, args: argparse.Namespace) -> str:
    """The app that is meant: by name, the only one there is, or that of the file at hand.

    Raises:
        NotFound: ST471.    InvalidInput: ST472, there are several, and the file at hand is broken, gone, or of none of them.
    """
    try:
        return store.app(args.name)
    except InvalidInput:
        try:
            loaded, _ = load(setting("app", args.app))
        except StaytrueError:
            loaded = None
        if loaded is None or loaded.name not in store.apps():
            raise
        return loaded.name


def home_of(args: argparse.Namespace) -> Path:
    """The user's folder, whether or not the app's file is there."""
    path = Path(setting("app", args.app).partition(":")[0]).absolute()
    folder = path if path.is_dir() else path.parent
    return folder if folder.is_dir() else Path.cwd()


def who() -> str:
    """The person at this machine, as the log names them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name, as in many containers
        return "somebody"
