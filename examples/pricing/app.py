"""What should a hotel room cost? Quotes for a resort in the Algarve, learned from its real bookings of 2015 to 2017.

One row is one booking, ordered by the day it was made: that is when the price was fixed, so a quote may use what was known then
and nothing later. `assigned_room_type`, `booking_changes` and `days_in_waiting_list` are in the file, but known only after the
booking; `country` is filled in at check-in. They are no features.
"""

from functools import cache

import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

from staytrue import App

NUMBERS = [
    "lead_time", "stays_in_weekend_nights", "stays_in_week_nights", "adults", "children", "babies", "is_repeated_guest",
    "previous_cancellations", "previous_bookings_not_canceled", "near_christmas", "near_new_years",
    "historical_adr",  # the hotel's mean rate on that day of the year, in the years before
]  # fmt: skip
WORDS = ["meal", "market_segment", "distribution_channel", "reserved_room_type", "customer_type", "agent", "company"]
FEATURES = [*NUMBERS, *WORDS, "arrival_date"]

app = App("hotel-rates")
app.policy(retrain_cost=100)  # a retraining costs as much as 100 quotes by a fresh model are off


@app.data(time="booked_at", key="booking_id", label="rate", every="1d", label_after="1d", features=FEATURES)
def bookings(since, until):
    """The bookings made in that time; what was paid is known a day later. A real app would ask its database here."""
    rows = history()
    return rows[(rows["booked_at"] >= since) & (rows["booked_at"] < until)]


@cache
def history(file="hotel_rates.csv.gz"):
    rows = pd.read_csv(file)  # a source is asked in the app's own folder: it sees the file as it is now
    return rows.assign(
        booked_at=pd.to_datetime(rows["booked_at"], utc=True), arrival_date=pd.to_datetime(rows["arrival_date"])
    )


def season(rows):
    """The arrival date as a model can use it: prices follow the season and the weekday."""
    day = rows["arrival_date"].dt
    return pd.DataFrame({"day_of_year": day.day_of_year, "weekday": day.day_of_week})


@app.train
def fit(bookings):
    words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    prepare = make_column_transformer(
        (words, WORDS), (FunctionTransformer(season), ["arrival_date"]), ("passthrough", NUMBERS)
    )
    learn = HistGradientBoostingRegressor(categorical_features=list(range(len(WORDS))), random_state=0)
    return make_pipeline(prepare, learn).fit(bookings[FEATURES], bookings["rate"])


@app.predict(metric="mae", segments=["market_segment"])
def quote(model, rows):
    return model.predict(rows[FEATURES])
