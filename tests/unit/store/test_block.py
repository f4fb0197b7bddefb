"""Blocks: what goes in comes out, whatever the types, and rows can be cut out of them."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pytest

from staytrue.errors import Corrupt, InvalidInput
from staytrue.store import frames
from staytrue.store.block import Layout

ROWS = frames.to_rows(
    {
        "price": [1.5, None, -0.0],
        "small": np.array([1, 2, 3], np.float32),
        "n": [1, None, 2**53 + 1],
        "big": [2**63 + 5, 1, None],
        "day": [date(2026, 3, 1), None, date(1969, 12, 31)],
        "at": [datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(1960, 1, 1, tzinfo=UTC), None],
        "naive": [datetime(2026, 3, 1, 12), None, datetime(1999, 1, 1)],
        "yes": [True, None, False],
        "city": ["são paulo", None, ""],
        "tags": [["a"], [], None],
        "vector": [[1.0, 2.0], None, [3.0, 4.0]],
        "nothing": [None, None, None],
    },
    doing="read",
)
LAYOUT = Layout(frames.schema(ROWS))
COLUMNS = {name: frames.column(ROWS, name) for name in ROWS.column_names}


def test_rows_of_every_type_survive_the_way_through_a_packed_block():
    packed = LAYOUT.of_columns(COLUMNS, 3).pack()

    again = LAYOUT.rows(LAYOUT.unpack(packed))

    assert frames.content_digest(again) == frames.content_digest(ROWS)


def test_a_block_of_no_rows_survives_it_too():
    none = {name: frames.column(frames.no_rows(LAYOUT.schema), name) for name in ROWS.column_names}

    again = LAYOUT.unpack(LAYOUT.of_columns(none, 0).pack())

    assert again.n == 0
    assert LAYOUT.rows(again).num_rows == 0


def test_rows_are_cut_out_of_a_block_by_place():
    block = LAYOUT.of_columns(COLUMNS, 3)

    picked = LAYOUT.rows(block.take(np.array([2, 0])))
    sliced = LAYOUT.rows(block.slice(1, 3))

    assert frames.content_digest(picked) == frames.content_digest(frames.take(ROWS, np.array([2, 0])))
    assert frames.content_digest(sliced) == frames.content_digest(frames.take(ROWS, np.array([1, 2])))


def test_a_column_that_is_missing_is_null_throughout():
    block = LAYOUT.of_columns({"n": COLUMNS["n"]}, 3)

    again = LAYOUT.columns(block)

    assert all(not column.valid.any() for name, column in again.items() if name != "n")
    assert again["n"].valid.tolist() == [True, False, True]


@pytest.mark.parametrize("damaged", [b"", b"\x93\x01\x02\x03", LAYOUT.of_columns(COLUMNS, 3).pack()[:-3]])
def test_damaged_bytes_are_an_error_of_ours(damaged):
    with pytest.raises(Corrupt) as said:
        LAYOUT.unpack(damaged)

    assert said.value.code == "ST751"


def test_a_block_of_another_layout_is_refused():
    other = Layout((("price", "float64"), ("city", "string")))

    with pytest.raises(Corrupt):
        other.unpack(LAYOUT.of_columns(COLUMNS, 3).pack())


def test_an_unknown_type_has_no_place():
    with pytest.raises(InvalidInput) as said:
        Layout((("x", "decimal"),))

    assert said.value.code == "ST750"


def test_pandas_gets_the_types_that_training_got():
    frame = frames.to_pandas(LAYOUT.columns(LAYOUT.of_columns(COLUMNS, 3)), 3)

    assert frame.dtypes.to_dict() == frames.to_frame(ROWS).dtypes.to_dict()


def test_dicts_of_a_block_are_those_of_its_rows_with_values_of_python():
    rows = [
        {
            "whole": -1, "large": 2**63 + 1, "number": 1.5, "text": "日本", "yes": True, "day": date(1969, 12, 31),
            "at": datetime(2026, 3, 1, 1, tzinfo=UTC), "local": datetime(2026, 3, 1, 1, 2, 3, 4), "many": [1, 2],
            "words": ["a", None], "days": [date(2026, 3, 1)],
        },
        dict.fromkeys(
            ["whole", "large", "number", "text", "yes", "day", "at", "local", "many", "words", "days"]
        ),
    ]  # fmt: skip
    given = frames.to_rows(rows, doing="read")
    layout = Layout(frames.schema(given))
    columns = {name: frames.column(given, name) for name in given.column_names}
    block = layout.unpack(layout.of_columns(columns, 2).pack())

    made = layout.dicts(block, given.column_names)

    assert made == rows == frames.to_frame(given, "dicts")
    assert [type(value) for value in made[0].values()] == [type(value) for value in rows[0].values()]
    assert layout.dicts(block, ["text"]) == [{"text": "日本"}, {"text": None}]
    assert layout.dicts(block.slice(0, 0), ["text"]) == []


def test_who_writes_into_the_dicts_of_a_block_does_not_write_into_the_block():
    layout = Layout((("many", "list<int64>"), ("number", "float64")))
    block = layout.block({"many": [[1, 2]], "number": [1.0]})

    made = layout.dicts(block, ["many", "number"])
    made[0]["many"].append(3)
    made[0]["number"] = 2.0

    assert layout.dicts(block, ["many", "number"]) == [{"many": [1, 2], "number": 1.0}]
