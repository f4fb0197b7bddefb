"""Job list: what runs for an app, what ran and what was trained. `staytrue jobs` prints it, the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from staytrue.engines import job_log
from staytrue.errors import NotFound
from staytrue.loop.train import TRAININGS
from staytrue.store.browse import found_events
from staytrue.store.store import Store

__all__ = ["job_document", "jobs_document"]

_TRAININGS: Final = 100
_LAST_LINES: Final = 8
_KINDS: Final[Mapping[str, str]] = {
    "train": "training",
    "fetch": "fetch",
    "ask": "question to a source",
    "tests": "the app's tests",
    "answer": "answers to kept rows",
    "golden": "golden answers",
    "examples": "answers to examples",
    "reply": "answers to logged requests",
    "describe": "import of the app's code",
    "environment": "making an environment again",
    "why": "questions to a release",
    "few labels": "a look at few labels",
}


def jobs_document(store: Store, app: str, *, now: datetime) -> dict[str, Any]:
    """The jobs that run, with the last lines of what they print; those that ended; and the newest trainings of the ledger."""
    root = store.work / "jobs"
    running = [one for one in job_log.running(root) if one["app"] in (app, "")]
    ended = [one for one in job_log.ended(root) if one["app"] in (app, "")]
    trained = found_events(store.ledger, app, timelines=[TRAININGS], limit=_TRAININGS)
    return {
        "app": app,
        "running": [_running(one, now) | {"output": _last(one["output"])} for one in running],
        "ended": [_named(one) for one in ended],
        "trainings": [
            {
                "seq": event.seq,
                "at": event.recorded_at.isoformat(),
                "kind": event.kind,
                "sentence": event.sentence,
                "rows": event.body.get("rows"),
                "seconds": event.body.get("seconds"),
                "failed": event.kind != "trained",
            }
            for event in trained
        ],
    }


def job_document(store: Store, app: str, id_: str, *, now: datetime) -> dict[str, Any]:
    """One job with the end of its output: one that runs, or one of the last that ended.

    Raises:
        NotFound: ST1050, none that is remembered.
    """
    found = job_log.find(store.work / "jobs", id_)
    if found is None or found["app"] not in (app, ""):
        raise NotFound(
            "ST1050",
            f"No job {id_[:40]!r} of {app} is remembered: only the last {job_log.KEPT} that failed, printed anything or took a "
            "while are. `staytrue jobs` lists them.",
            id=id_[:40],
        )
    shown = _running(found, now) if found["status"] == "running" else _named(found)
    return shown | {"app": app, "output": found["output"]}


def _running(one: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    began = datetime.fromisoformat(one["began_at"])
    return _named(one) | {"seconds": max(0.0, round((now - began).total_seconds(), 1))}


def _named(one: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, "what": _KINDS.get(one["kind"], one["kind"])}


def _last(output: str) -> str:
    return "\n".join(output.split("\n")[-_LAST_LINES:])
