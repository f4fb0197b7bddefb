"""The first two pages as documents: all apps, and the health of one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from staytrue.dashboard.heard import Case, open_cases
from staytrue.errors import StaytrueError
from staytrue.kernel.segments import SegmentWatch
from staytrue.loop.lease import alive
from staytrue.loop.look import last_look
from staytrue.loop.losses import losses
from staytrue.loop.quarantine import DATA
from staytrue.loop.status import status
from staytrue.store.browse import found_events
from staytrue.store.ledger import LIVE, Event
from staytrue.store.store import Store

__all__ = ["apps_document", "health_document", "incident_line"]

_WORST_FIRST: Final = {"harmed": 0, "unknown": 1, "right": 2}
_MOST_OF_A_LANE: Final = 48
"""So that the many steps of trials, or alarms, do not push what they led to off the picture."""
_LANES: Final[Mapping[str, str]] = {
    "promoted": "promoted",
    "deployed": "promoted",
    "rolled_back": "taken back",
    "reverted": "taken back",
    "undone": "taken back",
    "repaired": "repaired",
    "rejected": "rejected",
    "withdrawn": "rejected",
    "tried": "rejected",
    "alarm": "alarms",
    "tripped": "alarms",
    "serve_failed": "alarms",
    "failed": "alarms",
    "retrain": "retrains",
    "restore": "retrains",
    "pushed": "commits",
    "refused": "commits",
    "quarantined": "quarantine",
    "blamed": "blame",
    "backtest": "trials",
    "shadow": "trials",
    "canary": "trials",
}
"""Kinds of events on the time axis -> the line that they stand on."""


def apps_document(store: Store, *, now: datetime, served: bool = False) -> dict[str, Any]:
    """Every app of the store with its verdict, worst first.

    Args:
        served: as for `health_document`.
    """
    found = [_line(store, app, now, served=served) for app in store.apps()]
    found.sort(key=lambda one: (_WORST_FIRST[one["right"]["state"]], -len(one["incidents"]), one["app"]))
    return {"at": now.isoformat(), "apps": found}


def _line(store: Store, app: str, now: datetime, *, served: bool) -> dict[str, Any]:
    try:
        told = status(store, app, at=_as_of(store, app, now, served=served), now=now)
    except StaytrueError as exc:
        # One app whose story can't be read must not hide the others.
        told = {
            "app": app,
            "champion": None,
            "runs": None,
            "right": {"state": "unknown", "sentence": f"unknown: {exc}", "evidence": {}},
            "changed": {"sentence": "-"},
            "next": {"sentence": "-"},
        }
    kept = {name: told[name] for name in ("app", "champion", "runs", "right", "changed", "next")}
    return kept | {"incidents": [incident_line(case) for case in open_cases(store, app)]}


def _as_of(store: Store, app: str, now: datetime, *, served: bool) -> str | None:
    """As `status` takes it. A controller's look counts as of its own clock, which in a drill is not this machine's."""
    return "now" if served and last_look(store, app, now).runs is None else None


def incident_line(case: Case) -> dict[str, Any]:
    """An incident as lists show it."""
    now = case.now
    return {
        "id": now.id,
        "number": case.number,
        "kind": now.kind,
        "cause": now.cause,
        "state": now.state,
        "title": now.title,
        "sentence": now.sentence,
        "said_first": case.steps[0].sentence,
        "opened_at": now.opened_at.isoformat(),
        "changed_at": now.changed_at.isoformat(),
    }


def health_document(store: Store, app: str, *, now: datetime, live: Mapping[str, Any] | None) -> dict[str, Any]:
    """The four answers, and what they rest on.

    Args:
        live: what only the running server knows; None: not served. Of an app that is served the verdict is about now: that it
            was right where a replay of the past ended is no word on the champion that answers.
    """
    told = status(store, app, at=_as_of(store, app, now, served=live is not None), now=now)
    lost = losses(store, app, fresh=told["right"]["evidence"].get("fresh_loss"))
    server = None if live is None else live.get("server")
    return {
        "app": app,
        "status": told,
        "losses": lost,
        "events": _events(store, app, lost),
        "incidents": [incident_line(case) for case in open_cases(store, app)],
        "segments": _segments(store, app, told["champion"]),
        "controller": "alive" if alive(store.root, app) else "none" if told["runs"] is None else "dead",
        "server": None if server is None else dict(server),
    }


def _events(store: Store, app: str, lost: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What happened while these losses were made, oldest first."""
    newest: list[Event] = []
    for lane in dict.fromkeys(_LANES.values()):
        kinds = [kind for kind, name in _LANES.items() if name == lane]
        newest += found_events(store.ledger, app, timelines=[LIVE, DATA], kinds=kinds, limit=_MOST_OF_A_LANE)
    points = lost["points"]
    since = datetime.fromisoformat(points[0]["since"]) - timedelta(days=1) if points else None
    shown = [event for event in newest if since is None or event.at >= since]
    return [_event(event) for event in sorted(shown, key=lambda e: (e.at, e.seq))]


def _event(event: Event) -> dict[str, Any]:
    lane = _LANES[event.kind]
    if event.body.get("state") == "resolved":
        lane = "over"
    return {
        "seq": event.seq,
        "id": event.id,
        "at": event.at.isoformat(),
        "kind": event.kind,
        "lane": lane,
        "sentence": event.sentence,
        "release": event.body.get("release"),
    }


def _segments(store: Store, app: str, champion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How the champion does by segment: as the living loop watches it, or else as its own trial saw it."""
    release = champion["release"] if champion else None
    lease = store.ledger.lease(app)
    life = (lease.state if lease else {}).get("life") or {}
    kept = (life.get("senses") or {}).get("segments") if life.get("release") == release else None
    if kept:
        return _watched(SegmentWatch.from_document(kept))
    promoted = found_events(store.ledger, app, timelines=[LIVE], kinds=["promoted"], text=release or "-", limit=1)
    seen = promoted[0].body.get("evidence", {}).get("segments") if promoted else None
    if not seen:
        return None
    rows = [
        {
            "segment": name,
            "rows": one.get("rows"),
            "difference": one.get("mean"),
            "low": one.get("lo"),
            "high": one.get("hi"),
        }
        for name, one in seen.items()
    ]
    rows.sort(key=lambda one: -(one["difference"] if one["difference"] is not None else float("-inf")))
    worse = sum((one["difference"] or 0) > 0 for one in rows)
    sentence = f"In its trial it lost more than the champion before in {worse} of {len(rows)} segments. Nothing newer is known."
    return {"from": "trial", "at": promoted[0].at.isoformat(), "sentence": sentence, "segments": rows}


def _watched(watch: SegmentWatch) -> dict[str, Any]:
    evidence, harmed = watch.e_values, {one.segment: one for one in watch.harmed()}
    rows: list[dict[str, Any]] = []
    for name, harm in watch.harms.items():
        newest = [mean for _, mean in harm.blocks[-8:]]
        rows.append(
            {
                "segment": name,
                "state": "harmed" if name in harmed else "watched",
                "fresh": harm.baseline,
                "loss": sum(newest) / len(newest) if newest else None,
                "blocks": len(harm.blocks),
                "evidence": evidence[name],
                "sentence": harmed[name].sentence if name in harmed else None,
            }
        )
    rows.sort(key=lambda one: (one["state"] != "harmed", -((one["loss"] or 0) - one["fresh"])))
    rows += [{"segment": name, "state": "unknown", "fresh": None, "loss": None} for name in watch.unwatched]
    said = "; ".join(one.sentence for one in harmed.values())
    sentence = f"{said}." if said else f"No harm was seen in any of {len(watch.harms)} watched segments."
    if watch.unwatched:
        sentence += f" {len(watch.unwatched)} have too few labelled rows to say."
    return {"from": "watch", "at": None, "sentence": sentence[0].upper() + sentence[1:], "segments": rows}
