"""Culprits: inside the guilty axis, the commit, the part, the setting or the age of the rows is named."""

from __future__ import annotations

import subprocess
from datetime import timedelta

import pytest
from living import START
from test_blame import WORLD, Blamed, lived_until, pool  # noqa: F401 - a fixture is found by its name

from staytrue.loop.data import release
from staytrue.loop.fetch import fetch
from staytrue.loop.repairing import repaired, set_guilty_parts_apart

COMMITS, GUILTY = 16, 11


@pytest.fixture
def shop(tmp_path, pool):  # noqa: F811
    made = Blamed(tmp_path / "shop", pool, text=WORLD)
    yield made
    made.ctx.store.close()


def git(shop, *arguments: str) -> str:
    who = ["-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *who, *arguments]
    done = subprocess.run(command, cwd=shop.folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(shop, message: str, **files: str) -> str:
    for name, text in files.items():
        (shop.folder / name.replace("_dot_", ".")).write_text(text)
    git(shop, "add", "-A")
    git(shop, "commit", "-q", "--allow-empty", "-m", message)
    return git(shop, "rev-parse", "HEAD")


def test_the_guilty_one_of_sixteen_commits_is_named(shop):
    (shop.folder / ".gitignore").write_text(".staytrue\nnow\n")
    git(shop, "init", "-q")
    commit(shop, "Begin")
    shop.rewrite(shop.text)
    lived_until(shop, 18)
    good = shop.roles()["champion"]
    text, ids = shop.text.replace("SETTINGS", shop.settings), []
    for number in range(1, COMMITS + 1):
        if number % 4 == 0:
            ids.append(commit(shop, f"Say more, {number}", README_dot_md=f"# The shop, {number}\n"))
            continue
        if number == GUILTY:
            text = text.replace('rows["size"]', 'rows["size"].clip(upper=5)')
            text = text.replace('recent["size"]', 'recent["size"].clip(upper=5)')
        else:
            text = text.replace("def one_day", f"STEP_{number} = {number}\n\n\ndef one_day")
            text = text.replace("    recent = sales", f"    assert STEP_{number}\n    recent = sales")
        ids.append(commit(shop, f"Change {number}", app_dot_py=text))
    shop.rewrite(text)
    bad = shop.roles()["champion"]
    lived_until(shop, 34)

    report, *_ = shop.blame(good, bad)

    assert report["culprits"], report
    (named,) = [culprit for culprit in report["culprits"] if culprit["kind"] == "commit"]
    assert named["name"] == ids[GUILTY - 1], report["culprits"]
    assert f"Change {GUILTY}" in named["sentence"]
    assert named["facts"]["commits"] == COMMITS - 4  # those to the docs are passed over
    assert report["trainings"] <= 5 + 4

    again, _, said = shop.blame(good, bad)
    assert (again, said) == (report, [])


BROKEN_DAY = """
    if number == 21 and Path("broken").exists():
        rate = rate[::-1]
"""


def test_the_part_that_is_wrong_is_named_and_left_out(tmp_path, pool):  # noqa: F811
    text = WORLD.replace("    at = day +", BROKEN_DAY.lstrip("\n") + "    at = day +")
    shop = Blamed(tmp_path / "shop", pool, text=text)
    lived_until(shop, 18)
    good = shop.roles()["champion"]
    shop._set(START + timedelta(days=24))
    (shop.folder / "broken").touch()
    shop._run(fetch(shop.ctx, "sales", now=shop.now))
    shop.rewrite(text)
    bad = shop.roles()["champion"]
    lived_until(shop, 32)

    report, asked, _ = shop.blame(good, bad)

    kinds = {culprit["kind"]: culprit for culprit in report["culprits"]}
    assert [change["axis"] for change in report["changes"]] == ["data"], report["sentence"]
    assert kinds["parts"]["facts"]["windows"] == [
        [(START + timedelta(days=21)).isoformat(), (START + timedelta(days=22)).isoformat()]
    ]
    assert kinds["parts"]["facts"]["enough"]

    made = shop._run(repaired(shop.ctx.store, asked, report, home=shop.folder))
    learned = shop.ctx.store.table_by_id(made.release.tables["sales"]).table
    assert START + timedelta(days=21) not in [part.since for part in learned.parts]
    assert START + timedelta(days=23) in [part.since for part in learned.parts]

    # No later training learns from it either, though the source gives the day again; a person may let it in again.
    assert set_guilty_parts_apart(made.ctx, report, by="ada") == 1
    assert set_guilty_parts_apart(made.ctx, report, by="ada") == 0
    shop._run(fetch(shop.ctx, "sales", now=shop.now, since=START + timedelta(days=20)))
    days = [part.since for part in shop.ctx.store.table("sales").table.parts]
    assert START + timedelta(days=21) not in days
    spec = shop.ctx.app.sources["sales"].spec
    release(shop.ctx, spec, (START + timedelta(days=21)).isoformat(), by="ada", because=None)
    assert START + timedelta(days=21) in [part.since for part in shop.ctx.store.table("sales").table.parts]


def test_the_setting_that_is_wrong_is_named(shop):
    text = shop.text.replace("@app.train", '@app.train(params={"degree": 1, "rows": 240})')
    text = text.replace("def fit(sales):", "def fit(sales, params):").replace("tail(240)", 'tail(params["rows"])')
    text = text.replace('recent["rate"], 1)', 'recent["rate"], params["degree"])')
    shop.text = text
    (shop.folder / "app.py").write_text(text.replace("SETTINGS", ""))
    shop.rewrite(text)
    lived_until(shop, 18)
    good = shop.roles()["champion"]
    shop.rewrite(text.replace('"degree": 1, "rows": 240', '"degree": 0, "rows": 250'))
    bad = shop.roles()["champion"]
    lived_until(shop, 23)

    report, *_ = shop.blame(good, bad)

    assert [change["axis"] for change in report["changes"]] == ["settings"], report["sentence"]
    assert "degree 1 -> 0" in report["sentence"]
    (named,) = [culprit for culprit in report["culprits"] if culprit["kind"] == "setting"]
    assert named["name"] == "degree"
