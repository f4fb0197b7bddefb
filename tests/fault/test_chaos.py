"""kill -9 and SIGSTOP of whatever runs in a living drill: nothing is lost, nothing done twice, and the same is decided."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from chaos import PROCESSES, Chaos, Kept, percentiles

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc for processes")

LONG = pytest.mark.fault_long


@contextlib.contextmanager
def running(chaos: Chaos) -> Iterator[None]:
    chaos.start()
    try:
        yield
    finally:
        chaos.stop()
        chaos.place.close()


SESSIONS = [pytest.param(10, 1, marks=LONG), *(pytest.param(100, seed, marks=LONG) for seed in range(2, 12))]
"""Rounds and seed; a thousand rounds, as sessions that are not too long: each day reads the traffic of all of them."""


@pytest.mark.parametrize(("rounds", "seed"), SESSIONS)
def test_whoever_is_killed_or_stopped_nothing_is_lost_and_the_same_is_decided(tmp_path, rounds, seed) -> None:
    chaos = Chaos(tmp_path, days=4 * rounds + 10, seed=seed)
    with running(chaos):
        with chaos.playing() as feeder:
            chaos.go(rounds, PROCESSES)
        print(f"\n{percentiles(chaos.rounds)}")
        asker = feeder.asker
        print(
            f"  {feeder.days} days, {len(asker.took_s)} requests, {len(asker.retried)} asked again; up in {chaos.starts_s}"
        )
        kept = chaos.kept(feeder)

    assert asker.failed == []
    assert_well(chaos, kept)


@LONG
def test_jobs_that_are_killed_too_cost_time_and_nothing_else(tmp_path) -> None:
    """A job that is killed may be the app's fault: so a challenger may be rejected for it, and not all is decided the same."""
    rounds = 100
    chaos = Chaos(tmp_path, days=4 * rounds + 10, seed=5)
    with running(chaos):
        with chaos.playing() as feeder:
            chaos.go(rounds, ["job", "job", "launcher", "controller", "everything"])
        print(f"\n{percentiles(chaos.rounds)}\n  {feeder.days} days")
        kept = chaos.kept(feeder)

    assert feeder.asker.failed == []
    assert_whole(chaos, kept)


@LONG
@pytest.mark.parametrize(("rounds", "seed"), [(20, 4)])
def test_a_controller_that_wakes_after_another_took_over_changes_nothing(tmp_path, rounds, seed) -> None:
    chaos = Chaos(tmp_path, days=10 * rounds + 20, seed=seed)
    with running(chaos), chaos.second_controller():
        with chaos.playing() as feeder:
            became = Counter(chaos.overtaken() for _ in range(rounds))
        print(f"\n  {became}, {feeder.days} days")
        kept = chaos.kept(feeder)

    assert became["woke"] > 0
    assert feeder.asker.failed == []
    assert_well(chaos, kept)


def assert_well(chaos: Chaos, kept: Kept) -> None:
    assert_whole(chaos, kept)
    assert chaos.decided() == chaos.replayed()


def assert_whole(chaos: Chaos, kept: Kept) -> None:
    assert chaos.champions <= {1}
    assert kept.lost_predictions == set()
    assert kept.lost_labels == set()
    assert kept.trained_twice == []
    assert kept.retrained_twice == []
    assert kept.orders[0] == kept.orders[1]
    assert kept.problems == []
