"""Life: an app living through ticks under one policy. It answers, learns when labels come, decides, tries, and writes down why.

What it decides is decided in the kernel; what it needs computed, it asks for as jobs; the clock is that of the ticks. A
replay runs one life per policy over the past.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from staytrue.errors import StaytrueError
from staytrue.kernel.duration import duration
from staytrue.kernel.policy import Decision, Known, Policy, Settings, decide
from staytrue.kernel.release import Digest
from staytrue.kernel.rollout import Move, Step, advance, in_canary, moved, steps
from staytrue.kernel.trial import Judgement
from staytrue.loop.chronicle import Chronicle
from staytrue.loop.context import Context
from staytrue.loop.deliver import note_failure
from staytrue.loop.jobs import Steps, tells_of_the_job
from staytrue.loop.past import Past
from staytrue.loop.release import new_release
from staytrue.loop.train import TRAININGS, Trained, train
from staytrue.loop.trial import Backtest, Trial, backtest, inputs, pairs
from staytrue.loop.watch import RollbackWatch, Watch

__all__ = ["Life", "Lived", "mean_interval", "short"]

_NEW_ROWS = 100
"""Fewer labelled rows since the champion's training than this, and there is nothing to compare a challenger on."""
_MOST_DOUBLINGS = 5
"""The cooldown doubles with each setback in a row, up to 32 times: a loop that never tries again would not be one."""
_HALF = 0.5
"""Share of the rows that a challenger answers when the trial has no live step of its own."""
_DAY = timedelta(days=1)
_RECENT_TICKS = 28


@dataclass
class Lived:
    """What became of one policy."""

    name: str
    fresh_loss: float
    """What a row cost when the first champion was fresh: the unit of `retrain_cost`, the same for all policies."""
    by_tick: dict[int, np.ndarray]
    """tick -> losses of the answers that were given, one for each row with a label."""
    retrains: int
    trained: int
    promoted: int
    rejected: int
    bad_days: int
    seconds: float
    unanswered: int
    timeline: list[dict[str, Any]]

    @property
    def losses(self) -> list[np.ndarray]:
        """The losses of each tick, oldest first."""
        return list(self.by_tick.values())


def mean_interval(losses: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % interval of the mean loss a row, with ticks as the units that vary: rows of one day are alike."""
    filled = [x for x in losses if len(x)]
    rows = sum(map(len, filled))
    if not rows:
        return (float("nan"), float("nan"))
    mean = sum(float(x.sum()) for x in filled) / rows
    spread = sum((float(x.sum()) - mean * len(x)) ** 2 for x in filled) ** 0.5 / rows
    return (mean - 1.96 * spread, mean + 1.96 * spread)


@dataclass(frozen=True)
class _Served:
    """Who answered a tick."""

    champion: Trained
    release: Digest
    trial: Trial | None
    share: float
    rollback: RollbackWatch | None


@dataclass
class Life:
    """One policy living through the past."""

    ctx: Context
    past: Past
    name: str
    policy: Policy
    settings: Settings
    chronicle: Chronicle
    moved_on: Callable[[str, int, int], None]

    champion: Trained = field(init=False)
    release: Digest = field(init=False)
    first: Trained = field(init=False)
    stop: int = 0
    """The champion was trained on ticks before this one."""
    watch: Watch = field(default_factory=Watch)
    trial: Trial | None = None
    rollback: RollbackWatch | None = None
    decided_at: datetime = field(init=False)
    spent: list[datetime] = field(default_factory=list)
    setbacks: int = 0
    number: int = 0
    served: dict[int, _Served] = field(default_factory=dict)
    by_tick: dict[int, np.ndarray] = field(default_factory=dict)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("retrains", "trained", "promoted", "rejected"), 0)
    )
    bad: set[Any] = field(default_factory=set)
    unanswered: int = 0
    timeline: list[dict[str, Any]] = field(default_factory=list)
    last: Decision | None = None

    def live(self) -> Steps[Lived]:
        """Tick by tick to the end."""
        began = time.perf_counter()
        yield from self._begin()
        known = self._known_by(self.now(self.past.first, begins=True), 0)
        for tick in range(self.past.first, self.past.until):
            yield from self._answer(tick)
            now = self.now(tick)
            upto = self._known_by(now, known)
            for matured in range(max(known, self.past.first), upto):
                self._learn(matured, now)
            known = upto
            if self.trial:
                self._advance(now)
            elif self._may_retrain(now, known):
                yield from self._consider(now, known)
            self.chronicle.write()
            self.moved_on(self.name, tick + 1 - self.past.first, self.past.until - self.past.first)
        self._end(self.now(self.past.until - 1), known)
        fresh_loss = yield from self._fresh_loss()
        return self._lived(fresh_loss, time.perf_counter() - began)

    def now(self, tick: int, *, begins: bool = False) -> datetime:
        """The simulated clock at the end (or the beginning) of a tick."""
        part = self.past.ticks[tick].part
        return part.since if begins else part.until

    def _known_by(self, now: datetime, start: int) -> int:
        """Labels are known for ticks before this one."""
        stop = start
        while stop < self.past.until and self.past.ticks[stop].known_at <= now:
            stop += 1
        return stop

    # ------------------------------------------------------------ answering and learning

    def _begin(self) -> Steps[None]:
        now = self.now(self.past.first, begins=True)
        stop = self._known_by(now, 0)
        try:
            self.first = self.champion = yield from train(self.ctx, inputs(self.past, *self._training_span(stop)))
        except StaytrueError as exc:
            if tells_of_the_job(exc):
                note_failure(self.ctx, exc, timeline=TRAININGS)
            raise
        self.stop, self.decided_at = stop, now
        self._count_training(self.champion)
        self.release, refs = new_release(self.ctx, self.champion, scores={}, parents=())
        self._tell(
            "deployed",
            f"First release, trained on {self.champion.rows:,} rows: nothing to compare it with yet.",
            now,
            self.release,
            {"rows": self.champion.rows},
            refs=refs,
            roles={"champion": (self.release, 1.0)},
        )
        self.chronicle.write()

    def _training_span(self, stop: int) -> tuple[int, int]:
        window = self.settings.window
        if window in ("all", "auto"):
            return 0, stop
        since = self.past.ticks[stop - 1].part.until - duration(window)
        return sum(t.part.since < since for t in self.past.ticks[:stop]), stop

    def _answer(self, tick: int) -> Steps[None]:
        """The champion, and whoever is on trial or kept warm beside it, answer the tick's rows; no label is looked at."""
        models = [self.champion]
        if self.trial:
            models.append(self.trial.challenger)
        if self.rollback:
            models.append(self.rollback.old)
        yield from self.past.answered(models, tick, tick + 1)
        share = self.trial.step.share if self.trial else 0.0
        self.served[tick] = _Served(self.champion, self.release, self.trial, share, self.rollback)

    def _learn(self, tick: int, now: datetime) -> None:
        """The tick's labels are known: what did it cost, and what does it say of champion, challenger and old champion?"""
        served = self.served.pop(tick)
        try:
            losses = self.past.losses(served.champion, tick)
        except StaytrueError as exc:
            if not tells_of_the_job(exc):
                raise
            self.unanswered += self.past.ticks[tick].rows
            self._alarm(
                "system",
                f"The champion could not answer {self.past.ticks[tick].rows} rows: {exc.message}",
                now,
                _told_of(exc),
            )
            return
        shown = losses
        if served.trial:
            shown = self._learn_trial(served, tick, losses, now)
        self.by_tick[tick] = shown
        if served.release == self.release:
            self._learn_champion(tick, losses, now)
        if served.rollback and served.rollback is self.rollback:
            self._learn_rollback(served.rollback, tick, losses, now)

    def _learn_trial(self, served: _Served, tick: int, losses: np.ndarray, now: datetime) -> np.ndarray:
        trial = served.trial
        if trial is None:
            return losses
        try:
            challenger = self.past.losses(trial.challenger, tick)
        except StaytrueError as exc:
            if not tells_of_the_job(exc):
                raise
            # An error of a challenger rolls it back at once; its share of the rows went to the champion.
            if self.trial is trial:
                self._reject(now, trial.step.stage, "error", exc.message, _told_of(exc))
            return losses
        if self.trial is trial:
            trial.seen(self.past, tick, challenger, losses)
        mask = in_canary(self.past.keys(tick), served.share, salt=f"{self.ctx.app.name} {trial.number}")
        return np.where(mask, challenger, losses) if len(losses) else losses

    def _learn_champion(self, tick: int, losses: np.ndarray, now: datetime) -> None:
        rise = self.watch.learn(tick, losses)
        if rise is not None:
            since = self.past.ticks[rise.since].part.since
            numbers = {
                "evidence": rise.evidence,
                "fresh_loss": rise.baseline,
                "loss": rise.level,
                "since": since.isoformat(),
            }
            self._alarm(
                "harm",
                f"loss rose from {rise.baseline:.3g} to {rise.level:.3g} a row, probably since {since:%Y-%m-%d}.",
                now,
                short(numbers),
            )
        if self.watch.alarmed:
            self.bad.add(self.past.ticks[tick].part.since.date())

    def _learn_rollback(self, rollback: RollbackWatch, tick: int, losses: np.ndarray, now: datetime) -> None:
        try:
            old = self.past.losses(rollback.old, tick)
        except StaytrueError as exc:
            if not tells_of_the_job(exc):
                raise
            self.rollback = None  # it can't answer any more: there is nothing to roll back to
            return
        judgement = rollback.learn(self.past, tick, losses, old)
        if judgement is not None:
            self._roll_back(rollback, judgement, now)
        elif rollback.rows_left <= 0:
            self.rollback = None

    # ------------------------------------------------------------ deciding

    def _may_retrain(self, now: datetime, known: int) -> bool:
        cooldown = duration(self.settings.cooldown) * 2 ** min(self.setbacks, _MOST_DOUBLINGS)
        today = [at for at in self.spent if at > now - _DAY]
        return (
            (not self.spent or now - self.spent[-1] >= cooldown)
            and len(today) < self.settings.budget
            and self.past.rows(self.stop, known) >= _NEW_ROWS
        )

    def _consider(self, now: datetime, known: int) -> Steps[None]:
        self.last = decide(
            self.policy,
            Known(
                now=now,
                trained_at=self.decided_at,
                rows_trained=self.champion.rows,
                rows_since=self.past.rows(self.stop, known),
                freshness=self.watch.books,
                retrain_cost=self.settings.retrain_cost,
                alarms=("harm",) if self.watch.alarmed else (),
            ),
            name=self.name,
        )
        if not self.last.retrain:
            return
        self.counts["retrains"] += 1
        self.number += 1
        self.decided_at = now
        self.spent.append(now)
        self._tell("retrain", f"Retrain: {self.last.why}.", now, None, self.last.numbers)
        try:
            yield from self._retrain(now, known)
        except StaytrueError as exc:
            if not tells_of_the_job(exc):
                raise
            self._reject(now, "training", "error", exc.message, _told_of(exc))

    def _retrain(self, now: datetime, known: int) -> Steps[None]:
        plan = steps(self.settings.trial)
        span = self._training_span(known)
        tested: Backtest | None = None
        if plan and plan[0].stage == "backtest":
            tested = yield from backtest(
                self.past, self.settings, self.champion, champion_stop=self.stop, stop=known, number=self.number
            )
            self.counts["trained"] += tested.trained
            if not self._passes(tested, now, known):
                return
            span = (tested.start, known)
        challenger = yield from train(self.ctx, inputs(self.past, *span), previous=self.champion.model)
        self._count_training(challenger)
        scores = {"backtest": tested.challenger_loss, "backtest_champion": tested.champion_loss} if tested else {}
        release, refs = new_release(self.ctx, challenger, scores=scores, parents=(self.release,))
        evidence = (
            tested.pairs
            if tested
            else (yield from pairs(self.past, self.settings, self.champion, challenger, stop=known, number=self.number))
        )
        self.trial = Trial(
            number=self.number,
            challenger=challenger,
            release=release,
            steps=self._live_steps(plan, tested),
            started=known,
            pairs=evidence,
            live=evidence.cleared(),
        )
        self._tell_step(now, refs)

    def _passes(self, tested: Backtest, now: datetime, known: int) -> bool:
        """A backtest is passed unless the challenger is worse, or no better in the mean: then there is nothing to gain."""
        gain = tested.champion_loss - tested.challenger_loss
        numbers = {
            "verdict": tested.judgement.verdict,
            "champion_loss": _six(tested.champion_loss),
            "challenger_loss": _six(tested.challenger_loss),
            "rows": tested.held_out,
            "window": tested.window,
            **short(tested.judgement.evidence),
        }
        compared = f"{tested.challenger_loss:.4g} against {tested.champion_loss:.4g} on {tested.held_out:,} rows that neither saw"
        if tested.judgement.verdict == "worse" or gain <= 0:
            base = self.past.losses_between(self.champion, tested.cut, known)
            why = f"in the backtest it loses {compared}"
            self._reject(now, "backtest", tested.judgement.verdict, why, numbers, settled=[base])
            return False
        self._tell("backtest", f"Backtest passed: it loses {compared}.", now, None, numbers)
        return True

    def _live_steps(self, plan: Sequence[Step], tested: Backtest | None) -> tuple[Step, ...]:
        """The steps after the backtest; while harm is done, waiting costs too, so what is proven better skips the shadow."""
        rest = tuple(step for step in plan if step.stage != "backtest")
        canary = tuple(step for step in rest if step.stage == "canary")
        proven = tested is not None and tested.judgement.verdict == "better"
        return (canary if self.watch.alarmed and proven else ()) or rest or (Step(stage="canary", share=_HALF),)

    def _tell_step(self, now: datetime, refs: Any = ()) -> None:
        trial = self.trial
        if trial is None:
            return
        step = trial.step
        doing = (
            f"shadow for {step.rows} rows"
            if step.stage == "shadow"
            else f"canary: it answers {step.share:.0%} of the rows"
        )
        self._tell(
            step.stage,
            f"Challenger {trial.release[:8]} in {doing}.",
            now,
            trial.release,
            {"share": step.share, "rows": step.rows, "trained_rows": trial.challenger.rows},
            refs=refs,
            roles={"challenger": (trial.release, step.share)},
        )

    def _advance(self, now: datetime) -> None:
        trial = self.trial
        if trial is None or not trial.live_rows:
            return
        judgement = trial.pairs.judged()
        live = trial.live.judged()
        verdict = judgement.verdict
        if live.verdict == "worse":
            judgement, verdict = live, "worse"
        elif trial.last and verdict in ("better", "not_worse") and trial.live.mean > trial.live.margin:
            verdict = "undecided"  # the backtest speaks for it, the live rows against: wait for more
        days = (now - self.now(trial.started - 1)) / _DAY
        over = days >= self.settings.trial_days or trial.live_rows >= self.settings.trial_rows
        move: Move = advance(verdict=verdict, rows=trial.step_rows, needed=trial.step.rows, last=trial.last, over=over)
        numbers = {
            "verdict": verdict,
            "live_rows": trial.live_rows,
            "days": round(days, 2),
            **short(judgement.evidence),
        }
        if move == "reject":
            self._reject(now, trial.step.stage, verdict, judgement.sentence, numbers, settled=trial.champion_losses)
        elif move == "pass" and trial.last:
            moved(trial.step.stage, "pass", "champion")
            self._promote(trial, judgement.sentence, numbers, now)
        elif move == "pass":
            moved(trial.step.stage, "pass", trial.steps[trial.at + 1].stage)
            trial.at += 1
            trial.step_rows = 0
            self._tell_step(now)

    # ------------------------------------------------------------ outcomes

    def _promote(self, trial: Trial, sentence: str, numbers: Mapping[str, Any], now: datetime) -> None:
        self.counts["promoted"] += 1
        old, old_release, old_stop = self.champion, self.release, self.stop
        self.champion, self.release, self.stop = trial.challenger, trial.release, trial.started
        self._tell(
            "promoted",
            f"Release {trial.release[:8]} is champion: {sentence}.",
            now,
            trial.release,
            numbers,
            roles={"champion": (trial.release, 1.0), "challenger": (None, 0.0), "previous": (old_release, 0.0)},
        )
        if self.settings.watch_rows:
            self.rollback = RollbackWatch(
                old=old,
                old_release=old_release,
                old_stop=old_stop,
                pairs=trial.pairs.cleared(),
                rows_left=self.settings.watch_rows,
            )
        self.watch.renew(np.concatenate(trial.losses))
        self.trial, self.setbacks = None, 0

    def _reject(
        self,
        now: datetime,
        stage: str,
        verdict: str,
        why: str,
        numbers: Mapping[str, Any],
        *,
        settled: Sequence[np.ndarray] = (),
    ) -> None:
        self.counts["rejected"] += 1
        self.setbacks += 1
        trial, self.trial = self.trial, None
        named = f"Challenger {trial.release[:8]}" if trial else "Challenger"
        word = {"worse": "worse", "error": "it failed"}.get(
            verdict, "not shown to be better in time" if trial else "nothing gained"
        )
        self._tell(
            "rejected",
            f"{named} rejected in {stage} ({word}): {why}. The champion stays.",
            now,
            trial.release if trial else None,
            {"stage": stage, **numbers},
            roles={"challenger": (None, 0.0)} if trial else None,
        )
        if settled:
            self.watch.settle(np.concatenate(settled))

    def _roll_back(self, rollback: RollbackWatch, judgement: Judgement, now: datetime) -> None:
        bad = self.release
        moved("champion", "roll_back", "rolled_back")
        if self.trial:
            self._reject(now, self.trial.step.stage, "stopped", "its champion was rolled back", {})
        self.champion, self.release, self.stop = rollback.old, rollback.old_release, rollback.old_stop
        self.rollback = None
        self.setbacks += 1
        self.watch.renew(np.empty(0))
        self._tell(
            "rolled_back",
            f"Release {bad[:8]} rolled back to {self.release[:8]}: {judgement.sentence}.",
            now,
            self.release,
            {"from": bad, **short(judgement.evidence)},
            roles={"champion": (self.release, 1.0), "previous": (None, 0.0)},
        )

    def _alarm(self, kind: str, sentence: str, now: datetime, numbers: Mapping[str, Any]) -> None:
        self._tell("alarm", f"{kind.capitalize()} alarm: {sentence}", now, self.release, {"alarm": kind, **numbers})

    def _end(self, now: datetime, known: int) -> None:
        newest = list(self.by_tick.values())[-_RECENT_TICKS:]
        recent = np.concatenate([np.empty(0), *newest])
        trial = self.trial
        low, high = mean_interval(newest)
        numbers = {
            "champion": self.release,
            "rows": len(recent),
            "loss": _six(recent.mean()) if len(recent) else None,
            "loss_interval": [_six(low), _six(high)] if len(recent) else None,
            "fresh_loss": _six(self.watch.books.loss) if self.watch.books.loss is not None else None,
            "fresh_rows": self.watch.books.rows,
            "alarms": ["harm"] if self.watch.alarmed else [],
            "trial": {"release": trial.release, "stage": trial.step.stage, "rows": trial.live_rows} if trial else None,
            "next": self.last.why if self.last else "the policy was not asked yet",
            "rows_since": self.past.rows(self.stop, known),
            "until": now.isoformat(),
        }
        self._tell("looked", f"Looked at {len(recent)} rows of the last 28 ticks.", now, self.release, numbers)
        self.chronicle.write()

    def _count_training(self, trained: Trained) -> None:
        self.counts["trained"] += trained.ran

    def _tell(
        self, kind: str, sentence: str, now: datetime, release: Digest | None, numbers: Mapping[str, Any], *,
        refs: Any = (), roles: Any = None,
    ) -> None:  # fmt: skip
        body = {"policy": self.name, "release": release, "evidence": dict(numbers)}
        self.chronicle.tell(kind, sentence, at=now, body=body, refs=tuple(refs), roles=roles)
        self.timeline.append(
            {
                "at": now.isoformat(),
                "policy": self.name,
                "kind": kind,
                "release": release,
                "sentence": sentence,
                "evidence": dict(numbers),
            }
        )

    def _fresh_loss(self) -> Steps[float]:
        """The first champion's mean loss over its first rows, whoever answered them in the end."""
        stop = self.past.first + 1
        while stop < self.past.until and self.past.rows(self.past.first, stop) < self.watch.books.warm:
            stop += 1
        yield from self.past.answered([self.first], self.past.first, stop)
        losses = []
        for tick in range(self.past.first, stop):
            with suppress(StaytrueError):  # ticks that it could not answer say nothing of its loss
                losses.append(self.past.losses(self.first, tick))
        found = np.concatenate([np.empty(0), *losses])
        return float(found.mean()) if len(found) else 0.0

    def _lived(self, fresh_loss: float, seconds: float) -> Lived:
        return Lived(
            name=self.name,
            fresh_loss=fresh_loss,
            by_tick=self.by_tick,
            bad_days=len(self.bad),
            seconds=seconds,
            unanswered=self.unanswered,
            timeline=self.timeline,
            **self.counts,
        )


def _told_of(exc: StaytrueError) -> dict[str, Any]:
    """What a story keeps of an error: not its text, which may hold an address or a duration and be another the next time."""
    return {"code": exc.code, "error": type(exc).__name__}


def _six(value: float) -> float:
    return round(float(value), 6)


def short(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as they are written down: six digits are enough for a person, and the same on every platform."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, Mapping):
            return {k: rounded(v) for k, v in value.items()}
        return [rounded(v) for v in value] if isinstance(value, list | tuple) else value

    return {key: rounded(value) for key, value in numbers.items()}
