"""The past, tick by tick: rows, labels and what each model answers to them. All that a replay may look at, and when.

A tick is one part of the labelled source: one `every`. Its rows can be answered when it begins; its labels are known
`label_after` later. Answers depend only on code, model and rows, so they are remembered under the digest of these three,
and of the interpreter where that is another than runs here.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from staytrue.engines.job import other_interpreter
from staytrue.engines.process import Job, Outcome
from staytrue.errors import Corrupt, InvalidInput, StaytrueError
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import SourceSpec
from staytrue.kernel.duration import duration
from staytrue.kernel.release import Digest
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, result_of, tells_of_the_job
from staytrue.loop.served import ServedAnswers
from staytrue.loop.train import Trained
from staytrue.store import frames, tables
from staytrue.store.durable import disk
from staytrue.store.objects import digest
from staytrue.store.tables import Part, Table

__all__ = ["Past", "Tick"]

_Who = tuple[Digest, Digest, str]
"""(code, model, interpreter if it is another than runs here): who answers."""

_AHEAD = 32
"""Ticks answered by one job: a process for each single tick would cost more than the answers."""


@dataclass(frozen=True)
class Tick:
    """One tick: which rows, and from when on their labels are known."""

    index: int
    part: Part
    known_at: datetime
    """When its labels are known."""

    @property
    def rows(self) -> int:
        """Rows of this tick, with or without a label."""
        return self.part.rows


@dataclass(frozen=True)
class _Seen:
    """What is read of a tick's part once, when it is needed."""

    labels: Any
    valid: np.ndarray
    keys: list[Any]
    all_keys: list[Any]
    segments: Mapping[str, np.ndarray]


@dataclass
class Past:
    """The ticks of a table, and every model's losses on them."""

    ctx: Context
    table: Table
    spec: SourceSpec
    ticks: Sequence[Tick]
    first: int
    """Index of the first tick to be lived through; those before are history."""
    until: int
    served: ServedAnswers | None = None
    """What was answered to live requests; None where nothing was served."""
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _answers: dict[tuple[_Who, int], Any] = field(default_factory=dict)
    _partly: dict[tuple[_Who, int], dict[int, Any]] = field(default_factory=dict)
    _losses: dict[tuple[_Who, int], np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, ctx: Context, table: Table, *, since: datetime | None, until: datetime | None) -> Past:
        """The past of the app's labelled source between `since` (default: a fifth of the rows is history) and `until`.

        Raises:
            InvalidInput: ST601, there are not rows enough before `since`, or nothing after it.
        """
        spec = _spec(ctx)
        ticks = [Tick(i, part, part.until + spec.label_after) for i, part in enumerate(table.parts)]
        last = len(ticks) if until is None else sum(t.part.since < until for t in ticks)
        if since is None:
            rows = np.cumsum([t.rows for t in ticks[:last]])
            first = int(np.searchsorted(rows, rows[-1] * 0.2)) + 1 if len(rows) else 0
        else:
            first = sum(t.part.since < since for t in ticks)
        before = sum(t.rows for t in ticks[:first])
        if before < _FEWEST or first >= last:
            span = f"{ticks[0].part.since:%Y-%m-%d} .. {ticks[-1].part.until:%Y-%m-%d}" if ticks else "nothing"
            raise InvalidInput(
                "ST601",
                f"Can't replay {ctx.app.name}: {before} rows of {spec.name} lie before the first day to live through and "
                f"{max(0, last - first)} ticks after it; at least {_FEWEST} rows and 1 tick are needed. Kept is {span}: "
                "fetch more, or move --since.",
                rows_before=before,
                ticks=max(0, last - first),
            )
        return cls(ctx=ctx, table=table, spec=spec, ticks=ticks, first=first, until=last)

    @classmethod
    def whole(cls, ctx: Context) -> Past:
        """All that was fetched, with nothing left to live through: what is known now."""
        spec = _spec(ctx)
        table = ctx.store.table(spec.name, app=ctx.app.name).table
        ticks = [Tick(i, part, part.until + spec.label_after) for i, part in enumerate(table.parts)]
        return cls(ctx=ctx, table=table, spec=spec, ticks=ticks, first=0, until=len(ticks))

    @classmethod
    def live(cls, ctx: Context) -> Past:
        """All that was fetched, answered by live requests where there were any; the next tick to live through is to come."""
        whole = cls.whole(ctx)
        return replace(whole, first=whole.until, served=ServedAnswers(ctx.store, ctx.app.name, key=str(whole.spec.key)))

    # ------------------------------------------------------------ rows

    def window(self, start: int, stop: int) -> Table:
        """The table of ticks `start <= i < stop`: no row is copied."""
        return tables.window(
            self.ctx.store.objects, self.table, self.ticks[start].part.since, self.ticks[stop - 1].part.until
        )

    def rows(self, start: int, stop: int) -> int:
        """Rows with a label in ticks `start <= i < stop`."""
        return int(self._labelled_rows[stop] - self._labelled_rows[start]) if stop > start else 0

    def back(self, stop: int, rows: int, *, not_before: int) -> int:
        """The tick from which on there are at least `rows` labelled rows up to `stop`, as late as possible."""
        start = int(np.searchsorted(self._labelled_rows, self._labelled_rows[stop] - rows, side="right")) - 1
        return min(max(start, not_before), stop)

    @cached_property
    def _labelled_rows(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum([t.rows - t.part.unlabelled for t in self.ticks])])

    def known_when(self, tick: int) -> int:
        """When tick `tick` begins, labels are known for ticks before this one."""
        begins = self.ticks[tick].part.since
        return sum(t.known_at <= begins for t in self.ticks[:tick])

    def keys(self, tick: int) -> list[Any]:
        """The keys of the tick's labelled rows: what a sticky canary goes by."""
        return self._read(tick).keys

    def segment(self, name: str, tick: int) -> np.ndarray:
        """The values of a segment column, for the tick's labelled rows, as text."""
        return self._read(tick).segments[name]

    def segment_values(self, name: str, start: int, stop: int, *, most: int) -> list[str]:
        """The values of a segment column that hold at least a twentieth of the rows, most frequent first."""
        values = [self.segment(name, t) for t in range(start, stop) if self.ticks[t].rows]
        if not values:
            return []
        found, counts = np.unique(np.concatenate(values), return_counts=True)
        order = np.lexsort((found, -counts))
        return [str(found[i]) for i in order[:most] if counts[i] * 20 >= counts.sum()]

    def _read(self, tick: int) -> _Seen:
        if not self.ticks[tick].rows:  # it may have no columns either
            nothing = np.empty(0)
            segments = dict.fromkeys(self.ctx.app.segments, nothing)
            return _Seen(labels=nothing, valid=nothing.astype(bool), keys=[], all_keys=[], segments=segments)
        if tick not in self._seen:
            rows = frames.read_parquet(self.ctx.store.objects.get(self.ticks[tick].part.object))
            label = frames.column(rows, str(self.spec.label))
            valid = label.valid
            names = self.ctx.app.segments
            for name in names:
                if name not in rows.column_names:
                    raise InvalidInput("ST113", f"Segment {name!r} is no column of {self.spec.name}.", segment=name)
            named = frames.column(rows, self.spec.key).values if self.spec.key else np.arange(len(valid))
            keys = named[valid].tolist()
            segments = {n: _as_text(frames.column(rows, n))[valid] for n in names}
            self._seen[tick] = _Seen(
                labels=label.values[valid], valid=valid, keys=keys, all_keys=named.tolist(), segments=segments
            )
        return self._seen[tick]

    # ------------------------------------------------------------ answers

    def answered(
        self,
        models: Sequence[Trained],
        start: int,
        stop: int,
        *,
        seen: tuple[datetime, datetime] | None = None,
    ) -> Steps[None]:
        """Have every model's answers to the rows of ticks `start <= i < stop` at hand.

        The rows are handed over without their labels, each tick by itself, as a server would. Answers are made for some ticks
        ahead in one job, which saves processes and can't leak: nothing of a tick is known to the answer to another.

        Args:
            seen: from when to when the rows were asked about live. What was answered then counts as it is; a row that a model
                was not asked about, or could not answer, it is asked now.
        """
        if seen is not None and self.served is not None:
            for tick in range(start, stop):
                self._take_served(models, tick, seen)
        wanted: list[tuple[Trained, int, list[int]]] = []
        for who, trained in {_who(m): m for m in models}.items():
            for chunk in range(start // _AHEAD, (stop - 1) // _AHEAD + 1):
                ticks = [
                    t
                    for t in range(chunk * _AHEAD, min((chunk + 1) * _AHEAD, self.until))
                    if self.ticks[t].rows and (who, t) not in self._answers
                ]
                if any(start <= t < stop for t in ticks) and not self._remembered(trained, ticks):
                    wanted.append((trained, chunk, ticks))
        if not wanted:
            return
        outcomes = yield [self._job(trained, ticks) for trained, _, ticks in wanted]
        for (trained, _, ticks), outcome in zip(wanted, outcomes, strict=True):
            self._keep(trained, ticks, outcome)
        self._overlay(start, stop)

    def _take_served(self, models: Sequence[Trained], tick: int, seen: tuple[datetime, datetime]) -> None:
        """Use what live requests were answered: whole ticks at once, rows of others once a job has filled the gaps."""
        # Live requests are answered by the interpreter that runs here.
        who = [(m.code, m.model) for m in models if not _who(m)[2] and (_who(m), tick) not in self._answers]
        if self.served is None or not who or not self.ticks[tick].rows:
            return
        keys = self._read(tick).all_keys
        for one, answers in self.served.answers(who, keys, *seen).items():
            if len(answers) == len(keys):
                self._answers[(*one, ""), tick] = [answers[row] for row in range(len(keys))]
            elif answers:
                self._partly[(*one, ""), tick] = answers

    def _overlay(self, start: int, stop: int) -> None:
        for who, tick in [place for place in self._partly if start <= place[1] < stop]:
            answers = self._partly.pop((who, tick))
            made = self._answers.get((who, tick))
            if isinstance(made, list):
                self._answers[who, tick] = [answers.get(row, answer) for row, answer in enumerate(made)]

    def known(self, model: Trained, tick: int) -> bool:
        """Whether the model's answers to a tick are at hand."""
        return not self.ticks[tick].rows or (_who(model), tick) in self._answers

    def answers(self, model: Trained, tick: int) -> list[Any]:
        """What the model answered to the rows of a tick, in row order, where that is at hand and was no error; else nothing."""
        found = self._answers.get((_who(model), tick))
        return found if isinstance(found, list) else []

    def losses(self, model: Trained, tick: int) -> np.ndarray:
        """(n,) the model's loss on each labelled row of a tick whose answers are at hand, in row order.

        Raises:
            StaytrueError: what the model's answer raised, or what is wrong with its losses.
        """
        who = _who(model)
        known = self._losses.get((who, tick))
        if known is None:
            known = self._losses[who, tick] = self._judged(who, tick)
        return known

    def losses_between(self, model: Trained, start: int, stop: int) -> np.ndarray:
        """(n,) the model's losses on ticks `start <= i < stop`, oldest first."""
        return np.concatenate([np.empty(0), *(self.losses(model, t) for t in range(start, stop))])

    def paired(self, model: Trained, tick: int) -> tuple[list[Any], np.ndarray]:
        """The model's answers to the labelled rows of a tick, and their labels, in row order. Raises as `losses`."""
        return self._paired(_who(model), tick)

    def _paired(self, who: _Who, tick: int) -> tuple[list[Any], np.ndarray]:
        if not self.ticks[tick].rows:
            return [], np.empty(0)
        answers = self._answers[who, tick]
        if isinstance(answers, dict):
            raise InvalidInput(answers["code"], answers["message"], **answers.get("facts", {}))
        seen = self._read(tick)
        return [a for a, ok in zip(answers, seen.valid, strict=True) if ok], seen.labels

    def _judged(self, who: _Who, tick: int) -> np.ndarray:
        kept, labels = self._paired(who, tick)
        if not kept:
            return np.empty(0)
        seen, rows = self._read(tick), None
        if callable(self.ctx.app.metric):
            whole = frames.read_parquet(self.ctx.store.objects.get(self.ticks[tick].part.object))
            rows = frames.to_frame(frames.take(whole, seen.valid), "pandas")
        return np.asarray(self.ctx.metric.losses(kept, labels, rows), dtype=np.float64)

    def _job(self, trained: Trained, ticks: Sequence[int]) -> Job:
        parts = [self.ticks[t].part.object for t in ticks]
        return Job(
            key=f"answer:{self._name(trained, ticks)}",
            task="staytrue.loop.tasks:answer",
            payload=self.ctx.payload(model=trained.model, seal=trained.seal, parts=parts)
            | {"entry": str(trained.entry)},
            workspace=trained.entry.parent,
            timeout_s=duration(self.ctx.app.settings.timeout).total_seconds(),
            interpreter=trained.interpreter,
            app=self.ctx.app.name,
        )

    def _name(self, trained: Trained, ticks: Sequence[int]) -> Digest:
        contents = [self.ticks[t].part.content for t in ticks]
        features = list(self.spec.features or ())
        elsewhere = other_interpreter(trained.interpreter)
        return digest(
            canonical_json(
                {"code": trained.code, "model": trained.model, "parts": contents, "features": features}
                | ({"interpreter": elsewhere} if elsewhere else {})
            )
        )

    def _place(self, trained: Trained, ticks: Sequence[int]) -> Path:
        return self.ctx.store.work / "answers" / self._name(trained, ticks)

    def _remembered(self, trained: Trained, ticks: Sequence[int]) -> bool:
        try:
            answers = msgspec.msgpack.decode(self._place(trained, ticks).read_bytes())
        except (OSError, msgspec.DecodeError):
            return False
        if not isinstance(answers, list) or len(answers) != len(ticks):
            return False
        self._answers.update({(_who(trained), t): a for t, a in zip(ticks, answers, strict=True)})
        return True

    def _keep(self, trained: Trained, ticks: Sequence[int], outcome: Outcome) -> None:
        who = _who(trained)
        try:
            result = result_of(outcome, doing=f"answer {len(ticks)} ticks with model {trained.model[:8]}")
        except StaytrueError as exc:
            if not tells_of_the_job(exc):
                raise
            self._answers.update({(who, t): exc.document() for t in ticks})
            return
        if outcome.outbox is None:
            raise Corrupt("ST602", f"The answers of model {trained.model[:8]} are gone: its job left no files.")
        with disk(f"read the answers of model {trained.model[:8]}"):
            data = (Path(outcome.outbox) / result["file"]).read_bytes()
        _remember(data, self._place(trained, ticks))
        self._answers.update({(who, t): a for t, a in zip(ticks, msgspec.msgpack.decode(data), strict=True)})


def _who(trained: Trained) -> _Who:
    return (trained.code, trained.model, other_interpreter(trained.interpreter))


def _remember(data: bytes, place: Path) -> None:
    """Keep answers for the next time, if the disk takes them.

    They are a convenience and may be deleted at any time: renamed into place but not fsynced, and a full disk stops nobody.
    """
    temporary = place.with_name(f"{place.name}.{os.getpid()}.{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


_FEWEST = 50


def _spec(ctx: Context) -> SourceSpec:
    if ctx.app.labelled is None:
        raise InvalidInput(
            "ST109", f"App {ctx.app.name!r} has no source with label=: there is no past to replay.", app=ctx.app.name
        )
    return ctx.app.labelled.spec


def _as_text(column: Any) -> np.ndarray:
    values = np.where(column.valid, column.values, "none") if column.values.dtype == object else column.values
    return values.astype(str)
