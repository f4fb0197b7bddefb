"""Sketches: what they say of a column, and how far apart two are."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.sketch import describe, kind_of, merge, moved, psi, quantile, sketch


def of(values, kind="number"):
    present = [value is not None for value in values]
    filled = [0 if value is None and kind in {"number", "time"} else value for value in values]
    array = np.array(filled, dtype=object if kind in {"text", "list", "null"} else None)
    return sketch(array, np.array(present, bool), kind)


def test_a_quantile_is_right_to_one_percent_over_any_range():
    rng = np.random.default_rng(7)
    for values in (
        rng.lognormal(3, 4, 9_999),
        -rng.lognormal(0, 2, 9_999),
        rng.normal(0, 1e-9, 9_999),
        rng.uniform(1e300, 1e308, 999),
    ):
        made = sketch(values, np.ones(len(values), bool), "number")
        for q in (0.01, 0.25, 0.5, 0.9, 0.999):
            exact = np.quantile(values, q, method="lower")
            assert quantile(made, q) == pytest.approx(exact, rel=0.01)
        assert (quantile(made, 0), quantile(made, 1)) == (values.min(), values.max())


def test_whole_numbers_have_whole_quantiles():
    assert quantile(of([1, 2, 2, 3, 100]), 0.5) == 2.0


def test_the_quantile_of_nothing_is_none():
    assert quantile(of([None, None]), 0.5) is None
    assert quantile(of([float("nan"), float("inf")]), 0.5) is None
    assert quantile(of([None], "null"), 0.5) is None


def test_what_is_no_number_is_counted_apart():
    told = describe(of([1.0, 0.0, -0.0, None, float("nan"), float("inf"), float("-inf")]))

    assert (told["rows"], told["nulls"], told["nan"], told["infinite"], told["zeros"]) == (7, 1, 1, 2, 2)
    assert (told["min"], told["max"]) == (0.0, 1.0)


def test_mean_and_spread_are_those_of_exact_arithmetic():
    values = np.array([1e16, 1.0, -1e16, 1.0])

    told = describe(sketch(values, np.ones(4, bool), "number"))

    assert told["mean"] == 0.5  # floats added in this order give 0.25
    assert told["std"] == pytest.approx(1e16 / math.sqrt(2))
    assert describe(of([1e200, 2e200]))["std"] is None


def test_times_count_by_day():
    day = 86_400_000_000
    made = of([0, day, day + 5, None, 3 * day], "time")

    assert made["at"] == [0, 1, 3]
    assert made["n"] == [1, 2, 1]
    assert quantile(made, 0.5) == 1.5 * day


def test_texts_keep_their_frequent_names():
    told = describe(of(["a", "b", "a", None], "text"))

    assert told["top"] == {"a": 2, "b": 1}
    assert (told["nulls"], told["categories"], told["more"]) == (1, 2, False)


def test_texts_beyond_a_thousand_categories_stay_small():
    made = of([f"user-{i}" for i in range(50_000)], "text")

    assert len(made["categories"]) == 1_000
    assert sum(made["categories"].values()) + sum(made["other"].values()) == 50_000
    assert describe(made)["more"]
    assert len(canonical_json(made)) < 40_000


def test_long_texts_do_not_make_long_sketches():
    assert len(canonical_json(of(["x" * 100_000, "y" * 100_000], "text"))) < 1_000


def test_lists_say_how_long_they_are():
    told = describe(of([np.arange(3), np.arange(5), None], "list"))

    assert (told["rows"], told["nulls"], told["min"], told["max"]) == (3, 1, 3.0, 5.0)


def test_sketches_are_json():
    for made in (
        of([1.5, None]),
        of([5], "time"),
        of(["ü", None], "text"),
        of([True], "bool"),
        of([None], "null"),
        of([[1]], "list"),
    ):
        assert json.loads(canonical_json(made)) == made


def test_equal_distributions_have_not_moved_and_others_have():
    rng = np.random.default_rng(3)
    a, b = (sketch(rng.normal(50, 5, 20_000), np.ones(20_000, bool), "number") for _ in range(2))
    c = sketch(rng.normal(55, 5, 20_000), np.ones(20_000, bool), "number")

    assert moved(a, b) < 0.03
    assert psi(a, b) < 0.01
    assert moved(a, c) == pytest.approx(0.383, abs=0.02)  # the gap of two normals one standard deviation apart
    assert psi(a, c) > 0.7


def test_categories_move_by_the_share_that_changed():
    assert moved(of(["a"] * 8 + ["b"] * 2, "text"), of(["a"] * 5 + ["c"] * 5, "text")) == pytest.approx(0.5)
    assert moved(of([True, False], "bool"), of([True, True], "bool")) == pytest.approx(0.5)


def test_many_categories_compare_like_few():
    a = of([f"user-{i % 3000}" for i in range(9_000)], "text")
    b = of([f"user-{i % 200}" for i in range(9_000)], "text")

    assert moved(a, a) == 0
    assert moved(a, b) > 0.6


def test_nulls_are_a_move_too():
    assert moved(of([1.0, 2.0]), of([1.0, None])) >= 0.5
    assert moved(of([1.0, 2.0]), of([None, None], "null")) == 1.0
    assert psi(of([1.0] * 50), of([None] * 50, "null")) > 1
    assert moved(of([]), of([1.0])) == 0.0


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InvalidInput, match="ST221"):
        merge(of([1]), of(["a"], "text"))
    with pytest.raises(InvalidInput, match="ST222"):
        quantile(of([1]), 1.5)
    with pytest.raises(InvalidInput, match="ST222"):
        quantile(of(["a"], "text"), 0.5)


def test_every_type_has_a_kind():
    types = (
        "int64",
        "uint64",
        "float32",
        "bool",
        "string",
        "date",
        "timestamp",
        "timestamp[UTC]",
        "null",
        "list<float32>[8]",
    )

    assert [kind_of(name) for name in types] == ["number"] * 3 + [
        "bool",
        "text",
        "time",
        "time",
        "time",
        "null",
        "list",
    ]
