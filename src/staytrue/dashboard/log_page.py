"""Log, incidents and replays as documents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from staytrue.dashboard.health_page import incident_line
from staytrue.dashboard.heard import cases
from staytrue.errors import NotFound
from staytrue.kernel.release import Digest
from staytrue.loop.log import TOLD, document
from staytrue.loop.losses import stories
from staytrue.store.browse import events_at, found_events, kinds_of
from staytrue.store.ledger import LIVE, Event
from staytrue.store.store import Store

__all__ = [
    "incident_document",
    "incidents_document",
    "log_document",
    "replays_document",
]

PER_PAGE: Final = 100
_CASES: Final = 50
_FOLLOWED: Final = 200


def log_document(
    store: Store, app: str, *, text: str = "", kind: str = "", timeline: str = "", before: int | None = None
) -> dict[str, Any]:
    """A page of the log, the newest event first; `older` is where the next page begins."""
    known = store.ledger.timelines(app)
    timelines = None if timeline == "all" else [timeline] if timeline else list(TOLD)
    found = found_events(
        store.ledger,
        app,
        timelines=timelines,
        kinds=[kind] if kind else None,
        text=text,
        before=before,
        limit=PER_PAGE + 1,
    )
    return {
        "app": app,
        "events": [document(event) for event in found[:PER_PAGE]],
        "older": found[PER_PAGE - 1].seq if len(found) > PER_PAGE else None,
        "newest": before is None,
        "asked": {"text": text, "kind": kind, "timeline": timeline},
        "kinds": kinds_of(store.ledger, app, timelines or known),
        "timelines": known,
    }


# ------------------------------------------------------------ incidents


def incidents_document(store: Store, app: str, *, page: int = 1) -> dict[str, Any]:
    """A page of the incidents, the open ones first, then the newest."""
    every = sorted(cases(store, app), key=lambda case: (not case.is_open, -case.number))
    pages = max(1, -(-len(every) // _CASES))
    page = min(max(page, 1), pages)
    return {
        "app": app,
        "open": sum(case.is_open for case in every),
        "total": len(every),
        "page": page,
        "pages": pages,
        "incidents": [incident_line(case) for case in every[(page - 1) * _CASES : page * _CASES]],
    }


def incident_document(store: Store, app: str, which: str, *, now: datetime) -> dict[str, Any]:
    """One incident: how it was opened and with which evidence, what was found to blame, what was done, how it ended.

    Args:
        which: its id, or the number of the event that opened it.

    Raises:
        NotFound: ST1001.
    """
    case = next((one for one in cases(store, app) if which in {one.now.id, str(one.number)}), None)
    if case is None:
        raise NotFound("ST1001", f"{app} has no incident {which[:80]!r}. The page Incidents lists them.", id=which[:80])
    opening = events_at(store.ledger, [case.number]).get(case.number)
    last = None if case.is_open else case.now.seq
    followed = found_events(
        store.ledger,
        app,
        timelines=[LIVE, "orders"],
        after=case.number - 1,
        before=last + 1 if last else None,
        limit=_FOLLOWED,
        oldest_first=True,
    )
    blamed = next((event for event in reversed(followed) if event.kind == "blamed"), None)
    return {
        "app": app,
        **incident_line(case),
        "opened": document(opening) if opening else None,
        "steps": [
            {"state": one.state, "at": one.changed_at.isoformat(), "sentence": one.sentence, "seq": one.seq}
            for one in case.steps
        ],
        "blame": _blame(store, blamed),
        "followed": [_short(event) for event in followed if event.seq != case.number],
        "at": now.isoformat(),
    }


def _short(event: Event) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "at": event.at.isoformat(),
        "kind": event.kind,
        "sentence": event.sentence,
        "release": event.body.get("release"),
    }


def _blame(store: Store, event: Event | None) -> dict[str, Any] | None:
    if event is None:
        return None
    digest = event.body.get("report")
    report: Mapping[str, Any] = {}
    if digest and store.objects.has(Digest(digest)):
        report = store.objects.get_document(Digest(digest))
    return {
        "at": event.at.isoformat(),
        "sentence": event.sentence,
        "good": event.body.get("good"),
        "bad": event.body.get("bad"),
        "outcome": event.body.get("outcome"),
        "report": dict(report),
    }


# ------------------------------------------------------------ replays


def replays_document(store: Store, app: str, *, price: float | None = None) -> dict[str, Any]:
    """Replays of the same rows side by side, the newest first; each policy's cost at a price of a retraining.

    Args:
        price: of one retraining, as a multiple of what the app says it costs; None: 1.
    """
    factor = 1.0 if price is None else min(max(price, 0.0), 100.0)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for told in stories(store, app):
        result = told["result"]
        weekly = result["weekly"]
        rows = sum(week[1] for week in weekly)
        key = (weekly[0][0] if weekly else "", weekly[-1][0] if weekly else "", rows)
        group = groups.setdefault(
            key, {"at": told["at"], "since": key[0], "until": key[1], "rows": rows, "policies": {}}
        )
        if result["policy"] not in group["policies"]:
            group["policies"][result["policy"]] = _policy(result, live=told["live"], factor=factor)
    replays = []
    for group in groups.values():
        policies = sorted(group["policies"].values(), key=lambda one: one["cost"])
        cheapest = policies[0]["cost"] if policies else 0.0
        for one in policies:
            one["times_best"] = one["cost"] / cheapest if cheapest else None
        unit = next((one["unit_price"] for one in policies if one["unit_price"]), None)
        replays.append(group | {"policies": policies, "unit_price": unit, "sentence": _cheapest(policies, factor)})
    return {"app": app, "price": factor, "replays": replays}


def _policy(result: Mapping[str, Any], *, live: bool, factor: float) -> dict[str, Any]:
    summed = sum(rows * loss for _, rows, loss in result["weekly"])
    retrains = result["retrains"]
    unit = max(result["cost"] - summed, 0.0) / retrains if retrains else None
    return {
        "policy": result["policy"],
        "live": live,
        "loss": result["loss"],
        "loss_interval": result["loss_interval"],
        "retrains": retrains,
        "promoted": result["promoted"],
        "rejected": result["rejected"],
        "bad_days": result["bad_days"],
        "summed_loss": summed,
        "unit_price": unit,
        "cost": summed + retrains * factor * (unit or 0.0),
        "weekly": result["weekly"],
    }


def _cheapest(policies: list[dict[str, Any]], factor: float) -> str:
    if not policies:
        return "Nothing was replayed."
    if len(policies) == 1:
        return f"Only {policies[0]['policy']} was replayed on these rows: there is nothing to hold it against."
    best, second = policies[:2]
    more = second["cost"] / best["cost"] - 1 if best["cost"] else 0.0
    return (
        f"With a retraining at {factor:g} times the price that the app names, {best['policy']} costs least; "
        f"{second['policy']} comes next, {more:.1%} more."
    )
