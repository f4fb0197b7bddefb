"""`staytrue check`: what CI runs on a change: tests, contract, backtest and logged requests against the champion."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from staytrue.app import located
from staytrue.cli.screen import Screen
from staytrue.cli.times import moment
from staytrue.dashboard.report import report
from staytrue.engines.process import ProcessPool
from staytrue.errors import InvalidInput, NotFound, StaytrueError
from staytrue.loop.check import REQUESTS, check
from staytrue.loop.checked import Base, Checked
from staytrue.loop.deploy import base_of_release, base_of_revision
from staytrue.loop.jobs import drive
from staytrue.loop.proposal import Proposal, described_context, of_folder
from staytrue.settings import setting
from staytrue.store.store import Store, open_store

__all__ = ["Bench", "arguments", "bench", "champion_base", "checked", "limits", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--against", metavar="REV", help="a release or a git revision (default: the champion)")
    parser.add_argument("--since", metavar="WHEN", help="without a store: ask the sources for rows from then on")
    parser.add_argument("--until", metavar="WHEN", help="without a store: and up to then (default: now)")
    limits(parser)


def limits(parser: argparse.ArgumentParser) -> None:
    """Flags that every check has."""
    parser.add_argument(
        "--requests",
        type=int,
        default=REQUESTS,
        metavar="N",
        help=f"logged requests to ask of both (default: {REQUESTS})",
    )
    parser.add_argument("--again", action="store_true", help="don't go by what an earlier check of the same code found")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when a step failed."""
    with bench(args) as place, screen.busy("checking"):
        base = _base(place, args.against)
        done = checked(place, base, args, screen)
    document = done.document()
    screen.document(document)
    screen.say(report(document).rstrip("\n"))
    return 0 if done.passed else 1


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a check is made with: the app's file, a store, the present code kept in it, and where jobs run."""

    file: Path
    store: Store
    scratch: bool
    """The store was made for this check, and goes with it."""
    proposal: Proposal
    pool: ProcessPool


@contextmanager
def bench(args: argparse.Namespace, *, scratch: bool = True) -> Iterator[Bench]:
    """The store; where there is none, one that lasts as long as the check, or (without `scratch`) a new one."""
    file, _ = located(setting("app", args.app))
    root = Path(setting("store", args.store)).absolute()
    there = not scratch or (root / "ledger.db").exists()
    with tempfile.TemporaryDirectory(prefix="staytrue-check-", ignore_cleanup_errors=True) as folder:
        store = open_store(root if there else Path(folder) / "store")
        try:
            proposal = of_folder(store, file)
            with ProcessPool(store.work / "jobs") as pool:
                yield Bench(file=file, store=store, scratch=not there, proposal=proposal, pool=pool)
        finally:
            store.close()


def checked(place: Bench, base: Base | None, args: argparse.Namespace, screen: Screen) -> Checked:
    """What the check of the present code found."""
    if args.requests < 0:
        raise InvalidInput("ST844", f"--requests is {args.requests}; expected 0 or more.")
    steps = check(
        place.store,
        place.proposal,
        base,
        now=datetime.now(UTC),
        since=moment(getattr(args, "since", None)),
        until=moment(getattr(args, "until", None)),
        requests=args.requests,
        scratch=place.scratch,
        again=args.again,
        moved=lambda name: screen.note(f"{name} ..."),
    )
    return drive({"check": steps}, place.pool)["check"]


def _base(place: Bench, against: str | None) -> Base | None:
    if against is None:
        return champion_base(place)
    try:
        release = place.store.release(against)
    except NotFound:
        steps = base_of_revision(place.store, against, place.file)
    else:
        steps = base_of_release(release, place.file.parent)
    return drive({"base": steps}, place.pool)["base"]


def champion_base(place: Bench) -> Base | None:
    """The champion of the app that the present code declares; None before the first one, or where the code does not import."""
    if not place.store.apps():
        return None
    try:
        described = described_context(place.store, place.proposal.code, home=place.file.parent)
        name = drive({"app": described}, place.pool)["app"].app.name
    except StaytrueError:
        # The check itself says it better: its first step is this import.
        known = place.store.apps()
        name = known[0] if len(known) == 1 else ""
    champion = place.store.champion(name) if name in place.store.apps() else None
    return drive({"base": base_of_release(champion, place.file.parent)}, place.pool)["base"] if champion else None
