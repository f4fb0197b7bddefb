"""Schema: the fast way through it and the slow one say the same of every row."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from staytrue.kernel.signature import Feature, Signature, read_row, signature
from staytrue.kernel.sketch import sketch
from staytrue.serve.problem import Problem
from staytrue.serve.schema import Schema

N = 200
TYPES = (
    ("size", "float64"), ("rooms", "int64"), ("code", "uint64"), ("city", "string"), ("kind", "string"), ("day", "date"),
    ("at", "timestamp[UTC]"), ("local", "timestamp"), ("lift", "bool"), ("vector", "list<float64>[2]"),
    ("tags", "list<string>"), ("gaps", "float64"), ("id", "string"), ("rate", "float64"),
)  # fmt: skip
RNG = np.random.default_rng(0)
EVERY = np.ones(N, bool)
WORDS = {name: np.array(words, object) for name, words in (("city", ["lisbon", "porto"]), ("kind", ["flat", "house"]))}
SKETCHES = {
    "size": sketch(RNG.uniform(1, 5, N), EVERY, "number"),
    "rooms": sketch(RNG.integers(1, 9, N), EVERY, "number"),
    "code": sketch(RNG.integers(0, 1000, N), EVERY, "number"),
    "city": sketch(RNG.choice(WORDS["city"], N), EVERY, "text"),
    "kind": sketch(RNG.choice(WORDS["kind"], N), EVERY, "text"),
    "gaps": sketch(RNG.uniform(0, 1, N), RNG.random(N) < 0.5, "number"),
}
FEATURES = [name for name, _ in TYPES if name not in {"id", "at", "rate"}]
INPUTS = {"rooms": {"range": "refuse"}, "kind": {"category": "refuse"}, "tags": "accept", "lift": {"missing": "flag"}}
SHOP = signature(TYPES, SKETCHES, features=FEATURES, key="id", time="at", label="rate", inputs=INPUTS)
SCHEMA = Schema(SHOP, most_rows=10)
ROW = {
    "size": 2.5, "rooms": 3, "code": 70, "city": "porto", "kind": "flat", "day": "2026-03-01", "local": "2026-03-01T12:00:00",
    "lift": True, "vector": [1.0, 2.0], "tags": ["new"], "gaps": None,
}  # fmt: skip

VALUES = st.sampled_from(
    [None, True, False, 0, 1, 2, 7, 45, 700, 10**6, -3, 2**62, 2**63, 2**64, 2**70, 0.0, 1.0, 2.5, 7.5, -2.5, 600.0, 1e300,
     "", "porto", "faro", "flat", "castle", "2.5", "2026-03-01", "2026-03-01T12:00:00", "2026-03-01T12:00:00Z",
     "2026-03-01T12:00:00.123456+02:00", "2026-02-30", "9999-12-31", [], [1], [1.0, 2.0], [1, None], [1.0, 2.0, 3.0], ["a", None],
     {}, {"a": 1}]
)  # fmt: skip
CHANGES = st.dictionaries(st.sampled_from([*ROW, "id", "at", "rate", "colour"]), VALUES, max_size=4)


def body(*rows):
    return json.dumps({"rows": list(rows)}).encode()


def verdict(row):
    """What the server says of a row: (refused, flagged, values by column), as the queue asks the schema."""
    read = SCHEMA.read(body(row))
    if isinstance(read, Problem):
        return {(one["field"], one["fault"]) for one in read.errors}, None, None
    flags, errors = list(read.flags or []), []
    try:
        block = SCHEMA.block(read.rows)
    except OverflowError:
        flags, errors = SCHEMA.explain(read.rows, [0])
        block = None
    else:
        if read.flags is None and SCHEMA.suspects(block) is not None:
            flags, errors = SCHEMA.explain(read.rows, [0])
    if errors:
        return {(one["field"], one["fault"]) for one in errors}, None, None
    assert block is not None
    columns = SCHEMA.layout.columns(SCHEMA.layout.unpack(block.pack()))
    values = {name: one.values[0] if one.valid[0] else None for name, one in columns.items()}
    return set(), {(one.field, one.fault) for _, one in flags}, values


@given(CHANGES, st.sets(st.sampled_from(list(ROW)), max_size=1))
@example({"code": 2**64}, set())
@example({"code": 2**64 - 1}, set())
@example({"rooms": 2**63}, set())
@example({"size": 10**400}, set())
@example({}, {"lift"})
def test_the_fast_and_the_slow_way_say_the_same_of_a_row(changes, left_out):
    row = {name: value for name, value in (ROW | changes).items() if name not in left_out}

    values, found = read_row(SHOP, row)
    refused, flagged, read = verdict(row)

    assert refused == {(one.field, one.fault) for one in found if one.action == "refuse"}
    if not refused:
        assert flagged == {(one.field, one.fault) for one in found if one.action == "flag"}
        assert {name: _plain(value) for name, value in read.items()} == {name: _plain(values[name]) for name in read}


def _plain(value):
    return value.tolist() if hasattr(value, "tolist") else value


def test_a_row_like_training_is_a_suspect_of_nothing():
    read = SCHEMA.read(body(ROW, ROW))

    assert read.flags is None  # nobody had to look
    assert SCHEMA.suspects(SCHEMA.block(read.rows)) is None


def test_only_the_strange_rows_are_suspects():
    read = SCHEMA.read(body(ROW, ROW | {"size": 9.5}, ROW | {"city": "faro"}, ROW))

    assert SCHEMA.suspects(SCHEMA.block(read.rows)).tolist() == [False, True, True, False]


@pytest.mark.parametrize(("count", "code"), [(0, "ST758"), (11, "ST758"), (1, None), (10, None)])
def test_rows_are_counted(count, code):
    read = SCHEMA.read(body(*[ROW] * count))

    assert (read.code if isinstance(read, Problem) else None) == code


def test_of_many_bad_rows_the_first_ones_say_enough():
    schema = Schema(SHOP, most_rows=10_000)

    problem = schema.read(body(*[{}] * 10_000))

    assert len(problem.errors) <= 60
    assert problem.errors[0]["row"] == 0


def test_keys_are_read_where_the_app_has_some():
    read = SCHEMA.read(body(ROW | {"id": "a"}, ROW))
    bare = Schema(Signature(features=(Feature(name="size", type="float64"),)), most_rows=5)

    assert SCHEMA.keys(read.rows) == ["a", None]
    assert bare.keys(bare.read(b'{"rows": [{"size": 1}]}').rows) is None


def test_rows_can_be_read_by_another_schema():
    read = SCHEMA.read(body(ROW | {"id": "a", "at": "2026-03-01T12:00:00Z"}))

    again = SCHEMA.read_dicts(SCHEMA.dicts(read.rows))

    assert SCHEMA.block(again.rows).pack() == SCHEMA.block(read.rows).pack()


@given(st.binary(max_size=60))
@example(b'{"rows":[{"size":NaN}]}')
@example(b'{"rows":' + b"[" * 5000)
@example(b'{"rows":[{"size":1e999}]}')
@example(b'{"rows":[{"city":"\\ud800","size":NaN}]}')
@example(b'{"rows":[{"\\ud800":1}]}')
@example(b'\xff\xfe{"rows":[]}')
@example(b'{"rows":[{"size":1}],"rows":[{"size":2}]}')
def test_whatever_comes_is_rows_or_a_problem_that_can_be_written(data):
    read = SCHEMA.read(data)

    assert not isinstance(read, Problem) or json.loads(read.body())["status"] in {400, 422}


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"a\\udfffb"', b'"\\ud800\\ud800"'])
def test_half_a_character_is_no_json(text):
    column = SCHEMA.read(b'{"rows": [{"size": 2.5, "note": ' + text + b', "e": NaN}]}')
    name = SCHEMA.read(b'{"rows": [{' + text + b': 1, "e": NaN}]}')

    assert [(one.status, one.code) for one in (column, name)] == [(400, "ST757")] * 2
