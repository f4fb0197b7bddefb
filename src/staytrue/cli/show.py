"""`staytrue show ID`: one release, one event or one table."""

from __future__ import annotations

import argparse
from typing import Any

from staytrue.cli.log import document as event_document
from staytrue.cli.screen import Screen
from staytrue.errors import NotFound
from staytrue.store.store import KeptRelease, Store, open_store

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("id", help="of a release, an event or a table; the beginning is enough. Or the word champion")


def run(args: argparse.Namespace, screen: Screen) -> int:
    """What it is made of, and what happened to it."""
    store = open_store(args.store, must_exist=True)
    found = _release(store, args.id) or _event(store, args.id) or _table(store, args.id)
    if found is None:
        raise NotFound(
            "ST137", f"No release, event or table has the id {args.id!r}. `staytrue log` lists them.", id=args.id
        )
    screen.document(found)
    for name, value in found.items():
        if name == "events":
            screen.say("events")
            for event in value:
                screen.event(event["at"][:10], event["kind"], event["sentence"])
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
        "events": [event_document(e) for e in events],
    }


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
