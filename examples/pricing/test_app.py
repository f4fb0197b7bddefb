"""What must hold of a quote, whatever model gives it: `pytest` in this folder. Real bookings, the real loop."""

import contextlib
import math
from pathlib import Path

import pytest

from staytrue import testing

AFTER_THE_BOOKING = [
    "assigned_room_type",
    "booking_changes",
    "days_in_waiting_list",
    "country",
    "required_car_parking_spaces",
]


@pytest.fixture(scope="module")
def bench():
    """The hotel as it was on 1 September 2016, after two months of quoting."""
    with testing.bench(Path(__file__).with_name("app.py")) as bench:
        bench.fetch("2015-04-01", "2016-09-01")
        bench.replayed = bench.replay(["payback"], since="2016-07-01")
        yield bench


@pytest.fixture(scope="module")
def next_bookings(bench):
    """Real bookings of the week after: no model has seen them."""
    source = bench.app.sources["bookings"].function
    with contextlib.chdir(Path(__file__).parent):  # where a source is asked
        return source(testing.moment("2016-09-01"), testing.moment("2016-09-08"))


def test_a_quote_is_finite_and_positive(bench, next_bookings):
    quotes = bench.answers(next_bookings)

    assert len(quotes) == len(next_bookings) > 100
    assert all(math.isfinite(quote) and quote > 0 for quote in quotes)


@pytest.mark.parametrize("column", AFTER_THE_BOOKING)
def test_a_quote_uses_nothing_that_is_known_only_after_the_booking(bench, next_bookings, column):
    values = next_bookings[column]
    changed = values + 7 if values.dtype.kind in "if" else values.fillna("") + "_changed"

    assert bench.answers(next_bookings.assign(**{column: changed})) == bench.answers(next_bookings)


def test_a_quote_does_not_see_its_own_price(bench, next_bookings):
    assert bench.answers(next_bookings.drop(columns="rate")) == bench.answers(next_bookings)


def test_a_market_segment_that_nobody_has_seen_is_quoted_too(bench, next_bookings):
    quotes = bench.answers(next_bookings.assign(market_segment="space_tourists"))

    assert all(math.isfinite(quote) and quote > 0 for quote in quotes)


def test_two_months_of_quoting_beat_the_mean_rate(bench):
    known = bench.store.table("bookings").to_pandas()
    before, lived = known[known["booked_at"] < "2016-07-01"], known[known["booked_at"] >= "2016-07-01"]
    off_by_the_mean = (lived["rate"] - before["rate"].mean()).abs().mean()

    (payback,) = bench.replayed["policies"]
    assert bench.release().release.model
    assert payback["loss"] < 0.8 * off_by_the_mean
