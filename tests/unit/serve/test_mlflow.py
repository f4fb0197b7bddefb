"""MLflow's scoring protocol: every form that its clients send, and a problem that names the place for all others."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytrue.serve.problem import Problem
from staytrue.serve.protocols import mlflow

FEATURES = ["x", "y"]
TWO = [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}]


def rows(document, content_type="application/json", features=FEATURES, **more):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return mlflow.rows(body, content_type, features, **more)


@pytest.mark.parametrize(
    "document",
    [
        {"dataframe_split": {"columns": ["x", "y"], "index": [0, 1], "data": [[1, "a"], [2, "b"]]}},
        {"dataframe_split": {"columns": ["y", "x"], "data": [["a", 1], ["b", 2]]}},
        {"dataframe_split": {"data": [[1, "a"], [2, "b"]]}},
        {"dataframe_records": TWO},
        {"dataframe_records": TWO, "params": {}},
        {"instances": TWO, "params": None},
        {"instances": [[1, "a"], [2, "b"]]},
        {"inputs": {"x": [1, 2], "y": ["a", "b"]}},
        {"inputs": {"x": [[1], [2]], "y": [["a"], ["b"]]}},
        {"inputs": [[1, "a"], [2, "b"]]},
        {"inputs": TWO},
    ],
)
def test_every_form_gives_the_same_rows(document):
    assert rows(document) == TWO


def test_a_list_of_values_is_a_column_where_there_is_one_feature():
    assert rows({"inputs": [1, 2]}, features=["x"]) == [{"x": 1}, {"x": 2}]
    assert rows({"instances": [[1], [2]]}, features=["x"]) == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize("content_type", ["", "application/json", "Application/JSON; charset=utf-8"])
def test_json_is_read_under_each_name_it_has(content_type):
    assert rows({"inputs": TWO}, content_type) == TWO


def test_no_rows_are_no_rows():
    for document in ({"inputs": []}, {"inputs": {}}, {"dataframe_records": []}, {"inputs": {"x": []}}):
        assert rows(document) == []


@pytest.mark.parametrize(
    ("document", "status", "word"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b"\xff", 400, "JSON"),
        (b'{"inputs": [[NaN, 1]]}', 400, "JSON"),
        (b"[" * 100_000, 400, "JSON"),
        ([], 422, "a list"),
        ({}, 422, "nothing"),
        ({"rows": []}, 422, "rows"),
        ({"inputs": [], "instances": []}, 422, "exactly one"),
        ({"inputs": [], "more": 1}, 422, "more"),
        ({"inputs": [], "params": {"t": 1}}, 422, "params"),
        ({"inputs": None}, 422, "null"),
        ({"inputs": [[1]]}, 422, "x, y"),
        ({"inputs": [[1, 2, 3]]}, 422, "x, y"),
        ({"inputs": [1]}, 422, "row 0"),
        ({"inputs": [[1, 2], {"x": 1}]}, 422, "row 1"),
        ({"inputs": [{"x": 1}, [1, 2]]}, 422, "row 1"),
        ({"inputs": {"x": [1, 2], "y": [1]}}, 422, "'y'"),
        ({"inputs": {"x": 1}}, 422, "'x'"),
        ({"dataframe_records": [1]}, 422, "row 0"),
        ({"dataframe_split": {"columns": ["x"]}}, 422, "data"),
        ({"dataframe_split": {"columns": ["x", "x"], "data": []}}, 422, "'x'"),
        ({"dataframe_split": {"columns": [0, 1], "data": []}}, 422, "columns"),
        ({"dataframe_split": {"columns": "xy", "data": []}}, 422, "columns"),
        ({"dataframe_split": {"columns": ["x"], "data": {}}}, 422, "data"),
        ({"dataframe_split": {"columns": ["x"], "data": [[1], [1, 2]]}}, 422, "row 1"),
        ({"dataframe_split": {"columns": ["x"], "data": [], "dtype": 1}}, 422, "index"),
    ],
)
def test_anything_else_is_a_problem_that_names_the_place(document, status, word):
    problem = rows(document)

    assert isinstance(problem, Problem)
    assert (problem.status, problem.code) == (status, "ST730" if status == 400 else "ST731")
    assert word in problem.detail


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"inputs": {"x": [1, 2, 3]}}', ""),
        (b'{"instances": [[1], [2], [3]]}', ""),
        (b'{"dataframe_records": [{}, {}, {}]}', ""),
        (b'{"dataframe_split": {"columns": ["x"], "data": [[1], [2], [3]]}}', ""),
        (b"x\n1\n\n2\n3\n", "text/csv"),
    ],
)
def test_more_rows_than_are_taken_are_refused_and_as_many_are_not(body, content_type):
    problem = mlflow.rows(body, content_type, ["x"], most_rows=2)

    assert isinstance(problem, Problem)
    assert (problem.status, problem.code) == (422, "ST736")
    assert len(mlflow.rows(body, content_type, ["x"], most_rows=3)) == 3


def test_another_content_type_is_415():
    problem = rows({"inputs": TWO}, "application/xml")

    assert isinstance(problem, Problem)
    assert (problem.status, problem.code) == (415, "ST735")


def test_a_csv_has_the_types_of_its_columns():
    body = b'\xef\xbb\xbfx,y,b,n,s\r\n1,"a, b",true,,007\r\n2.5,c,False,1e3,8\r\n'

    got = rows(body, "text/csv; charset=utf-8", types={"s": "string"})

    assert got == [
        {"x": 1, "y": "a, b", "b": True, "n": None, "s": "007"},
        {"x": 2.5, "y": "c", "b": False, "n": 1000.0, "s": "8"},
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 422), (b"\n1,2\n", 422), (b"x,x\n1,2\n", 422), (b"x,y\n1\n", 422), (b'x\n"a', 400), (b"\xff", 400)],
)
def test_a_broken_csv_is_a_problem(body, status):
    problem = rows(body, "text/csv")

    assert isinstance(problem, Problem)
    assert problem.status == status


def test_an_answer_is_the_lane_s_text_with_the_ids_where_asked():
    assert json.loads(mlflow.answer(b"[1.5,null]")) == {"predictions": [1.5, None]}
    assert json.loads(mlflow.answer(b"[1]", ["i"])) == {"predictions": [1], "ids": ["i"]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["columns", "data", "index", "x", "y"]), inner)
    ),
    max_leaves=15,
)
FORMS = st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances"])


def is_rows_or_problem(got) -> bool:
    if isinstance(got, Problem):
        return 400 <= got.status < 500 and bool(got.body())
    return all(isinstance(row, dict) and all(isinstance(name, str) for name in row) for row in got)


@given(
    st.binary() | JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["", "text/csv", "application/json"]),
)
def test_any_body_gives_rows_or_a_problem(body, content_type):
    assert is_rows_or_problem(rows(body, content_type))


@given(FORMS, JSON, st.lists(st.text(), max_size=3, unique=True))
def test_anything_in_the_place_of_the_rows_gives_rows_or_a_problem(form, value, features):
    assert is_rows_or_problem(rows({form: value}, features=features))


@given(st.text())
def test_any_csv_text_gives_rows_or_a_problem(text):
    assert is_rows_or_problem(rows(text.encode("utf-8", "replace"), "text/csv"))
