"""No look into the future: what a model knows at a tick was known at that tick."""

from __future__ import annotations

import pytest

SPY = '''
"""Answers with what it has seen of the future, in days; the loss is the days by which it cheated."""

from datetime import timedelta

import numpy as np
import pandas as pd

from staytrue import App

LABEL_AFTER = "3d"

app = App("spy")
app.policy(holdout=40, trial="shadow:20, canary:50%", watch_rows=60, retrain_cost=1, cooldown="1d")


def cheated(answers, labels, rows):
    # Row by row: when it happened, against the moment at which the model's youngest label came to be known.
    seen = pd.to_datetime(np.asarray(answers), unit="s", utc=True)
    begun = rows["at"].dt.floor("1D")
    return np.maximum(0.0, (pd.DatetimeIndex(seen) - pd.DatetimeIndex(begun)) / timedelta(days=1)) + (labels == 0) * 0.0


@app.data(time="at", key="id", label="y", every="1d", label_after=LABEL_AFTER, features=["at"])
def rows(since, until):
    stamps = [(d, n) for d in range((until - since).days) for n in range(20)]
    at = [since + timedelta(days=d, minutes=n) for d, n in stamps]
    return {"at": at, "id": [f"{a:%m%d}-{n}" for a, (_, n) in zip(at, stamps)], "y": [1.0] * len(at)}


@app.train
def fit(rows):
    end_of_tick = rows["at"].max().floor("1D") + timedelta(days=1)
    return (end_of_tick + pd.Timedelta(LABEL_AFTER)).timestamp()


@app.predict(metric=cheated)
def look(model, rows):
    return [model] * len(rows)
'''


@pytest.mark.parametrize("after", ["0s", "3d"])
def test_no_answer_comes_from_a_model_that_saw_a_label_before_it_was_known(bench_of, after):
    with bench_of(SPY.replace('LABEL_AFTER = "3d"', f'LABEL_AFTER = "{after}"')) as bench:
        bench.fetch("2026-01-01", "2026-03-01")
        story = bench.replay(["every:3d"], since="2026-01-15")

    (lived,) = story["policies"]
    assert lived["trained"] > 1
    assert lived["loss"] == 0.0
    assert [e for e in story["timeline"] if e["kind"] == "alarm"] == []


def test_the_spy_finds_a_model_that_has_seen_too_much(bench_of):
    """Labels are said to be known at once, and counted as known three days later: so the spy can see at all."""
    with bench_of(SPY.replace("label_after=LABEL_AFTER", 'label_after="0s"')) as bench:
        bench.fetch("2026-01-01", "2026-03-01")
        (lived,) = bench.replay(["every:3d"], since="2026-01-15")["policies"]

    assert lived["loss"] > 0.1


MEMORY = '''
"""Labels are noise; the model remembers each by its key, and answers the mean where it knows none."""

from datetime import timedelta
from hashlib import blake2b

import numpy as np

from staytrue import App

app = App("memory")
app.policy(holdout=40, trial="backtest, shadow:20, canary:50%", watch_rows=60, retrain_cost=0.1, cooldown="1d")


def noise(key):
    return int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big") / 2**32


@app.data(time="at", key="id", label="y", every="1d", label_after="1d", features=["id"])
def rows(since, until):
    days = range((until - since).days)
    stamps = [(since + timedelta(days=d, minutes=n), n) for d in days for n in range(20)]
    return [{"at": at, "id": f"{at:%m%d}-{n}", "y": noise(f"{at:%m%d}-{n}")} for at, n in stamps]


@app.train
def fit(rows):
    return dict(zip(rows["id"], rows["y"])), float(rows["y"].median())


@app.predict(metric="mae")
def recall(model, rows):
    known, usual = model
    return [known.get(key, usual) for key in rows["id"]]
'''


def test_noise_is_predicted_no_better_than_by_chance(bench_of):
    with bench_of(MEMORY) as bench:
        bench.fetch("2026-01-01", "2026-04-11")
        story = bench.replay(["every:2d", "never"], since="2026-01-21")

    # |y - 1/2| of a uniform y has mean 1/4 and standard deviation 1/(4 sqrt 3): 3 standard errors over 1,600 rows are .011.
    for lived in story["policies"]:
        assert abs(lived["loss"] - 0.25) < 0.011, lived
    assert story["policies"][0]["retrains"] > 2


BATCH = '''
"""Fills a gap with the mean of the rows that it is given at once: over many days, that would be news from the future."""

from datetime import timedelta

from staytrue import App

app = App("batch")
app.policy(trial="shadow:20", watch_rows=0)


@app.data(time="at", key="id", label="y", every="1d")
def rows(since, until):
    found = []
    for d in range((until - since).days):
        at = since + timedelta(days=d)
        # Every third day has gaps; the value on a day is the number of the day.
        day = (at - at.replace(month=1, day=1)).days
        for n in range(20):
            x = None if day % 3 == 1 and n % 2 else float(day)
            found.append({"at": at + timedelta(minutes=n), "id": f"{at:%m%d}-{n}", "x": x, "y": float(day)})
    return found


@app.train
def fit(rows):
    return 1.0


@app.predict(metric="mae")
def fill(model, rows):
    return rows["x"].fillna(rows["x"].mean())
'''


def test_an_answer_is_made_from_the_rows_of_its_own_tick_alone(bench_of):
    with bench_of(BATCH) as bench:
        bench.fetch("2026-01-01", "2026-04-11")
        (lived,) = bench.replay(["never"], since="2026-01-21")["policies"]

    # Within a day every value is the same, so the mean of the day's own rows is exactly right.
    assert lived["loss"] == 0.0
