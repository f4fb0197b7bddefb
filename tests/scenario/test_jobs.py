"""What jobs print, on the page and in the terminal while they run, and afterwards; however hostile it is."""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime, timedelta
from textwrap import dedent

import pytest

from staytrue.cli import jobs as verb
from staytrue.cli.screen import Screen
from staytrue.dashboard.site import respond
from staytrue.engines import job_log
from staytrue.engines.process import Job, ProcessPool
from staytrue.loop.jobs import drive, on_behalf
from staytrue.store.ledger import Entry
from staytrue.store.store import Store

HOSTILE = "<script>alert(1)</script>"
TASKS = f"""
import sys, time
from pathlib import Path
from staytrue.engines.launcher import progress

def talks(payload, outbox):
    print("first")
    progress(outbox, 3, 10, "fold 3 of \\x1b[31m{HOSTILE}")
    wait(payload, "said")
    print("second \\x1b[32mgreen\\x1b[0m \\x1b]0;title\\x07\\u202e{HOSTILE}\\x00")
    print("step 1\\rstep 2")
    wait(payload, "over")
    return {{}}

def floods(payload, outbox):
    while not Path(payload["over"]).exists():
        print("x" * 100_000)
    return {{}}

def fails(payload, outbox):
    print("before it failed")
    raise ValueError("no {HOSTILE}")

def silent(payload, outbox):
    return {{}}

def wait(payload, name):
    until = time.monotonic() + 60
    while not Path(payload[name]).exists() and time.monotonic() < until:
        time.sleep(0.01)
"""


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    yield made
    made.pool.close()
    made.store.close()


class Shop:
    """A store with an app, and a pool at work beside it."""

    def __init__(self, folder):
        self.folder, self.tree = folder, folder / "tree"
        self.store = Store(folder / "store")
        now = datetime.now(UTC)
        self.store.ledger.append([Entry(app="shop", key="a", at=now, kind="made", sentence="Made.")], recorded_at=now)
        self.tree.mkdir()
        (self.tree / "own_tasks.py").write_text(dedent(TASKS))
        self.root = self.store.work / "jobs"
        self.pool = ProcessPool(self.root, slots=1)

    def job(self, what, app="shop"):
        payload = {name: str(self.folder / name) for name in ("said", "over")}
        return Job(
            key=f"train:{what}", task=f"own_tasks:{what}", payload=payload, workspace=self.tree, timeout_s=120, app=app
        )

    def now(self, name):
        (self.folder / name).touch()

    def page(self, below="", status=200, app="shop"):
        answer = respond(self.store, f"/apps/{app}/jobs{below}", {}, now=datetime.now(UTC))
        assert answer.status == status, answer.body
        return answer.body.decode()

    def document(self, below=""):
        return json.loads(respond(self.store, f"/api/apps/shop/jobs{below}", {}, now=datetime.now(UTC)).body)

    def until(self, found, within_s=60):
        deadline = time.monotonic() + within_s
        while not (value := found()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return value

    def running(self, word=""):
        return self.until(lambda: [one for one in self.document()["running"] if word in one["output"]])[0]


def test_the_output_of_a_running_job_grows_on_its_page_and_stays_when_it_ended(shop):
    handle = shop.pool.submit(shop.job("talks"))
    first = shop.running("first")
    before = job_log.mark(shop.root)
    shop.now("said")
    shop.until(lambda: "second" in shop.page(f"/{first['id']}"))
    during = shop.page(f"/{first['id']}")
    shop.now("over")
    shop.pool.wait([handle])
    after = shop.document(f"/{first['id']}")

    assert (first["what"], first["status"], first["app"]) == ("training", "running", "shop")
    assert first["progress"] == {"done": 3.0, "total": 10.0, "doing": f"fold 3 of {HOSTILE}"}
    assert job_log.mark(shop.root) != before
    for text in (during, shop.page(f"/{first['id']}"), shop.page()):
        assert HOSTILE not in text
        assert not {"\x1b", "\x00", "\u202e", "\x07"} & set(text)
    assert after["status"] == "done"
    assert after["output"].splitlines() == ["first", f"second green {HOSTILE}", "step 2"]
    assert shop.document()["running"] == []


def test_a_job_that_prints_for_ever_costs_neither_page_nor_disk(shop):
    handle = shop.pool.submit(shop.job("floods"))
    one = shop.running("x" * 100)
    seen = [shop.page(f"/{one['id']}") for _ in range(10)]
    shop.now("over")
    shop.pool.wait([handle])
    kept = sum(file.stat().st_size for file in (shop.root / "ended").iterdir())

    assert max(map(len, [*seen, shop.page(), shop.page(f"/{one['id']}")])) < 150_000
    assert kept < 40_000


def test_a_job_that_failed_says_why(shop):
    outcome = shop.pool.run(shop.job("fails"))
    (one,) = shop.document()["ended"]
    text = shop.page(f"/{one['id']}")

    assert (outcome.status, one["status"]) == ("failed", "failed")
    assert one["said"] == f"no {HOSTILE}"
    assert "before it failed" in text
    assert "own_tasks.py" in text
    assert HOSTILE not in text + shop.page()


def test_the_terminal_says_the_same(shop, capsys):
    shop.pool.run(shop.job("fails"))
    (one,) = shop.document()["ended"]
    parser = argparse.ArgumentParser()
    verb.arguments(parser)
    parser.add_argument("--store")

    for asked, below in (([], ""), ([one["id"]], f"/{one['id']}")):
        verb.run(parser.parse_args([*asked, "--store", str(shop.store.root)]), Screen(as_json=True))
        assert json.loads(capsys.readouterr().out) == shop.document(below)
    verb.run(parser.parse_args([one["id"], "--store", str(shop.store.root)]), Screen(as_json=False))
    assert "before it failed" in capsys.readouterr().out


def test_what_a_job_is_for_is_said(shop):
    def steps():
        return (yield [shop.job("fails")])[0].status

    drive({"the loop": on_behalf("the check of commit 1f0e63bb", steps()), "train": other(shop)}, shop.pool)

    assert {one["purpose"] for one in shop.document()["ended"]} == {"the check of commit 1f0e63bb", "train"}


def other(shop):
    yield [Job(**{**vars(shop.job("fails")), "key": "train:another"})]


def test_only_the_newest_are_kept_and_the_silent_ones_are_not(shop):
    shop.pool.run(shop.job("silent"))
    assert not (shop.root / "ended").exists()

    shop.pool.run(shop.job("fails"))
    (file,) = (shop.root / "ended").glob("*.json")
    for number in range(job_log.KEPT + 20):
        file.with_name(f"{number:016x}-{number:016x}.json").write_bytes(file.read_bytes())
    shop.pool.run(shop.job("fails"))

    assert len(list((shop.root / "ended").glob("*.json"))) == job_log.KEPT


def test_a_job_whose_pool_was_killed_is_lost_and_says_so(shop, tmp_path):
    shop.pool.submit(shop.job("talks"))
    one = shop.running("first")
    # As after a kill: the folder is there, and nobody holds its lock.
    place = next(shop.root.glob(f"pool-*/{one['id']}"))
    gone = shop.root / "pool-0123456789abcdef" / ("ab" * 8)
    gone.mkdir(parents=True)
    for name in ("about.json", "log"):
        (gone / name).write_bytes((place / name).read_bytes())
    gone.parent.with_suffix(".lock").touch()

    assert [found["id"] for found in shop.document()["running"]] == [one["id"]]
    with ProcessPool(shop.root, slots=1):
        pass

    (lost,) = shop.document()["ended"]
    assert (lost["status"], lost["seconds"]) == ("lost", None)
    assert "first" in shop.document(f"/{gone.name}")["output"]
    shop.now("said")
    shop.now("over")


def test_a_job_of_another_app_or_of_no_name_is_not_there(shop):
    shop.pool.run(shop.job("fails", app="another"))
    (file,) = (shop.root / "ended").glob("*.json")

    assert shop.document()["ended"] == []
    for id_ in (file.stem, file.stem[-16:], "../../ledger.db", "%2e%2e", "0" * 16):
        assert "ST1050" in shop.page(f"/{id_}", status=404)


def test_jobs_of_a_year_ago_do_not_break_the_list(shop):
    shop.pool.run(shop.job("fails"))
    (file,) = (shop.root / "ended").glob("*.json")
    file.with_suffix(".log").unlink()
    file.with_name("0" * 16 + "-" + "0" * 16 + ".json").write_text("[]")
    one = json.loads(file.read_text())
    file.write_text(json.dumps(one | {"ended_at": (datetime.now(UTC) - timedelta(days=365)).isoformat()}))

    assert len(shop.document()["ended"]) == 1
    assert shop.document(f"/{one['id']}")["output"] == ""
