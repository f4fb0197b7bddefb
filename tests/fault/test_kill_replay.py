"""kill -9 of a real replay at random moments, beside another process on the same store: it goes on as if nothing had been."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pytest
from orders import FETCH, REPLAY, TRAIN, Done, Order, Witness, run

from staytrue.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc for processes that live on")

# Not the victim's own: a replay that was told to its end is remembered, and there would be nothing left to kill.
OTHER_POLICIES = ("replay", "--policy", "every:14d", "--policy", "never")


@pytest.mark.parametrize("kills", [5, pytest.param(300, marks=pytest.mark.fault_long)])
def test_a_replay_killed_at_any_moment_goes_on(tmp_path: Path, prices: Path, kills: int) -> None:
    began = time.monotonic()
    run(prices, tmp_path / "undisturbed", FETCH).well()
    fetched = time.monotonic()
    undisturbed = run(prices, tmp_path / "undisturbed", REPLAY).well()
    lives_s = {"fetch": fetched - began, "replay": time.monotonic() - fetched}

    left, hit = kills, Counter[str]()
    for seed in itertools.count(kills * 1000):
        if left <= 0:
            break
        story = Story(app=prices, store=tmp_path / f"store-{seed}", journal=tmp_path / f"journal-{seed}", seed=seed)
        try:
            story.lived(left, lives_s, undisturbed)
        except BaseException:
            print(f"seed {seed}, after {kills - left} kills and {story.hit}")
            raise
        left -= story.hit.total()
        hit += story.hit + Counter(stores=1)
        shutil.rmtree(story.store)
    print(f"killed: {hit}; {time.monotonic() - began:.0f} s")


@dataclass
class Story:
    """One store: fetch and replay are started until a replay comes to its end, and killed on the way."""

    app: Path
    store: Path
    journal: Path
    seed: int
    hit: Counter[str] = field(default_factory=Counter)
    """What was killed: the verb, and whether its trainings had begun."""
    fetched: bool = False
    witness: Witness = field(init=False)

    def lived(self, kills: int, lives_s: dict[str, float], undisturbed: Done) -> None:
        """From an empty store to the same end as undisturbed, with at most so many kills."""
        source = random.Random(self.seed)
        self.store.mkdir()
        self.journal.touch()
        self.witness = Witness(self.store)
        with Neighbour(self.app, self.store, self.seed) as neighbour:
            done = None
            while done is None or done.verb != "replay":
                # A fetch is killed once: it begins anew each time, and it is the replay that is to be hit.
                # The moment is anywhere in the life that it has when it is alone; here it takes longer.
                at_risk = self.hit.total() < kills and (self.fetched or not self.hit)
                life_s = lives_s["replay" if self.fetched else "fetch"]
                done = self.started(source.uniform(0.1, 1.0) * life_s if at_risk else None)
                self.fetched |= done is not None
                # Reports first: what they tell of must be found by a look that comes later.
                self.believe([*neighbour.reports(), *([done] if done else [])])
        self.believe(neighbour.reports())
        assert done.timeline == undisturbed.timeline
        assert list((self.store / "work" / "jobs").glob("pool-*")) == [], "what dead controllers left was not removed"

    def believe(self, reports: list[Done]) -> None:
        self.witness.look()
        for report in reports:
            self.witness.heard(report)

    def started(self, within_s: float | None) -> Done | None:
        """The next step, in a process that is killed when it takes longer; None when it was."""
        known = self.trainings()
        order = Order(self.app, self.store, REPLAY if self.fetched else FETCH, {"FAULT_JOURNAL": str(self.journal)})
        done = None
        try:
            done = order.done(within_s).well() if within_s else order.done().well()
        except subprocess.TimeoutExpired:
            order.kill()
            begun = order.id in self.journal.read_text()
            self.hit[f"{order.verb}, {'training' if begun else 'not training yet'}"] += 1
        order.wait_for_its_children()
        asked = {line.partition(" ")[2] for line in self.journal.read_text().splitlines() if line.startswith(order.id)}
        assert not asked & known, "trained again what was recorded"
        return done

    def trainings(self) -> set[str]:
        """First and last day of every training that is in the ledger."""
        with closing(Store(self.store)) as store:
            found = set()
            for event in store.ledger.events(timeline="trainings", kinds=["trained"]):
                parts = store.table_by_id(store.recipe(event.body["recipe"]).tables["sales"]).table.parts
                found.add(f"{parts[0].since.toordinal()} {parts[-1].since.toordinal()}")
            return found


class Neighbour:
    """Works on the same store all the time: fetches, trains, replays other policies, one after the other."""

    def __init__(self, app: Path, store: Path, seed: int) -> None:
        self._app, self._store = app, store
        self._source = random.Random(-seed)
        self._done: list[Done] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        verb: tuple[str, ...] = FETCH
        while not self._stop.is_set():
            self._done.append(run(self._app, self._store, verb))
            verb = self._source.choice([FETCH, TRAIN, OTHER_POLICIES])

    def reports(self) -> list[Done]:
        """What it has brought to an end since the last call; nothing of it may have failed."""
        found = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._done.pop(0))
        for done in found:
            assert "Traceback" not in done.err, done.err
            # A training that is not let in ends with 1.
            assert done.exit_code == 0 or (done.verb == "train" and done.exit_code == 1), done.err
        return found
