"""Segments: how a release does in each declared one, where it loses most, and what is wrong with what it learned from.

The report on training data reads sketches only. The one on segments asks the release's model for its answers to the newest
labelled rows, and to some of those that it learned from.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from staytrue.errors import StaytrueError
from staytrue.kernel.metric import Metric
from staytrue.kernel.release import Release
from staytrue.kernel.segments import (
    Estimate,
    Figure,
    Gap,
    SegmentSums,
    SegmentWatch,
    figures,
    fold_segments,
    fold_watch,
    gap,
)
from staytrue.kernel.sketch import Sketch
from staytrue.kernel.slices import found
from staytrue.kernel.training_data import Finding, contradicted, outdated, skewed, underrepresented
from staytrue.loop.comparison import trained_stop
from staytrue.loop.jobs import Steps
from staytrue.loop.past import Past
from staytrue.loop.release import checked_out
from staytrue.loop.train import Trained
from staytrue.store import frames, tables
from staytrue.store.store import Store

__all__ = ["release_report", "segment_report", "training_report", "watch_of", "watched"]

_MOST_ROWS: Final = 5_000
_FEWEST_ROWS: Final = 100
_VALUES: Final = 8
_NEWEST: Final = timedelta(days=28)
_LIKE_A_SEGMENT: Final = 30
"""Columns of at most so many different texts are held against training value by value."""
_YEAR: Final = timedelta(days=365)
_WORTH_A_WORD: Final = 0.1


# ------------------------------------------------------------ training data, from sketches


def training_report(
    store: Store, release: Release, *, now: datetime | None = None, columns: Collection[str] | None = None
) -> dict[str, Any] | None:
    """What a release learned from, held against the newest rows: how old it is, what moved, what it hardly saw.

    Reads sketches, no rows.

    Args:
        now: ages are counted up to it; None: up to where the newest rows end.
        columns: those that the model looks at; None: all but time, key and label.

    Returns:
        A document with `findings` and `sentences`, described in docs/health.md; None for a plain service, or when nothing newer
        can be looked at.
    """
    learned = _labelled(store, release)
    newest = store.table(learned.source, app=release.app).table if learned else None
    if learned is None or newest is None or newest.until is None:
        return None
    recent = _recent(store, newest)
    before, since = (tables.sketches(store.objects, table) for table in (learned, recent))
    roles = {newest.time, newest.key, newest.label}
    alike = [name for name in before if name in since and _same_kind(before[name], since[name]) and name not in roles]
    names = alike if columns is None else [name for name in alike if name in columns]
    lately = f"the {recent.rows:,} rows since {recent.since:%Y-%m-%d}"
    few = [name for name in names if _has_few_values(before[name], since[name])]
    rare = underrepresented(before, since, columns=few, lately=lately)
    said = {name for name in few if any(one.about.startswith(f"{name}=") for one in rare)}
    moved = outdated(before, since, time=newest.time, now=now or newest.until, columns=names, lately=lately)
    findings = [*(one for one in moved if one.kind != "unlike" or one.about not in said), *rare]
    return _told(findings) | {
        "source": learned.source,
        "rows": learned.rows,
        "newest_rows": recent.rows,
        "newest_since": recent.since.isoformat() if recent.since else None,
    }


def _labelled(store: Store, release: Release) -> tables.Table | None:
    """The table with the label that a release's model learned from."""
    if release.recipe is None:
        return None
    learned = (store.table_by_id(id_).table for id_ in store.recipe(release.recipe).tables.values())
    return next((table for table in learned if table.label is not None), None)


def _recent(store: Store, table: tables.Table) -> tables.Table:
    """The rows of the last four weeks, or of longer where these are few."""
    parts = table.parts
    start = len(parts) - 1
    until = parts[-1].until
    while start and (until - parts[start - 1].since <= _NEWEST or sum(p.rows for p in parts[start:]) < _FEWEST_ROWS):
        start -= 1
    return tables.window(store.objects, table, parts[start].since, until)


def _same_kind(a: Sketch, b: Sketch) -> bool:
    return len({a["is"], b["is"]} - {"null"}) <= 1


def _has_few_values(a: Sketch, b: Sketch) -> bool:
    return all(len(s.get("categories", ())) <= _LIKE_A_SEGMENT for s in (a, b))


def _told(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"findings": [one.document() for one in findings], "sentences": [one.sentence for one in findings]}


# ------------------------------------------------------------ segments, from answers


def release_report(past: Past, release: Release) -> Steps[dict[str, Any]]:
    """Segments of a release on the newest labelled rows since its training, and its training labels against these.

    Returns:
        `{"segments", "labels"}`: what `segment_report` says, and the findings on labels in training. `segments` is null and a
        sentence says so when fewer than 100 labelled rows came.

    Raises:
        StaytrueError: what the model's answers raised.
    """
    champion = checked_out(past.ctx, release)
    stop, trained = len(past.ticks), trained_stop(past.ctx, release, past)
    start = past.back(stop, _MOST_ROWS, not_before=trained)
    if past.rows(start, stop) < _FEWEST_ROWS:
        few = f"{past.rows(start, stop)} labelled rows came since its training: too few to say how segments do"
        return {"segments": None, "labels": None, "sentences": [few]}
    segments = yield from segment_report(past, champion, start=start, stop=stop)
    labels = yield from _labels_report(past, champion, release, (start, stop), trained)
    return {"segments": segments, "labels": labels, "sentences": [*segments["sentences"], *labels["sentences"]]}


def segment_report(past: Past, champion: Trained, *, start: int, stop: int) -> Steps[dict[str, Any]]:
    """How a model does in each declared segment on ticks `start <= i < stop`, and in which slices it loses most.

    A figure by segment is no accusation: segments differ in how hard they are. Sentences tell gaps that are surely there, and
    segments in which answers are surely too high or too low.

    Returns:
        A document, described in docs/health.md.

    Raises:
        StaytrueError: what the model's answers raised.
    """
    yield from past.answered([champion], start, stop)
    seen = _Seen.of(past, champion, start, stop)
    columns = {
        name: seen.sums(name, past.segment_values(name, start, stop, most=_VALUES)) for name in past.ctx.app.segments
    }
    slices = found(seen.features(past, start, stop), seen.losses, ticks=seen.ticks, rng=np.random.default_rng(0))
    told = {name: _segments(sums, seen) for name, sums in columns.items()}
    report = {
        "since": past.ticks[start].part.since.isoformat(),
        "until": past.ticks[stop - 1].part.until.isoformat(),
        "rows": len(seen.losses),
        "loss": float(seen.losses.mean()) if len(seen.losses) else None,
        "columns": told,
        "slices": [one.document() for one in slices],
        "sentences": [*(s for one in told.values() for s in one["sentences"]), *(s.sentence for s in slices)],
    }
    return {name: _rounded(value) for name, value in report.items()}


def _labels_report(
    past: Past, champion: Trained, release: Release, span: tuple[int, int], trained: int
) -> Steps[dict[str, Any]]:
    """Labels in training held against what the champion has lived through since, by declared segment."""
    learned = _labelled(past.ctx.store, release)
    first = sum(t.part.since < learned.since for t in past.ticks) if learned and learned.since else 0
    start = past.back(trained, _MOST_ROWS, not_before=first)
    if past.rows(start, trained) < _FEWEST_ROWS:
        return _told([])
    yield from past.answered([champion], start, trained)
    then, now = _Seen.of(past, champion, start, trained), _Seen.of(past, champion, *span)
    findings: list[Finding] = []
    for name in past.ctx.app.segments:
        values = past.segment_values(name, start, span[1], most=_VALUES)
        pair = [seen.sums(name, values) for seen in (then, now)]
        findings += [*contradicted(*pair), *(skewed(*pair) if then.is_binary and now.is_binary else [])]
    return _told(findings)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What is known of the labelled rows of some ticks; `answers` and `labels` are None where they are no numbers."""

    ticks: np.ndarray
    losses: np.ndarray
    answers: np.ndarray | None
    labels: np.ndarray | None
    segments: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, past: Past, champion: Trained, start: int, stop: int) -> _Seen:
        span = range(start, stop)
        answers, labels = (_counted(past, champion, span, metric) for metric in (_ANSWERS, _LABELS))
        return cls(
            ticks=np.repeat(np.arange(start, stop), [len(past.losses(champion, t)) for t in span]),
            losses=past.losses_between(champion, start, stop),
            answers=answers if labels is not None else None,
            labels=labels if answers is not None else None,
            segments={
                name: np.concatenate([np.empty(0, str), *(past.segment(name, t) for t in span if past.rows(t, t + 1))])
                for name in past.ctx.app.segments
            },
        )

    @property
    def is_binary(self) -> bool:
        """Whether rates of true and false positives mean anything."""
        return self.labels is not None and set(np.unique(self.labels).tolist()) <= {0.0, 1.0}

    def sums(self, name: str, values: Sequence[str]) -> SegmentSums:
        errors = np.empty(0) if self.answers is None or self.labels is None else np.abs(self.answers - self.labels)
        scale = max(float(np.abs(x).max(initial=0.0)) for x in (self.losses, errors))
        fresh = SegmentSums.fresh(name, values, scale=scale or 1.0, keep=max(len(np.unique(self.ticks)), 1))
        return fold_segments(
            fresh, self.ticks, self.segments[name], losses=self.losses, answers=self.answers, labels=self.labels
        )

    def features(self, past: Past, start: int, stop: int) -> dict[str, np.ndarray]:
        """The columns that the model may look at, of the labelled rows; times and lists left out."""
        spec = past.spec
        read = [frames.read_parquet(past.ctx.store.objects.get(p.object)) for p in _parts(past, start, stop)]
        if not read:
            return {}
        rows = frames.concat([frames.conform(one, past.table.schema) for one in read])
        known = frames.column(rows, str(spec.label)).valid
        made: dict[str, np.ndarray] = {}
        for name in spec.features or rows.column_names:
            column = frames.column(rows, name)
            if name in (spec.time, spec.key, spec.label) or column.type.startswith(
                ("list", "date", "timestamp", "null")
            ):
                continue
            values, valid = column.values[known], column.valid[known]
            if values.dtype.kind in "iuf":
                made[name] = np.where(valid, values.astype(np.float64), np.nan)
            else:
                made[name] = values.astype(object)
                made[name][~valid] = None
        return made


def _parts(past: Past, start: int, stop: int) -> list[tables.Part]:
    return [past.ticks[t].part for t in range(start, stop) if past.ticks[t].rows]


_ANSWERS: Final = Metric(
    name="answers", losses=lambda answers, _labels, _rows: np.asarray(answers, np.float64), summary=lambda _: math.nan
)
_LABELS: Final = Metric(
    name="labels", losses=lambda _answers, labels, _rows: np.asarray(labels, np.float64), summary=lambda _: math.nan
)


def _counted(past: Past, champion: Trained, span: range, metric: Metric) -> np.ndarray | None:
    """(n,) what a metric makes of the answers at hand; None where these are no finite numbers."""
    other = replace(past, ctx=replace(past.ctx, metric=metric), _losses={})
    try:
        made = [np.asarray(other.losses(champion, t), np.float64) for t in span]
        values = np.concatenate([np.empty(0), *made])
    except (TypeError, ValueError, StaytrueError):
        return None
    return values if np.isfinite(values).all() else None


# ------------------------------------------------------------ in words


def _segments(sums: SegmentSums, seen: _Seen) -> dict[str, Any]:
    wanted: list[Figure] = ["loss"]
    if seen.is_binary:
        wanted += ["selection_rate", "positive_rate", "true_positive_rate", "false_positive_rate"]
    elif seen.labels is not None:
        wanted.append("error")
    values = figures(sums)
    gaps = [one for one in (gap(sums, name) for name in wanted) if one is not None]
    sure = figures(sums, level=1 - 0.05 / max(len(values), 1))
    return {
        "values": {
            name: {"rows": int(sums.sums[:, sums.names.index(name), 0].sum())}
            | {figure: told[figure].document() for figure in wanted}
            for name, told in values.items()
        },
        "gaps": [one.document() for one in gaps],
        "sentences": [
            *(_gap_sentence(sums, one, values) for one in gaps if one.is_sure and one.figure in _WORDS),
            *(
                _error_sentence(sums, name, told)
                for name, told in sure.items()
                if "error" in wanted and _is_off(told["error"], values[name]["loss"])
            ),
        ],
    }


_WORDS: Final[dict[Figure, str]] = {
    "loss": "loss a row",
    "selection_rate": "selection rate",
    "positive_rate": "share of positive labels",
    "true_positive_rate": "rate of true positives",
    "false_positive_rate": "rate of false positives",
}


def _gap_sentence(sums: SegmentSums, one: Gap, values: Mapping[str, Mapping[Figure, Estimate]]) -> str:
    sides = []
    for name in (one.high, one.low):
        told = values[name][one.figure]
        value = f"{told.value:.3g}" if one.figure == "loss" else f"{told.value:.1%}"
        sides.append(f"{value} in {name} ({told.of:,} rows)")
    return f"{_WORDS[one.figure]} differs by {sums.column}: {', '.join(sides)}"


def _is_off(error: Estimate, loss: Estimate) -> bool:
    sure = error.lo > 0 or error.hi < 0
    return sure and abs(error.value) >= _WORTH_A_WORD * abs(loss.value)


def _error_sentence(sums: SegmentSums, name: str, told: Mapping[Figure, Estimate]) -> str:
    error = told["error"]
    way = "high" if error.value > 0 else "low"
    low, high = sorted(abs(x) for x in (error.lo, error.hi))
    return (
        f"answers in {sums.column}={name} are {abs(error.value):.3g} too {way} on average "
        f"({low:.3g} .. {high:.3g}, {error.of:,} rows)"
    )


def _rounded(value: Any) -> Any:
    """Six digits are enough for a person, and the same on every platform."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


# ------------------------------------------------------------ harm by segment, for a life


def watch_of(
    past: Past, champion: Trained, *, start: int, stop: int, alpha: float = 0.05, effect: float = 0.1
) -> SegmentWatch:
    """A watch over the declared segments, whose fresh loss is the champion's on ticks `start <= i < stop`.

    The answers to these ticks must be at hand. A champion of which no row is known has a watch that watches nothing.
    """
    seen = _Seen.of(past, champion, start, stop)
    fresh = [
        replace(seen, answers=None, labels=None).sums(name, past.segment_values(name, start, stop, most=_VALUES))
        for name in past.ctx.app.segments
    ]
    ticks_a_year = max(round(_YEAR / past.spec.every), 1)
    return SegmentWatch.over(fresh, alpha=alpha, effect=effect, year_blocks=ticks_a_year)


def watched(watch: SegmentWatch, past: Past, tick: int, losses: np.ndarray) -> SegmentWatch:
    """The watch after the champion's losses of one more tick, (n,), one a labelled row."""
    if not len(losses) or not watch.values:
        return watch
    return fold_watch(watch, tick, {name: past.segment(name, tick) for name in watch.values}, losses)
