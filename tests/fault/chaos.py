"""Chaos: processes of a running drill are killed or stopped, again and again, while a feeder plays day after day.

The drill is `drills/`, on made-up rows: whoever books asks for a quote, labels come a day later, the loop retrains every few
days. A round is one fault at a random moment, and the time until somebody is answered again who asks after it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2] / "drills"))

from callers import Asker
from place import Place, until
from stream import DAY, Stream, shop

from staytrue.cli.feeder import Feeder
from staytrue.errors import Unavailable
from staytrue.loop.lease import FileBeats
from staytrue.loop.orders import ask
from staytrue.store.ledger import Lease

__all__ = ["PROCESSES", "Chaos", "Kept", "Round", "percentiles", "restless"]

PROCESSES = ("front", "controller", "worker", "lane", "launcher", "parent", "everything")
"""Whom a fault hits. Whatever it is, what is decided is what a replay decides."""
_HEALTHY_S = 120.0
_LOCKED_S = 15.0
"""Nobody takes over from one that was stopped in the middle of a write: after that long it goes on."""
_LONGEST_STOP_S = {"front": 2.0, "controller": 4.0, "worker": 1.0, "lane": 1.0, "launcher": 1.0, "job": 1.0}


def restless(days: int) -> Stream:
    """Nights that cost 4 more every twenty days, so that there is always something to retrain for."""
    stream = shop(each=40, days=days)
    stream.rows["rate"] += 4.0 * ((stream.rows["at"] - stream.first).dt.days // 20)
    return stream


@dataclass(frozen=True, kw_only=True)
class Round:
    """One fault, and how long nobody was answered after it (after its end, for a stop)."""

    who: str
    how: str
    back_s: float


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is wrong with a store after all that; nothing is, where all is empty and both lists of `orders` are equal."""

    lost_predictions: set[str]
    lost_labels: set[int]
    trained_twice: list[str]
    retrained_twice: list[datetime]
    orders: tuple[list[str], list[str]]
    """The orders, and those that were acted on."""
    problems: list[str]


@dataclass
class Chaos:
    """A drill in a folder, and all that is done to it."""

    folder: Path
    days: int
    seed: int
    rounds: list[Round] = field(default_factory=list)
    champions: set[int] = field(default_factory=set)
    """How many champions were seen at a time."""
    starts_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.place = Place(self.folder / "place", restless(self.days))
        self._tuned()
        stream = self.place.stream
        self.place.staytrue("fetch", "--since", stream.begin.isoformat(), "--until", stream.first.isoformat())
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self._stack = contextlib.ExitStack()
        self._ending = threading.Event()
        self.process: subprocess.Popen[bytes] | None = None

    def _tuned(self) -> None:
        """More retrainings than anybody would want, with short trials."""
        file = self.place.app / "app.py"
        before, found, rest = file.read_text().partition("app.policy(")
        _, _, after = rest.partition("\n)\n")
        policy = 'retrain="every:3d", window="7d", holdout=20, trial="backtest, shadow:20, canary:50%", watch_rows=60'
        file.write_text(f'{before}{found}{policy}, trial_days=30, alpha=0.1, cooldown="0s")\n{after}')

    # ------------------------------------------------------------ up and down

    def start(self) -> None:
        """`staytrue up`, at the same port as before."""
        began = time.monotonic()
        words = ["--port", str(self.port), "--no-follow", "--deadline-s", "20"]
        self._stack = contextlib.ExitStack()
        self.process = self._stack.enter_context(self.place.up(*words)).process
        self.starts_s.append(time.monotonic() - began)

    def stop(self) -> None:
        """End it as people do."""
        self._stack.close()

    @contextlib.contextmanager
    def playing(self) -> Iterator[Feeder]:
        """Meanwhile day after day is played, patiently; in the end what is under way ends."""
        asker = Asker(self.port, timeout_s=5.0, patience_s=_HEALTHY_S)
        feeder = self.place.feeder(asker, lambda _event: None)
        failed: list[BaseException] = []

        def play() -> None:
            try:
                feeder.catch_up()
                last = self.place.stream.first + (self.days - 1) * DAY
                while self.place.clock < last and not self._ending.is_set():
                    feeder.play(self.place.clock + DAY)
            except BaseException as exc:  # noqa: BLE001 - raised below, where the test sees it
                failed.append(exc)

        player = threading.Thread(target=play)
        player.start()
        try:
            self._player = player
            yield feeder
        finally:
            self._ending.set()
            player.join()
            asker.close()
        if failed:
            raise failed[0]

    def find(self, who: str) -> list[psutil.Process]:
        """Whom that names, as far as they are there now."""
        with contextlib.suppress(psutil.Error):
            assert self.process is not None
            parent = psutil.Process(self.process.pid)
            tree = parent.children(recursive=True)
            return _named(parent, tree).get(who, [])
        return []

    # ------------------------------------------------------------ rounds

    def go(self, rounds: int, whom: Sequence[str] = PROCESSES) -> None:
        """So many rounds, a day or more apart, or until the days are over or their player fails."""
        while len(self.rounds) < rounds and self._player.is_alive():
            self.well()
            self._day_passes()
            self.one(whom)

    def _day_passes(self) -> None:
        """Wait for the beginning of the day after the next one: so one was lived through from its beginning to its end."""
        then = self.place.clock + 2 * DAY
        until(lambda: self.place.clock >= then or not self._player.is_alive(), "a day", why=self.place.said)

    def one(self, whom: Sequence[str]) -> Round | None:
        """One fault at a random moment; None when who should be hit was gone by then."""
        who = self.random.choice(whom)
        if who == "job":
            victims = self._job()
        else:
            victims = self.find(who)
            time.sleep(self.random.uniform(0, 0.2))  # a random moment
        if not victims:
            return None
        stops = who in _LONGEST_STOP_S and self.random.random() < 0.4
        with _gone_is_fine():
            if stops:
                self._stopped(self.random.choice(victims), self.random.uniform(0.05, _LONGEST_STOP_S[who]))
            elif who == "everything":
                for one in victims:
                    with _gone_is_fine():
                        one.kill()
            else:
                self.random.choice(victims).kill()
        began = time.monotonic()
        if who in ("parent", "everything"):
            self._start_again()
        back_s = self._answered() - began
        found = Round(who=who, how="stopped" if stops else "killed", back_s=back_s)
        self.rounds.append(found)
        self._look()
        return found

    def _job(self) -> list[psutil.Process]:
        """A job that runs: they are short, so it is waited for."""
        end = time.monotonic() + 3.0
        return until(lambda: self.find("job") or time.monotonic() > end, "a job") and self.find("job")

    @contextlib.contextmanager
    def second_controller(self) -> Iterator[int]:
        """Another controller of the same app, started by hand; its process id."""
        place = self.place
        words = ["--store", str(place.folder / "store"), "--app-file", str(place.app / "app.py"), "--no-follow"]
        command = [sys.executable, "-m", "staytrue.loop.process", *words, "--clock", str(place.folder / "now")]
        with (self.folder / "second.err").open("wb") as err:
            process = subprocess.Popen(command, cwd=place.folder, env=place.environment, stdout=err, stderr=err)
        try:
            yield process.pid
        finally:
            process.kill()
            process.wait()

    def overtaken(self) -> str:
        """Stop who has the lease, at a random moment, until the other one has it and has lived through a day; then wake it.

        Gives back what became of it: `woke`, `killed` by the keeper who missed its signs, or `locked`: it was stopped while it
        wrote, so nobody could take over before it woke.
        """
        self._day_passes()
        before = self._lease()
        beat = until(self._beat_of(before.owner), "the beat of the owner", why=self.place.said)
        time.sleep(self.random.uniform(0, 1))  # a random moment
        victim = psutil.Process(beat["pid"])
        victim.suspend()
        end = time.monotonic() + _LOCKED_S
        try:
            until(lambda: self._taken(before.epoch) or not _runs(victim) or time.monotonic() > end, "another owner")
            taken = self._taken(before.epoch)
            if taken:
                self._day_passes()
        finally:
            with _gone_is_fine():
                victim.resume()
        return "killed" if not _runs(victim) else "woke" if taken else "locked"

    def _lease(self) -> Lease:
        lease = self.place.store.ledger.lease(self.place.stream.name)
        assert lease is not None
        return lease

    def _taken(self, epoch: int) -> bool:
        with contextlib.suppress(Unavailable):  # locked by whom we have stopped
            return self._lease().epoch > epoch
        return False

    def _beat_of(self, owner: str) -> Callable[[], Mapping[str, Any] | None]:
        beats = FileBeats(self.place.store.root, self.place.stream.name)

        def found() -> Mapping[str, Any] | None:
            beat = beats.read()
            return beat if beat and beat.get("owner") == owner else None

        return found

    def _stopped(self, victim: psutil.Process, seconds: float) -> None:
        victim.suspend()
        time.sleep(seconds)  # that long it is stopped
        victim.resume()

    def _start_again(self) -> None:
        assert self.process is not None
        self.process.wait()
        with contextlib.suppress(Exception):  # what is left of a process that was killed
            self.stop()
        self.start()

    def _answered(self) -> float:
        """When the first request was answered that was made from now on."""
        asker = Asker(self.port, connections=1, timeout_s=1.0)
        with contextlib.closing(asker):
            until(lambda: asker.releases([self._row]), "an answer", seconds=_HEALTHY_S, why=self.place.said)
        return time.monotonic()

    @property
    def _row(self) -> dict[str, object]:
        return {"size": 2.0, "terrace": 1, "city": "porto"}

    def well(self) -> None:
        """Wait until all are there again who should be: so the next fault hits something."""
        until(
            lambda: all(self.find(who) for who in ("front", "controller", "worker", "lane")),
            "all processes",
            why=self.place.said,
        )

    # ------------------------------------------------------------ what is left

    def kept(self, feeder: Feeder) -> Kept:
        """What the store knows in the end, and what of it is wrong."""
        until(lambda: len(set(self._orders()[1])) == len(self._orders()[0]), "orders to be obeyed", why=self.place.said)
        store, stream = self.place.store, self.place.stream
        events = self.place.loop.events()
        traffic = store.traffic(app=stream.name).to_pandas()
        known = stream.rows[stream.rows["at"] < self.place.clock - DAY - stream.label_after]
        told = set(known["id"]) & feeder.quotes.keys()
        labelled = set(traffic.loc[traffic["label"].notna() & traffic["row.id"].notna(), "row.id"].astype(int))
        recipes = [e.body.get("recipe") for e in store.ledger.events(stream.name, "trainings", kinds=["trained"])]
        retrains = Counter(event.at for event in events if event.kind == "retrain")
        return Kept(
            lost_predictions=set(feeder.asker.ids) - set(traffic["id"]),
            lost_labels=told - labelled,
            trained_twice=[recipe for recipe, times in Counter(recipes).items() if times > 1],
            retrained_twice=[at for at, times in retrains.items() if times > 1],
            orders=self._orders(),
            problems=store.ledger.verify(),
        )

    def _orders(self) -> tuple[list[str], list[str]]:
        ledger, app = self.place.store.ledger, self.place.stream.name
        asked = [str(event.seq) for event in ledger.events(app, "orders", kinds=["asked"])]
        acted = [str(e.body.get("order")) for e in ledger.events(app, "live", kinds=["paused", "resumed", "declined"])]
        return sorted(asked), sorted(acted)

    def decided(self) -> list[tuple[str, str, str, str | None]]:
        """What the live loop did with models, and why."""
        policy = "every:3d"
        return [
            (event.at.isoformat(), event.kind, event.sentence, event.body.get("release"))
            for event in self.place.loop.events()
            if event.body.get("policy") == policy
        ]

    def replayed(self) -> list[tuple[str, str, str, str | None]]:
        """The same, by a replay of the same days."""
        first, now = self.place.stream.first.isoformat(), self.place.clock.isoformat()
        found = self.place.staytrue("replay", "--policy", "every:3d", "--since", first, "--until", now)
        return [(e["at"], e["kind"], e["sentence"], e["release"]) for e in found["timeline"] if e["kind"] != "looked"]

    def _look(self) -> None:
        roles = self.place.store.ledger.roles(self.place.stream.name, "live")
        self.champions.add(sum(role.role == "champion" and bool(role.release) for role in roles))
        if self.random.random() < 0.1:
            now = datetime.now(UTC)
            for what in ("pause", "resume"):
                ask(self.place.store.ledger, self.place.stream.name, what, by="chaos", now=now)


def _runs(process: psutil.Process) -> bool:
    with _gone_is_fine():
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    with contextlib.suppress(psutil.NoSuchProcess):
        yield


def _named(parent: psutil.Process, tree: list[psutil.Process]) -> dict[str, list[psutil.Process]]:
    found: dict[str, list[psutil.Process]] = defaultdict(list)
    found["parent"], found["everything"] = [parent], [parent, *tree]
    by_pid = {}
    for one in tree:
        with _gone_is_fine():
            if one.status() != psutil.STATUS_ZOMBIE:
                by_pid[one.pid] = (one, " ".join(one.cmdline()), one.ppid())
    for one, words, above in by_pid.values():
        mother = by_pid.get(above, (None, "", 0))[1]
        if above == parent.pid:
            kinds = {"staytrue.loop.process": "controller", "staytrue.dashboard.process": "page"}
            found[next((kind for module, kind in kinds.items() if module in words), "front")].append(one)
        elif "staytrue.serve.worker" in words:
            found["lane" if "staytrue.serve.worker" in mother else "worker"].append(one)
        elif "staytrue.engines.launcher" in words:
            found["job" if "staytrue.engines.launcher" in mother else "launcher"].append(one)
    return found


def percentiles(rounds: list[Round]) -> str:
    """A line for each kind of victim."""
    by_who: dict[str, list[float]] = defaultdict(list)
    for one in rounds:
        by_who[f"{one.who} {one.how}"].append(one.back_s)
    lines = []
    for who, seconds in sorted(by_who.items()):
        ordered = sorted(seconds)
        median, p99 = ordered[len(ordered) // 2], ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
        back = f"back after {median:.2f} s at the median, {p99:.2f} s p99, {ordered[-1]:.2f} s at most"
        lines.append(f"  {who:<20} {len(ordered):4} times: {back}")
    return "\n".join([*lines, f"  {len(rounds)} rounds: {Counter(one.how for one in rounds)}"])
