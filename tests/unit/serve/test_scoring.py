"""Inspection by columns says what read_row says of each row; Parquet goes through in batches; pieces survive."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staytrue.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from staytrue.kernel.inspection import inspect, misfits
from staytrue.kernel.signature import ACTIONS, DEFAULTS, Feature, Signature, read_row
from staytrue.serve.channel import pack_array, unpack_answers
from staytrue.store import frames
from staytrue.store.block import Layout
from staytrue.store.parquet import open_parquet, read_batches, write_parquet_file
from staytrue.store.pieces import ANSWER, REFUSED, Pieces

# ---------------------------------------------------------------- inspection

_VALUES = {
    "float64": st.one_of(
        st.none(), st.sampled_from([0.0, 1.0, 2.5, 5.0, 7.0, 501.0, -501.0, math.inf, -math.inf, 1e300])
    ),
    "int64": st.one_of(st.none(), st.sampled_from([0, 1, 5, 6, 501, -501, 2**40])),
    "uint64": st.one_of(st.none(), st.sampled_from([0, 1, 5, 6, 501, 2**63, 2**64 - 1])),
    "string": st.one_of(st.none(), st.sampled_from(["porto", "lisbon", "faro", ""])),
    "bool": st.one_of(st.none(), st.booleans()),
    "list<float64>[2]": st.one_of(st.none(), st.tuples(*[st.sampled_from([1.0, math.inf])] * 2).map(list)),
}


@st.composite
def features(draw: st.DrawFn) -> Feature:
    type_name = draw(st.sampled_from(sorted(_VALUES)))
    ranged = type_name in {"float64", "int64", "uint64"} and draw(st.booleans())
    in_units = ranged and draw(st.booleans())
    actions = {fault: draw(st.sampled_from(ACTIONS)) for fault in DEFAULTS} | {"type": "refuse"}
    known = frozenset({"=porto", "=lisbon"}) if type_name == "string" and draw(st.booleans()) else None
    return Feature(
        name="x", type=type_name, low=1.0 if ranged else None, high=5.0 if ranged else None,
        unit_low=-500.0 if in_units else None, unit_high=500.0 if in_units else None, categories=known, actions=actions,
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(one=features(), data=st.data())
def test_a_column_is_told_what_each_of_its_rows_would_be_told(one: Feature, data: st.DataObject) -> None:
    values = data.draw(st.lists(_VALUES[one.type], min_size=1, max_size=8))
    sig = Signature(features=(one,))
    rows = frames.to_rows({"x": values}, doing="test")

    found = inspect(sig, {"x": frames.column(rows, "x")}, len(values))

    for at, value in enumerate(values):
        expected = [(f.fault, f.action) for f in read_row(sig, {"x": value})[1]]
        assert [(r.fault, r.action) for r in found.remarks if r.rows[at]] == expected
        assert bool(found.refused[at]) == any(action == "refuse" for _, action in expected)
        if found.refused[at]:
            assert found.reasons(at).startswith("'x' is ")


def column(values: list[object]) -> frames.Column:
    return frames.column(frames.to_rows({"x": values}, doing="test"), "x")


@pytest.mark.parametrize(
    ("type_name", "values", "refused", "kept"),
    [
        ("int64", [1.0, 1.5, 2.0**60, None], [1, 3], [1, 2**60]),
        ("uint64", [1, -1], [1], [1]),
        ("float64", [1, 2**53, 2**53 + 1], [2], [1.0, 2.0**53]),
        ("int64", [1, 2**63], [1], [1]),
        ("list<float64>[2]", [[1.0, 2.0], [1.0]], [1], [[1.0, 2.0]]),
    ],
)
def test_a_value_that_its_column_can_not_hold_is_refused_alone(type_name, values, refused, kept):
    found = inspect(Signature(features=(Feature(name="x", type=type_name),)), {"x": column(values)}, len(values))

    assert np.flatnonzero(found.refused).tolist() == refused
    assert found.columns["x"].type == type_name
    assert [np.asarray(one).tolist() for one in found.columns["x"].values[~found.refused]] == kept


def test_a_nan_is_a_null_and_infinity_is_not():
    sig = Signature(features=(Feature(name="x", type="float64"),))

    found = inspect(sig, {"x": column([1.0, math.nan, math.inf])}, 3)

    assert {one.fault: one.rows.tolist() for one in found.remarks} == {
        "nonfinite": [False, False, True],
        "null": [False, True, False],
    }


def test_columns_that_never_fit_are_named_all_at_once():
    sig = Signature(
        features=(
            Feature(name="a", type="float64"), Feature(name="b", type="string"), Feature(name="c", type="int64"),
            Feature(name="id", type="int64", role="key", actions={**DEFAULTS, "missing": "accept"}),
        ),
        extra="refuse",
    )  # fmt: skip

    found = misfits(sig, (("a", "float32"), ("b", "int64"), ("new", "bool")))

    assert [(one.column, one.fault) for one in found] == [("b", "type"), ("c", "missing"), ("new", "extra")]


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("values", [[1.5, -0.0], [1, -(2**62)], [True, False], []])
def test_an_array_of_answers_comes_back_equal(values):
    packed = pack_array(np.array(values))

    assert packed is not None
    again = unpack_answers(packed)
    assert again.tolist() == values
    assert again.dtype == np.array(values).dtype


@pytest.mark.parametrize("values", [np.array([1.0, math.nan]), np.array(["a"]), np.array([[1.0]]), np.array([2**63])])
def test_what_is_no_plain_array_of_numbers_goes_as_json(values):
    assert pack_array(values) is None


# ---------------------------------------------------------------- Parquet


def test_a_row_group_of_any_size_comes_in_batches_and_a_skip_goes_to_the_row(tmp_path):
    path = tmp_path / "n.parquet"
    pq.write_table(pa.table({"n": range(10_000)}), path, row_group_size=10_000)
    file = open_parquet(path)

    batches = [frames.to_pydict(rows)["n"] for rows in read_batches(file, 999, skip=2_500)]

    assert file.rows == 10_000
    assert [n for batch in batches for n in batch] == list(range(2_500, 10_000))
    assert max(map(len, batches)) == 999


@pytest.mark.parametrize("writer", ["pyarrow", "polars", "duckdb"])
def test_the_number_of_rows_is_found_in_any_writers_footer(tmp_path, writer):
    path = tmp_path / "n.parquet"
    table = pa.table({"n": range(70_001), "flag": [True] * 70_001, "text": ["ä"] * 70_001, "l": [[1.5]] * 70_001})
    if writer == "pyarrow":
        pq.write_table(table, path, row_group_size=1_000)
    elif writer == "polars":
        pytest.importorskip("polars").DataFrame(table).write_parquet(path)
    else:
        pytest.importorskip("duckdb").sql("from range(70_001)").write_parquet(str(path))

    assert open_parquet(path).rows == 70_001


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "ST780"), (b"", "ST781"), (b"a,b\n1,2\n", "ST781"), (b"PAR1" + bytes(20) + b"\xff\xff\0\0PAR1", "ST781"),
     (b"PAR1" + bytes(20) + b"\x08\0\0\0PAR1", "ST781")],
    ids=["missing", "empty", "text", "footer too long", "footer of nothing"],
)  # fmt: skip
def test_what_is_no_parquet_is_told_so(tmp_path, content, code):
    path = tmp_path / "in.parquet"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises((InvalidInput, NotFound)) as caught:
        open_parquet(path)

    assert caught.value.code == code
    assert str(path) in caught.value.message


def test_a_damaged_page_is_told_with_the_rows_before_it(tmp_path):
    path = tmp_path / "n.parquet"
    pq.write_table(pa.table({"n": np.arange(100_000)}), path, row_group_size=50_000, use_dictionary=False)
    data = bytearray(path.read_bytes())
    middle = len(data) * 3 // 4
    data[middle : middle + 4_000] = b"\xff" * 4_000
    path.write_bytes(data)

    with pytest.raises(InvalidInput, match="damaged behind its first") as caught:
        list(read_batches(open_parquet(path), 10_000))

    assert caught.value.code == "ST781"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_so_and_leaves_nothing(tmp_path):
    (tmp_path / "n.parquet.tmp").symlink_to("/dev/full")

    with pytest.raises(Unavailable) as caught:
        write_parquet_file(tmp_path / "n.parquet", iter([frames.to_rows({"n": [1]}, doing="test")]))

    assert caught.value.code == "ST402"
    assert list(tmp_path.iterdir()) == []


def test_an_error_among_the_rows_comes_out_as_it_was(tmp_path):
    def rows():
        yield frames.to_rows({"n": [1]}, doing="test")
        raise Corrupt("ST790", "Torn.")

    with pytest.raises(Corrupt, match="Torn"):
        write_parquet_file(tmp_path / "n.parquet", rows())


def test_columns_of_any_type_go_through_as_they_are(tmp_path):
    table = pa.table(
        {
            "struct": pa.array([{"a": 1}, None]),
            "words": pa.array(["x", "y"]).dictionary_encode(),
            "money": pa.array([1, None], pa.decimal128(10, 2)),
            "day": pa.array([date(2026, 3, 1), None]),
            "at": pa.array([datetime(2026, 3, 1, tzinfo=UTC), None], pa.timestamp("ns", "Europe/Lisbon")),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")

    write_parquet_file(tmp_path / "out.parquet", read_batches(open_parquet(tmp_path / "in.parquet"), 10))

    assert pq.read_table(tmp_path / "out.parquet").equals(table)


# ---------------------------------------------------------------- pieces

NOTE = {"json": False}
EMPTY = frames.no_rows(((ANSWER, "float64"),))


def piece(*answers: object) -> frames.Rows:
    return frames.to_rows({ANSWER: list(answers)}, doing="test")


def pieces_of(out: Path, *, release: str = "a", restart: bool = False) -> Pieces:
    return Pieces(out, {"release": release}, restart=restart)


def answers_in(out: Path) -> list[object]:
    return pq.read_table(out).column(ANSWER).to_pylist()


def test_pieces_are_joined_in_order_and_their_folder_goes(tmp_path):
    out = tmp_path / "out.parquet"
    pieces = pieces_of(out)
    for answers in ([1.5, 2.5], [3.5]):
        pieces.add(piece(*answers), NOTE)

    pieces.finish(EMPTY, {"x": 1})
    pieces.clear()

    assert answers_in(out) == [1.5, 2.5, 3.5]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.parquet"]
    pieces.close()


def test_pieces_are_found_again_up_to_the_first_gap(tmp_path):
    out = tmp_path / "out.parquet"
    pieces = pieces_of(out)
    for answer in (1.5, 2.5, 3.5):
        pieces.add(piece(answer), NOTE)
    pieces.close()
    (pieces.folder / "rows-000000000001-000000000002.parquet").unlink()
    (pieces.folder / "rows-000000000003-000000000004.parquet.tmp").write_bytes(b"half")

    again = pieces_of(out)

    assert again.done == 1
    assert sorted(entry.name for entry in again.folder.iterdir()) == [
        "lock", "manifest.json", "rows-000000000000-000000000001.parquet",
    ]  # fmt: skip
    again.close()


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([[1], [2.5]], [1.0, 2.5]),
        ([[None], [2]], [None, 2]),
        ([["a"], [2.5]], ['"a"', "2.5"]),
        ([[True], [1]], ["true", "1"]),
        ([[[1.0, 2.0]], [None]], [[1.0, 2.0], None]),
    ],
    ids=["numbers", "nothing yet", "text and number", "bool and number", "lists"],
)
def test_answers_of_several_types_get_one_that_fits_all(tmp_path, pieces, expected):
    out = tmp_path / "out.parquet"
    made = pieces_of(out)
    for answers in pieces:
        made.add(piece(*answers), NOTE)

    made.finish(EMPTY, {})

    assert answers_in(out) == expected
    made.close()


def test_reasons_of_one_piece_are_nulls_in_the_others(tmp_path):
    out = tmp_path / "out.parquet"
    made = pieces_of(out)
    made.add(piece(1.5), NOTE)
    made.add(frames.to_rows({ANSWER: [None], REFUSED: ["because"]}, doing="test"), NOTE)

    made.finish(EMPTY, {})

    assert pq.read_table(out).column(REFUSED).to_pylist() == [None, "because"]
    made.close()


def test_another_input_is_a_conflict_until_restart(tmp_path):
    out = tmp_path / "out.parquet"
    first = pieces_of(out)
    first.add(piece(1.5), NOTE)
    first.close()

    with pytest.raises(Conflict, match="its release is") as caught:
        pieces_of(out, release="b")
    again = pieces_of(out, release="b", restart=True)

    assert caught.value.code == "ST785"
    assert again.done == 0
    again.close()


def test_an_output_that_is_there_is_a_conflict_and_stays(tmp_path):
    out = tmp_path / "out.parquet"
    out.write_bytes(b"mine")

    with pytest.raises(Conflict) as caught:
        pieces_of(out)

    assert caught.value.code == "ST784"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.parquet"]
    assert out.read_bytes() == b"mine"


def test_a_restart_that_was_killed_goes_on_without_the_flag(tmp_path):
    out = tmp_path / "out.parquet"
    out.write_bytes(b"old")
    first = pieces_of(out, restart=True)
    first.add(piece(1.5), NOTE)
    first.close()

    again = pieces_of(out)
    assert again.done == 1
    again.finish(EMPTY, {})

    assert answers_in(out) == [1.5]
    again.close()


def test_two_at_once_are_a_conflict(tmp_path):
    first = pieces_of(tmp_path / "out.parquet")

    with pytest.raises(Conflict) as caught:
        pieces_of(tmp_path / "out.parquet")

    assert caught.value.code == "ST786"
    first.close()


def test_a_kill_between_the_output_and_the_end_is_seen(tmp_path):
    out = tmp_path / "out.parquet"
    first = pieces_of(out)
    first.add(piece(1.5), NOTE)
    first.finish(EMPTY, {"x": 1})
    first.close()

    again = pieces_of(out)

    assert again.finished
    assert again.note["x"] == 1
    again.close()


def test_a_piece_that_was_damaged_is_told_so(tmp_path):
    out = tmp_path / "out.parquet"
    first = pieces_of(out)
    first.add(piece(1.5), NOTE)
    (first.folder / "rows-000000000000-000000000001.parquet").write_bytes(b"PAR1")

    with pytest.raises(Corrupt, match="--restart") as caught:
        first.finish(EMPTY, {})

    assert caught.value.code == "ST790"
    assert not out.exists()
    first.close()


def test_a_block_of_more_rows_than_fit_the_cache_keeps_every_value_in_its_place():
    rng = np.random.default_rng(3)
    n = 10_001
    given = {
        "a": frames.Column(type="float32", values=rng.normal(size=n).astype("f4"), valid=rng.random(n) < 0.9),
        "b": frames.Column(type="float64", values=rng.normal(size=n), valid=np.ones(n, np.bool_)),
        "n": frames.Column(type="int64", values=rng.integers(0, 9, n), valid=rng.random(n) < 0.9),
        "t": frames.Column(type="bool", values=rng.random(n) < 0.5, valid=rng.random(n) < 0.9),
    }
    layout = Layout(tuple((name, column.type) for name, column in given.items()))

    again = layout.columns(layout.unpack(layout.of_columns(given, n).pack()))

    for name, column in given.items():
        assert np.array_equal(again[name].valid, column.valid)
        assert np.array_equal(again[name].values[column.valid], column.values[column.valid])
