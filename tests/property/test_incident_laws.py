"""Whatever happens: one incident at a time for each cause, and no message without a change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from staytrue.kernel.incidents import KINDS, changes, fold, standing


@dataclass(frozen=True)
class Event:
    seq: int
    kind: str
    body: dict[str, Any]

    @property
    def at(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=self.seq)

    sentence = "Something."


ALARMS = st.fixed_dictionaries(
    {"alarm": st.sampled_from(["harm", "system", "shift"])},
    optional={"what": st.sampled_from(["disk", "errors"]), "state": st.sampled_from(["opened", "resolved"])},
)
TRIPS = st.fixed_dictionaries(
    {"role": st.sampled_from(["champion", "challenger"]), "guard": st.sampled_from(["errors", "latency"])}
)
TOLD = st.one_of(
    ALARMS.map(lambda body: ("alarm", body)),
    TRIPS.map(lambda body: ("tripped", body)),
    st.sampled_from([*KINDS, "looked", "fetched"]).map(lambda kind: (kind, {})),
)
STORIES = st.lists(TOLD, max_size=60).map(
    lambda told: [Event(seq, kind, body) for seq, (kind, body) in enumerate(told, 1)]
)


@given(STORIES)
def test_each_message_is_a_change_of_an_incident_and_one_stands_open_for_a_cause(events):
    # given
    states: dict[str, str] = {}
    open_by_cause: dict[tuple[str, str], set[str]] = {}
    # when
    for one in changes(events):
        # then
        assert states.get(one.id) != one.state
        assert states.get(one.id) != "resolved"
        assert one.state != "acting" or states.get(one.id) == "opened"
        states[one.id] = one.state
        standing_now = open_by_cause.setdefault((one.kind, one.cause), set())
        if one.state == "resolved":
            standing_now.discard(one.id)
        else:
            standing_now.add(one.id)
            assert len(standing_now) == 1
    assert {one.id: one.state for one in standing(events)} == {
        id_: state for id_, state in states.items() if state != "resolved"
    }


@given(STORIES, st.data())
def test_a_repetition_of_an_opening_says_nothing(events, data):
    if not events:
        return
    at = data.draw(st.integers(0, len(events) - 1))
    again = [*events[: at + 1], events[at], *events[at + 1 :]]
    once = [(one.id, one.state) for one in changes(events)]
    twice = [(one.id, one.state) for one in changes(again)]
    if events[at].kind == "refused" or events[at].body.get("role") == "challenger":
        assert len(twice) == len(once) + 1
    else:
        assert twice == once


@given(STORIES, st.integers(0, 60))
def test_going_on_from_what_stands_open_is_the_same_story(events, cut):
    open_, found = {}, []
    for event in events[:cut]:
        open_, changed = fold(open_, event)
        found += changed
    for event in events[cut:]:
        open_, changed = fold(open_, event)
        found += changed
    assert found == changes(events)
