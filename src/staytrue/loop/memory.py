"""Memory: what a life remembers between two ticks, as one JSON document, and the life that goes on from it.

The document replaces the one before in the transaction that writes what happened (`store/ledger.py`: `Fence`), so after a crash
the loop goes on from its last word. Releases stand in it by id, models and code are in the store. Ticks stand in it by the
time at which they begin, since their numbers change: when rows are fetched for an older time, and when a window that was in
quarantine comes after all. A tick that appears before those lived through is history, and is not lived through again.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

from staytrue.errors import InvalidInput, NotFound
from staytrue.kernel.evidence import Differences, Harm
from staytrue.kernel.policy import Decision, Freshness
from staytrue.kernel.release import Digest
from staytrue.kernel.rollout import Step
from staytrue.loop.life import Life, Retraining, Served, Waiting
from staytrue.loop.senses import Senses, ticks_between_alarms
from staytrue.loop.shelf import Kept, Shelf
from staytrue.loop.train import Trained
from staytrue.loop.trial import Pairs, Sums, Trial
from staytrue.loop.watch import RollbackWatch, Watch

__all__ = ["FORM", "recall", "remember"]

FORM: Final = 2
"""The form of the document; one of another form is not read, and the watch begins anew."""
_POSITIONS: Final = ("stop", "began", "lived", "known", "tried")


def remember(life: Life) -> dict[str, Any]:
    """All that the life needs to go on, as JSON."""
    return {
        "form": FORM,
        "release": life.release,
        "rows": life.champion.rows,
        **{name: _time(life, getattr(life, name)) for name in _POSITIONS},
        "watch": _watch_document(life.watch),
        "shelf": _shelf_document(life),
        "senses": life.senses.document(lambda tick: _time(life, tick)),
        "retraining": life.retraining
        and {"now": life.retraining.now.isoformat(), "known": _time(life, life.retraining.known)},
        "trial": life.trial and _trial_document(life, life.trial),
        "waiting": life.waiting and {**asdict(life.waiting), "until": life.waiting.until.isoformat()},
        "rollback": life.rollback and _rollback_document(life, life.rollback),
        "asked_until": life.asked_until and life.asked_until.isoformat(),
        "decided_at": life.decided_at.isoformat(),
        "spent": [at.isoformat() for at in life.spent],
        "setbacks": life.setbacks,
        "number": life.number,
        "served": {_time(life, tick): asdict(one) for tick, one in life.served.items()},
        "recent": life.recent,
        "lately": life.lately,
        "weeks": [[monday, rows, total] for monday, (rows, total) in life.weeks.items()],
        "last": life.last and asdict(life.last),
        "count": life.chronicle.count,
        "look": life.look(),
    }


def recall(life: Life, document: Mapping[str, Any]) -> None:
    """Let a life that has not begun go on from what one before remembered.

    Raises:
        InvalidInput: ST802, the document is of another form, or what it is about is not there any more.
    """
    if document.get("form") != FORM:
        raise _unreadable(f"its form is {document.get('form')!r}, expected {FORM}")
    try:
        _recall(life, document)
    except (KeyError, TypeError, ValueError) as exc:
        raise _unreadable(f"{type(exc).__name__}: {exc}") from exc


def _recall(life: Life, document: Mapping[str, Any]) -> None:
    life.release = Digest(document["release"])
    life.champion = _with_rows(life.who(life.release), document["rows"])
    for name in _POSITIONS:
        setattr(life, name, _tick(life, document[name]))
    life.watch = _watch(document["watch"])
    life.watch.arl = ticks_between_alarms("harm", life.past, life.settings)
    life.shelf = _shelf(life, document.get("shelf"))
    if document.get("senses"):
        life.senses = Senses.from_document(document["senses"], lambda time: _tick(life, time), life.past, life.settings)
    under_way = document["retraining"]
    if under_way:
        now = datetime.fromisoformat(under_way["now"])
        life.retraining = Retraining(now=now, known=_tick(life, under_way["known"]))
    life.trial = _trial(life, document["trial"]) if document["trial"] else None
    waiting = document["waiting"]
    life.waiting = Waiting(**{**waiting, "until": datetime.fromisoformat(waiting["until"])}) if waiting else None
    life.rollback = _rollback(life, document["rollback"]) if document["rollback"] else None
    asked_until = document["asked_until"]
    life.asked_until = datetime.fromisoformat(asked_until) if asked_until else None
    life.decided_at = datetime.fromisoformat(document["decided_at"])
    life.spent = [datetime.fromisoformat(at) for at in document["spent"]]
    life.setbacks, life.number = int(document["setbacks"]), int(document["number"])
    life.served = {_tick(life, time): Served(**one) for time, one in document["served"].items()}
    life.recent = [(int(rows), float(total)) for rows, total in document["recent"]]
    life.lately = {
        Digest(release): [(int(rows), float(total)) for rows, total in kept]
        for release, kept in document.get("lately", {life.release: document["recent"]}).items()
    }
    life.weeks = {monday: (int(rows), float(total)) for monday, rows, total in document.get("weeks", ())}
    life.last = Decision(**document["last"]) if document["last"] else None
    life.chronicle.count = int(document["count"])


def _time(life: Life, tick: int) -> str:
    """When a tick begins; of the one to come, when the last one ends."""
    return life.now(tick, begins=True).isoformat()


def _tick(life: Life, time: str) -> int:
    """The first tick that begins at that time or later."""
    moment, ticks = datetime.fromisoformat(time), life.past.ticks
    if moment > ticks[-1].part.until:
        raise _unreadable(f"the rows up to {moment:%Y-%m-%d %H:%M}, of which it tells, are not there any more")
    return bisect_left(ticks, moment, key=lambda tick: tick.part.since)


def _watch_document(watch: Watch) -> dict[str, Any]:
    harm = watch.harm.document() if watch.harm else None
    return {
        "books": asdict(watch.books),
        "harm": harm,
        **{name: getattr(watch, name) for name in ("alarmed", "looked_back", "new_loss")},
    }


def _watch(document: Mapping[str, Any]) -> Watch:
    harm = Harm.from_document(document["harm"]) if document["harm"] else None
    return Watch(
        books=Freshness(**document["books"]),
        harm=harm,
        alarmed=bool(document["alarmed"]),
        looked_back=bool(document.get("looked_back", False)),
        new_loss=document.get("new_loss"),
    )


def _shelf_document(life: Life) -> dict[str, Any]:
    kept = [{"release": k.release, "rows": k.trained.rows, "stop": _time(life, k.stop)} for k in life.shelf.kept]
    return {"kept": kept, "looked": _time(life, life.shelf.looked)}


def _shelf(life: Life, document: Mapping[str, Any] | None) -> Shelf:
    """What was kept in mind; a release that `gc` was told to forget is forgotten here too."""
    shelf = Shelf()
    for one in document["kept"] if document else ():
        release = Digest(one["release"])
        with contextlib.suppress(NotFound):
            trained = _with_rows(life.who(release), one["rows"])
            shelf.kept.append(Kept(release=release, trained=trained, stop=_tick(life, one["stop"])))
    shelf.looked = _tick(life, document["looked"]) if document else 0
    return shelf


def _pairs_document(pairs: Pairs) -> dict[str, Any]:
    segments = [[name, value, state.document()] for (name, value), state in pairs.segments.items()]
    return {"overall": pairs.overall.document(), "segments": segments, "margin": pairs.margin, "alpha": pairs.alpha}


def _pairs(document: Mapping[str, Any]) -> Pairs:
    return Pairs(
        overall=Differences.from_document(document["overall"]),
        segments={(name, value): Differences.from_document(state) for name, value, state in document["segments"]},
        margin=float(document["margin"]),
        alpha=float(document["alpha"]),
    )


def _trial_document(life: Life, trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "release": trial.release,
        "rows": trial.challenger.rows,
        "steps": [asdict(step) for step in trial.steps],
        "started": _time(life, trial.started),
        "pairs": _pairs_document(trial.pairs),
        "live": _pairs_document(trial.live),
        "at": trial.at,
        "step_rows": trial.step_rows,
        "live_rows": trial.live_rows,
        "lost": asdict(trial.lost),
        "champion_lost": asdict(trial.champion_lost),
        "source": trial.source,
        "stop": _time(life, trial.stop),
    }


def _trial(life: Life, document: Mapping[str, Any]) -> Trial:
    release = Digest(document["release"])
    plain = {name: document[name] for name in ("number", "at", "step_rows", "live_rows", "source")}
    return Trial(
        release=release,
        challenger=_with_rows(life.who(release), document["rows"]),
        steps=tuple(Step(**step) for step in document["steps"]),
        started=_tick(life, document["started"]),
        pairs=_pairs(document["pairs"]),
        live=_pairs(document["live"]),
        lost=Sums(**document["lost"]),
        champion_lost=Sums(**document["champion_lost"]),
        stop=_tick(life, document.get("stop", document["started"])),
        **plain,
    )


def _rollback_document(life: Life, rollback: RollbackWatch) -> dict[str, Any]:
    return {
        "number": rollback.number,
        "release": rollback.old_release,
        "rows": rollback.old.rows,
        "stop": _time(life, rollback.old_stop),
        "pairs": _pairs_document(rollback.pairs),
        "rows_left": rollback.rows_left,
    }


def _rollback(life: Life, document: Mapping[str, Any]) -> RollbackWatch:
    release = Digest(document["release"])
    return RollbackWatch(
        number=int(document["number"]),
        old=_with_rows(life.who(release), document["rows"]),
        old_release=release,
        old_stop=_tick(life, document["stop"]),
        pairs=_pairs(document["pairs"]),
        rows_left=int(document["rows_left"]),
    )


def _with_rows(trained: Trained, rows: int) -> Trained:
    return replace(trained, rows=int(rows))


def _unreadable(why: str) -> InvalidInput:
    return InvalidInput("ST802", f"The loop can't go on from what it remembers: {why}. The watch begins anew.", why=why)
