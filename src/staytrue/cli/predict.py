"""`staytrue predict IN.parquet OUT.parquet`: score a Parquet file of any size."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from staytrue.cli.screen import Screen
from staytrue.errors import NotFound
from staytrue.serve.scoring import Options, Scored, score
from staytrue.store.store import KeptRelease, Store, open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("source", metavar="IN", type=Path, help="the Parquet file with the rows")
    parser.add_argument("out", metavar="OUT", type=Path, help="the Parquet file with the predictions, to be written")
    parser.add_argument("--release", help="the release that answers; the beginning of its id (default: the champion)")
    parser.add_argument("--name", help="the app, when the store holds several")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column of IN to keep beside key and time; may stand several times, and `all` keeps all",
    )
    parser.add_argument("--lanes", type=int, default=1, help="processes that answer side by side (default: 1)")
    parser.add_argument("--threads", type=int, default=0, help="native threads of each (default: what the cores allow)")
    parser.add_argument("--chunk-rows", type=int, help="rows that go together (default: what 4 MB hold)")
    parser.add_argument("--restart", action="store_true", help="begin anew, and replace OUT")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when a row was refused."""
    store = open_store(args.store, must_exist=True)
    try:
        release = _release(store, args.name, args.release)
        options = Options(
            keep=args.keep,
            lanes=args.lanes,
            threads=args.threads,
            chunk_rows=args.chunk_rows,
            restart=args.restart,
        )
        with screen.bars() as bars:
            done = score(store, release, args.source, args.out, options=options, moved=partial(bars.moved, "predict"))
    finally:
        store.close()
    screen.document(done.document())
    _say(done, screen)
    return 1 if done.refused_rows else 0


def _release(store: Store, name: str | None, wanted: str | None) -> KeptRelease:
    if wanted is not None and wanted != "champion":
        return store.release(wanted)
    found = store.champion(store.app(name))
    if found is None:
        raise NotFound(
            "ST792",
            f"{store.app(name)} has no release to ask yet. `staytrue fetch` and `staytrue train` make one.",
            app=store.app(name),
        )
    return found


def _say(done: Scored, screen: Screen) -> None:
    went_on = f", {done.before:,} of them before" if done.before else ""
    screen.say(
        f"{done.rows - done.refused_rows:,} of {done.rows:,} rows scored by release {done.release[:8]}{went_on}: {done.out}",
        style="yellow" if done.refused_rows else "green",
    )
    if done.refused_rows:
        screen.say(
            f"{done.refused_rows:,} rows were refused: their prediction is null, the column `refused` says why.",
            style="yellow",
        )
    for word, counted in (("refused", done.refused), ("flagged", done.flagged)):
        for column, faults in counted.items():
            told = ", ".join(f"{fault} in {rows:,} rows" for fault, rows in faults.items())
            screen.say(f"  {word} {column}: {told}", style="yellow" if word == "refused" else None)
    if done.ignored:
        screen.say(f"Columns that the release does not know, ignored: {', '.join(done.ignored)}.", style="dim")
    if done.as_json:
        screen.say("The answers have no one type that a column can have: `prediction` holds them as JSON texts.")
