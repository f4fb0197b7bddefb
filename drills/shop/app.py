"""What does a flat cost a night? Made-up rows, no library beyond numpy: for the drill of a minute, and the one under kill -9."""

import os
import sqlite3

import numpy as np
import pandas as pd

from staytrue import App

FEATURES = ["size", "terrace", "city"]

app = App("shop")
app.policy(
    holdout=60, window="7d", trial="backtest, shadow:40, canary:25%", watch_rows=200, retrain_cost=10, trial_days=12
)


@app.data(time="at", key="id", label="rate", every="1d", label_after="1d", features=FEATURES)
def nights(since, until):
    """The nights of that time, as the database has them now."""
    wanted = "select * from stream where at >= ? and at < ? order by id"
    with sqlite3.connect(os.environ["DATABASE"]) as database:
        rows = pd.read_sql_query(wanted, database, params=[since.isoformat(), until.isoformat()])
    return rows.assign(at=pd.to_datetime(rows["at"], utc=True))


def known(rows):
    """What a rate is learned from."""
    return np.column_stack([np.ones(len(rows)), rows["size"]])


@app.train
def fit(nights):
    return np.linalg.lstsq(known(nights), nights["rate"].to_numpy(float), rcond=None)[0].tolist()


@app.predict(metric="mae", segments=["city"])
def quote(model, rows):
    return known(rows) @ model
