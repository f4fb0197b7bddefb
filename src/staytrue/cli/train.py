"""`staytrue train`: train now, through the same gates."""

from __future__ import annotations

import argparse

from staytrue.cli.screen import Screen
from staytrue.engines.process import ProcessPool
from staytrue.errors import InvalidInput
from staytrue.loop.context import open_context
from staytrue.loop.deliver import train_by_hand
from staytrue.loop.jobs import drive
from staytrue.loop.past import Past

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--now", action="store_true", help="make it champion without a trial")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when the gate kept it out."""
    ctx = open_context(args.app, args.store)
    if ctx.app.is_service:
        raise InvalidInput(
            "ST871",
            f"{ctx.app.name} is a plain service: there is nothing to train. `staytrue deploy` makes a release of its code.",
            app=ctx.app.name,
        )
    with ProcessPool(ctx.store.work / "jobs") as pool, screen.busy("training"):
        done, trained = drive({"train": train_by_hand(ctx, Past.whole(ctx), now=args.now)}, pool)["train"]
    screen.document(
        {
            "trained": trained.ran,
            "model": trained.model,
            "recipe": trained.recipe,
            "delivered": done.document() if done else None,
        }
    )
    how = (
        f"Trained model {trained.model[:8]} on {trained.rows:,} rows."
        if trained.ran
        else f"Nothing to train: this recipe gave model {trained.model[:8]} before."
    )
    screen.say(how)
    if done is None:
        screen.say("The champion is this code and this model already.")
        return 0
    screen.say(done.sentence, style="green" if done.promoted else "yellow")
    return 0 if done.promoted else 1
