"""What a release wants to be asked: found from training data, and what is said of a row that asks otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytrue.errors import InvalidInput
from staytrue.kernel.signature import Bounds, Signature, read_row, signature
from staytrue.kernel.sketch import sketch

N = 200
TYPES = (
    ("size", "float64"), ("rooms", "int64"), ("city", "string"), ("day", "date"), ("at", "timestamp[UTC]"),
    ("garden", "bool"), ("vector", "list<float64>[2]"), ("gaps", "float64"), ("id", "string"), ("rate", "float64"),
    ("note", "string"),
)  # fmt: skip
RNG = np.random.default_rng(0)
EVERY = np.ones(N, bool)
SKETCHES = {
    "size": sketch(RNG.uniform(1, 5, N), EVERY, "number"),
    "rooms": sketch(RNG.integers(1, 9, N), EVERY, "number"),
    "city": sketch(RNG.choice(np.array(["lisbon", "porto"], object), N), EVERY, "text"),
    "gaps": sketch(RNG.uniform(0, 1, N), RNG.random(N) < 0.5, "number"),
    "note": sketch(np.array([f"note {i}" for i in range(N)], object), EVERY, "text"),
}
FEATURES = ["size", "rooms", "city", "day", "garden", "vector", "gaps", "note"]
SHOP = signature(TYPES, SKETCHES, features=FEATURES, key="id", time="at", label="rate")
GOOD = {
    "size": 2.0, "rooms": 3, "city": "porto", "day": "2026-03-01", "garden": True, "vector": [1, 2], "gaps": None,
    "note": "anything", "id": "a-1", "at": "2026-03-01T12:00:00Z",
}  # fmt: skip


def faults(row, sig=SHOP):
    return [(one.field, one.fault, one.action) for one in read_row(sig, row)[1]]


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


def test_a_row_like_those_of_training_is_read_without_a_word():
    values, found = read_row(SHOP, GOOD)

    assert found == []
    assert values["size"] == 2.0
    assert values["vector"] == [1.0, 2.0]
    assert (values["day"], values["at"]) == (1_772_323_200_000_000, 1_772_366_400_000_000)


def test_the_model_sees_the_features_and_neither_key_nor_time():
    assert SHOP.seen == tuple(FEATURES)
    assert (SHOP.key, SHOP.time) == ("id", "at")


def test_key_and_time_may_be_left_out():
    assert faults({name: value for name, value in GOOD.items() if name not in ("id", "at")}) == []


def test_a_column_of_the_source_that_nobody_needs_may_be_there():
    assert faults(GOOD | {"rate": 17.0}) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size": "2"}, ("size", "type", "refuse")),
        ({"size": True}, ("size", "type", "refuse")),
        ({"size": [2]}, ("size", "type", "refuse")),
        ({"size": None}, ("size", "null", "refuse")),
        ({"size": float("nan")}, ("size", "nonfinite", "refuse")),
        ({"size": float("inf")}, ("size", "nonfinite", "refuse")),
        ({"size": 10**400}, ("size", "nonfinite", "refuse")),
        ({"size": 5.5}, ("size", "range", "flag")),
        ({"size": -1}, ("size", "range", "flag")),
        ({"size": 60.0}, ("size", "range", "flag")),
        ({"size": 5000.0}, ("size", "unit", "refuse")),
        ({"size": -5000}, ("size", "unit", "refuse")),
        ({"rooms": 3.5}, ("rooms", "type", "refuse")),
        ({"rooms": 2**63}, ("rooms", "type", "refuse")),
        ({"rooms": 8000}, ("rooms", "unit", "flag")),
        ({"city": "faro"}, ("city", "category", "flag")),
        ({"city": 7}, ("city", "type", "refuse")),
        ({"day": "2026-02-30"}, ("day", "type", "refuse")),
        ({"day": "2026-03-01T10:00:00"}, ("day", "type", "refuse")),
        ({"at": "2026-03-01T12:00:00"}, ("at", "type", "refuse")),
        ({"garden": 1}, ("garden", "type", "refuse")),
        ({"garden": "true"}, ("garden", "type", "refuse")),
        ({"vector": [1.0]}, ("vector", "type", "refuse")),
        ({"vector": [1.0, None]}, ("vector", "type", "refuse")),
        ({"sise": 1}, ("sise", "extra", "flag")),
    ],
)
def test_what_is_not_as_in_training_is_named(change, expected):
    assert faults(GOOD | change) == [expected]


@pytest.mark.parametrize(("given_", "read"), [({"rooms": 3.0}, 3), ({"rooms": 2**53}, 2**53)])
def test_a_whole_number_with_a_point_is_a_whole_number(given_, read):
    assert read_row(SHOP, GOOD | given_)[0]["rooms"] == read


def test_a_missing_column_is_refused_and_the_likely_typo_named():
    _, found = read_row(SHOP, without("size") | {"sise": 2.0})

    (missing,) = [one for one in found if one.fault == "missing"]
    assert missing.action == "refuse"
    assert "'sise'" in missing.message


def test_a_null_is_no_fault_where_training_saw_some():
    assert faults(GOOD | {"gaps": None}) == []


def test_a_text_column_of_all_different_texts_has_no_categories():
    assert faults(GOOD | {"note": "never seen before"}) == []


def test_another_unit_is_called_by_its_factor():
    (found,) = read_row(SHOP, GOOD | {"size": 5000.0})[1]

    assert "1,000x" in found.message
    assert "from 1.0" in found.expected


def test_the_app_decides_by_column_and_for_all():
    strict = signature(
        TYPES, SKETCHES, features=FEATURES,
        inputs={"*": {"category": "refuse", "extra": "refuse"}, "size": "accept", "rooms": {"range": "refuse"}},
    )  # fmt: skip

    assert faults(GOOD | {"city": "faro"}, strict) == [("city", "category", "refuse")]
    assert faults(GOOD | {"sise": 1}, strict) == [("sise", "extra", "refuse")]
    assert faults(GOOD | {"size": 5e9}, strict) == []
    assert faults(without("size"), strict) == []
    assert faults(GOOD | {"size": "5"}, strict) == [("size", "type", "refuse")]
    assert faults(GOOD | {"rooms": 10}, strict) == [("rooms", "range", "refuse")]


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"nowhere": "flag"}, "ST752"),
        ({"size": "quarantine"}, "ST753"),
        ({"size": {"colour": "flag"}}, "ST753"),
        ({"size": {"type": "accept"}}, "ST753"),
        ({"size": 3}, "ST753"),
        (["size"], "ST753"),
    ],
)
def test_a_wish_that_means_nothing_is_refused(inputs, code):
    with pytest.raises(InvalidInput) as said:
        signature(TYPES, SKETCHES, features=FEATURES, inputs=inputs)

    assert said.value.code == code


def test_the_vector_check_remarks_on_the_same_rows_as_the_words_do():
    numbers = [one for one in SHOP.features if one.name in ("size", "gaps")]
    bounds = Bounds.of(numbers)
    sizes = np.array([[0.5, 0.5], [2.0, 0.5], [5000.0, 0.5], [2.0, np.nan], [2.0, 7.0]])

    found = bounds.outside(sizes).tolist()

    assert found == [
        bool(read_row(SHOP, GOOD | {"size": size, "gaps": None if gap != gap else gap})[1])  # noqa: PLR0124
        for size, gap in sizes.tolist()
    ]


def test_bounds_that_remark_on_nothing_are_none():
    free = signature(TYPES, SKETCHES, features=["size"], inputs={"size": "accept"})

    assert Bounds.of(free.features) is None


def test_a_row_of_nothing_but_strangers_is_told_in_few_words():
    _, found = read_row(SHOP, GOOD | {f"stranger {i}": i for i in range(10_000)})

    assert 0 < len(found) < 50


@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(FEATURES), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)))  # fmt: skip
def test_any_row_is_read_or_told_of(row):
    values, found = read_row(SHOP, row)

    assert set(values) == {one.name for one in SHOP.features}
    refused = {one.field for one in found if one.action == "refuse"}
    for one in SHOP.features:
        assert one.name in refused or one.optional or values[one.name] is not None or one.nullable


def test_a_signature_survives_as_json():
    assert Signature.from_document(SHOP.document()) == SHOP
