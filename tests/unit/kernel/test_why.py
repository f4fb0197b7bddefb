"""What moved an answer, which rows are near it and how usual its loss is: by hand-made columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.contract import Column
from staytrue.kernel.sketch import sketch
from staytrue.kernel.why import (
    Effect,
    Smallest,
    distances,
    label_effect,
    number_effect,
    probabilities,
    ranked,
    smallest,
    standing,
    units,
)


def numbers(*values: float | None) -> Column:
    valid = np.array([value is not None for value in values])
    return Column(type="float64", values=np.array([value or 0.0 for value in values]), valid=valid)


def texts(*values: Any, type_name: str = "string") -> Column:
    made = np.empty(len(values), object)
    made[:] = values
    return Column(type=type_name, values=made, valid=np.array([value is not None for value in values]))


def lists(*values: Any) -> Column:
    made = np.empty(len(values), object)
    for i, value in enumerate(values):
        made[i] = None if value is None else np.array(value)
    return Column(type="list<float64>", values=made, valid=np.array([value is not None for value in values]))


def apart(one: Column, many: Column, unit: float | None = None) -> list[float]:
    return distances({"x": one}, {"x": many}, {} if unit is None else {"x": unit}).tolist()


# -- distances --------------------------------------------------------------------------------------------------------


def test_numbers_are_apart_by_units_and_an_absurd_one_does_not_decide_alone():
    assert apart(numbers(10), numbers(10, 12, 6, 1e300), 4) == [0, 0.5, 1, 3]


def test_a_column_without_spread_counts_whether_it_is_equal():
    assert apart(numbers(1), numbers(1, 2)) == [0, 1]


def test_what_is_missing_on_one_side_is_as_far_as_another_word():
    assert apart(numbers(None), numbers(None, 3), 1) == [0, 1]
    assert apart(numbers(3), numbers(None, math.nan, 3), 1) == [1, 1, 0]
    assert apart(texts("a"), texts("a", None, "b")) == [0, 1, 1]
    assert apart(texts(None), texts(None, "b")) == [0, 1]


def test_infinities_are_at_most_the_farthest():
    assert apart(numbers(math.inf), numbers(math.inf, 0, -math.inf), 1) == [0, 3, 3]


def test_lists_of_as_many_numbers_are_apart_by_their_difference_others_by_their_items():
    assert apart(lists([1.0, 0.0]), lists([1.0, 0.0], [-1.0, 0.0], None)) == [0, 1, 1]
    assert apart(lists([1.0, 2.0]), lists([1.0], [])) == [0.5, 1]
    assert apart(lists([]), lists([], [1.0])) == [0, 1]


def test_distances_are_means_over_columns_and_other_columns_do_not_count():
    one = {"x": numbers(1), "city": texts("a")}
    many = {"x": numbers(1, 3), "city": texts("b", "b"), "label": numbers(9, 9)}

    assert distances(one, many, {"x": 2}).tolist() == [0.5, 1.0]


def test_rows_that_lack_a_column_are_refused_by_name():
    with pytest.raises(InvalidInput, match="lack city") as caught:
        distances({"city": texts("a")}, {"x": numbers(1)}, {})
    assert caught.value.code == "ST970"


def test_the_unit_is_the_interquartile_range_or_the_next_wider_one():
    def of(values: list[float]) -> float | None:
        return units({"x": sketch(np.array(values, float), np.ones(len(values), bool), "number")}).get("x")

    assert of([float(i) for i in range(1, 102)]) == pytest.approx(50, rel=0.02)
    assert of([0.0] * 98 + [8.0, 8.0]) == pytest.approx(8)
    assert of([5.0] * 9) is None
    assert of([]) is None
    assert units({"city": sketch(np.array(["a"], object), np.ones(1, bool), "text")}) == {}


# -- the smallest -----------------------------------------------------------------------------------------------------


def test_of_equal_values_the_smaller_place_is_kept():
    kept = smallest(Smallest(most=2), np.array([1.0, 0.0, 1.0]), np.array([7, 9, 3]))

    assert (kept.values.tolist(), kept.places.tolist(), kept.limit) == ([0.0, 1.0], [9, 3], 1.0)


def test_none_are_kept_where_none_are_wanted():
    kept = smallest(Smallest(most=0), np.array([1.0]), np.array([0]))

    assert len(kept.values) == 0


# -- effects ----------------------------------------------------------------------------------------------------------


def test_a_function_of_one_column_is_moved_by_that_column_alone():
    def answer(row: dict[str, float]) -> float:
        return 3 * row["size"]

    rng = np.random.default_rng(5)
    row, draws = {"size": 2.0, "rooms": 4.0, "age": 1.0}, rng.normal(size=(64, 3))
    effects = [
        number_effect(name, answer(row), np.array([answer({**row, name: draw[i]}) for draw in draws]))
        for i, name in enumerate(row)
    ]

    found = ranked(effects)
    assert [one.column for one in found] == ["size"]
    assert found[0].mean == pytest.approx(6 - 3 * draws[:, 0].mean())
    assert (found[0].changed, found[0].direction) == (64, "raises")
    assert [(one.changed, one.size) for one in effects[1:]] == [(0, 0.0), (0, 0.0)]


def test_a_constant_function_is_moved_by_nothing():
    assert ranked([number_effect(name, 7.0, np.full(8, 7.0)) for name in "abc"]) == []


def test_the_direction_is_that_of_nearly_all_of_the_movement():
    def direction(*answers: float) -> str | None:
        return number_effect("x", 10.0, np.array(answers)).direction

    assert direction(1.0, 11.0) == "raises"
    assert direction(19.0, 9.0) == "lowers"
    assert direction(12.0, 8.0) == "either"
    assert direction(10.0, 10.0 + 1e-9) is None


def test_draws_without_an_answer_are_counted_and_move_nothing():
    effect = number_effect("x", 1.0, np.array([math.nan, math.nan]))

    assert (effect.draws, effect.failed, effect.changed, effect.share) == (0, 2, 0, 0.0)
    assert label_effect("x", np.array([True]), np.array([False])).document()["failed"] == 1


def test_labels_are_ranked_by_the_share_of_draws_then_by_name():
    def effect(name: str, changed: int) -> Effect:
        return Effect(column=name, draws=4, failed=0, changed=changed)

    found = ranked([effect("c", 1), effect("b", 3), effect("a", 1), effect("d", 0)], most=2)

    assert [one.column for one in found] == ["b", "a"]


@pytest.mark.parametrize(
    ("answer", "which"),
    [({"cat": 0.75, "dog": 0.25}, "cat"), ([0.1, 0.9], "1"), ([0.5, 0.5], "0")],
)
def test_probabilities_become_that_of_the_class_that_got_most(answer, which):
    found = probabilities(answer, [answer, None])

    assert found is not None
    assert (found[0], found[1]) == (which, max(answer.values() if isinstance(answer, dict) else answer))
    assert found[2][0] == found[1]
    assert math.isnan(found[2][1])


@pytest.mark.parametrize(
    "answer", ["cat", 0.5, {"cat": 1.0}, {"price": 3.0, "tax": 0.5}, {"a": True, "b": False}, [-1, 2], []]
)
def test_what_does_not_sum_to_one_is_no_probability(answer):
    assert probabilities(answer, []) is None


# -- losses -----------------------------------------------------------------------------------------------------------


def test_a_loss_stands_among_others_with_ties_told_apart():
    found = standing(1.0, np.array([0.0, 0.0, 1.0, 1.0]))

    assert (found.rows, found.more, found.as_much) == (4, 0.0, 0.5)
    assert standing(1.0, np.empty(0)).rows == 0
