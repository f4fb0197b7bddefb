"""Shift: quiet while windows are alike, also where rows of a window are; names what moved, and knows when it is over."""

from __future__ import annotations

import json

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.detector import Detector
from staytrue.kernel.shift import Shift, fold_shift, shifted

EVEN = np.full(10, 0.1)
TILTED = np.linspace(0.06, 0.14, 10)


def window(rng, rows=500, **shares):
    return {name: rng.multinomial(rows, p) for name, p in shares.items()}


def taught(rng, parts=60, arl=10_000.0, **shares):
    days = [window(rng, **shares) for _ in range(parts)]
    return Shift.fresh({name: np.sum([d[name] for d in days], axis=0) for name in days[0]}, arl=arl, parts=days)


def lived(shift, rng, ticks, **shares):
    start = 0 if shift.tick is None else shift.tick + 1
    for tick in range(start, start + ticks):
        shift = fold_shift(shift, tick, window(rng, **shares))
    return shift


@pytest.mark.parametrize("quiet", [0, 50, 300])
def test_a_moved_column_is_named_with_its_beginning_after_a_quiet_year_as_after_a_quiet_month(quiet):
    rng = np.random.default_rng(3)
    calm = lived(taught(rng, age=EVEN, price=EVEN, city=EVEN), rng, quiet, age=EVEN, price=EVEN, city=EVEN)

    found = shifted(lived(calm, rng, 7, age=EVEN, price=TILTED, city=EVEN))

    assert not calm.is_open
    assert found.is_open
    assert found.columns[0].name == "price"
    assert [m.name for m in found.columns if m.is_named] == ["price"]
    assert abs(found.since - quiet) <= 1
    assert found.columns[0].share_moved == pytest.approx(0.1, abs=0.03)
    assert found.columns[0].ks == pytest.approx(0.1, abs=0.03)


def test_days_that_differ_from_each_other_raise_no_alarm_where_a_row_level_test_alarms_every_day():
    rng = np.random.default_rng(0)
    days = [{"x": rng.multinomial(500, rng.dirichlet(np.full(10, 4.0)))} for _ in range(400)]
    reference = np.sum([d["x"] for d in days[:60]], axis=0)
    expected = 500 * reference / reference.sum()
    row_level = [((d["x"] - expected) ** 2 / expected).sum() > 27.9 for d in days[60:]]  # chi-square, 9 df, p .001

    shift = Shift.fresh({"x": reference}, arl=340 / 0.05, parts=days[:60])
    for tick, day in enumerate(days[60:]):
        shift = fold_shift(shift, tick, day)
        assert not shift.is_open

    assert np.mean(row_level) > 0.9


def test_streams_without_drift_have_a_false_alarm_with_probability_at_most_their_length_over_the_arl():
    length, bound, streams = 150, 4.0, 40
    alarms = 0
    for seed in range(streams):
        rng = np.random.default_rng(seed)
        shift = lived(taught(rng, parts=20, arl=length * bound, a=EVEN, b=EVEN, c=TILTED), rng, 0)
        for tick in range(length):
            shift = fold_shift(shift, tick, window(rng, a=EVEN, b=EVEN, c=TILTED))
            if shift.is_open:
                alarms += 1
                break
    assert alarms / streams <= 1 / bound + 3 * (0.25 * 0.75 / streams) ** 0.5


def test_it_stays_open_while_the_shift_lasts_and_is_resolved_when_windows_are_as_before():
    rng = np.random.default_rng(1)
    opened = lived(taught(rng, x=EVEN, y=EVEN), rng, 10, x=TILTED, y=EVEN)
    lasting = lived(opened, rng, 100, x=TILTED, y=EVEN)
    back = lived(lasting, rng, 16, x=EVEN, y=EVEN)

    assert opened.is_open
    assert lasting.is_open
    assert shifted(lasting).columns[0].share_moved == pytest.approx(0.1, abs=0.03)
    assert not back.is_open
    assert shifted(lived(back, rng, 8, x=TILTED, y=EVEN)).columns[0].name == "x"


def test_a_slow_drift_does_not_become_the_reference():
    rng = np.random.default_rng(2)
    shift = taught(rng, x=EVEN)
    for tick in range(120):
        at = min(tick / 80, 1.0)
        shift = fold_shift(shift, tick, window(rng, x=(1 - at) * EVEN + at * TILTED))
    assert shift.is_open


def test_a_value_never_seen_in_the_reference_is_a_shift():
    rng = np.random.default_rng(0)
    usual, unseen = np.array([0.5, 0.5, 0.0]), np.array([0.48, 0.48, 0.04])
    shift = lived(lived(taught(rng, x=usual), rng, 20, x=usual), rng, 7, x=unseen)
    assert shift.is_open


def test_a_column_without_rows_says_nothing_and_the_others_are_judged():
    rng = np.random.default_rng(0)
    shift = taught(rng, x=EVEN, y=EVEN)
    for tick in range(10):
        shift = fold_shift(shift, tick, {"x": rng.multinomial(500, TILTED), "y": np.zeros(10, np.int64)})
    shift = fold_shift(shift, 10, {})
    assert [m.name for m in shifted(shift).columns if m.is_named] == ["x"]
    assert shift.evidence[1] == 0


def test_a_restart_from_its_document_goes_on_as_if_nothing_happened():
    rng = np.random.default_rng(5)
    shift = lived(taught(rng, x=EVEN, **{"größe|süd": EVEN}), rng, 9, x=TILTED, **{"größe|süd": EVEN})
    again = Shift.from_document(json.loads(json.dumps(shift.document())))
    one, two = (lived(s, np.random.default_rng(6), 30, x=EVEN, **{"größe|süd": TILTED}) for s in (shift, again))

    assert again.document() == shift.document()
    assert one.document() == two.document()
    assert shifted(one) == shifted(two)


def test_its_state_is_small_however_long_the_stream():
    rng = np.random.default_rng(0)
    shares = {f"column {i:02d}": np.full(66, 1 / 66) for i in range(50)}
    shift = lived(taught(rng, parts=170, **shares), rng, 60, **shares)
    assert len(json.dumps(shift.document(), separators=(",", ":"))) < 50 * 1_000


def test_counts_of_any_size_and_strange_columns_are_taken():
    shift = Shift.fresh({"huge": np.array([2**40, 2**40]), "empty": np.array([], int), "one": np.array([7])}, arl=1)
    for tick in range(9):
        shift = fold_shift(
            shift, tick, {"huge": np.array([2**40, 0]), "empty": np.array([], int), "one": np.array([10**6], np.int32)}
        )
    assert np.isfinite(shift.evidence).all()
    assert shifted(Shift.fresh({}, arl=10)).evidence == 0
    assert fold_shift(Shift.fresh({}, arl=10), 1, {}).tick == 1


def test_what_cannot_be_compared_is_refused_with_its_code():
    shift = fold_shift(Shift.fresh({"x": np.array([5, 5])}, arl=10), 3, {"x": np.array([1, 1])})
    refused = (
        ("ST911", lambda: Shift.fresh({}, arl=float("nan"))),
        ("ST911", lambda: Shift.fresh({}, arl=0.5)),
        ("ST912", lambda: Shift.fresh({"x": np.array([-1, 2])}, arl=10)),
        ("ST912", lambda: Shift.fresh({"x": np.array([0.5, 2])}, arl=10)),
        ("ST912", lambda: fold_shift(shift, 4, {"x": np.array([1, 1, 1])})),
        ("ST912", lambda: fold_shift(shift, 4, {"x": np.array([[1, 1]])})),
        ("ST912", lambda: fold_shift(shift, 4, {"x": np.array([1, -1])})),
        ("ST912", lambda: fold_shift(shift, 4, {"x": np.array([1.0, np.nan])})),
        ("ST912", lambda: fold_shift(shift, 4, {"x": np.array(["1", "2"])})),
        ("ST912", lambda: fold_shift(shift, 4, {"y": np.array([1, 1])})),
        ("ST913", lambda: fold_shift(shift, 3, {"x": np.array([1, 1])})),
        ("ST914", lambda: Shift.fresh({"x": np.array([5, 5])}, arl=10, parts=[{"x": np.array([6, 0])}])),
        ("ST910", lambda: Shift.from_document({})),
        ("ST910", lambda: Shift.from_document(shift.document() | {"pool": [[1, 2]]})),
        ("ST910", lambda: Shift.from_document(shift.document() | {"cells": [[99, 0]]})),
        ("ST910", lambda: Shift.from_document(shift.document() | {"one": Detector.fresh(2).document()})),
        ("ST910", lambda: Detector.from_document(Detector.fresh(1).document() | {"calm": ["=!"]}, 1)),
    )
    for code, call in refused:
        with pytest.raises(InvalidInput) as found:
            call()
        assert found.value.code == code
