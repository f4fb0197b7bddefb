"""Who did it: what `staytrue blame` names by the verbs that a person types; and the whole demonstration, one ending of it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from staytrue.cli import main

WHODUNNIT = Path(__file__).parents[2] / "drills" / "whodunnit.py"
START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")

APP = '''
import numpy as np
import pandas as pd

from staytrue import App

app = App("flats")
START = pd.Timestamp("2026-01-01", tz="UTC")


@app.data(time="at", key="id", label="rate", every="1d", features=["size", "guests", "city"])
def nights(since, until):
    return pd.concat([one_day(day) for day in pd.date_range(since, until, inclusive="left")])


def one_day(day):
    """From day 20 to 28 rates of Porto come per guest. From day 28 on every night costs 2 more."""
    number = (day - START).days
    random = np.random.default_rng(number)
    size, guests, city = random.uniform(1, 5, 60).round(3), random.integers(1, 3, 60), random.choice(["lisbon", "porto"], 60)
    rate = 20 + 3 * size + 2 * (number >= 28) + random.normal(0, 1, 60)
    wrong = (city == "porto") & (20 <= number < 28)
    rate = np.where(wrong, rate / guests, rate)
    at = day + pd.to_timedelta(np.arange(60) * 20, unit="min")
    return pd.DataFrame(
        {"id": number * 100 + np.arange(60), "at": at, "size": size, "guests": guests, "city": city, "rate": rate.round(3)}
    )


def known(rows):
    porto = (rows["city"] == "porto").astype(float)
    return np.column_stack([np.ones(len(rows)), rows["size"], porto, porto * rows["guests"]])


@app.train(params={"days": 14})
def fit(nights, params):
    recent = nights.tail(60 * params["days"])
    return np.linalg.lstsq(known(recent), recent["rate"].to_numpy(float), rcond=None)[0].tolist()


@app.predict(metric="mae", segments=["city"])
def quote(model, rows):
    return known(rows) @ model
'''


@pytest.fixture
def flats(tmp_path, capsys):
    (tmp_path / "app.py").write_text(APP)

    def staytrue(*words: str):
        capsys.readouterr()
        code = main([*words, "--app", str(tmp_path / "app.py"), "--store", str(tmp_path / "store"), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return tmp_path / "app.py", staytrue


def day(number: int) -> str:
    return (START + timedelta(days=number)).isoformat()


def test_rows_of_one_city_that_came_wrong_are_named_although_newer_rows_would_win_even_more(flats):
    file, staytrue = flats
    staytrue("fetch", "--since", day(0), "--until", day(20))
    staytrue("train")
    file.write_text(APP.replace('{"days": 14}', '{"days": 13}').replace("porto = (", "porto = 1.0 * ("))
    _, fetched = staytrue("fetch", "--until", day(28))
    staytrue("train", "--now")
    staytrue("fetch", "--until", day(60))

    code, report = staytrue("blame")

    assert code == 0
    assert fetched["fetched"][0]["quarantined"] == 0
    assert [(one["axis"], one["how"]) for one in report["changes"]] == [("data", "back")], report["sentence"]
    gains = {tuple(one["changes"][0]): one["gain"] for one in report["singles"]}
    assert gains["data", "fresh"] > 1.2 * gains["data", "back"]
    assert "Trained again on the newest rows alone it would do as well." in report["more"]
    (named,) = [one for one in report["culprits"] if one["kind"] == "segment"]
    assert list(named["facts"]["values"]) == ["porto"]


@pytest.mark.slow
def test_the_stuck_feed_is_found_within_two_minutes_and_repaired(tmp_path):
    command = [sys.executable, "-W", "ignore", str(WHODUNNIT), "--only", "feed", "--dir", str(tmp_path / "who")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    claims = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("  holds", "  BROKEN"))]
    assert claims == ["holds"] * 8
