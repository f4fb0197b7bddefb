"""Trial: a challenger against the champion, pair by pair, from the backtest to the last canary step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeAlias

import numpy as np

from staytrue.kernel.duration import duration
from staytrue.kernel.evidence import Differences, fold
from staytrue.kernel.policy import Settings
from staytrue.kernel.release import Digest
from staytrue.kernel.rollout import Move, Step, advance
from staytrue.kernel.trial import Judgement, Verdict, judge, spend
from staytrue.loop.jobs import Steps
from staytrue.loop.past import Past
from staytrue.loop.train import Trained, train
from staytrue.store import tables
from staytrue.store.tables import Table

__all__ = ["Backtest", "Keep", "Pairs", "Sums", "Trial", "backtest", "inputs", "pairs"]

Keep: TypeAlias = Callable[[Table], Table]

_SEGMENT_VALUES = 8
_RECENT_ROWS = 2000
_WINDOWS = ("all", "365d", "180d", "90d", "45d")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The evidence of one comparison: new minus old, overall and in each segment value; scale, margin and alpha fixed before."""

    overall: Differences
    segments: Mapping[tuple[str, str], Differences]
    margin: float
    alpha: float

    def seen(self, past: Past, tick: int, d: np.ndarray) -> Pairs:
        """The evidence after one more tick of paired losses."""
        if not len(d):
            return self
        found = dict(self.segments)
        for (name, value), state in self.segments.items():
            mask = past.segment(name, tick) == value
            if mask.any():
                found[name, value] = fold(state, tick, d[mask])
        return replace(self, overall=fold(self.overall, tick, d), segments=found)

    def cleared(self) -> Pairs:
        """The same comparison with nothing seen yet."""
        fresh = Differences.fresh(scale=self.overall.scale)
        return replace(self, overall=fresh, segments=dict.fromkeys(self.segments, fresh))

    def judged(self) -> Judgement:
        """What it has shown so far."""
        named = {f"{name}={value}": state for (name, value), state in self.segments.items()}
        return judge(self.overall, named, alpha=self.alpha, margin=self.margin)


def pairs(
    past: Past, settings: Settings, champion: Trained, challenger: Trained, *, stop: int, number: int
) -> Steps[Pairs]:
    """Fresh evidence for trial `number`; scale, margin and segments are fixed on rows before tick `stop`.

    The scale is the 99th percentile of |difference| between the two on those rows: beyond it a row counts as that much,
    so that one absurd price can't decide. Half of the trial's budget is left for the watch after a promotion.
    """
    start = past.back(stop, _RECENT_ROWS, not_before=0)
    yield from past.answered([champion, challenger], start, stop)
    losses = past.losses_between(champion, start, stop)
    apart = np.abs(past.losses_between(challenger, start, stop) - losses)
    scale = float(np.quantile(apart, 0.99)) if len(apart) else 0.0
    names = [
        (name, value)
        for name in past.ctx.app.segments
        for value in past.segment_values(name, start, stop, most=_SEGMENT_VALUES)
    ]
    fresh = Differences.fresh(scale=scale or float(losses.mean() if len(losses) else 0.0) or 1.0)
    return Pairs(
        overall=fresh,
        segments=dict.fromkeys(names, fresh),
        margin=settings.margin * (float(losses.mean()) if len(losses) else 0.0),
        alpha=spend(number, settings.alpha) / 2,
    )


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """What the backtest showed: the window it chose, the rows it held out, and the pairs on them."""

    window: str
    start: int
    """First tick to train on."""
    cut: int
    """First tick held out."""
    held_out: int
    """Rows of the ticks from there on, which neither release was trained on."""
    pairs: Pairs
    judgement: Judgement
    champion_loss: float
    challenger_loss: float
    trained: int
    """Trainings that really ran for it."""


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What is kept of the losses of a trial: enough to say what fresh means."""

    rows: int = 0
    total: float = 0.0
    squares: float = 0.0

    def seen(self, losses: np.ndarray) -> Sums:
        """The sums after more losses, (n,)."""
        return Sums(
            rows=self.rows + len(losses),
            total=self.total + float(losses.sum()),
            squares=self.squares + float((losses**2).sum()),
        )


@dataclass(kw_only=True)
class Trial:
    """A challenger on its way. `pairs` run through the whole trial; `live` holds those since the backtest."""

    number: int
    challenger: Trained
    release: Digest
    steps: tuple[Step, ...]
    started: int
    pairs: Pairs
    live: Pairs
    at: int = 0
    step_rows: int = 0
    live_rows: int = 0
    lost: Sums = field(default_factory=Sums)
    champion_lost: Sums = field(default_factory=Sums)
    source: str = "retrain"
    """What brought the challenger: `retrain`, `stored` for a champion of before, `code` for a change of the app, `person`."""
    stop: int = 0
    """The challenger was trained on ticks before this one."""

    @property
    def step(self) -> Step:
        """The step it is in."""
        return self.steps[self.at]

    @property
    def last(self) -> bool:
        """Whether the next move up is to champion."""
        return self.at == len(self.steps) - 1

    def advised(self, settings: Settings, *, days: float) -> tuple[Move, Verdict, Judgement]:
        """What comes next, the verdict that says so, and the judgement behind it.

        Args:
            days: since the trial began.
        """
        judgement, live = self.pairs.judged(), self.live.judged()
        verdict = judgement.verdict
        proof = self.last or self.step.stage == "canary"
        if live.verdict == "worse":
            judgement, verdict = live, "worse"
        elif proof and verdict in ("better", "not_worse") and self.live.overall.mean > self.live.margin:
            verdict = "undecided"  # the backtest speaks for it, the live rows against: wait for more
        over = days >= settings.trial_days or self.live_rows >= settings.trial_rows
        move = advance(verdict=verdict, rows=self.step_rows, needed=self.step.rows, proof=proof, over=over)
        return move, verdict, judgement

    def up(self) -> None:
        """On to the next step."""
        self.at += 1
        self.step_rows = 0

    def seen(self, past: Past, tick: int, challenger: np.ndarray, champion: np.ndarray) -> None:
        """Both releases answered one more tick."""
        d = challenger - champion
        self.pairs, self.live = self.pairs.seen(past, tick, d), self.live.seen(past, tick, d)
        self.step_rows += len(d)
        self.live_rows += len(d)
        self.lost, self.champion_lost = self.lost.seen(challenger), self.champion_lost.seen(champion)


def backtest(
    past: Past,
    settings: Settings,
    champion: Trained,
    *,
    champion_stop: int,
    stop: int,
    number: int,
    keep: Keep | None = None,
) -> Steps[Backtest]:
    """The challenger's recipe without the newest rows, compared with the champion on them.

    Args:
        champion_stop: the champion was trained on ticks before this one.
        stop: labels are known for ticks before this one.
        number: of the trial, for its share of the error budget.    keep: see `inputs`.

    The rows held out are at most half of those that came since the champion's training: with all of them held out, the
    challenger would be the champion again.
    """
    wanted = min(settings.holdout, past.rows(champion_stop, stop) // 2)
    cut = past.back(stop, wanted, not_before=champion_stop)
    # Trained on labels that were known when the first of these rows was asked about; but on no less than the champion was.
    known = max(past.known_when(cut), champion_stop)
    starts = _starts(past, settings.window, known)
    challengers: dict[str, Trained] = {}
    for window, start in starts.items():
        challengers[window] = yield from train(past.ctx, inputs(past, start, known, keep), previous=champion.model)
    yield from past.answered([champion, *challengers.values()], cut, stop)
    means = {w: past.losses_between(c, cut, stop) for w, c in challengers.items()}
    window = _chosen(means)
    evidence = yield from pairs(past, settings, champion, challengers[window], stop=cut, number=number)
    if len(starts) > 1:
        # The best of n windows on the same rows is n looks: each has its share of the budget.
        evidence = replace(evidence, alpha=evidence.alpha / len(starts))
    for tick in range(cut, stop):
        evidence = evidence.seen(past, tick, past.losses(challengers[window], tick) - past.losses(champion, tick))
    return Backtest(
        window=window,
        start=_starts(past, window, stop)[window],
        cut=cut,
        held_out=past.rows(cut, stop),
        pairs=evidence,
        judgement=evidence.judged(),
        champion_loss=float(past.losses_between(champion, cut, stop).mean()),
        challenger_loss=float(means[window].mean()),
        trained=sum(c.ran for c in challengers.values()),
    )


def inputs(past: Past, start: int, stop: int, keep: Keep | None = None) -> dict[str, Table]:
    """Source -> rows to train on: the labelled source from tick `start` to `stop`, others up to the same moment.

    Args:
        keep: gives back the labelled source without the rows that are not to be trained on.

    Of a snapshot source it is the newest snapshot that was taken by then, and in a training on all that is known the newest.
    Limit: before the first snapshot was taken a replay uses that one: how the catalogue looked earlier is not on file.
    """
    until = past.ticks[stop - 1].part.until
    since = past.ticks[start].part.since
    found = {}
    for name in past.ctx.app.inputs():
        if name == past.spec.name:
            rows = past.window(start, stop)
            found[name] = keep(rows) if keep else rows
        else:
            other = past.ctx.store.table(name, app=past.ctx.app.name).table
            if past.ctx.app.sources[name].spec.snapshot:
                found[name] = _newest_snapshot(past, other, None if stop == len(past.ticks) else until)
            else:
                found[name] = tables.window(past.ctx.store.objects, other, since, until)
    return found


def _newest_snapshot(past: Past, table: Table, by: datetime | None) -> Table:
    taken = [part for part in table.parts if by is None or part.since <= by]
    part = taken[-1] if taken else table.parts[0]
    return tables.append(tables.empty(past.ctx.app.sources[table.source].spec), part)


def _starts(past: Past, window: str, stop: int) -> dict[str, int]:
    """Window -> first tick to train on, for a training that ends before tick `stop`; windows that coincide appear once."""
    names = _WINDOWS if window == "auto" else (window,)
    found: dict[str, int] = {}
    for name in names:
        start = 0
        if name != "all":
            since = past.ticks[stop - 1].part.until - duration(name)
            start = sum(t.part.since < since for t in past.ticks[:stop])
        if start not in found.values() and past.rows(start, stop) > 0:
            found[name] = start
    return found


def _chosen(losses: Mapping[str, np.ndarray]) -> str:
    """The longest window (they come longest first) whose loss is within half a standard error of the best."""
    means = {w: float(x.mean()) for w, x in losses.items()}
    best = min(means, key=lambda w: means[w])
    slack = 0.5 * float(losses[best].std()) / max(len(losses[best]), 1) ** 0.5
    return next(w for w in losses if means[w] <= means[best] + slack)
