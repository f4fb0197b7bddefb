"""Problems: every error becomes one, its body can always be written, and it tells nothing of the server's own disk."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytrue.errors import Conflict, Corrupt, InvalidInput, NotFound, Refused, StaytrueError, Unavailable
from staytrue.serve.problem import UNEXPECTED, Problem, fault, problem_of, shown


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (InvalidInput, 422),
        (Refused, 403),
        (NotFound, 404),
        (Conflict, 409),
        (Unavailable, 503),
        (Corrupt, 500),
        (StaytrueError, 500),
    ],
)
def test_every_kind_of_error_has_its_status_and_keeps_its_code(kind, status):
    problem = problem_of(kind("ST999", "Something."))

    assert (problem.status, problem.code) == (status, "ST999")
    assert (b"retry-after" in dict(problem.headers)) == (status == 503)


@pytest.mark.parametrize("kind", [InvalidInput, Refused, NotFound, Conflict, Unavailable, Corrupt])
@pytest.mark.parametrize(
    "path",
    [
        "/srv/models/x",
        "'/srv/secret place/x.db'",
        "~/secret",
        "C:\\secret\\x",
        "C:/secret/x",
        "\\\\host\\secret",
        '"/secret"',
        "(/secret/x)",
    ],
)
def test_no_path_of_the_server_reaches_a_caller(kind, path):
    body = problem_of(kind("ST999", f"Can't read {path}: it is gone. Then try again.", path=path)).body().decode()

    assert not any(word in body for word in ("secret", "srv", "models", "x.db", "host"))


@pytest.mark.parametrize(
    "message", ["Got 1/2 of it.", "Expected 3 / 4.", "See https://x.example/a for more.", "rows/s", "a: b"]
)
def test_what_is_no_path_stays(message):
    assert problem_of(InvalidInput("ST999", message)).detail == message


def test_what_is_unexpected_says_nothing_but_where_to_look():
    assert (UNEXPECTED.status, UNEXPECTED.code) == (500, "ST740")


def test_its_headers_tell_type_and_length():
    problem = Problem(status=404, code="ST733", detail="é", headers=((b"x", b"y"),))

    headers = dict(problem.all_headers())

    assert headers == {
        b"content-type": b"application/problem+json",
        b"content-length": b"%d" % len(problem.body()),
        b"x": b"y",
    }


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.text(st.characters(codec=None)), ANYTHING, ANYTHING)
def test_any_text_and_value_can_be_written(detail, got, expected):
    problem = Problem(
        status=422, code="ST731", detail=detail, errors=[fault(detail, row=0, got=got, expected=expected)]
    )

    said = json.loads(problem.body(), parse_constant=pytest.fail)

    assert said["code"] == "ST731"
    assert len(str(said["errors"][0].get("got", ""))) <= 80


@given(ANYTHING)
def test_what_is_shown_of_a_value_is_short(value):
    assert len(str(shown(value))) <= 80


@pytest.mark.parametrize(
    "value", [10**5000, -(10**5000), [10**5000], {"a": 10**5000}], ids=["up", "down", "list", "dict"]
)
def test_a_number_of_more_digits_than_python_writes_is_shown(value):
    assert len(shown(value)) <= 80


def test_a_list_nested_without_end_is_shown():
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]

    assert isinstance(shown(nested), str)
