"""Answerer: from a block to the JSON of each request's answers, and what becomes of a predict function that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import date

import numpy as np
import pandas as pd
import pytest

from staytrue import App
from staytrue.kernel.signature import Feature, Signature
from staytrue.serve.answerer import Answerer
from staytrue.serve.channel import unpack_answers
from staytrue.store.block import Layout

FLOATS = Signature(
    features=(
        Feature(name="a", type="float64"),
        Feature(name="b", type="float64"),
        Feature(name="id", type="int64", role="key"),
    )
)
MIXED = Signature(
    features=(
        Feature(name="a", type="float64"), Feature(name="city", type="string"), Feature(name="day", type="date"),
        Feature(name="n", type="int64"), Feature(name="lift", type="bool"),
    )
)  # fmt: skip


def answerer_of(predict, sig=FLOATS, model=2.0):
    """A release that answers so."""
    app = App("numbers")

    @app.data(time="at", key="id", label="y")
    def rows(since, until):
        return []

    @app.train
    def fit(rows):
        return model

    app.predict(metric="mae")(predict)
    return Answerer(
        id="0" * 64, release=None, app=app, model=model, signature=sig, layout=Layout(sig.schema), label_type="float64",
        example={},
    )  # fmt: skip


def block_of(answerer, **columns):
    """These columns, as a lane is given them."""
    size = len(next(iter(columns.values())))
    whole = {name: columns.get(name, [None] * size) for name, _ in answerer.layout.schema}
    return answerer.layout.unpack(answerer.layout.block(whole).pack())


def read(answers):
    return [None if one is None else json.loads(one) for one in answers.data]


def double(model, rows):
    return model * rows["a"]


def test_each_request_gets_the_answers_to_its_own_rows():
    one = answerer_of(double)
    block = block_of(one, a=[1.0, 2.0, 3.0, 4.0])

    assert read(one.answered(block, [1, 2, 1])) == [[2.0], [4.0, 6.0], [8.0]]
    assert read(one.answered(block, [1, 1, 1, 1])) == [[2.0], [4.0], [6.0], [8.0]]
    assert read(one.answered(block, [4])) == [[2.0, 4.0, 6.0, 8.0]]


def test_the_function_sees_the_features_in_their_order_and_nothing_else():
    seen = []
    one = answerer_of(lambda model, rows: seen.append(list(rows.columns)) or rows["b"])

    read(one.answered(block_of(one, a=[1.0], b=[5.0], id=[7]), [1]))

    assert seen == [["a", "b"]]


def test_columns_have_the_types_of_training():
    seen = {}

    def look(model, rows):
        seen.update({name: rows[name].dtype.kind for name in rows})
        seen["first"] = rows.iloc[0].to_dict()
        return rows["a"]

    one = answerer_of(look, MIXED)
    read(one.answered(block_of(one, a=[1.5], city=["porto"], day=[1_772_323_200_000_000], n=[3], lift=[True]), [1]))

    assert (seen["a"], seen["n"], seen["lift"], seen["day"]) == ("f", "i", "b", "M")
    assert (seen["first"]["city"], seen["first"]["day"]) == ("porto", pd.Timestamp("2026-03-01"))


@pytest.mark.parametrize("sig", [FLOATS, MIXED], ids=["floats alone", "columns of all kinds"])
@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.loc.__setitem__((slice(None), "a"), 0.5),
        lambda rows: rows.fillna({"a": 0.5}, inplace=True),  # noqa: PD002 - what is tested
        lambda rows: rows.__setitem__("c", rows["a"] + 1),
        lambda rows: rows.__setitem__("a", rows["a"] * 2),
    ],
    ids=["loc", "fillna", "another column", "a column anew"],
)
def test_a_function_may_write_into_the_rows_that_it_is_given(sig, change):
    def meddle(model, rows):
        change(rows)
        return [1.0] * len(rows)

    one = answerer_of(meddle, sig)

    answers = one.answered(block_of(one, a=[1.0, None], day=[0, 0], n=[1, 2], lift=[True, False]), [2])

    assert (answers.errors, read(answers)) == ({}, [[1.0, 1.0]])


def test_what_a_failing_function_did_to_the_rows_does_not_reach_those_that_are_asked_again():
    def meddle(model, rows):
        rows["a"] = rows["a"] + 1
        rows.loc[:, "b"] = 0.0
        if (rows["a"] > 100).any():
            raise ValueError("too much")
        return rows["a"]

    one = answerer_of(meddle)

    assert read(one.answered(block_of(one, a=[1.0, 200.0, 3.0], b=[1.0, 1.0, 1.0]), [1, 1, 1])) == [[2.0], None, [4.0]]


def test_one_request_that_fails_does_not_take_the_others_with_it():
    def strict(model, rows):
        if (rows["a"] < 0).any():
            raise ValueError("below zero\nwith a second line that nobody sees")
        return rows["a"]

    one = answerer_of(strict)

    answers = one.answered(block_of(one, a=[1.0, 2.0, -3.0, 4.0, 5.0]), [1, 3, 1])

    assert read(answers) == [[1.0], None, [5.0]]
    error = answers.errors[1]
    assert (error["code"], error["facts"]["row"], error["facts"]["error"]) == ("ST303", 1, "ValueError")
    assert "below zero" in error["message"]
    assert "second line" not in error["message"]


@pytest.mark.parametrize(
    ("given", "code"),
    [(lambda rows: [1.0], "ST304"), (lambda rows: None, "ST304"), (lambda rows: [np.nan] * len(rows), "ST305"),
     (lambda rows: 1 / 0, "ST303"), (lambda rows: [object()] * len(rows), "ST306")],
    ids=["too few", "nothing", "NaN", "raises", "objects"],
)  # fmt: skip
def test_answers_that_are_none_are_errors_with_a_code(given, code):
    one = answerer_of(lambda model, rows: given(rows))

    answers = one.answered(block_of(one, a=[1.0, 2.0]), [2])

    assert answers.data == [None]
    assert answers.errors[0]["code"] == code


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.array([1, 2]), [1, 2]),
        (np.array([True, False]), [True, False]),
        (pd.Series(["a", "b"]), ["a", "b"]),
        (np.array([[1.0, 2.0], [3.0, 4.0]]), [[1.0, 2.0], [3.0, 4.0]]),
        ([{"price": np.float64(1.5)}, {"price": 2}], [{"price": 1.5}, {"price": 2}]),
        (np.array([0.1, 0.2], np.float32), [pytest.approx(0.1), pytest.approx(0.2)]),
    ],
    ids=["whole", "bools", "texts", "vectors", "objects", "float32"],
)
def test_answers_of_every_kind_become_json(given, expected):
    one = answerer_of(lambda model, rows: given)
    block = block_of(one, a=[1.0, 2.0])

    assert read(one.answered(block, [2])) == [expected]
    assert list(unpack_answers(one.answered_whole(block).data[0])) == expected


def test_an_async_function_is_awaited_and_a_generator_joined():
    async def slowly(model, rows):
        await asyncio.sleep(0)
        return rows["a"]

    async def words(model, rows):
        for word in ("a", "b"):
            yield f"{word}{rows['a'].iloc[0]:g}"

    slow, wordy = answerer_of(slowly), answerer_of(words)

    assert (slow.is_async, slow.in_pieces, wordy.is_async, wordy.in_pieces) == (True, False, True, True)
    assert slow.values(block_of(slow, a=[1.0, 2.0])) == [1.0, 2.0]
    assert wordy.values(block_of(wordy, a=[1.0, 2.0])) == ["a1b1", "a2b2"]


# -- plain services ----------------------------------------------------------------------------------------------------


def service_of(predict, sig=MIXED):
    """A plain service that answers so."""
    app = App("numbers")
    app.predict(examples=[{"a": 1.0}])(predict)
    return Answerer(
        id="0" * 64, release=None, app=app, model=None, signature=sig, layout=Layout(sig.schema), label_type="float64",
        example={},
    )  # fmt: skip


def test_a_service_is_given_dicts_and_no_model():
    seen = []
    one = service_of(lambda rows: seen.extend(rows) or [row["n"] for row in rows])

    answers = one.answered(block_of(one, a=[1.5], city=["porto"], day=[0], n=[3], lift=[None]), [1])

    assert read(answers) == [[3]]
    assert seen == [{"a": 1.5, "city": "porto", "day": date(1970, 1, 1), "n": 3, "lift": None}]


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [("pd.DataFrame", "DataFrame"), (pd.DataFrame, "DataFrame"), ("list[dict[str, Any]]", "list"), (list, "list"),
     (list[dict], "list"), (Sequence[dict], "list"), (None, "list")],
)  # fmt: skip
def test_a_service_is_given_what_its_annotation_asks_for(annotation, kind):
    def name(rows):
        return [type(rows).__name__] * len(rows)

    if annotation is not None:
        name.__annotations__["rows"] = annotation
    one = service_of(name, FLOATS)

    assert read(one.answered(block_of(one, a=[1.0, 2.0], b=[None, 1.0]), [2])) == [[kind, kind]]


def test_an_async_service_and_one_that_answers_in_pieces():
    async def slowly(rows):
        await asyncio.sleep(0)
        return [row["a"] for row in rows]

    async def words(rows):
        for word in ("a", "b"):
            yield f"{word}{rows[0]['a']:g}"

    slow, wordy = service_of(slowly, FLOATS), service_of(words, FLOATS)

    assert slow.values(block_of(slow, a=[1.0, 2.0])) == [1.0, 2.0]
    assert wordy.values(block_of(wordy, a=[1.0, 2.0])) == ["a1b1", "a2b2"]


def test_a_request_that_a_service_fails_on_does_not_take_the_others_with_it():
    one = service_of(lambda rows: [1 / row["a"] for row in rows], FLOATS)

    answers = one.answered(block_of(one, a=[1.0, 0.0, 2.0]), [1, 1, 1])

    assert read(answers) == [[1.0], None, [0.5]]
    assert answers.errors[1]["facts"]["error"] == "ZeroDivisionError"
