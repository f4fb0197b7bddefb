"""What must hold of a quote, whatever model gives it."""

from datetime import UTC, datetime

import app
import numpy as np
import pandas as pd


def made_up(n=200):
    rng = np.random.default_rng(1)
    numbers = {name: rng.integers(0, 5, n) for name in app.NUMBERS}
    words = {name: rng.choice(["one", "two"], n) for name in app.WORDS}
    times = {
        "arrival_date": pd.date_range("2016-01-01", periods=n),
        "booked_at": [datetime(2016, 1, 1, tzinfo=UTC)] * n,
    }
    return pd.DataFrame({**numbers, **words, **times, "rate": 50.0 + 10 * numbers["adults"]})


def test_a_quote_is_near_the_rate_of_such_a_room():
    rows = made_up()

    quotes = app.quote(app.fit(rows), rows.drop(columns="rate"))

    assert np.abs(quotes - rows["rate"]).mean() < 5


def test_a_kind_of_guest_that_nobody_has_seen_is_quoted_too():
    rows = made_up()

    quotes = app.quote(app.fit(rows), rows.assign(customer_type="space tourist"))

    assert np.isfinite(quotes).all()
