"""What is done to jobs: hangs, crashes, floods, kill -9 and stops of every process. Nothing stays, nothing late counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from staytrue.engines.process import Job, Mode, Outcome, ProcessPool

TASKS = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path

def tell(payload, **pids):
    # Complete or absent: the test may look at any moment.
    pids = {"job": os.getpid(), "launcher": os.getppid(), **pids}
    temporary = Path(payload["pids"] + ".tmp")
    temporary.write_text(" ".join(str(pid) for pid in pids.values()))
    temporary.replace(payload["pids"])

def hangs_with_a_grandchild(payload, outbox):
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
    grandchild = subprocess.Popen([sys.executable, "-c", stubborn])
    tell(payload, grandchild=grandchild.pid)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1000)

def leaves_a_grandchild(payload, outbox):
    tell(payload, grandchild=subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]).pid)
    return {}

def dies_the_first_time(payload, outbox):
    if Path(payload["pids"]).exists():
        return {"attempt": 2}
    tell(payload)
    time.sleep(1000)

def always_hangs(payload, outbox):
    tell(payload)
    time.sleep(1000)

def answers(payload, outbox):
    (outbox / "answer").write_text(str(payload["n"]))
    tell(payload)
    return {"n": payload["n"], "pid": os.getpid()}

def os_exit(payload, outbox):
    os._exit(3)

def segfault(payload, outbox):
    ctypes.string_at(0)

def kills_itself(payload, outbox):
    os.kill(os.getpid(), signal.SIGKILL)

def floods(payload, outbox):
    line = b"x" * (1 << 20)
    for _ in range(payload["megabytes"]):
        os.write(1, line)
    while os.fstat(1).st_blocks * 512 > 16 << 20:
        time.sleep(0.01)
    print("the end")
    return {}

def scribbles_on_every_descriptor(payload, outbox):
    for fd in range(3, 64):
        try:
            os.write(fd, b"not a frame")
        except OSError:
            pass
    return {}
"""

CONTROLLER = """
import sys
from pathlib import Path
from staytrue.engines.process import Job, ProcessPool

root, workspace, pids, mode = sys.argv[1:]
pool = ProcessPool(Path(root), slots=2, mode=mode)
task = "tasks:hangs_with_a_grandchild"
job = Job(key="k", task=task, payload={"pids": pids}, timeout_s=600, workspace=Path(workspace))
pool.run(job)
"""

CRASHES_AT_IMPORT = "import os\nos._exit(7)\n"
STUCK_IN_PREPARE = """
import signal, time
def prepare(payload):
    if payload.get("stuck"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        time.sleep(1000)
def task(payload, outbox):
    return {}
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
both_modes = pytest.mark.parametrize("mode", get_args(Mode))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    place = tmp_path / "the app"
    place.mkdir()
    (place / "tasks.py").write_text(TASKS)
    (place / "crash.py").write_text(CRASHES_AT_IMPORT)
    (place / "stuck.py").write_text(STUCK_IN_PREPARE)
    return place


@pytest.fixture
def open_pool(tmp_path: Path) -> Iterator[Callable[..., ProcessPool]]:
    pools = []

    def open_pool(mode: Mode = "fork", **settings: Any) -> ProcessPool:
        pools.append(ProcessPool(tmp_path / "root", slots=2, mode=mode, **settings))
        return pools[-1]

    yield open_pool
    for pool in pools:
        pool.close()


@pytest.fixture
def job(workspace: Path, tmp_path: Path) -> Callable[..., Job]:
    def job(task: str, limits: dict[str, Any] | None = None, **payload: Any) -> Job:
        payload = {"pids": str(tmp_path / "pids"), **payload}
        name = task if ":" in task else f"tasks:{task}"
        return replace(Job(key=task, task=name, payload=payload, timeout_s=60, workspace=workspace), **(limits or {}))

    return job


MakeJob = Callable[..., Job]
OpenPool = Callable[..., ProcessPool]


def until(holds: Callable[[], object], within_s: float = 20.0) -> float:
    """Seconds until the condition held."""
    began = time.monotonic()
    pause = threading.Event()
    while not holds():
        assert time.monotonic() - began < within_s, "the condition never held"
        pause.wait(0.005)
    return time.monotonic() - began


def told(tmp_path: Path) -> list[int]:
    """The pids that a task told: its own, its launcher's, its grandchild's."""
    until((tmp_path / "pids").exists)
    return [int(pid) for pid in (tmp_path / "pids").read_text().split()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def concluded(pool: ProcessPool, handle: Any) -> Outcome:
    assert pool.wait([handle], 30) == [handle]
    outcome = pool.poll(handle)
    assert outcome is not None
    return outcome


@both_modes
def test_a_timeout_ends_the_whole_group(open_pool: OpenPool, job: MakeJob, tmp_path: Path, mode: Mode) -> None:
    pool = open_pool(mode)

    outcome = pool.run(job("hangs_with_a_grandchild", {"timeout_s": 1.5}))

    assert outcome.status == "timeout"
    pid, _, grandchild = told(tmp_path)
    until(lambda: gone(pid) and gone(grandchild), 1)


@both_modes
def test_a_cancel_ends_the_whole_group_at_once(open_pool: OpenPool, job: MakeJob, tmp_path: Path, mode: Mode) -> None:
    pool = open_pool(mode)
    handle = pool.submit(job("hangs_with_a_grandchild"))
    pid, _, grandchild = told(tmp_path)

    began = time.monotonic()
    outcome = pool.cancel(handle)

    assert outcome.status == "cancelled"
    assert time.monotonic() - began < 1  # 0.2 on a machine that is not busy with other tests
    until(lambda: gone(pid) and gone(grandchild), 1)


@both_modes
def test_what_a_finished_job_left_running_is_ended(
    open_pool: OpenPool, job: MakeJob, tmp_path: Path, mode: Mode
) -> None:
    outcome = open_pool(mode).run(job("leaves_a_grandchild"))

    assert outcome.status == "done"
    until(lambda: gone(told(tmp_path)[2]), 1)


@both_modes
@pytest.mark.parametrize(
    ("task", "code", "says"),
    [
        ("os_exit", "ST336", "exit code 3"),
        ("segfault", "ST337", "SIGSEGV"),
        ("kills_itself", "ST337", "SIGKILL"),
    ],
)
def test_a_crash_is_a_failure_that_names_its_cause(
    *, open_pool: OpenPool, job: MakeJob, mode: Mode, task: str, code: str, says: str
) -> None:
    pool = open_pool(mode)

    outcome = pool.run(job(task))

    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error["code"] == code
    assert says in outcome.error["message"]
    assert ("in segfault" in outcome.log) == (task == "segfault")
    assert pool.run(job("answers", n=1)).status == "done"


@both_modes
def test_a_flood_of_output_fills_neither_memory_nor_disk(
    open_pool: OpenPool, job: MakeJob, tmp_path: Path, mode: Mode
) -> None:
    outcome = open_pool(mode).run(job("floods", megabytes=200))

    assert outcome.status == "done"
    assert len(outcome.log) <= 64 << 10
    assert outcome.log.endswith("the end\n")


def test_a_job_cant_reach_the_protocol(open_pool: OpenPool, job: MakeJob) -> None:
    pool = open_pool()

    outcomes = [pool.run(job("scribbles_on_every_descriptor")), pool.run(job("answers", n=1))]

    assert [one.status for one in outcomes] == ["done", "done"]
    assert {one.mode for one in outcomes} == {"fork"}


def test_a_killed_launcher_takes_its_jobs_along_and_they_are_retried(
    open_pool: OpenPool, job: MakeJob, tmp_path: Path
) -> None:
    pool = open_pool()
    handle = pool.submit(job("dies_the_first_time"))
    pid, launcher = told(tmp_path)

    os.kill(launcher, signal.SIGKILL)

    assert concluded(pool, handle).result == {"attempt": 2}
    assert gone(pid)


def test_a_job_whose_launcher_dies_twice_has_failed(open_pool: OpenPool, job: MakeJob, tmp_path: Path) -> None:
    pool = open_pool()
    handle = pool.submit(job("always_hangs"))
    for _ in range(2):
        _, launcher = told(tmp_path)
        (tmp_path / "pids").unlink()
        os.kill(launcher, signal.SIGKILL)

    outcome = concluded(pool, handle)

    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error["code"] == "ST341"


def test_a_module_that_kills_the_launcher_fails_alone(open_pool: OpenPool, job: MakeJob, tmp_path: Path) -> None:
    pool = open_pool()
    neighbour = pool.submit(job("hangs_with_a_grandchild"))
    told(tmp_path)

    outcome = pool.run(job("crash:task"))

    assert outcome.error is not None
    assert outcome.error["code"] == "ST341"
    assert pool.poll(neighbour) is None


def test_a_prepare_that_cant_be_interrupted_is_killed_with_its_launcher(
    open_pool: OpenPool, job: MakeJob, tmp_path: Path
) -> None:
    pool = open_pool()
    neighbour = pool.submit(job("dies_the_first_time"))
    _, launcher = told(tmp_path)

    outcome = pool.run(job("stuck:task", {"timeout_s": 0.2}, stuck=True))

    assert outcome.status == "timeout"
    until(lambda: gone(launcher), 5)
    assert concluded(pool, neighbour).result == {"attempt": 2}
    assert pool.run(job("stuck:task")).status == "done"


def test_a_launcher_that_does_not_answer_is_replaced(open_pool: OpenPool, job: MakeJob, tmp_path: Path) -> None:
    pool = open_pool(answer_s=0.3)
    assert pool.run(job("answers", n=1)).status == "done"
    _, launcher = told(tmp_path)

    os.kill(launcher, signal.SIGSTOP)

    assert pool.run(job("answers", n=2)).result is not None
    assert gone(launcher)


def test_a_stopped_job_is_ended_by_its_deadline_and_can_run_again(
    open_pool: OpenPool, job: MakeJob, tmp_path: Path
) -> None:
    pool = open_pool()
    handle = pool.submit(job("dies_the_first_time", {"timeout_s": 1}))
    pid, _ = told(tmp_path)

    os.kill(pid, signal.SIGSTOP)

    assert concluded(pool, handle).status == "timeout"
    until(lambda: gone(pid), 1)
    assert pool.run(job("dies_the_first_time")).result == {"attempt": 2}


def test_a_result_that_is_reported_late_is_refused(open_pool: OpenPool, job: MakeJob, tmp_path: Path) -> None:
    # given a job whose launcher stops before it can report the result that the job has written
    pool = open_pool()
    late = pool.submit(job("dies_the_first_time", {"timeout_s": 1}))
    pid, launcher = told(tmp_path)
    os.kill(launcher, signal.SIGSTOP)
    (place,) = (tmp_path / "root").glob("pool-*/*/outbox")
    nonce = place.parent.name
    (place.parent / "result.json").write_text(f'{{"nonce": "{nonce}", "status": "done", "result": {{"attempt": 1}}}}')

    # when the deadline has passed, the job runs again, and the launcher wakes meanwhile
    assert concluded(pool, late).status == "timeout"
    again = pool.submit(job("dies_the_first_time"))
    os.kill(launcher, signal.SIGCONT)

    # then only the second attempt counts
    assert concluded(pool, again).result == {"attempt": 2}
    outcome = pool.poll(late)
    assert outcome is not None
    assert (outcome.status, outcome.result) == ("timeout", None)
    assert gone(pid)
    assert not place.exists()


@both_modes
def test_nothing_outlives_a_killed_controller(
    workspace: Path, tmp_path: Path, open_pool: OpenPool, job: MakeJob, mode: Mode
) -> None:
    # given a controller in a process of its own, with a job that ignores SIGTERM and has a child that does
    argv = [sys.executable, "-c", CONTROLLER, str(tmp_path / "root"), str(workspace), str(tmp_path / "pids"), mode]
    controller = subprocess.Popen(argv)
    pids = told(tmp_path)
    ours = [pid for pid in pids if pid != controller.pid]

    # when it is killed
    controller.kill()
    controller.wait()

    # then all is gone within a second, and the next pool removes its directory
    until(lambda: all(gone(pid) for pid in ours), 1)
    assert len(list((tmp_path / "root").glob("pool-*"))) == 2
    open_pool()
    assert len(list((tmp_path / "root").glob("pool-*"))) == 2
    assert not list((tmp_path / "root").glob("pool-*/*/outbox"))


def test_nothing_outlives_a_controller_whose_launcher_hangs(
    workspace: Path, tmp_path: Path, job: MakeJob, open_pool: OpenPool
) -> None:
    argv = [sys.executable, "-c", CONTROLLER, str(tmp_path / "root"), str(workspace), str(tmp_path / "pids"), "fork"]
    controller = subprocess.Popen(argv)
    pids = told(tmp_path)
    os.kill(pids[1], signal.SIGSTOP)

    controller.kill()
    controller.wait()

    until(lambda: all(gone(pid) for pid in pids), 1)


def test_a_killed_guard_is_replaced(job: MakeJob, open_pool: OpenPool) -> None:
    pool = open_pool()
    guard = pool._foreman._guard._process.pid

    os.kill(guard, signal.SIGKILL)
    until(lambda: gone(guard), 1)

    assert pool.run(job("answers", n=1)).status == "done"


@both_modes
def test_a_root_that_cant_be_written_loses_the_job_but_not_the_pool(
    open_pool: OpenPool, job: MakeJob, tmp_path: Path, mode: Mode
) -> None:
    pool = open_pool(mode)
    (place,) = (tmp_path / "root").glob("pool-????????????????")
    hidden = place.rename(tmp_path / "elsewhere")
    place.write_text("a file where the directory was")

    outcome = pool.run(job("answers", n=1))

    place.unlink()
    hidden.rename(place)
    assert outcome.status == "lost"
    assert outcome.error is not None
    assert outcome.error["code"] == "ST346"
    assert pool.run(job("answers", n=2)).status == "done"


def test_a_launcher_that_cant_start_loses_the_job(
    open_pool: OpenPool, job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pool = open_pool()
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONHOME", str(tmp_path))
        outcome = pool.run(job("answers", n=1))

    assert outcome.status == "lost"
    assert outcome.error is not None
    assert outcome.error["code"] == "ST342"
    assert pool.run(job("answers", n=2)).status == "done"
