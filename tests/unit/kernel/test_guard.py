"""Guards: a broken release is seen within twenty requests, and an equal one hardly ever, however often one looks."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from staytrue.kernel.guard import Bets, Guards, fold, fold_failures, fold_seconds, fold_unread, well_score

ALPHA = Guards().alpha
EQUAL = 300
BATCHES = 1_500


def seconds(rng, n):
    """How long batches take: log-normal, and for one in twenty a pause of up to fifty times as much."""
    usual = 0.002 * rng.lognormal(0, 0.7, n)
    return usual * np.where(rng.random(n) < 0.05, rng.uniform(5, 50, n), 1.0)


def requests_until(guards, step):
    for count in range(1, 1_000):
        guards = step(guards)
        if guards.tripped:
            return count
    raise AssertionError("never tripped")


def within(rate, of, *, allowed):
    """Whether a rate is at most what is allowed, three standard errors of the simulation left aside."""
    return rate <= allowed + 3 * math.sqrt(allowed * (1 - allowed) / of)


# -- what is broken -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 100_000])
def test_a_challenger_that_always_fails_is_cut_off_within_20_requests(before):
    guards = fold_seconds(Guards(), 1.0, 1.0)
    guards = fold_failures(guards, well=before)

    assert requests_until(guards, lambda had: fold_failures(had, alone=1)) <= 20


def test_a_challenger_that_can_not_read_the_rows_is_cut_off_within_20_requests():
    assert requests_until(Guards(), lambda had: fold_unread(had, 1)) <= 20


def test_a_challenger_ten_times_as_slow_is_cut_off_within_20_batches_nine_times_in_ten():
    rng = np.random.default_rng(1)
    took = []
    for _ in range(200):
        mine, other = 10 * 0.002 * rng.lognormal(0, 0.3, 400), 0.002 * rng.lognormal(0, 0.3, 400)
        pairs = iter(zip(mine.tolist(), other.tolist(), strict=True))
        took.append(requests_until(Guards(), lambda had, pairs=pairs: fold_seconds(had, *next(pairs))))

    assert np.quantile(took, 0.9) <= 20


def test_one_that_fails_on_half_of_its_requests_is_cut_off_within_50():
    rng = np.random.default_rng(2)
    took = [requests_until(Guards(), lambda had: fold_failures(had, alone=int(rng.random() < 0.5))) for _ in range(200)]

    assert np.quantile(took, 0.95) <= 50


@pytest.mark.parametrize("before", [0, 1_000, 1_000_000])
def test_a_champion_that_begins_to_fail_is_cut_off_however_long_it_was_well(before):
    guards = Guards(tolerance=0.01)
    for _ in range(10):
        guards = fold_failures(guards, well=before // 10)

    assert requests_until(guards, lambda had: fold_failures(had, alone=1)) <= (20 if before == 0 else 40)


# -- what is not --------------------------------------------------------------------------------------------------------


def equal_pair(rng):
    """(n, 2) seconds and (n, 2) failures of two releases that are the same, one batch of a request after the other."""
    return (
        np.column_stack([seconds(rng, BATCHES), seconds(rng, BATCHES)]),
        rng.random((BATCHES, 2)) < 0.03,
    )


def test_equal_challengers_are_cut_off_at_most_alpha_of_the_time_and_naive_ways_do_not_hold_it():
    rng = np.random.default_rng(3)
    trips = by_z = by_threshold = 0
    for _ in range(EQUAL):
        took, failed = equal_pair(rng)
        trips += trips_at_all(Guards(), took, failed)
        by_z += z_test_at_every_batch(took)
        by_threshold += three_slow_of_the_last_five(took)

    assert within(trips / EQUAL, EQUAL, allowed=ALPHA)
    assert not within(by_z / EQUAL, EQUAL, allowed=ALPHA)
    assert not within(by_threshold / EQUAL, EQUAL, allowed=ALPHA)


def trips_at_all(guards, took, failed):
    for (mine_s, other_s), (mine, other) in zip(took.tolist(), failed.tolist(), strict=True):
        guards = fold_failures(guards, alone=mine and not other, other=other and not mine)
        if not (mine or other):
            guards = fold_seconds(guards, mine_s, other_s)
        if guards.tripped:
            return True
    return False


def z_test_at_every_batch(took):
    """A one-sided test at level alpha on the mean of the differences, looked at after every batch from the 30th on."""
    d = took[:, 0] - took[:, 1]
    n = np.arange(1, BATCHES + 1)
    mean = np.cumsum(d) / n
    spread = np.sqrt(np.maximum(np.cumsum(d * d) / n - mean * mean, 1e-18))
    z = mean / (spread / np.sqrt(n))
    return bool((z[30:] > NormalDist().inv_cdf(1 - ALPHA)).any())


def three_slow_of_the_last_five(took):
    slow = (took[:, 0] > 4 * took[:, 1]).astype(int)
    return bool((np.convolve(slow, np.ones(5, int), "valid") >= 3).any())


def test_at_the_edge_of_what_is_slow_the_error_rate_still_holds():
    # Median ratio exactly SLOWER: every batch is a fair coin, the worst case that may not trip.
    rng = np.random.default_rng(4)
    runs, coins = 500, 500
    trips = 0
    for _ in range(runs):
        bets = Bets()
        for slow in rng.random(coins) < 0.5:
            bets = fold(bets, 1 if slow else -1)
            if bets.evidence >= Guards().needed:
                trips += 1
                break

    assert within(trips / runs, runs, allowed=1 / Guards().needed)


def test_what_both_fail_on_says_nothing_and_a_champion_may_fail_alone_on_one_request_in_a_hundred():
    both = fold_failures(Guards(tolerance=0.01), alone=0, other=0)
    rng = np.random.default_rng(5)
    runs, requests = 200, 20_000
    trips = 0
    for _ in range(runs):
        guards = Guards(tolerance=0.01)
        last = 0
        for at in np.flatnonzero(rng.random(requests) < 0.01).tolist():
            guards = fold_failures(guards, alone=1, well=at - last)
            last = at + 1
            if guards.tripped:
                trips += 1
                break

    assert both == Guards(tolerance=0.01)
    assert within(trips / runs, runs, allowed=ALPHA)


def test_a_process_that_dies_with_many_requests_counts_about_once():
    one, many = Guards(), Guards()
    one = fold_failures(one, alone=1)
    for _ in range(64):
        many = fold_failures(many, alone=1 / 64)

    assert many.evidence["errors"] < 2 * one.evidence["errors"]


def test_no_pause_however_long_counts_for_more_than_one_batch():
    short, long = fold_seconds(Guards(), 0.1, 0.01), fold_seconds(Guards(), 1e6, 0.01)

    assert short == long


def test_a_difference_that_nobody_notices_is_no_difference():
    guards = Guards()
    for _ in range(100):
        guards = fold_seconds(guards, 0.0009, 0.0001)

    assert guards.tripped is None


def test_money_is_put_in_for_ever_and_never_more_than_there_is():
    bets = Bets()
    for _ in range(2_000):
        bets = fold(bets, 0)

    assert 0.9 < bets.evidence < 1
    assert 0.01 * 1 + 0.99 * well_score(0.01) == pytest.approx(0)
