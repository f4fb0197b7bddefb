"""Training data: what is old, unlike the newest rows, or biased is said in words; what is none of it is left alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.segments import SegmentSums, fold_segments
from staytrue.kernel.sketch import Sketch, merge, sketch
from staytrue.kernel.training_data import contradicted, outdated, skewed, underrepresented, unlike

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def numbers(values, valid=None) -> Sketch:
    values = np.asarray(values, float)
    return sketch(values, np.ones(len(values), bool) if valid is None else np.asarray(valid), "number")


def texts(values) -> Sketch:
    values = np.asarray(values, object)
    return sketch(np.where(values == None, "", values), values != None, "text")  # noqa: E711 - by element


def days_ago(days) -> Sketch:
    at = [int((NOW - timedelta(days=float(d))).timestamp() * 1e6) for d in days]
    return sketch(np.array(at), np.ones(len(at), bool), "time")


# ---------------------------------------------------------------- outdated


def test_age_alone_is_a_note_and_a_column_that_moved_makes_it_a_warning() -> None:
    rng = np.random.default_rng(0)
    trained = {"at": days_ago(rng.uniform(100, 328, 3000)), "lead_time": numbers(rng.exponential(40, 3000).round())}
    same = {"at": days_ago(rng.uniform(0, 28, 500)), "lead_time": numbers(rng.exponential(40, 500).round())}
    moved = same | {"lead_time": numbers(np.where(rng.random(500) < 0.31, 400, rng.exponential(40, 500).round()))}

    (note,) = outdated(trained, same, time="at", now=NOW)
    assert (note.kind, note.severity) == ("age", "note")
    assert note.sentence == "learned from 3,000 rows with a median age of 212 days, the newest 100 days old"

    age, found = outdated(trained, moved, time="at", now=NOW, lately="this month's bookings")
    assert (age.severity, found.severity, found.about) == ("warning", "warning", "lead_time")
    assert found.sentence.startswith(
        "34% of this month's bookings have a value of lead_time that training hardly saw (2%): above 1"
    )
    assert json.loads(json.dumps(found.document(), allow_nan=False))["numbers"]["rows"] == 500


def test_of_many_columns_and_many_looks_nothing_is_said_when_nothing_moved() -> None:
    rng = np.random.default_rng(1)
    names = np.array([f"agent {i}" for i in range(400)], object)
    weights = 1 / np.arange(1, 401) ** 1.1
    draws = {
        "normal": lambda n: numbers(rng.normal(290, 5, n)),
        "signed": lambda n: numbers(rng.standard_t(3, n)),
        "count": lambda n: numbers(rng.poisson(2, n)),
        "flag": lambda n: sketch(rng.random(n) < 0.03, np.ones(n, bool), "bool"),
        "city": lambda n: texts(rng.choice(names[:5], n)),
        "agent": lambda n: texts(rng.choice(names, n, p=weights / weights.sum())),  # rare ones that training never saw
    }
    found = naive = 0
    for size in [150, 1000] * 20:
        trained, recent = ({name: draw(n) for name, draw in draws.items()} for n in (3000, size))
        found += len(outdated(trained, recent, time=None, now=NOW))
        found += len(underrepresented(trained, recent, columns=draws))
        naive += bool(set(recent["agent"]["categories"]) - set(trained["agent"]["categories"]))
    assert found == 0
    assert naive > 30  # "a value that training never saw" alarms nearly always


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        (numbers(np.r_[np.arange(100.0), np.arange(100.0) + 900].repeat(5)), numbers([500.0] * 200), "108 to 902"),
        (numbers(np.arange(1, 401)), numbers([-3.0] * 200), "below 2.02"),
        (numbers(np.arange(-400, 0)), numbers([7.0] * 200), "above -3.02"),
        (numbers([5.0] * 300), numbers([5.0] * 100 + [0.0] * 100, [True] * 100 + [False] * 100), "missing (50%)"),
        (texts(["a"] * 300), texts(["a", None] * 100), "(missing) (50%)"),
        (texts(["a"] * 300), texts(["東京"] * 60 + ["x" * 300] * 140), "x" * 39 + "… (70%), 東京 (30%)"),
    ],
)
def test_where_they_are_unlike_is_said(old: Sketch, new: Sketch, where: str) -> None:
    found = unlike(old, new)
    assert found is not None
    assert (found.is_worth_a_word, found.where) == (True, where)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (numbers([1.0] * 199), numbers([2.0] * 500)),
        (numbers([1.0] * 500), numbers([2.0] * 99)),
        (days_ago(range(300, 600)), days_ago(range(200))),
        (texts([f"id {i}" for i in range(2000)]), texts([f"id {i}" for i in range(9000, 9500)])),
        (merge(), numbers([1.0] * 300)),
        (numbers([np.nan] * 300), numbers([1.0] * 300)),
        (merge(), merge()),
    ],
)
def test_nothing_is_said_of_too_few_rows_times_names_of_single_rows_or_nothing(old: Sketch, new: Sketch) -> None:
    assert unlike(old, new) is None


def test_a_column_of_nulls_in_training_that_now_has_texts_is_unlike() -> None:
    nulls = sketch(np.array([""] * 300, object), np.zeros(300, bool), "null")
    found = unlike(nulls, texts(["a"] * 200))
    assert found is not None
    assert (found.share, found.where) == (1.0, "a (100%)")


def test_huge_and_infinite_numbers_have_their_place() -> None:
    found = unlike(numbers(np.arange(1.0, 401.0)), numbers([1e300, np.inf] * 100))
    assert found is not None
    assert (found.share, found.rows) == (1.0, 200)


def test_a_clock_without_a_zone_and_a_column_of_another_kind_are_refused() -> None:
    with pytest.raises(InvalidInput) as no_zone:
        outdated({}, {}, time=None, now=datetime(2026, 1, 1))
    with pytest.raises(InvalidInput) as other:
        unlike(numbers([1.0]), texts(["a"]))
    assert (no_zone.value.code, other.value.code) == ("ST957", "ST221")


# ---------------------------------------------------------------- biased


def test_a_segment_that_training_missed_or_had_rarely_is_named() -> None:
    trained = {"segment": texts(["Direct"] * 980 + ["Groups"] * 20)}
    recent = {"segment": texts(["Direct"] * 250 + ["Groups"] * 120 + ["Aviation"] * 30)}
    rare, missing = underrepresented(trained, recent, columns=["segment", "no such column"])
    assert (rare.kind, missing.kind) == ("rare_segment", "missing_segment")
    assert rare.sentence == "segment=Groups is 30% of the newest rows, and only 2.0% of training (20 rows)"
    assert missing.sentence == "segment=Aviation is 8% of the newest rows, and training had none"


def sums(city, losses=None, labels=None) -> SegmentSums:
    empty = SegmentSums.fresh("city", ["faro", "porto", "lisbon"], scale=100.0)
    answers = None if labels is None else np.full(len(city), 0.2)
    return fold_segments(empty, np.arange(len(city)) // 60, city, losses=losses, answers=answers, labels=labels)


def test_labels_that_contradict_experience_are_named_and_a_harder_past_is_not() -> None:
    rng = np.random.default_rng(0)
    city = np.tile(["faro", "porto", "lisbon"], 600)
    since = sums(city, rng.exponential(2, 1800))
    mislabelled = sums(city, rng.exponential(np.where(city == "porto", 5.0, 1.5)))
    harder = sums(city, rng.exponential(5, 1800))
    (found,) = contradicted(mislabelled, since)
    assert (found.kind, found.about) == ("contradicted_labels", "city=porto")
    assert "labels of city=porto in training contradict what came since" in found.sentence
    assert contradicted(harder, since) == []
    assert contradicted(since, since) == []
    assert contradicted(mislabelled, sums(city[:6], np.ones(6))) == []


def test_a_segment_with_another_share_of_positive_labels_is_named() -> None:
    rng = np.random.default_rng(0)
    city = np.tile(["faro", "porto", "lisbon"], 600)
    honest = sums(city, labels=rng.random(1800) < 0.2)
    flipped = sums(city, labels=rng.random(1800) < np.where(city == "faro", 0.5, 0.2))
    assert [one.about for one in skewed(flipped, honest)] == ["city=faro"]
    assert skewed(honest, sums(city, labels=rng.random(1800) < 0.2)) == []
