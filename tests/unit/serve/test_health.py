"""Predictive health as metrics: what `status` says, in numbers; what nobody knows has none; unknown when nobody watches."""

from __future__ import annotations

import asyncio
import os
import random
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from prometheus_client.parser import text_string_to_metric_families

from staytrue.cli.status import status
from staytrue.loop.lease import FileBeats
from staytrue.serve.health import PredictiveHealth
from staytrue.serve.metrics import Metrics
from staytrue.store.ledger import Entry, Fence, RoleChange
from staytrue.store.store import Store

RELEASE, OTHER = "a1" * 32, "b2" * 32
SEEN = {
    "champion": RELEASE,
    "rows": 400,
    "loss": 2.5,
    "loss_interval": [2.25, 2.75],
    "fresh_loss": 2.4,
    "fresh_rows": 120,
    "alarms": [],
    "trial": None,
    "next": "nothing to do",
    "rows_since": 640,
    "until": "2026-03-01T00:00:00+00:00",
}


class Watched:
    """The health of an app on a real ledger; what a controller writes down is a value."""

    def __init__(self, root):
        self.store = Store(root)
        self.metrics = Metrics()
        self.now_s = 1_000.0
        self.reads = 0
        self.numbers = count()
        self.epoch = self.store.ledger.take("rates", owner="me", expect_epoch=0, at=datetime.now(UTC)).epoch
        self.health = PredictiveHealth(
            self.store, "rates", metrics=self.metrics, wall=self.wall, monotonic=lambda: self.now_s
        )  # fmt: skip

    def wall(self):
        """Asked once for each time that the ledger is read."""
        self.reads += 1
        return datetime.now(UTC)

    def write(self, seen, *entries, looked_at=None):
        at = looked_at or datetime.now(UTC)
        state = {"looked_at": at.isoformat(), "life": {"look": seen}}
        fence = Fence(app="rates", epoch=self.epoch, state=state)
        self.store.ledger.append(entries, recorded_at=datetime.now(UTC), fence=fence)
        self.beat()

    def beat(self, pid=None):
        FileBeats(self.store.root, "rates").write({"pid": pid or os.getpid(), "owner": "me", "epoch": 1, "count": 1})

    def crown(self, release, before=0):
        roles = (RoleChange(role="champion", release=release, share=1.0, expect_epoch=before),)
        return self.entry("deployed_by_test", roles=roles)

    def entry(self, kind, *, roles=(), **body):
        return Entry(
            app="rates", key=f"e{next(self.numbers)}", at=datetime.now(UTC), kind=kind, sentence="So.", body=body,
            roles=roles,
        )  # fmt: skip

    def look(self, later_s=5.0):
        self.now_s += later_s
        asyncio.run(self.health.look())
        return self

    def said(self, name):
        """Label values -> value of one metric, as Prometheus reads it."""
        families = text_string_to_metric_families(self.metrics.text().decode())
        return {tuple(s.labels.values()): s.value for f in families for s in f.samples if s.name == name}

    @property
    def state(self):
        (state,) = [labels[0] for labels, value in self.said("staytrue_health").items() if value == 1]
        return state


@pytest.fixture
def watched(tmp_path):
    made = Watched(tmp_path / "store")
    yield made
    made.store.close()


def test_before_anybody_has_looked_it_is_unknown_and_no_number_is_made_up(watched):
    assert watched.said("staytrue_health") == {("right",): 0, ("harmed",): 0, ("unknown",): 1}
    for name in ("loss", "loss_low", "loss_high", "loss_rows", "fresh_loss", "rows_since_training", "champion_info"):
        assert watched.said(f"staytrue_{name}") == {}
    assert watched.said("staytrue_predictive_alarm") == watched.said("staytrue_trial") == {}


def test_what_the_loop_has_seen_is_what_is_exported(watched):
    trial = {"release": OTHER, "stage": "canary", "rows": 12}
    watched.write(SEEN | {"trial": trial, "alarms": ["shift"]}, watched.crown(RELEASE))

    watched.look()

    assert watched.state == "right"  # inputs moved, and nobody was harmed
    assert watched.said("staytrue_champion_info") == {(RELEASE,): 1}
    found = {name: watched.said(f"staytrue_{name}")[()] for name in ("loss", "loss_low", "loss_high", "loss_rows")}
    assert found == {"loss": 2.5, "loss_low": 2.25, "loss_high": 2.75, "loss_rows": 400}
    assert watched.said("staytrue_fresh_loss") == {(): 2.4}
    assert watched.said("staytrue_rows_since_training") == {(): 640}
    assert watched.said("staytrue_data_until_seconds") == {(): datetime(2026, 3, 1, tzinfo=UTC).timestamp()}
    assert watched.said("staytrue_trial") == {("backtest",): 0, ("shadow",): 0, ("canary",): 1}
    alarms = {"harm": 0, "shift": 1, "fault": 0, "silence": 0}
    assert watched.said("staytrue_predictive_alarm") == {(name,): value for name, value in alarms.items()}


@pytest.mark.parametrize(
    ("seen", "entries", "state"),
    [
        ({}, [], "right"),
        ({"alarms": ["harm"]}, [], "harmed"),
        ({"alarms": ["shift", "fault", "something new"]}, [], "right"),
        ({"alarms": ["silence"]}, [], "unknown"),
        ({"loss_interval": [2.45, 2.9]}, [], "harmed"),
        ({"rows": 0, "loss": None, "loss_interval": None}, [], "unknown"),
        ({"fresh_loss": None}, [], "unknown"),
        ({"champion": OTHER, "next": None}, [], "unknown"),
        ({"something": {"new": [1, None]}}, [], "right"),
        ({}, [{"alarm": "system", "what": "disk", "state": "opened"}], "harmed"),
        (
            {},
            [
                {"alarm": "system", "what": "disk", "state": "opened"},
                {"alarm": "system", "what": "disk", "state": "resolved"},
            ],
            "right",
        ),
        (
            {},
            [{"alarm": "system", "state": "opened"}],
            "right",
        ),  # an incident about answers, which status does not count
    ],
)
def test_metrics_and_status_say_the_same(watched, seen, entries, state):
    watched.write(SEEN | seen, watched.crown(RELEASE), *[watched.entry("alarm", **body) for body in entries])

    watched.look()

    assert watched.state == state
    assert status(watched.store, "rates", at=None)["right"]["state"] == state


def test_when_the_controller_is_dead_it_is_unknown_and_its_numbers_are_gone(watched):
    watched.write(SEEN, watched.crown(RELEASE))
    watched.look()
    before = (watched.state, watched.said("staytrue_loss"))

    watched.beat(pid=2**22 + 12345)  # of no process; the ledger is as it was
    watched.look()

    assert before == ("right", {(): 2.5})
    assert watched.state == status(watched.store, "rates", at=None)["right"]["state"] == "unknown"
    assert watched.said("staytrue_loss") == watched.said("staytrue_predictive_alarm") == {}
    assert watched.said("staytrue_champion_info") == {(RELEASE,): 1}


def test_a_look_at_the_past_is_no_word_on_today(watched):
    then = datetime.now(UTC) - timedelta(days=300)
    ended = Entry(
        app="rates", key="end", at=then, kind="looked", sentence="Looked.", body={"evidence": SEEN},
        roles=(RoleChange(role="champion", release=RELEASE, share=1.0, expect_epoch=0),),
    )  # fmt: skip
    watched.store.ledger.append([ended], recorded_at=datetime.now(UTC))

    watched.look()

    assert watched.state == status(watched.store, "rates", at="now")["right"]["state"] == "unknown"
    assert status(watched.store, "rates", at=None)["replayed"]
    assert watched.said("staytrue_loss") == {}


def test_a_drill_with_a_clock_of_its_own_is_judged_by_it(watched):
    watched.write(SEEN, watched.crown(RELEASE), looked_at=datetime.now(UTC) - timedelta(days=300))

    watched.look()

    assert watched.state == status(watched.store, "rates", at=None)["right"]["state"] == "right"


def test_another_champion_makes_all_numbers_of_the_one_before_vanish(watched):
    watched.write(SEEN, watched.crown(RELEASE))
    watched.look()

    watched.write(SEEN, watched.crown(OTHER, before=1))
    watched.look()

    assert watched.said("staytrue_champion_info") == {(OTHER,): 1}
    assert watched.said("staytrue_loss") == {}
    assert watched.state == "unknown"


def test_the_ledger_is_read_when_it_moved_once_more_after_and_once_a_minute(watched):
    watched.write(SEEN, watched.crown(RELEASE))
    for _ in range(3):
        watched.look()
    settled = watched.reads
    for _ in range(9):
        watched.look()
    still = watched.reads
    for _ in range(3):
        watched.look()
    a_minute_later = watched.reads

    watched.write(SEEN | {"loss": 2.6})
    watched.look()

    assert settled == still == 2
    assert a_minute_later == 3
    assert watched.said("staytrue_loss") == {(): 2.6}


def test_decisions_are_counted_over_the_life_of_the_app_and_once(watched):
    kinds = ["retrain", "backtest", "promoted", "retrain", "rejected", "rolled_back", "fetched"] * 3
    watched.write(SEEN, watched.crown(RELEASE), *[watched.entry(kind) for kind in kinds])
    watched.look()
    watched.look()

    watched.write(SEEN, watched.entry("promoted"))
    watched.look()
    again = PredictiveHealth(watched.store, "rates", metrics=(other := Metrics()), monotonic=lambda: 0.0)
    asyncio.run(again.look())

    counts = {("retrain",): 6, ("promoted",): 4, ("rejected",): 3, ("rolled_back",): 3}
    assert watched.said("staytrue_decisions_total") == counts
    assert {labels: child.value for labels, child in other.decisions.items()} == counts


def test_incidents_stand_open_until_they_are_resolved(watched):
    opened = watched.entry("alarm", alarm="harm", state="opened")
    watched.write(SEEN, watched.crown(RELEASE), opened, watched.entry("alarm", alarm="system", what="disk"))
    first = watched.look().said("staytrue_incidents")
    watched.write(SEEN, watched.entry("retrain"))
    acting = watched.look().said("staytrue_incidents")
    watched.write(SEEN, watched.entry("promoted"))
    over = watched.look().said("staytrue_incidents")

    assert first == {("harm", "opened"): 1, ("system", "opened"): 1}
    assert acting == {("harm", "acting"): 1, ("system", "opened"): 1}
    assert over == {("system", "opened"): 1}


def test_a_look_that_makes_no_sense_is_unknown_or_can_be_scraped(watched):
    odd = [None, "", "x", -1, 1e308, True, [], [1], ["a", "b"], {}, {"stage": 3}, "2026-03-01", [None, None], 10**400]
    watched.write(SEEN, watched.crown(RELEASE))
    rng = random.Random(4)
    for _ in range(60):
        watched.write(SEEN | {name: rng.choice(odd) for name in rng.sample(sorted(SEEN), 2)})

        try:
            watched.look()
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError):
            assert watched.state == "unknown"
            assert watched.said("staytrue_loss") == {}
        else:
            assert watched.said("staytrue_health")


def test_an_alarm_list_that_is_missing_is_no_alarm_that_is_closed(watched):
    seen = {name: value for name, value in SEEN.items() if name not in ("alarms", "trial", "until")}
    watched.write(seen, watched.crown(RELEASE))

    watched.look()

    assert watched.said("staytrue_predictive_alarm") == {}
    assert watched.said("staytrue_trial") == watched.said("staytrue_data_until_seconds") == {}
    assert watched.said("staytrue_loss") == {(): 2.5}


def test_while_the_ledger_can_not_be_read_the_last_word_holds_for_a_minute_and_then_nothing_is_known(watched):
    watched.write(SEEN, watched.crown(RELEASE))
    watched.look().look().look()
    path = watched.store.root / "ledger.db"
    watched.store.ledger.close()
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    before = watched.look().state
    after = watched.look(60.0).state
    path.rmdir()
    path.with_suffix(".away").rename(path)
    watched.beat()

    assert (before, after) == ("right", "unknown")
    assert watched.look().state == "right"


def test_a_plain_service_is_right_while_it_answers_and_unknown_an_hour_after(watched):
    seen = {"champion": RELEASE, "service": True, "rows": 0, "alarms": [], "trial": None, "next": "the next change"}
    watched.write(seen, watched.crown(RELEASE))
    silent = watched.look().state
    watched.metrics.predictions.labels(OTHER, "shadow").inc(5)
    shadow = watched.look(61).state
    watched.metrics.predictions.labels(RELEASE, "champion").inc(5)
    answered = watched.look(61).state
    watched.metrics.predictions.forget(RELEASE, "champion")
    soon = watched.look(3_000).state
    later = watched.look(700).state

    assert (silent, shadow, answered, soon, later) == ("unknown", "unknown", "right", "right", "unknown")
