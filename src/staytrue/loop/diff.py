"""Diff: two releases compared, as a document. `staytrue diff` says it, the page shows it."""

from __future__ import annotations

from typing import Any

from staytrue.kernel.release import Release, axes, describe_axes, retrains
from staytrue.store import code, env, tables
from staytrue.store.store import KeptRelease, Store

__all__ = ["code_changes", "compared"]


def compared(store: Store, a: KeptRelease, b: KeptRelease) -> dict[str, Any]:
    """The comparison as a document, described in docs/documents.md."""
    old, new = a.release, b.release
    environment = env.env_diff(store.objects.get_document(old.env), store.objects.get_document(new.env))
    return {
        "a": a.id,
        "b": b.id,
        "axes": list(axes(old, new)),
        "retrains": retrains(old, new),
        "sentences": [*describe_axes(old, new), *environment.sentences()],
        "code": {
            "a": old.code,
            "b": new.code,
            "files": code_changes(store, old, new),
        },
        "data": {
            name: _table(store, old.tables[name], new.tables[name])
            for name in old.tables
            if name in new.tables and old.tables[name] != new.tables[name]
        },
        "env": list(environment.sentences()),
        "params": {"a": dict(old.params), "b": dict(new.params)},
        "seed": {"a": old.seed, "b": new.seed},
        "model": {"a": old.model, "b": new.model, "same_recipe": old.recipe == new.recipe},
        "scores": {"a": dict(old.scores), "b": dict(new.scores)},
    }


def code_changes(store: Store, a: Release, b: Release) -> dict[str, list[str]]:
    """The paths of files that were added, removed and changed."""
    files = code.files_changed(store.objects, a.code, b.code)
    return {"added": list(files.added), "removed": list(files.removed), "changed": list(files.changed)}


def _table(store: Store, a: str, b: str) -> dict[str, Any]:
    old, new = store.table_by_id(a).table, store.table_by_id(b).table
    # Time and key move with every new row: that says nothing.
    return tables.diff(store.objects, old, new) | {"roles": [name for name in (new.time, new.key) if name]}
