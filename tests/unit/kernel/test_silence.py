"""Silence: a rhythm may have Sundays; fewer rows, fewer labels, none at all, or the same ones again are told."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.silence import Silence, fold_silence, overdue

WEEK = (900, 1000, 1000, 1000, 950, 300, 0)


def lived(silence, rng, ticks, factor=1.0, noise=0.1):
    start = 0 if silence.tick is None else silence.tick + 1
    for tick in range(start, start + ticks):
        usual = WEEK[tick % 7] * math.exp(rng.normal(0, noise)) * factor
        silence = fold_silence(silence, tick, int(rng.poisson(usual)))
    return silence


@pytest.mark.parametrize("weeks", [20, 60])
def test_rows_that_halve_are_found_within_the_week_and_sundays_without_rows_are_not(weeks):
    rng = np.random.default_rng(1)
    calm = lived(Silence.fresh(arl=365 * 20), rng, 7 * weeks)
    slow = lived(calm, rng, 6, factor=0.5)

    assert not calm.is_open
    assert slow.is_open
    assert abs(slow.since - 7 * weeks) <= 1
    assert slow.last is not None
    assert slow.last[0] < 0.7 * slow.last[1]


def test_it_is_resolved_when_rows_are_back_and_stays_open_while_they_are_not():
    rng = np.random.default_rng(2)
    slow = lived(lived(Silence.fresh(arl=365 * 20), rng, 140), rng, 40, factor=0.5)
    back = lived(slow, rng, 9)
    assert slow.is_open
    assert not back.is_open
    assert back.since is None


def test_years_of_an_uneven_rhythm_have_a_false_alarm_with_probability_at_most_their_length_over_the_arl():
    years, bound, alarms = 25, 4.0, 0
    for seed in range(years):
        rng, silence = np.random.default_rng(seed), Silence.fresh(arl=200 * bound)
        for _ in range(200):
            silence = lived(silence, rng, 1, noise=0.3)
            if silence.is_open:
                alarms += 1
                break
    assert alarms / years <= 1 / bound + 3 * (0.25 * 0.75 / years) ** 0.5


def test_labels_that_come_for_fewer_rows_are_found_whatever_the_rows_do():
    rng, labels = np.random.default_rng(0), Silence.fresh(arl=365 * 20, period=1)
    for tick in range(80):
        rows = int(rng.integers(50, 2_000))
        labels = fold_silence(labels, tick, int(rng.binomial(rows, 0.9)), of=rows)
    assert not labels.is_open
    labels = fold_silence(labels, 80, 0, of=0)
    for tick in range(81, 88):
        labels = fold_silence(labels, tick, int(rng.binomial(500, 0.5)), of=500)
    assert labels.is_open


def test_nothing_for_longer_than_ever_is_overdue_and_a_weekend_is_not():
    silence = Silence.fresh(arl=1e9)
    for tick in range(28):
        silence = fold_silence(silence, tick, 0 if tick % 7 >= 5 else 10)
        assert not overdue(silence)
    for tick in range(28, 33):
        silence = fold_silence(silence, tick, 0)
    assert overdue(silence)
    assert not overdue(silence, factor=4)
    assert not overdue(fold_silence(silence, 33, 1))


def test_a_restart_from_its_document_goes_on_as_if_nothing_happened():
    silence = lived(Silence.fresh(arl=1000), np.random.default_rng(0), 100)
    again = Silence.from_document(json.loads(json.dumps(silence.document())))
    one, two = (lived(s, np.random.default_rng(1), 30, factor=0.6) for s in (silence, again))
    assert again.document() == silence.document()
    assert one.document() == two.document()


def test_what_cannot_be_counted_is_refused_with_its_code():
    silence = fold_silence(Silence.fresh(arl=10), 5, 1)
    refused = (
        ("ST916", lambda: Silence.fresh(arl=math.inf)),
        ("ST916", lambda: Silence.fresh(arl=0)),
        ("ST916", lambda: Silence.fresh(arl=10, period=0)),
        ("ST917", lambda: fold_silence(silence, 6, -1)),
        ("ST917", lambda: fold_silence(silence, 6, 3, of=2)),
        ("ST913", lambda: fold_silence(silence, 5, 3)),
        ("ST910", lambda: Silence.from_document({})),
        ("ST910", lambda: Silence.from_document(silence.document() | {"phases": [[1.0]]})),
        ("ST910", lambda: Silence.from_document(silence.document() | {"core": {}})),
    )
    for code, call in refused:
        with pytest.raises(InvalidInput) as found:
            call()
        assert found.value.code == code
    assert fold_silence(silence, 6, 10**18).evidence == 0
