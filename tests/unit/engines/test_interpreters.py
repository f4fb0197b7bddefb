"""Jobs in the interpreter of another environment: what is promised of jobs holds there too. Nothing is installed for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

import staytrue
from staytrue.engines.environments import link, new
from staytrue.engines.process import Job, Mode, ProcessPool
from staytrue.errors import InvalidInput, Unavailable

PATIENCE_S = 60

TASKS = """
import importlib.util, os, platform, subprocess, sys, time
from pathlib import Path

def where(payload, outbox):
    return {"prefix": sys.prefix, "python": platform.python_version(), "launcher": os.getppid(),
            "numpy": importlib.util.find_spec("numpy") is not None}

def eats(payload, outbox):
    return {"size": len(bytearray(1 << 30))}

def hangs(payload, outbox):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path(payload["pids"] + ".tmp").write_text(f"{os.getpid()} {child.pid}")
    os.replace(payload["pids"] + ".tmp", payload["pids"])
    time.sleep(1000)
"""

CONTROLLER = """
import sys
from pathlib import Path
from staytrue.engines.process import Job, ProcessPool

root, workspace, pids, mode, interpreter = sys.argv[1:]
job = Job(key="k", task="tasks:hangs", payload={"pids": pids}, timeout_s=600, workspace=Path(workspace),
          interpreter=Path(interpreter))
ProcessPool(Path(root), slots=1, mode=mode).run(job)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
MakeJob = Callable[..., Job]


def bare(place: Path, python: str) -> Path:
    """An environment that holds staytrue and nothing else: neither numpy nor anything that staytrue needs."""
    until_s = time.monotonic() + PATIENCE_S
    interpreter = new(place, "cpython", python, until_s)
    link(interpreter, {}, (), Path(staytrue.__file__).parent, until_s)
    return interpreter


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare(tmp_path_factory.mktemp("an other") / "env", sys.version.split()[0])


@pytest.fixture
def job(tmp_path: Path, other: Path) -> MakeJob:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "tasks.py").write_text(TASKS)

    def job(task: str, interpreter: Path | None = other, **limits: Any) -> Job:
        made = Job(
            key=task,
            task=f"tasks:{task}",
            payload={"pids": str(tmp_path / "pids")},
            timeout_s=60,
            workspace=tmp_path / "app",
            interpreter=interpreter,
        )
        return replace(made, **limits)

    return job


@pytest.fixture(params=get_args(Mode))
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProcessPool]:
    with ProcessPool(tmp_path / "pool", slots=2, mode=request.param) as pool:
        yield pool


def ends(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        os.sched_yield()
    return False


def test_a_job_runs_in_the_environment_of_its_interpreter(pool: ProcessPool, job: MakeJob, other: Path) -> None:
    there, here = (pool.run(job("where", interpreter)) for interpreter in (other, None))

    assert there.result is not None, there
    assert here.result is not None, here
    assert (there.result["prefix"], there.result["numpy"]) == (str(other.parents[1]), False)
    assert (here.result["prefix"], here.result["numpy"]) == (sys.prefix, True)


def test_each_interpreter_has_a_warm_launcher_of_its_own(tmp_path: Path, job: MakeJob, other: Path) -> None:
    with ProcessPool(tmp_path / "pool", slots=2, mode="fork") as pool:
        asked = (other, None, other, Path(sys.executable))
        launchers = [(pool.run(job("where", one)).result or {})["launcher"] for one in asked]

    assert launchers[0] == launchers[2]
    assert launchers[1] == launchers[3]  # the one that runs here is the same, however it is said
    assert launchers[0] != launchers[1]


def test_limits_hold_there_too(pool: ProcessPool, job: MakeJob, tmp_path: Path) -> None:
    assert pool.run(job("eats", memory_bytes=64 << 20)).status == "memory"

    outcome = pool.run(job("hangs", timeout_s=3))
    assert outcome.status == "timeout"
    assert all(ends(int(pid)) for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize("mode", get_args(Mode))
def test_it_does_not_outlive_a_killed_controller(tmp_path: Path, job: MakeJob, other: Path, mode: Mode) -> None:
    workspace, pids = job("hangs").workspace, tmp_path / "pids"
    argv = [sys.executable, "-c", CONTROLLER, str(tmp_path / "pool"), str(workspace), str(pids), mode, str(other)]
    controller = subprocess.Popen(argv)
    deadline = time.monotonic() + PATIENCE_S
    while not pids.exists():
        assert time.monotonic() < deadline
        os.sched_yield()

    controller.kill()
    controller.wait()

    assert all(ends(int(pid)) for pid in pids.read_text().split())


def test_what_tells_this_python_of_its_library_is_not_told_to_another(
    pool: ProcessPool, job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")

    assert pool.run(job("where")).status == "done"


@pytest.mark.parametrize("wrong", ["python3", "/nowhere/python"])
def test_an_interpreter_that_is_not_there_is_refused_at_once(tmp_path: Path, job: MakeJob, wrong: str) -> None:
    with ProcessPool(tmp_path / "pool", slots=1) as pool, pytest.raises(InvalidInput, match=r"ST331 .*interpreter"):
        pool.submit(job("where", Path(wrong)))


def test_an_interpreter_that_does_not_find_staytrue_loses_its_jobs_with_its_last_words(
    tmp_path: Path, job: MakeJob, other: Path
) -> None:
    shutil.copytree(other.parents[1], tmp_path / "empty", symlinks=True)
    next((tmp_path / "empty").glob("lib/*/site-packages/staytrue")).unlink()

    with ProcessPool(tmp_path / "pool", slots=1, mode="fork") as pool:
        outcome = pool.run(job("where", tmp_path / "empty" / "bin" / "python"))

    assert outcome.status == "lost"
    assert "No module named 'staytrue'" in outcome.error["message"]


def test_jobs_run_in_another_version_of_python(tmp_path: Path, job: MakeJob) -> None:
    code = "import platform; print(platform.python_version())"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    names = [shutil.which(f"python3.{minor}") for minor in (11, 12, 13, 14)]
    found = [*filter(None, names), *map(str, pyenv.glob("3.1[1-9].*/bin/python"))]
    said = [subprocess.run([one, "-c", code], capture_output=True, text=True, check=False).stdout for one in found]
    versions = {one.strip() for one in said} - {"", sys.version.split()[0]}
    if not versions:
        pytest.skip("this machine has one Python only")

    for version in sorted(versions):
        try:
            interpreter = bare(tmp_path / version, version)
        except Unavailable:  # it was found by another way than staytrue's
            continue
        with ProcessPool(tmp_path / "pool", slots=1) as pool:
            outcome = pool.run(job("where", interpreter))
        assert outcome.result is not None, outcome
        assert outcome.result["python"] == version
