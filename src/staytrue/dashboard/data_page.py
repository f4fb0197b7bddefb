"""Data as documents: all sources, and one of them with its contract, its quarantine and its distributions. No row is read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from staytrue.errors import NotFound, StaytrueError
from staytrue.kernel.sketch import Sketch, describe, moved, psi
from staytrue.loop.contracts import effective_in, kept_contract
from staytrue.loop.data import document, kept_sources, source_document
from staytrue.loop.look import clock
from staytrue.store import tables
from staytrue.store.objects import LocalObjects
from staytrue.store.store import Store
from staytrue.store.tables import Chunk, Table

__all__ = ["COLUMNS", "data_document", "source_page_document"]

COLUMNS: Final = 40
_MONTHS: Final = 36
_VERSIONS: Final = 40
_PARTS: Final = 60
_TOP: Final = 3
_KEPT: Final = 16


def data_document(store: Store, app: str, *, now: datetime) -> dict[str, Any]:
    """What `staytrue data --json` prints."""
    return document(store, app, kept_sources(store, app), now=clock(store, app, now))


def source_page_document(
    store: Store, app: str, source: str, *, now: datetime, a: str = "", b: str = "", page: int = 1
) -> dict[str, Any]:
    """One source: parts, contract, quarantine, and how its columns are distributed over time and between two versions.

    Args:
        a, b: ids of two versions of the table; by default what the champion learned from, and the newest.

    Raises:
        NotFound: ST620, no such source; ST475, no such table.
    """
    spec = next((one for one in kept_sources(store, app) if one.name == source), None)
    if spec is None:
        raise NotFound(
            "ST620",
            f"The store knows of no source {source[:80]!r} of {app}: nobody has asked one of that name.",
            source=source,
        )
    ref = store.ledger.ref("source", source, app=app)
    table = tables.load(store.objects, ref.digest) if ref else tables.empty(spec)
    names = [name for name, _ in table.schema]
    pages = max(1, -(-len(names) // COLUMNS))
    page = min(max(page, 1), pages)
    shown = names[(page - 1) * COLUMNS : page * COLUMNS]
    versions = _versions(store, app, source)
    first = _version(store, a) or _learned(store, app, source) or table
    second = _version(store, b) or table
    contract = kept_contract(store, app, source)
    return {
        "app": app,
        **source_document(store, app, spec, now=clock(store, app, now)),
        "time": table.time,
        "key": table.key,
        "label": table.label,
        "columns": len(names),
        "page": page,
        "pages": pages,
        "newest_parts": [
            {
                "since": part.since.isoformat(),
                "until": part.until.isoformat(),
                "rows": part.rows,
                "unlabelled": part.unlabelled,
            }
            for part in table.parts[: -_PARTS - 1 : -1]
        ],
        "rows_by_month": [{"month": chunk.parts[0].since.isoformat(), "rows": chunk.rows} for chunk in table.chunks],
        "terms": _terms(store, spec, table, contract),
        "versions": versions,
        "compared": _compared(store, first, second, shown),
        "over_time": _over_time(store.objects, table, shown),
    }


def _terms(store: Store, spec: Any, table: Table, contract: Any) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = effective_in(store, spec, table, contract).document()
    except StaytrueError:  # too little past to learn from
        return None
    return found


def _versions(store: Store, app: str, source: str) -> list[dict[str, Any]]:
    refs = store.ledger.refs(app=app, kind="source", name=source)[: -_VERSIONS - 1 : -1]
    found = []
    for ref in refs:
        table = tables.load(store.objects, ref.digest)
        found.append({"table": table.id, "at": ref.at.isoformat(), "rows": table.rows, "parts": len(table.parts)})
    return found


def _version(store: Store, id_: str) -> Table | None:
    return store.table_by_id(id_).table if id_ else None


def _learned(store: Store, app: str, source: str) -> Table | None:
    champion = store.champion(app)
    id_ = champion.release.tables.get(source) if champion else None
    return store.table_by_id(id_).table if id_ else None


# ------------------------------------------------------------ distributions, from sketches


def _compared(store: Store, a: Table, b: Table, names: Sequence[str]) -> dict[str, Any]:
    """How far each column is from one version to the other."""
    ours, theirs = _whole(store.objects, a), _whole(store.objects, b)
    columns = [
        {
            "column": name,
            "moved": moved(ours[name], theirs[name]),
            "psi": psi(ours[name], theirs[name]),
            "a": describe(ours[name]),
            "b": describe(theirs[name]),
        }
        for name in names
        if name in ours and name in theirs and len({ours[name]["is"], theirs[name]["is"]} - {"null"}) <= 1
    ]
    have, known = dict(b.schema), dict(a.schema)
    return {
        "a": {"table": a.id, "rows": a.rows, "until": a.until.isoformat() if a.until else None},
        "b": {"table": b.id, "rows": b.rows, "until": b.until.isoformat() if b.until else None},
        "same": a.id == b.id,
        "added": [name for name in have if name not in known],
        "removed": [name for name in known if name not in have],
        "changed": {name: [known[name], have[name]] for name in known if have.get(name, known[name]) != known[name]},
        "columns": columns,
    }


def _over_time(objects: LocalObjects, table: Table, names: Sequence[str]) -> dict[str, Any]:
    """Column -> its kind, and month by month its quartiles, or the shares of its most frequent values."""
    months = [(chunk.parts[0].since, _month(objects, table, chunk)) for chunk in table.chunks[-_MONTHS:] if chunk.rows]
    whole = _whole(objects, table)
    return {name: _column(whole[name], name, months) for name in names if name in whole}


_wholes: OrderedDict[tuple[Path, str], Mapping[str, Sketch]] = OrderedDict()


def _whole(objects: LocalObjects, table: Table) -> Mapping[str, Sketch]:
    """The columns of a version of a table, which never changes: put together once from its months."""
    key = (objects.root, table.id)
    if key not in _wholes:
        _wholes[key] = tables.sketches(objects, table)
        while len(_wholes) > _KEPT:
            _wholes.popitem(last=False)
    return _wholes[key]


@lru_cache(maxsize=512)
def _month(objects: LocalObjects, table: Table, chunk: Chunk) -> Mapping[str, dict[str, Any]]:
    """A month's columns in few numbers; a chunk never changes."""
    made = tables.sketches(objects, replace(table, chunks=(chunk,)))
    return {name: _described(sketch) for name, sketch in made.items()}


def _described(sketch: Sketch) -> dict[str, Any]:
    told = describe(sketch)
    if sketch["is"] == "text":
        told["counts"] = {name[1:]: count for name, count in sketch["categories"].items()}
    return told


def _column(whole: Sketch, name: str, months: Sequence[tuple[datetime, Mapping[str, Any]]]) -> dict[str, Any]:
    told = describe(whole)
    top = list(told.get("top", {}))[:_TOP]
    return told | {
        "months": [
            {"month": since.isoformat(), "rows": month[name]["rows"], "nulls": month[name]["nulls"]}
            | _shape(month[name], top)
            for since, month in months
            if name in month
        ]
    }


def _shape(month: Mapping[str, Any], top: Sequence[str]) -> dict[str, Any]:
    """Quartiles of what has an order; shares of what has names."""
    present = month["rows"] - month["nulls"]
    if month["kind"] == "text":
        return {"shares": {name: month["counts"].get(name, 0) / present if present else None for name in top}}
    if month["kind"] == "bool":
        return {"shares": {"true": month["true"] / present if present else None}}
    return {name: month.get(name) for name in ("q25", "median", "q75")}
