"""Errand: what somebody asked for on a page and takes a while, done by a process of its own.

    python -m staytrue.dashboard.errand --store DIR --home DIR --asked ID

It does what the verb of the same name does, and writes what came of it into the note that was made when it was asked.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from staytrue.dashboard.actions import Asked, Notes
from staytrue.engines.guard import die_with_parent, unlimit_memory
from staytrue.engines.process import ProcessPool
from staytrue.errors import NotFound, StaytrueError
from staytrue.kernel.contract import SourceSpec
from staytrue.kernel.release import AXES, Axis
from staytrue.loop.context import Context
from staytrue.loop.data import drop, held_back, release, trust
from staytrue.loop.jobs import Steps, drive
from staytrue.loop.refresh import refresh, sources_of
from staytrue.loop.revert import before, champion_of, context_of, revert
from staytrue.loop.undo import meant, undo_data
from staytrue.store.store import KeptRelease, Store, open_store

__all__ = ["main", "run"]


def run(store: Store, asked: Asked, home: Path) -> str:
    """Do it; what came of it, in a sentence.

    Raises:
        StaytrueError: as the function of the verb.
    """
    champion = champion_of(store, asked.app)
    with ProcessPool(store.work / "jobs") as pool:
        return drive({asked.what: _steps(store, asked, champion, home)}, pool)[asked.what]


def _steps(store: Store, asked: Asked, champion: KeptRelease, home: Path) -> Steps[str]:
    form, by, why = asked.form, asked.by, asked.why
    if asked.what == "revert":
        to = store.release(form["to"]) if form.get("to") else before(store, asked.app)
        axes: list[Axis] = [axis for axis in AXES if form.get(axis)]
        ctx = yield from context_of(store, (champion, to), home=home)
        done = yield from revert(ctx, to, axes, now=bool(form.get("now")), by=by, why=why)
        return done.sentence
    ctx = yield from context_of(store, [champion], home=home)
    if asked.what == "refresh":
        sources = sources_of(ctx, [form["source"]] if form.get("source") else [])
        news = yield from refresh(ctx, champion, sources, now=bool(form.get("now")), by=by, why=why, said=_say)
        return news.sentence
    if asked.what == "undo":
        found = meant(store, asked.app, form.get("event") or None)
        undone = undo_data(ctx, found, by=by, why=why)
        return " ".join([undone.sentence, *undone.kept_out])
    return _decided(ctx, asked)


def _decided(ctx: Context, asked: Asked) -> str:
    which, by, why = asked.form["held"], asked.by, asked.why
    if asked.what == "release" and any(one["id"].startswith(which) for one in held_back(ctx)):
        sentence, _ = trust(ctx, which, by=by, because=why)
        return sentence
    decide = release if asked.what == "release" else drop
    return decide(ctx, _spec(ctx, asked.form.get("source")), which, by=by, because=why).sentence


def _spec(ctx: Context, name: str | None) -> SourceSpec:
    sources = ctx.app.sources
    wanted = name or (next(iter(sources)) if len(sources) == 1 else "")
    if wanted not in sources:
        known = ", ".join(sources) or "none"
        raise NotFound("ST620", f"App {ctx.app.name} has no source {wanted!r}; there are {known}.", source=wanted)
    return sources[wanted].spec


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the note says; 0 when that was done, whatever came of it."""
    parser = argparse.ArgumentParser(prog="python -m staytrue.dashboard.errand")
    parser.add_argument("--store", required=True)
    parser.add_argument("--home", required=True)
    parser.add_argument("--notes", required=True)
    parser.add_argument("--asked", required=True)
    args = parser.parse_args(argv)
    die_with_parent(os.getppid())
    unlimit_memory()
    notes = Notes(Path(args.notes))
    asked = notes.read(args.asked)
    if asked is None or asked.state != "under way":
        return 0
    store = open_store(args.store, must_exist=True)
    try:
        asked = asked.done(run(store, asked, Path(args.home)))
    except StaytrueError as exc:
        asked = asked.refused(exc)
    except Exception:  # noqa: BLE001 - the outermost frame of this process: who asked is told, without a traceback
        sys.stderr.write(traceback.format_exc())
        asked = replace(asked, state="refused", code="ST1022", sentence=_FAULT)
    finally:
        store.close()
    notes.write(asked)
    return 0


_FAULT = "A fault of staytrue, not of what was asked. The server's log tells more: report it."


if __name__ == "__main__":
    sys.exit(main())
