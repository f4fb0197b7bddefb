"""A small app for fault tests, copied to a folder of its own: 15 sales a day, whose price per size rises on day 60.

With FAULT_JOURNAL set, each training leaves a line there: who asked for it (FAULT_ORDER), first and last day of its rows.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from staytrue import App

app = App("prices")
app.policy(trial="backtest, shadow:30, canary:50%", cooldown="2d", retrain_cost=20, trial_days=20)


@app.data(time="at", key="id", label="price", every="1d")
def sales(since, until):
    return pd.concat([one_day(day) for day in pd.date_range(since, until, inclusive="left")])


def one_day(day):
    random = np.random.default_rng(day.toordinal())
    size = random.uniform(1, 10, 15)
    slope = 2.0 if day < pd.Timestamp("2025-03-02", tz="UTC") else 3.0
    return pd.DataFrame(
        {
            "id": day.toordinal() * 100 + np.arange(15),
            "at": day + pd.to_timedelta(np.arange(15), unit="h"),
            "day": day.toordinal(),
            "size": size,
            "price": slope * size + random.normal(0, 0.5, 15),
        }
    )


@app.train
def fit(sales):
    if "FAULT_JOURNAL" in os.environ:
        line = f"{os.environ['FAULT_ORDER']} {sales['day'].min()} {sales['day'].max()}\n"
        with Path(os.environ["FAULT_JOURNAL"]).open("a") as journal:
            journal.write(line)
    return np.polyfit(sales["size"], sales["price"], 1).tolist()


@app.predict(metric="mae")
def quote(model, rows):
    return np.polyval(model, rows["size"])
