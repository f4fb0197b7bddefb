"""Spans of time as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.duration import duration, spell


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("1.5h", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
        (" 2w ", timedelta(weeks=2)),
        ("0s", timedelta(0)),
    ],
)
def test_a_number_and_a_unit_are_a_span(text, span):
    assert duration(text) == span


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1 day", "1d2h", None, 7, float("nan"), timedelta(days=-1)])
def test_anything_else_is_refused_with_what_it_was_for(text):
    with pytest.raises(InvalidInput, match=r"ST103 Can't read every"):
        duration(text, what="every")


@pytest.mark.parametrize("text", ["90s", "30m", "12h", "7d", "1.5s"])
def test_spelling_is_the_inverse_of_reading(text):
    assert spell(duration(text)) == text
