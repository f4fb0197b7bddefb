"""May a retraining begin now?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from staytrue.kernel.admission import admission, cooldown, not_after
from staytrue.kernel.policy import Settings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def asked(*ago: float, settings: Settings | None = None, **said):
    """What is said at NOW when retrainings were begun so many hours ago."""
    given = {"setbacks": 0, "new_rows": 1000} | said
    return admission(now=NOW, settings=settings or Settings(), spent=[NOW - hours * HOUR for hours in ago], **given)


def test_the_first_retraining_is_allowed():
    assert asked().allowed
    assert asked().again_at is None


def test_two_retrainings_are_a_cooldown_apart():
    assert asked(24).allowed
    refused = asked(23)
    assert not refused.allowed
    assert refused.again_at == NOW + HOUR
    assert refused.why == "the cooldown of 1d is over on 2026-03-01 13:00 UTC"


@pytest.mark.parametrize(("setbacks", "hours"), [(1, 48), (2, 96), (5, 768), (6, 768), (10_000, 768)])
def test_each_setback_doubles_the_cooldown_up_to_32_times(setbacks, hours):
    assert asked(hours, setbacks=setbacks).allowed
    assert not asked(hours - 0.01, setbacks=setbacks).allowed
    assert cooldown(Settings(), setbacks) == hours * HOUR


def test_the_budget_counts_the_last_24_hours():
    settings = Settings(cooldown="0s", budget=2)
    assert asked(24, 3, settings=settings).allowed
    refused = asked(23, 3, settings=settings)
    assert refused.again_at == NOW + HOUR
    assert refused.why == "the budget of 2 in 24 hours is spent until 2026-03-01 13:00 UTC"
    assert asked(23, 22, 21, 3, settings=settings).again_at == NOW + 3 * HOUR


def test_a_retraining_needs_100_new_rows():
    assert asked(new_rows=100).allowed
    refused = asked(new_rows=99)
    assert (refused.allowed, refused.again_at) == (False, None)
    assert refused.why.startswith("99 labelled rows came")


@pytest.mark.parametrize(
    ("said", "word"), [("paused", "staytrue resume"), ("busy", "under way"), ("tried", "tried already")]
)
def test_what_no_clock_ends_has_no_moment_even_where_a_clock_forbids_it_too(said, word):
    refused = asked(1, **{said: True})
    assert (refused.allowed, refused.again_at) == (False, None)
    assert word in refused.why


def test_what_is_refused_longest_gives_the_reason():
    settings = Settings(cooldown="1h", budget=1)
    assert asked(0.5, settings=settings).again_at == NOW + 23.5 * HOUR
    assert "budget" in asked(0.5, settings=settings).why


def test_a_retraining_that_was_begun_in_the_future_was_begun_now():
    assert asked(-24).again_at == NOW + 24 * HOUR
    assert not_after([NOW - HOUR, NOW + HOUR], NOW) == [NOW - HOUR, NOW]
