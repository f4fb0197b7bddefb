"""Environments that can be made without asking anybody: something removed, nothing to install. What can't be made says why."""

from __future__ import annotations

import fcntl
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from staytrue.engines.environments import installed
from staytrue.errors import Corrupt, Unavailable
from staytrue.loop.environments import rebuilt
from staytrue.store.env import environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks and links")

NOT_NEEDED = "iniconfig"
"""A distribution that is here whenever tests run, and that staytrue can do without."""


@pytest.fixture(autouse=True)
def _nobody_is_asked(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")


def env(**versions: str | None) -> dict:
    """The env that runs here with other versions; None takes one away."""
    here = environment()
    there = {**dict(here["distributions"]), **{name.replace("_", "-"): one for name, one in versions.items()}}
    return {**here, "distributions": [[name, one] for name, one in sorted(there.items()) if one is not None]}


def finds(interpreter: Path, name: str) -> str:
    code = f"import importlib.util as u; found = u.find_spec({name!r}); print(found and found.origin)"
    return subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def refusal(document: dict, folder: Path, **limits) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        rebuilt(document, folder, **limits)
    assert caught.value.code == "ST960"
    assert [one for one in folder.glob("*") if one.suffix != ".lock"] == []
    assert list(folder.glob(".*")) == []
    return caught.value


@pytest.mark.parametrize("versions", [{}, {"pip": "1.0", "uv": "0.1", "wheel": None}, {"staytrue": "0.0.1"}])
def test_where_nothing_differs_that_counts_nothing_is_made(tmp_path, versions):
    assert rebuilt(env(**versions), tmp_path / "envs") == Path(sys.executable)
    assert not (tmp_path / "envs").exists()


def test_for_which_hardware_a_version_was_built_is_no_difference(tmp_path):
    version = dict(environment()["distributions"])[NOT_NEEDED]
    assert rebuilt(env(**{NOT_NEEDED: f"{version}+cu121"}), tmp_path) == Path(sys.executable)
    assert refusal(env(**{NOT_NEEDED: f"{version}+ours"}), tmp_path).facts["why"] == "distribution"


def test_what_was_not_there_is_not_found_and_all_else_is(tmp_path):
    interpreter = rebuilt(env(**{NOT_NEEDED: None}), tmp_path)

    assert finds(interpreter, NOT_NEEDED) == "None"
    assert finds(interpreter, "numpy").startswith(str(tmp_path))
    assert finds(interpreter, "staytrue").startswith(str(tmp_path))
    assert finds(interpreter, "pip") == "None"
    assert finds(Path(sys.executable), NOT_NEEDED) != "None"


def test_it_is_made_once(tmp_path):
    document = env(**{NOT_NEEDED: None})
    first = rebuilt(document, tmp_path)
    made = first.parents[1].stat().st_ino

    assert rebuilt(document, tmp_path) == first
    assert first.parents[1].stat().st_ino == made


def test_one_that_was_damaged_is_made_anew(tmp_path):
    document = env(**{NOT_NEEDED: None})
    first = rebuilt(document, tmp_path)
    made = first.parents[1].stat().st_ino
    next(first.parents[1].glob("lib/*/site-packages/numpy-*.dist-info")).unlink()

    again = rebuilt(document, tmp_path)

    assert (again, finds(again, "numpy") != "None") == (first, True)
    assert again.parents[1].stat().st_ino != made


def test_what_a_killed_one_left_is_neither_taken_nor_kept(tmp_path):
    document = env(**{NOT_NEEDED: None})
    interpreter = rebuilt(document, tmp_path)
    half = tmp_path / f".{interpreter.parents[1].name}-0000"
    interpreter.parents[1].rename(half)
    shutil.rmtree(next(half.glob("lib/*/site-packages/numpy")), ignore_errors=True)

    rebuilt(document, tmp_path)

    assert finds(interpreter, "numpy") != "None"
    assert not half.exists()


def test_nothing_is_written_into_the_environment_that_runs_here(tmp_path):
    roots = {one.root for one in installed().values()}
    before = {root: (root.stat().st_mtime_ns, sorted(root.iterdir())) for root in roots}

    interpreter = rebuilt(env(**{NOT_NEEDED: None}), tmp_path)
    linked = [one for one in interpreter.parents[1].glob("lib/*/site-packages/*") if one.is_symlink()]

    assert {root: (root.stat().st_mtime_ns, sorted(root.iterdir())) for root in roots} == before
    assert linked
    assert "__pycache__" not in {one.name for one in linked}  # what is compiled there would land here


def test_a_distribution_that_is_nowhere_is_named(tmp_path):
    error = refusal(env(**{"no-such-thing": "1.0"}), tmp_path)

    assert (error.facts["why"], error.facts["missing"]) == ("distribution", ["no-such-thing 1.0"])
    assert "finds no no-such-thing 1.0 for Python" in error.message


def test_a_python_that_is_nowhere_is_named(tmp_path):
    error = refusal({**env(), "python": "3.11.99"}, tmp_path)

    assert error.facts["why"] == "python"
    assert "there is no cpython 3.11.99 on this machine" in error.message


def test_one_that_staytrue_does_not_run_in_says_what_is_missing(tmp_path):
    error = refusal(env(msgspec=None), tmp_path)

    assert error.facts["why"] == "broken"
    assert "No module named 'msgspec'" in error.message


def test_who_waits_for_another_that_makes_it_waits_no_longer_than_it_may(tmp_path):
    document = env(**{NOT_NEEDED: None})
    place = rebuilt(document, tmp_path).parents[1]
    shutil.rmtree(place)
    with (tmp_path / f"{place.name}.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        error = refusal(document, tmp_path, timeout_s=1)

    assert error.facts["why"] == "timeout"
    assert time.monotonic() - began < 30


def test_what_is_no_env_document_is_damage(tmp_path):
    with pytest.raises(Corrupt, match="ST455"):
        rebuilt({"kind": "recipe"}, tmp_path)


def test_it_runs_the_python_that_was_recorded(tmp_path):
    interpreter = rebuilt(env(**{NOT_NEEDED: None}), tmp_path)
    said = subprocess.run([interpreter, "-V"], capture_output=True, text=True, check=True).stdout

    assert said.split() == ["Python", platform.python_version()]
