"""A world for controllers to live in: machines with clocks, a ledger that fails, jobs that take time, power cuts at every step.

What is under test is the product's own code: controller, life, memory, lease, fetch, training, chronicle, ledger on SQLite and
objects on files. What stands in for the outside: the clocks, the beats, and the pool. Jobs run the real functions of
`loop/tasks.py` in this process; what an equal training gave before is given again, and so are the answers of a model to a part.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import shop
from claims import Observer
from scheduler import Crash, Scheduler

from staytrue.engines.process import Handle, Job, Outcome
from staytrue.errors import Conflict, StaytrueError, Unavailable
from staytrue.kernel.release import Digest
from staytrue.loop.context import Context, release_context
from staytrue.loop.controller import Controller, Ended
from staytrue.loop.jobs import Steps, drive
from staytrue.loop.lease import Tenancy
from staytrue.store.ledger import LIVE, Event, Fence, Lease, Ledger
from staytrue.store.objects import LocalObjects
from staytrue.store.store import Store

__all__ = ["DAY_S", "Machine", "Plan", "SimulatedLedger", "SimulatedObjects", "SimulatedPool", "World"]

DAY_S = 6.0
"""A day lasts so many seconds of the monotonic clocks, by which beats and jobs go."""
_TROUBLE_S = 5.0
_RISK = 3.0
"""Around a write things go wrong so much more often than elsewhere: there it counts."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a simulation is made of. All of it follows from its seed (`plans.py`)."""

    seed: int
    days: int
    data: int
    machines: int = 2
    crash: float = 0.0
    """Chance of a power cut at a step; likewise the others: of a long pause, of giving the baton away, of an error."""
    pause: float = 0.0
    switch: float = 0.0
    error: float = 0.0
    skew: float = 0.0
    """Clocks are up to so many days wrong, and jump."""
    rough: bool = False
    honest: bool = False
    """The source goes by true time. Otherwise by the latest clock: who is ahead of time is given what the others get later."""
    outages: bool = False
    orders: tuple[str, ...] = ()
    trips: bool = False
    fetches: bool = False
    """Somebody else fetches too, older windows among them."""

    @property
    def is_comparable(self) -> bool:
        """Whether the story must be that of one controller that nothing disturbs."""
        guided = set(self.orders) - {"pause", "resume"}
        return not (self.rough or self.trips or guided or (self.honest and self.skew))


class World:
    """One simulation. `place` is a folder of its own, with a store that holds the first days of the history."""

    def __init__(
        self,
        plan: Plan,
        place: Path,
        base: Context,
        *,
        ledger: type[SimulatedLedger] | None = None,
        controller: type[Controller] = Controller,
    ) -> None:
        self.plan, self.place, self.base = plan, place, base
        self.ledger_type, self.controller_type = ledger or SimulatedLedger, controller
        self.scheduler = Scheduler(plan.seed)
        self.random = self.scheduler.random
        self.rows = shop.Rows(data=plan.data, days=shop.HISTORY + plan.days + 10, rough=plan.rough)
        self.calm = False
        """Nothing goes wrong any more."""
        self.out = False
        """The source is down."""
        self.beat: dict[str, Any] | None = None
        self.dead: set[str] = set()
        self.horizon = self.now()
        """The latest that any clock ever said."""
        self.crashes = self.pauses = self.errors = self.takeovers = 0
        self.observer = Observer(place / "store", shop.APP)
        self.machines = [Machine(self, f"m{number}") for number in range(plan.machines)]
        self._contexts: dict[str, Context] = {}
        shop.give_rows(self._asked)

    # ------------------------------------------------------------ time

    def now(self, skew: float = 0.0) -> datetime:
        """The time, as a clock says it that is wrong by so many days."""
        days = shop.HISTORY + 0.01 + self.scheduler.now_s / DAY_S + skew
        return shop.START + timedelta(days=round(days, 6))

    def _asked(self, since: datetime, until: datetime) -> Any:
        return self.rows.asked(since, until, self.now() if self.plan.honest else self.horizon)

    # ------------------------------------------------------------ what goes wrong

    def step(self, what: str, risk: float = 1.0) -> None:
        """A place where the one that runs may be passed over, stopped for a while, or die; at some more often than at others."""
        scheduler, plan = self.scheduler, self.plan
        scheduler.note(what)
        if self.calm or scheduler.who == "world":
            return
        drawn = self.random.random() / risk
        if drawn < plan.crash:
            self.crashes += 1
            scheduler.note("crash")
            raise Crash
        if drawn < plan.crash + plan.pause:
            self.pauses += 1
            pause_s = self.random.uniform(1, 4 * DAY_S)
            scheduler.note(f"stopped for {pause_s:.1f} s")
            scheduler.sleep(pause_s)
        elif drawn < plan.crash + plan.pause + plan.switch:
            scheduler.sleep(self.random.uniform(0, 0.3))

    def trouble(self, what: str) -> None:
        """A place where the database may not answer, whether or not it did what it was asked.

        Raises:
            Unavailable: it does not.
        """
        if not self.calm and self.scheduler.who != "world" and self.random.random() < self.plan.error:
            self.errors += 1
            self.scheduler.note(f"error at {what}")
            raise Unavailable("ST419", f"Simulated: the database did not answer ({what}).")

    # ------------------------------------------------------------ what machines are given

    def store(self) -> Store:
        """The store, opened anew."""
        root = self.place / "store"
        store = Store(root)
        store.ledger.close()
        store.ledger = self.ledger_type.open(root / "ledger.db")
        store.ledger.world = self  # type: ignore[attr-defined]
        store.objects = SimulatedObjects(root, self)
        return store

    def context(self, store: Store) -> Context:
        """The app as its champion has it, else as it stands in the folder; imported once for each code."""
        role = store.ledger.role(shop.APP, LIVE, "champion")
        if role is None or not role.release:
            return replace(self.base, store=store)
        release = store.release_document(Digest(role.release))
        if release.code not in self._contexts:
            known = release.code == self.base.code
            self._contexts[release.code] = self.base if known else release_context(store, release, self.base.home)
        return replace(self._contexts[release.code], store=store)

    # ------------------------------------------------------------ the story

    def begin(self) -> None:
        """Switch the machines on."""
        for machine in self.machines:
            self.scheduler.spawn(machine.name, machine.live)

    def close(self) -> None:
        """Switch all off."""
        self.scheduler.end()
        for machine in self.machines:
            machine.off()
        self.observer.close()


@dataclass
class Machine:
    """A machine that runs one controller after the other, as `loop/process.py` does."""

    world: World
    name: str
    skew: float = 0.0
    owner: str = ""
    said: list[str] = field(default_factory=list)
    _count: int = 0
    _store: Store | None = None
    _tenancy: Tenancy | None = None
    _looked_s: float = 0.0

    def clock(self) -> datetime:
        """The time of this machine."""
        now = self.world.now(self.skew)
        self.world.horizon = max(self.world.horizon, now)
        return now

    def live(self) -> None:
        """One process after the other, each of which knows nothing of the one before."""
        world = self.world
        while True:
            self._count += 1
            self.owner = f"{self.name}.{self._count}"
            world.scheduler.note(f"{self.owner} begins")
            try:
                self._process()
            except Crash:
                pass  # the power is back after a while
            except StaytrueError as exc:
                world.scheduler.note(f"{self.owner} ends: {exc.code}")
            world.dead.add(self.owner)
            self.off()
            world.scheduler.sleep(world.random.uniform(0.2, 2 * DAY_S) if not world.calm else 0.2)

    def off(self) -> None:
        """Its files are closed."""
        if self._store is not None:
            self._store.ledger.close()
            self._store = None

    def _process(self) -> None:
        world = self.world
        self._store = store = world.store()
        beats = Beats(world)
        monotonic = lambda: world.scheduler.now_s  # noqa: E731 - shorter than a method
        tenancy = Tenancy(store.ledger, shop.APP, self.owner, beats, monotonic=monotonic)
        self._tenancy = tenancy
        controller: Controller | None = None
        while True:
            if tenancy.hold("looks", self.clock()):
                if controller is None:
                    controller = self._controller(store, tenancy)
                if not self._turn(controller, tenancy):
                    return
            world.scheduler.sleep(world.random.uniform(0.3, 1.6))

    def _controller(self, store: Store, tenancy: Tenancy) -> Controller:
        pool: Any = SimulatedPool(self)
        world = self.world
        world.takeovers += 1
        return world.controller_type(
            ctx=world.context(store),
            tenancy=tenancy,
            clock=self.clock,
            wall=self.clock,
            run=lambda steps: drive({"loop": steps}, pool, stop=self._stop)["loop"],
            say=lambda sentence: world.scheduler.note(f"says {sentence}"),
        )

    def _turn(self, controller: Controller, tenancy: Tenancy) -> bool:
        world = self.world
        world.scheduler.note("turn")
        try:
            return controller.turn()
        except Ended:
            return False
        except Conflict as exc:
            world.scheduler.note(f"conflict {exc.code}")
            controller.forget()
            if exc.code == "ST800":
                tenancy.lose()
        except StaytrueError as exc:
            world.scheduler.note(f"in trouble {exc.code}")
            controller.forget()
            until_s = world.scheduler.now_s + _TROUBLE_S
            while world.scheduler.now_s < until_s:
                tenancy.hold("in trouble", self.clock())
                world.scheduler.sleep(world.random.uniform(0.3, 1.6))
        return True

    def _stop(self) -> BaseException | None:
        """What `loop/process.py` looks at while jobs run."""
        tenancy, store, now_s = self._tenancy, self._store, self.world.scheduler.now_s
        if tenancy is None or store is None:
            return Ended()
        tenancy.hold("works", self.clock())
        if now_s - self._looked_s >= 1:
            self._looked_s = now_s
            lease = store.ledger.lease(shop.APP)
            if lease is not None and lease.epoch != tenancy.epoch:
                return Conflict("ST800", "Another controller took over.")
        return None


@dataclass
class Beats:
    """The beats of all controllers: one at a time, and readable most of the time."""

    world: World

    def read(self) -> Mapping[str, Any] | None:
        self.world.step("read beat")
        return None if not self.world.calm and self.world.random.random() < 0.02 else self.world.beat

    def write(self, beat: Mapping[str, Any]) -> None:
        self.world.step("beat")
        self.world.beat = dict(beat)

    def gone(self, beat: Mapping[str, Any]) -> bool:
        """Processes of one machine know of each other; here half of the machines share one."""
        return self.world.plan.seed % 2 == 0 and beat.get("owner") in self.world.dead


class SimulatedLedger(Ledger):
    """The ledger, with steps around every call, errors before and after a commit, and somebody who looks at each state."""

    world: World

    def append(self, entries: Sequence[Any], *, recorded_at: datetime, fence: Fence | None = None) -> list[Event]:
        if not entries and fence is None:
            return []
        world, what = self.world, f"append {' '.join(entry.kind for entry in entries)}{' fenced' if fence else ''}"
        world.step(what, risk=_RISK)
        world.trouble(what)
        try:
            events = self.commit(entries, recorded_at=recorded_at, fence=fence)
        except Conflict as exc:
            world.scheduler.note(f"refused {exc.code}")
            raise
        world.observer.look(by=fence.epoch if fence else None)
        world.step("appended", risk=_RISK)
        world.trouble("appended")
        return events

    def commit(self, entries: Sequence[Any], *, recorded_at: datetime, fence: Fence | None) -> list[Event]:
        """The real append."""
        return super().append(entries, recorded_at=recorded_at, fence=fence)

    def take(self, app: str, *, owner: str, expect_epoch: int, at: datetime) -> Lease:
        self.world.step("take")
        self.world.trouble("take")
        found = super().take(app, owner=owner, expect_epoch=expect_epoch, at=at)
        self.world.observer.look()
        self.world.step(f"took {found.epoch}")
        self.world.trouble("took")
        return found

    def _all(self, query: Any) -> Any:
        # Every read comes through here.
        self.world.step("read")
        self.world.trouble("read")
        return super()._all(query)


class SimulatedObjects(LocalObjects):
    """The objects, with a step before and after each write."""

    def __init__(self, root: Path, world: World) -> None:
        super().__init__(root)
        self._world = world

    def put(self, data: bytes | memoryview) -> Digest:
        self._world.step("put")
        name = super().put(data)
        self._world.step("kept")
        return name

    def put_file(self, path: Path) -> Digest:
        self._world.step("put file")
        name = super().put_file(path)
        self._world.step("kept file")
        return name


class SimulatedPool:
    """Stands in for `engines.process.ProcessPool`: jobs take simulated time, and run in this process when that is over.

    Limit: a job that a policy of the app makes hang, or kills, is not simulated; `tests/fault` has those.
    """

    trained: dict[tuple[str, str], Outcome] = {}  # noqa: RUF012 - shared on purpose: a training depends on its recipe alone
    answered: dict[tuple[str, str, str], Any] = {}  # noqa: RUF012 - as above: on code, model and rows
    made = 0

    def __init__(self, machine: Machine) -> None:
        self._machine, self._world = machine, machine.world
        self._jobs: dict[int, tuple[Job, float]] = {}
        self._count = 0

    def submit(self, job: Job) -> Handle:
        length_s = self._world.random.choice((0.05, 0.05, 0.3, 1.5, 4.0)) if not self._world.calm else 0.01
        self._count += 1
        handle = Handle(number=self._count, key=job.key)
        self._world.step(f"job {job.key.split(':')[0]}")
        self._jobs[handle.number] = (job, self._world.scheduler.now_s + length_s)
        return handle

    def wait(self, handles: Sequence[Handle], timeout: float | None) -> list[Handle]:
        now_s = self._world.scheduler.now_s
        first_s = min(self._jobs[handle.number][1] for handle in handles)
        most_s = 5 * timeout if timeout is not None else first_s - now_s
        self._world.scheduler.sleep(min(max(first_s - now_s, 0.0), most_s))
        self._world.step("wait")
        now_s = self._world.scheduler.now_s
        return [handle for handle in handles if self._jobs[handle.number][1] <= now_s]

    def poll(self, handle: Handle) -> Outcome:
        job, _ = self._jobs[handle.number]
        world = self._world
        if not world.calm and world.random.random() < world.plan.error:
            world.scheduler.note("job lost")
            return Outcome(status="lost", error=Unavailable("ST346", "Simulated: the launcher is gone.").document())
        if job.key.startswith("answer:"):
            return self._answered(job)
        if not job.key.startswith("train:"):
            return self._ran(job, world.place)
        place = (str(world.base.store.root), job.key)
        if place not in self.trained:
            self.trained[place] = self._ran(job, world.base.store.root.parent)
        return self.trained[place]

    def cancel(self, handle: Handle) -> None:
        self._jobs.pop(handle.number, None)

    def _answered(self, job: Job) -> Outcome:
        """The real answers, but each part is answered once, by itself: what `tasks.answer` gives, without asking all again."""
        payload = job.payload
        who = (Path(payload["entry"]).parent.name, payload["model"])
        missing = [part for part in dict.fromkeys(payload["parts"]) if (*who, part) not in self.answered]
        for part in missing:
            outcome = self._ran(replace(job, payload={**payload, "parts": [part]}), self._world.place)
            if outcome.result is None or outcome.outbox is None:
                return outcome
            (self.answered[*who, part],) = msgspec.msgpack.decode(
                (outcome.outbox / outcome.result["file"]).read_bytes()
            )
        outbox = self._outbox(self._world.place)
        (outbox / "answers").write_bytes(
            msgspec.msgpack.encode([self.answered[*who, part] for part in payload["parts"]])
        )
        return Outcome(status="done", result={"file": "answers", "ticks": len(payload["parts"])}, outbox=outbox)

    def _ran(self, job: Job, keep: Path) -> Outcome:
        world = self._world
        if world.out and job.key.startswith("fetch:"):
            facts = {"message": "the source is down", "traceback": "OSError: the source is down"}
            return Outcome(status="failed", error={"error": "OSError", **facts})
        outbox = self._outbox(keep)
        module, _, name = job.task.partition(":")
        task: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
        with contextlib.chdir(job.workspace or world.place):
            try:
                return Outcome(status="done", result=task(job.payload, outbox), outbox=outbox, seconds=1.0)
            except StaytrueError as exc:
                return Outcome(status="failed", error=exc.document(), seconds=1.0)

    @classmethod
    def _outbox(cls, keep: Path) -> Path:
        cls.made += 1
        outbox = keep / "jobs" / str(cls.made)
        outbox.mkdir(parents=True)
        return outbox


def copied(store: Path, place: Path) -> None:
    """A store of one's own, equal to another one."""
    place.mkdir(parents=True)
    shutil.copytree(store, place / "store")


def run(world: World, steps: Steps[Any]) -> Any:
    """Steps that the world itself takes, at once: what a person does by hand."""
    pool: Any = SimulatedPool(world.machines[0])
    return drive({"hand": steps}, pool)["hand"]
