"""Breaker: who is cut off, for how long, and what the ledger is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from staytrue.kernel.release import Digest
from staytrue.serve.batch import Batch, Chunk
from staytrue.serve.breaker import Breaker, Held
from staytrue.serve.metrics import Metrics
from staytrue.store.ledger import Ledger

NEW, OLD = Digest("a" * 64), Digest("b" * 64)
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def breaker():
    made = Breaker(Metrics())
    made.watch("challenger", NEW, against=OLD)
    return made


def batch(*, arm="champion", requests=1, failed=(), seconds=0.0, beside=None):
    chunks = [Chunk(request=None, start=0, size=1) for _ in range(requests)]
    return Batch(
        arm=arm, chunks=chunks, size=requests, packed=b"", rows=(), flags=[], failed=frozenset(failed), seconds=seconds,
        beside=beside, why="ST305 It answered nan." if failed else "",
    )  # fmt: skip


def fail(breaker, role="challenger", *, times=12, release=NEW):
    for _ in range(times):
        breaker.stood_in(role, release, 1, alone=1, why="ST303 No quote.")


def test_what_speaks_against_it_stays_while_the_share_grows_and_goes_with_the_role(breaker):
    fail(breaker)
    grown = breaker.is_cut("challenger", Held(NEW, 0.25, 8))

    breaker.watch("challenger", NEW, against=OLD)
    kept = breaker.is_cut("challenger", Held(NEW, 0.25, 9))
    breaker.watch("challenger", None, against=None)
    breaker.watch("challenger", NEW, against=OLD)

    assert (grown, kept, breaker.is_cut("challenger", Held(NEW, 0.05, 11))) == (True, True, False)


def test_what_the_ledger_says_holds_for_that_role_and_epoch_alone(breaker):
    breaker.known = frozenset({("challenger", NEW, 3)})

    assert breaker.is_cut("challenger", Held(NEW, 0.05, 3))
    assert not breaker.is_cut("challenger", Held(NEW, 0.05, 4))
    assert not breaker.is_cut("challenger", Held(OLD, 0.05, 3))
    assert not breaker.is_cut("champion", Held(NEW, 1.0, 3))


def test_a_trip_is_told_once_for_each_epoch_and_role(breaker, tmp_path):
    fail(breaker)
    breaker.watch("champion", NEW, against=OLD)
    fail(breaker, "champion")
    held = Held(NEW, 0.05, 7)

    trips = [breaker.untold(role, held) for role in ("challenger", "champion") for _ in range(2)]

    assert [trip is None for trip in trips] == [False, True, False, True]
    assert breaker.untold("challenger", held._replace(epoch=8)) == trips[0]
    # The same epoch of two roles: two events.
    ledger = Ledger.open(tmp_path / "ledger.db")
    events = ledger.append([trip.entry("rates", 7, NOW) for trip in trips if trip], recorded_at=NOW)
    ledger.close()
    assert [event.body["role"] for event in events] == ["challenger", "champion"]
    assert events[0].body | {"release": NEW, "guard": "errors", "rows": 12, "failed": 12, "epoch": 7} == events[0].body
    assert "failed on 12 of 12 rows" in events[0].sentence


def test_pairs_count_whichever_of_the_two_was_asked_first(breaker):
    for _ in range(12):
        breaker.paired(batch(arm="shadow", failed=[0], beside=batch()), by_challenger=True)

    assert breaker.is_cut("challenger", Held(NEW, 0.0, 1))


def test_a_request_on_which_both_failed_counts_for_nobody(breaker):
    for _ in range(100):
        breaker.paired(batch(arm="shadow", failed=[0], beside=batch(failed=[0])), by_challenger=True)
        breaker.stood_in("challenger", NEW, 1, alone=0, why="ST303 No quote.")

    assert not breaker.is_cut("challenger", Held(NEW, 0.0, 1))


def test_ten_times_as_slow_beside_the_champion_is_cut_off_and_three_times_is_not(breaker):
    slow, fair = breaker, Breaker(Metrics())
    fair.watch("challenger", NEW, against=OLD)
    first = batch(seconds=0.01)
    for _ in range(15):
        slow.paired(batch(arm="shadow", seconds=0.1, beside=first), by_challenger=True)
        fair.paired(batch(arm="shadow", seconds=0.03, beside=first), by_challenger=True)

    assert slow.is_cut("challenger", Held(NEW, 0.0, 1))
    assert not fair.is_cut("challenger", Held(NEW, 0.0, 1))
    trip = slow.untold("challenger", Held(NEW, 0.0, 1))
    assert trip is not None
    assert (trip.guard, replace(trip, why="").why) == ("latency", "")


def test_a_new_challenger_is_asked_one_request_at_a_time_and_again_after_a_failure(breaker):
    careful = [breaker.is_careful()]
    breaker.answered("challenger", batch(arm="challenger", requests=20))
    careful.append(breaker.is_careful())
    breaker.stood_in("challenger", NEW, 1, alone=1, why="ST303 No quote.")
    careful.append(breaker.is_careful())

    assert careful == [True, False, True]


def test_processes_of_both_that_are_killed_at_random_cut_nobody_off(breaker):
    for _ in range(50):
        breaker.died(batch(arm="champion"), by_challenger=False)
        breaker.died(batch(arm="shadow", beside=batch()), by_challenger=True)

    assert not breaker.is_cut("challenger", Held(NEW, 0.0, 1))


def test_rows_that_it_can_not_read_are_named(breaker):
    for _ in range(12):
        breaker.unread([1], "lift is missing.")

    trip = breaker.untold("challenger", Held(NEW, 0.0, 1))

    assert trip is not None
    assert (trip.guard, trip.failed) == ("schema", 12)
    assert trip.sentence().endswith(" Last: lift is missing.")
