"""A plain service under the loop: other code goes through shadow and canary on live requests, and whatever ends that."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from server import Server, serving, until

from staytrue import testing
from staytrue.kernel.policy import Settings
from staytrue.loop.chronicle import Chronicle
from staytrue.loop.service_life import ServiceLife
from staytrue.store.ledger import LIVE, Entry

TILL = """
from staytrue import App

app = App("shop")


@app.predict(examples=[{"price": 2.5, "count": 4}])
def total(rows):
    return [row["price"] * row["count"] * 1.0 for row in rows]
"""
ROW = {"price": 3.0, "count": 2}


def now():
    return datetime.now(UTC)


@dataclass
class Lived:
    """A served till and its life; every turn begins with what the one before has remembered, as after a crash."""

    shop: Any
    server: Server
    ctx: Any
    settings: Settings
    factor: int = 1
    life: ServiceLife = field(init=False)

    def __post_init__(self):
        self.chronicle = Chronicle(ctx=self.ctx, timeline=LIVE, run="test", epochs={"champion": 1})
        self.life = self.born()
        self.life.release = self.server.release

    def born(self):
        return ServiceLife(ctx=self.ctx, settings=self.settings, chronicle=self.chronicle, wall=now)

    def turn(self):
        document = json.loads(json.dumps(self.life.remember()))
        self.life = self.born()
        self.life.recall(document)
        assert self.life.remember() == document
        self.life.advance(now())
        self.chronicle.write()
        return self.life

    def enter(self):
        """Bring other code into a trial; the release's id."""
        self.shop.edit(f"* {self.factor}.0 for", f"* {self.factor + 1}.0 for")
        self.factor += 1
        with testing.bench(self.shop.folder / "app.py", self.shop.store_path.parent) as bench:
            made = bench.deploy()
        assert made.verdict == "undecided"
        self.life.enter(made.release, (), now(), "It was checked.", {})
        self.chronicle.write()
        return made.release

    def asked(self, rows):
        """True, once so many rows were asked about."""
        return self.server.predict(*[ROW] * rows).status == 200

    def kinds(self):
        return [event["kind"] for event in self.shop.events() if event["kind"] not in {"tried", "tripped"}]


@pytest.fixture
def lived(shop):
    shop.write(TILL)
    with testing.bench(shop.folder / "app.py", shop.store_path.parent) as bench:
        bench.deploy()
        settings = replace(bench.app.settings, trial="backtest, shadow:20, canary:40%:60%")
        with serving(shop.store_path, "--no-loop") as server:
            yield Lived(shop, server, bench._ctx, settings)


def test_code_that_answers_otherwise_takes_over_step_by_step_and_goes_back_once(lived):
    old = lived.server.release
    new = lived.enter()
    assert lived.turn().trial.step.stage == "shadow"

    until(lambda: lived.asked(20) and lived.turn().trial is None, "a promotion")

    assert lived.kinds() == ["deployed", "backtest", "shadow", "canary", "canary", "promoted"]
    assert lived.life.release == new
    # Not just an answer by it: the last canary's may still come.
    until(lambda: lived.server.get("/v2/models/shop").json["versions"] == [new], "the new champion")
    assert lived.server.predict(ROW).json["predictions"] == [12.0]
    lived.life.roll_back(now(), "the guard on latency tripped", {})
    lived.chronicle.write()
    lived.server.answered_by(old, row=ROW)
    lived.life.roll_back(now(), "there is none before it", {})
    lived.chronicle.write()
    assert lived.kinds()[6:] == ["rolled_back"]


def test_what_has_proven_itself_waits_for_a_person_where_the_app_says_so(lived):
    lived.settings = replace(lived.settings, approve=True, trial="shadow:5")
    lived.life.settings = lived.settings
    new = lived.enter()

    waiting = until(lambda: lived.asked(9) and lived.turn().waiting, "a proof")

    assert lived.turn().waiting == waiting
    lived.life.expire(waiting.until - timedelta(seconds=1))
    assert lived.life.trial.release == new
    lived.life.expire(waiting.until)
    lived.chronicle.write()
    assert (lived.life.trial, lived.life.release) == (None, lived.server.release)
    assert lived.kinds() == ["deployed", "backtest", "shadow", "waiting", "rejected"]


def test_a_trial_is_ended_by_a_guard_newer_code_another_champion_or_its_time(lived):
    first = lived.enter()
    body = {"release": first, "role": "challenger", "guard": "latency", "rows": 20, "failed": 0}
    tripped = Entry(app="shop", key="tripped", at=now(), kind="tripped", sentence="It is slow.", body=body)
    lived.ctx.store.ledger.append([tripped], recorded_at=now())
    assert lived.turn().trial is None
    lived.enter()
    newer = lived.enter()
    assert lived.life.trial.release == newer
    lived.life.adopt(first, now())
    assert (lived.life.trial, lived.life.release) == (None, first)
    lived.life.adopt(lived.server.release, now())
    lived.enter()
    lived.life.trial = replace(lived.life.trial, began=now() - timedelta(days=lived.settings.trial_days))
    assert lived.turn().trial is None

    ends = [event["sentence"] for event in lived.shop.events("rejected")]
    said = ["latency", "newer code", "another champion", "is over"]
    assert [word in end for word, end in zip(said, ends, strict=True)] == [True] * 4
    assert lived.server.predict(ROW).release == lived.server.release
