"""Controller: the process that makes the ledger's facts and the policy's wishes meet.

Level-triggered: each turn looks at what is there (people's orders, tripped guards, the clock, the table, the code) and does
what is due; a turn that is cut off at any point is made up for by the next one, of this process or another. What it decides it
decides with `Life`, which a replay uses too, on the clock of the ticks. All that it writes goes through its chronicle: events,
roles and memory in one transaction, fenced by the epoch of its lease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from staytrue.errors import Conflict, InvalidInput, NotFound, Refused, Unavailable
from staytrue.kernel.policy import Decision
from staytrue.kernel.policy import policy as named_policy
from staytrue.kernel.release import Digest
from staytrue.loop.chronicle import Chronicle
from staytrue.loop.comparison import trained_stop
from staytrue.loop.context import Context
from staytrue.loop.fetch import fetch, next_due
from staytrue.loop.jobs import Steps
from staytrue.loop.lease import Tenancy
from staytrue.loop.life import Life
from staytrue.loop.memory import recall, remember
from staytrue.loop.orders import Order, orders
from staytrue.loop.past import Past
from staytrue.loop.watch import RollbackWatch
from staytrue.store.ledger import LIVE, Fence, Role

__all__ = ["Controller", "Ended"]

_FEWEST: Final = 50
"""Labelled rows below which nothing is trained."""
_FIRST_PAUSE: Final = timedelta(seconds=15)
_LONGEST_PAUSE: Final = timedelta(hours=1)


class Ended(Exception):
    """The controller is to end now: by a signal, or because its app's code is another one."""


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
    """

    ctx: Context
    tenancy: Tenancy
    clock: Callable[[], datetime]
    wall: Callable[[], datetime]
    run: Callable[[Steps[Any]], Any]
    say: Callable[[str], None]

    life: Life | None = None
    orders: int = 0
    """People's orders up to this event are done."""
    trips: int = 0
    """Guards up to this event are answered."""
    paused: bool = False
    failed: str | None = None
    """The table on which the first training failed: it is not tried again before there is another one."""
    pauses: dict[str, tuple[datetime, timedelta]] = field(default_factory=dict)
    """Source -> not before this, since it failed; and how long the pause was."""
    chronicle: Chronicle = field(init=False)
    _table: Digest | None = None
    _due: dict[str, datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Know nothing: the next turn begins with what the ledger remembers. After anything that may have gone half way."""
        self.life, self._table = None, None
        self._due = {}
        self.chronicle = Chronicle(ctx=self.ctx, timeline=LIVE, run="loop", fence=self._fence)

    # ------------------------------------------------------------ one turn

    def turn(self) -> bool:
        """Do what is due; whether the app's code is still the champion's, and so another turn may follow.

        Raises:
            Ended: it is to end.    StaytrueError: this machine is in trouble, or another controller took over.
        """
        self._load()
        self._obey()
        self._answer_trips()
        if not self.paused:
            self._fetch()
            self._catch_up()
        if self.life is not None:
            self.life.expire(self.clock())
            self.chronicle.write_if_told()
        return self.life is None or self.life.champion.code == self.ctx.code

    def _load(self) -> None:
        """Remember, if this is the first turn; and take in what others changed."""
        ledger, app = self.ctx.store.ledger, self.ctx.app.name
        if self.life is None:
            lease = ledger.lease(app)
            state = lease.state if lease else {}
            self.orders, self.trips = int(state.get("orders", 0)), int(state.get("trips", 0))
            self.paused, self.failed = bool(state.get("paused", False)), state.get("failed")
            self.chronicle.count = int(state.get("count", 0))
            self._refresh()
            if self._table is not None and state.get("life"):
                self._recall(state["life"])
        roles = {role.role: role for role in ledger.roles(app, LIVE)}
        self.chronicle.epochs = {name: role.epoch for name, role in roles.items()}
        champion = roles.get("champion")
        if champion is not None and champion.release and self._table is not None:
            self._adopt(Digest(champion.release))
        self._match_challenger(roles.get("challenger"))

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
        life = self._new_life()
        try:
            recall(life, document)
        except (InvalidInput, NotFound) as exc:
            self.say(str(exc))
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
        if self.life is not None and self.life.release == release:
            return
        before, life = self.life, self._new_life()
        document = self.ctx.store.release_document(release)
        if before is not None:
            before.reject(self.clock(), "stopped", "another champion was made meanwhile", {})
            life.number, life.spent = before.number, before.spent
        life.crown(release, life.who(release), stop=trained_stop(self.ctx, document, life.past), now=self.clock())
        life.known = life.began
        self.life = life
        self.say(f"Release {release[:8]} is champion; the loop goes on with it.")

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
            "paused": self.paused,
            "failed": self.failed,
            "count": self.chronicle.count,
            "looked_at": self.clock().isoformat(),
            "life": remember(self.life) if self.life is not None and self.life.crowned else None,
        }

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
        elif what == "retrain" and life is not None and trial is None:
            self.run(life.retrain(now, Decision(retrain=True, why=f"{order.by} asked for it: {why}", numbers=said)))
        elif what in ("promote", "reject") and life and trial and order.release in (None, trial.release):
            if what == "promote":
                life.promote(now, f"{order.by} said so: {why}", said)
            else:
                life.reject(now, "person", f"{order.by} said so: {why}", said)
        else:
            self._tell("declined", f"{order.by} asked to {what}, but there was nothing to {what}.", now, said)

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

    def _fetch(self) -> None:
        """Ask every source whose next window is over; the labelled one last, so that it finds the others' rows."""
        sources = self.ctx.app.sources
        for name in sorted(sources, key=lambda n: bool(sources[n].spec.label)):
            now = self.clock()
            if now < self._due.get(name, now) or now < self.pauses.get(name, (now, _FIRST_PAUSE))[0]:
                continue
            try:
                self.run(fetch(self.ctx, name, now=now))
            except (Unavailable, InvalidInput, Refused, Conflict) as exc:
                pause = min(2 * self.pauses[name][1], _LONGEST_PAUSE) if name in self.pauses else _FIRST_PAUSE
                self.pauses[name] = (now + pause, pause)
                self.say(f"Fetching {name} failed, again in {pause.total_seconds():.0f} s: {exc}")
                continue
            self.pauses.pop(name, None)
            self._due[name] = next_due(self.ctx, name, now=now)
        self._refresh()

    def _refresh(self) -> None:
        """See the newest version of the labelled table."""
        labelled = self.ctx.app.labelled
        ref = labelled and self.ctx.store.ledger.ref("source", labelled.spec.name, app=self.ctx.app.name)
        if not ref or ref.digest == self._table:
            return
        self._table = ref.digest
        if self.life is not None:
            began = self.life.past.ticks[0].part.since
            self.life.past = Past.live(self.ctx)
            if self.life.past.ticks[0].part.since != began:
                # Older rows were fetched: ticks have other numbers now, which memory knows how to read.
                self._recall(remember(self.life) | {"origin": began.isoformat()})

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
        while life.lived < life.past.until and life.champion.code == self.ctx.code:
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
            self.run(life.begin())
        except (InvalidInput, Refused) as exc:
            self.life, self.failed = None, self._table
            body = exc.document()
            self.chronicle.tell("failed", f"The first training failed: {exc}", at=self.clock(), body=body)
            self.chronicle.write()
            self.say(f"The first training failed; it is tried again when there are other rows or other code: {exc}")
