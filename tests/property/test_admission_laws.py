"""However often anyone calls for it: retrainings stay apart, below their budget, and never stop for good."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from staytrue.kernel.admission import admission, cooldown, not_after
from staytrue.kernel.policy import Settings

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)

POLICIES = st.builds(
    Settings,
    cooldown=st.sampled_from(["0s", "1s", "1m", "10m", "1h", "7h", "1d"]),
    budget=st.integers(1, 30),
)


def begun_by(moments, given: Settings, *, setback: bool = True) -> list[datetime]:
    """When retrainings were begun, where everything calls for one at each of these moments, and none brings a promotion."""
    spent: list[datetime] = []
    for now in moments:
        said = admission(now=now, settings=given, spent=spent, setbacks=len(spent) if setback else 0, new_rows=10**6)
        if said.allowed:
            spent.append(now)
    return spent


@settings(max_examples=8)
@given(POLICIES.filter(lambda s: s.cooldown not in ("0s", "1s")))
def test_ten_thousand_alarms_in_a_minute_are_one_retraining(given_settings):
    moments = [START + n * MINUTE / 10_000 for n in range(10_000)]
    assert begun_by(moments, given_settings) == [START]


@settings(max_examples=20)
@given(POLICIES, st.booleans())
def test_drift_that_never_ends_spends_at_most_the_budget_in_any_24_hours(given_settings, setback):
    # given
    moments = [START + n * 7 * MINUTE for n in range(206 * 20)]
    # when
    spent = begun_by(moments, given_settings, setback=setback)
    # then
    for first, at in enumerate(spent):
        assert sum(at <= other < at + DAY for other in spent[first:]) <= given_settings.budget
    for count, (one, other) in enumerate(pairwise(spent), 1):
        assert other - one >= cooldown(given_settings, count if setback else 0)


@given(POLICIES, st.lists(st.integers(0, 3 * 86_400), max_size=40).map(sorted), st.integers(0, 8))
def test_the_moment_that_is_named_is_the_first_at_which_it_is_allowed(given_settings, ago, setbacks):
    # given
    spent = [START - timedelta(seconds=s) for s in reversed(ago)]

    def asked(now):
        return admission(now=now, settings=given_settings, spent=spent, setbacks=setbacks, new_rows=100)

    # when
    said = asked(START)
    # then
    assert said.allowed is (said.again_at is None)
    if said.again_at is not None:
        assert said.again_at > START
        assert asked(said.again_at).allowed
        assert not asked(said.again_at - timedelta(microseconds=1)).allowed


@given(POLICIES, st.lists(st.integers(0, 3 * 86_400), max_size=40).map(sorted), st.integers(0, 8), st.integers(0, 300))
def test_without_people_it_says_what_cooldown_budget_and_rows_say(given_settings, ago, setbacks, new_rows):
    """The rule that replay has lived by since 0.1, written down a second time."""
    spent = [START - timedelta(seconds=s) for s in reversed(ago)]
    span = cooldown(given_settings, 0) * 2 ** min(setbacks, 5)
    rule = (
        (not spent or START - spent[-1] >= span)
        and len([at for at in spent if at > START - DAY]) < given_settings.budget
        and new_rows >= 100
    )
    said = admission(now=START, settings=given_settings, spent=spent, setbacks=setbacks, new_rows=new_rows)
    assert said.allowed is rule


@settings(max_examples=40)
@given(
    POLICIES,
    st.lists(st.tuples(st.integers(0, 10 * 144), st.floats(-1, 1)), min_size=1, max_size=6).map(sorted),
    st.booleans(),
)
def test_a_clock_that_jumps_by_a_day_neither_storms_nor_stalls(given_settings, jumps, keeps):
    """Real time goes on in steps of ten minutes; the clock is wrong by up to a day from each jump on.

    `keeps`: whoever keeps `spent` keeps `not_after` of it, as its docstring says.
    """
    # given
    spent: list[datetime] = []
    begun: list[datetime] = []
    wrong = 0.0
    for step in range(10 * 144):
        wrong = next((by for at, by in reversed(jumps) if at <= step), wrong)
        really = START + step * 10 * MINUTE
        clock = really + wrong * DAY
        # when
        said = admission(now=clock, settings=given_settings, spent=spent, setbacks=0, new_rows=100)
        if keeps:
            spent = not_after(spent, clock)
        if said.allowed:
            spent.append(clock)
            begun.append(really)
    # then no storm: a jump may open one more day's budget, and no more
    assert len(begun) <= given_settings.budget * (11 + 2 * len(jumps))
    # and no stall: nobody waits longer than the cooldown or the day of the budget, and where the times are kept as they
    # are, not longer than that beyond the two days that a clock can go back.
    longest = max(cooldown(given_settings, 0), DAY) + 10 * MINUTE + (timedelta(0) if keeps else 2 * DAY)
    for one, other in zip(begun, [*begun[1:], START + 10 * DAY], strict=True):
        assert other - one <= longest + DAY * sum(one <= START + at * 10 * MINUTE <= other for at, _ in jumps) * 2
