"""`staytrue blame GOOD BAD`: which change made it worse, found by re-running mixtures of the two; `--apply` repairs it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from staytrue.cli.order import who
from staytrue.cli.screen import Screen
from staytrue.cli.times import moment
from staytrue.engines.process import ProcessPool
from staytrue.errors import Conflict, InvalidInput, NotFound, StaytrueError
from staytrue.kernel.duration import duration
from staytrue.loop.blame import Asked, blame, known, rising_since
from staytrue.loop.deliver import Delivered
from staytrue.loop.jobs import Steps, drive
from staytrue.loop.repairing import repaired, set_guilty_parts_apart
from staytrue.loop.revert import hand_over
from staytrue.settings import setting
from staytrue.store.ledger import LIVE
from staytrue.store.store import KeptRelease, Store, open_store

__all__ = ["arguments", "run"]

_TRAININGS = 12
_WIDTH = 24


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument(
        "good", nargs="?", metavar="GOOD", help="the release that was right (default: the one before the champion)"
    )
    parser.add_argument("bad", nargs="?", metavar="BAD", help="the one that got worse (default: the champion)")
    parser.add_argument("--apply", action="store_true", help="make the repaired release and send it through the trial")
    parser.add_argument("--now", action="store_true", help="with --apply: make it champion without a trial")
    parser.add_argument(
        "--budget",
        nargs="+",
        default=[],
        metavar="N",
        help=f"so many trainings at most (default: {_TRAININGS}), or so long, such as 10m; or both",
    )
    parser.add_argument(
        "--rows", type=int, default=2000, metavar="N", help="the newest labelled rows that are asked (2000)"
    )
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="ask no older rows than these (default: from when on the loss rose, where a harm alarm stands open)",
    )


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when the budget ended first, or the gate kept the repair out."""
    store = open_store(args.store, must_exist=True)
    good, bad = _sides(store, args.good, args.bad)
    trainings, seconds = _budget(args.budget)
    if args.rows < 1:
        raise InvalidInput("ST812", f"--rows: got {args.rows}, expected 1 or more.", got=args.rows)
    since = moment(args.since) if args.since else rising_since(store, bad.release.app, bad.id)
    asked = Asked(good=good.id, bad=bad.id, trainings=trainings, rows=args.rows, since=since)
    report = known(store, asked)
    if report is None:
        report = _found(store, asked, args, screen, seconds)
    _show(report, screen)
    if not args.apply:
        screen.document(report)
        return 1 if report["outcome"] == "unknown" else 0
    done = _applied(store, asked, report, args, screen)
    screen.document({**report, "applied": done.document()})
    screen.say(done.sentence, style="green" if done.promoted else "yellow")
    return 0 if done.promoted or done.verdict == "ordered" else 1


def _applied(
    store: Store, asked: Asked, report: Mapping[str, Any], args: argparse.Namespace, screen: Screen
) -> Delivered:
    champion = store.champion(report["app"])
    if champion is None or champion.id != asked.bad:
        held = champion.id[:8] if champion else "nobody"
        text = f"--apply repairs the champion, and that is {held}, not {asked.bad[:8]}. Blame {held}, or `staytrue revert`."
        raise Conflict("ST815", text, champion=champion.id if champion else None, bad=asked.bad)

    def steps() -> Steps[Delivered]:
        made = yield from repaired(store, asked, report, home=_home(args))
        set_guilty_parts_apart(made.ctx, report, by=who())
        return (
            yield from hand_over(
                made.ctx,
                made.release,
                made.refs,
                kind="repaired",
                why=made.why,
                now=args.now,
                about={"blame": report["sentence"]},
            )
        )

    with ProcessPool(store.work / "jobs") as pool, screen.busy("making the repaired release"):
        return drive({"apply": steps()}, pool)["apply"]


def _home(args: argparse.Namespace) -> Path:
    """The user's own folder; what stands in it need not import."""
    return Path(setting("app", args.app).partition(":")[0]).absolute().parent


def _found(
    store: Store, asked: Asked, args: argparse.Namespace, screen: Screen, seconds: float | None
) -> Mapping[str, Any]:
    began = time.monotonic()
    with ProcessPool(store.work / "jobs") as pool, screen.busy("re-running mixtures of the two"):
        steps = blame(
            store,
            asked,
            home=_home(args),
            over=lambda: seconds is not None and time.monotonic() - began > seconds,
            say=lambda said: screen.note(f"{time.monotonic() - began:5.1f} s  {said}"),
        )
        return drive({"blame": steps}, pool)["blame"]


def _sides(store: Store, good: str | None, bad: str | None) -> tuple[KeptRelease, KeptRelease]:
    after = store.release(bad) if bad else store.champion()
    if after is None:
        raise NotFound("ST813", "There is no champion yet, and so nothing to blame. `staytrue log` lists releases.")
    if good:
        return store.release(good), after
    previous = store.ledger.role(after.release.app, LIVE, "previous")
    named = previous.release if previous and previous.release else next(iter(after.release.parents), None)
    if named is None:
        raise NotFound(
            "ST813",
            f"{after.id[:8]} is the first release: say which was good. `staytrue log` lists releases.",
            bad=after.id,
        )
    return store.release(str(named)), after


def _budget(words: Sequence[str]) -> tuple[int, float | None]:
    trainings, seconds = _TRAININGS, None
    for word in words:
        if word.isdigit():
            trainings = int(word)
            continue
        try:
            seconds = duration(word).total_seconds()
        except (StaytrueError, ValueError) as exc:
            text = f"--budget: got {word!r}, expected a number of trainings (12) or a time (10m)."
            raise InvalidInput("ST812", text, got=word) from exc
    return trainings, seconds


# ---------------------------------------------------------------- to look at


def _show(report: Mapping[str, Any], screen: Screen) -> None:
    loss = report["loss"]
    screen.say(report["sentence"], style="bold red" if report["outcome"] == "changes" else "bold")
    for sentence in report["more"]:
        screen.say(f"  {sentence}")
    screen.say()
    screen.say(
        f"What each change taken back alone would win a row, of {loss['bad']:.4g} {loss['metric']} on {loss['rows']:,} labelled "
        f"rows of {loss['since'][:10]} .. {loss['until'][:10]}:"
    )
    _figure(report, screen)
    trainings, mixtures = report["trainings"], report["mixtures"]
    screen.say(f"{mixtures} mixtures, {trainings} training{'' if trainings == 1 else 's'}.", style="dim")
    screen.say(f"next: {report['next']}")


def _figure(report: Mapping[str, Any], screen: Screen) -> None:
    """A bar for each change, from nothing to what it wins (left of | what it costs), and the interval."""
    chosen = {(change["axis"], change["how"]) for change in report["changes"]}
    rows = [_row(single, chosen, report) for single in report["singles"]]
    rows += [_row(step, chosen, report) for step in report["steps"] if len(step["changes"]) > 1]
    if report["all_back"] and len(rows) > 1:
        rows.append(_row(report["all_back"] | {"whole": True}, chosen, report))
    widest = max((abs(row[1]) for row in rows if row[1] is not None), default=0.0) or 1.0
    shown = []
    for name, mean, interval, share in rows:
        if mean is None:
            shown.append([name, "", "", interval, ""])
            continue
        cells = round(_WIDTH * abs(mean) / widest)
        shown.append(
            [name, ("█" * cells or "·") if mean >= 0 else "-" * max(1, cells), f"{mean:+.3g}", interval, share]
        )
    screen.table(["change", "", "wins", "95 %", "share of the rise"], shown, right=["wins"])


def _row(
    single: Mapping[str, Any], chosen: set[tuple[str, str]], report: Mapping[str, Any]
) -> tuple[str, float | None, str, str]:
    (axis, how), *more = single["changes"]
    name = "all taken back" if single.get("whole") else ", ".join(f"{axis} {how}" for axis, how in single["changes"])
    name = "code back" if name == "serving code back, training code back" else name
    mark = "> " if (axis, how) in chosen and not single.get("whole") else "  "
    if "fails" in single:
        return mark + name, None, f"does not run: {single['fails'][:60]}", ""
    share = report["shares"].get(axis) if how == "back" and not more and not single.get("whole") else None
    told = "" if share is None else f"{share:+.3g}{' ~' if report['estimated'] else ''}"
    return mark + name, single["gain"], f"{single['low']:+.3g} .. {single['high']:+.3g}", told
