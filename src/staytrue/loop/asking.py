"""Asking: releases of the past asked once more about one row that is in the log, each with its own code and model, in jobs.

A release is known by what its code declares, which a job finds out: nothing of a user's is imported here. What can't be asked
is an error in the place of the answer, so that the others are still told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from staytrue.engines.process import Job, Outcome
from staytrue.errors import Corrupt, InvalidInput, NotFound, StaytrueError
from staytrue.kernel.contract import Column
from staytrue.kernel.duration import duration
from staytrue.kernel.examples import example_signature
from staytrue.kernel.release import Digest, Release
from staytrue.kernel.signature import Action, Feature, Signature, read_row, signature
from staytrue.kernel.sketch import Sketch, kind_of
from staytrue.loop.jobs import Steps, result_of
from staytrue.loop.proposal import described_context
from staytrue.loop.tasks import example_rows
from staytrue.store import frames, tables
from staytrue.store.block import Layout
from staytrue.store.join import as_text
from staytrue.store.models import Golden
from staytrue.store.prediction import Prediction
from staytrue.store.store import Store

__all__ = [
    "Asking",
    "Server",
    "Varied",
    "answered",
    "as_typed",
    "attempt",
    "golden_rows",
    "logged_values",
    "opened",
    "server_of_release",
]

T = TypeVar("T")
_MOST_CELLS: Final = 20_000_000
"""Rows times columns that one batch may have: of very wide rows fewer draws are asked about."""
_MOST_COLUMNS: Final = 2_000
_FAULTS: Final = ("type", "missing", "extra", "null", "nonfinite", "range", "unit", "category")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A release that can be asked: its code, its model, and what it wants to be asked.

    `table` is the one with the label that it learned from, None of a plain service; `sketches` of its columns, empty where
    they are not kept.
    """

    id: Digest
    release: Release
    entry: Path
    seal: str | None
    signature: Signature
    table: tables.Table | None
    sketches: Mapping[str, Sketch]
    timeout_s: float

    @property
    def payload(self) -> dict[str, Any]:
        """What a job is told of it."""
        return {"entry": str(self.entry), "model": self.release.model, "seal": self.seal}


def server_of_release(store: Store, id_: Digest, home: Path) -> Steps[Server | StaytrueError]:
    """A release, known by what its own code declares; the error when it can't be."""
    try:
        release = store.release_document(id_)
        # Its metric is asked in a job: a function of the user's is not imported here.
        ctx = yield from described_context(store, release.code, home=home, metric="mae")
        app, table, seal = ctx.app, None, None
        sketches: Mapping[str, Sketch] = {}
        if release.recipe is None or release.model is None or app.labelled is None:
            made = example_signature(frames.schema(example_rows(app)), app.examples, inputs=app.input_actions)
        else:
            spec = app.labelled.spec
            table = store.table_by_id(store.recipe(release.recipe).tables[spec.name]).table
            sketches = _sketches(store, table)
            names = [name for name, _ in table.schema if name not in (spec.time, spec.key, spec.label)]
            made = signature(
                table.schema,
                sketches,
                features=list(spec.features or names),
                key=spec.key,
                time=spec.time,
                label=spec.label,
                inputs=app.input_actions,
            )
            seal = store.seal_of(release.model)
    except StaytrueError as exc:
        return exc
    return Server(
        id=id_,
        release=release,
        entry=ctx.entry,
        seal=seal,
        signature=made,
        table=table,
        sketches=sketches,
        timeout_s=duration(app.settings.timeout).total_seconds(),
    )


def _sketches(store: Store, table: tables.Table) -> Mapping[str, Sketch]:
    try:
        return tables.sketches(store.objects, table)
    except (NotFound, Corrupt):
        return {}


@dataclass(frozen=True, kw_only=True)
class Varied:
    """The row with other values: first as it was asked, then for each column in turn one row for each draw."""

    job: Job
    columns: Sequence[str]
    draws: int
    left_out: int


@dataclass(frozen=True)
class Asking:
    """The jobs that ask releases about one row; each raises when the release can't be asked about it."""

    store: Store
    prediction: Prediction

    def again(self, server: Server | StaytrueError, judged: frames.Rows | None) -> Job:
        """The row and a golden row, each twice, and the losses of its own answer and of others."""
        able = _able(server)
        losses = None
        if self.prediction.label is not None and self.prediction.answer is not None:
            losses = self._put(_under_one_another([self.prediction.logged, *([judged] if judged is not None else [])]))
        golden = None if able.release.golden is None else golden_rows(self.store, able.release.golden)
        return self._job("asked_again", able, row=self._put(self.row(able)), golden=golden, judged=losses)

    def reply(self, server: Server | StaytrueError) -> Job:
        """What another release says to the row."""
        able = _able(server)
        return self._job("reply", able, rows=self._put(self.row(able)))

    def varied(self, server: Server | StaytrueError, drawn: frames.Rows) -> Varied:
        """The row with values of these rows in its columns, one column at a time."""
        able = _able(server)
        types = dict(able.signature.schema)
        known = [name for name in able.signature.seen if types[name] != "null" and name in drawn.column_names]
        names = known[:_MOST_COLUMNS]
        several = max(1, min(drawn.num_rows, _MOST_CELLS // max(len(names), 1) ** 2))
        rows = _with_draws(self.row(able), names, frames.take(drawn, np.arange(several)))
        return Varied(
            job=self._job("reply", able, rows=self._put(rows)),
            columns=names,
            draws=several,
            left_out=len(known) - len(names),
        )

    def row(self, server: Server) -> frames.Rows:
        """The one row as a release is given it.

        Raises:
            InvalidInput: ST976, it wants columns that the row has not, or other types.
        """
        values, wrong = logged_values(server.signature, self.prediction.row)
        if wrong:
            raise InvalidInput(
                "ST976", f"Release {server.id[:8]} can't be asked about this row: {wrong}", release=server.id, why=wrong
            )
        layout = Layout(server.signature.schema)
        return layout.rows(layout.block({name: [value] for name, value in values.items()}), server.signature.seen)

    def _put(self, rows: frames.Rows) -> Digest:
        # Nothing refers to it: `gc` takes it away.
        return self.store.objects.put(frames.write_parquet(rows))

    def _job(self, task: str, server: Server, **more: Any) -> Job:
        return Job(
            key=f"why:{task}:{server.release.code}:{server.release.model}:{sorted(more.items())}",
            task=f"staytrue.loop.tasks:{task}",
            payload={"store": str(self.store.root), "key": str(self.store.key_path), **server.payload, **more},
            workspace=server.entry.parent,
            timeout_s=server.timeout_s,
            app=server.release.app,
        )


def _able(server: Server | StaytrueError) -> Server:
    if isinstance(server, StaytrueError):
        raise server
    return server


def attempt(make: Callable[..., T], *given: Any) -> T | StaytrueError:
    """What it makes, or the error in its place."""
    try:
        return make(*given)
    except StaytrueError as exc:
        return exc


def answered(jobs: Sequence[Job | StaytrueError | None]) -> Steps[list[Any]]:
    """What each job answered; the error, or None, in its place where there is no job or no answer."""
    outcomes: Sequence[Outcome] = yield [job for job in jobs if isinstance(job, Job)]
    given = iter(outcomes)
    return [attempt(_decoded, next(given)) if isinstance(job, Job) else job for job in jobs]


def _decoded(outcome: Outcome) -> Any:
    result = result_of(outcome, doing="ask the release about the row")
    if outcome.outbox is None:
        raise Corrupt("ST602", "The answers are gone: their job left no files. Ask again.")
    return msgspec.msgpack.decode((Path(outcome.outbox) / result["file"]).read_bytes())


def golden_rows(store: Store, golden: Digest) -> Digest | None:
    """The object with the inputs of these golden rows, if it is kept."""
    try:
        rows = Golden.from_document(store.objects.get_document(golden)).rows
    except (NotFound, Corrupt):
        return None
    return rows if store.objects.has(rows) else None


def _under_one_another(parts: Sequence[frames.Rows]) -> frames.Rows:
    """Rows of `store.traffic()` that were read at different times: the columns that all have, and alike where types differ."""
    same = [
        frames.select(one, [n for n in parts[0].column_names if all(n in p.column_names for p in parts)])
        for one in parts
    ]
    for name in same[0].column_names:
        kinds = {dict(frames.schema(part))[name] for part in same} - {"null"}
        if len(kinds) > 1:
            numbers = all(kind_of(kind) == "number" for kind in kinds)
            same = [frames.put(one, name, _common(frames.column(one, name), numbers=numbers)) for one in same]
    return frames.concat(same)


def _common(column: Column, *, numbers: bool) -> Column:
    if not numbers or column.type == "null":
        return as_text(column) if column.type != "null" else column
    return Column(type="float64", values=column.values.astype(np.float64), valid=column.valid)


def _with_draws(row: frames.Rows, names: Sequence[str], drawn: frames.Rows) -> frames.Rows:
    """The row, and below it for each of these columns a copy for each draw with the draw's value there."""
    m, made = drawn.num_rows, {}
    for name in row.column_names:
        one = frames.column(row, name)
        values, valid = (np.repeat(side, 1 + len(names) * m) for side in (one.values, one.valid))
        if name in names:
            start = 1 + names.index(name) * m
            other = frames.column(drawn, name)
            values[start : start + m], valid[start : start + m] = other.values, other.valid
        made[name] = Column(type=one.type, values=values, valid=valid)
    return frames.from_columns(made)


# -- the row as a release reads it ------------------------------------------------------------------------------------


def logged_values(sig: Signature, row: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The values of a logged row as the signature's columns hold them, and why the release can't be asked; None: it can.

    A logged row holds null where the request left a column out, so a null is taken as it is; but a column that is not in the
    log at all is missing.
    """
    given = {one.name: as_typed(row[one.name], one.type) for one in sig.features if one.name in row}
    values, found = read_row(opened(sig), given)
    types = [one.message for one in found if one.fault == "type"]
    missing = [one for one in sig.features if one.role == "feature" and one.name not in row]
    wrong = [*types, *(f"its column {one.name!r} is not in the log of this row." for one in missing if _is_needed(one))]
    return values, " ".join(wrong) or None


def _is_needed(one: Feature) -> bool:
    return one.actions["missing"] == "refuse"


def opened(sig: Signature) -> Signature:
    """The signature that has something to say of everything unlike training, and refuses nothing but types."""
    made = []
    for one in sig.features:
        null: Action = "accept" if one.nullable or one.optional else "flag"
        made.append(replace(one, actions={**dict.fromkeys(_FAULTS, "flag"), "null": null}))
    return replace(sig, extra="accept", features=tuple(made))


def as_typed(value: Any, type_name: str) -> Any:
    """A logged value of a column that another release of that day has as text."""
    if not isinstance(value, str) or kind_of(type_name) in {"text", "time"}:
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value
