"""`staytrue status`: is it right now? what changed? what is to blame? what happens next?"""

from __future__ import annotations

import argparse

from staytrue.cli.screen import Screen
from staytrue.loop.status import status
from staytrue.store.store import open_store

__all__ = ["arguments", "run"]

_STYLES = {"right": "green", "harmed": "red", "unknown": "yellow"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--name", help="the app, when the store holds several")
    parser.add_argument(
        "--at",
        choices=["now", "end"],
        default=None,
        help="judge as of now, or as of the last look (default: the last look if it was a replay's)",
    )


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when it is harmed."""
    store = open_store(args.store, must_exist=True)
    found = status(store, store.app(args.name), at=args.at)
    screen.document(found)
    champion = found["champion"]
    screen.say(f"{found['app']}: champion {champion['release'][:8] if champion else 'none'}", style="bold")
    screen.say(f"right now?   {found['right']['sentence']}", style=_STYLES[found["right"]["state"]])
    screen.say(f"changed?     {found['changed']['sentence']}")
    screen.say(f"to blame?    {found['blame']['sentence']}")
    screen.say(f"next?        {found['next']['sentence']}")
    return 1 if found["right"]["state"] == "harmed" else 0
