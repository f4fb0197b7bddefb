"""`staytrue undo`: take back what the loop decided last by itself."""

from __future__ import annotations

import argparse

from staytrue.cli import order
from staytrue.cli.screen import Screen
from staytrue.engines.process import ProcessPool
from staytrue.loop.context import Context, open_context
from staytrue.loop.jobs import drive
from staytrue.loop.lease import alive
from staytrue.loop.revert import context_of
from staytrue.loop.undo import Decision, Undone, foretold, meant, undo_data, undo_roles
from staytrue.store.store import Store, open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument(
        "event",
        nargs="?",
        metavar="EVENT",
        help="which decision, by the id of its event (default: the last one). That of an `undone` event: do it after all",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, and change nothing")
    order.arguments(parser)


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 3 when there is nothing to undo, 4 when something else has overtaken it, 1 when a window stays in quarantine."""
    store = open_store(args.store, must_exist=True)
    app = order.app_of(store, args)
    found = meant(store, app, args.event)
    if args.dry_run:
        sentences = (*foretold(store, app, found), *_before(found))
        screen.document({"app": app, "dry_run": True, "decision": found.document(), "sentences": sentences})
        for sentence in sentences:
            screen.say(sentence)
        return 0
    done = _done(store, app, found, args)
    screen.document({"app": app, "dry_run": False, "decision": found.document(), "undone": done.document()})
    screen.say(found.told)
    screen.say(done.sentence, style="green" if done.new else None)
    for why in done.kept_out:
        screen.say(f"  {why}", style="yellow")
    if done.new and found.about == "champion" and not alive(store.root, app):
        screen.note(
            f"No controller of {app} is alive: whoever serves it follows at once, the loop as soon as it lives."
        )
    screen.note(f"`staytrue undo {done.event}` takes this back.")
    return 1 if done.kept_out else 0


def _before(found: Decision) -> list[str]:
    if found.done is None:
        return []
    return [
        f"It was undone before, {found.done.at:%Y-%m-%d %H:%M} UTC: nothing would be changed. {found.done.sentence}"
    ]


def _done(store: Store, app: str, found: Decision, args: argparse.Namespace) -> Undone:
    by, why = order.who(), args.why
    if found.about == "champion":
        return undo_roles(store, app, found, by=by, why=why)
    return undo_data(_context(store, app, args), found, by=by, why=why)


def _context(store: Store, app: str, args: argparse.Namespace) -> Context:
    """The app as its champion has it; before there is one, as it stands in the folder."""
    champion = store.champion(app)
    if champion is None:
        return open_context(args.app, args.store)
    with ProcessPool(store.work / "jobs") as pool:
        return drive({"app": context_of(store, [champion], home=order.home_of(args))}, pool)["app"]
