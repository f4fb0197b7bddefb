"""Show: one release, event or table as a document. `staytrue show` prints it, the page shows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from staytrue.errors import NotFound
from staytrue.loop.log import document as event_document
from staytrue.loop.segments import training_report
from staytrue.store.browse import events_about
from staytrue.store.store import KeptRelease, Store

__all__ = ["release_document", "shown", "unless_gone"]

T = TypeVar("T")


def shown(store: Store, id_: str) -> dict[str, Any]:
    """The release, event or table whose id begins so.

    Raises:
        NotFound: ST137, none.
    """
    found = _release(store, id_) or _event(store, id_) or _table(store, id_)
    if found is None:
        raise NotFound("ST137", f"No release, event or table has the id {id_!r}. `staytrue log` lists them.", id=id_)
    return found


def release_document(store: Store, kept: KeptRelease) -> dict[str, Any]:
    """A release as `--json` prints it. What of it is not in the store any more is null, and `gone` says so."""
    release = kept.release
    gone: list[str] = []
    unknown: dict[str, Any] = {"rows": None, "since": None, "until": None}
    tables = {
        name: {"table": id_} | unless_gone(gone, f"table {name}", partial(_extent, store, id_), unknown)
        for name, id_ in release.tables.items()
    }
    events = events_about(store.ledger, release.app, kept.id)
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
        "training_data": unless_gone(gone, "what it learned from", lambda: training_report(store, release), None),
        "gone": gone,
        "events": [event_document(e) for e in events],
    }


def unless_gone(gone: list[str], what: str, make: Callable[[], T], instead: T) -> T:
    """What it makes; where an object of it is not in the store any more, `instead`, and a sentence in `gone`."""
    try:
        return make()
    except NotFound as exc:
        gone.append(f"Nothing more is known of {what}: {exc.message}")
        return instead


def _extent(store: Store, table_id: str) -> dict[str, Any]:
    table = store.table_by_id(table_id).table
    return {
        "rows": table.rows,
        "since": table.since.isoformat() if table.since else None,
        "until": table.until.isoformat() if table.until else None,
    }


def _release(store: Store, id_: str) -> dict[str, Any] | None:
    try:
        kept = store.release(id_)
    except NotFound:
        return None
    return release_document(store, kept)


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
