"""Gain: what a mixture wins back, by whole blocks, and what counts as an outcome and what as a mistake of the caller."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.gain import Change, blocks_of, gain, runs, student

DAYS = blocks_of([30] * 20)


def losses(seed: int = 0, rows: int = 600) -> np.ndarray:
    return np.random.default_rng(seed).exponential(size=rows)


# ---------------------------------------------------------------- blocks


def test_a_block_is_a_tick_and_of_many_ticks_several_that_follow_each_other() -> None:
    assert blocks_of([3] * 20).tolist() == np.repeat(np.arange(20), 3).tolist()
    many = blocks_of([2] * 600)
    assert len(set(many.tolist())) == 60
    assert (np.diff(many) >= 0).all()
    assert np.bincount(many).tolist() == [20] * 60


def test_where_there_are_hardly_any_ticks_each_is_cut_up() -> None:
    assert np.bincount(blocks_of([600])).tolist() == [50] * 12
    assert blocks_of([2, 1]).tolist() == [0, 1, 2]


def test_ticks_without_rows_make_no_blocks() -> None:
    assert blocks_of([0, *[5, 0] * 20]).tolist() == blocks_of([5] * 20).tolist()
    assert blocks_of([]).tolist() == []
    assert blocks_of([0, 0]).tolist() == []


# ---------------------------------------------------------------- the interval


def test_equal_losses_win_exactly_nothing() -> None:
    found = gain(losses(), losses(), DAYS)
    assert (found.mean, found.low, found.high, found.half) == (0, 0, 0, 0)


def test_a_steady_gain_is_known_exactly_and_has_its_sign() -> None:
    found = gain(losses(), losses() - 0.25, DAYS)
    assert found.low == pytest.approx(0.25)
    assert found.high == pytest.approx(0.25)
    assert gain(losses() - 0.25, losses(), DAYS).mean == pytest.approx(-0.25)


def test_the_order_of_rows_within_a_block_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    old, new = losses(), losses() - rng.normal(0.1, 0.5, 600)
    mixed = np.concatenate([rng.permutation(np.flatnonzero(day == DAYS)) for day in range(20)])
    one, other = gain(old, new, DAYS), gain(old[mixed], new[mixed], DAYS)
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high))


def test_a_gain_on_a_few_days_only_is_less_sure_than_the_rows_would_say() -> None:
    # Given the same rows won back, on three of twenty days or on all of them
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.05, 600)
    on_few, on_all = np.where(DAYS < 3, 1.0, 0.0), np.where(np.arange(600) % 20 < 3, 1.0, 0.0)
    # When
    few, spread = gain(on_few + noise, np.zeros(600), DAYS), gain(on_all + noise, np.zeros(600), DAYS)
    # Then
    assert few.mean == pytest.approx(spread.mean)
    assert few.low < 0 < spread.low


def test_days_that_follow_each_other_make_the_interval_wider_than_the_same_days_shuffled() -> None:
    rng = np.random.default_rng(3)
    day = np.repeat(np.sin(np.arange(20) / 3), 30)
    shuffled = np.repeat(rng.permutation(np.sin(np.arange(20) / 3)), 30)
    slow, quick = gain(day, np.zeros(600), DAYS), gain(shuffled, np.zeros(600), DAYS)
    assert slow.mean == pytest.approx(quick.mean)
    assert slow.half > 1.2 * quick.half


def test_a_smaller_alpha_gives_a_wider_interval() -> None:
    old, new = losses(), losses(1)
    assert gain(old, new, DAYS, alpha=0.001).half > gain(old, new, DAYS, alpha=0.05).half > 0


def test_one_block_tells_nothing_and_two_hardly_anything() -> None:
    one = gain(losses(), losses() - 0.5, np.zeros(600, int))
    assert (one.mean, one.low, one.high) == (pytest.approx(0.5), -math.inf, math.inf)
    noisy = losses() - 0.5 - np.random.default_rng(4).normal(0, 0.1, 600)
    two = gain(losses(), noisy, np.arange(600) // 300)
    assert -math.inf < two.low < two.mean < two.high
    assert two.half > 6 * gain(losses(), noisy, DAYS).half / 3.2


def test_blocks_that_have_no_rows_change_nothing() -> None:
    old, new = losses(), losses(1)
    assert gain(old, new, DAYS * 7) == gain(old, new, DAYS)


@pytest.mark.parametrize("scale", [1e-200, 1e200, 1e307])
def test_losses_may_be_as_small_and_as_large_as_numbers_go(scale: float) -> None:
    old, new = losses(), losses(1)
    plain, scaled = gain(old, new, DAYS), gain(scale * old, scale * new, DAYS)
    assert [scaled.mean / scale, scaled.low / scale] == pytest.approx([plain.mean, plain.low])


def test_students_quantile_is_never_nearer_than_it_is() -> None:
    # scipy.stats.t.ppf
    for (p, freedom), exact in {
        (0.975, 1): 12.7062,
        (0.995, 2): 9.9248,
        (0.975, 5): 2.5706,
        (0.99, 11): 2.7181,
    }.items():
        assert exact - 1e-3 < student(p, freedom) < 1.01 * exact


# ---------------------------------------------------------------- outcomes and mistakes


def test_a_mixture_that_does_not_run_has_no_gain_but_says_why() -> None:
    found = gain(losses(), "fit raised KeyError: 'age'", DAYS, [Change(axis="code")])
    assert found.fails == "fit raised KeyError: 'age'"
    assert math.isnan(found.mean)
    assert found.document() == {"changes": [["code", "back"]], "fails": "fit raised KeyError: 'age'"}


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_an_outcome_too(wrong: float) -> None:
    lost = losses()
    lost[[3, 5]] = wrong
    assert gain(losses(), lost, DAYS).fails == "its loss is NaN or infinite on 2 of 600 rows"
    assert runs(lost, DAYS) == "its loss is NaN or infinite on 2 of 600 rows"


@pytest.mark.parametrize(
    ("old", "new", "blocks"),
    [
        (losses(), losses(rows=599), DAYS),
        (losses(), losses().reshape(600, 1), DAYS),
        (losses(), losses(), DAYS[1:]),
        (np.empty(0), np.empty(0), np.empty(0, int)),
    ],
)
def test_losses_of_other_rows_or_of_none_are_refused(old, new, blocks) -> None:
    with pytest.raises(InvalidInput) as caught:
        gain(old, new, blocks)
    assert caught.value.code == "ST996"


def test_the_document_is_json_even_where_nothing_is_known_of_the_interval() -> None:
    made = gain(losses(), losses(1), np.zeros(600, int), [Change(axis="b"), Change(axis="a", how="fresh")]).document()
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["low"] is None
    assert made["changes"] == [["a", "fresh"], ["b", "back"]]
