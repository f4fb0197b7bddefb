"""What runs inside a job: fetch, train, answer. The only place where a user's functions are called on a user's data.

A task is `(payload, outbox) -> document`: it reads objects, writes files into its outbox, and records nothing. Whoever asked for
the job puts the files into the store and the facts into the ledger: so a job that is killed, late or run twice has no effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from staytrue.app import App, load
from staytrue.errors import InvalidInput, StaytrueError
from staytrue.kernel.contract import SourceSpec
from staytrue.kernel.examples import example_signature
from staytrue.kernel.metric import UserMetric
from staytrue.kernel.metric import metric as read_metric
from staytrue.kernel.release import Digest
from staytrue.loop.described import document_of
from staytrue.store import frames, models, tables
from staytrue.store.objects import LocalObjects

__all__ = [
    "answer",
    "asked_again",
    "checked_answers",
    "describe",
    "example_rows",
    "examples",
    "fetch",
    "joined",
    "plain_answers",
    "predictable",
    "prepare",
    "reply",
    "train",
]

GOLDEN_ROWS = 32


def prepare(payload: Mapping[str, Any]) -> None:
    """Import the app, and read the parts that the job will need, before the launcher forks: its children inherit both."""
    _app(payload["entry"])
    objects = _objects(payload["store"])
    for part in payload.get("parts", ()):
        _part(payload["store"], part)
    for source in payload.get("sources", ()):
        table = tables.load(objects, Digest(source["manifest"]))
        for part in table.parts:
            if part.rows:
                _part(payload["store"], part.object)


def fetch(payload: Mapping[str, Any], outbox: Path) -> dict[str, Any]:
    """The rows that a source gives, as one Parquet file."""
    with contextlib.chdir(payload["home"]):  # a source may read files beside it, or wherever the user's folder leads
        return _fetched(payload, outbox)


def _fetched(payload: Mapping[str, Any], outbox: Path) -> dict[str, Any]:
    app = _app(payload["entry"])
    source = app.sources[payload["source"]]
    arguments = () if source.spec.snapshot else (_time(payload["since"]), _time(payload["until"]))
    rows = frames.to_rows(source.function(*arguments), doing=f"read what {source.spec.name} gave")
    (outbox / "rows.parquet").write_bytes(frames.write_parquet(rows))
    return {"rows": rows.num_rows, "file": "rows.parquet"}


def train(payload: Mapping[str, Any], outbox: Path) -> dict[str, Any]:
    """A model, its bytes, and golden rows: inputs and the answers that every later load must give again."""
    app = _app(payload["entry"])
    store = payload["store"]
    given: dict[str, Any] = {}
    golden_rows = None
    for source in payload["sources"]:
        spec = app.sources[source["name"]].spec
        rows = _rows(store, source["manifest"])
        if spec.label:
            rows = frames.take(rows, frames.column(rows, spec.label).valid)
            if rows.num_rows == 0:
                raise InvalidInput(
                    "ST302", f"Can't train {app.name}: {spec.name} has no row with a known label in this window."
                )
            golden_rows = frames.take(rows, np.unique(np.linspace(0, rows.num_rows - 1, GOLDEN_ROWS).astype(int)))
        given[source["name"]] = frames.to_frame(training_rows(rows, spec), source["frame"])
    model = app.trainer(**given, **_extras(app, payload))
    form, data = models.dump(model, app.saver)
    (outbox / "model").write_bytes(data)
    document: dict[str, Any] = {"file": "model", "format": form, "size": len(data)}
    if golden_rows is not None and app.labelled is not None:
        # The golden answers come from the bytes, not from the object in memory: what can't be loaded again is no model.
        again = models.parse(form, data, app.loader)
        seen = predictable(golden_rows, app.labelled.spec)
        answers = _answers(app, again, seen)
        (outbox / "golden.parquet").write_bytes(frames.write_parquet(seen))
        document |= {"golden": answers, "golden_rows": "golden.parquet", "rows": payload.get("rows")}
    return document


def answer(payload: Mapping[str, Any], outbox: Path) -> dict[str, Any]:
    """A release's answers to the rows of some ticks, tick by tick; an error stands in the place of the tick that raised it."""
    app = _app(payload["entry"])
    spec = _labelled(app)
    objects = _objects(payload["store"])
    model = models.load(
        objects, Digest(payload["model"]), payload["seal"], Path(payload["key"]).read_bytes(), app.loader
    )
    rows = [predictable(_part(payload["store"], part), spec) for part in payload["parts"]]
    ticks: Sequence[Any] | None = _together(app, model, rows)
    if ticks is None:
        ticks = [_alone(app, model, each) for each in rows]
    (outbox / "answers").write_bytes(msgspec.msgpack.encode(ticks))
    return {"file": "answers", "ticks": len(ticks)}


def _together(app: App, model: Any, ticks: Sequence[frames.Rows]) -> list[list[Any]] | None:
    """All ticks answered in one call, which is many times cheaper; None when in other company a tick is answered otherwise.

    A function that looks at the rows around a row (a rank, a gap filled with the mean of the batch) would here see rows of
    later ticks. So every tick is asked again among half of the others, the first and the last alone, and any difference sends
    all of them back to be answered one by one. Asking two ticks alone is not enough: they may have no gap to fill.
    """
    if len(ticks) == 1:
        return None
    every = range(len(ticks))
    companies = {tuple(company) for company in (every[0::2], every[1::2], every[:1], every[-1:])}
    try:
        found = _asked_at_once(app, model, ticks)
        same = all(
            models.answers_equal(found[i], again) is None
            for company in companies
            for i, again in zip(company, _asked_at_once(app, model, [ticks[i] for i in company]), strict=True)
        )
    except StaytrueError:
        return None
    return found if same else None


def _asked_at_once(app: App, model: Any, ticks: Sequence[frames.Rows]) -> list[list[Any]]:
    """Each tick's answers from one call with the rows of all of them."""
    answers = _answers(app, model, frames.concat(ticks))
    bounds = np.cumsum([0, *(t.num_rows for t in ticks)]).tolist()
    return [answers[a:b] for a, b in pairwise(bounds)]


def _alone(app: App, model: Any, rows: frames.Rows) -> list[Any] | dict[str, Any]:
    try:
        return _answers(app, model, rows)
    except StaytrueError as exc:
        return exc.document()


def _answers(app: App, model: Any, rows: frames.Rows) -> list[Any]:
    return checked_answers(app, model, _frame(app, rows), rows.num_rows)


def _frame(app: App, rows: frames.Rows) -> Any:
    return frames.to_frame(rows, app.rows_kind)


def golden(payload: Mapping[str, Any], _outbox: Path) -> dict[str, Any]:
    """The answers of a model under some code to golden rows."""
    app = _app(payload["entry"])
    objects = _objects(payload["store"])
    model = models.load(
        objects, Digest(payload["model"]), payload["seal"], Path(payload["key"]).read_bytes(), app.loader
    )
    rows = frames.read_parquet(objects.get(Digest(payload["rows"])))
    return {"golden": _answers(app, model, rows)}


def examples(payload: Mapping[str, Any], outbox: Path) -> dict[str, Any]:
    """The answers of a plain service to its own examples, or to the rows of another release's."""
    app = _app(payload["entry"])
    rows = example_rows(app)
    if payload["rows"] is None:
        (outbox / "golden.parquet").write_bytes(frames.write_parquet(rows))
    else:
        others = frames.read_parquet(_objects(payload["store"]).get(Digest(payload["rows"])))
        rows = frames.conform(others, frames.schema(rows))
    return {"golden": _answers(app, None, rows), "golden_rows": "golden.parquet"}


def example_rows(app: App) -> frames.Rows:
    """The examples of a plain service as rows.

    Raises:
        InvalidInput: ST203 to ST205, ST867, values of no type that rows can have; ST752, `inputs` names no column of them.
    """
    rows = frames.to_rows(app.examples, doing="read @app.predict(examples=...)")
    example_signature(frames.schema(rows), app.examples, inputs=app.input_actions)
    return rows


def describe(payload: Mapping[str, Any], _outbox: Path) -> dict[str, Any]:
    """What the app declares (`loop/described.py`): that it imports at all is seen here."""
    return document_of(_app(payload["entry"]))


def reply(payload: Mapping[str, Any], outbox: Path) -> dict[str, Any]:
    """A release's answers to rows as requests gave them, each a list of one; an error document where it has no answer."""
    app = _app(payload["entry"])
    model = None
    if payload["model"] is not None:
        key = Path(payload["key"]).read_bytes()
        model = models.load(_objects(payload["store"]), Digest(payload["model"]), payload["seal"], key, app.loader)
    rows = frames.read_parquet(_objects(payload["store"]).get(Digest(payload["rows"])))
    try:
        answers: list[Any] = [[one] for one in _answers(app, model, rows)]
    except StaytrueError:
        answers = [_alone(app, model, rows.slice(row, 1)) for row in range(rows.num_rows)]
    (outbox / "answers").write_bytes(msgspec.msgpack.encode(answers))
    return {"file": "answers", "rows": len(answers)}


def asked_again(payload: Mapping[str, Any], outbox: Path) -> dict[str, Any]:
    """What a release answers to one row, and to a golden row, each asked twice; and its metric's losses on answers that it gave.

    An error document stands in the place of an answer, or of the losses, that there are not.
    """
    app, objects = _app(payload["entry"]), _objects(payload["store"])
    model = None
    if payload["model"] is not None:
        key = Path(payload["key"]).read_bytes()
        model = models.load(objects, Digest(payload["model"]), payload["seal"], key, app.loader)
    found: dict[str, Any] = {
        "metric": f"{getattr(app.metric, '__name__', 'function')}()" if callable(app.metric) else app.metric
    }
    for name in ("row", "golden"):
        if payload[name] is not None:
            row = frames.read_parquet(objects.get(Digest(payload[name]))).slice(0, 1)
            found[name] = [_alone(app, model, row), _alone(app, model, row)]
    if payload["judged"] is not None:
        judged = frames.read_parquet(objects.get(Digest(payload["judged"])))
        try:
            found["losses"] = _losses(app.metric, judged).tolist()
        except StaytrueError as exc:
            found["losses"] = exc.document()
    (outbox / "answers").write_bytes(msgspec.msgpack.encode(found))
    return {"file": "answers"}


def _losses(metric: str | UserMetric, judged: frames.Rows) -> np.ndarray:
    """(n,) the losses of rows of `store.traffic()`, each of which has an answer and a label."""
    answers, labels = (_told(frames.column(judged, name)) for name in ("answer", "label"))
    rows = frames.to_frame(judged, "pandas") if callable(metric) else None
    return read_metric(metric).losses(answers, labels, rows)


def _told(column: frames.Column) -> Any:
    """Answers or labels of `store.traffic()`: an array of numbers, or what the JSON texts say."""
    values: Any = column.values
    return [json.loads(text) for text in values.tolist()] if column.type == "string" else values


# ---------------------------------------------------------------- what training and predictions see


def training_rows(rows: frames.Rows, spec: SourceSpec) -> frames.Rows:
    """The columns that training sees: the declared features and the label.

    Without declared features, all of them; but of the source that has the label all but time and key, since who answers a
    request is given neither. A source to join with keeps both.
    """
    if spec.features is not None:
        return frames.select(rows, [*spec.features, *([spec.label] if spec.label else [])])
    unseen = (spec.time, spec.key) if spec.label else ()
    return frames.select(rows, [name for name in rows.column_names if name not in unseen])


def predictable(rows: frames.Rows, spec: SourceSpec) -> frames.Rows:
    """The columns that predictions see: those of training without the label, which nobody knows yet."""
    seen = training_rows(rows, spec)
    return frames.drop(seen, [spec.label]) if spec.label else seen


def checked_answers(app: App, model: Any, frame: Any, count: int) -> list[Any]:
    """One plain answer a row.

    Raises:
        InvalidInput: ST303 the function raised, ST304 another number of answers, ST305 a NaN or a None, ST306 a type that can't
            be kept.
    """
    if count == 0:
        return []
    name = getattr(app.answerer, "__name__", "predict")
    try:
        if inspect.isasyncgenfunction(app.answerer):
            given = asyncio.run(_in_pieces(app, model, frame, count))
        else:
            given = app.ask(model, frame)
            if inspect.isawaitable(given):
                given = asyncio.run(_awaited(given))
    except StaytrueError:
        raise
    except Exception as exc:
        raise InvalidInput(
            "ST303", f"{name} raised {type(exc).__name__} on {count} rows: {exc}.", error=type(exc).__name__
        ) from exc
    return plain_answers(given, count, name)


def plain_answers(given: Any, count: int, name: str) -> list[Any]:
    """What a predict function gave, as one plain answer a row. Raises as `checked_answers`.

    Example:
        >>> plain_answers(np.array([1.5, 2.5]), 2, "quote")
        [1.5, 2.5]
    """
    if isinstance(given, np.ndarray) and given.shape == (count,) and given.dtype.kind in "fiub":
        numbers: list[Any] = given.tolist()
        # By far the most frequent answer, on the path of every request.
        if given.dtype.kind != "f" or bool(np.isfinite(given).all()):
            return numbers
    if hasattr(given, "tolist"):
        given = given.tolist()
    elif hasattr(given, "to_list"):
        given = given.to_list()
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Sequence):
        try:
            given = list(given)
        except TypeError:
            raise InvalidInput(
                "ST304", f"{name} gave {type(given).__name__}; expected one answer a row, {count} in all.", count=count
            ) from None
    if len(given) != count:
        raise InvalidInput(
            "ST304",
            f"{name} gave {len(given)} answers to {count} rows; expected one a row.",
            got=len(given),
            count=count,
        )
    return [_plain(value, name, i) for i, value in enumerate(given)]


async def _awaited(given: Any) -> Any:
    return await given


async def _in_pieces(app: App, model: Any, frame: Any, count: int) -> list[Any]:
    """The answers of a function that yields them in pieces, a row at a time."""
    return [joined([piece async for piece in app.ask(model, frame[row : row + 1])]) for row in range(count)]


def joined(pieces: Sequence[Any]) -> Any:
    """The answer that came in pieces: texts are one text, anything else is a list.

    Example:
        >>> joined(["Hel", "lo"]), joined([{"page": 1}])
        ('Hello', [{'page': 1}])
    """
    return "".join(pieces) if all(isinstance(piece, str) for piece in pieces) else list(pieces)


def _plain(value: Any, name: str, row: int) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidInput("ST305", f"{name} answered {value} to row {row}; expected a finite value.", row=row)
    if isinstance(value, bool | int | float) or (isinstance(value, str) and _is_writable(value)):
        return value
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v, name, row) for v in value]
    if isinstance(value, dict) and all(isinstance(k, str) and _is_writable(k) for k in value):
        return {k: _plain(v, name, row) for k, v in value.items()}
    raise InvalidInput(
        "ST306",
        f"{name} answered a {type(value).__name__} to row {row}; expected a number, a text, a list or a dict of them.",
        row=row,
    )


def _is_writable(text: str) -> bool:
    # Half of a surrogate pair has no UTF-8: neither a log nor a caller could be given it.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---------------------------------------------------------------- read once, inherited by every fork


@lru_cache(maxsize=4)
def _app(entry: str) -> App:
    return load(entry)[0]


@lru_cache(maxsize=4)
def _objects(store: str) -> LocalObjects:
    return LocalObjects(Path(store))


@lru_cache(maxsize=20_000)
def _part(store: str, name: str) -> frames.Rows:
    return frames.read_parquet(_objects(store).get(Digest(name)))


def _rows(store: str, manifest: str) -> frames.Rows:
    table = tables.load(_objects(store), Digest(manifest))
    parts = [frames.conform(_part(store, part.object), table.schema) for part in table.parts if part.rows]
    if not parts:
        raise InvalidInput("ST302", f"Can't train: {table.source} has no rows in this window.", source=table.source)
    return frames.concat(parts)


def _extras(app: App, payload: Mapping[str, Any]) -> dict[str, Any]:
    asked = inspect.signature(app.trainer).parameters
    extras: dict[str, Any] = {}
    if "params" in asked:
        extras["params"] = dict(payload["params"])
    if "seed" in asked:
        extras["seed"] = payload["seed"]
    if "previous" in asked:
        before = payload.get("previous")
        key = Path(payload["key"]).read_bytes()
        objects = _objects(payload["store"])
        extras["previous"] = (
            models.load(objects, Digest(before["model"]), before["seal"], key, app.loader) if before else None
        )
    return extras


def _labelled(app: App) -> SourceSpec:
    if app.labelled is None:
        raise InvalidInput(
            "ST109", f"App {app.name!r} has no source with label=: there is nothing to predict.", app=app.name
        )
    return app.labelled.spec


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
