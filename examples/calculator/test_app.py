"""What must hold of the calculator, whoever changes it: `pytest` in this folder."""

import math
from pathlib import Path

import pytest

from staytrue import testing
from staytrue.errors import InvalidInput


@pytest.fixture(scope="module")
def bench():
    with testing.bench(Path(__file__).with_name("app.py")) as bench:
        bench.deploy()
        yield bench


def answer(bench, expression):
    return bench.answers([{"expression": expression}])[0]


@pytest.mark.parametrize(
    ("expression", "value"),
    [("1 + 1", 2), ("2 + 3 * 4", 14), ("(2 + 3) * 4", 20), ("2 ** 3 ** 2", 512), ("--1", 1), ("1e3 / 8", 125)],
)
def test_it_calculates_as_school_has_it(bench, expression, value):
    assert answer(bench, expression) == value


def test_every_row_has_its_own_answer(bench):
    assert bench.answers([{"expression": f"{n} * {n}"} for n in range(5)]) == [0, 1, 4, 9, 16]


def test_a_root_is_close(bench):
    assert math.isclose(answer(bench, "2 ** 0.5") ** 2, 2)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "1 / 0",
        "two",
        "__import__('os')",
        "[1]",
        "True",
        "10 ** 400",
        "(-8) ** 0.5",
        "(" * 150,
        "1 + " * 99 + "1",
    ],
)
def test_what_is_no_number_is_an_error_with_words(bench, expression):
    with pytest.raises(InvalidInput, match=r"^ST303 calculate raised \w+ on 1 rows: "):
        answer(bench, expression)
