"""Evidence: what the sums keep, what an interval says about few and many rows, when a guard and an alarm act."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.evidence import (
    Differences,
    Guard,
    Harm,
    bounded_interval,
    fewest_blocks,
    fold,
    fold_guard,
    fold_harm,
    interval,
    interval_path,
    merge,
    merge_guards,
)


def days(mean: float, count: int, rows: int = 40, seed: int = 0, scale: float = 6.0) -> Differences:
    rng = np.random.default_rng(seed)
    return fold(Differences.fresh(scale=scale), np.repeat(np.arange(count), rows), rng.normal(mean, 1, count * rows))


def test_a_state_survives_plain_json() -> None:
    state = fold(days(0.1, 5), [9, 9], [100.0, -0.3])
    assert Differences.from_document(json.loads(json.dumps(state.document()))) == state


def test_a_row_beyond_the_scale_counts_as_the_scale_and_is_reported() -> None:
    state = fold(Differences.fresh(scale=1), np.repeat(np.arange(10), 30), [10.0] + [0.0] * 299)
    found = interval(state, alpha=0.1)
    assert found.mean == pytest.approx(1 / 300)
    assert found.raw_mean == pytest.approx(10 / 300)
    assert found.clipped_share == pytest.approx(1 / 300)


def test_nothing_seen_gives_an_unbounded_interval() -> None:
    found = interval(Differences.fresh(scale=1), alpha=0.01)
    assert (found.lo, found.hi, found.rows, found.enough) == (-math.inf, math.inf, 0, False)
    assert math.isnan(found.mean)
    assert found.document()["lo"] is None


def test_an_interval_waits_for_the_fewest_blocks() -> None:
    fewest = fewest_blocks(0.01)
    assert not interval(days(-3, fewest - 1), alpha=0.01).enough
    assert interval(days(-3, fewest), alpha=0.01).hi < 0


def test_an_open_tick_does_not_count() -> None:
    state = days(-0.5, 12)
    assert interval(fold(state, 12, [50.0] * 40), alpha=0.01, before=12) == interval(state, alpha=0.01)


def test_small_ticks_are_joined_and_a_part_of_a_block_waits() -> None:
    found = interval(days(0, 23, rows=10), alpha=0.01, block_rows=50)
    assert (found.blocks, found.rows, found.ticks) == (4, 200, 20)


def test_days_that_resemble_their_neighbours_are_joined_to_longer_blocks() -> None:
    # Given spells of ten days in which one release is favoured
    spells = np.repeat(np.where(np.arange(24) % 2, 1.0, -1.0), 10)
    rng = np.random.default_rng(0)
    state = fold(
        Differences.fresh(scale=6), np.repeat(np.arange(240), 40), np.repeat(spells, 40) + rng.normal(size=9600)
    )
    # When, then
    found = interval(state, alpha=0.01)
    assert found.block_rows >= 320
    assert found.lo < 0 < found.hi


def test_releases_that_agreed_on_every_row_are_not_called_equal_for_sure() -> None:
    few = interval(fold(Differences.fresh(scale=1), np.repeat(np.arange(10), 30), np.zeros(300)), alpha=0.01)
    many = interval(fold(Differences.fresh(scale=1), np.repeat(np.arange(1000), 30), np.zeros(30_000)), alpha=0.01)
    assert (few.lo, few.hi) == (pytest.approx(-math.log(200) / 300), pytest.approx(math.log(200) / 300))
    assert many.hi < 0.001


def test_the_path_says_what_the_interval_said_after_each_block() -> None:
    # Given days of unequal size with autocorrelated effects, so that blocks are doubled at some looks
    rng = np.random.default_rng(3)
    state, sums, rows, effect = Differences.fresh(scale=4), [], [], 0.0
    for day in range(60):
        effect = 0.6 * effect + rng.normal(0, 0.3)
        d = np.clip(rng.normal(effect, 1, rng.integers(30, 80)), -4, 4)
        state = fold(state, day, d)
        sums.append(d.sum())
        rows.append(d.size)
    # When
    lo, hi = interval_path(sums, rows, alpha=0.05, scale=4)
    looks = [interval(state, alpha=0.05, before=day + 1) for day in range(60)]
    # Then
    np.testing.assert_allclose([found.lo for found in looks], lo, atol=1e-6)
    np.testing.assert_allclose([found.hi for found in looks], hi, atol=1e-6)
    assert len({found.block_rows > 100 for found in looks if found.enough}) == 2


def test_a_unit_of_the_loss_does_not_matter() -> None:
    d = np.random.default_rng(1).normal(-0.2, 1, 1200)
    ticks = np.arange(1200) // 40
    cents = interval(fold(Differences.fresh(scale=500), ticks, d * 100), alpha=0.01)
    whole = interval(fold(Differences.fresh(scale=5), ticks, d), alpha=0.01)
    assert cents.hi == pytest.approx(100 * whole.hi)
    assert cents.lo == pytest.approx(100 * whole.lo)


def test_a_smaller_alpha_never_narrows_the_interval() -> None:
    state = days(0.1, 60)
    widths = [interval(state, alpha=a).hi - interval(state, alpha=a).lo for a in (0.1, 0.01, 1e-3, 1e-6)]
    assert widths == sorted(widths)


def test_the_bounded_interval_holds_the_mean_and_narrows() -> None:
    few, many = (bounded_interval(days(0.3, n), alpha=0.01) for n in (10, 200))
    assert few.lo < 0.3 < few.hi
    assert 0 < many.lo < 0.3 < many.hi < few.hi
    assert not bounded_interval(Differences.fresh(scale=1), alpha=0.01).enough


def test_a_guard_acts_after_a_dozen_failures_and_not_on_equal_errors() -> None:
    rng = np.random.default_rng(0)
    equal = (rng.random(20_000) < 0.05).astype(int) - (rng.random(20_000) < 0.05)
    assert fold_guard(Guard.fresh(), np.ones(12)).evidence >= 1 / 0.01
    assert fold_guard(Guard.fresh(), equal).evidence < 1 / 0.01


def test_guards_of_shards_merge_exactly_and_survive_json() -> None:
    d = np.random.default_rng(0).normal(0, 0.4, 300)
    whole = fold_guard(Guard.fresh(), d)
    shards = merge_guards(fold_guard(Guard.fresh(), d[200:]), fold_guard(Guard.fresh(), d[:200]))
    assert shards == whole == Guard.from_document(json.loads(json.dumps(whole.document())))


def test_harm_is_seen_after_a_quiet_year_as_soon_as_after_a_quiet_month() -> None:
    waits = []
    for quiet in (30, 365):
        rng = np.random.default_rng(quiet)
        harm = Harm.fresh(baseline=1, scale=10, arl=365)
        for day in range(quiet):
            harm = fold_harm(harm, day, rng.exponential(1.0, 60), closed=True)
        assert not harm.fired
        day = quiet
        while not harm.fired:
            harm = fold_harm(harm, day, rng.exponential(1.5, 60), closed=True)
            day += 1
        assert harm.started is not None
        assert abs(harm.started - quiet) <= 2
        waits.append(day - quiet)
    assert max(waits) <= 7


def test_an_alarm_stays_fired_and_keeps_its_start_while_its_evidence_moves_on() -> None:
    harm = Harm.fresh(baseline=1, scale=10, arl=100)
    harm = fold_harm(harm, np.repeat(np.arange(40), 30), np.repeat([1.0, 1.1, 0.9, 3.0] * 10, 30), closed=True)
    calm = fold_harm(harm, np.repeat(np.arange(40, 200), 30), np.repeat([0.8, 0.9] * 80, 30), closed=True)
    assert harm.fired
    assert calm.fired
    assert calm.started == harm.started
    assert calm.evidence < 1 < harm.evidence


def test_a_block_counts_when_the_next_tick_begins_or_when_it_is_closed() -> None:
    fresh = Harm.fresh(baseline=1, scale=10, block_rows=3)
    opened = fold_harm(fresh, 5, [1.0, 2.0, 3.0])
    assert opened.blocks == ()
    assert fold_harm(opened, 6, [1.0]).blocks == fold_harm(fresh, 5, [3.0, 1, 2], closed=True).blocks
    assert fold_harm(opened, 6, [1.0]).blocks == ((5, pytest.approx(2.0)),)
    assert fold_harm(fold_harm(opened, 4, [6.0]), 6, [1.0]).blocks == ((5, pytest.approx(3.0)),)


def test_an_alarm_survives_plain_json() -> None:
    rng = np.random.default_rng(0)
    harm = fold_harm(Harm.fresh(baseline=1, scale=9), np.arange(400) // 40, rng.exponential(1, 400))
    assert Harm.from_document(json.loads(json.dumps(harm.document()))) == harm


def test_nothing_new_changes_nothing() -> None:
    state, harm, guard = days(0, 3), Harm.fresh(baseline=1, scale=2), Guard.fresh()
    assert fold(state, [], []) == state
    assert merge(state, Differences.fresh(scale=6)) == state
    assert fold_harm(harm, [], []) == harm
    assert fold_guard(guard, []) == guard


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("ST501", lambda: Differences.fresh(scale=0)),
        ("ST501", lambda: Differences.fresh(scale=math.nan)),
        ("ST501", lambda: Guard.fresh(scale="1")),  # type: ignore[arg-type]
        ("ST502", lambda: fold(Differences.fresh(scale=1), 1, [0.0, math.nan])),
        ("ST502", lambda: fold(Differences.fresh(scale=1), 1, ["1.5"])),
        ("ST502", lambda: fold(Differences.fresh(scale=1), 1, [None])),
        ("ST502", lambda: fold_harm(Harm.fresh(baseline=1, scale=1), 1, [[1.0]])),
        ("ST502", lambda: fold_guard(Guard.fresh(), [math.inf])),
        ("ST503", lambda: fold(Differences.fresh(scale=1), [1], [0.0, 0.0])),
        ("ST503", lambda: fold(Differences.fresh(scale=1), [1.5], [0.0])),
        ("ST504", lambda: merge(Differences.fresh(scale=1), Differences.fresh(scale=2))),
        ("ST504", lambda: merge_guards(Guard.fresh(), Guard.fresh(scale=2))),
        ("ST505", lambda: interval(Differences.fresh(scale=1), alpha=0)),
        ("ST505", lambda: fewest_blocks(math.nan)),
        ("ST506", lambda: interval(Differences.fresh(scale=1), alpha=0.1, block_rows=0)),
        ("ST507", lambda: Differences.from_document({"scale": 1.0})),
        ("ST507", lambda: Differences.from_document({"scale": 1.0, "ticks": [[1, 2]]})),
        ("ST507", lambda: Differences.from_document({"scale": 1.0, "ticks": [[2, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]})),
        ("ST507", lambda: Guard.from_document({"scale": 1.0, "rows": 1, "logs": [1]})),
        ("ST507", lambda: Harm.from_document({"blocks": []})),
        ("ST508", lambda: Harm.fresh(baseline=math.nan, scale=1)),
        ("ST508", lambda: Harm.fresh(baseline=1, scale=1, tolerance=-1)),
    ],
)
def test_what_is_no_evidence_is_refused_with_its_code(code: str, call) -> None:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.code == code


def test_a_bad_difference_is_named_by_its_position() -> None:
    with pytest.raises(InvalidInput) as caught:
        fold(Differences.fresh(scale=1), 1, [0.0, 0.0, math.inf])
    assert caught.value.facts["position"] == 2
