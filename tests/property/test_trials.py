"""A live trial keeps its word: equal challengers, worse ones, better ones. The figures are those of benchmarks/trials.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_FILE = Path(__file__).parents[2] / "benchmarks" / "trials.py"
_SPEC = importlib.util.spec_from_file_location("trials", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
trials = importlib.util.module_from_spec(_SPEC)
sys.modules["trials"] = trials
_SPEC.loader.exec_module(trials)

RUNS = 100


@pytest.fixture(scope="module")
def ended():
    return {gain: trials.measured(gain, RUNS, seed=7) for gain in (0.0, -0.2, 0.1)}


def test_wrong_verdicts_on_equal_challengers_stay_below_alpha_where_a_daily_t_test_does_not(ended):
    wrong = sum(one.verdict in ("better", "worse") for one in ended[0.0]) / RUNS
    naive = sum(one.naive_wrong for one in ended[0.0]) / RUNS

    assert wrong <= trials.bound(RUNS) < naive


def test_a_challenger_20_percent_worse_never_gets_past_its_canary_nor_5_percent_of_the_traffic(ended):
    assert not any(one.promoted for one in ended[-0.2])
    assert max(one.shown / one.rows for one in ended[-0.2]) <= trials.WORSE_SHARE


def test_a_challenger_10_percent_better_is_live_within_3000_rows(ended):
    assert all(one.promoted for one in ended[0.1])
    assert max(one.rows for one in ended[0.1]) <= 3000
