"""Trainings that mean no good: each is ended and named for what it did, leaves nothing running, and the next job runs.

`beside_a_server` holds a server's p99 beside each of them against its p99 before.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
from load import Load
from served import Judge, Kept, predict, until, up

from staytrue.engines import toll
from staytrue.engines.process import Job, Mode, Outcome, ProcessPool

TASKS = """
import os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np

from staytrue.engines.launcher import progress

MARK = "staytrue-hostile"
SLEEPER = [sys.executable, "-c", "import time; time.sleep(1000)  # staytrue-hostile"]

def hangs(payload, outbox):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1000)

def forks(payload, outbox):
    for _ in range(5):
        subprocess.Popen(SLEEPER)
    return {}

def becomes_a_daemon(payload, outbox):
    # A fork of a fork in a session of its own, whose parent has gone: as daemons are made.
    for hidden in (False, True):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve(SLEEPER[0], SLEEPER, {} if hidden else dict(os.environ))
            os._exit(0)
    time.sleep(payload.get("for_s", 0.5))
    return {}

def daemon_and_kills_its_parent(payload, outbox):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(SLEEPER[0], SLEEPER)
        os._exit(0)
    time.sleep(0.5)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)

def eats_memory(payload, outbox):
    held = []
    while True:
        held.append(np.ones(4 << 20))  # 32 MB, each page written

def fills_the_disk(payload, outbox):
    with open(outbox / "model.bin", "wb") as file:
        while True:
            file.write(os.urandom(1 << 20))

def prints(payload, outbox):
    line = b"x" * (1 << 20)
    for _ in range(1024):
        os.write(1, line)
    print("the end")
    return {}

def kills_its_parent(payload, outbox):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)

def kills_its_session(payload, outbox):
    session = os.getsid(0)
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if os.getsid(int(name)) == session:
                    os.kill(int(name), signal.SIGKILL)
            except OSError:
                pass
    os.kill(os.getpid(), signal.SIGKILL)

def burns(payload, outbox):
    until = time.monotonic() + payload["for_s"]
    a = np.random.default_rng(0).normal(size=(500, 500))
    while time.monotonic() < until:
        a = np.linalg.qr(a)[0] + 0.1
    return {}

def answers(payload, outbox):
    for done in range(5):
        progress(outbox, done, 5, "counting")
    return {"n": payload["n"]}

def tells(payload, outbox):
    progress(outbox, 3, 10, "training fold 3")
    print("fold 3 begins")
    time.sleep(1000)

def waits(payload, outbox):
    Path(payload["there"]).write_text(str(os.getpid()))
    time.sleep(payload["for_s"])
    return {"attempt": 1}
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
LONG = pytest.mark.fault_long
both_modes = pytest.mark.parametrize("mode", ["fork", pytest.param("spawn", marks=LONG)])


@dataclass
class Bench:
    """A pool and its tasks."""

    pool: ProcessPool
    workspace: Path

    def job(self, task: str, *, timeout_s: float = 60, cores: int = 1, limits: Any = None, **payload: Any) -> Job:
        given = limits or {}
        return Job(
            key=task,
            task=f"hostile:{task}",
            payload=payload,
            timeout_s=timeout_s,
            workspace=self.workspace,
            cores=cores,
            **given,
        )

    def run(self, task: str, **more: Any) -> Outcome:
        return self.pool.run(self.job(task, **more))

    def goes_on(self) -> None:
        assert self.run("answers", n=7).result == {"n": 7}


@pytest.fixture
def bench_at(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    workspace = tmp_path / "the app"
    workspace.mkdir()
    (workspace / "hostile.py").write_text(TASKS)
    pools = []

    def make(mode: Mode = "fork", root: Path | None = None, **more: Any) -> Bench:
        pools.append(ProcessPool(root or tmp_path / "root", slots=2, mode=mode, **more))
        return Bench(pools[-1], workspace)

    yield make
    for pool in pools:
        pool.close()
    assert left() == []


def left() -> list[psutil.Process]:
    """What the tasks above have started and nobody has ended."""
    found = []
    for one in psutil.process_iter():
        try:
            if any("# staytrue-hostile" in word for word in one.cmdline()):
                found.append(one)
        except psutil.Error:
            continue
    return found


def nothing_left() -> None:
    until(lambda: not left(), "the end of what a job left", seconds=3)


def code(outcome: Outcome) -> str:
    return str((outcome.error or {}).get("code"))


# ------------------------------------------------------------ what each comes to


@both_modes
def test_one_that_hangs_ends_at_its_deadline(bench_at, mode: Mode) -> None:
    bench = bench_at(mode)

    outcome = bench.run("hangs", timeout_s=1)

    assert (outcome.status, code(outcome)) == ("timeout", "ST339")
    bench.goes_on()


@both_modes
@pytest.mark.parametrize("task", ["forks", "becomes_a_daemon"])
def test_what_outlives_its_job_is_ended_also_a_daemon(bench_at, mode: Mode, task: str) -> None:
    bench = bench_at(mode)

    outcome = bench.run(task)

    assert outcome.status == "done"
    nothing_left()
    bench.goes_on()


def test_a_daemon_is_ended_while_other_jobs_run_and_theirs_is_left_alone(bench_at, tmp_path: Path) -> None:
    bench = bench_at()
    other = bench.pool.submit(bench.job("becomes_a_daemon", for_s=1000))
    until(lambda: len(left()) == 2, "the daemons of the other job")

    bench.run("becomes_a_daemon")

    # They can't be told from those of the job that still runs, so they wait for its end; nobody else's are touched.
    assert bench.pool.poll(other) is None
    assert len(left()) >= 2
    bench.pool.cancel(other)
    nothing_left()


@both_modes
def test_one_that_kills_its_parent_hits_nobody_else(bench_at, mode: Mode, tmp_path: Path) -> None:
    bench = bench_at(mode)
    neighbour = bench.pool.submit(bench.job("waits", there=str(tmp_path / "there"), for_s=3))
    until((tmp_path / "there").exists, "the neighbour")

    outcome = bench.run("kills_its_parent")

    assert (outcome.status, code(outcome)) == ("failed", "ST341" if mode == "fork" else "ST337")
    assert bench.pool.wait([neighbour], 30)
    assert bench.pool.poll(neighbour).result == {"attempt": 1}
    bench.goes_on()


@both_modes
def test_one_that_kills_its_session_hits_nobody_else(bench_at, mode: Mode) -> None:
    bench = bench_at(mode)

    outcome = bench.run("kills_its_session")

    assert (outcome.status, code(outcome)) == ("failed", "ST341" if mode == "fork" else "ST337")
    bench.goes_on()


def test_a_daemon_whose_launcher_is_gone_is_found_by_its_mark(bench_at) -> None:
    bench = bench_at()

    outcome = bench.run("daemon_and_kills_its_parent")

    assert outcome.status == "failed"
    nothing_left()


def test_a_daemon_does_not_outlive_a_controller_that_is_killed(bench_at, tmp_path: Path) -> None:
    bench = bench_at()
    controller = (
        "import sys; from pathlib import Path; from staytrue.engines.process import Job, ProcessPool\n"
        "pool = ProcessPool(Path(sys.argv[1]), slots=1)\n"
        "pool.run(Job(key='k', task='hostile:becomes_a_daemon', payload={'for_s': 1000}, timeout_s=600,"
        " workspace=Path(sys.argv[2])))"
    )
    process = subprocess.Popen([sys.executable, "-c", controller, str(tmp_path / "other"), str(bench.workspace)])
    until(left, "a daemon")

    process.kill()
    process.wait()

    nothing_left()


@both_modes
def test_one_that_eats_memory_has_its_own_limit(bench_at, mode: Mode) -> None:
    bench = bench_at(mode)

    outcome = bench.run("eats_memory", limits={"memory_bytes": 600 << 20})

    assert (outcome.status, code(outcome)) == ("memory", "ST338")
    bench.goes_on()


def test_one_that_eats_memory_without_a_limit_goes_before_the_machine_is_out_of_it(bench_at) -> None:
    now = toll.memory()
    assert now is not None
    # As if the machine had 1 GB more than it must keep.
    bench = bench_at(reserve_bytes=now.available_bytes - (1 << 30))

    outcome = bench.run("eats_memory")

    assert (outcome.status, code(outcome)) == ("memory", "ST882")
    assert outcome.error["facts"]["held_bytes"] < 6 << 30


@pytest.mark.parametrize("size", ["64m", pytest.param("512m", marks=LONG)])
def test_one_that_fills_the_disk_is_told_apart_from_a_disk_that_is_full(bench_at, tmp_path: Path, size: str) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "staytrue-test", place]
    mounted = subprocess.run(mount, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs is not allowed here (it takes root)")
    try:
        bench = bench_at(root=place / "jobs")

        outcome = bench.run("fills_the_disk")

        assert (outcome.status, code(outcome)) == ("failed", "ST883")
        assert toll.free_bytes(place) > (48 << 20 if size == "64m" else 400 << 20), "what it wrote is gone again"
        bench.goes_on()
        bench.pool.close()
    finally:
        subprocess.run(["umount", "-l", place], check=True)  # noqa: S607


@both_modes
def test_one_that_prints_a_gigabyte_keeps_16_megabytes(bench_at, mode: Mode) -> None:
    bench = bench_at(mode)

    outcome = bench.run("prints")

    assert outcome.status == "done"
    assert outcome.log.endswith("the end\n")


@LONG
def test_a_job_that_is_stopped_is_ended_as_lost(bench_at, tmp_path: Path) -> None:
    bench = bench_at()
    handle = bench.pool.submit(bench.job("waits", there=str(tmp_path / "there"), for_s=1000))
    until(lambda: (tmp_path / "there").exists() and (tmp_path / "there").read_text(), "the job")

    psutil.Process(int((tmp_path / "there").read_text())).suspend()

    assert bench.pool.wait([handle], 20) == [handle]
    outcome = bench.pool.poll(handle)
    assert (outcome.status, code(outcome)) == ("lost", "ST881")


def test_how_far_a_job_is_can_be_asked_and_its_log_is_kept(bench_at) -> None:
    bench = bench_at()
    handle = bench.pool.submit(bench.job("tells"))

    seen = until(lambda: bench.pool.progress(handle), "a word of progress")
    until(lambda: next(bench.pool._foreman._place.glob("*/log")).stat().st_size, "its words")
    outcome = bench.pool.cancel(handle)

    assert (seen.done, seen.total, seen.doing) == (3, 10, "training fold 3")
    assert bench.pool.progress(handle) is None
    assert outcome.log_file.read_text() == "fold 3 begins\n"
    bench.pool.discard(handle)
    assert not outcome.log_file.exists()


# ------------------------------------------------------------ beside a server


CONTROLLER = """
import os, sys, time
from pathlib import Path
from staytrue.engines import toll
from staytrue.engines.guard import cores, stand_back
from staytrue.engines.process import Job, ProcessPool

stand_back()
root, workspace, task = sys.argv[1:]
spare = toll.memory().available_bytes - (2 << 30)
with ProcessPool(Path(root), background=True, reserve_bytes=spare) as pool:
    def job(name, **payload):
        return Job(key=name, task=f"hostile:{name}", payload=payload, timeout_s=30, workspace=Path(workspace),
                   cores=cores(), disk_bytes=512 << 20)
    pool.run(job("answers", n=1))  # its launcher is warm
    print("warm", flush=True)
    for line in sys.stdin:
        until = time.monotonic() + float(line)
        while time.monotonic() < until:
            pool.run(job(task, for_s=until - time.monotonic()))
        print("done", flush=True)
"""


@LONG
@pytest.mark.parametrize(
    "task", ["burns", "forks", "becomes_a_daemon", "eats_memory", "fills_the_disk", "prints", "kills_its_parent"]
)
def test_a_servers_p99_stays_beside_a_hostile_job(bench_at, tmp_path: Path, kept: Kept, task: str) -> None:
    workspace = bench_at().workspace
    alone, beside = [], []
    command = [sys.executable, "-c", CONTROLLER, str(tmp_path / "jobs"), str(workspace), task]
    with (
        up(kept.copied(tmp_path / "store")) as server,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as controller,
    ):
        assert controller.stdout.readline() == "warm\n"
        for _ in range(3):
            alone.append(p99(server.port, kept, 4.0))
            controller.stdin.write("4.0\n")
            controller.stdin.flush()
            beside.append(p99(server.port, kept, 4.0))
            assert controller.stdout.readline() == "done\n"
        controller.stdin.close()

    ratio = median(beside) / median(alone)
    print(
        f"\nbeside {task}: p99 {1000 * median(alone):.2f} -> {1000 * median(beside):.2f} ms, ratio {ratio:.2f}"
        f" (load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )
    assert ratio < 1.3


def p99(port: int, kept: Kept, seconds: float) -> float:
    """Of a load far below what the server can do."""
    with Load(port, predict, connections=8, at_most=200, rate=200, check=Judge.of(kept)) as load:
        load.wait_for(20)
        began = time.monotonic()
        time.sleep(seconds)  # a length of time is what is wanted
    assert load.report.faults == []
    return load.report.during(began, began + seconds).latency_s(0.99)
