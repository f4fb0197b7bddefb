"""Vitals: what is bad, what is well, and that each incident is told of once when it opens and once when it is over."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from staytrue.serve.metrics import DURATION_BUCKETS, Metrics
from staytrue.serve.vitals import Figures, Sample, Vitals, p99_s, readings
from staytrue.store.reserve import Disk
from staytrue.store.store import Store

EMPTY = [0] * (len(DURATION_BUCKETS) + 1)
ROOM = Disk(free_bytes=10_000, held_bytes=100, reserve_bytes=100)
FINE = Figures(there=True, restarts=0, queue_rows=0.0, read_s=0.001)
WELL = Sample(
    now_s=1_000.0, wall_s=5_000.0, figures=FINE, answers={"200": 1_000}, buckets=EMPTY, append_s=0.01, disk=ROOM
)  # fmt: skip


def later(seconds=30.0, **changed):
    return replace(WELL, now_s=WELL.now_s + seconds, wall_s=WELL.wall_s + seconds, **changed)


def spread(**counts):
    """Buckets by the name of their bound: `b25` is up to 25 ms."""
    by_bound = {f"b{bound * 1000:g}": place for place, bound in enumerate(DURATION_BUCKETS)}
    made = list(EMPTY)
    for name, count in counts.items():
        made[by_bound[name]] = count
    return made


@pytest.mark.parametrize(
    ("what", "now", "is_bad"),
    [
        ("disk", later(), False),
        ("disk", later(disk=replace(ROOM, free_bytes=50)), True),
        ("disk", later(disk=None), True),
        ("ledger", later(figures=replace(FINE, read_s=0.5)), None),
        ("ledger", later(figures=replace(FINE, read_s=2.0)), True),
        ("ledger", later(figures=replace(FINE, read_s=None)), True),
        ("ledger", later(append_s=9.0), True),
        ("clock", replace(later(), wall_s=WELL.wall_s + 30.9), False),
        ("clock", replace(later(), wall_s=WELL.wall_s + 30 + 3600), True),
        ("clock", replace(later(), wall_s=WELL.wall_s + 30 - 3600), True),
        ("errors", later(answers={"200": 1_900, "500": 100}), True),
        ("errors", later(answers={"200": 1_900, "422": 900}), False),
        ("errors", later(answers={"200": 1_970, "503": 30}), None),
        ("errors", later(answers={"200": 1_001, "500": 9}), None),
        ("latency", later(buckets=spread(b25=1_000)), False),
        ("latency", later(buckets=spread(b25=900, b1000=100)), True),
        ("latency", later(buckets=spread(b25=900, b250=100)), False),
        ("latency", later(buckets=spread(b1000=99)), False),
        ("worker", later(figures=replace(FINE, restarts=5)), True),
        ("worker", later(figures=replace(FINE, restarts=1)), None),
    ],
)
def test_what_is_bad_and_what_is_well(what, now, is_bad):
    found = readings(now, [WELL], usual_p99_s=0.025)

    assert found[what].is_bad is is_bad
    assert found[what].bad.endswith(".")
    assert [name for name, one in found.items() if name != what and one.is_bad] == []


def test_a_slow_app_is_not_slow_while_it_is_as_slow_as_usual():
    slow = later(buckets=spread(b5000=1_000))

    assert readings(slow, [WELL], usual_p99_s=4.9)["latency"].is_bad is False
    assert readings(slow, [WELL], usual_p99_s=None)["latency"].is_bad is False
    assert readings(slow, [WELL], usual_p99_s=0.5)["latency"].is_bad is True


def test_the_99th_percentile_of_buckets():
    assert p99_s(EMPTY) is None
    assert p99_s(spread(b5=98, b10=2)) == pytest.approx(0.0075)
    assert p99_s([*EMPTY[:-1], 10]) == DURATION_BUCKETS[-1]


class Watched:
    """Vitals on a real store; what the server would say of itself is a value."""

    def __init__(self, root):
        self.store = Store(root)
        self.metrics = Metrics()
        self.figures = FINE
        self.said: list[str] = []
        self.shed: list[bool] = []
        self.vitals = self.anew()

    def anew(self):
        return Vitals(
            self.store, "rates", metrics=self.metrics, figures=lambda: self.figures, shed=self.shed.append,
            say=self.said.append,
        )  # fmt: skip

    def look(self, times=1):
        for _ in range(times):
            asyncio.run(self.vitals.look())

    @property
    def told(self):
        return [
            (event.body["what"], event.body["state"]) for event in self.store.ledger.events("rates", kinds=["alarm"])
        ]


@pytest.fixture
def watched(tmp_path):
    made = Watched(tmp_path / "store")
    yield made
    made.store.close()


def test_an_incident_is_an_event_once_however_often_one_looks(watched):
    watched.look()
    watched.figures = replace(FINE, restarts=7)

    watched.look(5)

    assert watched.told == [("worker", "opened")]
    (event,) = watched.store.ledger.events("rates", kinds=["alarm"])
    assert event.body["alarm"] == "system"
    assert event.body["evidence"] == {"restarts": 7, "there": True}
    assert event.sentence == watched.said[0]
    assert b'staytrue_alarm{what="worker"} 1\n' in watched.metrics.text()


def test_an_alarm_that_a_front_left_open_is_not_opened_again_and_is_resolved_by_the_next_one(watched):
    watched.look()
    watched.figures = replace(FINE, restarts=7)
    watched.look()
    opened = watched.store.ledger.events("rates", kinds=["alarm"])[0]

    watched.vitals = watched.anew()
    watched.look(2)
    still = list(watched.told)
    watched.vitals._alarms["worker"] = replace(watched.vitals._alarms["worker"], contrary_s=-1e9)
    watched.look()

    assert still == [("worker", "opened")]
    assert watched.told == [("worker", "opened"), ("worker", "resolved")]
    resolved = watched.store.ledger.events("rates", kinds=["alarm"])[1]
    assert resolved.key == opened.key.replace("opened", "resolved")


def test_what_the_ledger_does_not_take_is_told_when_it_does(watched):
    watched.look()
    watched.figures = replace(FINE, restarts=7)
    ledger_path = watched.store.root / "ledger.db"
    watched.store.ledger.close()
    ledger_path.rename(ledger_path.with_suffix(".away"))
    ledger_path.mkdir()
    watched.look()
    ledger_path.rmdir()
    ledger_path.with_suffix(".away").rename(ledger_path)

    watched.look()

    assert watched.told == [("worker", "opened")]


def test_figures_are_metrics(watched):
    watched.metrics.duration.labels("POST", "/predict", "200").observe(0.02, 90)
    watched.look()
    watched.metrics.duration.labels("POST", "/predict", "500").observe(0.02, 10)
    watched.look()

    text = watched.metrics.text().decode()

    assert "staytrue_error_ratio 1\n" in text  # since the look before
    assert "staytrue_ready 1\n" in text
    assert "staytrue_ledger_read_seconds 0.001\n" in text
    assert float(text.split("\nstaytrue_disk_free_bytes ")[1].split("\n")[0]) > 0
