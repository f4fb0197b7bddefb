"""`staytrue replay`: policies side by side over the past."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from staytrue.cli.screen import Screen
from staytrue.cli.times import moment
from staytrue.dashboard.chart import replay_chart
from staytrue.errors import InvalidInput
from staytrue.loop.context import open_context
from staytrue.loop.replay import replay
from staytrue.store.durable import disk

__all__ = ["arguments", "draw", "run", "show_policies", "show_timeline"]

USUAL = ("payback", "never", "every:7d", "every:28d")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument(
        "--policy", action="append", metavar="SPEC", help=f"may stand several times (default: {', '.join(USUAL)})"
    )
    parser.add_argument(
        "--since", metavar="TIME", help="first day to live through (default: when a fifth of the rows is history)"
    )
    parser.add_argument("--until", metavar="TIME", help="where to stop (default: the end of what was fetched)")
    parser.add_argument(
        "--timeline", action="store_true", help="show what happened under each policy, not only the first"
    )
    parser.add_argument("--chart", metavar="FILE", help="draw it as an SVG picture into this file")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """The table of policies, and what happened under the first one. Exit code 1 when a policy's loss is not known."""
    ctx = open_context(args.app, args.store)
    policies = args.policy or ["app" if ctx.app.retraining else ctx.app.settings.retrain, *USUAL]
    if ctx.app.is_service:
        raise InvalidInput(
            "ST872", f"{ctx.app.name} is a plain service: it has no rows, hence no past to replay.", app=ctx.app.name
        )
    with screen.bars() as bars:
        found = replay(ctx, policies, since=moment(args.since), until=moment(args.until), moved_on=bars.moved)
    screen.document(found)
    draw(screen, found, args.chart)
    shown = [p["policy"] for p in found["policies"]] if args.timeline else [found["policies"][0]["policy"]]
    show_timeline(screen, found, shown)
    show_policies(screen, found)
    return 1 if any(p["loss"] is None for p in found["policies"]) else 0


def draw(screen: Screen, found: dict[str, Any], file: str | None) -> None:
    """Write the picture, when one is wanted.

    Raises:
        Unavailable: ST402, ST403: the file can't be written.
    """
    if file is None:
        return
    with disk(f"write the chart {file!r}"):
        Path(file).write_text(replay_chart(found), encoding="utf-8")
    screen.note(f"The chart is {file}.")


def show_timeline(screen: Screen, found: dict[str, Any], policies: list[str]) -> None:
    """What happened, line by line."""
    for entry in found["timeline"]:
        if entry["policy"] in policies and entry["kind"] != "looked":
            who = entry["policy"] if len(policies) > 1 else ""
            screen.event(entry["at"][:10], entry["kind"], entry["sentence"], who=who)


def show_policies(screen: Screen, found: dict[str, Any]) -> None:
    """The policies, cheapest first."""
    cheapest = min(p["cost"] for p in found["policies"])
    rows = [
        [
            p["policy"],
            "" if p["loss"] is None else f"{p['loss']:.4g}",
            f"{p['loss_interval'][0]:.4g} .. {p['loss_interval'][1]:.4g}" if p["loss_interval"] else "",
            p["retrains"],
            p["trained"],
            p["promoted"],
            p["rejected"],
            p["bad_days"],
            f"{p['cost']:,.0f}",
            f"{p['cost'] / cheapest:.2f}" if cheapest else "",
            f"{p['seconds']:.1f}",
        ]
        for p in sorted(found["policies"], key=lambda p: p["cost"])
    ]
    columns = [
        "policy",
        "loss",
        "95 % interval",
        "retrains",
        "trained",
        "promoted",
        "rejected",
        "bad days",
        "cost",
        "x best",
        "s",
    ]
    screen.say()
    screen.say(f"{found['rows']:,} rows, {found['since'][:10]} .. {found['until'][:10]}")
    screen.table(columns, rows, right=columns[1:])
