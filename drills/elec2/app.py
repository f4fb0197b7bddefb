"""Will the price of electricity rise above its daily mean? Elec2 (Harries 1999), out of a database that goes on growing."""

import os
import sqlite3

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

from staytrue import App

FEATURES = ["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]

app = App("elec2")
app.policy(retrain_cost=30, window="30d", trial_days=21)


@app.data(time="at", key="row", label="rises", every="1d", label_after="1d", features=FEATURES)
def halfhours(since, until):
    """The half-hours of that time, as the database has them now."""
    wanted = "select * from stream where at >= ? and at < ? order by row"
    with sqlite3.connect(os.environ["DATABASE"]) as database:
        rows = pd.read_sql_query(wanted, database, params=[since.isoformat(), until.isoformat()])
    return rows.assign(at=pd.to_datetime(rows["at"], utc=True), rises=rows["rises"].astype("Int64"))


@app.train
def fit(halfhours):
    return HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(halfhours[FEATURES], halfhours["rises"])


@app.predict(metric="error_rate")
def rises(model, rows):
    return model.predict(rows[FEATURES])
