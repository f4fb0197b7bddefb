"""`staytrue why ID`: what a single prediction rests on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from staytrue.cli.screen import Screen
from staytrue.cli.times import moment
from staytrue.engines.process import ProcessPool
from staytrue.errors import InvalidInput
from staytrue.loop.jobs import drive
from staytrue.loop.why import DRAWS, key_columns, why
from staytrue.store.prediction import ARMS, Prediction, prediction_by_id, prediction_by_key
from staytrue.store.store import Store, open_store

__all__ = ["arguments", "run"]

_HEADINGS = {
    "asked": "asked",
    "release": "answered by",
    "training": "training",
    "moved": "moved by",
    "instead": "others",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument(
        "id", nargs="?", help="of a prediction, from the answer's `ids`; the first 8 digits may be enough"
    )
    parser.add_argument(
        "--key", metavar="VALUE", help="instead: the key of the row that was asked about; the newest one"
    )
    parser.add_argument("--since", metavar="TIME", help="with --key: look at predictions from then on only")
    parser.add_argument("--arm", choices=list(ARMS), help="the answer of this arm, where several answered")
    parser.add_argument("--name", help="the app, when the store holds several")
    parser.add_argument(
        "--draws", type=int, default=DRAWS, help=f"rows of training whose values are tried; 0: none (default: {DRAWS})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of these rows (default: 0)")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 3 when there is no such prediction."""
    if (args.id is None) == (args.key is None):
        raise InvalidInput(
            "ST977", "Say which prediction: `staytrue why ID`, or `staytrue why --key VALUE` with the key of its row."
        )
    store = open_store(args.store, must_exist=True)
    try:
        app = store.app(args.name)
        prediction = _found(store, app, args)
        with ProcessPool(store.work / "jobs") as pool, screen.busy("asking the releases"):
            steps = why(store, app, prediction, home=Path.cwd(), draws=args.draws, seed=args.seed)
            document = drive({"why": steps}, pool)["why"]
    finally:
        store.close()
    screen.document(document)
    _say(document, screen)
    return 0


def _found(store: Store, app: str, args: argparse.Namespace) -> Prediction:
    arm = ARMS.get(args.arm)
    if args.key is not None:
        return prediction_by_key(store, app, key_columns(store, app), args.key, since=moment(args.since), arm=arm)
    return prediction_by_id(store, app, args.id, arm=arm)


def _say(document: dict[str, Any], screen: Screen) -> None:
    width = max(map(len, _HEADINGS.values()))
    for name, heading in _HEADINGS.items():
        section = document[name]
        for place, sentence in enumerate(section["sentences"] if section else ()):
            screen.say(f"{'' if place else heading:<{width}}  {sentence}")
