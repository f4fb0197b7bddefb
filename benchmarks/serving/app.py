"""The app that `make bench-serve` serves: a logistic regression on 20 drawn numbers. The peers serve the same model."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from staytrue import App

FEATURES = [f"x{number}" for number in range(20)]
ROWS_A_DAY = 250

app = App("bench")


@app.data(time="at", key="row", label="y", every="1d", features=FEATURES)
def drawn(since, until):
    return pd.concat([day(start) for start in pd.date_range(since, until, freq="1D", inclusive="left")])


def day(start):
    """The same rows for the same day, whenever it is asked for."""
    number = start.toordinal()
    rng = np.random.default_rng(number)
    x = rng.normal(size=(ROWS_A_DAY, len(FEATURES)))
    score = x @ np.linspace(-1, 1, len(FEATURES)) + rng.normal(size=ROWS_A_DAY)
    rows = pd.DataFrame(x, columns=FEATURES)
    at = start + pd.to_timedelta(np.arange(ROWS_A_DAY), unit="min")
    return rows.assign(row=number * ROWS_A_DAY + np.arange(ROWS_A_DAY), at=at, y=(score > 0).astype(int))


@app.train
def fit(drawn):
    return LogisticRegression().fit(drawn[FEATURES].to_numpy(), drawn["y"].to_numpy())


@app.predict(metric="error_rate")
def rises(model, rows):
    return model.predict(rows.to_numpy())
