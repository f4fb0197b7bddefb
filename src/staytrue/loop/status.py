"""Status: the four answers about an app, as one document. `staytrue status` says it, the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from staytrue.kernel.incidents import standing
from staytrue.kernel.release import describe_axes
from staytrue.loop.look import Look, last_look, system_alarms, verdict
from staytrue.store.browse import alarms_of
from staytrue.store.counts import answered_rows
from staytrue.store.ledger import LIVE, Event
from staytrue.store.store import KeptRelease, Store

__all__ = ["status"]

_CHANGES = ("deployed", "promoted", "rolled_back", "reverted", "repaired", "undone", "trained")


def status(store: Store, app: str, *, at: str | None, now: datetime | None = None) -> dict[str, Any]:
    """The four answers as a document, described in docs/documents.md. No code of the app runs for it.

    Args:
        at: as of `now`, of the last look (`end`), or (None) of the last look if it was a replay's.
        now: the time of this machine, for tests.
    """
    wall = now or datetime.now(UTC)
    look = last_look(store, app, wall)
    moment = look.judged_at(wall, at)
    role = store.ledger.role(app, LIVE, "champion")
    champion = role.release if role else None
    seen = look.at_release(champion)
    alarms = standing(alarms_of(store.ledger, app, "system"))
    right = verdict(
        look,
        champion,
        system=system_alarms(alarms),
        now=moment,
        answered=lambda: _answered(store, app, moment),
    )
    return {
        "app": app,
        "at": moment.isoformat(),
        "replayed": look.runs is None and look.as_of_then,
        "runs": look.runs,
        "champion": {"release": role.release, "epoch": role.epoch} if role and role.release else None,
        "right": {"state": right.state, "sentence": right.sentence, "evidence": right.evidence},
        "changed": _changed(store, app),
        "blame": _blamed(store, app, role.release if role else None),
        "next": _next(seen, store, app, look, alive=bool(look.runs) or moment != wall),
    }


def _answered(store: Store, app: str, now: datetime) -> int:
    shown = answered_rows(store, app, now - timedelta(hours=1))
    return sum(rows for (_, arm), rows in shown.items() if arm != "shadow")


def _newest(store: Store, app: str, kinds: tuple[str, ...]) -> Event | None:
    return next(iter(store.ledger.events(app, LIVE, kinds=kinds, newest_first=True, limit=1)), None)


def _blamed(store: Store, app: str, champion: str | None) -> dict[str, Any]:
    event = _newest(store, app, ("blamed",))
    told = event.body if event else {}
    over = champion is not None and told.get("bad") == _answered_before(store, app, champion)
    if event is None or champion is None or not (over or told["bad"] == champion):
        sentence = "unknown: nothing was re-run to find out; `staytrue blame` does"
        return {"state": "unknown", "sentence": sentence}
    since = f" Since then {champion[:8]} has become champion." if over else ""
    return {
        "state": "over" if over else told["outcome"],
        "at": event.at.isoformat(),
        "event": event.id,
        "good": told["good"],
        "sentence": f"{event.at:%Y-%m-%d} {event.sentence.removeprefix('Blame: ')}{since}",
    }


def _answered_before(store: Store, app: str, champion: str) -> str | None:
    """The release before the champion, as far as that is known."""
    event = _newest(store, app, _CHANGES)
    return _before(event, store.release(champion)) if event else None


def _changed(store: Store, app: str) -> dict[str, Any]:
    event = _newest(store, app, _CHANGES)
    if event is None:
        return {"at": None, "release": None, "sentence": "nothing: there is no release yet", "axes": []}
    champion = store.champion(app)
    before = _before(event, champion)
    axes = list(describe_axes(store.release(before).release, champion.release)) if champion and before else []
    return {
        "at": event.at.isoformat(),
        "release": event.body.get("release"),
        "sentence": f"{event.at:%Y-%m-%d} {event.sentence}" + (f" ({'; '.join(axes)})" if axes else ""),
        "axes": axes,
    }


def _before(event: Event, champion: KeptRelease | None) -> str | None:
    """Who answered before the event; where it does not say, what the champion was made from."""
    told = event.body.get("against") or event.body.get("from") or event.body.get("evidence", {}).get("from")
    parents = champion.release.parents if champion else ()
    return told or next(iter(parents), None)


def _next(seen: Mapping[str, Any], store: Store, app: str, look: Look, *, alive: bool) -> dict[str, Any]:
    """`alive`: somebody does it, or did at the moment that the answers are about."""
    trial = seen.get("trial")
    if not alive and look.at is not None:
        waits = f"; challenger {trial['release'][:8]} stays in {trial['stage']}" if trial else ""
        sentence = f"nothing by itself: no controller runs, `staytrue up` beside the app starts one{waits}"
    elif look.paused:
        sentence = "nothing: a person paused the loop; `staytrue resume` lets it go on"
    elif trial:
        sentence = f"challenger {trial['release'][:8]} is in {trial['stage']}, {trial['rows']} live rows so far"
    elif seen.get("service"):
        sentence = str(seen["next"])
    elif seen.get("next"):
        sentence = f"{seen['next']}; {seen.get('rows_since', 0):,} labelled rows came since the champion's training"
    elif look.runs:
        sentence = "the loop runs, and waits for rows"
    else:
        champion = store.champion(app)
        sentence = "`staytrue train` makes the first release"
        if champion is not None:
            idle = "`staytrue up` serves it; other code is what may change it"
            sentence = idle if champion.release.is_service else "`staytrue replay` chooses a policy on your own past"
    return {"trial": trial, "sentence": sentence}
