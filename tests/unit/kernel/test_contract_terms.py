"""The contract as a document: learned by itself, pinned by a person, never half changed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Contract, SourceSpec, learned, micros, usual
from staytrue.kernel.sketch import sketch

SPEC = SourceSpec(name="sales", time="at", key="id", label="price")
SCHEMA = (("id", "int64"), ("at", "timestamp[UTC]"), ("price", "float64"), ("town", "string"))
SINCE = datetime(2026, 3, 1, tzinfo=UTC)


def held(day, n=40, low=10.0, towns=("Faro", "Lagos")):
    at = np.array([micros(SINCE + timedelta(days=day)) + 60_000_000 * i for i in range(n)])
    valid = np.ones(n, bool)
    names = np.array([towns[i % len(towns)] for i in range(n)], object)
    return usual(
        n,
        {
            "id": sketch(np.arange(n), valid, "number"),
            "at": sketch(at, valid, "time"),
            "price": sketch(low + np.arange(n) / 4, np.arange(n) > day, "number"),
            "town": sketch(names, valid, "text"),
        },
    )


HISTORY = [held(day) for day in range(6)]


def test_what_past_windows_held_is_learned():
    contract = learned(SPEC, SCHEMA, HISTORY)

    assert contract.of("price").range == (10.25, 19.75)
    assert contract.of("price").missing == pytest.approx(6 / 40)
    assert contract.of("town").categories == ("Faro", "Lagos")
    assert contract.of("id").unique is True
    assert contract.window.rows == (40, 40)
    assert contract.window.lag_s == 86_400 - 39 * 60
    assert not contract.of("price").pinned


def test_too_few_windows_teach_types_only():
    contract = learned(SPEC, SCHEMA, HISTORY[:4])

    assert [contract.of(name).type for name, _ in SCHEMA] == [type_name for _, type_name in SCHEMA]
    assert contract.of("price").range is None
    assert contract.window.rows is None
    assert learned(SPEC, None, []).columns == {}


def test_what_a_person_pinned_stays_while_the_rest_moves_on():
    edited = learned(SPEC, SCHEMA, HISTORY).edited(
        {"columns": {"price": {"range": [0, 1000], "ignore": ["ST241"]}}, "window": {"lag": "6h", "ignore": ["ST240"]}}
    )

    moved = edited.moved_on(learned(SPEC, SCHEMA, [held(day, low=50.0, towns=("Porto",)) for day in range(6)]))

    assert (moved.of("price").range, moved.of("price").pinned) == ((0.0, 1000.0), {"range"})
    assert moved.of("town").categories == ("Porto",)
    assert moved.window.lag_s == 6 * 3600
    assert moved.version == 1
    assert moved.ignores("ST241", "price")
    assert not moved.ignores("ST241", "town")
    assert moved.ignores("ST240", None)
    unpinned = moved.edited({"columns": {"price": {"range": None}}})
    assert unpinned.moved_on(learned(SPEC, SCHEMA, HISTORY)).of("price").range == (10.25, 19.75)


def test_equal_contracts_are_equal_bytes_and_come_back_whole():
    made = learned(SPEC, SCHEMA, HISTORY).edited(
        {"columns": {"price": {"range": [None, 9], "missing": 0.5, "unique": False, "type": "float64"}}}
    )
    other = learned(SPEC, SCHEMA, HISTORY).edited(
        {"columns": {"price": {"type": "float64", "unique": False, "missing": 0.5, "range": [None, 9]}}}
    )

    assert canonical_json(made.document()) == canonical_json(other.document())
    assert Contract.from_document(json.loads(canonical_json(made.document()))) == made
    assert made.document()["columns"]["price"]["range"] == {"value": [None, 9.0], "pinned": True}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"column": {}}, "did you mean 'columns'"),
        ({"columns": {"pricee": {"missing": 0.1}}}, "did you mean 'price'"),
        ({"columns": {"price": {"rnge": [0, 1]}}}, "did you mean 'range'"),
        ({"columns": {"price": {"range": [2, 1]}}}, "low <= high"),
        ({"columns": {"price": {"range": [0, float("nan")]}}}, "finite"),
        ({"columns": {"price": {"range": 7}}}, "[low, high]"),
        ({"columns": {"price": {"missing": 10}}}, "from 0 to 1"),
        ({"columns": {"price": {"type": "money"}}}, "int64"),
        ({"columns": {"price": {"unique": "no"}}}, "true or false"),
        ({"columns": {"town": {"categories": "Faro"}}}, "list of texts"),
        ({"columns": {"town": {"ignore": ["ST999"]}}}, "ST999 is no check"),
        ({"columns": {"town": 3}}, "expected names with values"),
        ({"columns": []}, "expected names with values"),
        ({"window": {"rows": [1.5, 2]}}, "whole numbers"),
        ({"window": {"lag": "soon"}}, "soon"),
        ([], "expected names with values"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_in_words(changes, why):
    contract = learned(SPEC, SCHEMA, HISTORY)

    with pytest.raises(InvalidInput, match="ST929") as caught:
        contract.edited(changes)

    assert why in caught.value.message
    assert contract == learned(SPEC, SCHEMA, HISTORY)


@pytest.mark.parametrize("document", [{}, {"source": "x", "version": 0, "window": 3, "columns": {}}, None])
def test_a_document_that_is_no_contract_is_refused(document):
    with pytest.raises(InvalidInput, match="ST929"):
        Contract.from_document(document)
