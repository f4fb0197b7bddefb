"""Alarms keep their promise over whole streams, where tools that test each batch do not. A small run of benchmarks/alarms.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

_FILE = Path(__file__).parents[2] / "benchmarks" / "alarms.py"
_SPEC = importlib.util.spec_from_file_location("alarms", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
alarms = importlib.util.module_from_spec(_SPEC)
sys.modules["alarms"] = alarms
_SPEC.loader.exec_module(alarms)


def test_50_columns_without_drift_keep_alpha_over_the_whole_stream():
    streams, windows = 4, 150
    found = [
        alarms.quiet_stream(np.random.default_rng((7, i)), windows) >= windows / alarms.ALPHA for i in range(streams)
    ]
    assert np.mean(found) <= alarms.limit(streams)


@pytest.mark.parametrize(("name", "days", "reference"), [("hotel_rates", 7, 20), ("elec2", 7, 20)])
def test_real_weeks_in_random_order_keep_alpha_over_the_whole_stream(name, days, reference):
    real = alarms.real_blocks(name, days)
    if real is None:
        pytest.skip(f"{alarms.DATA / name}.parquet is not here")
    streams = 6
    found = [alarms.real_stream(real, np.random.default_rng((7, i)), reference) for i in range(streams)]
    assert np.mean([most >= n / alarms.ALPHA for most, n in found]) <= alarms.limit(streams)


def test_the_rules_of_others_alarm_within_weeks_without_any_drift():
    pytest.importorskip("scipy")
    first = alarms.first_false_alarms(np.random.default_rng(7), 120)
    assert first["Evidently, any column"] == 1
    assert first["KS, chi-square + Bonferroni"] is not None
    assert first["Evidently, dataset"] is None


@pytest.mark.parametrize("quiet", [0, 50, 300])
def test_a_quarter_of_a_standard_deviation_in_1_of_50_columns_is_found_within_7_windows(quiet):
    took = [alarms.shift_delay(np.random.default_rng((7, i)), 0.25, 60, quiet, 20) for i in range(3)]
    assert np.median(took) <= 7


def test_harm_of_20_percent_is_found_within_10_days_and_quiet_streams_keep_alpha():
    arl = alarms.LOSSES / alarms.DAY_ROWS / alarms.ALPHA
    took = [alarms.harm_delay(np.random.default_rng((7, i)), 0.2, arl, 60, 40) for i in range(5)]
    found = [alarms.harm_stream(alarms.with_days(np.random.default_rng((7, i)), alarms.LOSSES), arl) for i in range(20)]
    assert np.median(took) <= 10
    assert np.mean(found) <= alarms.limit(20)
