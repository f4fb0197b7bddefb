"""Log: an event as a document. `staytrue log` prints it, the page shows it."""

from __future__ import annotations

from typing import Any

from staytrue.store.ledger import LIVE, Event

__all__ = ["TOLD", "document"]

TOLD = (LIVE, "data", "orders")
"""The timelines that are shown when none is named."""


def document(event: Event) -> dict[str, Any]:
    """An event as `--json` prints it."""
    return {
        "seq": event.seq,
        "id": event.id,
        "app": event.app,
        "timeline": event.timeline,
        "at": event.at.isoformat(),
        "recorded_at": event.recorded_at.isoformat(),
        "kind": event.kind,
        "sentence": event.sentence,
        "body": event.body,
        "hash": event.hash,
    }
