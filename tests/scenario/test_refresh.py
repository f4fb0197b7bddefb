"""`staytrue refresh`: the newest rows, and the champion's own code on them, whatever stands in the folder."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from living import beating
from test_service_life import TILL

from staytrue.loop.orders import orders

TODAY = """
from pathlib import Path

import numpy as np
import pandas as pd

from staytrue import App

app = App("shop")
app.policy(holdout=100, cooldown="1d")


@app.data(time="at", key="id", label="rate", every="1d", features=["size"])
def sales(since, until):
    if Path("down").exists():
        raise OSError("the database does not answer")
    days = pd.date_range(since, min(until, pd.Timestamp(Path("newest").read_text(), tz="UTC")), inclusive="left")
    return pd.concat([pd.DataFrame({"at": [], "id": [], "size": [], "rate": []}), *map(one_day, days)])


def one_day(day):
    number = (day - pd.Timestamp("2020-01-01", tz="UTC")).days
    size = np.random.default_rng(number).uniform(1, 5, 30).round(3)
    at = day + pd.to_timedelta(np.arange(30) * 40, unit="min")
    return pd.DataFrame({"id": number * 100 + np.arange(30), "at": at, "size": size, "rate": 20 + 3 * size})


@app.data(time="day", key="place", every="1d")
def weather(since, until):
    if Path("no weather").exists():
        raise OSError("the station does not answer")
    return pd.DataFrame({"day": pd.date_range(since, until, inclusive="left"), "sun": 1.0}).assign(place=1)


@app.train(params={"more": 2})
def fit(sales, weather, params):
    return [3.0, 20.0 + params["more"] + len(sales) / 1e6]


@app.predict(metric="mae")
def quote(model, rows):
    return np.polyval(model, rows["size"])
"""


def days_ago(count: int) -> str:
    return f"{datetime.now(UTC) - timedelta(days=count):%Y-%m-%d}"


@pytest.fixture
def learned(shop, monkeypatch):
    """The app with a champion that learned from all there was up to five days ago; and then its file broke."""
    monkeypatch.chdir(shop.folder)
    rows_until(shop, 5)
    shop.write(TODAY)
    assert shop.run("fetch", "--since", days_ago(40), "--until", days_ago(5)).code == 0
    assert shop.run("train").document["delivered"]["promoted"]
    shop.write("this is no Python(")
    return shop


def rows_until(shop: Any, days: int) -> None:
    (shop.folder / "newest").write_text(days_ago(days))


def newest_until(shop: Any) -> str:
    store = shop.store
    found = store.table("sales", app="shop").table.until
    store.close()
    return f"{found:%Y-%m-%d}"


def test_the_champions_code_learns_from_what_came_since_and_goes_through_the_gate(learned):
    before = learned.champion()
    rows_until(learned, 0)

    tried = learned.run("refresh")
    said = learned.run("refresh", "--now", "--why", "the fair")

    document = tried.document
    assert (tried.code, document["delivered"]["verdict"]) == (1, "undecided")  # 150 rows of two equal models
    assert (document["rows"], document["corrected"], document["trained"]) == (150, False, True)
    assert said.code == 0, said.err
    assert (said.document["trained"], said.document["delivered"]["promoted"]) == (False, True)
    store = learned.store
    new, old = store.release(learned.champion()).release, store.release(before).release
    store.close()
    assert new.code == old.code
    assert dict(new.params) == {"more": 2}
    assert learned.events("trained")[-1]["body"]["about"]["why"] == "the fair"
    assert newest_until(learned) == days_ago(0)


def test_nothing_newer_is_said_with_the_days(learned):
    rows_until(learned, 5)

    said = learned.run("refresh")

    assert said.code == 1
    assert said.document["sentence"] == (
        f"There is nothing newer than what the champion learned from (up to {days_ago(5)}); the source last gave rows for "
        f"{days_ago(5)}."
    )
    assert said.document["delivered"] is None


def test_a_source_that_is_down_is_told_and_the_rest_goes_on(learned):
    rows_until(learned, 0)
    (learned.folder / "no weather").write_text("")

    said = learned.run("refresh", "--now")

    assert said.code == 0, said.err
    assert said.document["failed"]["weather"]["code"] == "ST621"
    assert "weather gave nothing, and it goes on with what is there of it" in said.err
    assert "the station does not answer" in said.err
    assert [one["source"] for one in said.document["fetched"]] == ["sales"]
    assert said.document["delivered"]["verdict"] == "forced"


def test_where_the_rows_come_from_is_down_nothing_newer_is_there(learned):
    rows_until(learned, 0)
    (learned.folder / "down").write_text("")

    said = learned.run("refresh", "sales")

    assert said.code == 1
    assert said.document["failed"].keys() == {"sales"}
    assert said.document["sentence"].startswith("There is nothing newer than what the champion learned from")


def test_a_dry_run_asks_nobody_and_writes_nothing(learned):
    rows_until(learned, 0)
    before = [event["id"] for event in learned.events()], sorted(objects(learned.store_path))

    said = learned.run("refresh", "--dry-run")

    sentences = " ".join(said.document["sentences"])
    assert said.code == 0
    assert "sales would be asked for rows up to" in sentences
    assert "nothing newer than what the champion learned from" in sentences
    assert "its params more=2" in sentences
    assert ([event["id"] for event in learned.events()], sorted(objects(learned.store_path))) == before


def objects(store_path: Path) -> list[str]:
    return [str(path) for path in (store_path / "objects").rglob("*") if path.is_file()]


def test_where_the_loop_lives_it_is_asked_to_retrain(learned):
    rows_until(learned, 0)
    with beating(learned.store_path):
        said = learned.run("refresh")

    assert said.code == 0
    assert said.document["delivered"]["verdict"] == "ordered"
    store = learned.store
    (order,) = orders(store.ledger, "shop")
    store.close()
    assert (order.what, order.why) == ("retrain", "refresh")
    assert said.document["trained"] is False


def test_what_can_not_be_refreshed_is_named(learned):
    assert learned.run("refresh", "moon").document["code"] == "ST620"
    assert learned.run("refresh", store=learned.folder / "nowhere").document["code"] == "ST470"


def test_without_a_champion_there_is_nothing_to_refresh(stocked):
    assert stocked.run("refresh").document["code"] == "ST650"


def test_a_plain_service_has_nothing_to_refresh(shop):
    shop.write(TILL).run("deploy")

    assert shop.run("refresh").document["code"] == "ST983"
