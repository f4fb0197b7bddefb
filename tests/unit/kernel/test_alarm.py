"""An alarm is opened once and resolved once, however the figures tremble."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from staytrue.kernel.alarm import Alarm, seen

looks = st.lists(st.sampled_from([True, False, None]), max_size=60)


def turns(bad, **holds):
    alarm, story = Alarm(), []
    for now_s, is_bad in enumerate(bad):
        alarm, turn = seen(alarm, float(now_s), is_bad=is_bad, **holds)
        story.append(turn)
    return story, alarm


@given(looks, st.integers(0, 5), st.integers(0, 5))
def test_opened_and_resolved_take_turns(bad, open_after_s, close_after_s):
    story, alarm = turns(bad, open_after_s=open_after_s, close_after_s=close_after_s)

    told = [turn for turn in story if turn]
    assert told == (["opened", "resolved"] * len(told))[: len(told)]
    assert alarm.is_open == (told[-1:] == ["opened"])


def test_one_that_trembles_is_told_of_once():
    story, _ = turns([True, False] * 50, close_after_s=3)

    assert [turn for turn in story if turn] == ["opened"]


def test_what_is_neither_bad_nor_well_keeps_it_as_it_is():
    story, _ = turns([None, True, True, None, True, None, False, None, False, False], open_after_s=1, close_after_s=1)

    assert story == [None, None, "opened", None, None, None, None, None, None, "resolved"]
