"""Replay: the loop on the app's own past, on a simulated clock, with no look into the future.

At each tick the champion answers the tick's rows before their labels are seen; a label becomes visible `label_after` later;
challengers are trained on what was known, backtested on the newest of it, and shadow and canary on the rows that come next.
Trainings are real and run once: what a recipe gave is found again, by this replay, by another policy's, and by the live loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from staytrue.engines.process import ProcessPool
from staytrue.errors import StaytrueError
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.duration import duration
from staytrue.kernel.evidence import Harm, fold_harm
from staytrue.kernel.policy import Decision, Freshness, Known, Policy, Settings, decide
from staytrue.kernel.policy import policy as named_policy
from staytrue.kernel.release import Digest
from staytrue.kernel.rollout import Move, Step, advance, in_canary, moved, steps
from staytrue.loop.context import Context
from staytrue.loop.chronicle import Chronicle
from staytrue.loop.deliver import new_release
from staytrue.loop.jobs import Steps, drive
from staytrue.loop.past import Past
from staytrue.loop.train import Trained, train
from staytrue.loop.trial import Backtest, Pairs, Trial, backtest, inputs, pairs
from staytrue.settings import setting
from staytrue.store.ledger import LIVE
from staytrue.store.objects import digest

__all__ = ["Lived", "replay"]

_NEW_ROWS = 100
"""Fewer labelled rows since the champion's training than this, and there is nothing to compare a challenger on."""
_DAY = timedelta(days=1)
_HARM_TOLERANCE = 0.1
_HARM_ARL = 1000.0


def replay(
    ctx: Context,
    policies: Sequence[str],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    live: str | None = None,
    moved_on: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Live through the past once per policy, and say side by side what each would have cost.

    Args:
        policies: specs such as `payback`, `never`, `every:7d`; `app` is the app's own function.
        since, until: the ticks to live through; by default from where a fifth of the rows is history to the end.
        live: the policy whose story is written as the app's live timeline (for a demo); the others write a timeline of
            their own.
        moved_on: called with policy, ticks lived and ticks in all.

    Returns:
        `{"app", "since", "until", "rows", "policies": [...], "timeline": [...]}`, as documented in docs/replay.md.

    Raises:
        InvalidInput: ST601 too little past; ST104 an unknown policy; what the first training raises.
    """
    table = ctx.store.table(_source(ctx), app=ctx.app.name).table
    past = Past.of(ctx, table, since=since, until=until)
    names = list(dict.fromkeys(policies))
    lines = {name: _line(ctx, past, name, live=name == live, moved_on=moved_on) for name in names}
    with ProcessPool(ctx.store.work / "jobs", slots=int(setting("slots")) or None) as pool:
        lived = drive({name: line.live() for name, line in lines.items()}, pool)
    price = _fresh_price(past, lived[names[0]])
    return {
        "app": ctx.app.name,
        "since": past.ticks[past.first].part.since.isoformat(),
        "until": past.ticks[past.until - 1].part.until.isoformat(),
        "rows": sum(past.ticks[t].rows for t in range(past.first, past.until)),
        "policies": [lived[name].document(ctx, price) for name in names],
        "timeline": sorted(
            (entry for name in names for entry in lived[name].timeline),
            key=lambda e: (e["at"], names.index(e["policy"])),
        ),
    }


def _source(ctx: Context) -> str:
    labelled = ctx.app.check().labelled
    return labelled.spec.name if labelled else ""


def _line(
    ctx: Context, past: Past, name: str, *, live: bool, moved_on: Callable[[str, int, int], None] | None
) -> _Line:
    settings = ctx.app.settings
    own = ctx.app.retraining
    chosen = own if name == "app" and own is not None else named_policy(settings.retrain if name == "app" else name)
    run = _run_id(ctx, past, name)
    timeline = LIVE if live else f"replay/{name}/{run[:12]}"
    return _Line(
        ctx=ctx,
        past=past,
        name=name,
        policy=chosen,
        settings=settings,
        chronicle=Chronicle(ctx=ctx, timeline=timeline, run=run[:16]),
        moved_on=moved_on or (lambda _name, _done, _all: None),
    )


def _run_id(ctx: Context, past: Past, name: str) -> Digest:
    """All that a replay's story depends on, as one digest."""
    settings = {f: getattr(ctx.app.settings, f) for f in ctx.app.settings.__dataclass_fields__}
    document = {
        "loop": _own_code(),
        "code": ctx.code,
        "env": ctx.env,
        "table": past.table.id,
        "first": past.first,
        "until": past.until,
        "policy": name,
        "settings": settings,
    }
    return digest(canonical_json(document))


@cache
def _own_code() -> Digest:
    """The loop's own code: another way to decide is another story, also between two releases of staytrue."""
    root = Path(__file__).parents[1]
    files = sorted(path for folder in ("kernel", "loop") for path in (root / folder).glob("*.py"))
    return digest(b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in files))


def _fresh_price(past: Past, lived: Lived) -> float:
    """What a row cost when the first champion was fresh: the unit of `retrain_cost`, one for all policies."""
    losses: list[np.ndarray] = []
    for tick in range(past.first, past.until):
        losses.append(past.losses(lived.first, tick) if past.known(lived.first, tick) else np.empty(0))
        if sum(map(len, losses)) >= Freshness().warm:
            break
    found = np.concatenate(losses)
    return float(found.mean()) if len(found) else 0.0


# ---------------------------------------------------------------- one policy's life


@dataclass
class Lived:
    """What became of one policy."""

    name: str
    first: Trained
    losses: list[np.ndarray]
    retrains: int
    trained: int
    promoted: int
    rejected: int
    bad_days: int
    seconds: float
    unanswered: int
    timeline: list[dict[str, Any]]

    def document(self, ctx: Context, price: float) -> dict[str, Any]:
        """The policy's line of the replay document."""
        rows = np.concatenate(self.losses) if self.losses else np.empty(0)
        low, high = _mean_interval(self.losses)
        summary = ctx.metric.summary
        settings = ctx.app.settings
        return {
            "policy": self.name,
            "loss": _rounded(summary(rows)) if len(rows) else None,
            "loss_interval": [_rounded(summary(np.array([max(v, 0.0) if low >= 0 else v]))) for v in (low, high)],
            "retrains": self.retrains,
            "trained": self.trained,
            "promoted": self.promoted,
            "rejected": self.rejected,
            "bad_days": self.bad_days,
            "cost": _rounded(float(rows.sum()) + self.retrains * settings.retrain_cost * price),
            "seconds": round(self.seconds, 2),
        }


def _mean_interval(losses: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % interval of the mean loss a row, with ticks as the units that vary: rows of one day are alike."""
    filled = [x for x in losses if len(x)]
    rows = sum(map(len, filled))
    if not rows:
        return (float("nan"), float("nan"))
    mean = sum(float(x.sum()) for x in filled) / rows
    spread = sum((float(x.sum()) - mean * len(x)) ** 2 for x in filled) ** 0.5 / rows
    return (mean - 1.96 * spread, mean + 1.96 * spread)


def _rounded(value: float) -> float:
    return round(float(value), 6)


@dataclass(frozen=True)
class _Served:
    """Who answered a tick."""

    champion: Trained
    release: Digest
    trial: Trial | None
    share: float
    watch: _Watch | None


@dataclass
class _Watch:
    """The old champion, kept warm after a promotion: it answers beside the new one until rollback is no longer armed."""

    old: Trained
    old_release: Digest
    old_stop: int
    pairs: Pairs
    rows: int = 0


@dataclass
class _Line:
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
    books: Freshness = field(default_factory=Freshness)
    harm: Harm | None = None
    alarmed: bool = False
    trial: Trial | None = None
    watch: _Watch | None = None
    decided_at: datetime = field(init=False)
    spent: list[datetime] = field(default_factory=list)
    setbacks: int = 0
    number: int = 0
    served: dict[int, _Served] = field(default_factory=dict)
    losses: list[np.ndarray] = field(default_factory=list)
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
                self._advance(tick, now)
            elif self._may_retrain(now, known):
                yield from self._consider(now, known)
            self.chronicle.write()
            self.moved_on(self.name, tick + 1 - self.past.first, self.past.until - self.past.first)
        self._end(self.now(self.past.until - 1), known)
        return self._lived(time.perf_counter() - began)

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
        self.first = self.champion = yield from train(self.ctx, inputs(self.past, *self._training_span(stop)))
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
        if self.watch:
            models.append(self.watch.old)
        yield from self.past.answered(models, tick, tick + 1)
        share = self.trial.step.share if self.trial else 0.0
        self.served[tick] = _Served(self.champion, self.release, self.trial, share, self.watch)

    def _learn(self, tick: int, now: datetime) -> None:
        """The tick's labels are known: what did it cost, and what does it say of champion, challenger and old champion?"""
        served = self.served.pop(tick)
        try:
            losses = self.past.losses(served.champion, tick)
        except StaytrueError as exc:
            self.unanswered += self.past.ticks[tick].rows
            self._alarm(
                "system",
                f"The champion could not answer {self.past.ticks[tick].rows} rows: {exc.message}",
                now,
                exc.document(),
            )
            return
        shown = losses
        if served.trial:
            shown = self._learn_trial(served, tick, losses, now)
        self.losses.append(shown)
        if served.release == self.release:
            self._learn_champion(tick, losses, now)
        if served.watch and served.watch is self.watch:
            self._learn_watch(served.watch, tick, losses, now)

    def _learn_trial(self, served: _Served, tick: int, losses: np.ndarray, now: datetime) -> np.ndarray:
        trial = served.trial
        if trial is None:
            return losses
        try:
            challenger = self.past.losses(trial.challenger, tick)
        except StaytrueError as exc:
            # An error of a challenger rolls it back at once; its share of the rows went to the champion.
            if self.trial is trial:
                self._reject(now, trial.step.stage, "error", exc.message, exc.document())
            return losses
        if self.trial is trial:
            trial.seen(self.past, tick, challenger, losses)
        mask = in_canary(self.past.keys(tick), served.share, salt=trial.release)
        return np.where(mask, challenger, losses) if len(losses) else losses

    def _learn_champion(self, tick: int, losses: np.ndarray, now: datetime) -> None:
        warm = self.books.rows >= self.books.warm
        self.books = self.books.seen(losses)
        if warm and self.harm is None and self.books.loss is not None:
            self.harm = self._watch_for_harm()
        if self.harm is not None:
            self.harm = fold_harm(self.harm, tick, losses, closed=True)
            if self.harm.fired and not self.alarmed:
                self.alarmed = True
                since = self.past.ticks[self.harm.started or tick].part.since
                recent = [m for t, m in self.harm.blocks if t >= (self.harm.started or 0)]
                level = float(np.mean(recent)) if recent else float("nan")
                self._alarm(
                    "harm",
                    f"Loss rose from {self.harm.baseline:.3g} to {level:.3g} a row, probably since {since:%Y-%m-%d}.",
                    now,
                    {"evidence": round(self.harm.evidence, 3), "arl": self.harm.arl, "baseline": round(self.harm.baseline, 6),
                     "loss": round(level, 6), "since": since.isoformat()},
                )  # fmt: skip
        if self.alarmed:
            self.bad.add(self.past.ticks[tick].part.since.date())

    def _watch_for_harm(self) -> Harm:
        baseline = self.books.loss or 0.0
        spread = max(self.books.squares / max(self.books.rows, 1) - baseline**2, 0.0) ** 0.5
        return Harm.fresh(
            baseline=baseline,
            scale=max(baseline + 5 * spread, 1e-9),
            tolerance=_HARM_TOLERANCE * baseline + spread / max(self.books.rows, 1) ** 0.5,
            arl=_HARM_ARL,
        )

    def _learn_watch(self, watch: _Watch, tick: int, losses: np.ndarray, now: datetime) -> None:
        try:
            old = self.past.losses(watch.old, tick)
        except StaytrueError:
            self.watch = None  # it can't answer any more: there is nothing to roll back to
            return
        watch.pairs = watch.pairs.seen(self.past, tick, losses - old)
        watch.rows += len(losses)
        judgement = watch.pairs.judged()
        if judgement.verdict == "worse":
            self._roll_back(watch, judgement.sentence, judgement.evidence, now)
        elif watch.rows >= self.settings.watch_rows:
            self.watch = None

    # ------------------------------------------------------------ deciding

    def _may_retrain(self, now: datetime, known: int) -> bool:
        cooldown = duration(self.settings.cooldown) * 2**self.setbacks
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
                freshness=self.books,
                retrain_cost=self.settings.retrain_cost,
                alarms=("harm",) if self.alarmed else (),
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
            self._reject(now, "training", "error", exc.message, exc.document())

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
        evidence = tested.pairs if tested else (
            yield from pairs(self.past, self.settings, self.champion, challenger, stop=known, number=self.number)
        )
        self._start_trial(challenger, release, refs, plan, evidence, tested, now, known)

    def _passes(self, tested: Backtest, now: datetime, known: int) -> bool:
        """A backtest is passed unless the challenger is worse, or no better in the mean: then there is nothing to gain."""
        gain = tested.champion_loss - tested.challenger_loss
        numbers = {
            "verdict": tested.judgement.verdict,
            "champion_loss": _rounded(tested.champion_loss),
            "challenger_loss": _rounded(tested.challenger_loss),
            "rows": tested.held_out,
            "window": tested.window,
            **_numbers(tested.judgement.evidence),
        }
        compared = f"{tested.challenger_loss:.4g} against {tested.champion_loss:.4g} on {tested.held_out:,} rows that neither saw"
        if tested.judgement.verdict == "worse" or gain <= 0:
            base = self.past.losses_between(self.champion, tested.cut, known)
            why = f"in the backtest it loses {compared}"
            self._reject(now, "backtest", tested.judgement.verdict, why, numbers, settled=[base])
            return False
        self._tell("backtest", f"Backtest passed: it loses {compared}.", now, None, numbers)
        return True

    def _start_trial(
        self, challenger: Trained, release: Digest, refs: Any, plan: Sequence[Step], evidence: Pairs, tested: Backtest | None,
        now: datetime, known: int,
    ) -> None:  # fmt: skip
        rest = tuple(step for step in plan if step.stage != "backtest")
        proven = tested is not None and tested.judgement.verdict == "better"
        if self.alarmed and proven and any(step.stage == "canary" for step in rest):
            # While harm is done, waiting costs too: what is proven better on unseen rows skips the shadow.
            rest = tuple(step for step in rest if step.stage == "canary")
        self.trial = Trial(
            number=self.number,
            challenger=challenger,
            release=release,
            steps=rest or (Step(stage="canary", share=0.5),),
            started=known,
            pairs=evidence,
            live=evidence.cleared(),
        )
        self._tell_step(now, refs)

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

    def _advance(self, tick: int, now: datetime) -> None:
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
            **_numbers(judgement.evidence),
        }
        if move == "reject":
            self._reject(now, trial.step.stage, verdict, judgement.sentence, numbers, settled=trial.champion_losses)
        elif move == "pass" and trial.last:
            moved(trial.step.stage, "pass", "champion")
            self._promote(trial, judgement.sentence, numbers, now, tick)
        elif move == "pass":
            moved(trial.step.stage, "pass", trial.steps[trial.at + 1].stage)
            trial.at += 1
            trial.step_rows = 0
            self._tell_step(now)

    # ------------------------------------------------------------ outcomes

    def _promote(self, trial: Trial, sentence: str, numbers: Mapping[str, Any], now: datetime, tick: int) -> None:
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
            self.watch = _Watch(old=old, old_release=old_release, old_stop=old_stop, pairs=trial.pairs.cleared())
        self.books = Freshness(warm=self.books.warm).seen(np.concatenate(trial.losses))
        self.trial, self.setbacks = None, 0
        self._calm()

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
            self.books = self.books.settled(np.concatenate(settled))
            self._calm()

    def _roll_back(self, watch: _Watch, sentence: str, evidence: Mapping[str, Any], now: datetime) -> None:
        bad = self.release
        moved("champion", "roll_back", "rolled_back")
        if self.trial:
            self._reject(now, self.trial.step.stage, "stopped", "its champion was rolled back", {})
        self.champion, self.release, self.stop = watch.old, watch.old_release, watch.old_stop
        self.watch, self.books = None, Freshness(warm=self.books.warm)
        self.setbacks += 1
        self._tell(
            "rolled_back",
            f"Release {bad[:8]} rolled back to {self.release[:8]}: {sentence}.",
            now,
            self.release,
            {"from": bad, **_numbers(evidence)},
            roles={"champion": (self.release, 1.0), "previous": (None, 0.0)},
        )
        self._calm()

    def _calm(self) -> None:
        """A new champion, or a new idea of what fresh means: the alarm starts again."""
        self.harm, self.alarmed = None, False

    def _alarm(self, kind: str, sentence: str, now: datetime, numbers: Mapping[str, Any]) -> None:
        self._tell("alarm", f"{kind.capitalize()} alarm: {sentence}", now, self.release, {"alarm": kind, **numbers})

    def _end(self, now: datetime, known: int) -> None:
        recent = np.concatenate(self.losses[-28:] or [np.empty(0)])
        trial = self.trial
        low, high = _mean_interval(self.losses[-28:])
        numbers = {
            "champion": self.release,
            "rows": len(recent),
            "loss": _rounded(recent.mean()) if len(recent) else None,
            "loss_interval": [_rounded(low), _rounded(high)] if len(recent) else None,
            "fresh_loss": _rounded(self.books.loss) if self.books.loss is not None else None,
            "fresh_rows": self.books.rows,
            "alarms": ["harm"] if self.alarmed else [],
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

    def _lived(self, seconds: float) -> Lived:
        return Lived(
            name=self.name,
            first=self.first,
            losses=self.losses,
            bad_days=len(self.bad),
            seconds=seconds,
            unanswered=self.unanswered,
            timeline=self.timeline,
            **self.counts,
        )


def _numbers(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Evidence as it is written down: six digits are enough for a person and stable on every platform."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, Mapping):
            return {k: short(v) for k, v in value.items()}
        return [short(v) for v in value] if isinstance(value, list | tuple) else value

    return {key: short(value) for key, value in evidence.items()}
