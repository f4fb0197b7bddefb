"""Confidence: an estimate from answers alone, exact in its counts, and refuted by labels when it no longer holds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.confidence import Calibration, Curve, Scores, expected_loss, expected_losses, fold, merge, scores
from staytrue.kernel.confidence import _isotonic as isotonic


def day(rng, n=50, *, worse=0.0, shift=0.0):
    """Answers and losses of a model that says how sure it is; `worse`: how much more often it errs than it says."""
    p = np.clip(rng.uniform(0.5, 1, n) - shift, 0.5, 1)
    losses = (rng.random(n) > p - worse).astype(float)
    return scores("error_rate", np.column_stack([1 - p, p])), losses


def lived(rng, ticks, state=None, start=0, **world):
    for tick in range(start, start + ticks):
        said, losses = day(rng, **world)
        state = fold(state or Calibration.fresh(said, scale=0.25), tick, said, losses)
    return state


# -- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "answers", "values"),
    [
        ("brier", [0.5, 1.0], [0.25, 0.0]),
        ("brier", [[0.5, 0.5], [0.0, 1.0]], [0.25, 0.0]),
        ("log_loss", [0.5, 1.0, 0.0], [math.log(2), 0.0, 0.0]),
        ("log_loss", np.array([[0.25, 0.25, 0.5]]), [1.0397207708]),
        ("error_rate", [0.9, 0.4], [0.1, 0.4]),
        ("error_rate", [[0.2, 0.3, 0.5]], [0.5]),
    ],
)
def test_probabilities_say_what_they_expect_to_lose(metric, answers, values):
    found = scores(metric, answers)
    assert (found.kind, found.weak) == ("probability", False)
    assert found.values == pytest.approx(values)


@pytest.mark.parametrize(
    ("metric", "answers", "kind"),
    [
        ("error_rate", ["a", "b"], "class"),
        ("error_rate", [0, 1, 1], "class"),
        ("error_rate", [0.0, 1.0], "number"),
        ("mae", [12.5, -3], "number"),
        ("pinball:0.9", [1e300], "number"),
        ("my_own", [0.3], "number"),
    ],
)
def test_other_answers_say_little(metric, answers, kind):
    found = scores(metric, answers)
    assert (found.kind, found.weak) == (kind, True)


@pytest.mark.parametrize("answers", [[["a"], ["b"]], [{"x": 1}], [1.0, None], [math.nan], ["a", 1.5], [math.inf]])
@pytest.mark.parametrize("metric", ["mae", "ndcg@3", "brier"])
def test_rankings_objects_and_nonsense_say_nothing(metric, answers):
    assert scores(metric, answers) is None


# -- the curve --------------------------------------------------------------------------------------------------------


def test_neighbours_that_are_out_of_order_are_pooled():
    level = isotonic(np.array([1.0, 3.0, 2.0, 5.0]), np.array([1.0, 1.0, 3.0, 1.0]))
    assert level.tolist() == [1.0, 2.25, 2.25, 5.0]


@pytest.mark.parametrize("rows", [[0, 2, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 3]])
def test_bins_without_rows_take_their_neighbours(rows):
    level = isotonic(np.array([0.0, 2.0, 0.0, 4.0, 3.0]), np.array(rows, float))
    assert (np.diff(level) >= 0).all()
    assert level.min() >= min(v for v, n in zip([0, 2, 0, 4, 3], rows, strict=True) if n)


def test_any_order_and_sharding_gives_the_same_curve():
    rng = np.random.default_rng(0)
    said, losses = day(rng, 1000)
    fresh = Curve.fresh(said, scale=0.25)
    whole = fresh.seen(said, losses)
    order = rng.permutation(1000)
    shards = [
        fresh.seen(Scores(kind=said.kind, values=said.values[part]), losses[part]) for part in np.array_split(order, 7)
    ]
    together = shards[-1]
    for one in shards[:-1]:
        together = merge(together, one)
    assert together == whole
    assert whole.rows == 1000
    assert whole.mean == pytest.approx(losses.mean(), abs=1e-6)


def test_curves_with_other_bins_or_of_other_answers_do_not_mix():
    one = Curve.fresh(scores("mae", [1.0, 2.0] * 50), scale=1)
    with pytest.raises(InvalidInput, match="ST945"):
        merge(one, Curve.fresh(scores("mae", [1.0, 9.0] * 50), scale=1))
    with pytest.raises(InvalidInput, match="ST945"):
        one.places(scores("error_rate", ["a"]))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_losses_need_a_unit(scale):
    with pytest.raises(InvalidInput, match="ST944"):
        Curve.fresh(scores("mae", [1.0]), scale=scale)


def test_a_class_that_was_never_seen_is_expected_to_lose_what_all_do():
    curve = Curve.fresh(scores("error_rate", ["a", "ü"] * 50), scale=0.5)
    curve = curve.seen(scores("error_rate", ["a", "ü"] * 200), np.tile([0.0, 1.0], 200))
    found = expected_losses(Calibration(curve=curve), scores("error_rate", ["a", "ü", "new"]))
    assert found[0] < 0.1
    assert found[1] > 0.9
    assert found[2] == pytest.approx(0.5)


def test_dear_rooms_are_expected_to_be_wrong_by_more():
    rng = np.random.default_rng(0)
    price = rng.uniform(50, 250, 2000)
    curve = Curve.fresh(scores("mae", price), scale=10).seen(scores("mae", price), rng.exponential(price / 10))
    low, high = expected_losses(Calibration(curve=curve), scores("mae", [60.0, 240.0]))
    assert low < 9
    assert high > 19


# -- the estimate -----------------------------------------------------------------------------------------------------


def test_the_estimate_follows_the_inputs():
    rng = np.random.default_rng(3)
    state = lived(rng, 40)
    said, losses = day(rng, 4000, shift=0.2)
    found = expected_loss(state, said)
    assert found.lo < losses.mean() < found.hi
    assert found.mean > expected_loss(state, day(rng, 4000)[0]).mean + 0.05
    assert not found.weak


def test_an_overconfident_model_is_corrected_by_its_labels():
    rng = np.random.default_rng(4)
    state = lived(rng, 40, worse=0.2)
    said, losses = day(rng, 5000, worse=0.2)
    assert state.belief == "believed"
    assert expected_loss(state, said).mean == pytest.approx(losses.mean(), abs=0.04)
    assert said.values.mean() < losses.mean() - 0.15  # what the model says of itself


def test_before_200_labels_nothing_is_expected():
    rng = np.random.default_rng(5)
    state = lived(rng, 3)
    found = expected_loss(state, day(rng)[0])
    assert (state.belief, state.enough, found.lo, found.hi) == ("untested", False, -math.inf, math.inf)
    assert found.document() == {"mean": None, "lo": None, "hi": None, "rows": 50, "weak": False}
    assert math.isnan(expected_loss(lived(rng, 9), scores("brier", [])).mean)


# -- the test of it ---------------------------------------------------------------------------------------------------


def test_while_the_curve_is_right_it_is_not_refuted():
    refuted = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        state = None
        for tick in range(120):
            wobble = rng.normal(0, 0.05)  # days differ
            said, losses = day(rng, 40, worse=wobble)
            state = fold(state or Calibration.fresh(said, scale=0.25), tick, said, losses)
            refuted += state.refuted_at == tick
    # 1,440 blocks at one false refutation in 1,000, less often than not.
    assert refuted <= 2


@pytest.mark.parametrize("worse", [0.25, -0.24])
def test_when_answers_no_longer_mean_what_they_did_it_is_refuted_and_learned_anew(worse):
    rng = np.random.default_rng(6)
    state = lived(rng, 40, worse=0.1)
    assert state.belief == "believed"
    for tick in range(40, 60):
        state = lived(rng, 1, state, tick, worse=0.1 + worse)
        if state.belief == "refuted":
            break
    assert state.belief == "refuted"
    assert tick < 55
    state = lived(rng, 20, state, tick + 1, worse=0.1 + worse)
    assert (state.belief, state.refuted_at) == ("believed", None)
    said, losses = day(rng, 4000, worse=0.1 + worse)
    assert expected_loss(state, said).mean == pytest.approx(losses.mean(), abs=0.07)


def test_it_goes_on_from_its_document_as_if_never_stopped():
    one = other = lived(np.random.default_rng(7), 30)
    rng, same = np.random.default_rng(8), np.random.default_rng(8)
    for tick in range(30, 50):
        one = lived(rng, 1, one, tick, worse=0.3)
        other = Calibration.from_document(json.loads(json.dumps(other.document())))
        other = lived(same, 1, other, tick, worse=0.3)
    assert one == other
    assert len(json.dumps(one.document())) < 20_000


@pytest.mark.parametrize(
    "broken", [{}, {"curve": {}}, {"curve": None, "more": None, "less": None, "refuted_at": None}, []]
)
def test_what_is_no_state_is_named(broken):
    with pytest.raises(InvalidInput, match="ST946"):
        Calibration.from_document(broken)


def test_a_curve_whose_counts_do_not_fit_its_edges_is_no_curve():
    document = Curve.fresh(scores("mae", np.arange(100.0)), scale=1).document()
    with pytest.raises(InvalidInput, match="ST946"):
        Curve.from_document(document | {"counts": document["counts"][1:]})
    with pytest.raises(InvalidInput, match="ST946"):
        Curve.from_document(document | {"kind": "else"})


@pytest.mark.parametrize("losses", [[0.0], [0.0, math.nan], [0.0, math.inf], [[0.0, 1.0, 0.0]]])
def test_losses_that_do_not_fit_the_answers_are_named(losses):
    said = scores("brier", [0.5, 0.6])
    with pytest.raises(InvalidInput, match="ST947"):
        fold(Calibration.fresh(said, scale=1), 0, said, losses)


def test_no_labels_change_nothing():
    said = scores("brier", [0.5, 0.6])
    state = Calibration.fresh(said, scale=1)
    assert fold(state, 3, scores("brier", []), []) == state


def test_a_loss_beyond_all_measure_is_clipped_and_counted():
    said = scores("mae", [1.0] * 300)
    state = Calibration.fresh(said, scale=1.0)
    state = fold(state, 0, said, np.full(300, 1e300))
    assert state.curve.mean == 1024
