"""Budget: one alpha a year, whatever is in use, and detectors that keep to it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.budget import ALPHA, KINDS, arl
from staytrue.kernel.evidence import Harm, fold_harm


@pytest.mark.parametrize("kinds", [KINDS, ("harm",), ("shift", "silence")])
def test_the_shares_of_all_kinds_add_up_to_alpha(kinds):
    a_year = 365.0
    assert sum(a_year / arl(kind, ticks_per_year=a_year, kinds=kinds) for kind in kinds) == pytest.approx(ALPHA)


def test_detectors_that_alarm_on_their_own_share_what_their_kind_has():
    one = arl("harm", ticks_per_year=52)
    assert 20 * 52 / arl("harm", ticks_per_year=52, detectors=20) == pytest.approx(52 / one)


def test_harm_keeps_its_share_over_the_whole_length_of_streams_without_harm():
    days, alpha, streams, alarms = 60, 0.25, 40, 0
    threshold = arl("harm", ticks_per_year=days, alpha=alpha, kinds=["harm"])
    for seed in range(streams):
        rng, harm = np.random.default_rng(seed), Harm.fresh(baseline=1.0, scale=12, arl=threshold)
        for day in range(days):
            harm = fold_harm(harm, day, rng.exponential(1.0, 60), closed=True)
        alarms += harm.fired
    assert alarms / streams <= alpha + 3 * (alpha * (1 - alpha) / streams) ** 0.5


def test_what_has_no_share_is_refused():
    for arguments in (
        {"kind": "system", "ticks_per_year": 365},
        {"kind": "harm", "ticks_per_year": 0},
        {"kind": "harm", "ticks_per_year": math.nan},
        {"kind": "harm", "ticks_per_year": 365, "alpha": 1.0},
        {"kind": "harm", "ticks_per_year": 365, "alpha": math.nan},
        {"kind": "harm", "ticks_per_year": 365, "detectors": 0},
        {"kind": "harm", "ticks_per_year": 365, "kinds": ["harm", "harm"]},
    ):
        kind = arguments.pop("kind")
        with pytest.raises(InvalidInput) as found:
            arl(kind, **arguments)
        assert found.value.code == "ST915"
