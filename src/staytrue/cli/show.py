"""`staytrue show ID`: one release, one event or one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from staytrue.cli.log import document as event_document
from staytrue.cli.screen import Screen
from staytrue.engines.process import ProcessPool
from staytrue.errors import NotFound
from staytrue.kernel.release import Release
from staytrue.loop.context import release_context
from staytrue.loop.jobs import drive
from staytrue.loop.past import Past
from staytrue.loop.segments import release_report, training_report
from staytrue.store.store import KeptRelease, Store, open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("id", help="of a release, an event or a table; the beginning is enough. Or the word champion")
    parser.add_argument(
        "--segments",
        action="store_true",
        help="of a release: ask its model about the newest labelled rows, and tell how each segment does",
    )


def run(args: argparse.Namespace, screen: Screen) -> int:
    """What it is made of, and what happened to it."""
    store = open_store(args.store, must_exist=True)
    found = _release(store, args.id) or _event(store, args.id) or _table(store, args.id)
    if found is None:
        raise NotFound(
            "ST137", f"No release, event or table has the id {args.id!r}. `staytrue log` lists them.", id=args.id
        )
    if args.segments and found["kind"] == "release":
        found["segments"] = _segments(store, store.release(found["id"]).release, screen)
    screen.document(found)
    for name, value in found.items():
        if name == "events":
            screen.say("events")
            for event in value:
                screen.event(event["at"][:10], event["kind"], event["sentence"])
        elif name in ("training_data", "segments"):
            _say(screen, name, value)
        else:
            screen.say(f"{name:<14} {_short(value)}")
    return 0


def _release(store: Store, id_: str) -> dict[str, Any] | None:
    try:
        kept = store.release(id_)
    except NotFound:
        return None
    return release_document(store, kept)


def release_document(store: Store, kept: KeptRelease) -> dict[str, Any]:
    """A release as `--json` prints it."""
    release = kept.release
    tables = {}
    for name, id_ in release.tables.items():
        table = store.table_by_id(id_).table
        tables[name] = {
            "table": id_,
            "rows": table.rows,
            "since": table.since.isoformat() if table.since else None,
            "until": table.until.isoformat() if table.until else None,
        }
    events = [e for e in store.ledger.events(release.app) if e.body.get("release") == kept.id]
    return {
        "kind": "release",
        "id": kept.id,
        "app": release.app,
        "code": release.code,
        "training_code": release.training_code,
        "env": release.env,
        "tables": tables,
        "params": dict(release.params),
        "seed": release.seed,
        "model": release.model,
        "recipe": release.recipe,
        "as_trained": release.as_trained,
        "golden": release.golden,
        "scores": dict(release.scores),
        "parents": list(release.parents),
        "training_data": training_report(store, release),
        "events": [event_document(e) for e in events],
    }


def _segments(store: Store, release: Release, screen: Screen) -> dict[str, Any] | None:
    """How the release does by segment; None for a plain service."""
    if release.is_service:
        return None
    ctx = release_context(store, release, Path.cwd())
    with ProcessPool(store.work / "jobs") as pool, screen.busy("asking the model"):
        return drive({"segments": release_report(Past.whole(ctx), release)}, pool)["segments"]


def _say(screen: Screen, name: str, value: dict[str, Any] | None) -> None:
    sentences = value["sentences"] if value else []
    screen.say(f"{name.replace('_', ' '):<14} {sentences[0] if sentences else '-'}")
    for sentence in sentences[1:]:
        screen.say(f"{'':<14} {sentence}")


def _event(store: Store, id_: str) -> dict[str, Any] | None:
    try:
        return event_document(store.ledger.event(id_))
    except NotFound:
        return None


def _table(store: Store, id_: str) -> dict[str, Any] | None:
    names = {r.name for r in store.ledger.refs(kind="table") if r.name.startswith(id_)} if id_ else set()
    if len(names) != 1:
        return None
    table = store.table_by_id(names.pop()).table
    return {
        "kind": "table",
        "id": table.id,
        "source": table.source,
        "rows": table.rows,
        "parts": len(table.parts),
        "since": table.since.isoformat() if table.since else None,
        "until": table.until.isoformat() if table.until else None,
        "columns": dict(table.schema),
    }


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(_short(v) for v in value) or "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
