"""Laws of sketches: merging is exact and knows neither order nor grouping; quantiles keep their promise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytrue.kernel import sketch as module
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.sketch import merge, moved, psi, quantile, sketch

VALUES = {
    "number": st.floats(width=64, allow_nan=True, allow_infinity=True),
    "time": st.integers(-(2**60), 2**60),
    "bool": st.booleans(),
    "text": st.text(max_size=3),
    "list": st.lists(st.integers(0, 3), max_size=4),
    "null": st.none(),
}
DTYPES = {"number": np.float64, "time": np.int64, "bool": np.bool_}


def made(values, kind):
    valid = np.array([value is not None for value in values], bool)
    array = np.empty(len(values), DTYPES.get(kind, object))
    for i, value in enumerate(values):
        array[i] = value if value is not None or kind not in DTYPES else 0
    return sketch(array, valid, kind)


def spelled(one):
    return canonical_json(one)


@pytest.fixture(params=[1000, 5], ids=["every category named", "few categories named"], autouse=True)
def _cap(request, monkeypatch):
    """The law must hold on both sides of the limit of categories; 5 reaches it with small examples."""
    monkeypatch.setattr(module, "CATEGORIES", request.param)


@st.composite
def split_columns(draw):
    kind = draw(st.sampled_from(sorted(VALUES)))
    parts = draw(st.lists(st.lists(st.none() | VALUES[kind], max_size=12), min_size=1, max_size=4))
    return kind, parts


@given(split_columns())
def test_the_merge_of_parts_is_the_sketch_of_the_whole(column):
    kind, parts = column

    merged = merge(*(made(part, kind) for part in parts))

    assert spelled(merged) == spelled(made([value for part in parts for value in part], kind))


@given(split_columns(), st.randoms())
def test_merging_knows_neither_order_nor_grouping(column, random):
    kind, parts = column
    sketches = [made(part, kind) for part in parts]
    whole = merge(*sketches)

    random.shuffle(sketches)
    while len(sketches) > 1:
        at = random.randrange(len(sketches) - 1)
        sketches[at : at + 2] = [merge(sketches[at], sketches[at + 1])]

    assert spelled(sketches[0]) == spelled(whole)


@given(split_columns())
def test_a_sketch_survives_json(column):
    kind, parts = column
    one = merge(*(made(part, kind) for part in parts))

    again = json.loads(canonical_json(one))

    assert again == one
    assert spelled(merge(again, again)) == spelled(merge(one, one))


@given(split_columns())
def test_nothing_came_is_neutral(column):
    kind, parts = column
    one = made(parts[0], kind)

    assert spelled(merge(one, made([], "null"))) == spelled(one)
    assert merge(one, made([None] * 3, "null"))["nulls"] == one["nulls"] + 3


@given(st.lists(st.floats(-1e12, 1e12).filter(lambda x: abs(x) > 1e-300), min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_is_within_one_percent_of_a_value_that_is_there(values, q):
    low, high = np.quantile(values, q, method="lower"), np.quantile(values, q, method="higher")

    got = quantile(made(values, "number"), q)

    # Rounding of q * (n - 1) may pick either neighbour; a column of whole numbers gives a whole number.
    slack = 0.01 * np.array([abs(low), abs(high)]) + (0.5 if all(value == int(value) for value in values) else 0)
    assert low - slack[0] <= got <= high + slack[1]


@given(split_columns(), split_columns())
def test_distances_are_symmetric_bounded_and_zero_for_equals(left, right):
    a = made(left[1][0], left[0])
    b = made(right[1][0], left[0] if left[0] == right[0] else "null") if left[0] == right[0] else made([None], "null")

    assert moved(a, a) == pytest.approx(0, abs=1e-12)
    assert psi(a, a) == pytest.approx(0, abs=1e-12)
    assert 0 <= moved(a, b) <= 1 + 1e-12
    assert moved(a, b) == pytest.approx(moved(b, a))
    assert psi(a, b) >= -1e-12
