"""Laws of the account of an answer: nearness is a distance, what is kept knows no order, and no effect comes out of nothing."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from staytrue.kernel.contract import Column
from staytrue.kernel.why import Smallest, distances, number_effect, probabilities, ranked, smallest

finite = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.none() | st.floats()


def column(values: list[float | None]) -> Column:
    valid = np.array([value is not None for value in values], bool)
    return Column(type="float64", values=np.array([0.0 if v is None else v for v in values], float), valid=valid)


@given(st.lists(maybe, min_size=2, max_size=8), st.floats(1e-3, 1e3))
def test_a_row_is_no_distance_from_itself_as_far_from_one_as_that_is_from_it_and_never_beyond_the_farthest(
    values, unit
):
    every = column(values)
    each = [distances({"x": column([value])}, {"x": every}, {"x": unit}) for value in values]
    table = np.array(each)

    assert np.diag(table).tolist() == [0.0] * len(values)
    assert np.array_equal(table, table.T)
    assert bool(((table >= 0) & (table <= 3)).all())


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 6), st.lists(st.integers(0, 60), max_size=4))
def test_the_smallest_are_the_same_however_they_are_split(values, most, cuts):
    numbers, places = np.array(values, float), np.arange(len(values))
    whole = smallest(Smallest(most=most), numbers, places)

    kept = Smallest(most=most)
    for part in reversed(np.split(places, sorted(min(cut, len(values)) for cut in cuts))):
        kept = smallest(kept, numbers[part], part)

    order = sorted(range(len(values)), key=lambda i: (values[i], i))[:most]
    assert kept.places.tolist() == whole.places.tolist() == order


@given(finite, st.lists(finite, max_size=20))
def test_an_effect_is_no_larger_than_its_size_and_zero_where_nothing_changed(base, answers):
    effect = number_effect("x", base, np.array(answers, float))

    assert effect.draws == len(answers)
    assert 0 <= effect.changed <= effect.draws
    assert abs(effect.mean) <= effect.size * (1 + 1e-9) < math.inf
    assert (ranked([effect]) == []) == (effect.changed == 0)
    if effect.changed == 0:
        assert (effect.mean, effect.size, effect.direction) == (0.0, 0.0, None)


@given(st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_a_function_of_one_column_is_moved_by_it_alone(planted, seed):
    rng = np.random.default_rng(seed)
    row, draws = rng.normal(size=4), rng.normal(size=(16, 4))
    effects = []
    for i in range(4):
        asked = np.tile(row, (16, 1))
        asked[:, i] = draws[:, i]
        effects.append(number_effect(str(i), float(np.tanh(row[planted])), np.tanh(asked[:, planted])))

    assert [one.column for one in ranked(effects)] == [str(planted)]
    assert all(one.size == 0 for i, one in enumerate(effects) if i != planted)


@given(
    st.recursive(st.none() | st.booleans() | finite | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_any_answer_is_either_probabilities_or_none(answer):
    found = probabilities(answer, [answer])

    assert found is None or (found[1] == found[2][0] and 0 < found[1] <= 1.0001)
