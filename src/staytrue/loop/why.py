"""Why: what a single answer rests on, and what others would have said.

Who answered and what that release learned from, which rows of training are near the row, what moved the answer.
All of it follows from the log and the store: whatever stands in the user's folder by now is not looked at, and nothing is
written down. Releases are asked in jobs, each with its own code; the libraries are today's. What can't be found out is said in
its place and ends nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from staytrue.errors import Corrupt, InvalidInput, NotFound, StaytrueError
from staytrue.kernel.account import account, shown
from staytrue.kernel.contract import Column
from staytrue.kernel.metric import metric as read_metric
from staytrue.kernel.release import Digest, Release, describe_axes
from staytrue.kernel.signature import Feature, read_row
from staytrue.kernel.sketch import Sketch, category, kind_of, quantile
from staytrue.kernel.why import Effect, distances, label_effect, number_effect, probabilities, ranked, standing, units
from staytrue.loop.asking import (
    Asking,
    Server,
    Varied,
    answered,
    as_typed,
    attempt,
    golden_rows,
    logged_values,
    opened,
    server_of_release,
)
from staytrue.loop.jobs import Steps
from staytrue.loop.neighbours import Neighbours, neighbours
from staytrue.store import frames, models, tables
from staytrue.store.block import Layout
from staytrue.store.event import LIVE
from staytrue.store.prediction import Prediction, labelled_near
from staytrue.store.store import Store

__all__ = ["DRAWS", "key_columns", "why"]

DRAWS: Final = 64
"""So many rows of training lend their values to the row, column by column."""

_NEAREST: Final = 5
_JUDGED: Final = 5_000
_EFFECTS: Final = 8
_EDGE: Final = 0.01
_COMMIT_DIGITS: Final = 40
_CHANCES: Final = ("log_loss", "brier")


def key_columns(store: Store, app: str) -> frozenset[str]:
    """The columns by which releases of an app tell rows apart."""
    found = set()
    for kept in store.releases(app):
        for table in kept.release.tables.values():
            try:
                one = store.table_by_id(table).table
            except (NotFound, Corrupt):
                continue
            if one.label is not None and one.key is not None:
                found.add(one.key)
    return frozenset(found)


def why(
    store: Store, app: str, prediction: Prediction, *, home: Path, draws: int = DRAWS, seed: int = 0
) -> Steps[dict[str, Any]]:
    """All that there is to say of a prediction, as a document (docs/documents.md) with its sentences.

    Args:
        draws: how many rows of training lend their values; 0: what moved the answer is not asked.
        seed: of these rows: the same seed, the same document.

    Raises:
        InvalidInput: ST975, `draws` or `seed` is out of range.
        Corrupt, NotFound: the release itself is not to be read.    Unavailable: this machine's disk or processes refuse.
    """
    if not 0 <= draws <= 10_000 or seed < 0:
        raise InvalidInput(
            "ST975",
            f"Can't draw {draws} rows with seed {seed}: give 0 to 10,000 rows, and a seed of 0 or more.",
            draws=draws,
        )
    id_ = Digest(prediction.release)
    release = store.release_document(id_)
    before, champion = _before(store, app, id_, prediction.at), store.champion(app)
    whom = list(dict.fromkeys(one for one in (id_, before, champion.id if champion else None) if one))
    known: dict[Digest, Server | StaytrueError] = {}
    for one in whom:
        known[one] = yield from server_of_release(store, one, home)
    near = _near(store, known[id_], prediction, draws=draws, seed=seed)
    asking = Asking(store, prediction)
    tried = _to_try(store, asking, known[id_], near, draws)
    judged = labelled_near(store, app, prediction, most=_JUDGED) if prediction.label is not None else None
    others = [one for one in whom if one != id_]
    jobs = [
        attempt(asking.again, known[id_], judged),
        tried.varied.job if tried.varied else None,
        *(attempt(asking.reply, known[one]) for one in others),
    ]
    again, replied, *said = yield from answered(jobs)
    asked = _asked(known[id_], prediction, again)
    answers = dict(zip(others, said, strict=True))
    facts: dict[str, Any] = {
        "asked": asked,
        "release": _release(store, id_, release, before, prediction.at),
        "training": _training(known[id_], near, prediction),
        "moved": _moved(known[id_], prediction, again, replace(tried, replied=replied), seed=seed),
        "instead": {
            "before": _other(before, answers, asked) if before else None,
            "champion": _other(champion.id, answers, asked) if champion else None,
        },
    }
    words = account(facts)
    told = {name: one if one is None else {**one, "sentences": words[name]} for name, one in facts.items()}
    return {"app": app, "id": prediction.id, **told}


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """The row with other values, on its way: what is asked, or why not, and what was answered."""

    varied: Varied | None = None
    drawn_from: str = ""
    why_not: str | None = None
    replied: Any = None


def _to_try(
    store: Store, asking: Asking, server: Server | StaytrueError, near: Neighbours | StaytrueError | None, draws: int
) -> _Tried:
    if not draws:
        return _Tried(why_not="no draws were asked for")
    if not isinstance(server, StaytrueError) and server.release.is_service:
        return _Tried(why_not="a plain service learned from no rows whose values could stand in its columns")
    drawn, what = _drawn(store, server, near)
    if drawn is None or not drawn.num_rows:
        return _Tried(why_not="none of the rows that it learned from is kept, so there are no values to draw")
    varied = attempt(asking.varied, server, frames.take(drawn, np.arange(min(draws, drawn.num_rows))))
    if isinstance(varied, StaytrueError):
        return _Tried(why_not=varied.message)
    return _Tried(varied=varied, drawn_from=what)


# -- who it was -------------------------------------------------------------------------------------------------------


def _before(store: Store, app: str, id_: Digest, at: datetime) -> Digest | None:
    """The champion before a release came, as the ledger tells of it; of one that was never champion, whom it was made beside."""
    champions: list[tuple[datetime, str]] = []
    for event in store.ledger.events(app, LIVE):
        for change in event.roles:
            if change.role == "champion" and change.release and (not champions or champions[-1][1] != change.release):
                champions.append((event.at, change.release))
    mine = [place for place, (since, who) in enumerate(champions) if who == id_]
    came = [place for place in mine if champions[place][0] <= at] or mine[:1]
    if came:
        return Digest(champions[came[-1] - 1][1]) if came[-1] else None
    parents = store.release_document(id_).parents
    return parents[0] if parents else None


# -- facts ------------------------------------------------------------------------------------------------------------


def _asked(server: Server | StaytrueError, prediction: Prediction, again: Any) -> dict[str, Any]:
    """What was asked and answered, and how wrong it was."""
    row = dict(prediction.row)
    if isinstance(server, Server):
        # Not those that only other releases know, nor a key or a time that the request left out.
        roles = {one.name: one.role for one in server.signature.features}
        row = {name: row[name] for name in roles if name in row and (row[name] is not None or roles[name] == "feature")}
    made: dict[str, Any] = {
        "id": prediction.id,
        "at": prediction.at.isoformat(),
        "arm": prediction.role,
        "release": prediction.release,
        "row": _json(row),
        "answer": prediction.answer,
        "label": prediction.label,
        "label_at": _json(prediction.label_at),
        "flags": prediction.flags,
        "others": [dict(one) for one in prediction.others],
        "other_count": prediction.more,
        "metric": None,
        "loss": None,
        "loss_error": None,
        "standing": None,
    }
    if isinstance(again, StaytrueError):
        return made | {"loss_error": again.message}
    made["metric"] = again["metric"]
    losses = again.get("losses")
    if isinstance(losses, dict):
        made["loss_error"] = losses["message"]
    elif losses:
        made |= {"loss": losses[0], "standing": asdict(standing(losses[0], np.array(losses[1:], np.float64)))}
    return made


def _release(store: Store, id_: Digest, release: Release, before: Digest | None, at: datetime) -> dict[str, Any]:
    """Which release answered, and what it is made of."""
    env = attempt(store.objects.get_document, release.env)
    earlier = attempt(store.release_document, before) if before else None
    return {
        "id": id_,
        "service": release.is_service,
        "code": release.code,
        "commit": _commit(store, release),
        "model": release.model,
        "env": None
        if isinstance(env, StaytrueError)
        else {"id": release.env, "python": env["python"], "distributions": len(env["distributions"])},
        "params": dict(release.params),
        "seed": release.seed,
        "data": _data(store, release, at),
        "before": None
        if before is None or earlier is None or isinstance(earlier, StaytrueError)
        else {"release": before, "differs": list(describe_axes(earlier, release))},
    }


def _data(store: Store, release: Release, at: datetime) -> list[dict[str, Any]]:
    """What the release's model learned from, source by source."""
    recipe = None if release.recipe is None else attempt(store.recipe, release.recipe)
    if recipe is None:
        return []
    learned = release.tables if isinstance(recipe, StaytrueError) else recipe.tables
    return [_table(store, source, table, at) for source, table in learned.items()]


def _table(store: Store, source: str, id_: str, at: datetime) -> dict[str, Any]:
    kept = attempt(store.table_by_id, id_)
    if isinstance(kept, StaytrueError):
        return {"source": source, "table": id_, "error": kept.message}
    table = kept.table
    return {
        "source": source,
        "table": id_,
        "rows": table.rows,
        "since": _json(table.since),
        "until": _json(table.until),
        "age_s": (at - table.until).total_seconds() if table.until else None,
        "error": None,
    }


def _commit(store: Store, release: Release) -> str | None:
    """The commit that brought the release's code, if the loop took it from one."""
    for event in reversed(store.ledger.events(release.app, LIVE, kinds=["pushed"])):
        mark = event.body.get("mark")
        if event.body.get("code") == release.code and isinstance(mark, str) and len(mark) == _COMMIT_DIGITS:
            return mark
    return None


def _near(
    store: Store, server: Server | StaytrueError, prediction: Prediction, *, draws: int, seed: int
) -> Neighbours | StaytrueError | None:
    """The rows of training near the row, and a sample; None for a plain service."""
    if isinstance(server, StaytrueError) or server.table is None:
        return server if isinstance(server, StaytrueError) else None
    values, wrong = logged_values(server.signature, prediction.row)
    asked: Mapping[str, Column] = {}
    if not wrong:
        known = dict(server.table.schema)
        layout = Layout(server.signature.schema)
        block = layout.block({name: [value] for name, value in values.items()})
        asked = layout.columns(block, [name for name in server.signature.seen if name in known])
    scale = units(server.sketches)
    return attempt(
        partial(neighbours, nearest=_NEAREST, draws=draws, seed=seed), store.objects, server.table, asked, scale
    )


def _drawn(
    store: Store, server: Server | StaytrueError, near: Neighbours | StaytrueError | None
) -> tuple[frames.Rows | None, str]:
    """The rows that lend their values, and what they are; None: there are none."""
    if isinstance(near, Neighbours) and near.drawn.num_rows:
        return near.drawn, "rows of its training"
    if isinstance(server, StaytrueError) or near is None or server.release.golden is None:
        return None, ""
    golden = golden_rows(store, server.release.golden)
    return (None, "") if golden is None else (frames.read_parquet(store.objects.get(golden)), "golden rows of it")


def _training(
    server: Server | StaytrueError, near: Neighbours | StaytrueError | None, prediction: Prediction
) -> dict[str, Any] | None:
    """How the row stands beside what the release learned from; None for a plain service."""
    if isinstance(server, StaytrueError) or isinstance(near, StaytrueError):
        error = server if isinstance(server, StaytrueError) else near
        return {"error": error.message if isinstance(error, StaytrueError) else None}
    if near is None or server.table is None:
        return None
    return {
        "error": None,
        "source": server.table.source,
        "label": server.table.label,
        "unlike": _unlike(server, prediction.row),
        "rows": near.rows,
        "table_rows": near.table_rows,
        "parts": near.parts,
        "looked": near.looked,
        "gone": near.gone,
        "damaged": near.damaged,
        "nearest": _nearest(server, server.table, near, prediction),
    }


def _nearest(server: Server, table: tables.Table, near: Neighbours, prediction: Prediction) -> list[dict[str, Any]]:
    """The nearest rows, and in which columns they are other than the one asked about, the farthest first."""
    values, _ = logged_values(server.signature, prediction.row)
    layout = Layout(server.signature.schema)
    asked = layout.columns(layout.block({name: [value] for name, value in values.items()}), server.signature.seen)
    told = frames.to_pydict(near.nearest)
    scale = units(server.sketches)
    apart = {
        name: distances({name: one}, {name: frames.column(near.nearest, name)}, scale)
        for name, one in asked.items()
        if name in told
    }
    made = []
    for row, distance in enumerate(near.distances.tolist()):
        other = sorted((name for name in apart if apart[name][row] > 0), key=lambda name: (-apart[name][row], name))
        made.append(
            {
                "distance": distance,
                "time": _json(told[table.time][row]) if table.time else None,
                "key": _json(told[table.key][row]) if table.key else None,
                "label": _json(told[table.label][row]) if table.label else None,
                "row": {name: _json(told[name][row]) for name in apart},
                "differs": [
                    {"column": name, "value": _json(told[name][row]), "asked": _json(prediction.row.get(name))}
                    for name in other
                ],
            }
        )
    return made


def _moved(
    server: Server | StaytrueError, prediction: Prediction, again: Any, tried: _Tried, *, seed: int
) -> dict[str, Any]:
    """What the release answers now, and what it answers to the row with other values."""
    if isinstance(server, StaytrueError) or isinstance(again, StaytrueError):
        error = server if isinstance(server, StaytrueError) else again
        return {"error": error.message}
    first = again["row"][0]
    answer = first[0] if isinstance(first, list) else None
    made: dict[str, Any] = {
        "error": None,
        "again": "failed" if answer is None else "same" if _same(answer, prediction.answer) else "other",
        "answer": answer,
        "answer_error": None if isinstance(first, list) else str(first["message"]),
        "unsteady": _unsteady(again),
        "why_not": tried.why_not,
        "draws": 0,
        "drawn_from": tried.drawn_from,
        "seed": seed,
        "in_company": None,
        "class": None,
        "columns": 0,
        "effects": [],
        "still": 0,
        "failing": 0,
        "failure": None,
        "left_out": 0,
    }
    varied, replied = tried.varied, tried.replied
    if made["why_not"] is None and isinstance(replied, StaytrueError):
        made["why_not"] = replied.message
    if made["why_not"] is None and (varied is None or not isinstance(replied[0], list) or answer is None):
        made["why_not"] = made["answer_error"] or "it has no answer to the row"
    if made["why_not"] is not None or varied is None:
        return made
    base = replied[0][0]
    which, effects = _effects(base, replied[1:], varied, again["metric"])
    failed = [one for one in replied if not isinstance(one, list)]
    return made | {
        "draws": varied.draws,
        "in_company": None if _same(base, answer) else base,
        "class": which,
        "columns": len(effects),
        "effects": [one.document() for one in ranked(effects, most=_EFFECTS)],
        "still": sum(not one.changed for one in effects),
        "failing": len(failed),
        "failure": str(failed[0]["message"]) if failed else None,
        "left_out": varied.left_out,
    }


def _unsteady(again: Mapping[str, Any]) -> list[str]:
    """What answered otherwise when it was asked twice, one sentence each."""
    said = []
    for name, words in (("row", "the row"), ("golden", "a golden row")):
        one, two = again.get(name) or ([], [])
        if isinstance(one, list) and isinstance(two, list) and models.answers_equal(one, two) is not None:
            said.append(f"{words} asked twice is answered {shown(one[0])} and {shown(two[0])}")
        elif isinstance(one, list) != isinstance(two, list):
            said.append(f"{words} asked twice is answered once")
    return said


def _effects(base: Any, replied: Sequence[Any], varied: Varied, metric: str) -> tuple[str | None, list[Effect]]:
    """What each column did, and the class whose probability is meant, if one is."""
    given = [one[0] if isinstance(one, list) else None for one in replied]
    spans = {name: slice(i * varied.draws, (i + 1) * varied.draws) for i, name in enumerate(varied.columns)}
    chances = probabilities(base, given) if isinstance(base, dict) or metric in _CHANCES else None
    if chances is not None:
        which, chance, others = chances
        return which, [number_effect(name, chance, others[span]) for name, span in spans.items()]
    if _is_number(base) and all(one is None or _is_number(one) for one in given):
        numbers = np.array([np.nan if one is None else one for one in given], np.float64)
        return None, [number_effect(name, float(base), numbers[span]) for name, span in spans.items()]
    there = np.array([one is not None for one in given], np.bool_)
    other = np.array([one is not None and not _same(base, one) for one in given], np.bool_)
    return None, [label_effect(name, other[span], there[span]) for name, span in spans.items()]


def _other(id_: Digest, replied: Mapping[Digest, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What another release says to the row; of the one that answered, what it said."""
    if id_ == asked["release"]:
        return {
            "release": id_,
            "error": None,
            "answer": asked["answer"],
            "same": True,
            "difference": None,
            "loss": asked["loss"],
        }
    said = replied[id_]
    if isinstance(said, StaytrueError) or not isinstance(said[0], list):
        error = said.message if isinstance(said, StaytrueError) else str(said[0]["message"])
        return {"release": id_, "error": error, "answer": None, "same": False, "difference": None, "loss": None}
    answer, was = said[0][0], asked["answer"]
    gap = float(answer) - float(was) if _is_number(answer) and _is_number(was) else None
    return {
        "release": id_,
        "error": None,
        "answer": answer,
        "same": _same(answer, was),
        "difference": gap,
        "loss": _loss(asked, answer),
    }


def _loss(asked: Mapping[str, Any], answer: Any) -> float | None:
    """What another answer would have lost; None where nobody knows, or by a metric of the user's own, which runs in jobs only."""
    try:
        metric = read_metric(asked["metric"])
        return float(metric.losses([answer], [asked["label"]], None)[0]) if asked["loss"] is not None else None
    except StaytrueError:
        return None


def _same(a: Any, b: Any) -> bool:
    return models.answers_equal([a], [b]) is None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json(value: Any) -> Any:
    """A value of a row as JSON holds it."""
    if isinstance(value, Mapping):
        return {name: _json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- unlike training --------------------------------------------------------------------------------------------------


def _unlike(server: Server, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What in a row is not like training, column by column, each in a sentence."""
    given = {one.name: as_typed(row.get(one.name), one.type) for one in server.signature.features}
    values, found = read_row(opened(server.signature), given)
    seen = set(server.signature.seen)
    said = [
        {"column": one.field, "fault": one.fault, "sentence": f"unlike training: {one.message} It is {one.got}."}
        for one in found
        if one.field in seen
    ]
    flagged = {one["column"] for one in said}
    for one in server.signature.features:
        words = (
            None
            if one.name in flagged or one.name not in seen
            else _rare(one, values[one.name], server.sketches.get(one.name))
        )
        if words:
            said.append({"column": one.name, "fault": "rare", "sentence": f"rare in training: {words}"})
    return said


def _rare(one: Feature, value: Any, known: Sketch | None) -> str | None:
    """Where a value lies that training saw, but hardly; None where it is nothing to speak of."""
    if known is None or value is None or known["count"] - known["nulls"] < 1 / _EDGE:
        return None
    if one.categories is not None and isinstance(value, str):
        rows = known["categories"].get(category(value), 0)
        if rows < _EDGE * (known["count"] - known["nulls"]):
            return f"{one.name} {shown(value)} stands in {rows:,} of {known['count']:,} rows"
    elif known["is"] == "number" and kind_of(one.type) == "number":
        low, high = quantile(known, _EDGE), quantile(known, 1 - _EDGE)
        if low is not None and high is not None and not low <= value <= high:
            side, edge = ("below", low) if value < low else ("above", high)
            return f"{one.name} {shown(value)} is {side} {shown(edge)}, where 99 % of the rows end"
    return None
