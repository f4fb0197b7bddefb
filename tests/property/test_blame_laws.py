"""The promises of blame, by law and by seeded simulation: nothing is asked twice, and nobody is blamed when nothing is wrong."""

from __future__ import annotations

import math
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staytrue.kernel.blame import Repair, repair, shares
from staytrue.kernel.culprit import first_bad, suspects
from staytrue.kernel.gain import Cell, Change, blocks_of, gain

AXES = [Change(axis=name) for name in ("serving code", "settings", "training code", "data")]
CHANGES = [*AXES, Change(axis="data", how="fresh")]
CODE = frozenset({AXES[0], AXES[2]})
DAYS = blocks_of([20] * 15)


def driven(changes, lost, *, blocks=DAYS, smallest=0.05, groups=(), given_up_after=10_000) -> tuple[Repair, list[Cell]]:
    search, asked = repair(changes, blocks, smallest=smallest, groups=groups), []
    wanted = next(search)
    while True:
        outcomes = {}
        for cell in wanted:
            asked.append(cell)
            if len(asked) <= given_up_after:
                outcomes[cell] = lost(cell)
        try:
            wanted = search.send(outcomes)
        except StopIteration as stop:
            return stop.value, asked


@st.composite
def worlds(draw):
    """Changes, and what each mixture of them loses: anything, also nothing at all, or a failure."""
    changes = draw(st.lists(st.sampled_from(CHANGES), unique=True, max_size=5))
    seed = draw(st.integers(0, 10_000))
    scale = draw(st.sampled_from([0.0, 0.01, 0.3, 1e200]))
    failing = draw(st.sampled_from([0.0, 0.3]))

    def lost(cell: Cell):
        rng = np.random.default_rng([seed, *sorted(CHANGES.index(change) for change in cell)])
        if cell and rng.random() < failing:
            return "does not run" if rng.random() < 0.5 else np.full(300, math.nan)
        return 1 + scale * (rng.normal() + 0.1 * rng.normal(size=300))

    return changes, lost


@given(world=worlds(), after=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_no_mixture_is_asked_twice_and_each_can_be_made(world, after: int) -> None:
    changes, lost = world
    found, asked = driven(changes, lost, groups=[CODE], given_up_after=after)
    assert len(asked) == len(set(asked))
    for cell in asked:
        assert cell <= set(changes)
        assert len({change.axis for change in cell}) == len(cell)
    assert found.cut_short == (len(asked) > after)
    assert len(asked) <= 2 ** len(changes) + 2


@given(world=worlds())
@settings(max_examples=100, deadline=None)
def test_what_is_found_surely_wins_more_than_the_smallest_and_its_steps_make_it_up(world) -> None:
    changes, lost = world
    found, _ = driven(changes, lost, groups=[CODE])
    assert len(set(found.changes)) == len(found.changes)
    assert frozenset(found.changes) in found.lost
    for step in found.steps:
        assert step.fails is None
        assert step.low > found.smallest
    if found.gain:
        assert found.gain.mean == pytest.approx(sum(step.mean for step in found.steps))
        assert not set(found.alternatives) & set(found.changes)


@given(world=worlds(), order=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_neither_the_order_of_rows_in_a_block_nor_a_constant_changes_what_is_found(world, order: int) -> None:
    changes, lost = world
    rng = np.random.default_rng(order)
    mixed = np.concatenate([rng.permutation(np.flatnonzero(day == DAYS)) for day in range(15)])

    def other(cell: Cell):
        made = lost(cell)
        return made if isinstance(made, str) else made[mixed]

    one, two = driven(changes, lost)[0], driven(changes, other)[0]
    assert one.changes == two.changes
    assert one.alternatives == two.alternatives


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=16, max_size=16), known=st.integers(0, 2**14 - 1))
@settings(max_examples=100, deadline=None)
def test_shares_always_add_up_whatever_is_known(values: list[float], known: int) -> None:
    cells = [frozenset(cell) for cell in chain.from_iterable(combinations(AXES, size) for size in range(5))]
    losses = {
        cell: value for i, (cell, value) in enumerate(zip(cells, values, strict=True)) if i in (0, 15) or known >> i & 1
    }
    found, whole = shares(losses, AXES)
    assert sum(found.values()) == pytest.approx(values[0] - values[15], abs=1e-4)
    assert whole == (len(losses) == 16)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=8))
@settings(max_examples=60, deadline=None)
def test_an_axis_that_never_changes_the_loss_has_no_share(values: list[float]) -> None:
    idle, others = AXES[0], AXES[1:]
    cells = [frozenset(cell) for cell in chain.from_iterable(combinations(others, size) for size in range(4))]
    losses = {cell | more: value for cell, value in zip(cells, values, strict=True) for more in (frozenset(), {idle})}
    assert shares({frozenset(cell): value for cell, value in losses.items()}, AXES)[0][idle.axis] == pytest.approx(
        0, abs=1e-4
    )


@given(steps=st.integers(1, 40), guilty=st.integers(1, 40), dark=st.sets(st.integers(1, 40), max_size=10))
@settings(max_examples=200, deadline=None)
def test_the_guilty_commit_is_always_among_those_named_and_all_others_of_them_do_not_run(steps, guilty, dark) -> None:
    guilty = min(guilty, steps)
    search, asked = first_bad(steps), []
    try:
        step = next(search)
        while True:
            asked.append(step)
            step = search.send(None if step in dark else step >= guilty)
    except StopIteration as stop:
        first, last = stop.value
    assert first <= guilty <= last
    assert set(range(first, last)) <= dark
    assert len(asked) == len(set(asked))
    assert len(asked) <= math.ceil(math.log2(steps + 1)) + 2 * len(dark)


@given(sizes=st.lists(st.integers(0, 6), max_size=12), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_each_part_with_rows_is_a_suspect_once_and_the_worst_is_first(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = suspects([rng.exponential(size=size) for size in sizes])
    assert sorted(one.index for one in found) == [index for index, size in enumerate(sizes) if size]
    assert [one.deviations for one in found] == sorted((one.deviations for one in found), reverse=True)


# ---------------------------------------------------------------- nobody is blamed when nothing is wrong

WORLDS, NOBODY = 400, 0.05


def nothing_wrong(seed: int):
    """Six mixtures which win back nothing in the long run, but a little on some days: as retrained models do."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(20, 60, 30)
    day = np.repeat(np.arange(30), rows)
    base = 1 + rng.exponential(size=len(day))
    by_change = {
        change: rng.normal(0, 0.3, 30)[day] + rng.normal(0, 0.3, len(day))
        for change in [Change(axis=name) for name in "abcdef"]
    }

    def lost(cell: Cell) -> np.ndarray:
        return base + sum((by_change[change] for change in cell), np.zeros(len(day)))

    return list(by_change), blocks_of(rows.tolist()), lost


def test_where_nothing_is_wrong_hardly_anybody_is_blamed_while_a_t_test_over_rows_blames_somebody_mostly() -> None:
    blamed = by_rows = largest = 0
    for seed in range(WORLDS):
        changes, blocks, lost = nothing_wrong(seed)
        # At the edge: any gain above 0 counts, so what is kept is the level and not the smallest gain.
        blamed += bool(driven(changes, lost, blocks=blocks, smallest=1e-9)[0].changes)
        won = [lost(frozenset()) - lost(frozenset({change})) for change in changes]
        by_rows += any(d.mean() > 1.96 * d.std() / math.sqrt(len(d)) for d in won)
        largest += max(d.mean() for d in won) > 0
    bound = NOBODY + 3 * math.sqrt(NOBODY * (1 - NOBODY) / WORLDS)
    assert blamed / WORLDS <= bound
    assert by_rows / WORLDS > 0.5
    assert largest / WORLDS > 0.9


def test_an_interval_over_days_holds_the_truth_where_one_over_rows_does_not() -> None:
    level, held, by_rows = 0.9, 0, 0
    for seed in range(WORLDS):
        changes, blocks, lost = nothing_wrong(seed)
        d = lost(frozenset()) - lost(frozenset(changes[:1]))
        found = gain(d, np.zeros(len(d)), blocks, alpha=1 - level)
        held += found.low <= 0 <= found.high
        by_rows += abs(d.mean()) <= 1.645 * d.std() / math.sqrt(len(d))
    assert held / WORLDS >= level - 3 * math.sqrt(level * (1 - level) / WORLDS)
    assert by_rows / WORLDS < 0.7
