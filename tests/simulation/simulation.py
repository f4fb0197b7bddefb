"""One simulation from its seed: what is planned, what happens, and what its story is held against.

python tests/simulation/simulation.py SEED [DAYS]      runs one seed alone and prints its story
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import shop
from claims import Broken, Observer
from world import DAY_S, Plan, SimulatedPool, World, copied, run

from staytrue.engines.process import Handle, Job, Outcome
from staytrue.loop import replay, tasks
from staytrue.loop.context import Context, open_context
from staytrue.loop.fetch import fetch
from staytrue.loop.jobs import drive
from staytrue.loop.orders import ask
from staytrue.loop.past import Past
from staytrue.store.ledger import LIVE, Entry, Event

__all__ = ["Result", "plan_of", "simulate", "workshop"]

_OWN = frozenset({"paused", "resumed"})
"""What a disturbed story has and an undisturbed one has not: people's words, and alarms about a source that is down."""
_SETTLE_S = 60.0
DATA = 12
"""So many different data sets; seeds share them, and so share what the undisturbed loop makes of them."""


def plan_of(seed: int, days: int, *, data_sets: int = DATA) -> Plan:
    """Which faults a seed has. Half of the seeds can be compared with the undisturbed story."""
    rng = Random(f"plan {seed}")
    free = seed % 2 == 1
    some = lambda *values: rng.choice(values)  # noqa: E731 - a word for it
    return Plan(
        seed=seed,
        days=days,
        data=seed // 2 % data_sets,
        machines=some(2, 2, 3),
        crash=some(0.0, 0.001, 0.003, 0.006),
        pause=some(0.0, 0.001, 0.004),
        switch=some(0.01, 0.1),
        error=some(0.0, 0.0, 0.003, 0.01),
        skew=some(0.0, 0.1, 1.0),
        rough=free and rng.random() < 0.5,
        honest=rng.random() < (0.3 if free else 0.1),
        outages=rng.random() < 0.5,
        orders=some(("retrain",), ("promote", "reject", "retrain"), ("pause", "resume", "promote", "retrain", "reject"))
        if free
        else some((), ("pause", "resume")),
        trips=free and rng.random() < 0.5,
        fetches=rng.random() < 0.5,
    )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a simulation."""

    plan: Plan
    history: str
    """A digest of every step and every event."""
    story: list[tuple[str, str, str, str | None]]
    """(kind, at, sentence, release) of what the loop told."""
    kinds: Mapping[str, int]
    compared: bool
    steps: int
    crashes: int
    pauses: int
    errors: int
    takeovers: int
    cpu_s: float


# ---------------------------------------------------------------- what several simulations share


class Workshop:
    """A folder in which simulations are made; templates and undisturbed stories in it are made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._templates: dict[tuple[int, bool], Context] = {}
        self._calm: dict[tuple[int, int], Undisturbed] = {}

    def template(self, data: int, *, rough: bool) -> Context:
        """The app of a data set, and a store that holds its first days."""
        if (data, rough) not in self._templates:
            place = self.root / f"data{data}{'rough' if rough else ''}"
            file = shop.write_app(place / "app", data)
            (place / "store").mkdir()
            (place / "store" / "key").write_bytes(bytes(range(32)))
            ctx = open_context(str(file), place / "store")
            now = shop.START + timedelta(days=shop.HISTORY)
            rows = shop.Rows(data=data, days=shop.HISTORY, rough=rough)
            shop.give_rows(lambda since, until: rows.asked(since, until, now))
            drive({"fetch": fetch(ctx, "sales", now=now, since=shop.START)}, _AtOnce(place))
            self._templates[data, rough] = ctx
        return self._templates[data, rough]

    @contextmanager
    def world(self, plan: Plan, **more: Any) -> Iterator[World]:
        """A world with a copy of the template's store."""
        ctx = self.template(plan.data, rough=plan.rough)
        place = self.root / f"run-{uuid.uuid4().hex[:8]}"
        copied(ctx.store.root, place)
        world = World(plan, place, ctx, **more)
        try:
            yield world
        finally:
            world.close()
            shutil.rmtree(place)

    def undisturbed(self, data: int, first: int, until: int) -> Undisturbed:
        """What one controller that nothing disturbs makes of a data set from its first tick to a day, or longer.

        Raises:
            Broken: a replay tells another story.
        """
        known = self._calm.get((data, first))
        if known is None or shop.day_of(known.until) < until:
            known = self._calm[data, first] = self._made(data, first, until)
        return known

    def _made(self, data: int, first: int, until: int) -> Undisturbed:
        with self.world(Plan(seed=0, days=until + 1, data=data, machines=1)) as world:
            world.calm = True
            world.scheduler.now_s = (first - shop.HISTORY) * DAY_S
            world.begin()
            while world.scheduler.now_s < (until + 1 - shop.HISTORY) * DAY_S:
                world.scheduler.sleep(DAY_S)
            settle(world, [])
            story = story_of(world.observer)
            replayed = _replayed(world, first)
            lives = {until: life_of(state) for until, state in world.observer.memories.items()}
            end = world.observer.lived[-1]
        if story != replayed:
            at = next((i for i, pair in enumerate(zip(story, replayed, strict=False)) if pair[0] != pair[1]), -1)
            raise Broken(
                f"live and replay differ at {at} of {len(story)}, {len(replayed)}:\n{story[at]}\n{replayed[at]}"
            )
        return Undisturbed(story=story, lives=lives, until=end)


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """The story of a loop that nothing disturbs, and what it remembered after each tick."""

    story: list[tuple[str, str, str, str | None]]
    lives: Mapping[datetime, Any]
    until: datetime


class _AtOnce:
    """A pool for what is done before any world is there: in this process, and at once."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._jobs: list[Job] = []

    def submit(self, job: Job) -> Handle:
        self._jobs.append(job)
        return Handle(number=len(self._jobs), key=job.key)

    def wait(self, handles: Sequence[Handle], _timeout: float | None) -> Sequence[Handle]:
        return handles

    def poll(self, handle: Handle) -> Outcome:
        job, outbox = self._jobs[handle.number - 1], self._place / "first" / str(handle.number)
        outbox.mkdir(parents=True)
        task = getattr(tasks, job.task.partition(":")[2])
        return Outcome(status="done", result=task(job.payload, outbox), outbox=outbox)

    def cancel(self, handle: Handle) -> None:
        """There is nothing under way."""


def _replayed(world: World, first: int) -> list[tuple[str, str, str, str | None]]:
    """What `loop/replay.py` tells of the same ticks."""
    store = world.store()
    ctx = replace(world.base, store=store)
    since = shop.START + timedelta(days=first)
    past = Past.of(ctx, store.table("sales", app=shop.APP).table, since=since, until=None)
    life = replay._life(ctx, past, ctx.app.settings.retrain, live=False)
    run(world, replay._live(life, lambda *_: None))
    store.close()
    return [(e["kind"], e["at"], e["sentence"], e["release"]) for e in life.timeline if e["kind"] != "looked"]


# ---------------------------------------------------------------- one simulation


def simulate(shared: Workshop, plan: Plan, **more: Any) -> Result:
    """Let it happen, and look whether all held.

    Raises:
        Broken: something did not. The message has the last steps, and the command that runs this seed alone.
    """
    began_s = time.process_time()
    with shared.world(plan, **more) as world:
        try:
            orders = _lived(world)
            settle(world, orders)
            _checked(world)
            story, until = story_of(world.observer), world.observer.lived[-1]
            life, first = life_of(world.observer.state), _first(world.observer)
            history = _history(world)
            stats = {"steps": world.scheduler.steps, "crashes": world.crashes, "pauses": world.pauses,
                     "errors": world.errors, "takeovers": world.takeovers}  # fmt: skip
            last = list(world.scheduler.last)
            cpu_s = time.process_time() - began_s
        except BaseException as exc:
            raise Broken(_told(plan, exc, list(world.scheduler.last))) from exc
    if plan.is_comparable:
        calm = shared.undisturbed(plan.data, first, max(shop.day_of(until), plan.days + shop.HISTORY + 1))
        try:
            _compare([one for one in story if not _is_own(one)], life, until, calm)
        except Broken as exc:
            raise Broken(_told(plan, exc, last)) from exc
    kinds: dict[str, int] = {}
    for kind, *_ in story:
        kinds[kind] = kinds.get(kind, 0) + 1
    return Result(
        plan=plan, history=history, story=story, kinds=kinds, compared=plan.is_comparable, cpu_s=cpu_s, **stats
    )


def _is_own(told: tuple[str, str, str, str | None]) -> bool:
    kind, _, sentence, _ = told
    about_source = sentence.startswith("Silence alarm: nothing came from sales") or sentence.endswith(
        " alarm about sales is over."
    )
    return kind in _OWN or (kind == "alarm" and about_source)


def _lived(world: World) -> list[Event]:
    """The days go by: clocks jump, people speak, guards trip, the source fails. The orders and trips that were given."""
    plan, scheduler, rng = world.plan, world.scheduler, world.random
    given: list[Event] = []
    world.begin()
    end_s = plan.days * DAY_S
    while scheduler.now_s < end_s:
        scheduler.sleep(rng.uniform(0, DAY_S))
        if plan.skew and rng.random() < 0.15:
            machine = rng.choice(world.machines)
            machine.skew = rng.choice((0.0, rng.uniform(-plan.skew, plan.skew)))
            scheduler.note(f"the clock of {machine.name} is {machine.skew:+.2f} days wrong")
        if plan.outages and rng.random() < 0.15:
            world.out = not world.out
            scheduler.note(f"the source is {'down' if world.out else 'up'}")
        if plan.orders and rng.random() < 0.12:
            given += _ordered(world, rng.choice(plan.orders), len(given))
        if plan.trips and rng.random() < 0.1:
            given += _tripped(world)
        if plan.fetches and rng.random() < 0.1:
            _fetched(world)
    return given


def _ordered(world: World, what: Any, number: int) -> list[Event]:
    """A person asks for something; now and then twice under one key, since the first time nothing seemed to come of it."""
    ledger = world.observer._ledger
    for _ in range(world.random.choice((1, 1, 2))):
        ask(ledger, shop.APP, what, by="ana", now=world.now(), why=f"order {number}", key=f"order{number}")
        world.scheduler.note(f"order {what}")
    world.observer.look()
    return ledger.events(shop.APP, "orders")[-1:]


def _tripped(world: World) -> list[Event]:
    """The front stopped sending to a release. It says so at least once."""
    ledger, rng = world.observer._ledger, world.random
    roles = {role.role: role for role in ledger.roles(shop.APP, LIVE) if role.release}
    name = rng.choice(("challenger", "challenger", "champion"))
    if name not in roles:
        return []
    role = roles[name]
    entry = Entry(
        app=shop.APP,
        key=f"tripped:{role.release}:{role.epoch}",
        at=world.now(),
        kind="tripped",
        sentence=f"The guard on errors stopped {str(role.release)[:8]}.",
        body={"release": role.release, "role": name, "guard": "errors", "rows": 40, "failed": 9, "epoch": role.epoch},
    )
    for _ in range(rng.choice((1, 2))):
        (event,) = ledger.append([entry], recorded_at=world.now())
        world.scheduler.note(f"tripped {name}")
        world.observer.look()
    return [event]


def _fetched(world: World) -> None:
    """Somebody fetches by hand, on the first machine, at the same time as the controllers."""
    machine = world.machines[0]
    store = world.store()
    ctx = replace(world.base, store=store)
    since = machine.clock() - timedelta(days=6) if world.plan.rough else None
    try:
        run(world, fetch(ctx, "sales", now=machine.clock(), since=since))
    except Exception as exc:  # noqa: BLE001 - a person reads it, and shrugs
        world.scheduler.note(f"by hand: {type(exc).__name__} {str(exc)[:6]}")
    finally:
        store.close()
    world.observer.look()


def settle(world: World, given: list[Event]) -> None:
    """All is well from now on: everything that was asked for is done soon, and every tick is lived through.

    Raises:
        Broken: it is not.
    """
    world.calm, world.out = True, False
    for machine in world.machines:
        machine.skew = 0.0
    if world.observer.state.get("paused") or any(event.body.get("what") == "pause" for event in given):
        given += _ordered(world, "resume", len(given))
    until_s = world.scheduler.now_s + _SETTLE_S
    while (why := _unsettled(world, given)) and world.scheduler.now_s < until_s:
        world.scheduler.sleep(1.0)
    if why:
        raise Broken(f"stuck: {_SETTLE_S:.0f} s after the last fault {why}")


def _unsettled(world: World, given: list[Event]) -> str | None:
    observer, state = world.observer, world.observer.state
    undone = [event.seq for event in given if event.kind == "asked" and observer.acted[event.seq] != 1]
    if undone:
        return f"order {undone[0]} is not acted on"
    if tripped := _unanswered(observer, given):
        return tripped
    life, until = state.get("life"), observer.table().until
    if not life or until is None or life["retraining"]:
        return "there is no release, or a retraining is under way"
    if observer.lived[-1] != until or until < world.now() - timedelta(days=1.5):
        return f"the loop has lived up to {observer.lived[-1]}, the table goes to {until}"
    return None


def _unanswered(observer: Observer, given: Sequence[Event]) -> str | None:
    """The challenger that is still there, though its guard tripped."""
    role = observer.role("challenger")
    for event in given:
        body = event.body
        place = (body.get("role"), body.get("release"), body.get("epoch"))
        if event.kind == "tripped" and role is not None and place == ("challenger", role.release, role.epoch):
            return f"challenger {body['release'][:8]} is still there, though its guard tripped"
    return None


def _checked(world: World) -> None:
    """What must hold at the end."""
    world.observer.look()
    world.observer.verify()


def _first(observer: Observer) -> int:
    """The first tick that was lived through."""
    deployed = next(event for event in observer.events() if event.kind == "deployed")
    return shop.day_of(deployed.at)


def story_of(observer: Observer) -> list[tuple[str, str, str, str | None]]:
    """What the loop told."""
    return [
        (event.kind, event.at.isoformat(), event.sentence, event.body.get("release"))
        for event in observer.events()
        if event.key.startswith("loop:")
    ]


def life_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """What is remembered of a life, but for what goes by the wall's clock or counts other events too."""
    life = {k: v for k, v in state["life"].items() if k not in ("asked_until", "count")}
    life["served"] = {
        tick: {k: v for k, v in one.items() if k not in ("since", "until")} for tick, one in life["served"].items()
    }
    return life


def _compare(story: list[Any], life: Any, until: datetime, calm: Undisturbed) -> None:
    expected = [one for one in calm.story if datetime.fromisoformat(one[1]) <= until]
    for number in range(max(len(story), len(expected))):
        here = story[number] if number < len(story) else None
        there = expected[number] if number < len(expected) else None
        if here != there:
            raise Broken(
                f"the story differs from the undisturbed one at {number}:\n  disturbed   {here}\n  undisturbed {there}"
            )
    if life != calm.lives[until]:
        names = [name for name in life if life[name] != calm.lives[until].get(name)]
        pairs = "\n".join(f"  {name}: {life[name]}\n  instead of {calm.lives[until].get(name)}" for name in names)
        raise Broken(f"the same story, but another memory on {until:%Y-%m-%d}:\n{pairs}")


def _history(world: World) -> str:
    """All that happened, as one digest: every step, and of every event what contains neither chance nor this machine's time."""
    found = hashlib.blake2b(world.scheduler.fingerprint.encode(), digest_size=16)
    for event in world.observer.events(None):
        at = event.at.isoformat() if event.timeline != "trainings" else ""
        found.update(repr((event.seq, event.timeline, event.kind, at, event.sentence, event.roles)).encode())
    return found.hexdigest()


def _told(plan: Plan, exc: BaseException, last: list[str]) -> str:
    what = str(exc) if isinstance(exc, Broken) else f"{type(exc).__name__}: {exc}"
    steps = "\n".join(last)
    command = f"python tests/simulation/simulation.py {plan.seed} {plan.days}"
    return f"seed {plan.seed}: {what}\n{plan}\nThe last steps:\n{steps}\nAlone: {command}"


@contextmanager
def workshop() -> Iterator[Workshop]:
    """A folder for simulations, in memory where there is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="staytrue-sim-", dir=memory if memory.is_dir() else None) as folder:
        SimulatedPool.trained.clear()
        yield Workshop(Path(folder))


if __name__ == "__main__":
    seed, days = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 90
    with workshop() as shared:
        result = simulate(shared, plan_of(seed, days))
    lines = [" ".join(map(str, told)) for told in result.story]
    sys.stdout.write("\n".join([*lines, str(replace(result, story=[])), ""]))
