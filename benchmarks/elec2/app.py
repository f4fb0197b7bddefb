"""Will the price of electricity rise above its daily mean? Elec2 (Harries 1999), a stream with real concept drift.

The data may not be shipped (no licence is stated): ELEC2 names the Parquet file. ELEC2_SHUFFLE=1 deals the rows out
anew, so that nothing drifts any more: the control on which the best policy is to do nothing.
"""

import os
from functools import cache

import arro3.io
import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

from staytrue import App

FEATURES = ["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]

app = App("elec2")


@app.data(time="at", key="row", label="rises", every="1d", features=FEATURES)
def halfhours(since, until):
    rows = history()
    return rows[(rows["at"] >= since) & (rows["at"] < until)]


@cache
def history():
    table = arro3.io.read_parquet(os.environ["ELEC2"]).read_all()
    columns = {name: table.column(name).to_pylist() for name in ("row", "at", "class", "repeated_day", *FEATURES)}
    rows = (
        pd.DataFrame(columns).query("not repeated_day").drop(columns="repeated_day").rename(columns={"class": "rises"})
    )
    rows["at"] = pd.to_datetime(rows["at"], utc=True)
    if os.environ.get("ELEC2_SHUFFLE") == "1":
        mixed = [*FEATURES, "rises"]
        order = np.random.default_rng(0).permutation(len(rows))
        rows[mixed] = rows[mixed].to_numpy()[order]
        rows["rises"] = rows["rises"].astype(int)
    return rows


@app.train
def fit(halfhours):
    return HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(halfhours[FEATURES], halfhours["rises"])


@app.predict(metric="error_rate")
def rises(model, rows):
    return model.predict(rows[FEATURES])
