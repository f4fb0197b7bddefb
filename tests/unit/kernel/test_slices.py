"""Slices: a planted one is found and told as a rule, and where nothing is there, nothing is said."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.slices import found


def people(rng: np.random.Generator, n: int = 4000) -> dict[str, np.ndarray]:
    return {
        "age": rng.integers(17, 90, n),
        "hours": np.where(rng.random(n) < 0.05, np.nan, rng.normal(40, 12, n).round()),
        "education": rng.choice(list("abcdefghijkl"), n, p=np.array([30, 20, 15, 8, 7, 5, 4, 3, 3, 2, 2, 1]) / 100),
        "work": rng.choice(np.array(["private", "self", None], object), n, p=[0.7, 0.2, 0.1]),
        "sex": rng.choice(["m", "f"], n),
        "member": rng.random(n) < 0.5,
    }


def worst_by_mean(columns, losses) -> float:
    """What most tools show: the value of a column with the highest mean loss. There always is one."""
    means = [
        losses[column == value].mean()
        for column in columns.values()
        if column.dtype.kind in "OUb"
        for value in set(column.tolist())
        if (column == value).sum() >= 30
    ]
    return max(means) / losses.mean() - 1


def test_a_planted_pair_is_found_and_a_null_is_left_alone() -> None:
    hits = false = naive = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        columns, day = people(rng), np.arange(4000) // 50
        errors = (rng.random(4000) < 0.15).astype(float)
        false += bool(found(columns, errors, rng=rng, ticks=day))
        naive += worst_by_mean(columns, errors) > 0.1
        planted = (columns["education"] == "b") & (columns["age"] > 50)
        errors[planted] = rng.random(planted.sum()) < 0.35
        rules = [one.rule for one in found(columns, errors, rng=rng, ticks=day)[:3]]
        hits += any("education = b" in rule and "age" in rule for rule in rules)
    assert hits >= 36
    assert false <= 40 * 0.05 + 3 * (40 * 0.05 * 0.95) ** 0.5
    assert naive >= 25


def test_one_bad_day_makes_no_slice_though_its_rows_are_many() -> None:
    false = naive = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        columns, day = people(rng, 3000), np.arange(3000) // 100
        losses = rng.exponential(1, 3000)
        # a fair brings guests of one kind, and that day goes badly for everybody
        columns["work"] = np.where(day == 7, "fair", columns["work"])
        losses[day == 7] *= 4
        false += bool(found(columns, losses, rng=rng, ticks=day))
        naive += bool(found(columns, losses, rng=rng))
    assert false <= 3
    assert naive >= 15


@pytest.mark.parametrize(
    ("where", "rule"),
    [
        (lambda c: c["work"] == None, "work = none"),  # noqa: E711 - by element
        (lambda c: np.isnan(c["hours"]), "hours is missing"),
        (lambda c: c["age"] <= 25, "age <= 25"),
        (lambda c: c["member"], "member = True"),
        (lambda c: (c["sex"] == "f") & c["member"], "sex = f and member = True"),
    ],
)
def test_rules_can_be_read(where, rule: str) -> None:
    rng = np.random.default_rng(3)
    columns = people(rng)
    losses = rng.exponential(1, 4000) * np.where(where(columns), 3, 1)
    first = found(columns, losses, rng=rng)[0]
    assert first.rule == rule
    assert first.rows == int(where(columns).sum())
    assert (first.excess > 1, 0 < first.share < 1, first.p < 1e-4) == (True, True, True)
    assert json.loads(json.dumps(first.document(), allow_nan=False))["sentence"].startswith(f"where {rule} (")


def test_the_same_rows_and_seed_give_the_same_slices_whatever_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    columns, day = people(rng), np.arange(4000) // 50
    losses = rng.exponential(1, 4000) * np.where(columns["sex"] == "f", 2, 1)
    one = found(columns, losses, rng=np.random.default_rng(1), ticks=day)
    mixed = rng.permutation(4000)
    other = found(
        {k: v[mixed] for k, v in columns.items()}, losses[mixed], rng=np.random.default_rng(1), ticks=day[mixed]
    )
    assert [s.rule for s in one] == [s.rule for s in other] != []


def test_one_absurd_row_makes_no_slice() -> None:
    rng = np.random.default_rng(0)
    columns = people(rng)
    losses = rng.exponential(1, 4000)
    losses[np.flatnonzero(columns["education"] == "l")[:2]] = 1e12
    assert found(columns, losses, rng=rng) == []


def test_nothing_is_found_in_nothing() -> None:
    rng = np.random.default_rng(0)
    assert found({}, [], rng=rng) == []
    assert found({}, rng.random(500), rng=rng) == []
    assert found({"a": ["x"] * 500, "b": [math.nan] * 500, "c": [7] * 500}, rng.random(500), rng=rng) == []
    assert found({"a": rng.choice(["x", "y"], 500)}, np.zeros(500), rng=rng) == []
    assert found({"a": rng.choice(["x", "y"], 100)}, rng.random(100), rng=rng) == []


def test_unique_texts_and_unicode_are_no_trouble() -> None:
    rng = np.random.default_rng(0)
    city = rng.choice(["東京", "straße", "a and b = c"], 2000)
    columns = {"id": np.array([f"row {i}" for i in range(2000)]), "city": city}
    losses = rng.exponential(1, 2000) * np.where(city == "東京", 3, 1)
    assert [one.rule for one in found(columns, losses, rng=rng)] == ["city = 東京"]


@pytest.mark.parametrize(
    "call",
    [
        lambda rng: found({"a": [1]}, [1.0, 2.0], rng=rng),
        lambda rng: found({"a": [1, 2]}, [1.0, math.nan], rng=rng),
        lambda rng: found({"a": [1, 2]}, ["1", "2"], rng=rng),
        lambda rng: found({"a": [1, 2]}, [1.0, 2.0], rng=rng, ticks=[1.5, 2.5]),
        lambda rng: found({"a": [1, 2]}, [1.0, 2.0], rng=rng, ticks=[1]),
        lambda rng: found({"a": [1, 2]}, [1.0, 2.0], rng=rng, level=0),
    ],
)
def test_what_makes_no_sense_is_refused(call) -> None:
    with pytest.raises(InvalidInput) as caught:
        call(np.random.default_rng(0))
    assert caught.value.code == "ST956"
