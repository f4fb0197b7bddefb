"""Controller: the process that makes the ledger's facts and the policy's wishes meet.

Level-triggered: each turn looks at what is there (people's orders, tripped guards, the clock, the table, the code) and does
what is due; a turn that is cut off at any point is made up for by the next one, of this process or another. What it decides it
decides with `Life`, which a replay uses too, on the clock of the ticks. All that it writes goes through its chronicle: events,
roles and memory in one transaction, fenced by the epoch of its lease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from staytrue.errors import Conflict, InvalidInput, NotFound, Refused, StaytrueError, Unavailable
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.incidents import ENDS
from staytrue.kernel.policy import Decision
from staytrue.kernel.policy import policy as named_policy
from staytrue.kernel.release import Digest, Release
from staytrue.loop.check import check
from staytrue.loop.checked import Base, Checked
from staytrue.loop.checked import Candidate as NewRelease
from staytrue.loop.chronicle import Chronicle
from staytrue.loop.comparison import compared, trained_stop, unseen
from staytrue.loop.context import Context
from staytrue.loop.fetch import fetch, next_due
from staytrue.loop.few_labels import are_few, ask, traffic_mark
from staytrue.loop.follow import Follower
from staytrue.loop.inquiry import harm_told, inquire, repairs_under_way, rows_to_wait_for
from staytrue.loop.jobs import Steps, on_behalf, tells_of_the_job
from staytrue.loop.lease import Tenancy
from staytrue.loop.life import Candidate, Life, short
from staytrue.loop.memory import recall, remember
from staytrue.loop.orders import Order, orders
from staytrue.loop.past import Past
from staytrue.loop.proposal import Proposal
from staytrue.loop.quarantine import DATA
from staytrue.loop.release import release_refs, same_answers
from staytrue.loop.sentinel import wrong_with_sources
from staytrue.loop.train import Trained
from staytrue.loop.trial import pairs
from staytrue.loop.undo import UNDONE
from staytrue.loop.watch import RollbackWatch
from staytrue.store.ledger import LIVE, Fence, Role
from staytrue.store.store import KeptRelease

__all__ = ["Controller", "Ended"]

_CODE: Final = ""
"""In place of a source's name: the check of new code."""
_FEWEST: Final = 50
"""Labelled rows below which nothing is trained."""
_FIRST_PAUSE: Final = timedelta(seconds=15)
_LONGEST_PAUSE: Final = timedelta(hours=1)
_LABELS_PAUSE: Final = timedelta(seconds=10)
"""Few labels are looked at this often at most, and never for more than a fiftieth of the time."""


class Ended(Exception):
    """The controller is to end now: by a signal, or because the champion is of other code or has other params."""


@dataclass
class Controller:
    """One app's loop.

    Args:
        ctx: the app as the champion's code has it; of an app without a champion, as it stands in the user's folder.
        tenancy: the claim to the lease.
        clock: the time by which windows end: the wall's, but in a drill or a simulation.
        wall: the time by which traffic is logged and events are recorded.
        run: has the steps' jobs done and gives back their result; raises `Ended` when the controller is to end.
        say: called with a sentence for the person who looks on.
        follower: where new code comes from.
    """

    ctx: Context
    tenancy: Tenancy
    clock: Callable[[], datetime]
    wall: Callable[[], datetime]
    run: Callable[[Steps[Any]], Any]
    say: Callable[[str], None]
    follower: Follower | None = None

    life: Life | None = None
    orders: int = 0
    """People's orders up to this event are done."""
    trips: int = 0
    """Guards up to this event are answered."""
    paused: bool = False
    failed: str | None = None
    """The table on which the first training failed: it is not tried again before there is another one."""
    inquired: int = 0
    """What was said of harm up to this event was asked about."""
    unsure: dict[str, Any] = field(default_factory=dict)
    """What is to be asked about: the release, the event that said so, and from how many labelled rows on; empty: nothing."""
    told: int = 0
    """People were told of what happened up to this event."""
    mark: str | None = None
    """The newest code that was looked at: a commit, or a digest; empty: the branch was gone."""
    proposed: dict[str, Any] | None = None
    """New code that is to be checked, as a `Proposal`."""
    pauses: dict[str, tuple[datetime, timedelta]] = field(default_factory=dict)
    """Source -> not before this, since it failed; and how long the pause was."""
    standing: dict[str, str] = field(default_factory=dict)
    """The alarms about sources that stand open, and what was said of each."""
    failing: dict[str, str] = field(default_factory=dict)
    """Source -> what was the matter when it was asked last."""
    few: dict[str, Any] = field(default_factory=dict)
    """What the labels of the newest predictions said when labels were few (`loop/few_labels.py`)."""
    chronicle: Chronicle = field(init=False)
    _loaded: bool = False
    _table: Digest | None = None
    _due: dict[str, datetime] = field(default_factory=dict)
    _watched: tuple[Any, ...] = ()
    _champion: tuple[Digest, Release] | None = None
    _few_of: tuple[Any, ...] = ()
    _few_due: datetime | None = None

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Know nothing: the next turn begins with what the ledger remembers. After anything that may have gone half way."""
        self.life, self._table, self._loaded = None, None, False
        self._due, self._watched = {}, ()
        self.chronicle = Chronicle(ctx=self.ctx, timeline=LIVE, run="loop", fence=self._fence)

    # ------------------------------------------------------------ one turn

    def turn(self) -> bool:
        """Do what is due; whether the app is still as the champion has it, and so another turn may follow.

        Raises:
            Ended: it is to end.    StaytrueError: this machine is in trouble, or another controller took over.
        """
        if not self._load():
            return False
        self._obey()
        self._answer_trips()
        if not self.paused:
            self._work()
            self._follow()
        self._look_at_few_labels()
        if self.life is not None:
            self.life.expire(self.clock())
            self.chronicle.write_if_told()
        return self.life is None or not self.life.crowned or self._is_ours(self.life)

    def _is_ours(self, life: Life) -> bool:
        """Whether the champion's next training would be what this context gives: its code, params and seed."""
        if self._champion is None or self._champion[0] != life.release:
            self._champion = life.release, self.ctx.store.release_document(life.release)
        mine = (self.ctx.code, canonical_json(dict(self.ctx.params)), self.ctx.seed)
        champion = self._champion[1]
        return mine == (champion.code, canonical_json(dict(champion.params)), champion.seed)

    def save(self) -> None:
        """Keep what is remembered now, unless nothing is."""
        if self._loaded:
            self.chronicle.write()

    def _load(self) -> bool:
        """Remember, if this is the first turn; and take in what others changed.

        Whether this is still a loop for the champion: a plain service needs another one than an app that trains.
        """
        ledger, app = self.ctx.store.ledger, self.ctx.app.name
        if not self._loaded:
            lease = ledger.lease(app)
            state = lease.state if lease else {}
            self.orders, self.trips = int(state.get("orders", 0)), int(state.get("trips", 0))
            self.inquired, self.unsure = int(state.get("inquired", 0)), dict(state.get("unsure", {}))
            self.told = max(self.told, int(state.get("told", 0)))
            self.paused, self.failed = bool(state.get("paused", False)), state.get("failed")
            self.mark, self.proposed = state.get("mark"), state.get("proposed")
            self.standing, self.few = dict(state.get("standing", {})), dict(state.get("few", {}))
            self.chronicle.count = int(state.get("count", 0))
            self._refresh()
            if state.get("life"):
                self._recall(state["life"])
            self._loaded = True
        roles = {role.role: role for role in ledger.roles(app, LIVE)}
        self.chronicle.epochs = {name: role.epoch for name, role in roles.items()}
        champion = roles.get("champion")
        if champion is not None and champion.release and not (self.life and self.life.release == champion.release):
            if self.ctx.store.release_document(Digest(champion.release)).is_service != self.ctx.app.is_service:
                return False
            self._adopt(Digest(champion.release))
        self._match_challenger(roles.get("challenger"))
        return True

    def _match_challenger(self, role: Role | None) -> None:
        """A trial without its role, or a challenger without a trial, is over."""
        named = role.release if role else None
        trial = self.life.trial if self.life else None
        if self.life is not None and trial is not None and named != trial.release:
            self.life.trial = self.life.waiting = None
        elif named is not None and trial is None and self.life is not None:
            sentence = f"Challenger {named[:8]} has no trial under way: it is withdrawn."
            self.chronicle.tell(
                "withdrawn", sentence, at=self.clock(), body={"release": named}, roles={"challenger": (None, 0.0)}
            )
            self.chronicle.write()

    def _recall(self, document: Mapping[str, Any]) -> None:
        """Go on from what was remembered, if that can be read."""
        if self._table is None:
            return
        life = self._new_life()
        try:
            recall(life, document)
        except (InvalidInput, NotFound) as exc:
            # The champion is adopted next, and its watch begins anew.
            self.say(str(exc))
            self.life = None
            return
        self.life = life

    def _new_life(self) -> Life:
        app = self.ctx.app
        return Life(
            ctx=self.ctx,
            past=Past.live(self.ctx),
            name=app.settings.retrain if app.retraining is None else "app",
            policy=app.retraining or named_policy(app.settings.retrain),
            settings=app.settings,
            chronicle=self.chronicle,
            wall=self.wall,
        )

    def _adopt(self, release: Digest) -> None:
        """Go on with a champion that somebody else made: by hand, before or while this controller runs."""
        if self._table is None:
            return
        before, life = self.life, self._new_life()
        document = self.ctx.store.release_document(release)
        if before is not None:
            before.reject(self.clock(), "stopped", "another champion was made meanwhile", {})
            life.number, life.spent, life.weeks = before.number, before.spent, before.weeks
        stop = trained_stop(self.ctx, document, life.past)
        # A policy that counts new rows against those of the training must not take them for none.
        champion = replace(life.who(release), rows=life.past.rows(0, stop))
        life.crown(release, champion, stop=stop, now=self.clock())
        life.known = life.began
        if self._is_undone_to(release):
            # What a person has just taken back is not tried again on the rows that it was made from.
            life.tried, life.setbacks = life.known, (before.setbacks if before else 0) + 1
        self.life = life
        self.say(f"Release {release[:8]} is champion; the loop goes on with it.")

    def _is_undone_to(self, release: Digest) -> bool:
        """Whether it is champion since a person undid what a loop had decided."""
        newest = self.ctx.store.ledger.events(self.ctx.app.name, LIVE, kinds=[UNDONE], newest_first=True, limit=1)
        return any(event.body["release"] == release for event in newest)

    def _fence(self) -> Fence:
        epoch = self.tenancy.epoch
        if epoch is None:
            raise Conflict(
                "ST800", f"This controller does not run the loop of {self.ctx.app.name}.", app=self.ctx.app.name
            )
        return Fence(app=self.ctx.app.name, epoch=epoch, state=self._memory())

    def _memory(self) -> dict[str, Any]:
        return {
            "orders": self.orders,
            "trips": self.trips,
            "told": self.told,
            "inquired": self.inquired,
            "unsure": self.unsure,
            "paused": self.paused,
            "failed": self.failed,
            "mark": self.mark,
            "proposed": self.proposed,
            "standing": self.standing,
            "sources": [source.spec.document() for source in self.ctx.app.sources.values()],
            "few": self.few,
            "count": self.chronicle.count,
            "looked_at": self.clock().isoformat(),
            "life": self._remembered(),
        }

    def _remembered(self) -> dict[str, Any] | None:
        return remember(self.life) if self.life is not None and self.life.crowned else None

    # ------------------------------------------------------------ what people say, what guards say

    def _obey(self) -> None:
        for order in orders(self.ctx.store.ledger, self.ctx.app.name, after=self.orders):
            self.orders = order.seq
            self._act_on(order)
            self.chronicle.write()

    def _act_on(self, order: Order) -> None:
        what, why = order.what, order.why or "no reason given"
        now, life = self.clock(), self.life
        trial = life.trial if life else None
        said = {"order": order.seq, "by": order.by}
        if what in ("pause", "resume"):
            self.paused = what == "pause"
            done = "paused: nothing is fetched, trained or decided" if self.paused else "resumed"
            self._tell("paused" if self.paused else "resumed", f"{order.by}: the loop is {done} ({why}).", now, said)
        elif (
            what == "retrain"
            and isinstance(life, Life)
            and trial is None
            and life.retraining is None
            and life.past.rows(life.stop, life.known) > 0  # else there is nothing to hold a challenger against
        ):
            self.run(life.retrain(now, Decision(retrain=True, why=f"{order.by} asked for it: {why}", numbers=said)))
        elif what == "deploy" and order.code and life is not None:
            self._propose(Proposal(code=order.code, name=f"code {order.code[:8]}", home=self.ctx.home))
            self._tell("pushed", f"{order.by} sent code {order.code[:8]} ({why}): it is checked.", now, said)
        elif what == "try" and order.release and life is not None and life.crowned:
            self._try_release(life, order.release, order, said)
        elif what in ("promote", "reject") and life and trial and order.release in (None, trial.release):
            if what == "promote":
                life.promote(now, f"{order.by} said so: {why}", said)
            else:
                life.reject(now, "person", f"{order.by} said so: {why}", said)
        else:
            self._tell("declined", f"{order.by} asked to {what}, but there was nothing to {what}.", now, said)

    def _try_release(self, life: Any, release: Digest, order: Order, said: Mapping[str, Any]) -> None:
        """Bring a release that a person asked for into its trial, or into its place if nobody can tell it from the champion."""
        now = self.clock()
        wrong = None
        if release == life.release:
            wrong = "it is champion already"
        elif life.trial is not None and life.trial.release == release:
            wrong = "it is on trial already"
        else:
            try:
                self.run(self._tried(life, release, order, said))
            except StaytrueError as exc:
                if not (tells_of_the_job(exc) or isinstance(exc, NotFound)):
                    raise
                wrong = str(exc)
        if wrong is not None:
            told = {**said, "release": release}
            self._tell("declined", f"{order.by} asked to try {release[:8]}, and it is not: {wrong}.", now, told)

    def _tried(self, life: Life, release: Digest, order: Order, said: Mapping[str, Any]) -> Steps[None]:
        ctx, now, known = self.ctx, self.clock(), life.known
        new, old = (ctx.store.release_document(one) for one in (release, life.release))
        refs, server, why = release_refs(ctx, new), life.who(release), order.why or "no reason given"
        stop = trained_stop(ctx, new, life.past)
        server = replace(server, rows=life.past.rows(0, min(stop, known)))
        # As many rows as a trial may take; and no more, for ticks wait while they are answered.
        cut = life.past.back(known, life.settings.trial_rows, not_before=unseen(ctx, life.past, old, new, stop=known))
        rows, number, both = life.past.rows(cut, known), life.number + 1, (life.champion, server)
        tested = None
        if rows:
            tested = yield from compared(life.past, life.settings, both, cut=cut, stop=known, number=number)
        # Golden rows are some of those that were learned from: where the world has moved on, today's rows may tell two apart.
        if same_answers(ctx, old, new) and (tested is None or _lose_alike(life.past, both, cut, known)):
            same = f"{why} ({order.by}); the model and the golden answers are the same."
            life.rename(release, server, refs, now, same, kind=order.kind or "deployed", said=said)
            return
        sentence, numbers = f"{order.by} has release {release[:8]} tried: {why}.", {**said}
        if tested is not None:
            evidence, found = tested.pairs, tested.judgement
            losses = f"it loses {tested.challenger_loss:.4g} against {tested.champion_loss:.4g} a row on {rows:,} rows"
            unseen_ = "" if new.model == old.model else " that neither learned from"
            sentence = f"{order.by} has release {release[:8]} tried: {why}; {losses}{unseen_}."
            numbers |= {
                "verdict": found.verdict, "rows": rows, "champion_loss": tested.champion_loss,
                "challenger_loss": tested.challenger_loss, **found.evidence,
            }  # fmt: skip
            if found.verdict == "worse":
                life.number = number
                body = {"release": release, "against": life.release, "verdict": "worse", "evidence": short(numbers)}
                kept = f"{sentence[:-1]}: worse, and the champion stays; --now lets it in all the same."
                self.chronicle.tell("tried", kept, at=now, body=body, refs=refs)
                return
        else:
            evidence = yield from pairs(life.past, life.settings, life.champion, server, stop=known, number=number)
        life.enter(
            Candidate(
                release=release,
                trained=server,
                refs=refs,
                pairs=evidence,
                started=known,
                sentence=sentence,
                evidence=short(numbers),
                source="person",
                stop=min(stop, known),
                instead=f"{order.by} has another release tried: {why}",
            ),
            now,
        )

    def _answer_trips(self) -> None:
        kinds = ["tripped", "serve_failed"]
        for event in self.ctx.store.ledger.events(self.ctx.app.name, LIVE, kinds=kinds, after=self.trips):
            self.trips = event.seq
            life, release = self.life, event.body.get("release")
            if life is not None and life.trial and release == life.trial.release:
                life.reject(self.clock(), "guard", event.sentence, {"event": event.id})
            elif life is not None and release == life.release:
                self._rearm(life)
                life.roll_back(self.clock(), event.sentence, {"event": event.id})
            self.chronicle.write_if_told()

    def _rearm(self, life: Life) -> None:
        """A champion that fails goes back to the one before it, also after the watch over its losses has ended."""
        role = self.ctx.store.ledger.role(self.ctx.app.name, LIVE, "previous")
        if life.rollback is None and role is not None and role.release:
            old = Digest(role.release)
            stop = trained_stop(self.ctx, self.ctx.store.release_document(old), life.past)
            life.rollback = RollbackWatch.over(old, life.who(old), stop)

    def _tell(self, kind: str, sentence: str, now: datetime, body: Mapping[str, Any]) -> None:
        self.chronicle.tell(kind, sentence, at=now, body=body)

    # ------------------------------------------------------------ new rows

    def _work(self) -> None:
        """What the clock brings: new rows, and the ticks that are over."""
        self._fetch()
        self._watch_sources()
        self._catch_up()
        self._inquire()

    def _fetch(self) -> None:
        """Ask every source whose next window is over; the labelled one last, so that it finds the others' rows."""
        sources = self.ctx.app.sources
        for name in sorted(sources, key=lambda n: bool(sources[n].spec.label)):
            now = self.clock()
            # A clock that was set back must not hold up what it said before.
            if self._rests(name) or now < self._due.get(name, now) <= now + sources[name].spec.every:
                continue
            try:
                self.run(on_behalf(f"fetching {name}", fetch(self.ctx, name, now=now)))
            except (Unavailable, InvalidInput, Refused, Conflict) as exc:
                if exc.code == "ST800":
                    raise  # the source did not fail: another controller took over
                self._rest(name, f"Fetching {name} failed", exc)
                self.failing[name] = str(exc)
                continue
            self.pauses.pop(name, None)
            self.failing.pop(name, None)
            self._due[name] = next_due(self.ctx, name, now=now)
        self._refresh()

    def _watch_sources(self) -> None:
        """Open the alarms that should stand open now, and resolve the others."""
        now = self.clock()
        newest = self.ctx.store.ledger.events(self.ctx.app.name, DATA, newest_first=True, limit=1)
        seen = (newest[0].seq if newest else 0, tuple(self.failing), now.replace(second=0, microsecond=0))
        if seen == self._watched:
            return
        self._watched = seen
        wrong = {one.key: one for one in wrong_with_sources(self.ctx, now=now, failing=self.failing)}
        for key in [key for key in self.standing if key not in wrong]:
            alarm, _, what = key.partition(":")
            del self.standing[key]
            sentence = f"{alarm.capitalize()} alarm about {what} is over."
            self._tell("alarm", sentence, now, {"alarm": alarm, "what": what, "state": "resolved"})
        for key, one in wrong.items():
            if key not in self.standing:
                self.standing[key] = one.sentence
                told = {"alarm": one.alarm, "what": one.what, "state": "opened", "evidence": dict(one.numbers)}
                self._tell("alarm", one.sentence, now, told)
        if self.life is not None:
            self.life.outside = tuple(dict.fromkeys(key.partition(":")[0] for key in self.standing))
        self.chronicle.write_if_told()

    def _rests(self, name: str) -> bool:
        """Whether it failed a short while ago, by the wall's clock: a drill's may stand until the rows are there."""
        at = self.wall()
        return at < self.pauses.get(name, (at, _FIRST_PAUSE))[0] <= at + _LONGEST_PAUSE

    def _rest(self, name: str, what: str, exc: StaytrueError) -> None:
        """Not again for a while, which doubles each time."""
        pause = min(2 * self.pauses[name][1], _LONGEST_PAUSE) if name in self.pauses else _FIRST_PAUSE
        self.pauses[name] = (self.wall() + pause, pause)
        self.say(f"{what}, again in {pause.total_seconds():.0f} s: {exc}")

    def _refresh(self) -> None:
        """See the newest version of the labelled table."""
        labelled = self.ctx.app.labelled
        ref = labelled and self.ctx.store.ledger.ref("source", labelled.spec.name, app=self.ctx.app.name)
        if not ref or ref.digest == self._table:
            return
        self._table = ref.digest
        if self.life is not None:
            before, remembered = self.life.past.ticks, remember(self.life)
            self.life.past = Past.live(self.ctx)
            if any(old.part.since != new.part.since for old, new in zip(before, self.life.past.ticks, strict=False)):
                # Rows of an older time came: ticks have other numbers now, which memory knows how to read.
                self._recall(remembered)

    def _inquire(self) -> None:
        """When harm is done, or a retraining was of no use: ask what is to blame, within the budget, and order the repair."""
        life = self.life
        if not isinstance(life, Life) or not life.settings.blame:
            return
        store, app, kinds = self.ctx.store, self.ctx.app.name, ["alarm", "rejected", *ENDS]
        told = store.ledger.events(app, LIVE, kinds=kinds, after=self.inquired)
        if told and (alarm := harm_told(told, life.release)):
            self.unsure = {"release": life.release, "alarm": alarm.seq, "rows": 0}
        due = self.unsure.get("release") == life.release and life.past.rows(0, life.known) >= self.unsure["rows"]
        challenger = life.trial.release if life.trial else None
        if due and not (challenger and repairs_under_way(store, app, challenger)):
            asked = inquire(
                self.ctx,
                life.release,
                alarm=self.unsure["alarm"],
                trainings=life.settings.blame,
                now=self.clock(),
                wall=self.wall(),
                say=self.say,
            )
            report = self.run(on_behalf(f"blame of {life.release[:8]}", asked))
            wanted = rows_to_wait_for(report, life.past.rows(0, life.known))
            self.unsure = {} if wanted is None else {**self.unsure, "rows": wanted}
        if told or due:
            self.inquired = told[-1].seq if told else self.inquired
            self.chronicle.write()

    def _look_at_few_labels(self) -> None:
        """Where the loop's own rows are too few for a verdict: ask what the labels of the newest predictions say."""
        life, now = self.life, self.wall()
        if not isinstance(life, Life) or not life.crowned:
            return
        if not are_few(life.look()):
            self.few = {}
            return
        mark = traffic_mark(self.ctx.store, self.ctx.app.name)
        seen = (life.release, life.lived, mark)
        # A clock that was set back must not hold it up.
        rests = self._few_due is not None and self._few_due - _LONGEST_PAUSE <= now < self._few_due
        if not any(mark) or seen == self._few_of or rests:
            return
        calibration = life.senses.calibration
        self.few, seconds = self.run(ask(self.ctx, calibration, now=self.clock()))
        self._few_of = seen
        self._few_due = self.wall() + min(max(_LABELS_PAUSE, timedelta(seconds=50 * seconds)), _LONGEST_PAUSE)
        self.chronicle.write()

    # ------------------------------------------------------------ ticks

    def _catch_up(self) -> None:
        """Live through every tick that is over."""
        if self._table is None:
            return
        if self.life is None:
            self._begin()
            return
        life = self.life
        self.run(life.resume())
        while life.lived < life.past.until and self._is_ours(life) and life.retraining is None:
            self.run(life.tick(life.lived))
            life.by_tick.clear()
            life.timeline.clear()

    def _begin(self) -> None:
        """The first release, once there are rows enough to train on."""
        life = self._new_life()
        labelled = life.past.rows(0, life.past.until)
        if labelled < _FEWEST or self.failed == self._table:
            return
        self.say(f"Training the first release on {labelled:,} labelled rows.")
        self.life = life
        try:
            self.run(on_behalf("the first release", life.begin()))
        except (InvalidInput, Refused) as exc:
            self.life, self.failed = None, self._table
            body = exc.document()
            self.chronicle.tell("failed", f"The first training failed: {exc}", at=self.clock(), body=body)
            self.chronicle.write()
            self.say(f"The first training failed; it is tried again when there are other rows or other code: {exc}")

    # ------------------------------------------------------------ new code

    def _follow(self) -> None:
        """Check new code, and bring into a trial what passes. Nothing is done before there is a release to hold it against."""
        life, follower = self.life, self.follower
        if life is None or not life.crowned:
            return
        mark = (follower.tip() or "") if follower else self.mark
        if follower and mark is not None and mark != self.mark:
            self._pushed(follower, mark)
        if self.proposed is not None and not self._rests(_CODE):
            self._try_code(life, Proposal(**{**self.proposed, "home": self.ctx.home}))

    def _pushed(self, follower: Follower, mark: str) -> None:
        """Take note of new code. What is there when the loop first looks is what it begins with."""
        before, self.mark = self.mark, mark
        now = self.clock()
        if before is None:
            pass
        elif not mark:
            self._tell("pushed", "The branch that is followed is gone; the release goes on.", now, {"mark": None})
        else:
            said = {"mark": mark, "before": before}
            try:
                proposal = follower.proposal(mark)
            except (InvalidInput, NotFound) as exc:
                self._tell("refused", f"{follower.told(mark, before)} can't be read: {exc}", now, said | exc.document())
            else:
                news = proposal.code != self.ctx.code
                what = "It is checked." if news else "Nothing of the app differs."
                self._tell("pushed", f"{follower.told(mark, before)}. {what}", now, said | {"code": proposal.code})
                self.proposed = None
                if news:
                    self._propose(proposal)
        self.chronicle.write()

    def _propose(self, proposal: Proposal) -> None:
        self.proposed = {"code": proposal.code, "name": proposal.name, "commit": proposal.commit}

    def _try_code(self, life: Life, proposal: Proposal) -> None:
        try:
            checked = self.run(on_behalf(f"the check of {proposal.name}", self._checked(life, proposal)))
            self.run(self._judged(life, checked))
        except Unavailable as exc:
            self._rest(_CODE, f"Checking {proposal.name} came to nothing", exc)
            return
        self.pauses.pop(_CODE, None)
        self.chronicle.write()

    def _base(self, life: Life) -> Base:
        store = self.ctx.store
        champion = KeptRelease(store, life.release, store.release_document(life.release))
        return Base(ctx=self.ctx, release=champion, name=f"the champion {life.release[:8]}")

    def _checked(self, life: Life, proposal: Proposal) -> Steps[Checked]:
        return check(
            self.ctx.store,
            proposal,
            self._base(life),
            now=self.clock(),
            past=life.past,
            stop=life.known,
            number=life.number + 1,
            requests=life.settings.requests,
        )

    def _judged(self, life: Life, checked: Checked) -> Steps[None]:
        """Act on what a check found."""
        self.proposed = None
        now, new = self.clock(), checked.candidate
        told = {"check": checked.key, "steps": [[step.name, step.status, step.sentence] for step in checked.steps]}
        if not checked.passed:
            self.say(checked.sentence)
            self.chronicle.tell("refused", checked.sentence, at=now, body=told, refs=checked.refs)
        elif new is None:
            self.chronicle.tell("checked", checked.sentence, at=now, body=told, refs=checked.refs)
        else:
            yield from self._passed(life, new, checked, told)

    def _passed(self, life: Life, new: NewRelease, checked: Checked, told: Mapping[str, Any]) -> Steps[None]:
        """Bring a release that passed its check into its place, or into a trial."""
        now, refs = self.clock(), (*new.refs, *checked.refs)
        if new.trained is None:
            self.chronicle.tell(
                "refused", "An app that trains can't become a plain service on the way.", at=now, body=told
            )
        elif new.same_answers:
            life.rename(new.id, new.trained, refs, now, checked.sentence)
        else:
            tested = new.tested
            champion, settings, known, number = life.champion, life.settings, life.known, life.number + 1
            evidence = (
                tested.pairs
                if tested
                else (yield from pairs(life.past, settings, champion, new.trained, stop=known, number=number))
            )
            candidate = Candidate(
                release=new.id,
                trained=new.trained,
                refs=refs,
                pairs=evidence,
                started=known,
                sentence=checked.sentence,
                evidence=told,
            )
            life.enter(candidate, now)


def _lose_alike(past: Past, both: tuple[Trained, Trained], start: int, stop: int) -> bool:
    old, new = both
    return all(np.array_equal(past.losses(old, tick), past.losses(new, tick)) for tick in range(start, stop))
