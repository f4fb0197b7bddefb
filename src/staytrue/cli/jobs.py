"""`staytrue jobs`: what runs, what ran, and what it printed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from staytrue.cli.screen import Screen
from staytrue.loop.job_list import job_document, jobs_document
from staytrue.store.store import open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("job", nargs="?", metavar="ID", help="one of them, with what it printed")
    parser.add_argument("--name", help="the app, when the store holds several")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Jobs that run first, then those that ended, the newest first."""
    store = open_store(args.store, must_exist=True)
    app, now = store.app(args.name), datetime.now(UTC)
    if args.job:
        one = job_document(store, app, args.job, now=now)
        screen.document(one)
        _say(one, screen)
        for text in (one["output"], one.get("traceback")):
            if text:
                screen.say(text)
        return 0
    found = jobs_document(store, app, now=now)
    screen.document(found)
    for one in found["running"]:
        _say(one, screen)
    for one in found["ended"]:
        _say(one, screen)
    if not found["running"]:
        screen.note("No job runs. `staytrue log --timeline trainings` has every training.")
    return 0


def _say(one: Mapping[str, Any], screen: Screen) -> None:
    took = "" if one["seconds"] is None else f" after {one['seconds']:.1f} s"
    purpose = f" ({one['purpose']})" if one["purpose"] else ""
    progress = one.get("progress")
    if one["status"] == "running":
        took = f" for {one['seconds']:.0f} s" + (
            f", {progress['done']:g} of {progress['total']:g} {progress['doing']}" if progress else ""
        )
    said = f": {one['said']}" if one.get("said") else ""
    style = {"running": "bold", "done": "green"}.get(one["status"], "red")
    screen.say(f"{one['id']}  {one['what']}{purpose}: {one['status']}{took}{said}", style=style)
