"""Pace: from seconds that were seen to rows that fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytrue.serve.pace import Pace


def taught(*batches):
    pace = Pace()
    for rows, seconds in batches:
        pace.learn(rows, seconds)
    return pace


def test_a_pace_that_knows_nothing_lets_everything_through():
    assert Pace().rows_within(0.025) > 10_000
    assert Pace().wait_s(1, 64) == pytest.approx(0.001)


def test_it_finds_base_and_rows_apart():
    pace = taught(*[(n, 0.002 + 0.00005 * n) for n in (1, 8, 64, 500)] * 10)

    assert pace.seconds(0) == pytest.approx(0.002, rel=0.01)
    assert pace.seconds(1000) == pytest.approx(0.052, rel=0.01)
    assert pace.rows_within(0.012) == pytest.approx(200, abs=2)


def test_batches_of_one_size_tell_the_mean_and_no_slope():
    pace = taught(*[(64, 0.003), (64, 0.005)] * 20)

    assert pace.seconds(64) == pytest.approx(0.004, rel=0.05)
    assert pace.seconds(1) == pace.seconds(64)


def test_it_forgets():
    pace = taught(*[(64, 0.001)] * 200, *[(64, 0.1)] * 200)

    assert pace.seconds(64) == pytest.approx(0.1, rel=0.05)


def test_who_waits_behind_more_waits_longer():
    pace = taught(*[(n, 0.001 + 0.0001 * n) for n in (1, 10, 100)] * 20)

    assert pace.wait_s(100, 10) == pytest.approx(10 * 0.001 + 100 * 0.0001, rel=0.01)
    assert pace.wait_s(101, 10) > pace.wait_s(100, 10)


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 10)), min_size=1, max_size=50), st.floats(0, 10))
def test_whatever_was_seen_the_answers_are_of_use(batches, limit_s):
    pace = taught(*batches)

    assert pace.seconds(1) >= 0
    assert pace.seconds(100) >= pace.seconds(1)
    assert 1 <= pace.rows_within(limit_s) <= 1 << 20
    assert pace.wait_s(10, 5) >= 0
