"""When to retrain."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.policy import Decision, Freshness, Known, Settings, decide, policy

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KNOWN = Known(
    now=NOW,
    trained_at=NOW - timedelta(days=7),
    rows_trained=1000,
    rows_since=100,
    freshness=Freshness(warm=100).seen(np.ones(100)),
    retrain_cost=200,
)


def wants(spec: str, known: Known = KNOWN) -> bool:
    return decide(policy(spec), known, name=spec).retrain


def test_never_never_retrains():
    assert not wants("never")


@pytest.mark.parametrize(("spec", "retrains"), [("every:7d", True), ("every:8d", False), ("every:36h", True)])
def test_a_schedule_retrains_when_its_span_is_over(spec, retrains):
    assert wants(spec) is retrains


@pytest.mark.parametrize(
    ("spec", "retrains"),
    [
        # NOW is a Sunday, 00:00 UTC; the last training was on the Sunday before, at 00:00 UTC.
        ("cron:0 3 * * 1", True),
        ("cron:0 0 * * 0", True),
        ("cron:30 23 * * sat", True),
        ("cron:0 1 1 * *", False),
        ("cron:0 1 1 * *@Europe/Berlin", True),
        ("cron:@weekly", True),
        ("cron:@monthly@America/New_York", False),
    ],
)
def test_a_cron_schedule_retrains_when_it_was_due_since_the_last_training(spec, retrains):
    assert wants(spec) is retrains


def test_a_time_at_which_a_training_was_decided_calls_for_no_second_one():
    assert not wants("cron:0 0 * * 0", replace(KNOWN, trained_at=NOW))
    assert not wants("cron:* * * * *", replace(KNOWN, trained_at=NOW + timedelta(days=1)))


def test_a_schedule_says_when_it_was_due_and_when_it_is_due_next():
    due = decide(policy("cron:0 3 * * mon@Europe/Berlin"), KNOWN, name="mine")
    coming = decide(policy("cron:0 1 1 * *"), KNOWN, name="mine")
    assert due.why == "the schedule 0 3 * * mon (Europe/Berlin) was due at 2026-02-23 03:00 CET"
    assert due.numbers == {"due": "2026-02-23T02:00:00+00:00", "next": "2026-03-02T02:00:00+00:00"}
    assert coming.why == "the schedule 0 1 1 * * (UTC) is due next at 2026-03-01 01:00 UTC"


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("cron:0 3 * *", "ST850"),
        ("cron:0 0 31 2 *", "ST850"),
        ("cron:@daily@Mars", "ST851"),
        ("cron:@daily@", "ST851"),
        ("cron:", "ST104"),
    ],
)
def test_a_schedule_that_can_not_be_read_is_refused_when_the_app_is_written(spec, code):
    with pytest.raises(InvalidInput, match=code):
        Settings(retrain=spec).checked()


@pytest.mark.parametrize(
    "setting",
    [{"approve": 1}, {"approve_default": "wait"}, {"approve_default": None}, {"requests": -1}, {"requests": True}],
)
def test_a_setting_about_people_and_pushes_that_does_not_fit_is_named(setting):
    (name,) = setting
    with pytest.raises(InvalidInput, match="ST106") as refused:
        Settings(**setting).checked()
    assert refused.value.facts == {"setting": name}


@pytest.mark.parametrize(
    ("setting", "code"),
    [({"approve_within": "soon"}, "ST103"), ({"quiet": "at night"}, "ST852"), ({"quiet": "22:00-06:00@Mars"}, "ST851")],
)
def test_times_that_can_not_be_read_are_refused(setting, code):
    with pytest.raises(InvalidInput, match=code):
        Settings(**setting).checked()


def test_the_new_settings_are_taken_as_they_are():
    given = Settings(approve=True, approve_within="36h", approve_default="promote", quiet="22:00-06:00", requests=0)
    assert given.checked() is given


@pytest.mark.parametrize(
    ("spec", "retrains"), [("rows:100", True), ("rows:101", False), ("rows:10%", True), ("rows:11%", False)]
)
def test_rows_retrains_when_so_many_came(spec, retrains):
    assert wants(spec) is retrains


def test_alarm_retrains_on_harm_and_on_nothing_else():
    assert not wants("alarm", replace(KNOWN, alarms=("shift", "fault")))
    assert wants("alarm", replace(KNOWN, alarms=("shift", "harm")))


def test_payback_waits_until_the_excess_has_paid_for_a_retraining():
    # given a champion that lost 1 a row when fresh: one retraining costs 200
    books = KNOWN.freshness
    # when it loses 2 a row for 199 rows, and then for one more
    nearly = books.seen(np.full(199, 2.0))
    paid = nearly.seen(np.full(1, 2.0))
    # then
    assert not wants("payback", replace(KNOWN, freshness=nearly))
    assert wants("payback", replace(KNOWN, freshness=paid))


def test_payback_does_not_ask_before_it_is_known_what_fresh_means():
    books = Freshness(warm=100).seen(np.full(99, 50.0))
    decision = decide(policy("payback"), replace(KNOWN, freshness=books), name="payback")
    assert not decision.retrain
    assert "99 of 100 rows" in decision.why


def test_good_days_are_no_credit_against_bad_ones_later():
    books = KNOWN.freshness.seen(np.zeros(10_000)).seen(np.full(200, 2.0))
    assert wants("payback", replace(KNOWN, freshness=books))


def test_a_retraining_that_brought_nothing_makes_todays_loss_the_fresh_one():
    # given
    worse = KNOWN.freshness.seen(np.full(500, 3.0))
    # when
    settled = worse.settled(np.full(300, 3.0))
    # then
    assert settled.loss == pytest.approx(3.0)
    assert settled.excess == 0
    assert not wants("payback", replace(KNOWN, freshness=settled.seen(np.full(5000, 3.0))))


def test_a_retraining_that_brought_nothing_on_good_rows_keeps_the_old_idea_of_fresh():
    settled = KNOWN.freshness.seen(np.full(50, 3.0)).settled(np.full(300, 0.5))
    assert settled.loss == pytest.approx(1.0)
    assert settled.excess == 0


@pytest.mark.parametrize(
    "spec", ["", "sometimes", "every:", "every:0d", "every:x", "rows:", "rows:0", "rows:-1", "rows:1.5%", "PAYBACK"]
)
def test_an_unknown_policy_is_refused_by_name(spec):
    with pytest.raises(InvalidInput, match=r"ST10[34]"):
        policy(spec)


def test_a_users_function_may_answer_with_a_bool_or_a_decision():
    assert decide(lambda known: known.rows_since > 5, KNOWN, name="mine").retrain
    assert decide(lambda _: Decision(retrain=True, why="because"), KNOWN, name="mine").why == "because"


@pytest.mark.parametrize("bad", [lambda _: None, lambda _: "yes", lambda _: 1, lambda _: 1 / 0])
def test_a_users_function_that_answers_anything_else_is_named(bad):
    with pytest.raises(InvalidInput, match=r"ST105 .*mine"):
        decide(bad, KNOWN, name="mine")


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0},
        {"alpha": float("nan")},
        {"alpha": "small"},
        {"margin": -1},
        {"retrain_cost": True},
        {"holdout": 1},
        {"budget": 0},
        {"window": "often"},
        {"cooldown": 5},
        {"timeout": "soon"},
        {"retrain": "maybe"},
    ],
)
def test_a_setting_that_does_not_fit_is_refused(wrong):
    with pytest.raises(InvalidInput):
        replace(Settings(), **wrong).checked()
