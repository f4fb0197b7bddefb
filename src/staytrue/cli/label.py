"""`staytrue label`: which predictions to label next, and labels from a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from staytrue.cli.screen import Screen
from staytrue.errors import InvalidInput
from staytrue.kernel.duration import duration, spell
from staytrue.loop.label import Draft, Standing, Taken, awaited, draw, judge_of, standing, take
from staytrue.store.store import Store, open_store

__all__ = ["arguments", "run"]

_SHOWN = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--name", help="the app, when the store holds several")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--next", type=int, metavar="N", help="draw N predictions without a label, to be labelled")
    what.add_argument(
        "--awaited", action="store_true", help="the rows that were drawn and have no label yet, once more"
    )
    what.add_argument(
        "--from",
        dest="source",
        metavar="FILE",
        help="take labels in: CSV or JSON lines with `id` and `label`; - for stdin",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where rows are written: .jsonl, else CSV (default: stdout)"
    )
    parser.add_argument("--span", default="7d", help="how far back predictions are looked at (default: 7d)")
    parser.add_argument("--seed", type=int, help="for a draw that can be repeated")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when a line of a file was refused."""
    store = open_store(args.store, must_exist=True)
    try:
        return _run(store, args, screen)
    finally:
        store.close()


def _run(store: Store, args: argparse.Namespace, screen: Screen) -> int:
    app, now, span = store.app(args.name), datetime.now(UTC), duration(args.span, what="--span")
    judge, lacks = judge_of(store, app, args.app)
    if lacks:
        screen.note(lacks)
    if args.source is not None:
        taken = take(store, app, _bytes(args.source), now=now, judge=judge, source=Path(args.source).name)
        screen.document({"app": app, **taken.document()})
        _say_taken(taken, screen)
        return 1 if taken.problems else 0
    if args.next is not None or args.awaited:
        if args.out is not None and args.out.exists():
            raise InvalidInput(
                "ST948",
                f"{args.out} is there already, and may hold labels: give another name, or remove it.",
                path=str(args.out),
            )
        if args.awaited:
            _hand_out(awaited(store, app, now=now, span=span), args.out, screen)
        else:
            _hand_out(draw(store, app, args.next, now=now, span=span, judge=judge, seed=args.seed), args.out, screen)
        return 0
    found = standing(store, app, now=now, span=span, judge=judge)
    screen.document(found.document())
    _say_standing(found, span, screen)
    return 0


def _bytes(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as exc:
        raise InvalidInput("ST948", f"Can't read labels from {source}: {exc.strerror or exc}.", path=source) from exc


def _hand_out(draft: Draft, out: Path | None, screen: Screen) -> None:
    screen.document({"draw": draft.draw, "rows": draft.rows, "lines": draft.lines})
    written: Callable[[], str] = draft.jsonl if out is not None and out.suffix in (".jsonl", ".ndjson") else draft.csv
    if out is not None:
        try:
            out.write_text(written(), encoding="utf-8", newline="")
        except OSError as exc:
            raise InvalidInput(
                "ST948",
                f"Can't write {out}: {exc.strerror or exc}. `staytrue label --awaited` gives the rows again.",
                path=str(out),
            ) from exc
    elif not screen.as_json:
        sys.stdout.write(written())
    if draft.draw is not None:
        where = f"in {out}" if out else "above"
        screen.note(
            f"{len(draft.lines):,} of {draft.rows:,} predictions without a label are {where}: fill in `label`, then "
            f"`staytrue label --from {out or 'FILE'}`, or send them to POST /labels."
        )
    elif not draft.lines:
        screen.note(
            "There is nothing to label: no answered prediction of that time is without one, or all were drawn before."
        )


def _say_taken(taken: Taken, screen: Screen) -> None:
    fixed = f", {taken.corrected:,} of them corrections" if taken.corrected else ""
    left = f"; {taken.empty:,} lines have no label yet" if taken.empty else ""
    screen.say(f"{taken.accepted:,} labels taken{fixed}{left}.", style="green" if taken.accepted else "yellow")
    for one in taken.problems[:_SHOWN]:
        screen.say(f"  ST949 line {one.line}: {one.why}", style="yellow")
    if len(taken.problems) > _SHOWN:
        screen.say(f"  and {len(taken.problems) - _SHOWN:,} more lines; --json lists all", style="yellow")


def _say_standing(found: Standing, span: timedelta, screen: Screen) -> None:
    screen.say(
        f"{found.app}: {found.labelled:,} of {found.rows:,} predictions of the last {spell(span)} have a label",
        style="bold",
    )
    when = f"{found.newest_label_at:%Y-%m-%d %H:%M} UTC" if found.newest_label_at else "none yet"
    screen.say(f"awaited      {found.awaited:,} of {found.drawn:,} that were drawn; newest label {when}")
    if found.few is None:
        screen.say("loss         unknown: no label, or no metric at hand")
    else:
        best = found.few.best
        of = "a random sample" if found.sampled else f"{found.few.units:,} days of labels that came by themselves"
        screen.say(
            f"loss         {best.mean:.4g} a row ({best.lo:.4g} .. {best.hi:.4g}), from {found.few.rows:,} labels, {of}"
        )
    if found.half_width is not None and found.half_width_with_100 is not None:
        screen.say(f"100 more     would make +- {found.half_width:.3g} about +- {found.half_width_with_100:.3g}")
    screen.note("`staytrue label --next 100` draws rows to label.")
