"""Rows: equal data gets equal rows from every library, and what can't be rows is refused by the name of its column."""

# ruff: noqa: PD011  (`.values` of a Column, not of a frame)

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from staytrue.errors import Corrupt, InvalidInput
from staytrue.store.frames import (
    column,
    concat,
    conform,
    content_digest,
    drop,
    in_order,
    no_rows,
    read_parquet,
    schema,
    select,
    take,
    to_frame,
    to_pydict,
    to_rows,
    write_parquet,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
COLUMNS = {
    "id": [1, 2, 3],
    "price": [9.5, None, 11.0],
    "town": ["Lagos", None, "Faro"],
    "paid": [True, False, None],
    "at": [NOON, NOON + timedelta(hours=1), None],
    "day": [date(2026, 3, 1), None, date(2026, 3, 3)],
    "vector": [[1.0, 2.0], [], [3.0]],
}


def rows(value):
    return to_rows(value, doing="fetch bookings")


def refused(value):
    with pytest.raises(InvalidInput) as caught:
        rows(value)
    return caught.value


def from_library(library):  # noqa: PLR0911  a case for each library
    if library == "dict of columns":
        return COLUMNS
    if library == "list of dicts":
        return [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]
    if library == "pandas":
        return pd.DataFrame(COLUMNS).assign(at=pd.to_datetime(pd.Series(COLUMNS["at"]), utc=True))
    if library == "pandas nullable":
        return pd.DataFrame(COLUMNS).astype({"id": "Int64", "price": "Float64", "town": "category", "paid": "boolean"})
    if library in {"polars", "polars lazy"}:
        polars = pytest.importorskip("polars")
        frame = polars.DataFrame(COLUMNS).with_columns(polars.col("town").cast(polars.Categorical))
        return frame.lazy() if library == "polars lazy" else frame
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table(COLUMNS | {"town": pyarrow.array(COLUMNS["town"], pyarrow.large_string())})
    if library == "pyarrow":
        return table
    if library == "record batch":
        return table.to_batches()[0]
    duckdb = pytest.importorskip("duckdb")
    return duckdb.from_arrow(table)


LIBRARIES = (
    "dict of columns", "list of dicts", "pandas", "pandas nullable",
    "polars", "polars lazy", "pyarrow", "record batch", "duckdb",
)  # fmt: skip


@pytest.mark.parametrize("library", LIBRARIES)
def test_equal_data_gets_equal_rows_from_every_library(library):
    given = from_library(library)

    got = rows(given)

    expected = rows(COLUMNS)
    assert schema(got) == schema(expected)
    assert to_pydict(got) == to_pydict(expected)
    assert content_digest(got) == content_digest(expected)
    assert write_parquet(got) == write_parquet(expected)


@pytest.mark.parametrize(
    ("values", "type_name"),
    [
        (np.array([1, 2], np.int8), "int64"),
        (np.array([1, 2], np.uint64), "int64"),
        (np.array([2**63, 2], np.uint64), "uint64"),
        ([2**63, 2], "uint64"),
        (np.array([1, 2], np.float32), "float32"),
        ([1, 2.5], "float64"),
        ([Decimal("1.5"), None], "float64"),
        (["a", float("nan")], "string"),
        ([None, None], "null"),
        (np.array([[1, 2], [3, 4]], np.float32), "list<float32>[2]"),
        ([["a"], None], "list<string>"),
        ([np.array([1, 2]), np.array([3])], "list<int64>"),
        ([datetime(2026, 3, 1), None], "timestamp"),
        (np.array(["2026-03-01", "NaT"], "M8[ns]"), "timestamp"),
        (pd.Series([1, 2], dtype="uint8"), "int64"),
        (pd.Series([pd.Timestamp("2026-03-01", tz="Europe/Lisbon")] * 2), "timestamp[UTC]"),
        (pd.Series(["a", None], dtype="string"), "string"),
        (pd.Series([None, None], dtype="category"), "null"),
        (pd.Series([1, None], dtype="Int32"), "int64"),
    ],
)
def test_each_column_gets_one_of_few_types(values, type_name):
    got = rows({"c": values})

    assert dict(schema(got)) == {"c": type_name}
    assert got.num_rows == 2


def test_times_in_any_zone_become_the_same_moment_in_utc():
    lisbon = NOON.astimezone(timezone(timedelta(hours=1)))

    assert to_pydict(rows({"at": [NOON]})) == to_pydict(rows({"at": [lisbon]}))
    assert to_pydict(rows(pd.DataFrame({"at": [pd.Timestamp(lisbon)]}))) == to_pydict(rows({"at": [NOON]}))


def test_a_nan_is_null_in_pandas_and_stays_a_nan_elsewhere():
    values = [1.0, float("nan")]

    assert rows(pd.DataFrame({"c": values})).column("c").null_count == 1
    assert rows({"c": values}).column("c").null_count == 0


def test_decimals_from_a_database_become_numbers_that_models_can_take():
    pyarrow = pytest.importorskip("pyarrow")
    cents = pyarrow.array([Decimal("1.25"), None], pyarrow.decimal128(10, 2))
    whole = pyarrow.array([Decimal(7), None], pyarrow.decimal128(38, 0))

    got = rows(pyarrow.table({"cents": cents, "whole": whole}))

    assert schema(got) == (("cents", "float64"), ("whole", "int64"))
    assert to_pydict(got) == {"cents": [1.25, None], "whole": [7, None]}


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        (None, "ST201", "forget to `return`"),
        (7, "ST201", "a int"),
        (pd.Series([1]), "ST201", "a Series"),
        ([{"a": 1}, 2], "ST201", "item 1"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "ST202", "'a'"),
        (pd.DataFrame({0: [1]}), "ST202", "0"),
        (pd.DataFrame(index=[1, 2]), "ST202", "without any column"),
        ({"": [1]}, "ST202", "''"),
        ({"a\0b": [1]}, "ST202", "'a\\x00b'"),
        ({"\ud800": [1]}, "ST202", "ud800"),
        ({"d": [timedelta(1)]}, "ST203", "'d'"),
        (pd.DataFrame({"d": pd.to_timedelta([1], unit="D")}), "ST203", "seconds"),
        (pd.DataFrame({"d": pd.period_range("2026", periods=1)}), "ST203", "'d'"),
        (pd.DataFrame({"d": pd.arrays.SparseArray([1, 0])}), "ST203", "'d'"),
        ({"d": [{"x": 1}]}, "ST203", "each of its keys"),
        ({"d": [b"x"]}, "ST203", "'d'"),
        ({"d": [[[1]]]}, "ST203", "flat lists"),
        ({"d": np.zeros((2, 2, 2))}, "ST203", "3 dimensions"),
        ({"d": np.array([1j])}, "ST203", "complex"),
        ({"d": 7}, "ST203", "'d'"),
        ({"d": [1, "x"]}, "ST204", "mixes int and string"),
        ({"d": [NOON, datetime(2026, 3, 1)]}, "ST204", "time zone"),
        ({"d": [2**70]}, "ST204", "64 bits"),
        ({"a": [1], "b": [1, 2]}, "ST205", "'b': 2"),
    ],
)
def test_what_cannot_be_rows_is_refused_with_what_to_do(value, code, words):
    error = refused(value)

    assert error.code == code
    assert "Can't fetch bookings" in error.message
    assert words in error.message


def test_arrow_types_without_a_place_are_refused_by_column():
    pyarrow = pytest.importorskip("pyarrow")

    for array in ([{"x": 1}], [b"x"], [timedelta(1)]):
        assert refused(pyarrow.table({"bad": array})).facts["column"] == "bad"
    too_large = pyarrow.array([Decimal(2**70)], pyarrow.decimal128(38, 0))
    assert refused(pyarrow.table({"bad": too_large})).code == "ST204"


def test_a_column_of_nothing_takes_the_type_that_comes_later():
    got = concat([rows({"v": [[]], "c": [None]}), rows({"v": [["a"]], "c": [1]})])

    assert schema(got) == (("v", "list<string>"), ("c", "int64"))
    assert to_pydict(got) == {"v": [[], ["a"]], "c": [None, 1]}


def test_a_pandas_column_of_nothing_but_nan_says_nothing_about_its_type():
    got = rows(pd.DataFrame({"company": [float("nan")] * 2, "n": [1, 2]}))

    assert dict(schema(got))["company"] == "null"
    assert to_pydict(conform(rows({"company": [None, None]}), (("company", "string"),)))["company"] == [None, None]
    typed = rows({"company": np.array(["NaT"], "M8[us]")})
    assert schema(conform(typed, (("company", "string"),))) == (("company", "string"),)


def test_nothing_at_all_is_no_rows_and_no_columns():
    for nothing in ([], {}, pd.DataFrame()):
        assert rows(nothing).shape == (0, 0)
        assert read_parquet(write_parquet(rows(nothing))).shape == (0, 0)


def test_a_pandas_frame_has_the_types_that_pandas_users_expect():
    frame = to_frame(rows(COLUMNS | {"n": [1, None, 3]}))

    assert frame["id"].dtype == "int64"
    assert frame["n"].dtype == "float64"
    assert np.isnan(frame["n"][1])
    assert frame["at"].dtype == "datetime64[us, UTC]"
    assert frame["at"][0] == pd.Timestamp(NOON)
    assert frame["at"].isna().tolist() == [False, False, True]
    assert frame["day"].dtype == "datetime64[s]"
    assert frame["town"].dtype == pd.Series(["x"]).dtype
    assert frame["town"].isna().tolist() == [False, True, False]
    assert frame["paid"].tolist() == [True, False, None]
    assert [list(vector) for vector in frame["vector"]] == [[1.0, 2.0], [], [3.0]]


@pytest.mark.parametrize("kind", ["polars", "pyarrow", "arro3"])
def test_other_frames_come_back_as_the_same_rows(kind):
    if kind != "arro3":
        pytest.importorskip(kind)

    assert to_pydict(rows(to_frame(rows(COLUMNS), kind))) == to_pydict(rows(COLUMNS))


def test_an_unknown_kind_of_frame_is_refused():
    with pytest.raises(InvalidInput, match="ST208"):
        to_frame(rows(COLUMNS), "koalas")


def test_a_column_gives_values_and_which_are_valid():
    got = rows(COLUMNS)

    assert column(got, "price").valid.tolist() == [True, False, True]
    assert column(got, "at").values[0] == NOON.timestamp() * 1e6
    assert column(got, "day").values[2] - column(got, "day").values[0] == 2 * 86_400_000_000
    assert column(got, "town").values.tolist() == ["Lagos", None, "Faro"]
    assert column(got, "paid").values[:2].tolist() == [True, False]
    assert column(got.slice(1, 2), "price").values[1] == 11.0
    assert column(rows({"c": []}), "c").type == "null"
    with pytest.raises(InvalidInput, match="ST206"):
        column(got, "prize")


def test_rows_can_be_taken_selected_dropped_and_put_together():
    got = rows(COLUMNS)

    assert to_pydict(take(got, np.array([2, 0])))["id"] == [3, 1]
    assert to_pydict(take(got, np.array([False, True, False])))["id"] == [2]
    assert take(got, np.array([], np.int64)).shape == (0, 7)
    assert select(got, ["town", "id"]).column_names == ["town", "id"]
    assert drop(got, ["town", "unknown"]).column_names == [name for name in COLUMNS if name != "town"]
    both = concat([got, select(got, list(reversed(list(COLUMNS)))), rows([])])
    assert both.column_names == list(COLUMNS)
    assert to_pydict(both)["town"] == COLUMNS["town"] * 2
    with pytest.raises(InvalidInput, match="ST205"):
        take(got, np.array([3]))
    with pytest.raises(InvalidInput, match="ST207"):
        concat([got, drop(got, ["id"])])
    with pytest.raises(InvalidInput, match="ST207"):
        concat([rows({"c": [1]}), rows({"c": [1.5]})])


def test_rows_are_made_like_a_table_only_where_nothing_is_lost():
    wanted = (("n", "int64"), ("f", "float64"), ("t", "string"))

    got = conform(rows({"extra": [1, 1], "f": [1, 2], "n": [1.0, None], "t": [None, None]}), wanted)

    assert schema(got) == wanted
    assert to_pydict(got) == {"n": [1, None], "f": [1.0, 2.0], "t": [None, None]}
    for bad in ({"n": [1.5], "f": [1], "t": ["x"]}, {"n": ["1"], "f": [1], "t": ["x"]}, {"n": [1], "f": [1]}):
        with pytest.raises(InvalidInput, match="ST207"):
            conform(rows(bad), wanted)


def test_no_rows_have_any_schema():
    wanted = schema(rows(COLUMNS))

    assert schema(no_rows(wanted)) == wanted
    assert no_rows(wanted).num_rows == 0


def test_the_order_of_rows_is_canonical_even_where_time_and_key_tie():
    tied = {
        "at": [2, 1, 1, 1],
        "key": ["a", "b", "b", "a\0"],
        "x": [1.0, 2.0, None, float("nan")],
        "v": [[1], [2], None, []],
    }
    shuffled = {name: [values[i] for i in (3, 1, 0, 2)] for name, values in tied.items()}

    one, two = (in_order(rows(value), ["at", "key"]) for value in (tied, shuffled))

    assert repr(to_pydict(one)) == repr(to_pydict(two))
    assert to_pydict(one)["at"] == [1, 1, 1, 2]
    assert to_pydict(one)["key"] == ["a\0", "b", "b", "a"]


def test_long_texts_sort_like_short_ones():
    long = ["x" * 100 + end for end in "cab"]

    assert to_pydict(in_order(rows({"t": long}), ["t"]))["t"] == sorted(long)


def test_the_digest_sees_values_and_types_and_nothing_else():
    base = content_digest(rows({"a": [1.0, 0.0], "b": ["x", None]}))

    assert content_digest(rows({"b": ["x", None], "a": [1.0, -0.0]})) == base
    assert content_digest(rows({"a": [9.0, 1.0, 0.0], "b": ["y", "x", None]}).slice(1, 2)) == base
    for other in (
        {"a": [1.0, 0.0], "b": ["x", ""]},
        {"a": [1.0, None], "b": ["x", None]},
        {"a": [1, 0], "b": ["x", None]},
        {"a": [1.0, 0.0], "c": ["x", None]},
        {"a": [0.0, 1.0], "b": [None, "x"]},
    ):
        assert content_digest(rows(other)) != base
    assert content_digest(rows({"t": ["ab", "c"]})) != content_digest(rows({"t": ["a", "bc"]}))
    assert content_digest(rows({"v": [[1], [2, 3]]})) != content_digest(rows({"v": [[1, 2], [3]]}))


def test_the_digest_does_not_depend_on_the_parquet_writer():
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    sink = pyarrow.BufferOutputStream()

    parquet.write_table(
        pyarrow.table(rows(COLUMNS)), sink, compression="snappy", use_dictionary=False, row_group_size=1
    )

    assert content_digest(rows(read_parquet(sink.getvalue().to_pybytes()))) == content_digest(rows(COLUMNS))


def test_parquet_keeps_types_and_gives_the_same_bytes_twice():
    got = rows(COLUMNS | {"nothing": [None] * 3, "fixed": np.ones((3, 2), np.float32)})

    again = read_parquet(write_parquet(got))

    assert schema(again) == schema(got)
    assert write_parquet(again) == write_parquet(got)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_damaged_parquet_is_corrupt_and_not_a_crash(data):
    with pytest.raises(Corrupt, match="ST209"):
        read_parquet(data)


def test_columns_of_no_rows_can_be_read_whatever_their_type():
    none = concat([no_rows((("at", "timestamp[UTC]"), ("vector", "list<float32>[2]"), ("day", "date")))])

    assert [len(column(none, name).valid) for name in none.column_names] == [0, 0, 0]
