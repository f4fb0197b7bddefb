"""Sketches: what they say of a column, and how far apart two are."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel import sketch_text
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.sketch import coverage, describe, distinct, kind_of, merge, moved, psi, quantile, sketch


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


def test_texts_say_what_they_are_made_of():
    made = of(["Ab 1", "ü!", "", None, "漢字", "Ab 1"], "text")["characters"]

    assert made["texts"] == 5
    assert made["sums"] == {"letters": 4, "digits": 2, "spaces": 2, "punctuation": 1, "non_ascii": 3, "upper": 2}
    assert made["shares"]["non_ascii"] == [3, 0, 0, 0, 1, 0, 0, 0, 1]
    assert made["shares"]["letters"] == [3, 0, 0, 0, 2, 0, 0, 0, 0]
    assert all(sum(bins) == 5 for bins in made["shares"].values())


def test_odd_texts_are_counted_too():
    made = of(["\ud800", "\udc00", "\x00", "x" * 100_000, "\U0001f600\u200b"], "text")["characters"]

    assert made["sums"]["non_ascii"] == 4
    assert made["sums"]["letters"] == 100_000


def test_characters_are_counted_alike_in_batches(monkeypatch):
    texts = [f"{'A' * (at % 5)}{at}" for at in range(300)]
    whole = of(texts, "text")

    monkeypatch.setattr(sketch_text, "_BATCH", 64)

    assert of(texts, "text") == whole


def test_a_sketch_that_knows_no_characters_merges_with_one_that_does():
    new = of(["a1", "b"], "text")
    old = {field: value for field, value in new.items() if field != "characters"}

    merged = merge(old, new)

    assert merged["characters"] == new["characters"]
    assert merged["count"] == 4
    assert "characters" not in merge(old, old)
    assert moved(old, new) == psi(old, new) == 0
    assert canonical_json(merge(merge(old, new), new)) == canonical_json(merge(old, merge(new, new)))


def test_a_sketch_that_knows_no_items_merges_with_one_that_does():
    new = of([np.array([7, 8])], "list")
    old = {"is": "list", "count": 1, "nulls": 0, "lengths": new["lengths"]}

    assert merge(old, new)["items"] == new["items"]
    assert merge(old, old) == old | {"count": 2, "lengths": merge(old["lengths"], old["lengths"])}
    assert coverage(old)["distinct"] == 0


def test_rankings_say_which_items_they_show_and_where():
    shown = coverage(of([np.arange(10), np.array([0, 3]), [], None, ["a", None, 2.5]], "list"))

    assert (shown["items"], shown["distinct"]) == (13, 11)
    assert shown["top"] == {"0": 2, "3": 2} | dict.fromkeys(("1", "2", "4", "5", "6", "7", "8", "9"), 1)
    assert shown["places"]["1"] == {"items": 3, "distinct": 2, "top": {"0": 2, "a": 1}}
    assert {place: one["items"] for place, one in shown["places"].items()} == {"1": 3, "2": 3, "4": 4, "8": 3}


def test_vectors_and_keys_have_no_items():
    assert "items" not in of([np.ones(3), np.zeros(3)], "list")
    assert "items" not in of(["key-1", "key-2"], "list")


def test_distinct_counts_are_right_to_some_percent():
    for n in (10, 1_000, 1_001, 20_000):
        assert distinct(of([f"user-{at}" for at in range(n)] * 2, "text")) == pytest.approx(n, rel=0.1)
    assert coverage(of([np.arange(at, at + 20) for at in range(5_000)], "list"))["distinct"] == pytest.approx(
        5_019, rel=0.1
    )


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
