"""Segments of a release and what it learned from, in a store: what `staytrue show` says, and what a life would watch."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from staytrue.engines.process import ProcessPool
from staytrue.loop.jobs import drive
from staytrue.loop.past import Past
from staytrue.loop.release import checked_out
from staytrue.loop.segments import release_report, training_report, watch_of, watched

SHOP = """
from shop_history import between

import numpy as np

from staytrue import App

app = App("shop")


@app.data(time="at", key="id", label="rate", every="1d", features=["size", "city"])
def sales(since, until):
    return between(since, until)


@app.train
def fit(sales):
    return sales.groupby("city")["rate"].median().to_dict() | {"": float(sales["rate"].median())}


@app.predict(metric="mae", segments=["city"])
def quote(model, rows):
    return [model.get(city, model[""]) for city in rows["city"]]
"""
"""Quotes the median of each city."""

HISTORY = '''
"""100 days, 40 sales a day. Three of ten of Porto's rates of the first 60 days were kept in another currency. From day 60 on
Faro sells too, larger things are sold, and Lisbon costs 8 more."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd


def history():
    rng = np.random.default_rng(7)
    day = np.repeat(np.arange(100), 40)
    late = day >= 60
    city = np.where(late & (rng.random(len(day)) < 0.2), "faro", rng.choice(["lisbon", "porto"], len(day)))
    size = rng.uniform(1, 5, len(day)) + 5 * (late & (rng.random(len(day)) < 0.2))
    rate = 20 + rng.normal(0, 1, len(day)) + 8 * (late & (city == "lisbon"))
    rate *= np.where(~late & (city == "porto") & (rng.random(len(day)) < 0.3), 4, 1)
    at = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=int(d), minutes=i % 40) for i, d in enumerate(day)]
    return pd.DataFrame({"at": pd.to_datetime(at), "id": range(len(day)), "size": size, "city": city, "rate": rate})


ROWS = history()


def between(since, until):
    return ROWS[(ROWS["at"] >= since) & (ROWS["at"] < until)]
'''

TRAINED, HARMED, NOW = "2026-03-02", "2026-03-02", "2026-04-11"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The shop, trained on the first 60 days, with all its rows fetched since; and a pool for the model's answers."""
    from staytrue import testing

    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop_history.py").write_text(HISTORY)
    (folder / "app.py").write_text(SHOP)
    with testing.bench(folder / "app.py", folder) as bench, ProcessPool(folder / "jobs") as pool:
        bench.fetch("2026-01-01", TRAINED)
        assert bench.train().promoted
        bench.fetch(TRAINED, NOW)
        yield bench, pool


def test_what_training_lacked_is_said_from_sketches(shop) -> None:
    bench, _ = shop
    told = training_report(bench.store, bench.release().release)
    assert told is not None
    assert [(one["kind"], one["about"], one["severity"]) for one in told["findings"]] == [
        ("age", "time", "warning"),
        ("unlike", "size", "warning"),
        ("missing_segment", "city=faro", "warning"),
    ]
    assert told["sentences"][0] == "learned from 2,400 rows with a median age of 70 days, the newest 41 days old"
    assert told["sentences"][2].endswith("of the 1,120 rows since 2026-03-14, and training had none")
    # of the same columns but without those the model does not look at
    other = training_report(
        bench.store, bench.release().release, columns=["size"], now=datetime(2026, 12, 1, tzinfo=UTC)
    )
    assert other is not None
    assert [one["about"] for one in other["findings"]] == ["time", "size"]
    assert other["findings"][0]["numbers"]["median_age_days"] > 300


def test_segments_slices_and_labels_are_told_from_answers(shop) -> None:
    bench, pool = shop
    past = Past.whole(bench._ctx)
    told = drive({"report": release_report(past, bench.release().release)}, pool)["report"]
    assert told["segments"]["rows"] == 1600
    values = told["segments"]["columns"]["city"]["values"]
    assert set(values) == {"faro", "lisbon", "porto"}
    assert (values["lisbon"]["error"]["value"] < -7.5, values["faro"]["error"]["hi"] > 0) == (True, True)
    assert told["sentences"][0].startswith("loss a row differs by city: 8.01 in lisbon (")
    assert any(
        one.startswith("answers in city=lisbon are 8.0") and "too low on average" in one for one in told["sentences"]
    )
    assert any(one.startswith("where city = lisbon (") for one in told["sentences"])
    # Porto's labels in training, and nobody else's
    assert [one["about"] for one in told["labels"]["findings"]] == ["city=porto"]


def test_a_watch_over_segments_names_the_one_that_is_harmed(shop) -> None:
    bench, pool = shop
    past = Past.whole(bench._ctx)
    champion = checked_out(past.ctx, bench.release().release)
    drive({"answers": past.answered([champion], 0, len(past.ticks))}, pool)
    watch = watch_of(past, champion, start=30, stop=60)
    assert set(watch.harms) == {"city=lisbon", "city=porto"}
    for tick in range(60, 100):
        watch = watched(watch, past, tick, past.losses(champion, tick))
    (harm,) = watch.harmed()
    assert (harm.segment, harm.since) == ("city=lisbon", 60)
    assert watched(watch, past, 60, np.empty(0)) is watch


def test_too_few_new_rows_say_nothing(shop) -> None:
    bench, pool = shop
    past = Past.whole(bench._ctx)
    with_all = drive({"all": release_report(past, bench.release().release)}, pool)["all"]
    few = Past.whole(bench._ctx)
    few.ticks = few.ticks[:62]
    few.until = 62
    told = drive({"few": release_report(few, bench.release().release)}, pool)["few"]
    assert with_all["segments"] is not None
    assert told == {
        "segments": None,
        "labels": None,
        "sentences": ["80 labelled rows came since its training: too few to say how segments do"],
    }


def test_show_tells_them(shop, staytrue) -> None:
    bench, _ = shop
    store = ["--store", str(bench.store.root), "--app", str(bench._ctx.file)]
    code, quick, _ = staytrue("show", "champion", *store)
    also, whole, _ = staytrue("show", "champion", "--segments", *store)
    assert (code, also) == (0, 0)
    assert "training data  learned from 2,400 rows with a median age of 70 days" in quick
    assert "loss a row differs by city" not in quick
    assert "segments       loss a row differs by city" in whole
