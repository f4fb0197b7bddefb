"""Ids: one for each row, in order, made from one draw."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytrue.serve.ids import as_bytes, ids_json, ids_list, new_id

TIMES = st.integers(0, 2**48 * 1000 - 1)


@given(TIMES, st.integers(1, 3))
def test_an_id_is_a_version_7_that_holds_its_millisecond(at_us, count):
    first = new_id(at_us)

    for text in ids_list(first, count):
        one = UUID(text)
        assert (one.version, one.variant) == (7, "specified in RFC 4122")
        assert one.int >> 80 == at_us // 1000


@given(st.integers(1, 500))
def test_the_ids_of_a_request_count_up_from_the_first(count):
    first = new_id()

    ids = ids_list(first, count)

    assert [UUID(one).int for one in ids] == [int.from_bytes(first, "big") + row for row in range(count)]
    assert json.loads(ids_json(first, count)) == ids
    assert [as_bytes(one) for one in ids[:1]] == [first]


def test_a_hundred_million_rows_never_run_over_into_the_random_part():
    for _ in range(200):
        first = new_id()
        last = int.from_bytes(first, "big") + 10**8

        assert last >> 32 == int.from_bytes(first, "big") >> 32


def test_ids_of_one_millisecond_are_told_apart_by_chance_alone():
    assert len({new_id(1_000)[:12] for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize("text", ["", "x", "0" * 31, "0" * 33, "g" * 32, "01956f3e-7c00-7000-8000"])
def test_what_is_no_id_is_none(text):
    assert as_bytes(text) is None
