"""Segments: sums that add up in any order, figures with honest intervals, and an alarm for all segments together."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.segments import (
    OTHER,
    SegmentSums,
    SegmentWatch,
    e_bh,
    figures,
    fold_segments,
    fold_watch,
    gap,
    merge_segments,
)

CITIES = ["faro", "porto", "straße", "東京"]


def fresh(**settings) -> SegmentSums:
    return SegmentSums.fresh("city", ["faro", "porto", "straße"], **{"scale": 50.0, **settings})


def rows(seed: int = 0, n: int = 2000, days: int = 40):
    rng = np.random.default_rng(seed)
    day = np.sort(rng.integers(0, days, n))
    labels = (rng.random(n) < 0.3).astype(float)
    answers = np.clip(rng.normal(0.3 + 0.3 * labels, 0.2), 0, 1)
    losses = np.where(rng.random(n) < 0.1, np.nan, np.abs(answers - labels))
    return day, rng.choice(CITIES, n), {"losses": losses, "answers": answers, "labels": labels}


# ---------------------------------------------------------------- sums


def test_any_order_and_sharding_of_the_rows_gives_the_same_sums() -> None:
    day, city, given = rows()
    whole = fold_segments(fresh(), day, city, **given)
    rng = np.random.default_rng(1)
    shard = rng.integers(0, 100, len(day))
    states = [
        fold_segments(fresh(), day[shard == i], city[shard == i], **{k: v[shard == i] for k, v in given.items()})
        for i in rng.permutation(100)
    ]
    merged = fresh()
    for state in states:
        merged = merge_segments(state, merged)
    assert merged == whole
    assert SegmentSums.from_document(json.loads(json.dumps(whole.document(), allow_nan=False))) == whole


def test_only_the_newest_ticks_stay_whatever_the_order() -> None:
    day, city, given = rows(days=300)
    forward = fold_segments(fresh(keep=20), day, city, **given)
    backward = fresh(keep=20)
    for d in np.unique(day)[::-1]:
        backward = fold_segments(backward, day[day == d], city[day == d], **{k: v[day == d] for k, v in given.items()})
    assert forward == backward
    assert len(forward.ticks) == 20


def test_the_state_of_twenty_segments_is_small_for_ever() -> None:
    names = [f"segment {i}" for i in range(20)]
    state = SegmentSums.fresh("city", names, scale=1.0)
    for tick in range(0, 4000, 50):
        city = np.resize([*names, *(f"never seen {tick} {i}" for i in range(50))], 500)
        state = fold_segments(state, tick + np.arange(500) // 10, city, losses=np.full(500, 1.0))
    assert len(json.dumps(state.document())) < 60_000
    assert state.sums.nbytes < 50_000


def test_a_value_that_was_not_named_counts_among_the_others() -> None:
    state = fold_segments(fresh(), 1, ["東京", "faro", "", "faro"], losses=[1.0, 2.0, 3.0, 4.0])
    found = figures(state)
    assert (found[OTHER]["loss"].of, found["faro"]["loss"].of) == (2, 2)
    assert "porto" not in found


def test_rates_are_those_of_the_rows() -> None:
    day, city, given = rows()
    found = figures(fold_segments(fresh(), day, city, **given))["porto"]
    mine = city == "porto"
    mine &= day >= np.unique(day)[-32]
    answers, labels, losses = (given[name][mine] for name in ("answers", "labels", "losses"))
    assert found["selection_rate"].value == pytest.approx((answers > 0.5).mean())
    assert found["positive_rate"].value == pytest.approx(labels.mean())
    assert found["true_positive_rate"].value == pytest.approx((answers > 0.5)[labels == 1].mean())
    assert found["false_positive_rate"].value == pytest.approx((answers > 0.5)[labels == 0].mean())
    assert found["error"].value == pytest.approx((answers - labels).mean())
    assert found["loss"].value == pytest.approx(np.nanmean(losses))


def test_answers_without_labels_say_who_is_selected_and_nothing_else() -> None:
    found = figures(fold_segments(fresh(), np.arange(100) // 10, ["faro"] * 100, answers=[0.9, 0.2] * 50))["faro"]
    assert found["selection_rate"].value == 0.5
    assert math.isnan(found["loss"].value)
    assert found["true_positive_rate"].document() == {"value": None, "lo": None, "hi": None, "of": 0}


def test_few_rows_have_no_interval_and_no_hits_have_no_certainty() -> None:
    few = figures(fold_segments(fresh(), np.arange(29), ["faro"] * 29, losses=[1.0] * 29))["faro"]["loss"]
    none = figures(fold_segments(fresh(), np.arange(100) // 5, ["faro"] * 100, answers=[0.1] * 100))["faro"]
    assert (few.value, math.isnan(few.lo)) == (pytest.approx(1.0), True)
    assert (none["selection_rate"].value, none["selection_rate"].hi) == (0.0, 0.03)


def test_intervals_cover_as_they_say_where_days_differ() -> None:
    rng = np.random.default_rng(3)
    covered = naive = 0
    for _ in range(400):
        day = np.repeat(np.arange(30), 20)
        losses = np.maximum(rng.normal(0, 0.5, 30)[day] + rng.exponential(2, 600), -1)
        found = figures(fold_segments(fresh(), day, ["faro"] * 600, losses=losses))["faro"]["loss"]
        covered += found.lo <= 2.0 <= found.hi
        naive += abs(losses.mean() - 2.0) <= 1.96 * losses.std() / 600**0.5
    assert covered / 400 > 0.95 - 3 * (0.05 * 0.95 / 400) ** 0.5
    assert naive / 400 < 0.9  # rows of one day are alike, so rows as units are too sure


def test_a_gap_is_sure_where_it_is_and_seldom_where_it_is_not() -> None:
    rng = np.random.default_rng(4)
    names = [f"s{i}" for i in range(8)]
    empty = SegmentSums.fresh("city", names, scale=1.0)
    sure = 0
    for _ in range(200):
        city, day = rng.choice(names, 1600), np.repeat(np.arange(32), 50)
        found = gap(fold_segments(empty, day, city, answers=rng.random(1600)), "selection_rate")
        assert found is not None
        sure += found.is_sure
    assert sure <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5
    answers = rng.random(1600) * np.where(city == "s3", 0.6, 1.0)
    biased = gap(fold_segments(empty, day, city, answers=answers), "selection_rate")
    assert biased is not None
    assert (biased.is_sure, biased.low, biased.document()["size"]["of"] > 100) == (True, "s3", True)


def test_a_gap_needs_two_segments_with_rows() -> None:
    assert gap(fresh(), "loss") is None
    assert gap(fold_segments(fresh(), np.arange(90) // 9, ["faro"] * 90, losses=[1.0] * 90), "loss") is None


# ---------------------------------------------------------------- evidence


def test_e_bh_names_what_stands_out_among_all() -> None:
    assert e_bh({"a": 19.0}, 0.05) == ()
    assert e_bh({"a": 20.0}, 0.05) == ("a",)
    assert e_bh({"a": 39.0, "b": 0.0}, 0.05) == ()
    assert e_bh({"a": 20.0, "b": 20.0}, 0.05) == ("a", "b")
    assert e_bh({}, 0.05) == ()
    assert e_bh({"a": math.inf}, 0.05) == ("a",)


def shop(rng: np.random.Generator, days: int, *, faro_costs: float = 1.0, since: int = 0):
    """60 rows a day, a third in each city, exponential losses of 2."""
    day = np.repeat(np.arange(days), 60)
    city = rng.choice(CITIES[:3], len(day))
    return day, city, rng.exponential(2, len(day)) * np.where((city == "faro") & (day >= since), faro_costs, 1.0)


def watched(day, city, losses, **settings) -> SegmentWatch:
    return SegmentWatch.over([fold_segments(fresh(scale=40.0), day, city, losses=losses)], **settings)


def test_harm_in_one_segment_is_named_with_its_beginning_though_the_others_hide_it() -> None:
    rng = np.random.default_rng(0)
    day, city, losses = shop(rng, 120, faro_costs=1.8, since=80)
    then = day < 30
    watch = fold_watch(watched(day[then], city[then], losses[then]), day[~then], {"city": city[~then]}, losses[~then])
    (harm,) = watch.harmed()
    assert (harm.segment, abs(harm.since - 80) <= 4) == ("city=faro", True)
    assert harm.sentence.startswith("loss in city=faro rose from 1.88 to 3.49 a row (+85%)")
    assert harm.level / harm.baseline > 1.5


def test_a_rise_below_the_effect_is_no_alarm() -> None:
    rng = np.random.default_rng(0)
    day, city, losses = shop(rng, 200, faro_costs=1.3, since=30)
    then = day < 30
    state = watched(day[then], city[then], losses[then], effect=0.5)
    assert fold_watch(state, day[~then], {"city": city[~then]}, losses[~then]).fired == ()


def test_a_restart_between_any_two_days_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    day, city, losses = shop(rng, 60, faro_costs=2.0, since=45)
    then = day < 30
    one = fold_watch(watched(day[then], city[then], losses[then]), day[~then], {"city": city[~then]}, losses[~then])
    other = watched(day[then], city[then], losses[then])
    for d in range(30, 60):
        other = SegmentWatch.from_document(json.loads(json.dumps(other.document(), allow_nan=False)))
        other = fold_watch(other, d, {"city": city[day == d]}, losses[day == d])
    assert one == other


def test_a_segment_with_few_fresh_rows_has_no_say_and_is_said_so() -> None:
    rng = np.random.default_rng(0)
    day, city, losses = shop(rng, 30)
    city = np.where((city == "faro") & (rng.random(len(city)) < 0.97), "porto", city)
    state = watched(day, city, losses)
    assert state.unwatched == ("city=faro",)
    assert "city=faro" not in state.harms
    # its rows are nobody else's either
    assert fold_watch(state, 40, {"city": ["faro"] * 200}, [30.0] * 200).harms == state.harms


def test_no_harm_makes_no_alarm_in_years() -> None:
    """The small brother of benchmarks/segments.py: 20 segments of 12 rows a day for 170 days, alpha .05 a year."""
    names = [f"s{i}" for i in range(20)]
    empty = SegmentSums.fresh("city", names, scale=20.0)
    fired = naive = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        day, city = np.repeat(np.arange(200), 240), np.tile(np.repeat(names, 12), 200)
        losses = rng.exponential(1, len(day))
        then = day < 30
        state = SegmentWatch.over([fold_segments(empty, day[then], city[then], losses=losses[then])])
        means = losses.reshape(200, 20, 12).mean(axis=2)
        base, error = means[:30].mean(axis=0), means[:30].std(axis=0)
        naive += bool((means[30:] > base + 3 * error).any())
        fired += bool(_at_the_end(state, means[30:]).fired)
    assert fired == 0
    assert naive == 4


def _at_the_end(state: SegmentWatch, means: np.ndarray) -> SegmentWatch:
    """As `fold_watch` over days whose 12 rows in a segment all have that mean: blocks are means, so nothing is lost."""
    for tick, row in enumerate(means, start=30):
        values = np.repeat(row, 12)
        state = fold_watch(state, tick, {"city": np.repeat([f"s{i}" for i in range(20)], 12)}, values)
        if state.fired:
            break
    return state


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("ST950", lambda: SegmentSums.fresh("city", ["a", "a"], scale=1)),
        ("ST950", lambda: SegmentSums.fresh("city", [OTHER], scale=1)),
        ("ST950", lambda: SegmentSums.fresh("city", [], scale=math.nan)),
        ("ST950", lambda: SegmentSums.fresh("city", [], scale=1, keep=0)),
        ("ST951", lambda: fold_segments(fresh(), [1, 2], ["faro"])),
        ("ST951", lambda: fold_segments(fresh(), [1.5], ["faro"])),
        ("ST951", lambda: fold_segments(fresh(), 1, "faro")),
        ("ST951", lambda: fold_segments(fresh(), 1, ["faro"], losses=[1.0, 2.0])),
        ("ST951", lambda: fold_segments(fresh(), 1, ["faro"], losses=["1"])),
        ("ST951", lambda: fold_segments(fresh(), 1, ["faro"], answers=[math.inf])),
        ("ST952", lambda: merge_segments(fresh(), fresh(scale=2.0))),
        ("ST953", lambda: SegmentSums.from_document({})),
        (
            "ST953",
            lambda: SegmentSums.from_document(fresh().document() | {"ticks": [2, 1], "sums": [[[0] * 9] * 4] * 2}),
        ),
        ("ST953", lambda: SegmentWatch.from_document({"alpha": "x"})),
        ("ST954", lambda: e_bh({"a": math.nan}, 0.05)),
        ("ST954", lambda: e_bh({"a": 1.0}, 1.0)),
        ("ST955", lambda: SegmentWatch.over([], alpha=0)),
        ("ST955", lambda: SegmentWatch.over([], effect=math.inf)),
        ("ST951", lambda: fold_watch(SegmentWatch.over([fresh()]), 1, {"city": ["a", "b"]}, [1.0])),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_code(code: str, call) -> None:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.code == code


def test_nothing_changes_nothing() -> None:
    assert fold_segments(fresh(), [], []) == fresh()
    assert merge_segments(fresh(), fresh()) == fresh()
    assert fold_watch(SegmentWatch.over([fresh()]), [], {"city": []}, []) == SegmentWatch.over([fresh()])
    assert figures(fresh()) == {}
    assert replace(fresh()) == fresh()


def test_absurd_losses_are_clipped_and_columns_may_hold_any_text() -> None:
    state = fold_segments(
        SegmentSums.fresh("a=b", ["=", "x=y"], scale=1e6),
        np.arange(60) // 6,
        ["=", "x=y"] * 30,
        losses=[1e300, 1.0] * 30,
    )
    assert figures(state)["="]["loss"].value == pytest.approx(1e6)
    watch = SegmentWatch.over([state])
    assert set(watch.harms) == {"a=b==", "a=b=x=y"}
    assert len(fold_watch(watch, 20, {"a=b": ["x=y"] * 40}, [1.0] * 40).harms["a=b=x=y"].blocks) == 1 + len(
        watch.harms["a=b=x=y"].blocks
    )
