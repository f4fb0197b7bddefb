"""Repairs of the rows of a window: what people say is wrong, undone; the rows given stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.contract import Column
from staytrue.kernel.repair import Repair, repaired


def column(values, type_name="float64"):
    valid = np.array([value is not None for value in values], bool)
    dtype = object if type_name == "string" else type_name
    filled = np.array([value if value is not None else np.zeros(1, dtype)[0] for value in values], dtype)
    return Column(type=type_name, values=filled, valid=valid)


def shown(column):
    return [
        value if there else None for value, there in zip(column.values.tolist(), column.valid.tolist(), strict=True)
    ]


ROWS = {
    "id": column(["a", "b", "a", None, None], "string"),
    "cents": column([100, 250, None, 300, 7], "int64"),
    "städte": column(["x", None, "y", "z", "w"], "string"),
    "tall": column([1.0, 2.0, 3.0, 4.0, np.nan]),
    "wide": column([9.0, 8.0, 7.0, 6.0, 5.0]),
}


def done(**how):
    return repaired(ROWS, Repair.read(**how), key="id", schema=(("gone", "int64"), ("price", "float64")))


def test_a_scaled_column_is_divided_exactly_and_keeps_its_nulls():
    made, stay = done(scale=["cents=1/100"])

    assert shown(made["cents"]) == [1.0, 2.5, None, 3.0, 0.07]
    assert stay.all()
    assert shown(ROWS["cents"]) == [100, 250, None, 300, 7]


def test_two_columns_are_swapped_before_one_is_scaled():
    made, _ = done(swap=["tall,wide"], scale=["tall=2"])

    assert shown(made["tall"]) == [18.0, 16.0, 14.0, 12.0, 10.0]
    assert shown(made["wide"])[:4] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("fill", "name", "expected"),
    [
        ("cents=9", "cents", [100, 250, 9, 300, 7]),
        ("cents=null", "cents", [None] * 5),
        ("städte=Zürich", "städte", ["x", "Zürich", "y", "z", "w"]),
        ("gone=3", "gone", [3] * 5),
        ("gone=null", "gone", [None] * 5),
    ],
)
def test_nulls_and_missing_columns_are_filled_or_a_column_is_made_null(fill, name, expected):
    made, _ = done(fill=[fill])

    assert shown(made[name]) == expected


def test_of_rows_with_one_key_the_first_stays_and_rows_without_a_key_all_stay():
    _, stay = done(without_duplicates=True)

    assert stay.tolist() == [True, True, False, True, True]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"scale": ["cents"]},
        {"scale": ["cents=0"]},
        {"scale": ["cents=1/0"]},
        {"scale": ["cents=nan"]},
        {"scale": ["cents=1e400"]},
        {"scale": ["städte=2"]},
        {"scale": ["nothing=2"]},
        {"swap": ["tall"]},
        {"swap": ["tall,nothing"]},
        {"fill": ["cents=1.5"]},
        {"fill": ["cents=much"]},
        {"fill": ["tall=inf"]},
        {"fill": ["nothing=1"]},
    ],
)
def test_a_repair_that_makes_no_sense_is_refused_with_what_was_expected(how):
    with pytest.raises(InvalidInput) as caught:
        done(**how)

    assert caught.value.code == "ST933"
    assert "expected" in caught.value.message


def test_no_rows_and_a_document_there_and_back():
    how = Repair.read(scale=["a=1/3"], swap=["b,c"], fill=["d=null", "e=7"], without_duplicates=True)

    assert Repair.from_document(how.document()) == how
    assert repaired({}, Repair(), key=None)[1].shape == (0,)
