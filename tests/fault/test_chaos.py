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


@pytest.mark.parametrize(("rounds", "seed"), [(10, 1), pytest.param(1000, 2, marks=LONG)])
def test_whoever_is_killed_or_stopped_nothing_is_lost_and_the_same_is_decided(tmp_path, rounds, seed) -> None:
    chaos = Chaos(tmp_path, days=max(30, rounds), seed=seed)
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
    assert chaos.champions <= {1}
    assert kept.lost_predictions == set()
    assert kept.lost_labels == set()
    assert kept.trained_twice == []
    assert kept.retrained_twice == []
    assert kept.orders[0] == kept.orders[1]
    assert kept.problems == []
    assert chaos.decided() == chaos.replayed()
