"""What should a hotel room cost? Quotes for a resort in the Algarve, learned from its real bookings.

Like examples/pricing, but its rows are in a database that goes on growing: DATABASE names the SQLite file. A booking is there as
soon as it is made, its rate three days later. The guest's arrival date is asked for, but nothing is learned from it.
"""

import os
import sqlite3

import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from staytrue import App

NUMBERS = [
    "lead_time", "stays_in_weekend_nights", "stays_in_week_nights", "adults", "children", "babies", "is_repeated_guest",
    "previous_cancellations", "previous_bookings_not_canceled", "near_christmas", "near_new_years",
]  # fmt: skip
WORDS = ["meal", "market_segment", "distribution_channel", "reserved_room_type", "customer_type", "agent", "company"]
FEATURES = [*NUMBERS, *WORDS, "arrival_date"]

app = App("hotel")
app.policy(retrain_cost=50, window="120d", trial_days=28)


@app.data(time="booked_at", key="booking_id", label="rate", every="1d", label_after="3d", features=FEATURES)
def bookings(since, until):
    """The bookings made in that time, as the database has them now."""
    wanted = "select * from stream where booked_at >= ? and booked_at < ? order by booking_id"
    with sqlite3.connect(os.environ["DATABASE"]) as database:
        rows = pd.read_sql_query(wanted, database, params=[since.isoformat(), until.isoformat()])
    return rows.assign(
        booked_at=pd.to_datetime(rows["booked_at"], utc=True), arrival_date=pd.to_datetime(rows["arrival_date"])
    )


@app.train
def fit(bookings):
    words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    prepare = make_column_transformer((words, WORDS), ("passthrough", NUMBERS))
    learn = HistGradientBoostingRegressor(categorical_features=list(range(len(WORDS))), random_state=0)
    return make_pipeline(prepare, learn).fit(bookings[FEATURES], bookings["rate"])


@app.predict(metric="mae", segments=["market_segment"])
def quote(model, rows):
    return model.predict(rows[FEATURES])
