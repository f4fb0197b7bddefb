"""`staytrue show ID`: one release, one event or one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from staytrue.cli.screen import Screen
from staytrue.engines.process import ProcessPool
from staytrue.kernel.release import Release
from staytrue.loop.context import release_context
from staytrue.loop.jobs import drive
from staytrue.loop.past import Past
from staytrue.loop.segments import release_report
from staytrue.loop.show import shown
from staytrue.store.store import Store, open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("id", help="of a release, an event or a table; the beginning is enough. Or the word champion")
    parser.add_argument(
        "--segments",
        action="store_true",
        help="of a release: ask its model about the newest labelled rows, and tell how each segment does",
    )


def run(args: argparse.Namespace, screen: Screen) -> int:
    """What it is made of, and what happened to it."""
    store = open_store(args.store, must_exist=True)
    found = shown(store, args.id)
    if args.segments and found["kind"] == "release":
        found["segments"] = _segments(store, store.release(found["id"]).release, screen)
    screen.document(found)
    for name, value in found.items():
        if name == "events":
            screen.say("events")
            for event in value:
                screen.event(event["at"][:10], event["kind"], event["sentence"])
        elif name == "gone":
            for sentence in value:
                screen.say(sentence, style="yellow")
        elif name in ("training_data", "segments"):
            _say(screen, name, value)
        else:
            screen.say(f"{name:<14} {_short(value)}")
    return 0


def _segments(store: Store, release: Release, screen: Screen) -> dict[str, Any] | None:
    """How the release does by segment; None for a plain service."""
    if release.is_service:
        return None
    ctx = release_context(store, release, Path.cwd())
    with ProcessPool(store.work / "jobs") as pool, screen.busy("asking the model"):
        return drive({"segments": release_report(Past.whole(ctx), release)}, pool)["segments"]


def _say(screen: Screen, name: str, value: dict[str, Any] | None) -> None:
    sentences = value["sentences"] if value else []
    screen.say(f"{name.replace('_', ' '):<14} {sentences[0] if sentences else '-'}")
    for sentence in sentences[1:]:
        screen.say(f"{'':<14} {sentence}")


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(_short(v) for v in value) or "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
