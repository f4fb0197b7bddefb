"""Requests: the newest logged requests through an old and a new release, and what became different."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from staytrue.engines.process import Job
from staytrue.errors import Corrupt
from staytrue.kernel.duration import duration
from staytrue.kernel.examples import example_signature
from staytrue.kernel.inspection import inspect, misfits
from staytrue.kernel.release import Digest
from staytrue.kernel.signature import Signature, signature
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, result_of
from staytrue.loop.tasks import example_rows
from staytrue.loop.train import Trained
from staytrue.store import frames, models, tables
from staytrue.store.block import Layout
from staytrue.store.store import Store

__all__ = ["Differences", "differences", "recent_requests", "server_of"]

_OURS: Final = frozenset(
    {"id", "at", "release", "arm", "weight", "answer", "label", "label_at", "label_got_at", "flags"}
)
_REAL: Final = ("champion", "challenger")
"""Arms whose answers somebody got; a shadow saw the same request once more."""
_DAYS: Final = (1, 7, 60, None)
_SHOWN: Final = 10
_TEXT: Final = 200
_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True, kw_only=True)
class Server:
    """Who answers: an app's code with a model (None: a plain service), and what it wants to be asked."""

    code: Digest
    entry: Path
    model: Digest | None
    seal: str | None
    signature: Signature


@dataclass(frozen=True, kw_only=True)
class Differences:
    """What became different from the old to the new release.

    Attributes:
        rows: asked of both.
        differ: rows with another answer; `failing` those that only the new one fails on, `mended` only the old one, `both` both.
        by: quantiles of |new - old| over the rows whose answers are numbers.
        mean: of the old and of the new answers that are numbers.
        most: the rows that differ most; `failures` some that only the new one fails on, with the reason.
    """

    rows: int
    differ: int = 0
    failing: int = 0
    mended: int = 0
    both: int = 0
    by: Mapping[str, float] = field(default_factory=dict)
    mean: tuple[float, float] | None = None
    most: Sequence[Mapping[str, Any]] = ()
    failures: Sequence[Mapping[str, Any]] = ()

    def document(self) -> dict[str, Any]:
        """As it stands in a report."""
        return {
            "rows": self.rows,
            "differ": self.differ,
            "failing": self.failing,
            "mended": self.mended,
            "failing_in_both": self.both,
            "by": dict(self.by),
            "mean": list(self.mean) if self.mean else None,
            "most": [dict(one) for one in self.most],
            "failures": [dict(one) for one in self.failures],
        }


def recent_requests(store: Store, app: str, *, most: int, now: datetime) -> frames.Rows | None:
    """The columns that the newest requests gave, oldest first; None when none was logged.

    Args:
        most: at most so many rows. Shadow answers are not among them: they are to the same requests.
    """
    found: list[frames.Rows] = []
    for days in _DAYS:
        since = None if days is None else now - timedelta(days=days)
        found = [_given(rows) for rows in store.traffic(since, app=app).batches()]
        if sum(rows.num_rows for rows in found) >= most:
            break
    whole = frames.concat(found) if found else None
    if whole is None or not whole.num_rows or not most:
        return None
    return frames.take(whole, np.arange(max(0, whole.num_rows - most), whole.num_rows))


def _given(rows: frames.Rows) -> frames.Rows:
    arms = frames.column(rows, "arm").values
    columns = {name.removeprefix("row."): frames.column(rows, name) for name in rows.column_names if name not in _OURS}
    return frames.take(frames.from_columns(columns), np.isin(arms.astype(str), _REAL))


def server_of(ctx: Context, trained: Trained | None) -> Server:
    """Who answers for a context's code with a model, or, without one, for a plain service."""
    app = ctx.app
    if trained is None or app.labelled is None:
        made = example_signature(frames.schema(example_rows(app)), app.examples, inputs=app.input_actions)
        return Server(code=ctx.code, entry=ctx.entry, model=None, seal=None, signature=made)
    spec = app.labelled.spec
    table = ctx.store.table_by_id(trained.tables[spec.name]).table
    names = [name for name, _ in table.schema]
    made = signature(
        table.schema,
        tables.sketches(ctx.store.objects, table),
        features=list(spec.features or [name for name in names if name not in (spec.time, spec.key, spec.label)]),
        key=spec.key,
        time=spec.time,
        label=spec.label,
        inputs=app.input_actions,
    )
    return Server(code=trained.code, entry=trained.entry, model=trained.model, seal=trained.seal, signature=made)


def differences(ctx: Context, old: Server, new: Server, rows: frames.Rows) -> Steps[Differences]:
    """What the same requests are answered by both.

    Raises:
        StaytrueError: a job that was killed or lost. What a release says of a single row is no error here.
    """
    before = yield from _asked(ctx, old, rows)
    after = yield from _asked(ctx, new, rows)
    numbers: list[tuple[float, float, int]] = []
    other: list[int] = []
    failing, mended, both = [], 0, 0
    for row, (was, now) in enumerate(zip(before, after, strict=True)):
        if isinstance(was, str) or isinstance(now, str):
            both += isinstance(was, str) and isinstance(now, str)
            mended += isinstance(was, str) and not isinstance(now, str)
            if not isinstance(was, str):
                failing.append(row)
        elif _is_number(was[0]) and _is_number(now[0]):
            numbers.append((float(was[0]), float(now[0]), row))
        elif models.answers_equal(was, now) is not None:
            other.append(row)
    apart = [(abs(b - a), row) for a, b, row in numbers if models.answers_equal([a], [b]) is not None]
    shown = [row for _, row in sorted(apart, key=lambda one: (-one[0], one[1]))] + other
    return Differences(
        rows=rows.num_rows,
        differ=len(apart) + len(other),
        failing=len(failing),
        mended=mended,
        both=both,
        by=_quantiles([abs(b - a) for a, b, _ in numbers]),
        mean=_means(numbers),
        most=[
            {"request": _row(rows, row), "old": _short(before[row][0]), "new": _short(after[row][0])}
            for row in shown[:_SHOWN]
        ],
        failures=[{"request": _row(rows, row), "error": str(after[row])[:_TEXT]} for row in failing[:_SHOWN]],
    )


def _asked(ctx: Context, server: Server, rows: frames.Rows) -> Steps[list[list[Any] | str]]:
    """For each row a list of its answer, or why it has none."""
    n = rows.num_rows
    wrong = misfits(server.signature, frames.schema(rows))
    if wrong:
        return [" ".join(one.sentence() for one in wrong)] * n
    found = inspect(server.signature, {name: frames.column(rows, name) for name in rows.column_names}, n)
    replies: list[list[Any] | str] = [found.reasons(row) if found.refused[row] else "" for row in range(n)]
    there = np.flatnonzero(~found.refused)
    if not len(there):
        return replies
    layout = Layout(server.signature.schema)
    block = layout.of_columns(found.columns, n).take(there)
    asked = ctx.store.objects.put(frames.write_parquet(layout.rows(block, server.signature.seen)))
    job = Job(
        key=f"reply:{server.code}:{server.model}:{asked}",
        task="staytrue.loop.tasks:reply",
        payload=ctx.payload(model=server.model, seal=server.seal, rows=asked) | {"entry": str(server.entry)},
        workspace=server.entry.parent,
        timeout_s=duration(ctx.app.settings.timeout).total_seconds(),
        app=ctx.app.name,
    )
    outcome = (yield [job])[0]
    result = result_of(outcome, doing=f"answer {len(there)} logged requests with code {server.code[:8]}")
    if outcome.outbox is None:
        raise Corrupt("ST602", "The answers to logged requests are gone: their job left no files.")
    answers = msgspec.msgpack.decode((Path(outcome.outbox) / result["file"]).read_bytes())
    for row, answer in zip(there.tolist(), answers, strict=True):
        replies[row] = answer if isinstance(answer, list) else str(answer["message"])
    return replies


def _quantiles(apart: Sequence[float]) -> dict[str, float]:
    if not apart:
        return {}
    return {name: float(f"{np.quantile(apart, q):.6g}") for name, q in _QUANTILES.items()}


def _means(numbers: Sequence[tuple[float, float, int]]) -> tuple[float, float] | None:
    if not numbers:
        return None
    old, new = (statistics.fmean(one[side] for one in numbers) for side in (0, 1))
    return float(f"{old:.6g}"), float(f"{new:.6g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _row(rows: frames.Rows, row: int) -> dict[str, Any]:
    return {name: _short(values[0]) for name, values in frames.to_pydict(rows.slice(row, 1)).items()}


def _short(value: Any) -> Any:
    """A value as a report can hold it."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    text = value.isoformat() if isinstance(value, date) else value if isinstance(value, str) else repr(value)
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}..."
