"""`staytrue verify`: every object against its digest, every chain."""

from __future__ import annotations

import argparse

from staytrue.cli.screen import Screen
from staytrue.store.store import open_store
from staytrue.store.verify import verify

__all__ = ["arguments", "run"]


def arguments(_parser: argparse.ArgumentParser) -> None:
    """No flags of its own."""


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when something does not hold."""
    store = open_store(args.store, must_exist=True)
    total = sum(1 for _ in store.objects.list())
    with screen.bars() as bars:
        report = verify(store.objects, store.ledger, progress=lambda done, _bytes: bars.moved("verify", done, total))
    problems = [
        {"kind": p.kind, "digest": p.digest, "sentence": p.sentence, "releases": list(p.releases)}
        for p in report.problems
    ]
    screen.document({"ok": not problems, "objects": report.objects, "bytes": report.bytes, "problems": problems})
    for problem in report.problems:
        hurt = f" Releases hurt: {', '.join(r[:8] for r in problem.releases)}." if problem.releases else ""
        screen.say(f"{problem.kind}: {problem.sentence}{hurt}", style="red")
    if not problems:
        screen.say(
            f"All well: {report.objects:,} objects ({report.bytes / 1e6:,.1f} MB) equal their digests, and the chain holds.",
            style="green",
        )
    return 1 if problems else 0
