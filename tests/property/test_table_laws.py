"""Laws of tables and rows: what a table says does not depend on how it was put together."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staytrue.kernel.contract import SourceSpec
from staytrue.store import tables
from staytrue.store.frames import (
    concat,
    content_digest,
    in_order,
    read_parquet,
    schema,
    take,
    to_frame,
    to_pydict,
    to_rows,
    write_parquet,
)
from staytrue.store.objects import LocalObjects

START = datetime(2026, 1, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
SPEC = SourceSpec(name="sales", time="at", key="id", label="y")
# Enough texts to tie, to differ in length alone, and to hold what padding could confuse.
TEXTS = st.sampled_from(["", "a", "a\0", "ab", "b", "ü", "x" * 70, "x" * 70 + "y"])
CELLS = {
    "i": st.integers(-(2**63), 2**63 - 1),
    "f": st.floats(width=64),
    "t": TEXTS,
    "b": st.booleans(),
    "at": st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    "v": st.lists(st.floats(width=64), max_size=3),
}


@st.composite
def frames(draw, min_size=1):
    n = draw(st.integers(min_size, 12))
    columns = {}
    for name, cell in CELLS.items():
        # The first value is there, so that the type is known.
        columns[name] = [draw(cell), *draw(st.lists(st.none() | cell, min_size=n - 1, max_size=n - 1))]
    return columns


def rows_of(columns):
    return to_rows(columns, doing="test")


@given(frames())
def test_rows_survive_parquet_chunks_and_slices(columns):
    rows = rows_of(columns)
    n = rows.num_rows

    again = concat([read_parquet(write_parquet(take(rows, np.arange(i, i + 1)))) for i in range(n)])
    padded = concat([rows, rows]).slice(n // 2, n)

    assert schema(again) == schema(rows)
    assert content_digest(again) == content_digest(rows)
    assert content_digest(padded) == content_digest(take(concat([rows, rows]), np.arange(n // 2, n // 2 + n)))


@given(frames(), st.randoms())
def test_the_digest_knows_the_set_of_rows_and_not_their_order(columns, random):
    rows = rows_of(columns)
    order = list(range(rows.num_rows))
    random.shuffle(order)
    shuffled = take(rows, np.array(order))

    assert content_digest(shuffled, ["at", "t"]) == content_digest(rows, ["at", "t"])
    assert write_parquet(in_order(in_order(rows, ["t"]), ["t"])) == write_parquet(in_order(rows, ["t"]))


def _spelled(value):
    return repr(value).replace("-0.0", "0.0").replace(", fold=1", "")


@given(frames(), st.data())
def test_the_digest_sees_every_cell(columns, data):
    name = data.draw(st.sampled_from(sorted(CELLS)))
    at = data.draw(st.integers(0, len(columns["i"]) - 1))
    other = data.draw(CELLS[name] if at == 0 else st.none() | CELLS[name])
    changed = columns | {name: [*columns[name][:at], other, *columns[name][at + 1 :]]}

    # repr: -0.0 and 0.0 are equal on purpose, and so are NaNs; a fold says nothing in UTC.
    same = _spelled(columns[name][at]) == _spelled(other)
    assert (content_digest(rows_of(changed)) == content_digest(rows_of(columns))) == same


@given(frames())
def test_a_trip_through_pandas_keeps_everything_but_a_nan(columns):
    rows = rows_of({name: values for name, values in columns.items() if name != "v"})
    without_nan = {
        name: [None if isinstance(value, float) and np.isnan(value) else value for value in values]
        for name, values in to_pydict(rows).items()
    }
    pandas = to_frame(rows)

    again = to_rows(pandas, doing="test")

    # Whole numbers with nulls are floats in pandas, as its users expect.
    kept = [name for name in without_nan if not (name == "i" and None in without_nan["i"])]
    assert {name: to_pydict(again)[name] for name in kept} == {name: without_nan[name] for name in kept}


@pytest.mark.parametrize("kind", ["polars", "pyarrow"])
@given(columns=frames())
@settings(max_examples=25)
def test_a_trip_through_arrow_libraries_keeps_everything(kind, columns):
    pytest.importorskip(kind)
    rows = rows_of(columns)

    assert content_digest(to_rows(to_frame(rows, kind), doing="test")) == content_digest(rows)


def part(objects, hour, values):
    since = START + hour * HOUR
    rows = [{"id": f"{hour}-{i}", "at": since, "y": value} for i, value in enumerate(values)]
    return tables.make_part(objects, to_rows(rows, doing="test"), (since, since + HOUR), SPEC)


@given(
    st.dictionaries(st.integers(0, 80), st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=6),
    st.randoms(),
    st.tuples(st.integers(-1, 82), st.integers(-1, 82)).filter(lambda pair: pair[0] < pair[1]),
)
@settings(max_examples=8)
def test_a_table_is_its_parts_however_it_came_to_be(windows, random, cut):
    with tempfile.TemporaryDirectory() as folder:
        objects = LocalObjects(Path(folder))
        parts = [part(objects, hour, values) for hour, values in windows.items()]
        ordered = sorted(parts, key=lambda p: p.since)
        random.shuffle(parts)

        table = tables.empty(SPEC)
        for one in parts:
            wrong = part(objects, round((one.since - START) / HOUR), [7, 7, 7, 7])
            table = tables.correct(tables.append(table, wrong), one)

        assert list(table.parts) == ordered
        assert tables.load(objects, tables.save(objects, table)) == table
        since, until = START + cut[0] * HOUR, START + cut[1] * HOUR
        within = tables.window(objects, table, since, until)
        assert list(within.parts) == [p for p in ordered if since <= p.since and p.until <= until]
        rebuilt = tables.empty(SPEC)
        for one in within.parts:
            rebuilt = tables.append(rebuilt, one)
        assert rebuilt.chunks == within.chunks
        told = tables.diff(objects, table, within)["rows"]
        assert (told["removed"], told["added"]) == (table.rows - within.rows, 0)
