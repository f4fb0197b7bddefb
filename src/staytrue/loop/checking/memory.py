"""Check memory: what a check found, for the next one of the same code. A convenience: it may be deleted at any time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from staytrue.store.store import Store

__all__ = ["recalled", "remember"]


def remember(store: Store, key: str, document: Mapping[str, Any]) -> None:
    """Keep it, if the disk takes it: a full disk stops nobody."""
    place = _place(store, key)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_suffix(f".{os.getpid()}-{uuid4().hex}")
        temporary.write_text(json.dumps(document), "utf-8")
        temporary.replace(place)
    except OSError:  # see above
        return


def recalled(store: Store, key: str) -> dict[str, Any] | None:
    """What was kept under this key; None when nothing is, or it can't be read any more."""
    try:
        document = json.loads(_place(store, key).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _place(store: Store, key: str) -> Path:
    return store.work / "checks" / f"{key}.json"
