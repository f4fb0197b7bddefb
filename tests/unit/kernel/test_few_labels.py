"""Few labels: the interval holds, however rows depend on one another, and a draw gives each row the chance that it says."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.few_labels import beta_quantile, few_labels, next_to_label, t_quantile, width_with
from staytrue.kernel.health import FewKnown, health

NOW = datetime(2026, 3, 1, tzinfo=UTC)

# -- the interval -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [None, 1.0])
def test_without_labels_and_with_one_nothing_is_claimed(most):
    none, one = few_labels([], most=most), few_labels([1.0], most=most)
    lowest, highest = (-math.inf, math.inf) if most is None else (0.0, 1.0)
    assert (none.rows, none.labels.lo, none.labels.hi, none.chosen) == (0, lowest, highest, "labels")
    assert math.isnan(none.labels.mean)
    assert one.labels.mean == 1.0
    assert one.labels.hi == highest
    assert one.labels.lo == (pytest.approx(0.025) if most else -math.inf)
    assert none.document()["labels"] == {
        "mean": None,
        "lo": none.labels.lo if most else None,
        "hi": most,
        "error": None,
    }


def test_two_labels_give_a_wide_interval():
    assert few_labels([1.0, 2.0]).labels.half_width > 5
    assert few_labels([0.0, 0.0], most=1.0).labels.hi == pytest.approx(0.8419, abs=1e-4)


def test_errors_counted_in_a_plain_sample_are_clopper_and_pearsons():
    found = few_labels([1] * 3 + [0] * 27, most=1).labels
    assert (found.lo, found.hi) == (pytest.approx(0.02112, abs=1e-5), pytest.approx(0.26529, abs=1e-5))


def test_a_sample_of_everything_is_sure():
    losses = np.arange(50.0)
    assert few_labels(losses, population=50).labels.half_width == 0


@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize("kind", ["errors", "brier", "absolute"])
def test_the_interval_holds_with_few_labels(kind, n):
    rng = np.random.default_rng(n)
    held = {"labels": 0, "chosen": 0}
    ids = [f"{row:03}" for row in range(800)]
    for _ in range(200):
        risk = rng.beta(1, 4, 800)
        if kind == "errors":
            losses, most = (rng.random(800) < risk).astype(float), 1.0
        elif kind == "brier":
            losses, most = risk * rng.beta(2, 2, 800), 1.0
        else:
            losses, most = rng.exponential(5 * risk), None
        some = next_to_label(risk, ids, n, seed=int(rng.integers(1 << 40)))
        found = few_labels(
            losses[some.indices], expected=risk[some.indices], expected_mean=float(risk.mean()),
            probabilities=some.probabilities, population=800, most=most,
        )  # fmt: skip
        held["labels"] += found.labels.lo <= losses.mean() <= found.labels.hi
        held["chosen"] += found.best.lo <= losses.mean() <= found.best.hi
    # .95 less three standard errors of 200 runs.
    assert min(held.values()) / 200 >= 0.904


def test_rows_of_a_tick_may_be_alike_when_ticks_are_named():
    rng = np.random.default_rng(0)
    held = {"ticks": 0, "rows": 0}
    for _ in range(200):
        ticks = np.repeat(np.arange(12), 30)
        losses = 5 + np.repeat(rng.normal(0, 1, 12), 30) + rng.normal(0, 1, 360)
        by_tick, by_row = few_labels(losses, ticks=ticks).labels, few_labels(losses).labels
        held["ticks"] += by_tick.lo <= 5 <= by_tick.hi
        held["rows"] += by_row.lo <= 5 <= by_row.hi
    assert held["ticks"] / 200 > 0.90
    assert held["rows"] / 200 < 0.60  # the foil


def test_a_good_estimate_narrows_the_interval_and_a_bad_one_does_not_harm():
    rng = np.random.default_rng(1)
    truth = rng.exponential(2, 2000)
    for expected, gain in ((truth + rng.normal(0, 0.3, 2000), 0.3), (rng.exponential(2, 2000), 1.05), (5 - truth, 1.0)):
        found = few_labels(truth[:100], expected=expected[:100], expected_mean=float(expected.mean()))
        assert found.best.half_width <= gain * found.labels.half_width
        assert found.best.lo <= truth.mean() <= found.best.hi


def test_the_estimate_is_left_out_where_few_units_or_a_constant_say_nothing_of_its_weight():
    assert few_labels([1.0, 2.0, 3.0], expected=[1, 2, 3], expected_mean=2).ppi is None
    assert few_labels(np.arange(50.0), expected=np.ones(50), expected_mean=1).ppi is None


def test_probabilities_undo_the_preference_of_a_draw():
    unsure = np.repeat([0.0, 1.0], [400, 100])
    ids = [f"{row:03}" for row in range(500)]
    means, plain = [], []
    for seed in range(200):
        some = next_to_label(unsure, ids, 100, seed=seed, guided=0.5)
        means.append(few_labels(unsure[some.indices], probabilities=some.probabilities, most=1).labels.mean)
        plain.append(unsure[some.indices].mean())
    assert np.mean(means) == pytest.approx(0.2, abs=0.01)
    assert np.mean(plain) > 0.5


def test_more_labels_are_promised_a_narrower_interval():
    found = few_labels([0.0, 1.0] * 50, most=1)
    promised = width_with(found.labels, 100, 300)
    assert promised == pytest.approx(few_labels([0.0, 1.0] * 200, most=1).labels.half_width, rel=0.05)
    assert width_with(few_labels([1.0]).labels, 1, 100) is None


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"losses": [1.0, math.nan]}, "ST940"),
        ({"losses": [math.inf]}, "ST940"),
        ({"losses": ["1"]}, "ST940"),
        ({"losses": [None]}, "ST940"),
        ({"losses": [2.0], "most": 1.0}, "ST940"),
        ({"losses": [-0.1], "most": 1.0}, "ST940"),
        ({"losses": [1.0], "expected": [1.0, 2.0], "expected_mean": 1.0}, "ST941"),
        ({"losses": [1.0], "expected": [1.0]}, "ST941"),
        ({"losses": [1.0], "expected": [1.0], "expected_mean": math.nan}, "ST941"),
        ({"losses": [1.0], "expected": [math.nan], "expected_mean": 1.0}, "ST940"),
        ({"losses": [1.0, 2.0], "ticks": [1]}, "ST941"),
        ({"losses": [1.0, 2.0], "population": 1}, "ST941"),
        ({"losses": [1.0], "probabilities": [0.0]}, "ST942"),
        ({"losses": [1.0], "probabilities": [math.nan]}, "ST942"),
        ({"losses": [1.0], "alpha": 1.0}, "ST942"),
    ],
)
def test_what_can_not_be_used_is_named(given, code):
    losses = given.pop("losses")
    with pytest.raises(InvalidInput, match=code):
        few_labels(losses, **given)


def test_the_quantiles_are_those_of_the_tables():
    assert t_quantile(0.975, 2) == pytest.approx(4.302653, rel=1e-6)
    assert t_quantile(0.995, 29) == pytest.approx(2.756386, rel=1e-6)
    assert t_quantile(0.975, 1e6) == pytest.approx(1.959966, rel=1e-6)
    assert beta_quantile(0.025, 200, 900) == pytest.approx(0.159593, rel=1e-5)
    assert beta_quantile(0.025, 0.5, 0.5) == pytest.approx(math.sin(math.pi * 0.025 / 2) ** 2, rel=1e-9)


# -- which rows next --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 30, 50, 60, 400])
def test_a_draw_has_as_many_rows_as_asked_for_and_gives_each_the_chance_that_it_says(n):
    unsure = np.linspace(0, 1, 60)
    ids = [f"r{row}" for row in range(60)]
    taken, chance = np.zeros(60), np.zeros(60)
    for seed in range(400):
        some = next_to_label(unsure, ids, n, seed=seed)
        assert len(some.indices) == min(n, 60)
        taken[some.indices] += 1
        chance[some.indices] = some.probabilities
    assert n < 30 or chance.sum() == pytest.approx(min(n, 60))  # of few draws some rows were in none
    error = np.sqrt(chance * (1 - chance) / 400)
    assert (np.abs(taken / 400 - chance) <= 4.5 * error + 1e-9).all()


def test_the_same_rows_in_another_order_give_the_same_draw():
    ids = [f"ü{row}" for row in range(40)]
    one = next_to_label(None, ids, 10, seed=4)
    other = next_to_label(None, ids[::-1], 10, seed=4)
    assert {ids[row] for row in one.indices} == {ids[::-1][row] for row in other.indices}


def test_a_row_is_drawn_once_and_not_when_it_has_a_label():
    some = next_to_label(None, ["a", "b", "a", "c"], 10, seed=0, already={"b"})
    assert some.indices.tolist() in ([0, 3], [3, 0])
    assert some.rows == 2
    assert next_to_label([], [], 5, seed=0).indices.size == 0


def test_where_all_are_equally_unsure_or_nobody_knows_chance_decides():
    for unsure in (None, np.ones(100), np.full(100, math.nan)):
        some = next_to_label(unsure, [str(row) for row in range(100)], 20, seed=1)
        assert some.cut is None
        assert some.probabilities.tolist() == [0.2] * 20


@pytest.mark.parametrize(("n", "guided", "unsure"), [(-1, 0.2, None), (1, 1.1, None), (1, 0.2, [1.0, 2.0])])
def test_a_draw_that_makes_no_sense_is_an_error(n, guided, unsure):
    with pytest.raises(InvalidInput, match=r"ST94[13]"):
        next_to_label(unsure, ["a"], n, seed=0, guided=guided)


# -- what health makes of it ------------------------------------------------------------------------------------------

FEW = FewKnown(
    expected=0.21, expected_interval=(0.18, 0.25), belief="believed", newest_label_at=NOW - timedelta(days=1)
)


def judged(few=FEW, *, rows=100, loss=0.2, interval=(0.15, 0.21), **more):
    known = {"fresh_loss": 0.2, "alarms": (), "looked_at": NOW, "now": NOW}
    return health(rows=rows, loss=loss, interval=interval, few=few, **known | more)


def few(**more):
    return FewKnown(**{name: getattr(FEW, name) for name in FEW.__dataclass_fields__} | more)


def test_few_labels_have_to_show_that_it_is_right():
    assert judged().state == "right"
    assert judged(interval=(0.15, 0.23)).state == "unknown"
    assert judged(interval=(0.15, 0.23), few=few(tolerance=0.2)).state == "right"
    assert judged(interval=(0.201, 0.4)).state == "harmed"
    assert "too few labels to tell" in judged(interval=(0.1, 0.5)).sentence


def test_silent_labels_are_unknown_however_good_the_estimate():
    late = few(belief="refuted", late_rows=40, newest_label_at=NOW - timedelta(days=9, hours=5))
    assert judged(late, rows=0, loss=None, interval=None).sentence == (
        "unknown: 0 labels in 9 days; if only the inputs moved the loss would be 0.21 (0.18 .. 0.25), but 40 late labels say "
        "otherwise"
    )
    assert judged(few(newest_label_at=None)).sentence.startswith(
        "unknown: 0 labels were ever seen; if only the inputs moved"
    )
    assert judged(FewKnown(newest_label_at=None), rows=0, loss=None, interval=None).state == "unknown"


def test_an_estimate_that_labels_refute_is_never_green_and_never_hides_harm():
    assert judged(few(belief="refuted")).state == "unknown"
    assert judged(few(belief="refuted"), interval=(0.3, 0.4)).state == "harmed"


def test_an_estimate_alone_is_never_green():
    found = judged(few(expected=0.05, expected_interval=(0.04, 0.06)), rows=0, loss=None, interval=None)
    assert found.state == "unknown"
    assert "would be 0.05" in found.sentence


def test_an_alarm_or_no_baseline_counts_first():
    assert judged(alarms=("harm",)).state == "harmed"
    assert judged(few(newest_label_at=None), alarms=("harm",), rows=0, loss=None, interval=None).state == "harmed"
    assert judged(fresh_loss=None).state == "unknown"
    assert judged(runs=False).state == "unknown"


# -- on real rows -----------------------------------------------------------------------------------------------------


def test_on_hotel_rates_intervals_hold_and_harm_is_never_green():
    pytest.importorskip("sklearn")
    sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
    import few_labels as bench  # the benchmark, a script

    stream = bench.hotel_stream("hotel, prices +30 %", harm=True)
    found = bench.measured(stream, 100, 1, 64)
    assert found.harmed >= 4
    assert found.green == 0
    assert found.chosen / found.draws > 0.86  # 64 draws
    assert all(a.stop == b.start for a, b in pairwise(stream.windows()))
