"""A small shop whose prices move: its history and its app, as text, which need no library beyond those of staytrue."""

from __future__ import annotations

HISTORY = '''
"""200 days of sales, 20 a day. On day 100 everything begins to cost 6 more; nothing else ever changes."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS, EACH = 200, 20


def history():
    rng = np.random.default_rng(7)
    n = DAYS * EACH
    day = np.repeat(np.arange(DAYS), EACH)
    size = rng.uniform(1, 5, n).round(3)
    city = rng.choice(["lisbon", "porto"], n)
    rate = 20 + 3 * size + 6 * (day >= 100) + rng.normal(0, 1, n)
    at = pd.to_datetime([START + timedelta(days=int(d), hours=int(h)) for d, h in zip(day, np.arange(n) % 24)])
    return pd.DataFrame({"at": at, "id": np.arange(n), "size": size, "city": city, "rate": rate.round(3)})


ROWS = history()


def between(since, until):
    return ROWS[(ROWS["at"] >= since) & (ROWS["at"] < until)]
'''

SHOP = """
from shop_history import between

import numpy as np

from staytrue import App

app = App("shop")
app.policy(holdout=100, trial="backtest, shadow:40, canary:50%", watch_rows=200, retrain_cost=20, cooldown="1d")


@app.data(time="at", key="id", label="rate", every="1d", features=["size", "city"])
def sales(since, until):
    return between(since, until)


@app.train
def fit(sales):
    return np.polyfit(sales["size"], sales["rate"], 1).tolist()


@app.predict(metric="mae", segments=["city"])
def quote(model, rows):
    return np.polyval(model, rows["size"])
"""
