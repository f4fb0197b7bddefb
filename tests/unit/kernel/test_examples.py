"""Examples of a plain service: what they may be, and the signature that they make."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytrue.errors import InvalidInput
from staytrue.kernel.examples import MOST_EXAMPLES, checked_examples, example_signature, read, written
from staytrue.kernel.signature import read_row
from staytrue.store import frames


def signature_of(*rows, inputs=None):
    return example_signature(frames.schema(frames.to_rows(rows, doing="read")), rows, inputs=inputs)


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        (None, "got a NoneType"),
        ("a", "got a str"),
        ({"a": 1}, "got a dict"),
        (7, "got a int"),
        ([], "got 0 of them"),
        ([{"a": 1}] * (MOST_EXAMPLES + 1), "got 33 of them"),
        ([{"a": 1}, 7], "example 1 is a int"),
        ([{}], "example 0 is an empty dict"),
        ([{1: 2}], "example 0 has a column called 1"),
        ([{"": 2}], "example 0 has a column called ''"),
        ([{"\ud800": 2}], "has a column called '\\ud800'"),
        ([{"a\0b": 2}], "has a column called 'a\\x00b'"),
        ([{"a": math.nan}], "'a' of example 0 is nan"),
        ([{"a": 1.0}, {"a": [1.0, -math.inf]}], "'a' of example 1 is -inf"),
        ([{"a": "\udfff"}], "half of a surrogate pair"),
        ([{"a": ["\udfff"]}], "half of a surrogate pair"),
        ([{"a": {"b": 1}}], "'a' of example 0 is a dict: give each of its keys"),
        ([{"a": [[1]]}], "'a' of example 0 is a list of lists"),
        ([{"a": b"x"}], "'a' of example 0 is a bytes"),
        ([{"a": [object()]}], "'a' of example 0 is a object"),
        ([{"a": Decimal("1.5")}], "'a' of example 0 is a Decimal"),
        ([{"a": np.array([[1]])}], "is a list of lists"),
    ],
)
def test_what_is_no_list_of_requests_is_refused_with_its_place(examples, said):
    with pytest.raises(InvalidInput) as refused:
        checked_examples(examples)

    assert refused.value.code == "ST867"
    assert said in refused.value.message


def test_examples_are_copies():
    mine = [{"a": 1}]
    kept = checked_examples(mine)

    mine[0]["a"] = 2

    assert kept == ({"a": 1},)


def test_numbers_of_numpy_become_pythons_own():
    (row,) = checked_examples([{"a": np.float64(1.5), "b": np.array([1, 2]), "c": (True, None), "d": np.bool_(True)}])

    assert row == {"a": 1.5, "b": [1, 2], "c": [True, None], "d": True}
    assert [type(value) for value in row.values()] == [float, list, list, bool]


def test_columns_and_types_come_from_the_examples_and_no_range_does():
    made = signature_of(
        {"a": 2, "b": 2, "text": "köln", "yes": True, "day": date(2026, 3, 1), "at": datetime(2026, 3, 1, tzinfo=UTC),
         "many": [1, 2]},
        {"a": 3, "b": 2.5, "text": "日本", "yes": False, "day": date(2026, 3, 2), "at": datetime(2026, 3, 1, tzinfo=UTC),
         "many": []},
    )  # fmt: skip

    assert dict(made.schema) == {
        "a": "int64", "b": "float64", "text": "string", "yes": "bool", "day": "date", "at": "timestamp[UTC]",
        "many": "list<int64>",
    }  # fmt: skip
    assert all(one.low is None and one.categories is None and one.unit_low is None for one in made.features)
    assert read_row(made, {"a": -(10**15), "b": 1e300, "text": "neu", "yes": True, "day": "1900-01-01",
                           "at": "2100-01-01T00:00:00Z", "many": [5] * 50})[1] == []  # fmt: skip


def test_what_an_example_leaves_out_may_be_left_out_and_what_is_null_may_be_null():
    made = signature_of({"a": 1.0, "b": None}, {"a": 2.0, "b": 1.0, "c": "x"})

    def faults(row):
        return [(one.field, one.fault, one.action) for one in read_row(made, row)[1]]

    assert faults({"a": 1.0, "b": None}) == []
    assert faults({"a": 1.0}) == [("b", "missing", "refuse")]
    assert faults({"a": None, "b": 1.0, "c": None}) == [("a", "null", "refuse")]
    assert faults({"a": 1.0, "b": 1.0, "d": 1}) == [("d", "extra", "flag")]


def test_the_app_has_the_last_word():
    rows = ({"a": 1.0}, {"b": 1.0})

    assert [one.actions["missing"] for one in signature_of(*rows, inputs={"b": {"missing": "refuse"}}).features] == [
        "accept", "refuse",
    ]  # fmt: skip
    assert {one.actions["missing"] for one in signature_of(*rows, inputs={"*": {"missing": "flag"}}).features} == {
        "flag"
    }
    assert signature_of(*rows, inputs={"*": {"extra": "refuse"}}).extra == "refuse"
    with pytest.raises(InvalidInput, match="ST752"):
        signature_of(*rows, inputs={"c": "accept"})


@pytest.mark.parametrize(
    ("rows", "code", "said"),
    [
        ([{"a": 1, "b": None}], "ST867", "'b' is null in every example"),
        ([{"a": []}], "ST867", "'a' is an empty list in every example"),
        ([{"a": 1}, {"a": "x"}], "ST204", "'a' mixes"),
        ([{"a": 1}, {"a": True}], "ST204", "'a' mixes"),
        ([{"a": 2**64}], "ST204", "'a' has whole numbers"),
    ],
)
def test_a_column_of_no_type_is_named(rows, code, said):
    with pytest.raises(InvalidInput) as refused:
        signature_of(*checked_examples(rows))

    assert refused.value.code == code
    assert said in refused.value.message


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.text(), ANYTHING, max_size=4) | ANYTHING, max_size=4))
def test_anything_is_a_signature_that_takes_its_own_examples_or_is_refused(given_):
    codes = []
    try:
        rows = checked_examples(given_)
        made = signature_of(*rows)
    except InvalidInput as refused:
        codes.append(refused.code)
    if codes:
        assert codes[0] in {"ST867", "ST203", "ST204"}
        return

    assert tuple(read(json.loads(json.dumps(written(rows))))) == rows
    assert [name for name, _ in made.schema] == list(dict.fromkeys(name for row in rows for name in row))
    for row in rows:
        as_json = {
            k: v.isoformat() if isinstance(v, date) else list(v) if isinstance(v, tuple) else v for k, v in row.items()
        }
        if not any(isinstance(value, list) for value in as_json.values()):
            assert read_row(made, as_json)[1] == []
