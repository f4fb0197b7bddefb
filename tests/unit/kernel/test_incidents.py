"""What people hear of."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from staytrue.kernel.incidents import changes, standing

START = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Event:
    seq: int
    kind: str
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def at(self) -> datetime:
        return START + timedelta(hours=self.seq)

    @property
    def sentence(self) -> str:
        return f"{self.kind} {self.seq}"


HARM = ("alarm", {"alarm": "harm", "state": "opened", "evidence": {"loss": 3}})
CALM = ("alarm", {"alarm": "harm", "state": "resolved"})


def disk(state: str):
    return ("alarm", {"alarm": "system", "what": "disk", "state": state, "evidence": {}})


def story(*told) -> list[Event]:
    """Events of these kinds, with or without a body."""
    return [
        Event(seq=seq, kind=one) if isinstance(one, str) else Event(seq=seq, kind=one[0], body=one[1])
        for seq, one in enumerate(told, 1)
    ]


def heard(*told) -> list[str]:
    return [f"{one.seq} {one.title}" for one in changes(story(*told))]


def test_an_incident_opens_is_acted_on_and_is_over_with_the_next_champion():
    assert heard(HARM, "retrain", "backtest", "shadow", "canary", "promoted") == [
        "1 harm opened",
        "2 harm acting",
        "6 harm resolved",
    ]


def test_an_alarm_that_is_told_a_thousand_times_is_heard_once():
    assert heard(*[HARM] * 500, "retrain", *[HARM] * 500) == ["1 harm opened", "501 harm acting"]


def test_a_retraining_that_brought_nothing_leaves_the_incident_open():
    assert heard(HARM, "retrain", "rejected", "retrain", "promoted") == [
        "1 harm opened",
        "2 harm acting",
        "3 harm opened",
        "4 harm acting",
        "5 harm resolved",
    ]


def test_what_is_resolved_may_open_again_as_another_incident():
    found = changes(story(HARM, CALM, HARM))
    assert [one.state for one in found] == ["opened", "resolved", "opened"]
    assert [one.id for one in found] == ["harm:harm:1", "harm:harm:1", "harm:harm:3"]
    assert found[1].opened_at == START + timedelta(hours=1)
    assert found[1].changed_at == START + timedelta(hours=2)
    assert found[1].sentence == "alarm 2"


def test_no_retraining_and_no_champion_frees_a_disk():
    assert heard(disk("opened"), "retrain", "promoted", disk("resolved")) == [
        "1 system (disk) opened",
        "4 system (disk) resolved",
    ]


def test_incidents_of_other_causes_stand_side_by_side():
    ledger = ("alarm", {"alarm": "system", "what": "ledger", "state": "opened"})
    assert [one.cause for one in standing(story(disk("opened"), ledger, HARM, disk("opened")))] == [
        "disk",
        "ledger",
        "harm",
    ]


def test_a_challenger_that_was_cut_off_is_one_message():
    tripped = ("tripped", {"role": "challenger", "guard": "errors", "release": "a" * 64})
    assert heard("shadow", tripped, "rejected") == ["2 release (errors) resolved"]


def test_a_champion_that_was_cut_off_is_open_until_it_is_rolled_back():
    tripped = ("tripped", {"role": "champion", "guard": "latency", "release": "a" * 64})
    assert heard(tripped, tripped, "rolled_back") == ["1 release (latency) opened", "3 release (latency) resolved"]


@pytest.mark.parametrize("ends", ["promoted", "rejected", "withdrawn"])
def test_a_challenger_that_waits_for_a_person_is_told_of_until_somebody_decides(ends):
    assert heard("waiting", ends) == ["1 approval opened", "2 approval resolved"]


def test_a_commit_that_was_refused_is_one_message():
    assert heard("pushed", "refused", "pushed", "checked") == ["2 push (check) resolved"]


def test_an_alarm_without_a_cause_is_over_with_the_next_champion():
    assert heard(("alarm", {"alarm": "system"}), ("alarm", {"alarm": "system"}), "promoted") == [
        "1 answers opened",
        "3 answers resolved",
    ]


def test_what_is_no_incident_says_nothing():
    assert heard("fetched", "looked", "trained", "promoted", "rejected", "asked", CALM, disk("resolved")) == []
