"""Laws of profiles: rows and sketches give the same counts, and adding knows neither order nor grouping."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Column
from staytrue.kernel.distance import distances, explain
from staytrue.kernel.profile import Profile, Reference, by_segment, of_sketches, profile, reference
from staytrue.kernel.sketch import kind_of, merge, sketch

TYPES = {
    "float64": st.floats(width=64, allow_nan=True, allow_infinity=True)
    | st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1.0, -1.0, 1.7e308]),
    "int64": st.integers(-(2**62), 2**62) | st.integers(-3, 3),
    "timestamp[UTC]": st.integers(-(2**60), 2**60),
    "bool": st.booleans(),
    "string": st.text(max_size=3) | st.sampled_from(["a", "b"]) | st.just("x" * 70),
    "list<int64>": st.lists(st.integers(0, 3), max_size=9).map(lambda items: np.array(items, np.int64)),
    "null": st.none(),
}
DTYPES = {"float64": np.float64, "int64": np.int64, "timestamp[UTC]": np.int64, "bool": np.bool_}


def column(type_name, values):
    valid = np.array([value is not None for value in values], bool)
    array = np.empty(len(values), DTYPES.get(type_name, object))
    for at, value in enumerate(values):
        array[at] = value if value is not None or type_name not in DTYPES else 0
    return Column(type=type_name, values=array, valid=valid)


def sketched(columns):
    return {name: sketch(one.values, one.valid, kind_of(one.type)) for name, one in columns.items()}


@st.composite
def tables(draw):
    """A training and some windows of one column of one type, with nulls."""
    type_name = draw(st.sampled_from(sorted(TYPES)))
    values = st.lists(st.none() | TYPES[type_name], max_size=30)
    return [{"x": column(type_name, draw(values))} for _ in range(4)]


@given(tables())
def test_rows_and_sketches_give_the_same_counts(given_tables):
    training, *windows = given_tables
    over = reference(sketched(training))

    for window in (training, *windows):
        assert profile(over, window) == of_sketches(over, sketched(window))


@given(tables(), st.randoms())
def test_adding_knows_neither_order_nor_grouping(given_tables, random):
    training, *windows = given_tables
    over = reference(sketched(training))
    merged = merge(*(sketched(window)["x"] for window in windows))

    shards = [profile(over, window) for window in windows]
    random.shuffle(shards)
    total = Profile.empty(over)
    for shard in shards:
        total = total + shard

    assert canonical_json(total.document()) == canonical_json(of_sketches(over, {"x": merged}).document())


@given(tables(), st.data())
def test_segments_add_up_to_the_whole(given_tables, data):
    training, window, *_ = given_tables
    over = reference(sketched(training))
    rows = len(window["x"].valid)
    segment = np.array(data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows)), np.int8)

    each = by_segment(over, window, segment, 4)

    total = Profile.empty(over)
    for at, one in enumerate(each):
        mine = {
            "x": replace(window["x"], values=window["x"].values[segment == at], valid=window["x"].valid[segment == at])
        }
        assert one == profile(over, mine)
        total = total + one
    assert total == profile(over, window)


@given(tables())
def test_every_row_is_counted_once(given_tables):
    training, window, *_ = given_tables
    over = reference(sketched(training))

    counted = profile(over, window)

    for feature, bins in over.bins.items():
        assert counted.counts[feature].shape == (bins.size,)
        assert counted.counts[feature].sum() == counted.rows == len(window["x"].valid)
        assert all(bins.label(cell) for cell in range(bins.size))


@given(tables())
def test_what_is_written_down_reads_back_equal(given_tables):
    training, window, *_ = given_tables
    over = reference(sketched(training))
    counted = profile(over, window)

    again = Reference.from_document(json.loads(canonical_json(over.document())))

    assert (again, again.digest) == (over, over.digest)
    assert profile(again, window) == counted
    assert Profile.from_document(json.loads(canonical_json(counted.document()))) == counted


@given(tables())
def test_distances_are_bounded_and_zero_for_equals(given_tables):
    training, window, *_ = given_tables
    over = reference(sketched(training))
    before, after = profile(over, training), profile(over, window)

    for feature, bins in over.bins.items():
        p, q = before.counts[feature], after.counts[feature]
        there, back, same = distances(bins, p, q), distances(bins, q, p), distances(bins, p, p)
        assert 0 <= there.share_moved <= 1 + 1e-12
        assert 0 <= there.js <= 1
        assert there.ks is None or 0 <= there.ks <= 1 + 1e-12
        assert there.psi >= -1e-12
        assert there.wasserstein is None or there.wasserstein >= 0
        assert (there.share_moved, there.js) == pytest.approx((back.share_moved, back.js))
        assert (same.share_moved, same.js, same.psi) == pytest.approx((0, 0, 0))
        assert explain(bins, p, q).endswith(".")
        assert explain(bins, p, p).endswith("did not move.")
