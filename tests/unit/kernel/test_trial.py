"""Trials: the table of verdicts, the budget over an app's life, what a segment may refuse, what a person reads."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.evidence import Differences, fold, interval
from staytrue.kernel.trial import judge, spend, verdict

NOTHING = interval(Differences.fresh(scale=1), alpha=0.01)


def pairs(mean: float, count: int = 20, seed: int = 0, rows: int = 50, scale: float = 6.0) -> Differences:
    rng = np.random.default_rng(seed)
    return fold(Differences.fresh(scale=scale), np.repeat(np.arange(count), rows), rng.normal(mean, 1, count * rows))


@pytest.mark.parametrize(
    ("lo", "hi", "margin", "expected"),
    [
        (-2.0, -0.1, 0.0, "better"),
        (-2.0, 0.05, 0.1, "not_worse"),
        (0.01, 0.05, 0.1, "not_worse"),
        (-2.0, 0.0, 0.0, "undecided"),
        (0.01, 0.5, 0.1, "worse"),
        (0.2, 0.5, 0.1, "worse"),
        (-0.2, 0.5, 0.1, "undecided"),
        (-math.inf, math.inf, 0.1, "undecided"),
        (math.nan, -1.0, 0.1, "undecided"),
        (-2.0, math.nan, 0.1, "undecided"),
    ],
)
def test_a_verdict_is_read_off_the_interval(lo: float, hi: float, margin: float, expected: str) -> None:
    assert verdict(replace(NOTHING, lo=lo, hi=hi), margin) == expected


def test_all_trials_of_a_life_spend_at_most_alpha() -> None:
    shares = [spend(k, 0.01) for k in range(1, 100_001)]
    assert 0.0099 < sum(shares) <= 0.01
    assert shares == sorted(shares, reverse=True)


def test_from_the_third_trial_on_more_is_left_than_by_inverse_squares() -> None:
    assert all(spend(k, 1.0 - 1e-9) > 6 / (math.pi * k) ** 2 for k in range(3, 1000))


def test_a_better_challenger_is_called_better_in_a_sentence_for_people() -> None:
    found = judge(pairs(-0.5), {"Groups": pairs(-0.4, seed=1)}, alpha=0.002, margin=0.1)
    assert found.verdict == "better"
    assert found.sentence.startswith("1,000 rows on 20 days: loss -0.5")
    assert found.sentence.endswith("), better")


def test_a_segment_that_is_harmed_refuses_a_challenger_that_is_better_overall() -> None:
    found = judge(pairs(-0.5), {"Groups": pairs(1.0, seed=1), "Direct": pairs(-1, seed=2)}, alpha=0.002, margin=0.1)
    assert (found.verdict, found.segment) == ("worse", "Groups")
    assert found.sentence.endswith("worse in Groups")
    assert found.interval.hi < 0


def test_a_segment_alone_never_promotes() -> None:
    found = judge(pairs(0.0, count=3), {"Groups": pairs(-2, seed=1)}, alpha=0.002, margin=0.0)
    assert found.verdict == "undecided"
    assert found.sentence == (
        f"150 rows on 3 days: loss {found.interval.mean:+.3g} a row so far, undecided: 3 of at least 9 blocks of 50 rows are full"
    )


def test_nothing_to_compare_is_undecided() -> None:
    found = judge(Differences.fresh(scale=1), {}, alpha=0.01, margin=0.1)
    assert found.verdict == "undecided"
    assert found.sentence == "undecided: 0 rows so far, 0 of at least 8 blocks of rows are full"


def test_a_verdict_that_clipping_made_is_held() -> None:
    # Given a challenger that is a little better on most rows and catastrophic on a few
    d = np.random.default_rng(0).normal(-0.5, 0.1, (20, 50))
    d[:, 7] = 40.0
    state = fold(Differences.fresh(scale=1), np.repeat(np.arange(20), 50), d.ravel())
    # When, then
    found = judge(state, {}, alpha=0.01, margin=0)
    assert verdict(found.interval, 0) == "better"
    assert found.verdict == "undecided"
    assert "+0.305 without clipping (2.0% of rows are beyond the scale), undecided" in found.sentence


def test_a_stream_in_long_spells_is_undecided_and_says_why() -> None:
    # Given a favourite that changes every five days
    spell = np.repeat(np.where(np.arange(4) % 2, 2.0, -2.0), 5) + np.random.default_rng(0).normal(0, 0.1, 20)
    found = judge(
        fold(Differences.fresh(scale=6), np.repeat(np.arange(20), 40), np.repeat(spell, 40)), {}, alpha=0.01, margin=0
    )
    # Then
    assert found.verdict == "undecided"
    assert found.sentence.endswith("5 of at least 8 blocks of 160 rows are full")


def test_the_evidence_is_json_and_holds_the_numbers_seen() -> None:
    found = judge(pairs(-0.5), {"a": Differences.fresh(scale=6)}, alpha=0.01, margin=0.1)
    document = json.loads(json.dumps(found.evidence, allow_nan=False))
    assert (document["rows"], document["blocks"], document["margin"], document["alpha"]) == (1000, 20, 0.1, 0.005)
    assert document["hi"] == found.interval.hi
    assert document["segments"]["a"]["lo"] is None


def test_an_open_tick_has_no_say() -> None:
    state = pairs(-0.5)
    assert judge(fold(state, 20, [6.0] * 900), {}, alpha=0.01, margin=0, before=20) == judge(
        state, {}, alpha=0.01, margin=0
    )


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("ST510", lambda: verdict(NOTHING, -0.1)),
        ("ST510", lambda: verdict(NOTHING, math.nan)),
        ("ST511", lambda: spend(0, 0.01)),
        ("ST512", lambda: spend(1, 1.0)),
        ("ST512", lambda: judge(pairs(0), {}, alpha=0, margin=0)),
    ],
)
def test_wrong_settings_are_refused_with_their_code(code: str, call) -> None:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.code == code
