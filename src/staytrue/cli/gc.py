"""`staytrue gc`: free what nothing refers to."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from staytrue.cli.screen import Screen
from staytrue.kernel.duration import duration, spell
from staytrue.settings import setting
from staytrue.store.gc import collect
from staytrue.store.store import open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--grace", metavar="SPAN", help="leave alone what is younger (default: 24h, or STAYTRUE_GRACE)")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and why the rest stays")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """What was condemned, what was deleted, and what stayed."""
    store = open_store(args.store, must_exist=True)
    grace = duration(setting("grace", args.grace), what="grace")
    report = collect(store.objects, store.ledger, now=datetime.now(UTC), grace=grace, dry_run=args.dry_run)
    screen.document(
        {
            "dry_run": args.dry_run,
            "kept": report.kept,
            "condemned": [str(d) for d in report.condemned],
            "deleted": [str(d) for d in report.deleted],
            "restored": [str(d) for d in report.restored],
            "freed_bytes": report.freed_bytes,
            "why": {str(d): why for d, why in report.why.items()},
            "blocked": list(report.blocked),
        }
    )
    would = "would be " if args.dry_run else ""
    screen.say(
        f"{report.kept:,} objects kept, {len(report.condemned):,} {would}moved to the trash, "
        f"{len(report.deleted):,} {would}deleted for good ({report.freed_bytes / 1e6:,.1f} MB)."
    )
    screen.say(
        f"Nothing younger than {spell(grace)} is touched; what is in the trash comes back when somebody needs it."
    )
    return 0
