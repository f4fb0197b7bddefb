"""Life: an app living through ticks under one policy. It answers, learns when labels come, decides, tries, and writes down why.

What it decides is decided in the kernel; what it needs computed, it asks for as jobs; the clock is that of the ticks. A
replay runs one life per policy over the past. The controller runs one for as long as the app is served, and keeps what it
remembers (`loop/memory.py`) from tick to tick: so what happens live is what a replay of the same rows says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from staytrue.errors import StaytrueError
from staytrue.kernel.admission import Admission, admission, not_after
from staytrue.kernel.duration import duration
from staytrue.kernel.policy import Decision, Known, Policy, Settings, decide
from staytrue.kernel.release import Digest
from staytrue.kernel.remedy import ALARMS, AlarmKind, remedy
from staytrue.kernel.rollout import Step, in_canary, moved, steps
from staytrue.kernel.schedule import quiet
from staytrue.loop.chronicle import Chronicle
from staytrue.loop.context import Context
from staytrue.loop.deliver import note_failure
from staytrue.loop.inspect import trusted
from staytrue.loop.jobs import Steps, tells_of_the_job
from staytrue.loop.past import Past
from staytrue.loop.release import checked_out, new_release
from staytrue.loop.senses import Noticed, Senses, ticks_between_alarms
from staytrue.loop.shelf import Found, Kept, Shelf
from staytrue.loop.train import TRAININGS, Trained, train
from staytrue.loop.trial import Backtest, Pairs, Sums, Trial, backtest, inputs, pairs
from staytrue.loop.watch import RollbackWatch, Watch
from staytrue.store.ledger import Ref
from staytrue.store.tables import Table

__all__ = ["Candidate", "Life", "Retraining", "Served", "Waiting", "mean_interval", "short"]

_HALF = 0.5
"""Share of the rows that a challenger answers when the trial has no live step of its own."""
_DAY = timedelta(days=1)
_RECENT_TICKS = 28
_MARGIN = timedelta(minutes=1)


def mean_interval(ticks: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """95 % interval of the mean loss a row, with ticks as the units that vary: rows of one day are alike.

    Args:
        ticks: rows and summed loss of each tick.
    """
    rows = sum(n for n, _ in ticks)
    if not rows:
        return (float("nan"), float("nan"))
    mean = sum(total for _, total in ticks) / rows
    spread = sum((total - mean * n) ** 2 for n, total in ticks) ** 0.5 / rows
    return (mean - 1.96 * spread, mean + 1.96 * spread)


@dataclass(frozen=True, kw_only=True)
class Served:
    """Who answered a tick: the champion, the challenger of trial `number` with its share, the old champion of a watch."""

    champion: Digest
    challenger: Digest | None = None
    number: int = 0
    share: float = 0.0
    old: Digest | None = None
    watch: int = 0
    since: str | None = None
    until: str | None = None
    """When its rows were asked about, as the traffic has it; None in a replay, where nobody asks."""


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A retraining that was decided and is under way."""

    now: datetime
    known: int
    """On labels of ticks before this one."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A challenger that has proven itself and waits for a person's word."""

    until: datetime
    sentence: str
    evidence: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A release of changed code, or one that a person asked for, on its way into a trial, its backtest behind it."""

    release: Digest
    trained: Trained
    refs: tuple[Ref, ...]
    pairs: Pairs
    started: int
    """Labels of ticks before this one were known to its training and its backtest."""
    sentence: str
    evidence: Mapping[str, Any]
    source: str = "code"
    """As `Trial.source`."""
    stop: int | None = None
    """It was trained on ticks before this one; None: on those before `started`."""
    instead: str = "newer code comes, which learns from the same rows"
    """Why whoever is on trial makes room."""


@dataclass
class Life:
    """One app under one policy, tick by tick.

    Args:
        wall: the time by which traffic is logged; None in a replay, where there is no traffic and nobody to approve.
    """

    ctx: Context
    past: Past
    name: str
    policy: Policy
    settings: Settings
    chronicle: Chronicle
    wall: Callable[[], datetime] | None = None

    champion: Trained = field(init=False)
    release: Digest = field(init=False)
    stop: int = 0
    """The champion was trained on ticks before this one."""
    began: int = 0
    """The first tick that was lived through."""
    lived: int = 0
    """The next tick to live through."""
    known: int = 0
    """Labels of ticks before this one were learned from."""
    tried: int = 0
    """The last retraining knew the labels of ticks before this one."""
    watch: Watch = field(default_factory=Watch)
    shelf: Shelf = field(default_factory=Shelf)
    senses: Senses = field(default_factory=Senses)
    outside: tuple[str, ...] = ()
    """Kinds of open alarms that are not about what the champion answers, but about where the rows come from."""
    retraining: Retraining | None = None
    trial: Trial | None = None
    waiting: Waiting | None = None
    rollback: RollbackWatch | None = None
    asked_until: datetime | None = None
    """Up to when the traffic was that of ticks that are over."""
    decided_at: datetime = field(init=False)
    spent: list[datetime] = field(default_factory=list)
    setbacks: int = 0
    number: int = 0
    served: dict[int, Served] = field(default_factory=dict)
    recent: list[tuple[int, float]] = field(default_factory=list)
    """Rows and summed loss of the answers given in each of the newest ticks."""
    lately: dict[Digest, list[tuple[int, float]]] = field(default_factory=dict)
    """The same for the champion, whoever is on trial, and the old champion of a watch: what each lost on all rows of a tick."""
    weeks: dict[str, tuple[int, float]] = field(default_factory=dict)
    """The same by the Monday on which a week began, of all its life; weeks without a label are not there."""
    by_tick: dict[int, np.ndarray] = field(default_factory=dict)
    """tick -> losses of the answers that were given, one for each row with a label; what a replay is judged by."""
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("retrains", "trained", "restored", "promoted", "rejected"), 0)
    )
    bad: set[Any] = field(default_factory=set)
    unanswered: int = 0
    timeline: list[dict[str, Any]] = field(default_factory=list)
    last: Decision | None = None
    held: Admission | None = None
    _who: dict[Digest, Trained] = field(default_factory=dict)

    # ------------------------------------------------------------ the clock

    def now(self, tick: int, *, begins: bool = False) -> datetime:
        """The clock at the end (or the beginning) of a tick; at the beginning of one that is still to come as well."""
        if begins and tick == len(self.past.ticks):
            return self.past.ticks[tick - 1].part.until
        part = self.past.ticks[tick].part
        return part.since if begins else part.until

    def _known_by(self, now: datetime, start: int) -> int:
        """Labels are known for ticks before this one."""
        stop = start
        while stop < self.past.until and self.past.ticks[stop].known_at <= now:
            stop += 1
        return stop

    @property
    def crowned(self) -> bool:
        """Whether it has a champion yet."""
        return hasattr(self, "release")

    @property
    def code(self) -> Digest:
        """The champion's code."""
        return self.champion.code

    # ------------------------------------------------------------ living

    def begin(self) -> Steps[None]:
        """The first release, trained on all that is known when the first tick begins.

        Raises:
            StaytrueError: what the training raised; it is in the log.
        """
        first = self.past.first
        now = self.now(first, begins=True)
        stop = self._known_by(now, 0)
        try:
            champion = yield from train(self.ctx, inputs(self.past, *self._training_span(stop)))
        except StaytrueError as exc:
            if tells_of_the_job(exc):
                note_failure(self.ctx, exc, timeline=TRAININGS)
            raise
        self.counts["trained"] += champion.ran
        release, refs = new_release(self.ctx, champion, scores={}, parents=())
        self.crown(release, champion, stop=stop, now=now)
        self._tell(
            "deployed",
            f"First release, trained on {champion.rows:,} rows: nothing to compare it with yet.",
            now,
            release,
            {"rows": champion.rows},
            refs=refs,
            roles={"champion": (release, 1.0)},
        )
        self.chronicle.write()

    def crown(self, release: Digest, champion: Trained, *, stop: int, now: datetime) -> None:
        """Begin a life with this champion, which was trained on ticks before `stop`; nothing is known of what it loses."""
        self.release, self.champion, self.stop, self.decided_at = release, champion, stop, now
        self._who[release] = champion
        self.began = self.lived = self.past.first
        self.known = max(self._known_by(now, 0), self.known)
        self.tried = stop
        self._renew_senses(self.known)

    def tick(self, tick: int) -> Steps[None]:
        """Live through one tick: its rows are answered, labels that are due are learned from, and what follows is decided."""
        self._serve(tick)
        now = self.now(tick)
        self._note(self.senses.came(self.past, tick, harmed=self.watch.alarmed, labelled=self.is_labelled), now)
        known = self._known_by(now, self.known)
        for matured in range(max(self.known, self.began), known):
            self._note(self.senses.labelled(self.past, matured), now)
            yield from self._learn(matured, now)
        self.known = known
        self.lived = tick + 1
        if self.trial:
            self._advance(now)
        else:
            yield from self._respond(now)
        self.chronicle.write()

    def resume(self) -> Steps[None]:
        """Go on with a retraining that was decided before a crash, or in quiet hours that are over now."""
        if self.retraining is not None and not self.is_quiet:
            yield from self._retrain_or_reject(self.retraining)
            self.chronicle.write()

    def who(self, release: Digest) -> Trained:
        """Who answers for a release."""
        if release not in self._who:
            self._who[release] = checked_out(self.ctx, self.ctx.store.release_document(release))
        return self._who[release]

    # ------------------------------------------------------------ answering and learning

    def _training_span(self, stop: int) -> tuple[int, int]:
        window = self.settings.window
        if window in ("all", "auto"):
            return 0, stop
        since = self.past.ticks[stop - 1].part.until - duration(window)
        return sum(t.part.since < since for t in self.past.ticks[:stop]), stop

    def _renew_senses(self, fresh_from: int) -> None:
        """There is a new champion, whose losses from that tick on say what fresh means."""
        self.watch.arl = ticks_between_alarms("harm", self.past, self.settings)
        self.senses.renew(
            self.past,
            self.settings,
            trained=self._training_span(self.stop) if self.stop else (0, 0),
            begun=self.lived,
            known=self.known,
            fresh_from=fresh_from,
            warm=self.watch.books.warm,
        )

    @property
    def is_labelled(self) -> bool:
        """Whether labels of late say what the champion loses."""
        return any(rows for rows, _ in self.recent) and self.watch.books.loss is not None

    def _note(self, noticed: Sequence[Noticed], now: datetime) -> None:
        for one in noticed:
            more = {"alarm": one.alarm, "what": one.what, "state": one.state}
            self._tell(one.kind, one.sentence, now, self.release, short(one.numbers), more=more)

    def _serve(self, tick: int) -> None:
        """Note who answers the tick's rows: the champion, and whoever is on trial or kept warm beside it."""
        trial, rollback = self.trial, self.rollback
        since = until = None
        if self.wall is not None:
            now = self.wall()
            # A row is asked about when it happens; on another clock than ours, between two looks.
            since = (min(self.asked_until or now, self.now(tick, begins=True)) - _MARGIN).isoformat()
            until, self.asked_until = now.isoformat(), now
        self.served[tick] = Served(
            champion=self.release,
            challenger=trial.release if trial else None,
            number=trial.number if trial else 0,
            share=trial.step.share if trial else 0.0,
            old=rollback.old_release if rollback else None,
            watch=rollback.number if rollback else 0,
            since=since,
            until=until,
        )

    def _learn(self, tick: int, now: datetime) -> Steps[None]:
        """The tick's labels are known: what did it cost, and what does it say of champion, challenger and old champion?

        Answers are made from the rows without their labels, whenever they are made.
        """
        served = self.served.pop(tick, None)
        if served is None:
            return
        yield from self._answered(served, tick)
        try:
            losses = self.past.losses(self.who(served.champion), tick)
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
        self._remember_lately(served.champion, losses)
        shown = self.by_tick[tick] = self._learn_trial(served, tick, losses, now)
        self._remember_losses(tick, len(shown), float(shown.sum()))
        if served.champion == self.release:
            self._learn_champion(tick, losses, now)
            noticed = yield from self.senses.learned(
                self.past,
                self.champion,
                tick,
                losses,
                settings=self.settings,
                warm=self.watch.books.rows >= self.watch.books.warm,
                harmed=self.watch.alarmed,
                labelled=self.is_labelled,
            )
            self._note(noticed, now)
        if self.rollback and served.watch == self.rollback.number:
            self._learn_rollback(self.rollback, tick, losses, now)

    def _remember_lately(self, release: Digest, losses: np.ndarray) -> None:
        before = self.lately.get(release, [])
        told = {**self.lately, release: [*before, (len(losses), float(losses.sum()))][-_RECENT_TICKS:]}
        matter = {
            self.release,
            self.trial.release if self.trial else None,
            self.rollback.old_release if self.rollback else None,
        }
        self.lately = {one: kept for one, kept in told.items() if one in matter}

    def _remember_losses(self, tick: int, rows: int, total: float) -> None:
        self.recent = [*self.recent, (rows, total)][-_RECENT_TICKS:]
        if rows:
            day = self.past.ticks[tick].part.since.date()
            monday = (day - timedelta(days=day.weekday())).isoformat()
            before = self.weeks.get(monday, (0, 0.0))
            self.weeks[monday] = (before[0] + rows, before[1] + total)

    def _answered(self, served: Served, tick: int) -> Steps[None]:
        releases = [one for one in (served.champion, served.challenger, served.old) if one is not None]
        seen = None
        if served.since and served.until:
            seen = (datetime.fromisoformat(served.since), datetime.fromisoformat(served.until))
        yield from self.past.answered([self.who(release) for release in releases], tick, tick + 1, seen=seen)

    def _trusted_rows(self, table: Table) -> Table:
        """The rows that the champions of this life found nothing wrong with, or that a person let go."""
        store = self.ctx.store
        return self.senses.inspector.training_table(
            store.objects, self.past.spec, table, trust=trusted(store.ledger, self.ctx.app.name)
        )

    def _learn_trial(self, served: Served, tick: int, losses: np.ndarray, now: datetime) -> np.ndarray:
        """The losses of the answers that were shown: the champion's, and in a canary those of the challenger."""
        if served.challenger is None:
            return losses
        trial = self.trial if self.trial and self.trial.number == served.number else None
        try:
            challenger = self.past.losses(self.who(served.challenger), tick)
        except StaytrueError as exc:
            if not tells_of_the_job(exc):
                raise
            # An error of a challenger rolls it back at once; its share of the rows went to the champion.
            if trial:
                self._reject(now, trial.step.stage, "error", exc.message, _told_of(exc))
            return losses
        if trial:
            trial.seen(self.past, tick, challenger, losses)
        self._remember_lately(served.challenger, challenger)
        mask = in_canary(self.past.keys(tick), served.share, salt=served.challenger)
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
        self._remember_lately(rollback.old_release, old)
        judgement = rollback.learn(self.past, tick, losses, old)
        if judgement is not None:
            self.roll_back(now, judgement.sentence, short(judgement.evidence))
        elif rollback.rows_left <= 0:
            self.rollback = None

    # ------------------------------------------------------------ deciding

    def _respond(self, now: datetime) -> Steps[None]:
        """While harm is done look back first, for that costs no training; then ask the policy."""
        if self.watch.alarmed and not self.watch.looked_back and "restore" in remedy("harm").acts:
            self.watch.looked_back = True
            if (yield from self._looks_back(now)):
                return
        if self._admitted(now):
            yield from self._consider(now)

    def _looks_back(self, now: datetime) -> Steps[bool]:
        """Whether a champion of before is right again, and on trial now."""
        fresh = self.watch.books.loss
        if not self.settings.restore or fresh is None:
            return False
        found = yield from self.shelf.best(
            self.past,
            self.settings,
            self.champion,
            stop=self.stop,
            known=self.known,
            since=self.watch.harm.started if self.watch.harm and self.watch.alarmed else None,
            fresh=fresh,
            number=self.number + 1,
        )
        if found is not None:
            self._restore(found, now)
        return found is not None

    def _restore(self, found: Found, now: datetime) -> None:
        self.number += 1
        self.counts["restored"] += 1
        release = found.kept.release
        self._tell(
            "restore",
            f"Restore: release {release[:8]}, champion before, would lose {found.loss:.4g} a row against "
            f"{found.champion_loss:.4g} on {found.rows:,} rows that neither learned from.",
            now,
            release,
            short(found.numbers),
        )
        proven = found.judgement.verdict == "better"
        self._enter(
            now, release, found.kept.trained, found.pairs, self.known,
            proven=proven, refs=(), source="stored", stop=found.kept.stop,
        )  # fmt: skip

    @property
    def alarms(self) -> tuple[str, ...]:
        """Kinds of the alarms that stand open."""
        own = self.senses.alarms | ({"harm"} if self.watch.alarmed else set())
        return tuple(kind for kind in ALARMS if kind in own or kind in self.outside)

    def _admitted(self, now: datetime) -> bool:
        """Whether a retraining may begin; what forbids it is remembered for `status`."""
        self.spent = not_after(self.spent, now)
        self.held = admission(
            now=now,
            settings=self.settings,
            spent=self.spent,
            setbacks=self.setbacks,
            new_rows=self.past.rows(self.stop, self.known),
            tried=self.past.rows(self.tried, self.known) == 0,
        )
        return self.held.allowed

    def _consider(self, now: datetime) -> Steps[None]:
        self.last = decide(
            self.policy,
            Known(
                now=now,
                trained_at=self.decided_at,
                rows_trained=self.champion.rows,
                rows_since=self.past.rows(self.stop, self.known),
                freshness=self.watch.books,
                retrain_cost=self.settings.retrain_cost,
                alarms=self.alarms,
            ),
            name=self.name,
        )
        if self.last.retrain and not (self.shelf.looked < self.known and (yield from self._looks_back(now))):
            yield from self.retrain(now, self.last)

    def retrain(self, now: datetime, decision: Decision) -> Steps[None]:
        """Retrain on what is known, and bring what comes out into a trial."""
        self.counts["retrains"] += 1
        self.number += 1
        self.decided_at, self.tried = now, self.known
        self.spent = [*(at for at in self.spent if at > now - _DAY), now]
        self.retraining = Retraining(now=now, known=self.known)
        self._tell("retrain", f"Retrain: {decision.why}.", now, None, decision.numbers)
        self.chronicle.checkpoint()
        if not self.is_quiet:
            yield from self._retrain_or_reject(self.retraining)

    @property
    def is_quiet(self) -> bool:
        """Whether no training may begin at this hour; a replay has no hours of its own."""
        hours = self.settings.quiet
        return bool(hours and self.wall and quiet(hours).until(self.wall()))

    def _retrain_or_reject(self, under_way: Retraining) -> Steps[None]:
        try:
            yield from self._retrain(under_way.now, under_way.known)
        except StaytrueError as exc:
            if not tells_of_the_job(exc):
                raise
            self._reject(under_way.now, "training", "error", exc.message, _told_of(exc))
        self.retraining = None

    def _retrain(self, now: datetime, known: int) -> Steps[None]:
        plan = steps(self.settings.trial)
        span = self._training_span(known)
        tested: Backtest | None = None
        if plan and plan[0].stage == "backtest":
            tested = yield from backtest(
                self.past,
                self.settings,
                self.champion,
                champion_stop=self.stop,
                stop=known,
                number=self.number,
                keep=self._trusted_rows,
            )
            self.counts["trained"] += tested.trained
            if not self._passes(tested, now, known):
                return
            span = (tested.start, known)
        challenger = yield from train(
            self.ctx, inputs(self.past, *span, self._trusted_rows), previous=self.champion.model
        )
        self.counts["trained"] += challenger.ran
        scores = {"backtest": tested.challenger_loss, "backtest_champion": tested.champion_loss} if tested else {}
        release, refs = new_release(self.ctx, challenger, scores=scores, parents=(self.release,))
        evidence = (
            tested.pairs
            if tested
            else (yield from pairs(self.past, self.settings, self.champion, challenger, stop=known, number=self.number))
        )
        proven = tested is not None and tested.judgement.verdict == "better"
        self._enter(now, release, challenger, evidence, known, proven=proven, refs=refs)

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
            base = Sums().seen(self.past.losses_between(self.champion, tested.cut, known))
            why = f"in the backtest it loses {compared}"
            self._reject(now, "backtest", tested.judgement.verdict, why, numbers, settled=base)
            return False
        self._tell("backtest", f"Backtest passed: it loses {compared}.", now, None, numbers)
        return True

    def rename(
        self, release: Digest, champion: Trained, refs: tuple[Ref, ...], now: datetime, sentence: str, *,
        kind: str = "deployed", said: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Make a release champion that nobody can tell from the one there is: what is known of that holds for it."""
        old, self.release = self.release, release
        self.champion = replace(champion, rows=self.champion.rows)
        self._who[release] = self.champion
        if old in self.lately:
            self.lately[release] = self.lately.pop(old)
        self.served = {
            tick: replace(one, champion=release) if one.champion == old else one for tick, one in self.served.items()
        }
        self._tell(
            kind,
            f"Release {release[:8]} is champion: {sentence}",
            now,
            release,
            {"from": old, **(said or {})},
            refs=refs,
            roles={"champion": (release, 1.0), "previous": (old, 0.0)},
        )

    def enter(self, candidate: Candidate, now: datetime) -> None:
        """Bring a release of changed code, or one that a person asked for, into its trial; whoever is on trial makes room."""
        self.reject(now, "superseded", candidate.instead, {})
        self.number += 1
        self._tell("backtest", candidate.sentence, now, candidate.release, candidate.evidence)
        self._enter(
            now,
            candidate.release,
            candidate.trained,
            candidate.pairs,
            candidate.started,
            proven=False,
            refs=candidate.refs,
            source=candidate.source,
            stop=candidate.stop,
        )

    def _enter(
        self, now: datetime, release: Digest, challenger: Trained, evidence: Pairs, started: int, *,
        proven: bool, refs: tuple[Ref, ...], source: str = "retrain", stop: int | None = None,
    ) -> None:  # fmt: skip
        self._who[release] = challenger
        self.trial = Trial(
            number=self.number,
            challenger=challenger,
            release=release,
            steps=self._live_steps(proven=proven),
            started=started,
            pairs=evidence,
            live=evidence.cleared(),
            source=source,
            stop=started if stop is None else stop,
        )
        self._tell_step(now, refs)

    def _live_steps(self, *, proven: bool) -> tuple[Step, ...]:
        """The steps after the backtest; while harm is done, waiting costs too, so what is proven better skips the shadow."""
        rest = tuple(step for step in steps(self.settings.trial) if step.stage != "backtest")
        canary = tuple(step for step in rest if step.stage == "canary")
        return (canary if self.watch.alarmed and proven else ()) or rest or (Step(stage="canary", share=_HALF),)

    def _tell_step(self, now: datetime, refs: tuple[Ref, ...] = ()) -> None:
        trial = self.trial
        if trial is None:
            return
        step = trial.step
        self._tell(
            step.stage,
            f"Challenger {trial.release[:8]} in {step.doing}.",
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
        days = (now - self.now(trial.started - 1)) / _DAY
        move, verdict, judgement = trial.advised(self.settings, days=days)
        numbers = {
            "verdict": verdict,
            "live_rows": trial.live_rows,
            "days": round(days, 2),
            **short(judgement.evidence),
        }
        if move == "reject":
            self._reject(now, trial.step.stage, verdict, judgement.sentence, numbers, settled=trial.champion_lost)
        elif move == "pass" and trial.last:
            moved(trial.step.stage, "pass", "champion")
            self._proven(judgement.sentence, numbers, now)
        elif move == "pass":
            moved(trial.step.stage, "pass", trial.steps[trial.at + 1].stage)
            trial.up()
            self._tell_step(now)

    def _proven(self, sentence: str, numbers: Mapping[str, Any], now: datetime) -> None:
        """The trial is passed: promote, or wait for a person."""
        if self.wall is None or not self.settings.approve:
            self.promote(now, sentence, numbers)
        elif self.waiting is None and self.trial:
            until = now + duration(self.settings.approve_within)
            self.waiting = Waiting(until=until, sentence=sentence, evidence=numbers)
            self._tell(
                "waiting",
                f"Challenger {self.trial.release[:8]} waits for a person: {sentence}. `staytrue promote` or `staytrue reject`; "
                f"without a word by {until:%Y-%m-%d %H:%M} UTC it is {_DEFAULTS[self.settings.approve_default]}.",
                now,
                self.trial.release,
                {"until": until.isoformat(), **numbers},
            )

    def expire(self, now: datetime) -> None:
        """Act on a challenger that nobody spoke about in time."""
        waiting, trial = self.waiting, self.trial
        if waiting is None or trial is None or now < waiting.until:
            return
        if self.settings.approve_default == "promote":
            self.promote(now, f"{waiting.sentence}; nobody objected in time", waiting.evidence)
        else:
            self._reject(now, trial.step.stage, "expired", "nobody approved it in time", waiting.evidence)

    # ------------------------------------------------------------ outcomes

    def promote(self, now: datetime, sentence: str, numbers: Mapping[str, Any]) -> None:
        """Make the challenger champion; the old one stays warm, and rollback armed."""
        trial = self.trial
        if trial is None:
            return
        self.counts["promoted"] += 1
        old, old_release, old_stop = self.champion, self.release, self.stop
        self.champion, self.release, self.stop = trial.challenger, trial.release, trial.stop
        self.shelf.put(Kept(release=old_release, trained=old, stop=old_stop), self.release)
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
                number=trial.number,
                old=old,
                old_release=old_release,
                old_stop=old_stop,
                pairs=trial.pairs.cleared(),
                rows_left=self.settings.watch_rows,
            )
        self.watch.renew(trial.lost)
        self._renew_senses(trial.started)
        self.trial, self.waiting, self.setbacks = None, None, 0

    def reject(self, now: datetime, verdict: str, why: str, numbers: Mapping[str, Any]) -> None:
        """End the trial or the retraining under way, from outside: by a guard, a person, or because something newer comes."""
        if self.trial or self.retraining:
            self.retraining = None
            self._reject(now, self.trial.step.stage if self.trial else "training", verdict, why, numbers)

    def _reject(
        self, now: datetime, stage: str, verdict: str, why: str, numbers: Mapping[str, Any], *,
        settled: Sums | None = None,
    ) -> None:  # fmt: skip
        self.counts["rejected"] += 1
        self.setbacks += verdict != "superseded"
        trial, self.trial, self.waiting = self.trial, None, None
        named = f"Challenger {trial.release[:8]}" if trial else "Challenger"
        word = _REASONS.get(verdict, "not shown to be better in time" if trial else "nothing gained")
        self._tell(
            "rejected",
            f"{named} rejected in {stage} ({word}): {why}. The champion stays.",
            now,
            trial.release if trial else None,
            {"stage": stage, **numbers},
            roles={"challenger": (None, 0.0)} if trial else None,
        )
        if settled and (trial is None or trial.source == "retrain"):
            alarmed = self.watch.alarmed
            self.watch.settle(settled)
            recent = self.past.back(self.known, self.settings.holdout, not_before=self.stop)
            self.senses.settle(trial.started if trial else recent)
            if alarmed:
                loss = self.watch.books.loss or 0.0
                sentence = (
                    f"Harm alarm over: nothing better was found, so a loss of {loss:.3g} a row is what fresh means now."
                )
                self._tell("calmed", sentence, now, self.release, {"fresh_loss": _six(loss)})

    def roll_back(self, now: datetime, sentence: str, numbers: Mapping[str, Any]) -> None:
        """Give the old champion its role back, as long as the watch lasts."""
        rollback, bad = self.rollback, self.release
        if rollback is None:
            return
        moved("champion", "roll_back", "rolled_back")
        self.reject(now, "stopped", "its champion was rolled back", {})
        self.champion, self.release, self.stop = rollback.old, rollback.old_release, rollback.old_stop
        self.rollback = None
        self.setbacks += 1
        self.watch.renew(Sums())
        self._renew_senses(self.known)
        self._tell(
            "rolled_back",
            f"Release {bad[:8]} rolled back to {self.release[:8]}: {sentence}.",
            now,
            self.release,
            {"from": bad, **numbers},
            roles={"champion": (self.release, 1.0), "previous": (None, 0.0)},
        )

    def _alarm(self, kind: AlarmKind, sentence: str, now: datetime, numbers: Mapping[str, Any]) -> None:
        told = {"alarm": kind, **numbers}
        self._tell(
            "alarm",
            f"{kind.capitalize()} alarm: {sentence}",
            now,
            self.release,
            told,
            more={"alarm": kind, "state": "opened"},
        )

    # ------------------------------------------------------------ what is known of it

    def looked(self) -> None:
        """Write down the last look: what a story of the past ends with."""
        seen, now = self.look(), self.now(self.lived - 1)
        self._tell(
            "looked", f"Looked at {seen['rows']} rows of the last {_RECENT_TICKS} ticks.", now, self.release, seen
        )
        self.chronicle.write()

    def look(self) -> dict[str, Any]:
        """What `status` asks: the champion's loss of late, open alarms, the trial under way, and what comes next."""
        lately = self.lately.get(self.release, [])
        rows, total = sum(n for n, _ in lately), sum(lost for _, lost in lately)
        trial = self.trial
        low, high = mean_interval(lately)
        return {
            "champion": self.release,
            "rows": rows,
            "loss": _six(total / rows) if rows else None,
            "loss_interval": [_six(low), _six(high)] if rows else None,
            "fresh_loss": _six(self.watch.books.loss) if self.watch.books.loss is not None else None,
            "fresh_rows": self.watch.books.rows,
            "new_loss": _six(self.watch.new_loss) if self.watch.new_loss is not None else None,
            "is_warm": self.watch.is_warm,
            "alarms": list(self.alarms),
            "belief": self.senses.calibration.belief if self.senses.calibration else "untested",
            "trial": {"release": trial.release, "stage": trial.step.stage, "rows": trial.live_rows} if trial else None,
            "next": self._next(),
            "rows_since": self.past.rows(self.stop, self.known),
            "until": self.now(self.lived, begins=True).isoformat(),
        }

    def _next(self) -> str:
        if self.retraining:
            return "a retraining waits for the quiet hours to end" if self.is_quiet else "a retraining is under way"
        if self.held and not self.held.allowed:
            return f"no retraining now: {self.held.why}"
        if self.last is None:
            return "the policy was not asked yet"
        said = "the last look decided to retrain" if self.last.retrain else "no retraining now"
        return f"{said}: {self.last.why}"

    def _tell(
        self, kind: str, sentence: str, now: datetime, release: Digest | None, numbers: Mapping[str, Any], *,
        refs: tuple[Ref, ...] = (), roles: Any = None, more: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        body = {"policy": self.name, "release": release, "evidence": dict(numbers), **(more or {})}
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


_DEFAULTS = {"promote": "promoted", "reject": "rejected"}
_REASONS = {
    "worse": "worse",
    "error": "it failed",
    "guard": "a guard tripped",
    "person": "a person said no",
    "expired": "nobody approved",
    "superseded": "something newer came",
    "stopped": "stopped",
}


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
