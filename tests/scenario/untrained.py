"""Releases that nobody trained, written straight into a store: for pages with many of them, or with names that mean harm."""

from __future__ import annotations

import tempfile
from pathlib import Path

from staytrue.kernel.release import Digest, Release
from staytrue.store import code, env
from staytrue.store.store import Store


def release(store: Store, app: str, files, *, parents=(), tables_=None, params=None, scores=None) -> Digest:
    """The id of one with these files as its code; no event tells of it yet."""
    folder = Path(tempfile.mkdtemp(dir=store.root))
    for name, text in files.items():
        (folder / name).write_text(text)
    snapshot = code.snapshot(store.objects, folder, entry="app.py").id
    made = Release(
        app=app, code=snapshot, training_code=snapshot, tables=tables_ or {}, env=env.env_id(store.objects), params=params or {},
        seed=0, model=None, recipe=None, as_trained=True, scores=scores or {}, parents=parents,
    )  # fmt: skip
    return store.objects.put_document(made.document())
