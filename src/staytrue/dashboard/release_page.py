"""Releases as documents: a page of the list, one of them with its trial and its lineage, and its model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np

from staytrue.errors import NotFound, StaytrueError
from staytrue.kernel.evidence import Differences, interval
from staytrue.kernel.release import Digest, Release, describe_axes
from staytrue.loop.diff import code_changes
from staytrue.loop.losses import losses
from staytrue.loop.show import release_document, unless_gone
from staytrue.store import code, frames
from staytrue.store.browse import Made, events_about, events_at, found_events, made_releases
from staytrue.store.env import env_diff
from staytrue.store.ledger import LIVE, Event
from staytrue.store.models import Golden
from staytrue.store.objects import LocalObjects
from staytrue.store.store import KeptRelease, Store
from staytrue.store.tables import Table

__all__ = ["PER_PAGE", "card_document", "release_page_document", "releases_document", "trial_document"]

PER_PAGE: Final = 50
_ANCESTORS: Final = 6
_DIFF_LINES: Final = 400
_DIFF_FILES: Final = 12
_GOLDEN: Final = 5
_LOOKS: Final = 60
_ENDS: Final = ("deployed", "promoted", "rejected", "withdrawn", "reverted", "repaired", "rolled_back", "undone")
_NOTHING: Final = ["it is not in the store any more"]
_UNKNOWN: Final[dict[str, Any]] = {"python": None, "implementation": None, "distributions": [], "differs": []}
"""Of an environment that is not in the store."""
_TRIAL: Final = ("shadow", "canary", "promoted", "rejected", "withdrawn", "rolled_back", "waiting")


# ------------------------------------------------------------ the list


def releases_document(store: Store, app: str, *, page: int = 1, begins: str = "") -> dict[str, Any]:
    """A page of the releases of the live timeline, the newest first."""
    begins = begins.strip().lower()
    page = max(page, 1)
    made, total = made_releases(store.ledger, app, begins=begins, limit=PER_PAGE, offset=(page - 1) * PER_PAGE)
    if page > 1 and not made:
        page = 1
        made, total = made_releases(store.ledger, app, begins=begins, limit=PER_PAGE)
    events, ends = events_at(store.ledger, [one.seq for one in made]), _ends(store, app, made)
    roles = _roles(store, app)
    return {
        "app": app,
        "total": total,
        "page": page,
        "pages": max(1, -(-total // PER_PAGE)),
        "begins": begins,
        "releases": [_row(store, one.id, events.get(one.seq), ends.get(one.id), roles) for one in made],
    }


def _ends(store: Store, app: str, made: Sequence[Made]) -> dict[str, Event]:
    """What became of these releases first: the event that let each in, or threw it out."""
    if not made:
        return {}
    since = min(one.seq for one in made)
    found = found_events(
        store.ledger, app, timelines=[LIVE], kinds=_ENDS, after=since - 1, limit=4 * PER_PAGE, oldest_first=True
    )
    first: dict[str, Event] = {}
    for event in found:
        first.setdefault(str(event.body.get("release")), event)
    return first


def _row(store: Store, id_: Digest, event: Event | None, end: Event | None, roles: Mapping[str, str]) -> dict[str, Any]:
    release = unless_gone([], id_, lambda: _release(store.objects, id_), None)
    parent = release.parents[0] if release and release.parents else None
    return {
        "id": id_,
        "role": roles.get(id_),
        "at": event.at.isoformat() if event else None,
        "kind": event.kind if event else None,
        "became": end.kind if end else "on trial" if roles.get(id_) == "challenger" else None,
        "sentence": end.sentence if end else event.sentence if event else None,
        "parent": parent,
        "differs": list(_differs(store.objects, parent, id_)) if parent else _NOTHING if release is None else [],
        "scores": dict(release.scores) if release else {},
        "service": release.is_service if release else False,
        "gone": release is None,
    }


def _roles(store: Store, app: str) -> dict[str, str]:
    return {role.release: role.role for role in store.ledger.roles(app, LIVE) if role.release}


@lru_cache(maxsize=4_096)
def _release(objects: LocalObjects, id_: str) -> Release:
    """A release never changes."""
    return Release.from_document(objects.get_document(Digest(id_)))


@lru_cache(maxsize=4_096)
def _differs(objects: LocalObjects, a: str, b: str) -> Sequence[str]:
    try:
        return describe_axes(_release(objects, a), _release(objects, b))
    except StaytrueError:  # `gc` was told to forget the parent
        return ()


# ------------------------------------------------------------ one of them


def release_page_document(store: Store, app: str, which: str, *, now: datetime) -> dict[str, Any]:
    """All that is known of a release: what `staytrue show` prints, its trial, its lineage, and what differs from its parent.

    Raises:
        NotFound: ST473, no such release of this app.    InvalidInput: ST474.
    """
    kept = _of_app(store, app, which)
    parent = _parent(store, kept)
    roles = _roles(store, app)
    told = release_document(store, kept)
    gone = told["gone"]
    no_files: list[dict[str, Any]] = []
    differs = (
        unless_gone(gone, "what differs from its parent", lambda: _against_parent(store, parent, kept), None)
        if parent
        else None
    )
    return {
        "app": app,
        "role": roles.get(kept.id),
        "champion": next((id_ for id_, role in roles.items() if role == "champion"), None),
        "release": told,
        "parent": parent.id if parent else None,
        "differs": differs,
        "env": unless_gone(gone, "its environment", lambda: _environment(store, parent, kept), _UNKNOWN),
        "files": unless_gone(gone, "its files", lambda: _files(store, kept), no_files),
        "golden": unless_gone(gone, "its golden rows", lambda: _golden(store, kept), None),
        "trial": trial_document(store, app, kept.id),
        "lineage": _lineage(store, kept),
        "at": now.isoformat(),
    }


def _of_app(store: Store, app: str, which: str) -> KeptRelease:
    kept = store.release(which) if which != "champion" else store.champion(app)
    if kept is None or kept.release.app != app:
        raise NotFound(
            "ST473", f"{app} has no release with the id {which[:80]!r}. `staytrue log` lists them.", id=which
        )
    return kept


def _parent(store: Store, kept: KeptRelease) -> KeptRelease | None:
    for id_ in kept.release.parents[:1]:
        try:
            return store.release(id_)
        except NotFound:
            return None
    return None


def _against_parent(store: Store, parent: KeptRelease, kept: KeptRelease) -> dict[str, Any]:
    a, b = parent.release, kept.release
    files = code_changes(store, a, b)
    return {
        "sentences": list(describe_axes(a, b)),
        "files": files,
        "texts": {path: _text_diff(store.objects, a.code, b.code, path) for path in files["changed"][:_DIFF_FILES]},
        "tables": {
            name: _table_step(store, a.tables.get(name), id_)
            for name, id_ in b.tables.items()
            if a.tables.get(name) != id_
        },
        "params": {"a": dict(a.params), "b": dict(b.params)},
        "seed": {"a": a.seed, "b": b.seed},
    }


@lru_cache(maxsize=128)
def _text_diff(objects: LocalObjects, a: Digest, b: Digest, path: str) -> str:
    lines = code.text_diff(objects, a, b, path).splitlines()
    more = [f"... {len(lines) - _DIFF_LINES:,} more lines"] if len(lines) > _DIFF_LINES else []
    return "\n".join([*lines[:_DIFF_LINES], *more])


def _table_step(store: Store, a: str | None, b: str) -> dict[str, Any]:
    old, new = store.table_by_id(a).table if a else None, store.table_by_id(b).table
    return {
        "rows": {"a": old.rows if old else None, "b": new.rows},
        "until": {"a": _iso(old.until) if old else None, "b": _iso(new.until)},
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _environment(store: Store, parent: KeptRelease | None, kept: KeptRelease) -> dict[str, Any]:
    document = store.objects.get_document(kept.release.env)
    before = (
        store.objects.get_document(parent.release.env) if parent and store.objects.has(parent.release.env) else None
    )
    distributions = document.get("distributions", [])
    return {
        "python": document.get("python"),
        "implementation": document.get("implementation"),
        "distributions": [
            list(pair) for pair in (distributions.items() if isinstance(distributions, dict) else distributions)
        ],
        "differs": list(env_diff(before, document).sentences()) if before else [],
    }


def _files(store: Store, kept: KeptRelease) -> list[dict[str, Any]]:
    found = code.load(store.objects, kept.release.code)
    return [{"path": file.path, "bytes": file.size} for file in found.files]


def _golden(store: Store, kept: KeptRelease) -> dict[str, Any] | None:
    if kept.release.golden is None:
        return None
    golden = Golden.from_document(store.objects.get_document(kept.release.golden))
    rows = frames.read_parquet(store.objects.get(golden.rows))
    columns = frames.to_pydict(frames.take(rows, np.arange(min(rows.num_rows, _GOLDEN))))
    return {
        "rows": rows.num_rows,
        "columns": list(columns),
        "shown": [
            {"row": {name: _shown(values[at]) for name, values in columns.items()}, "answer": golden.answers[at]}
            for at in range(min(rows.num_rows, _GOLDEN, len(golden.answers)))
        ],
    }


def _shown(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


# ------------------------------------------------------------ its trial


def trial_document(store: Store, app: str, release: str) -> dict[str, Any] | None:
    """How the release proved itself, or does: what was seen at each step, and look by look while it is on trial."""
    told = events_about(store.ledger, app, release)
    events = [event for event in told if event.timeline == LIVE and event.kind in _TRIAL]
    first = events[0] if events else None
    if first is not None:
        held = found_events(store.ledger, app, timelines=[LIVE], kinds=["backtest"], before=first.seq, limit=1)
        between = found_events(
            store.ledger, app, timelines=[LIVE], kinds=["promoted", "rejected"], before=first.seq, limit=1
        )
        if held and held[0].body.get("release") in (None, release) and (not between or between[0].seq < held[0].seq):
            events = [held[0], *events]
    looks, standing = _looks(store, app, release)
    if not events and not looks:
        return None
    steps = [_step(event) for event in events]
    last = next((one for one in reversed(steps) if one["rows"]), None)
    under_way = standing is not None
    margin = standing["margin"] if standing else next((s["margin"] for s in steps if s["margin"] is not None), None)
    return {
        "under_way": under_way,
        "steps": steps,
        "looks": looks,
        "margin": margin,
        "segments": dict(_last_segments(events)),
        "sentence": _trial_sentence(steps, standing, last),
    }


def _step(event: Event) -> dict[str, Any]:
    seen = event.body.get("evidence") or {}
    told = seen.get("blocks") is not None or seen.get("lo") is not None or seen.get("hi") is not None
    return {
        "kind": event.kind,
        "at": event.at.isoformat(),
        "sentence": event.sentence,
        "rows": seen.get("rows") if told else None,
        "mean": seen.get("mean") if told else None,
        "low": seen.get("lo"),
        "high": seen.get("hi"),
        "margin": seen.get("margin"),
        "alpha": seen.get("alpha"),
        "verdict": seen.get("verdict"),
        "champion_loss": seen.get("champion_loss"),
        "challenger_loss": seen.get("challenger_loss"),
        "share": seen.get("share"),
    }


def _last_segments(events: Sequence[Event]) -> Mapping[str, Any]:
    for event in reversed(events):
        found = (event.body.get("evidence") or {}).get("segments")
        if found:
            return {
                name: {"rows": one.get("rows"), "mean": one.get("mean"), "low": one.get("lo"), "high": one.get("hi")}
                for name, one in found.items()
            }
    return {}


def _looks(store: Store, app: str, release: str) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """What the living loop has of it: its evidence after each tick, as `kernel/trial.py` reads it."""
    lease = store.ledger.lease(app)
    trial = ((lease.state if lease else {}).get("life") or {}).get("trial")
    if not trial or trial.get("release") != release:
        return [], None
    kept = trial["pairs"]
    overall = Differences.from_document(kept["overall"])
    alpha = kept["alpha"] / 2 if kept["segments"] else kept["alpha"]
    ticks = [int(tick) for tick in overall.ticks]
    every = max(1, len(ticks) // _LOOKS)
    looks = []
    for at in sorted({*range(len(ticks), 0, -every)}):
        seen = interval(overall, alpha=alpha, before=ticks[at - 1] + 1).document()
        looks.append({"rows": seen["rows"], "mean": seen["mean"], "low": seen["lo"], "high": seen["hi"]})
    stage = trial["steps"][trial["at"]]["stage"]
    return looks, {"margin": kept["margin"], "stage": stage, "rows": trial["live_rows"]}


def _trial_sentence(
    steps: Sequence[Mapping[str, Any]], standing: Mapping[str, Any] | None, last: Mapping[str, Any] | None
) -> str:
    if standing is not None:
        return f"It is in {standing['stage']}, after {standing['rows']:,} live rows."
    if steps and steps[-1]["kind"] in {"promoted", "rejected", "withdrawn", "rolled_back"}:
        return str(steps[-1]["sentence"])
    return str(last["sentence"]) if last else str(steps[-1]["sentence"]) if steps else ""


# ------------------------------------------------------------ where it comes from


def _lineage(store: Store, kept: KeptRelease) -> dict[str, Any]:
    """Its ancestors, oldest first, and what each step changed; and what this one is made of."""
    chain: list[dict[str, Any]] = []
    current: KeptRelease | None = kept
    while current is not None and len(chain) <= _ANCESTORS:
        parent = _parent(store, current)
        chain.append(
            {
                "id": current.id,
                "differs": list(_differs(store.objects, parent.id, current.id)) if parent else [],
                "parent": parent.id if parent else None,
            }
        )
        current = parent
    release = kept.release
    return {
        "chain": chain[::-1],
        "more": bool(chain and chain[-1]["parent"]),
        "made_of": [
            {"kind": "code", "name": "code", "id": release.code},
            *({"kind": "table", "name": name, "id": id_} for name, id_ in release.tables.items()),
            {"kind": "env", "name": "environment", "id": release.env},
            *([{"kind": "params", "name": "params", "id": None}] if release.params else []),
        ],
        "model": release.model,
        "recipe": release.recipe,
    }


# ------------------------------------------------------------ the model card


def card_document(store: Store, app: str, which: str, *, now: datetime) -> dict[str, Any]:
    """What an auditor asks of a release: what it is, what it learned from, how it was let in, how it does, what is not known."""
    kept = _of_app(store, app, which)
    told = release_document(store, kept)
    schemas = {
        name: unless_gone([], name, partial(_table, store, id_), None) for name, id_ in kept.release.tables.items()
    }
    is_champion = _roles(store, app).get(kept.id) == "champion"
    trial = trial_document(store, app, kept.id)
    data = [
        {"source": name, **about, "columns": len(table.schema) if (table := schemas[name]) else None}
        for name, about in told["tables"].items()
    ]
    return {
        "kind": "model card",
        "at": now.isoformat(),
        "app": app,
        "release": kept.id,
        "role": _roles(store, app).get(kept.id),
        "service": kept.release.is_service,
        "model": told["model"],
        "recipe": told["recipe"],
        "as_trained": told["as_trained"],
        "code": told["code"],
        "env": unless_gone(told["gone"], "its environment", lambda: _environment(store, None, kept), _UNKNOWN)
        | {"id": told["env"]},
        "params": told["params"],
        "seed": told["seed"],
        "data": data,
        "label": next((table.label for table in schemas.values() if table), None),
        "scores": told["scores"],
        "trial": trial,
        "losses": losses(store, app)["sentence"] if is_champion else None,
        "training_data": told["training_data"],
        "parents": told["parents"],
        "history": [
            {"at": one["at"], "kind": one["kind"], "sentence": one["sentence"]}
            for one in told["events"]
            if one["timeline"] == LIVE
        ],
        "limits": _limits(kept, told, trial),
    }


def _table(store: Store, id_: str) -> Table | None:
    return store.table_by_id(id_).table


def _limits(kept: KeptRelease, told: Mapping[str, Any], trial: Mapping[str, Any] | None) -> list[str]:
    """What is not known, or has to be known by whoever relies on it."""
    said = list(told["gone"])
    if trial is None:
        said.append("It was never on trial: nothing shows that it is better or worse than another release.")
    if kept.release.golden is None:
        said.append("It has no golden rows: a later load is not held against earlier answers.")
    if not told["as_trained"] and not kept.release.is_service:
        said.append("Its model was trained from other code or data than the release holds: a revert has mixed them.")
    found = told["training_data"]
    said += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in (found["sentences"] if found else [])]
    if found is None and not kept.release.is_service:
        said.append("How old what it learned from is could not be looked at.")
    return said
