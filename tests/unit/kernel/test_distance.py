"""Distances between two counts, and what an alarm says of them."""

from __future__ import annotations

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.contract import Column
from staytrue.kernel.distance import distances, explain, moves
from staytrue.kernel.profile import profile, reference
from staytrue.kernel.sketch import kind_of, sketch


def both(before, after, type_name="float64", name="x"):
    """The bins of `before` and the counts of both."""
    columns = []
    for values in (before, after):
        valid = np.array([value is not None for value in values], bool)
        array = np.array([0 if v is None and type_name != "string" else v for v in values])
        columns.append(
            Column(type=type_name, values=array.astype(object) if type_name == "string" else array, valid=valid)
        )
    first = columns[0]
    over = reference({name: sketch(first.values, first.valid, kind_of(type_name))})
    return over.bins[name], *(profile(over, {name: one}).counts[name] for one in columns)


def test_a_shift_of_half_a_spread_measures_as_that():
    rng = np.random.default_rng(1)
    bins, before, after = both(rng.normal(50, 5, 50_000), rng.normal(52.5, 5, 50_000))

    got = distances(bins, before, after)

    assert got.ks == pytest.approx(0.197, abs=0.015)  # 2 * Phi(0.25) - 1
    assert got.wasserstein == pytest.approx(0.5, abs=0.03)
    assert got.psi == pytest.approx(0.25, abs=0.03)
    assert got.share_moved == pytest.approx(0.197, abs=0.015)


def test_distances_agree_with_scipy_on_the_same_shares():
    spatial = pytest.importorskip("scipy.spatial.distance")
    rng = np.random.default_rng(2)
    bins, before, after = both(list(rng.choice(list("abc"), 999)), list(rng.choice(list("abcd"), 999)), "string")

    got = distances(bins, before, after)

    assert got.js == pytest.approx(spatial.jensenshannon(before, after, base=2))
    assert got.ks is got.wasserstein is None


def test_the_sentence_names_the_border_that_rows_wandered_over():
    before = [float(at % 122) for at in range(1_220)]
    after = [float(at % 122) + (100 if at % 5 < 2 else 0) for at in range(1_220)]

    sentence = explain(*both(before, after, name="lead_time"))

    assert sentence == "The share of lead_time at 122 or above rose from 0 % to 33 %."


def test_the_sentence_names_the_smaller_side():
    rng = np.random.default_rng(3)
    sentence = explain(
        *both(rng.uniform(100, 200, 9_999), rng.uniform(100, 200, 9_999) - 45 * (rng.random(9_999) < 0.5))
    )

    assert sentence.startswith("The share of x below 1")
    assert " rose from " in sentence


@pytest.mark.parametrize(
    ("before", "after", "type_name", "sentence"),
    [
        ([1.0, 2.0] * 50, [1.0, None] * 50, "float64", "The share of missing x rose from 0 % to 50 %."),
        ([1.0, 2.0] * 50, [1.0, np.nan] * 50, "float64", "The share of x NaN or infinite rose from 0 % to 50 %."),
        ([-1.0, 2.0] * 50, [0.0, 2.0] * 50, "float64", "The share of x = 0 rose from 0 % to 50 %."),
        (
            ["a", "b"] * 50,
            ["a", "é"] * 50,
            "string",
            "The share of x hardly or never seen in training rose from 0 % to 50 %.",
        ),
        (["a", "b"] * 50, ["a"] * 99 + ["b"], "string", "The share of x = 'a' rose from 50 % to 99 %."),
        ([True] * 199 + [False], [True, False] * 50, "bool", "The share of x = false rose from 0 % to 50 %."),
        ([1.0, 2.0], [1.0, 2.0], "float64", "x did not move."),
        ([1.0, 2.0], [], "float64", "x did not move."),
    ],
)
def test_the_sentence_says_what_moved(before, after, type_name, sentence):
    assert explain(*both(before, after, type_name)) == sentence


def test_a_stuck_value_is_named_rather_than_a_side():
    rng = np.random.default_rng(4)
    before = rng.normal(50, 5, 9_999)

    sentence = explain(*both(before, np.where(rng.random(9_999) < 0.6, 50.25, before)))

    assert sentence.startswith("The share of x from 50 to ")


def test_moves_come_farthest_first():
    found = moves(*both(["a", "b", "c", "d"] * 25, ["a"] * 60 + ["b"] * 30 + ["c"] * 10, "string"), top=2)

    assert [(move.what, round(move.before, 2), round(move.after, 2)) for move in found] == [
        ("x = 'a'", 0.25, 0.6),
        ("x = 'd'", 0.25, 0.0),
    ]


def test_nulls_alone_do_not_move_the_values():
    got = distances(*both([1.0, 2.0, 3.0] * 10, [1.0, 2.0, 3.0, None, None, None] * 10))

    assert got.ks == 0.5
    assert got.wasserstein == 0


def test_counts_of_other_cells_are_refused():
    bins, before, _ = both([1.0], [2.0])

    for wrong in (before[:-1], before - 1, np.zeros((2, len(before)), np.int64)):
        with pytest.raises(InvalidInput, match="ST907"):
            distances(bins, before, wrong)
