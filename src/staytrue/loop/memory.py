"""Memory: what a life remembers between two ticks, as one JSON document, and the life that goes on from it.

The document replaces the one before in the transaction that writes what happened (`store/ledger.py`: `Fence`), so after a crash
the loop goes on from its last word. Releases stand in it by id, models and code are in the store. Ticks stand in it by their
number, counted from the first one kept: rows that are fetched later for an older time shift them, and are allowed for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

from staytrue.errors import InvalidInput
from staytrue.kernel.evidence import Differences, Harm
from staytrue.kernel.policy import Decision, Freshness
from staytrue.kernel.release import Digest
from staytrue.kernel.rollout import Step
from staytrue.loop.life import Life, Retraining, Served, Waiting
from staytrue.loop.train import Trained
from staytrue.loop.trial import Pairs, Sums, Trial
from staytrue.loop.watch import RollbackWatch, Watch

__all__ = ["FORM", "recall", "remember"]

FORM: Final = 1
"""The form of the document; one of another form is not read, and the watch begins anew."""


def remember(life: Life) -> dict[str, Any]:
    """All that the life needs to go on, as JSON."""
    return {
        "form": FORM,
        "origin": life.past.ticks[0].part.since.isoformat(),
        "release": life.release,
        "rows": life.champion.rows,
        "stop": life.stop,
        "began": life.began,
        "lived": life.lived,
        "known": life.known,
        "tried": life.tried,
        "watch": _watch_document(life.watch),
        "retraining": life.retraining and {"now": life.retraining.now.isoformat(), "known": life.retraining.known},
        "trial": life.trial and _trial_document(life.trial),
        "waiting": life.waiting and {**asdict(life.waiting), "until": life.waiting.until.isoformat()},
        "rollback": life.rollback and _rollback_document(life.rollback),
        "asked_until": life.asked_until and life.asked_until.isoformat(),
        "decided_at": life.decided_at.isoformat(),
        "spent": [at.isoformat() for at in life.spent],
        "setbacks": life.setbacks,
        "number": life.number,
        "served": {str(tick): asdict(one) for tick, one in life.served.items()},
        "recent": life.recent,
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
    shift = _shift(life, datetime.fromisoformat(document["origin"]))
    try:
        _recall(life, document, shift)
    except (KeyError, TypeError, ValueError) as exc:
        raise _unreadable(f"{type(exc).__name__}: {exc}") from exc


def _recall(life: Life, document: Mapping[str, Any], shift: int) -> None:
    life.release = Digest(document["release"])
    life.champion = _with_rows(life.who(life.release), document["rows"])
    for name in ("stop", "began", "lived", "known", "tried"):
        setattr(life, name, int(document[name]) + shift)
    life.watch = _watch(document["watch"])
    under_way = document["retraining"]
    if under_way:
        now = datetime.fromisoformat(under_way["now"])
        life.retraining = Retraining(now=now, known=int(under_way["known"]) + shift)
    life.trial = _trial(life, document["trial"], shift) if document["trial"] else None
    waiting = document["waiting"]
    life.waiting = Waiting(**{**waiting, "until": datetime.fromisoformat(waiting["until"])}) if waiting else None
    life.rollback = _rollback(life, document["rollback"], shift) if document["rollback"] else None
    asked_until = document["asked_until"]
    life.asked_until = datetime.fromisoformat(asked_until) if asked_until else None
    life.decided_at = datetime.fromisoformat(document["decided_at"])
    life.spent = [datetime.fromisoformat(at) for at in document["spent"]]
    life.setbacks, life.number = int(document["setbacks"]), int(document["number"])
    life.served = {int(tick) + shift: Served(**one) for tick, one in document["served"].items()}
    life.recent = [(int(rows), float(total)) for rows, total in document["recent"]]
    life.last = Decision(**document["last"]) if document["last"] else None
    life.chronicle.count = int(document["count"])


def _shift(life: Life, origin: datetime) -> int:
    """By how many ticks the first one moved since: older rows were fetched."""
    for tick in life.past.ticks:
        if tick.part.since == origin:
            return tick.index
        if tick.part.since > origin:
            break
    raise _unreadable(f"the rows from {origin:%Y-%m-%d %H:%M} on, with which it begins, are not there any more")


def _watch_document(watch: Watch) -> dict[str, Any]:
    harm = watch.harm.document() if watch.harm else None
    return {"books": asdict(watch.books), "harm": harm, "alarmed": watch.alarmed}


def _watch(document: Mapping[str, Any]) -> Watch:
    harm = Harm.from_document(document["harm"]) if document["harm"] else None
    return Watch(books=Freshness(**document["books"]), harm=harm, alarmed=bool(document["alarmed"]))


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


def _trial_document(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "release": trial.release,
        "rows": trial.challenger.rows,
        "steps": [asdict(step) for step in trial.steps],
        "started": trial.started,
        "pairs": _pairs_document(trial.pairs),
        "live": _pairs_document(trial.live),
        "at": trial.at,
        "step_rows": trial.step_rows,
        "live_rows": trial.live_rows,
        "lost": asdict(trial.lost),
        "champion_lost": asdict(trial.champion_lost),
        "source": trial.source,
    }


def _trial(life: Life, document: Mapping[str, Any], shift: int) -> Trial:
    release = Digest(document["release"])
    plain = {name: document[name] for name in ("number", "at", "step_rows", "live_rows", "source")}
    return Trial(
        release=release,
        challenger=_with_rows(life.who(release), document["rows"]),
        steps=tuple(Step(**step) for step in document["steps"]),
        started=int(document["started"]) + shift,
        pairs=_pairs(document["pairs"]),
        live=_pairs(document["live"]),
        lost=Sums(**document["lost"]),
        champion_lost=Sums(**document["champion_lost"]),
        **plain,
    )


def _rollback_document(rollback: RollbackWatch) -> dict[str, Any]:
    return {
        "number": rollback.number,
        "release": rollback.old_release,
        "rows": rollback.old.rows,
        "stop": rollback.old_stop,
        "pairs": _pairs_document(rollback.pairs),
        "rows_left": rollback.rows_left,
    }


def _rollback(life: Life, document: Mapping[str, Any], shift: int) -> RollbackWatch:
    release = Digest(document["release"])
    return RollbackWatch(
        number=int(document["number"]),
        old=_with_rows(life.who(release), document["rows"]),
        old_release=release,
        old_stop=int(document["stop"]) + shift,
        pairs=_pairs(document["pairs"]),
        rows_left=int(document["rows_left"]),
    )


def _with_rows(trained: Trained, rows: int) -> Trained:
    return replace(trained, rows=int(rows))


def _unreadable(why: str) -> InvalidInput:
    return InvalidInput("ST802", f"The loop can't go on from what it remembers: {why}. The watch begins anew.", why=why)
