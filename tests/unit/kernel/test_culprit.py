"""Culprit: which part stands out by the good release's loss, and which commit it was."""

from __future__ import annotations

import math

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.culprit import first_bad, suspects


def parts(seed: int = 0, n: int = 32, rows: int = 150) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.exponential(size=rows) * (1 + 0.1 * rng.normal()) for _ in range(n)]


def clear(losses) -> list[int]:
    return sorted(one.index for one in suspects(losses) if one.clear)


# ---------------------------------------------------------------- parts


def test_a_bad_part_comes_first_and_is_clear() -> None:
    losses = parts()
    losses[7] += 1
    worst = suspects(losses)[0]
    assert (worst.index, worst.clear) == (7, True)
    assert worst.loss == pytest.approx(losses[7].mean())
    assert clear(losses) == [7]


def test_several_bad_parts_are_clear_even_side_by_side() -> None:
    losses = parts()
    for index in [3, *range(20, 28)]:
        losses[index] += 1
    assert clear(losses) == [3, *range(20, 28)]


def test_a_bad_part_is_found_where_time_moves_all_of_them() -> None:
    # Given losses that double over the parts, and a bad one among the early ones that is no worse than the last ones
    losses = [each + index / 32 for index, each in enumerate(parts(1))]
    losses[8] += 1
    # Then
    assert np.mean(losses[8]) < np.mean(losses[-1]) + 0.5
    assert clear(losses) == [8]


def test_a_few_wild_rows_are_no_bad_part() -> None:
    losses = parts()
    losses[7][:3] += 1000
    assert clear(losses) == []
    assert max(np.mean(each) for each in losses) == losses[7].mean()


def test_a_small_part_has_to_stand_out_further() -> None:
    losses = parts(rows=400)
    losses[4] = losses[4][:4] + 1
    assert clear(losses) == []


def test_empty_parts_are_left_out_and_keep_the_numbers_of_the_others() -> None:
    losses = parts()
    losses[7] += 1
    losses[3] = np.empty(0)
    assert suspects(losses)[0].index == 7
    assert len(suspects(losses)) == 31
    assert suspects([]) == []
    assert suspects([np.empty(0)]) == []


@pytest.mark.parametrize("n", [1, 2, 3])
def test_among_hardly_any_parts_none_is_clear(n: int) -> None:
    losses = parts(n=n)
    losses[0] = losses[0] + 100
    assert clear(losses) == []
    assert suspects(losses)[0].index == 0


def test_equal_parts_do_not_stand_out() -> None:
    assert clear([np.ones(5)] * 8) == []
    assert [one.index for one in suspects([np.ones(5)] * 8)] == list(range(8))


def test_one_that_differs_among_equal_ones_is_clear() -> None:
    assert clear([np.ones(50)] * 7 + [np.full(50, 2.0)]) == [7]


def test_a_loss_that_is_no_number_is_refused_with_its_part() -> None:
    with pytest.raises(InvalidInput) as caught:
        suspects([np.ones(3), np.array([1.0, math.nan])])
    assert caught.value.code == "ST996"
    assert caught.value.facts == {"part": 1}


# ---------------------------------------------------------------- commits


def asked(steps: int, guilty: int, dark: frozenset[int] = frozenset()) -> tuple[tuple[int, int], list[int]]:
    search, questions = first_bad(steps), []
    step = next(search)
    while True:
        questions.append(step)
        try:
            step = search.send(None if step in dark else step >= guilty)
        except StopIteration as stop:
            return stop.value, questions


@pytest.mark.parametrize("guilty", range(1, 17))
def test_the_guilty_commit_of_16_is_found_with_four_questions(guilty: int) -> None:
    place, questions = asked(16, guilty)
    assert place == (guilty, guilty)
    assert len(questions) <= 4


def test_of_one_commit_nothing_has_to_be_asked() -> None:
    with pytest.raises(StopIteration) as stop:
        next(first_bad(1))
    assert stop.value.value == (1, 1)


def test_commits_that_do_not_run_next_to_the_guilty_one_stay_suspects() -> None:
    assert asked(16, 8, frozenset({7, 8}))[0] == (7, 9)
    assert asked(16, 8, frozenset({2, 12}))[0] == (8, 8)


def test_where_nothing_between_runs_it_may_have_been_any() -> None:
    place, questions = asked(8, 5, frozenset(range(1, 8)))
    assert place == (1, 8)
    assert sorted(questions) == list(range(1, 8))
