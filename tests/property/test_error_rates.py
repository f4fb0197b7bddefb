"""The promises of evidence, by law and by seeded simulation: merging is exact, and looking often stays honest."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staytrue.kernel.evidence import Differences, Guard, bounded_interval, fold, fold_guard, interval, merge
from staytrue.kernel.trial import judge

ALPHA = 0.01


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "evidence_power.py"
    spec = importlib.util.spec_from_file_location("evidence_power", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The simulated streams stand once, in the benchmark that prints the whole tables.
simulation = _load()


def bound(runs: int) -> float:
    return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


rows = st.lists(st.tuples(st.integers(-5, 5), st.floats(-1e6, 1e6)), max_size=40)


@given(rows=rows, shards=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_sharding_in_any_order_gives_the_same_state(rows: list[tuple[int, float]], shards: int, seed: int) -> None:
    fresh = Differences.fresh(scale=3.7)
    whole = fold(fresh, np.array([t for t, _ in rows], np.int64), [d for _, d in rows])
    order = np.random.default_rng(seed).permutation(len(rows))
    state = fresh
    for shard in range(shards):
        part = [rows[i] for i in order[shard::shards]]
        state = merge(fold(fresh, np.array([t for t, _ in part], np.int64), [d for _, d in part]), state)
    assert state == whole
    assert Differences.from_document(state.document()) == whole


@given(rows=rows, alpha=st.sampled_from([0.5, 0.01, 1e-6]))
@settings(max_examples=60, deadline=None)
def test_an_interval_always_holds_its_own_mean(rows: list[tuple[int, float]], alpha: float) -> None:
    state = fold(Differences.fresh(scale=1e3), np.array([t for t, _ in rows], np.int64), [d for _, d in rows])
    for found in (interval(state, alpha=alpha, block_rows=2), bounded_interval(state, alpha=alpha)):
        assert not found.rows or found.lo <= found.mean <= found.hi


@pytest.mark.parametrize("kind", simulation.KEPT)
def test_a_thousand_equal_pairs_are_rarely_told_apart_while_a_t_test_tells_them_apart(kind: str) -> None:
    wrong, foil = simulation.wrong_shares(kind, 1000, 10_000, ALPHA, seed=7)
    assert wrong <= bound(1000)
    assert foil > bound(1000)


def test_a_difference_that_drifts_around_zero_is_not_called_a_difference() -> None:
    # Given weeks in which now one, now the other release is favoured, at a random phase of a slow wave
    rng = np.random.default_rng(0)
    phase = rng.random((200, 1)) * 2 * np.pi
    day = np.arange(120)
    wave = np.sin(2 * np.pi * day / 28 + phase) * 0.5
    sums = (wave[:, :, None] + rng.normal(size=(200, 120, 40))).sum(axis=2)
    # When
    lo, hi = simulation.interval_path(sums, 40, alpha=ALPHA, scale=5)
    # Then: read from the first whole wave on, since before that the mean so far is truly not 0
    wrong = ((lo > 0) | (hi < 0))[:, 27:].any(axis=1).mean()
    assert wrong <= bound(200)


def test_the_judge_of_a_whole_trial_with_segments_keeps_its_budget() -> None:
    # Given equal pairs in four segments, judged every day for forty days
    runs, wrong = 60, 0
    rng = np.random.default_rng(0)
    for _ in range(runs):
        overall = Differences.fresh(scale=5)
        segments = dict.fromkeys("abcd", overall)
        for day in range(40):
            parts = {name: rng.normal(size=15) for name in segments}
            segments = {name: fold(state, day, parts[name]) for name, state in segments.items()}
            overall = fold(overall, day, np.concatenate(list(parts.values())))
            if judge(overall, segments, alpha=ALPHA, margin=0.0).verdict != "undecided":
                wrong += 1
                break
    assert wrong / runs <= bound(runs)


@pytest.mark.parametrize(("change", "most"), [(-0.05, 4000), (0.05, 4500), (0.2, 700)])
def test_a_different_challenger_is_decided_within_the_rows_that_the_benchmark_states(change: float, most: int) -> None:
    _, four_in_five = simulation.rows_needed(change, 0.8, 30, ALPHA, 60)
    assert four_in_five <= most


def test_the_bounded_interval_holds_over_rows_that_depend_on_each_other() -> None:
    # Given differences whose conditional mean is 0 while their spread follows what came before
    runs, wrong = 100, 0
    rng = np.random.default_rng(0)
    for _ in range(runs):
        signs = rng.choice([-1.0, 1.0], 3000)
        spread = np.where(np.roll(np.cumsum(signs), 1) > 0, 1.0, 0.2)
        state = fold(Differences.fresh(scale=1), np.arange(3000) // 30, signs * spread)
        looks = (bounded_interval(state, alpha=ALPHA, before=day) for day in range(5, 101, 5))
        wrong += any(found.lo > 0 or found.hi < 0 for found in looks)
    assert wrong / runs <= bound(runs)


def test_a_guard_on_equal_errors_rarely_acts_at_any_look() -> None:
    runs, wrong = 200, 0
    rng = np.random.default_rng(0)
    for _ in range(runs):
        guard = Guard.fresh()
        for _ in range(50):
            failed = (rng.random((2, 100)) < 0.05).astype(int)
            guard = fold_guard(guard, failed[0] - failed[1])
            if guard.evidence >= 1 / ALPHA:
                wrong += 1
                break
    assert wrong / runs <= bound(runs)


@pytest.mark.parametrize("kind", ["independent", "errors at 10 %", "day effects of 30 %"])
def test_false_harm_alarms_are_at_least_their_arl_apart(kind: str) -> None:
    blocks, alarms = simulation.false_alarms(kind, 100, 0.0, 10, 800)
    assert alarms <= blocks / 100
