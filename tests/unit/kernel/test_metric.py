"""Metrics: what a loss is worth, and how each way of giving no loss is named."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.metric import METRICS, metric


@pytest.mark.parametrize(
    ("name", "answers", "labels", "losses"),
    [
        ("mae", [1, 4.0], [2, 2], [1, 2]),
        ("mae", np.array([[1.0], [4.0]]), pd.Series([2, 2]), [1, 2]),
        ("mae", [Decimal("1.5"), 2], [1.0, 2.0], [0.5, 0]),
        ("rmse", [1, 4], [2, 2], [1, 4]),
        ("mape", [110, -50], [100, -100], [0.1, 0.5]),
        ("pinball:0.9", [0, 10], [10, 0], [9, 1]),
        ("log_loss", [0.5, 0.25], [1, 0], [math.log(2), -math.log(0.75)]),
        ("log_loss", [0.0], [1], [-math.log(1e-15)]),
        ("log_loss", [[0.2, 0.3, 0.5]], [2], [math.log(2)]),
        ("brier", [0.8, 0.3], [True, False], [0.04, 0.09]),
        ("brier", [[0.2, 0.8], [0.7, 0.3]], [1, 0], [0.04, 0.09]),
        ("error_rate", ["a", "b"], ["a", "c"], [0, 1]),
        ("error_rate", np.array([1, 2]), [1.0, 3.0], [0, 1]),
        ("error_rate", pd.Series(["a", "b"], dtype="category"), pd.Series(["b", "b"]), [1, 0]),
        ("hit@2", [["a", "b", "c"], ["a", "b", "c"], []], ["b", "c", "c"], [0, 1, 1]),
        ("hit@1", [["a", "b"], [1, 2]], [{"b", "a"}, [2]], [0, 1]),
        ("ndcg@3", [["a", "b", "c"], ["a", "b", "c"]], ["b", {"a", "b"}], [1 - 1 / math.log2(3), 0]),
        ("ndcg@2", [["a", "a"]], [{"a", "b"}], [1 - 1 / (1 + 1 / math.log2(3))]),
    ],
)
def test_a_loss_is_what_the_metric_says(name: str, answers: object, labels: object, losses: list[float]) -> None:
    found = metric(name).losses(answers, labels, None)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, losses, atol=1e-12)


@pytest.mark.parametrize("library", ["pyarrow", "polars", "arro3.core"])
def test_columns_of_other_libraries_count_alike(library: str) -> None:
    module = pytest.importorskip(library)
    if library == "polars":
        numbers, texts = module.Series([1.0, 3.0]), module.Series(["a", "b"])
    elif library == "pyarrow":
        numbers, texts = module.array([1.0, 3.0]), module.array(["a", "b"])
    else:
        numbers, texts = (
            module.Array([1.0, 3.0], module.DataType.float64()),
            module.Array(["a", "b"], module.DataType.string()),
        )
    assert metric("mae").losses(numbers, [1, 1], None).tolist() == [0.0, 2.0]
    assert metric("error_rate").losses(["a", "c"], texts, None).tolist() == [0.0, 1.0]


def test_the_summary_is_the_number_that_people_know() -> None:
    assert metric("mae").summary(np.array([1.0, 2.0])) == 1.5
    assert metric("rmse").summary(np.array([9.0, 7.0])) == pytest.approx(8**0.5)
    assert math.isnan(metric("rmse").summary(np.empty(0)))


def test_no_rows_have_no_losses() -> None:
    for name in ("mae", "log_loss", "error_rate", "ndcg@5"):
        assert metric(name).losses([], [], None).shape == (0,)


def test_every_documented_metric_exists() -> None:
    for name in METRICS:
        spec = name.replace("Q", "0.5").replace("K", "3")
        assert metric(spec).name == spec


@pytest.mark.parametrize(
    ("code", "name", "answers", "labels", "position"),
    [
        ("ST521", "mae", [1.0], [1.0, 2.0], None),
        ("ST521", "hit@3", [["a"]], ["a", "b"], None),
        ("ST522", "mae", None, [1.0], None),
        ("ST522", "mae", 3.0, [1.0], None),
        ("ST522", "mae", ["1.5"], [1.0], 0),
        ("ST522", "mae", [1.0, "x"], [1.0, 2.0], 1),
        ("ST522", "mae", [1.0, 1j], [1.0, 2.0], 1),
        ("ST522", "mae", [[1.0, 2.0]], [1.0], None),
        ("ST522", "mae", [[1.0], [1.0, 2.0]], [1.0, 2.0], None),
        ("ST522", "mae", np.array(["2020-01-01"], dtype="M8[D]"), [1.0], 0),
        ("ST522", "error_rate", ["1", "2"], [1, 2], 0),
        ("ST522", "error_rate", [1, 2], ["1", "2"], 0),
        ("ST522", "hit@3", [[["a"]]], ["a"], 0),
        ("ST523", "mae", [1.0, math.nan], [1.0, 2.0], 1),
        ("ST523", "mae", [1.0, 2.0], [1.0, math.inf], 1),
        ("ST523", "mae", [1.0, None], [1.0, 2.0], 1),
        ("ST523", "mae", pd.Series([1, None], dtype="Int64"), [1.0, 2.0], 1),
        ("ST523", "rmse", [1e200], [-1e200], 0),
        ("ST523", "error_rate", ["a", None], ["a", "b"], 1),
        ("ST523", "error_rate", ["a", "b"], ["a", math.nan], 1),
        ("ST524", "log_loss", [0.5, 1.2], [1, 0], 1),
        ("ST524", "brier", [[0.5, 0.6]], [1], 0),
        ("ST525", "log_loss", [0.5, 0.5], [0, 2], 1),
        ("ST525", "brier", [0.5], [0.5], 0),
        ("ST525", "mape", [1.0, 1.0], [1.0, 0.0], 1),
        ("ST525", "ndcg@3", [["a"], ["a"]], ["a", set()], 1),
        ("ST525", "hit@3", [["a"]], [None], 0),
        ("ST526", "hit@3", ["abc"], ["a"], 0),
        ("ST526", "ndcg@3", [["a"], None], ["a", "a"], 1),
    ],
)
def test_what_is_no_loss_is_refused_by_position(
    code: str, name: str, answers: object, labels: object, position: int | None
) -> None:
    with pytest.raises(InvalidInput) as caught:
        metric(name).losses(answers, labels, None)
    assert caught.value.code == code
    assert caught.value.facts.get("position") == position
    assert position is None or f"number {position} " in caught.value.message


@pytest.mark.parametrize(
    "spec", ["maw", "", "pinball", "pinball:1", "pinball:x", "ndcg", "ndcg@0", "ndcg@-1", "hit@1.5", 7, None]
)
def test_an_unknown_metric_is_refused(spec: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        metric(spec)  # type: ignore[arg-type]
    assert caught.value.code == "ST520"


def test_a_misspelt_metric_is_guessed() -> None:
    with pytest.raises(InvalidInput, match="Did you mean 'log_loss'"):
        metric("logloss")


def test_a_users_function_gets_all_three_untouched() -> None:
    answers, labels, rows = ["a"], ("b",), {"nights": [3]}

    def nights_lost(*given: object) -> list[int]:
        assert [id(value) for value in given] == [id(answers), id(labels), id(rows)]
        return [3]

    found = metric(nights_lost)
    assert found.name == "nights_lost"
    assert found.losses(answers, labels, rows).tolist() == [3.0]
    assert found.summary(np.array([3.0, 5.0])) == 4.0


@pytest.mark.parametrize(
    ("code", "given"),
    [
        ("ST528", 0.5),
        ("ST528", [1.0]),
        ("ST528", [[1.0], [2.0]]),
        ("ST528", [1.0, math.nan]),
        ("ST528", [1.0, -math.inf]),
        ("ST528", ["a", "b"]),
        ("ST528", None),
    ],
)
def test_a_users_function_must_give_one_finite_loss_a_row(code: str, given: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        metric(lambda answers, labels, rows: given).losses([1, 2], [1, 2], None)
    assert caught.value.code == code


def test_a_users_function_that_raises_is_named() -> None:
    def ratio(answers: list[int], labels: list[int], rows: object) -> float:
        return answers[0] / labels[0]

    with pytest.raises(InvalidInput, match="'ratio' raised ZeroDivisionError") as caught:
        metric(ratio).losses([1], [0], None)
    assert caught.value.code == "ST527"
