"""Is it right now?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from staytrue.kernel.health import FewKnown, health

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WELL = {
    "rows": 400,
    "loss": 10.0,
    "interval": (9.0, 11.0),
    "fresh_loss": 10.0,
    "alarms": (),
    "looked_at": NOW,
    "now": NOW,
}


def test_it_is_right_when_its_loss_is_what_it_was_when_fresh():
    assert health(**WELL).state == "right"


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ({"looked_at": None}, "nobody has looked"),
        ({"looked_at": NOW - timedelta(days=10)}, "10 days ago"),
        ({"rows": 0, "loss": None, "interval": None}, "0 labels"),
        ({"fresh_loss": None}, "too few rows"),
    ],
)
def test_without_evidence_it_is_unknown_and_never_right(seen, says):
    found = health(**WELL | seen)
    assert found.state == "unknown"
    assert says in found.sentence


@pytest.mark.parametrize(
    "seen", [{"alarms": ("harm",)}, {"fresh_loss": 8.0}, {"alarms": ("harm",), "fresh_loss": None}]
)
def test_an_open_alarm_or_a_loss_surely_above_the_fresh_one_is_harm(seen):
    assert health(**WELL | seen).state == "harmed"


@pytest.mark.parametrize(("is_warm", "state"), [(True, "right"), (False, "unknown")])
def test_what_no_retraining_could_better_is_right_once_enough_rows_say_so_and_says_what_it_was_when_new(is_warm, state):
    found = health(**WELL | {"new_loss": 4.0, "is_warm": is_warm})
    assert found.state == state
    assert "4 when new" in found.sentence


def test_few_labels_do_not_make_right_what_only_a_few_rows_call_fresh():
    few = FewKnown(late_rows=100, newest_label_at=NOW)
    seen = WELL | {"rows": 100, "interval": (9.0, 10.5), "few": few}
    assert health(**seen).state == "right"
    found = health(**seen, new_loss=4.0, is_warm=False)
    assert (found.state, "4 when new" in found.sentence) == ("unknown", True)


def test_a_plain_service_is_right_when_it_is_asked_and_nothing_is_wrong():
    service = WELL | {"rows": 0, "loss": None, "interval": None, "fresh_loss": None}
    assert health(**service, answered=12).state == "right"
    assert health(**service, answered=0).state == "unknown"
    assert health(**service | {"alarms": ["system (errors)"]}, answered=12).state == "harmed"


def test_nothing_is_right_when_nobody_watches():
    found = health(**WELL, runs=False)
    assert found.state == "unknown"
    assert "nobody watches" in found.sentence
