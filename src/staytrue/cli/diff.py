"""`staytrue diff A B`: two releases compared."""

from __future__ import annotations

import argparse
from typing import Any

from staytrue.cli.screen import Screen
from staytrue.loop.diff import compared
from staytrue.store import code
from staytrue.store.store import open_store

__all__ = ["arguments", "run"]

_MOVED = 5
_STILL = 0.02


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("a", metavar="A", help="a release; the beginning of its id is enough, or the word champion")
    parser.add_argument("b", metavar="B", nargs="?", help="another one (default: the champion)")
    parser.add_argument("--text", action="store_true", help="show the changed lines of code too")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """On which axes they differ, and how."""
    store = open_store(args.store, must_exist=True)
    a = store.release(args.a)
    b = store.release(args.b) if args.b else store.champion(a.release.app)
    found = compared(store, a, b or a)
    screen.document(found)
    differs = ", ".join(found["axes"]) or "nothing"
    screen.say(f"{a.id[:8]} -> {(b or a).id[:8]} differ in: {differs}", style="bold")
    for sentence in found["sentences"]:
        screen.say(f"  {sentence}")
    for change, paths in found["code"]["files"].items():
        for path in paths:
            screen.say(f"  {change:<8} {path}")
            if args.text and change == "changed":
                screen.say(code.text_diff(store.objects, a.release.code, (b or a).release.code, path))
    for source, differs_ in found["data"].items():
        _show_table(screen, source, differs_)
    return 0


def _show_table(screen: Screen, source: str, differs: dict[str, Any]) -> None:
    rows = differs["rows"]
    counts = ", ".join(f"{rows[what]:,} {what}" for what in ("added", "removed", "changed") if rows[what])
    screen.say(f"  {source}: {rows['a']:,} -> {rows['b']:,} rows ({counts or 'the same rows'})")
    for change, columns in differs["schema"].items():
        if columns:
            screen.say(f"    columns {change}: {', '.join(columns)}")
    columns = {name: c for name, c in differs["columns"].items() if name not in differs["roles"]}
    moved = sorted(columns.items(), key=lambda item: -item[1]["moved"])
    shown = [f"{name} {distance['moved']:.2f}" for name, distance in moved[:_MOVED] if distance["moved"] > _STILL]
    if shown:
        screen.say(f"    moved most (0 = not at all, 1 = all of it): {', '.join(shown)}")
