"""The loop in simulated worlds: crashes, pauses, wrong clocks and errors change nothing of what it decides.

Each seed is a world of its own. What fails prints its last steps and the command that runs it alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from claims import Broken
from shop import HISTORY, Rows
from simulation import plan_of, simulate, workshop
from world import Plan, SimulatedLedger

from staytrue.kernel.rollout import advance
from staytrue.loop import trial
from staytrue.loop.controller import Controller
from staytrue.loop.orders import orders

DAYS, FEW_DATA = 14, 4


@pytest.fixture(scope="module")
def shared():
    with workshop() as made:
        yield made


# ---------------------------------------------------------------- what must hold


def test_whatever_happens_the_loop_tells_the_undisturbed_story(shared):
    seen: Counter[str] = Counter()

    for seed in range(20):
        result = simulate(shared, plan_of(seed, DAYS, data_sets=FEW_DATA))
        seen.update(result.kinds)
        seen.update(compared=result.compared, crashes=result.crashes, pauses=result.pauses, errors=result.errors)

    assert seen["compared"] == 10
    few = {kind: seen[kind] for kind in ("crashes", "pauses", "errors") if seen[kind] < 10}
    assert not few, "the faults are there"
    missing = {"retrain", "promoted", "rejected", "paused", "resumed"} - set(seen)
    assert not missing, "the worlds are eventful"


def test_the_same_seed_gives_the_same_history(shared):
    plan = plan_of(7, DAYS, data_sets=FEW_DATA)

    first, again = simulate(shared, plan), simulate(shared, plan)

    assert (first.history, first.story) == (again.history, again.story)
    assert first.history != simulate(shared, replace(plan, seed=8)).history


def test_a_window_that_comes_out_of_quarantine_is_no_reason_to_live_through_another_one_twice(shared):
    broken = [day for day in range(HISTORY, 32) if Rows(data=3, days=40, rough=True).is_broken(day)]

    result = simulate(shared, Plan(seed=1, days=20, data=3, rough=True))  # `claims.py` counts the ticks

    assert (broken, result.crashes) == ([20, 27], 0)


def test_an_order_to_retrain_with_nothing_new_is_declined(shared):
    result = simulate(shared, Plan(seed=4, days=12, data=0, orders=("retrain",)))

    assert result.kinds["declined"] > 0


def test_a_day_without_rows_and_columns_passes_in_a_trial_too(shared):
    # On the last of four closed days the source is asked for nothing but closed days.
    closed = [day for day in range(HISTORY, 40) if Rows(data=7, days=40).is_closed(day)]

    result = simulate(shared, Plan(seed=1, days=28, data=7))

    assert closed == [31, 32, 33, 34]
    assert result.compared
    assert result.kinds["shadow"] > 0


# ---------------------------------------------------------------- planted bugs


class CheckedThenWritten(SimulatedLedger):
    """Looks at the lease, and then writes: without the fence."""

    def commit(self, entries, *, recorded_at, fence):
        if fence is not None:
            lease = self.lease(fence.app)
            if lease is not None and lease.epoch != fence.epoch:
                return super().commit(entries, recorded_at=recorded_at, fence=fence)
            self.world.step("lease checked", risk=3)
            fence = replace(fence, epoch=super().lease(fence.app).epoch)
        return super().commit(entries, recorded_at=recorded_at, fence=fence)


class MemoryAfterwards(SimulatedLedger):
    """Writes the events, and then, in a transaction of its own, what is remembered."""

    def commit(self, entries, *, recorded_at, fence):
        if fence is None or not entries:
            return super().commit(entries, recorded_at=recorded_at, fence=fence)
        before = super().lease(fence.app)
        events = super().commit(entries, recorded_at=recorded_at, fence=replace(fence, state=before.state))
        self.world.step("events written", risk=3)
        super().commit([], recorded_at=recorded_at, fence=fence)
        return events


class MemoryBefore(SimulatedLedger):
    """Writes what is remembered, and then the events."""

    def commit(self, entries, *, recorded_at, fence):
        if fence is None or not entries:
            return super().commit(entries, recorded_at=recorded_at, fence=fence)
        super().commit([], recorded_at=recorded_at, fence=fence)
        self.world.step("memory written", risk=3)
        return super().commit(entries, recorded_at=recorded_at, fence=fence)


class NotedThenObeyed(Controller):
    """Remembers that an order is done, and then does it."""

    def _obey(self):
        for order in orders(self.ctx.store.ledger, self.ctx.app.name, after=self.orders):
            self.orders = order.seq
            self.chronicle.write()
            self._act_on(order)
            self.chronicle.write()


def without_evidence(**given):
    """A verdict is taken where there is none yet."""
    return "pass" if given["verdict"] == "undecided" and given["rows"] >= given["needed"] else advance(**given)


PLANTED = {
    "the lease is checked, then written without the fence": {"ledger": CheckedThenWritten},
    "memory is written after the events": {"ledger": MemoryAfterwards},
    "memory is written before the events": {"ledger": MemoryBefore},
    "an order is noted before it is obeyed": {"controller": NotedThenObeyed},
    "a challenger is promoted without a verdict": {},
}
FOUND_AT = dict(zip(PLANTED, (44, 41, 49, 41, 41), strict=True))
"""A seed that finds it in few days. When the steps of the loop are others, it is one soon after."""


def found(shared, planted: str, seeds: range, days: int) -> list[int]:
    """The seeds that find a planted bug. All have crashes, pauses and orders."""
    finders = []
    for seed in seeds:
        plan = replace(
            plan_of(seed, days, data_sets=FEW_DATA), crash=0.01, pause=0.02, switch=0.1, orders=("pause", "resume")
        )
        try:
            simulate(shared, plan, **PLANTED[planted])
        except Broken:
            finders.append(seed)
    return finders


@pytest.fixture
def planted(request, monkeypatch):
    if request.param == "a challenger is promoted without a verdict":
        monkeypatch.setattr(trial, "advance", without_evidence)
    return request.param


@pytest.mark.parametrize("planted", PLANTED, indirect=True)
def test_a_planted_bug_is_found(shared, planted):
    first = FOUND_AT[planted]

    assert any(found(shared, planted, range(seed, seed + 1), DAYS) for seed in range(first, first + 40))


# ---------------------------------------------------------------- at length


@pytest.mark.fault_long
@pytest.mark.parametrize("part", range(20))
def test_ninety_days_of_five_hundred_worlds(shared, part, record_property):
    days, cpu_s = 0, 0.0

    for seed in range(part * 25, part * 25 + 25):  # each holds, or raises `Broken`
        days, cpu_s = days + 90, cpu_s + simulate(shared, plan_of(seed, 90)).cpu_s

    record_property("simulated_days_per_cpu_second", round(days / cpu_s, 1))
    assert days == 25 * 90


@pytest.mark.fault_long
@pytest.mark.parametrize("planted", PLANTED, indirect=True)
def test_how_many_seeds_find_a_planted_bug(shared, planted, record_property):
    finders = found(shared, planted, range(100, 130), 30)

    record_property("found_by", f"{len(finders)} of 30 seeds: {finders}")
    assert finders
