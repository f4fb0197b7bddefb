"""The environment of another release, made again: a library of another version gives another model, under another recipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from wheels import Page, wheel

from staytrue.engines.process import ProcessPool
from staytrue.errors import Refused, Unavailable
from staytrue.loop.blame import Asked, blame
from staytrue.loop.deliver import champion_epoch, delivery
from staytrue.loop.environments import in_environment, rebuilt
from staytrue.loop.jobs import drive
from staytrue.loop.past import Past
from staytrue.loop.release import answered_release
from staytrue.loop.repairing import repaired
from staytrue.loop.train import train
from staytrue.loop.trial import inputs
from staytrue.store.env import environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc"),
]

PATIENCE_S = 120

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
    import roundly

    return [roundly.near(one) for one in np.polyfit(sales["size"], sales["rate"], 1).tolist()]


@app.predict(metric="mae")
def quote(model, rows):
    import roundly

    return [roundly.near(one) for one in np.polyval(model, rows["size"])]
"""

MAKER = """
import json, sys
from pathlib import Path
from staytrue.loop.environments import rebuilt

document, folder, *wheels = sys.argv[1:]
print(rebuilt(json.loads(Path(document).read_text()), Path(folder), wheels=wheels), flush=True)
"""


@pytest.fixture(autouse=True)
def _by_pip_and_from_here_only(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")  # what is asked for is counted


@pytest.fixture
def wheels(tmp_path):
    """`roundly` 1.0 rounds to whole numbers, 2.0 to tens; 2.0 is without the module that 1.0 came with."""
    folder = tmp_path / "wheels with spaces"
    wheel(folder, "roundly", "1.0", roundly="def near(x):\n    return float(round(x))\n", roundly_more="")
    wheel(folder, "roundly", "2.0", roundly="def near(x):\n    return float(round(x, -1))\n")
    return folder


def env(**versions: str) -> dict:
    here = environment()
    there = {**dict(here["distributions"]), **versions}
    return {**here, "distributions": [[name, one] for name, one in sorted(there.items())]}


def with_roundly(interpreter: Path) -> float:
    said = subprocess.run(
        [interpreter, "-c", "import roundly; print(roundly.near(18.6))"], capture_output=True, text=True, check=True
    )
    return float(said.stdout)


def processes_with(word: str) -> list[str]:
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = one.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


def until(holds, within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


def test_a_training_in_each_environment_gives_its_own_model_under_its_own_recipe(bench_of, wheels, monkeypatch):
    monkeypatch.setenv("STAYTRUE_WHEELS", f"'{wheels}'")
    with bench_of(SHOP) as bench:
        bench.fetch("2026-01-01", "2026-03-01")
        ctx, pool = bench._ctx, bench._pool
        past = Past.whole(ctx)
        envs = {version: ctx.store.objects.put_document(env(roundly=version)) for version in ("1.0", "2.0")}

        def lines(version):
            there = yield from in_environment(ctx, envs[version])
            trained = yield from train(there, inputs(past, 0, 40))
            yield from past.answered([trained], 40, 50)
            return there, trained

        done = drive({version: lines(version) for version in envs}, pool)
        again = drive({version: lines(version) for version in envs}, pool)
        models = {version: ctx.store.model(trained.model) for version, (_, trained) in done.items()}
        recipes = {version: ctx.store.recipe(trained.recipe) for version, (_, trained) in done.items()}
        answers = {version: past.answers(trained, 45) for version, (_, trained) in done.items()}
        losses = {version: past.losses(trained, 45).mean() for version, (_, trained) in done.items()}

    assert models == {"1.0": [3.0, 20.0], "2.0": [0.0, 20.0]}
    assert {version: recipe.env for version, recipe in recipes.items()} == envs
    assert {trained.ran for _, trained in done.values()} == {True}
    assert {trained.ran for _, trained in again.values()} == {False}
    assert set(answers["2.0"]) == {20.0}
    assert len(set(answers["1.0"])) > 3
    assert losses["1.0"] < losses["2.0"]


def test_one_model_is_answered_with_in_two_environments_and_both_are_remembered(bench_of, wheels, monkeypatch):
    monkeypatch.setenv("STAYTRUE_WHEELS", f"'{wheels}'")
    with bench_of(SHOP) as bench:
        bench.fetch("2026-01-01", "2026-03-01")
        ctx, pool = bench._ctx, bench._pool
        envs = {version: ctx.store.objects.put_document(env(roundly=version)) for version in ("1.0", "2.0")}

        def asked(past):
            old = yield from in_environment(ctx, envs["1.0"])
            new = yield from in_environment(ctx, envs["2.0"])
            one = yield from train(old, inputs(past, 0, 40))
            other = replace(one, interpreter=new.interpreter)
            yield from past.answered([one, other], 40, 50)
            return past.answers(one, 45), past.answers(other, 45)

        first = drive({"a": asked(Past.whole(ctx))}, pool)["a"]
        remembered = len(list((ctx.store.work / "answers").iterdir()))
        second = drive({"a": asked(Past.whole(ctx))}, pool)["a"]

        assert len(list((ctx.store.work / "answers").iterdir())) == remembered
    assert first == second
    assert first[0] != first[1]


def test_of_another_version_nothing_of_this_one_shines_through(wheels, tmp_path):
    interpreter = rebuilt(env(roundly="2.0"), tmp_path / "envs", wheels=[str(wheels)])

    gone = subprocess.run([interpreter, "-c", "import roundly_more"], capture_output=True, text=True, check=False)

    assert with_roundly(interpreter) == 20.0
    assert "No module named 'roundly_more'" in gone.stderr


def test_ten_who_want_it_at_once_make_it_once(wheels, tmp_path):
    (tmp_path / "document").write_text(json.dumps(env(roundly="1.0")))
    with Page(wheels).served() as page:
        page.open.set()
        argv = [sys.executable, "-c", MAKER, str(tmp_path / "document"), str(tmp_path / "envs"), page.url]
        with ThreadPoolExecutor(10) as threads:
            runs = [
                threads.submit(subprocess.run, argv, capture_output=True, text=True, check=False) for _ in range(10)
            ]
            done = [one.result() for one in runs]

        assert [one.stderr for one in done if one.returncode] == []
        assert len({one.stdout for one in done}) == 1
        assert page.fetched == ["roundly-1.0-py3-none-any.whl"]
    assert with_roundly(Path(done[0].stdout.strip())) == 19.0


def test_one_that_is_killed_midway_leaves_nothing_that_counts(wheels, tmp_path):
    (tmp_path / "document").write_text(json.dumps(env(roundly="1.0")))
    folder = tmp_path / "envs"
    with Page(wheels).served() as page:
        argv = [sys.executable, "-c", MAKER, str(tmp_path / "document"), str(folder), page.url]
        maker = subprocess.Popen(argv)
        assert page.asked.wait(PATIENCE_S)
        maker.kill()
        maker.wait()
        half = list(folder.glob(".*"))
        assert len(half) == 1
        assert [one for one in folder.iterdir() if one.is_dir() and one not in half] == []

        interpreter = rebuilt(env(roundly="1.0"), folder, wheels=[str(wheels)])
        assert list(folder.glob(".*")) == []

    assert with_roundly(interpreter) == 19.0


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_any_moment_it_is_whole_or_not_there(wheels, tmp_path, seed):
    (tmp_path / "document").write_text(json.dumps(env(roundly="1.0")))
    folder = tmp_path / "envs"
    argv = [sys.executable, "-c", MAKER, str(tmp_path / "document"), str(folder), str(wheels)]
    maker = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    time.sleep(0.4 + 0.6 * seed)
    maker.kill()
    maker.wait()

    whole = [one for one in folder.glob("[!.]*") if one.is_dir()]
    assert [with_roundly(one / "bin" / "python") for one in whole] == [19.0] * len(whole)
    assert with_roundly(rebuilt(env(roundly="1.0"), folder, wheels=[str(wheels)])) == 19.0


def test_who_does_not_answer_is_waited_for_no_longer_than_allowed(wheels, tmp_path):
    with Page(wheels).served() as page:
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"ST960 .*took longer") as caught:
            rebuilt(env(roundly="1.0"), tmp_path / "envs", wheels=[page.url], timeout_s=8)

        assert caught.value.facts["why"] == "timeout"
        assert time.monotonic() - began < 30
        assert processes_with(page.url) == []


def test_it_ends_with_who_asked_for_it(bench_of, wheels, monkeypatch):
    with Page(wheels).served() as page, bench_of(SHOP) as bench:
        monkeypatch.setenv("STAYTRUE_WHEELS", page.url)
        wanted = bench.store.objects.put_document(env(roundly="1.0"))
        with ThreadPoolExecutor(1) as thread, ProcessPool(bench.store.work / "jobs") as pool:
            steps = in_environment(bench._ctx, wanted)
            asked = thread.submit(
                drive, {"a": steps}, pool, stop=lambda: KeyboardInterrupt() if page.asked.is_set() else None
            )
            with pytest.raises(KeyboardInterrupt):
                asked.result()

        until(lambda: not processes_with(page.url))


@pytest.mark.skipif(shutil.which("uv") is None, reason="no uv on PATH")
def test_uv_does_it_where_pip_has_no_places_of_its_own(wheels, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    for name in [one for one in os.environ if one.startswith("PIP_") and one != "PIP_CONFIG_FILE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_OFFLINE", "1")

    interpreter = rebuilt(env(roundly="2.0"), tmp_path / "envs", wheels=[str(wheels)])
    with pytest.raises(Unavailable) as caught:
        rebuilt(env(roundly="3.0"), tmp_path / "envs", wheels=[str(wheels)])

    installer = next(interpreter.parents[1].glob("lib/*/site-packages/roundly-2.0.dist-info/INSTALLER"))
    assert (installer.read_text().strip(), with_roundly(interpreter)) == ("uv", 20.0)
    assert (caught.value.facts["why"], caught.value.facts["missing"]) == ("distribution", ["roundly 3.0"])


def test_an_environment_is_found_to_blame_and_named(bench_of, wheels, monkeypatch, tmp_path):
    monkeypatch.setenv("STAYTRUE_WHEELS", f"'{wheels}'")
    with bench_of(SHOP) as bench:
        bench.fetch("2026-01-01", "2026-03-01")
        ctx, pool = bench._ctx, bench._pool
        past = Past.whole(ctx)
        envs = {version: ctx.store.objects.put_document(env(roundly=version)) for version in ("1.0", "2.0")}

        def made(version, stop):
            there = yield from in_environment(ctx, envs[version])
            trained = yield from train(there, inputs(past, 0, stop))
            release, refs = yield from answered_release(there, trained)
            return (
                delivery(there, release, refs, kind="deployed", epoch=champion_epoch(ctx)).unopposed("a test").release
            )

        good = drive({"a": made("1.0", 30)}, pool)["a"]
        bad = drive({"a": made("2.0", 32)}, pool)["a"]
        asked = Asked(good=good, bad=bad)
        report = drive({"a": blame(ctx.store, asked, home=tmp_path)}, pool)["a"]

        assert [change["axis"] for change in report["changes"]] == ["environment"]
        assert report["sentence"].startswith("It is the environment (roundly 1.0 -> 2.0)")
        with pytest.raises(Refused, match="put the old versions back"):
            drive({"a": repaired(ctx.store, asked, report, home=tmp_path)}, pool)
