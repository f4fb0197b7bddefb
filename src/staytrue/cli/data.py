"""`staytrue data`: what is there of each source, what is in quarantine, and what is to become of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from staytrue.cli.order import who
from staytrue.cli.screen import Screen
from staytrue.errors import InvalidInput, NotFound
from staytrue.kernel.contract import SourceSpec
from staytrue.kernel.repair import Repair
from staytrue.loop.context import Context, open_context
from staytrue.loop.contracts import contract_of, edit_contract, effective, versions
from staytrue.loop.data import Decided, document, drop, held_back, part_document, release, repair, trust
from staytrue.loop.fetch import newest
from staytrue.loop.look import clock

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("source", nargs="?", help="which source (default: all, or the only one there is)")
    parser.add_argument("--part", metavar="WINDOW|ID", help="one window: its rows, and why it was refused")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--release", metavar="ID", help="let a window in quarantine into the table as it is")
    asked.add_argument("--drop", metavar="ID", help="never let it in, and don't ask for it again")
    asked.add_argument("--repair", metavar="ID", help="let it in with a repair, if the contract holds then")
    asked.add_argument("--contract", action="store_true", help="what is expected of the source, as JSON")
    parser.add_argument("--because", metavar="WORDS", help="the reason, for the log")
    mend = parser.add_argument_group("repairs")
    mend.add_argument("--scale", metavar="COLUMN=1/100", action="append", default=[], help="multiply a column")
    mend.add_argument("--swap", metavar="A,B", action="append", default=[], help="exchange two columns")
    mend.add_argument(
        "--fill", metavar="COLUMN=VALUE", action="append", default=[],
        help="a value where the column is null or missing; COLUMN=null makes all of it null",
    )  # fmt: skip
    mend.add_argument("--without-duplicates", action="store_true", help="of rows with one key the first stays")
    edit = parser.add_argument_group("contract")
    edit.add_argument("--versions", action="store_true", help="who changed the contract, when and why")
    edit.add_argument("--edit", metavar="FILE.json", type=Path, help="change the contract as the file says")
    edit.add_argument(
        "--set", metavar="COLUMN.TERM=VALUE", action="append", default=[], dest="terms",
        help="such as price.range=0..500, city.missing=0.1, window.rows=10..900; VALUE learned takes it back",
    )  # fmt: skip
    edit.add_argument(
        "--ignore", metavar="COLUMN=CODE", action="append", default=[],
        help="switch a check off for a column, such as price=ST241; window=CODE for the whole source",
    )  # fmt: skip


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 while a window is in quarantine that nobody decided about."""
    ctx = open_context(args.app, args.store)
    changes = args.edit or args.terms or args.ignore
    if not (args.part or args.release or args.drop or args.repair or args.contract or args.versions or changes):
        return _overview(ctx, args.source, screen)
    spec = _spec(ctx, args.source)
    if args.part:
        return _part(ctx, spec, args.part, screen)
    if args.release or args.drop or args.repair:
        return _decide(ctx, spec, args, screen)
    if changes:
        return _edit(ctx, spec, args, screen)
    return _versions(ctx, spec, screen) if args.versions else _contract(ctx, spec, screen)


# ---------------------------------------------------------------- what is there


def _overview(ctx: Context, source: str | None, screen: Screen) -> int:
    now = clock(ctx.store, ctx.app.name, datetime.now(UTC))
    specs = [_spec(ctx, source)] if source else [one.spec for one in ctx.app.sources.values()]
    told = document(ctx.store, ctx.app.name, specs, now=now)
    screen.document(told)
    found, back = told["sources"], told["held_back"]
    if not found:
        screen.say(f"{ctx.app.name} has no source: there is no data.")
    for one in found:
        screen.say(one["sentence"], style="red" if one["held"] else None)
        if one["since"]:
            gaps = f", {one['gaps']} windows missing between" if one["gaps"] else ""
            screen.say(f"  {one['since'][:10]} .. {one['until'][:10]}{gaps}; contract version {one['contract']}")
        _quarantine(one["quarantine"], screen, everything=source is not None)
    for one in back:
        if one["state"] == "held":
            screen.say(f"  {one['id'][:8]} held back from training: {one['sentence']}", style="red")
    return 1 if any(one["held"] for one in found) or any(one["state"] == "held" for one in back) else 0


def _quarantine(windows: list[dict[str, Any]], screen: Screen, *, everything: bool) -> None:
    shown = [one for one in windows if everything or one["state"] == "held"]
    for one in shown[-20:]:
        worst = next(b for b in one["breaches"] if b["severity"] == "refuse")
        likely = f" Likely: {worst['likely']}." if worst["likely"] else ""
        style = "red" if one["state"] == "held" else "dim"
        screen.say(
            f"  {one['id'][:8]} {one['since'][:16]} {one['state']:<8} {one['rows']:,} rows: {worst['code']} "
            f"{worst['sentence']}{likely}",
            style=style,
        )
    if len(shown) > 20:
        screen.say(f"  and {len(shown) - 20} earlier ones; --json lists all")


def _part(ctx: Context, spec: SourceSpec, which: str, screen: Screen) -> int:
    told = part_document(ctx, spec, which)
    screen.document({"app": ctx.app.name, **told})
    held = told["held"]
    state = f"in quarantine ({held['state']})" if held else "in the table"
    screen.say(
        f"{spec.name} {told['since'][:16]} .. {told['until'][:16]}: {told['rows']:,} rows, "
        f"{told['unlabelled']:,} without a label, {state}."
    )
    for breach in held["breaches"] if held else ():
        likely = f" Likely: {breach['likely']}." if breach["likely"] else ""
        screen.say(
            f"  {breach['code']} {breach['sentence']}{likely}",
            style="red" if breach["severity"] == "refuse" else "yellow",
        )
    if held and held["decision"]:
        screen.say(f"  {held['decision']['sentence']}")
    rows = [[name, column["kind"], column["nulls"], _shown(column)] for name, column in told["columns"].items()]
    screen.table(["column", "kind", "null", "holds"], rows, right=["null"])
    if held and held["state"] == "held":
        short = held["id"][:8]
        screen.note(
            f"`staytrue data {spec.name} --release {short}` lets it in as it is, `--repair {short} --scale COLUMN=1/100` with a "
            f"repair, `--drop {short}` never."
        )
    return 1 if held and held["state"] == "held" else 0


def _shown(told: Mapping[str, Any]) -> str:
    if "top" in told:
        return ", ".join(f"{name} ({n})" for name, n in told["top"].items())
    if "true" in told:
        return f"{told['true']} true"
    if told.get("min") is None:
        return "-"
    if told["kind"] == "time":
        return f"{_at(told['min'])} .. {_at(told['max'])}"
    median = told.get("median")
    return f"{told['min']:.6g} .. {told['max']:.6g}" + (f", median {median:.6g}" if median is not None else "")


def _at(micros: float) -> str:
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros):%Y-%m-%d %H:%M}"


# ---------------------------------------------------------------- decisions


def _decide(ctx: Context, spec: SourceSpec, args: argparse.Namespace, screen: Screen) -> int:
    by, because = who(), args.because
    done: Decided
    if args.release and any(one["id"].startswith(args.release) for one in held_back(ctx)):
        sentence, new = trust(ctx, args.release, by=by, because=because)
        screen.document({"app": ctx.app.name, "held": args.release, "sentence": sentence, "new": new, "breaches": []})
        screen.say(sentence if new else f"Done before, nothing was changed: {sentence}")
        return 0
    if args.release:
        done = release(ctx, spec, args.release, by=by, because=because)
    elif args.drop:
        done = drop(ctx, spec, args.drop, by=by, because=because)
    else:
        how = Repair.read(scale=args.scale, swap=args.swap, fill=args.fill, without_duplicates=args.without_duplicates)
        done = repair(ctx, spec, args.repair, how, by=by, because=because)
    screen.document({"app": ctx.app.name, **done.document()})
    screen.say(done.sentence if done.new else f"Done before, nothing was changed: {done.sentence}")
    for breach in done.breaches:
        screen.say(f"  {breach.code} {breach.sentence}", style="yellow")
    return 0


# ---------------------------------------------------------------- the contract


def _contract(ctx: Context, spec: SourceSpec, screen: Screen) -> int:
    table, _ = newest(ctx, spec)
    told = effective(ctx, spec, table, contract_of(ctx, spec)).document()
    screen.document({"app": ctx.app.name, "contract": told})
    screen.say(json.dumps(told, indent=2, ensure_ascii=False))
    return 0


def _versions(ctx: Context, spec: SourceSpec, screen: Screen) -> int:
    found = versions(ctx, spec.name)
    listed = [
        {
            "version": event.body["version"],
            "at": event.at.isoformat(),
            "by": event.body["by"],
            "because": event.body["because"],
            "changes": json.loads(event.body["changes"]),
            "sentence": event.sentence,
        }
        for event in found
    ]
    screen.document({"app": ctx.app.name, "source": spec.name, "versions": listed})
    if not found:
        screen.say(f"Nobody changed the contract of {spec.name}: all of it is learned.")
    for event in found:
        screen.event(f"{event.at:%Y-%m-%d %H:%M}", f"version {event.body['version']}", event.sentence)
    return 0


def _edit(ctx: Context, spec: SourceSpec, args: argparse.Namespace, screen: Screen) -> int:
    table, _ = newest(ctx, spec)
    known = contract_of(ctx, spec)
    changes = _merged(_from_file(args.edit), _from_terms(args.terms), _from_codes(args.ignore, known))
    after, new = edit_contract(ctx, spec, table, changes, by=who(), because=args.because)
    sentence = (
        f"Version {after.version} of the contract of {spec.name} holds from now on: every check from here rests on it."
    )
    if not new:
        sentence = f"Nothing to change: version {after.version} of the contract of {spec.name} says so already."
    told = effective(ctx, spec, table, after).document()
    screen.document({"app": ctx.app.name, "new": new, "sentence": sentence, "contract": told})
    screen.say(sentence)
    return 0


def _from_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise _unread(
            str(file), f'a JSON file such as {{"columns": {{"price": {{"range": [0, 500]}}}}}} ({exc})'
        ) from exc
    if not isinstance(found, dict):
        raise _unread(str(file), "a JSON object with `columns` or `window`")
    return found


def _from_terms(texts: list[str]) -> dict[str, Any]:
    """`price.range=0..500` as a change of the contract."""
    changes: dict[str, Any] = {}
    for text in texts:
        where, found, value = text.partition("=")
        column, dot, term = where.rpartition(".")
        if not found or not dot or not column or not value:
            raise _unread(text, "COLUMN.TERM=VALUE, such as price.range=0..500")
        terms = changes.setdefault("window", {}) if column == "window" else _column(changes, column)
        terms[term] = _value(value)
    return changes


def _from_codes(texts: list[str], known: Any) -> dict[str, Any]:
    """`price=ST241` as a change of the contract: one more check that is switched off."""
    changes: dict[str, Any] = {}
    for text in texts:
        column, found, code = text.rpartition("=")
        if not found or not column or not code:
            raise _unread(text, "COLUMN=CODE, such as price=ST241")
        if column == "window":
            terms, before = changes.setdefault("window", {}), known.window.ignore
        else:
            terms, before = _column(changes, column), known.of(column).ignore
        terms["ignore"] = sorted({*before, *terms.get("ignore", ()), code})
    return changes


def _column(changes: dict[str, Any], name: str) -> dict[str, Any]:
    terms: dict[str, Any] = changes.setdefault("columns", {}).setdefault(name, {})
    return terms


def _value(text: str) -> Any:
    """`0..500` and `0..` as two bounds, `learned` as nothing, else JSON where it is JSON, a list by commas, or text."""
    if text == "learned":
        return None
    low, dots, high = text.partition("..")
    if dots:
        return [_value(low) if low else None, _value(high) if high else None]
    try:
        return json.loads(text)
    except ValueError:
        return text.split(",") if "," in text else text


def _merged(*changes: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for one in changes:
        for name, value in one.items():
            both = isinstance(value, dict) and isinstance(made.get(name), dict)
            made[name] = _merged(made[name], value) if both else value
    return made


def _unread(got: str, expected: str) -> InvalidInput:
    return InvalidInput(
        "ST935", f"Can't read the change of the contract {got[:80]!r}: expected {expected}.", got=got[:80]
    )


# ---------------------------------------------------------------- who and what


def _spec(ctx: Context, source: str | None) -> SourceSpec:
    sources = ctx.app.sources
    if source is None and len(sources) == 1:
        return next(iter(sources.values())).spec
    if source not in sources:
        named = f"has no source {source!r}" if source else "has several sources: say which"
        raise NotFound("ST620", f"App {ctx.app.name} {named}; there are {', '.join(sources) or 'none'}.", source=source)
    return sources[source].spec
