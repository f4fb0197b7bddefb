"""Jobs that go well or fail in ordinary ways: results, errors, limits, order. tests/fault has what is done to them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from staytrue.engines.process import Job, Mode, Outcome, ProcessPool
from staytrue.errors import InvalidInput, NotFound, Unavailable

TASKS = """
import json, os, sys, threading, time
from pathlib import Path
from staytrue.errors import Refused

CACHE = {"prepared_in": None}

def prepare(payload):
    if payload.get("bad_prepare"):
        raise LookupError("no such part")
    CACHE["prepared_in"] = os.getpid()

def double(payload, outbox):
    return {"twice": payload["n"] * 2, "pid": os.getpid()}

def files(payload, outbox):
    (outbox / "model.bin").write_bytes(bytes(range(256)))
    return {"file": "model.bin", "mode": oct(outbox.stat().st_mode & 0o777), "cwd": os.getcwd()}

def inner(x):
    return json.loads(x)

def raises(payload, outbox):
    inner("{nope")

def chained(payload, outbox):
    try:
        inner("{nope")
    except ValueError as exc:
        raise RuntimeError("the prices are unreadable") from exc

def refuses(payload, outbox):
    raise Refused("ST777", "The gate said no.", loss=0.25)

def prints(payload, outbox):
    print("caf\\u00e9 on python's stdout")
    os.system("echo from a shell; echo and its stderr >&2")
    return {"stdin": sys.stdin.read()}

def greedy(payload, outbox):
    data = bytearray(400 << 20)
    return {"size": len(data)}

def returns(payload, outbox):
    answers = {"nan": {"x": float("nan")}, "object": {"x": object()}, "list": [1], "large": {"x": "x" * (17 << 20)}}
    return answers[payload["what"]]

def exits(payload, outbox):
    sys.exit(3)

def surroundings(payload, outbox):
    return {"env": {name: os.environ[name] for name in payload["names"]}, "prepared_in": CACHE["prepared_in"],
            "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgrp(),
            "hash": hash("staytrue")}

def order(payload, outbox):
    with open(payload["log"], "a") as log:
        log.write(f"{payload['n']}\\n")
    return {}
"""

THREADED = """
import threading, time
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
def task(payload, outbox):
    return {"threads": threading.active_count()}
"""

MODULES = {
    "tasks": TASKS,
    "threaded": THREADED,
    "broken": "import json\nraise RuntimeError('at import')\n",
    "hang": "import time\ndef task(payload, outbox):\n    time.sleep(1000)\n",
    "hang_import": "import time\ntime.sleep(1000)\n",
    "hang_prepare": "import time\ndef prepare(payload):\n    time.sleep(1000)\ndef task(payload, outbox):\n    return {}\n",
}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("my äpp with spaces")
    for name, text in MODULES.items():
        (place / f"{name}.py").write_text(text, encoding="utf-8")
    return place


@pytest.fixture(scope="module", params=get_args(Mode))
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPool]:
    with ProcessPool(tmp_path_factory.mktemp("wörk"), slots=2, mode=request.param) as pool:
        yield pool


@pytest.fixture
def job(workspace: Path) -> Callable[..., Job]:
    def job(task: str, limits: dict[str, Any] | None = None, **payload: Any) -> Job:
        name = task if ":" in task else f"tasks:{task}"
        return replace(Job(key=task, task=name, payload=payload, timeout_s=60, workspace=workspace), **(limits or {}))

    return job


MakeJob = Callable[..., Job]


def failed(outcome: Outcome, status: str = "failed") -> dict[str, Any]:
    assert outcome.status == status, outcome
    assert outcome.result is None
    assert outcome.outbox is None
    assert outcome.error is not None
    return outcome.error


def test_a_job_gives_back_its_result_and_what_it_cost(pool: ProcessPool, job: MakeJob) -> None:
    outcome = pool.run(job("double", n=21))

    assert outcome.status == "done"
    assert outcome.result is not None
    assert outcome.result["twice"] == 42
    assert outcome.result["pid"] != os.getpid()
    assert outcome.seconds > 0
    assert outcome.cpu_seconds is not None
    assert outcome.peak_memory_bytes is not None
    assert outcome.peak_memory_bytes > 1 << 20


@pytest.mark.parametrize("mode", get_args(Mode))
def test_the_memory_that_a_job_took_is_said(mode: Mode, workspace: Path, tmp_path: Path) -> None:
    # From a small process: what is started counts the memory of whoever starts it, and a test run holds a lot.
    asks = (
        "import sys; from pathlib import Path; from staytrue.engines.process import Job, ProcessPool\n"
        "job = Job(key='k', task='tasks:double', payload={'n': 21}, timeout_s=60, workspace=Path(sys.argv[3]))\n"
        "with ProcessPool(Path(sys.argv[1]), slots=1, mode=sys.argv[2]) as pool: print(pool.run(job).peak_memory_bytes)"
    )
    command = [sys.executable, "-c", asks, tmp_path / "jobs", mode, workspace]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)

    assert 1 << 20 < int(said.stdout) < 1 << 30


def test_files_arrive_in_a_private_outbox_that_discard_removes(
    pool: ProcessPool, job: MakeJob, workspace: Path
) -> None:
    handle = pool.submit(job("files"))
    assert pool.wait([handle], 60) == [handle]
    outcome = pool.poll(handle)

    assert outcome is not None
    assert outcome.outbox is not None
    assert outcome.result == {"file": "model.bin", "mode": "0o700", "cwd": str(workspace)}
    assert (outcome.outbox / "model.bin").read_bytes() == bytes(range(256))

    pool.discard(handle)
    assert not outcome.outbox.exists()
    with pytest.raises(NotFound, match="ST344"):
        pool.poll(handle)


def test_an_exception_comes_back_with_the_users_frames_only(pool: ProcessPool, job: MakeJob) -> None:
    error = failed(pool.run(job("raises")))

    assert (error["error"], error["code"]) == ("JSONDecodeError", "ST332")
    assert "property name" in error["message"]
    assert error["traceback"].count("File ") == 2
    assert "in raises" in error["traceback"]
    assert "in inner" in error["traceback"]
    assert "launcher.py" not in error["traceback"]


def test_the_cause_of_an_exception_is_kept(pool: ProcessPool, job: MakeJob) -> None:
    error = failed(pool.run(job("chained")))

    assert error["message"] == "the prices are unreadable"
    assert "JSONDecodeError" in error["traceback"]
    assert "direct cause" in error["traceback"]


def test_our_own_errors_keep_their_code_and_facts(pool: ProcessPool, job: MakeJob) -> None:
    error = failed(pool.run(job("refuses")))

    assert (error["error"], error["code"], error["facts"]) == ("Refused", "ST777", {"loss": 0.25})


@pytest.mark.parametrize(
    ("task", "payload", "code", "says"),
    [
        ("broken:task", {}, "ST333", "at import"),
        ("absent:task", {}, "ST333", "No module named 'absent'"),
        ("tasks:absent", {}, "ST333", "absent"),
        ("double", {"bad_prepare": True}, "ST334", "no such part"),
        ("exits", {}, "ST332", "sys.exit(3)"),
        ("returns", {"what": "nan"}, "ST335", "JSON"),
        ("returns", {"what": "object"}, "ST335", "object"),
        ("returns", {"what": "list"}, "ST335", "returned list, not a dict"),
        ("returns", {"what": "large"}, "ST335", "at most 16,777,216"),
    ],
)
def test_each_way_to_fail_has_its_code(
    *, pool: ProcessPool, job: MakeJob, task: str, payload: dict[str, Any], code: str, says: str
) -> None:
    error = failed(pool.run(job(task, **payload)))

    assert error["code"] == code
    assert says in error["message"]


def test_a_launcher_survives_a_failed_import(tmp_path: Path, job: MakeJob) -> None:
    with ProcessPool(tmp_path / "root", slots=1, mode="fork") as pool:
        failed(pool.run(job("broken:task")))

        assert pool.run(job("double", n=1)).status == "done"


def test_whatever_a_job_prints_is_its_log(pool: ProcessPool, job: MakeJob) -> None:
    outcome = pool.run(job("prints"))

    assert outcome.result == {"stdin": ""}
    for line in ("café on python's stdout", "from a shell", "and its stderr"):
        assert line in outcome.log


def test_a_memory_limit_ends_in_status_memory(pool: ProcessPool, job: MakeJob) -> None:
    error = failed(pool.run(job("greedy", {"memory_bytes": 100 << 20})), "memory")

    assert error["code"] == "ST338"
    assert "in greedy" in error["traceback"]
    assert pool.run(job("greedy", {"memory_bytes": 600 << 20})).status == "done"


def test_a_deadline_ends_in_status_timeout(pool: ProcessPool, job: MakeJob) -> None:

    outcome = pool.run(job("hang:task", {"timeout_s": 0.3}))

    assert failed(outcome, "timeout")["code"] == "ST339"
    assert 0.3 <= outcome.seconds < 5


@pytest.mark.parametrize("module", ["hang_import", "hang_prepare"])
def test_a_hang_before_the_fork_meets_the_deadline_too(tmp_path: Path, job: MakeJob, module: str) -> None:
    with ProcessPool(tmp_path / "root", slots=2, mode="fork") as pool:
        outcome = pool.run(job(f"{module}:task", {"timeout_s": 0.3}))

        assert failed(outcome, "timeout")["code"] == "ST339"
        assert pool.run(job("double", n=1)).status == "done"


def test_prepare_runs_in_the_launcher_and_children_inherit_its_cache(tmp_path: Path, job: MakeJob) -> None:
    with ProcessPool(tmp_path / "root", slots=1, mode="fork") as pool:
        first, second = (pool.run(job("surroundings", names=[])).result for _ in range(2))

    assert first is not None
    assert second is not None
    assert first["prepared_in"] == second["prepared_in"] != first["pid"]


def test_a_job_has_its_own_group_capped_threads_and_a_fixed_hash_seed(pool: ProcessPool, job: MakeJob) -> None:
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS"]

    results = [pool.run(job("surroundings", {"cores": cores}, names=names)).result for cores in (1, 2, 2)]

    # Its own, or with an interpreter of its own that of who stands between it and the pool.
    assert all(one is not None and one["group"] in {one["pid"], one["parent"]} for one in results)
    assert [set(one["env"].values()) for one in results if one] == [{"1"}, {"2"}, {"2"}]
    assert len({one["hash"] for one in results if one}) == 1


def test_native_threads_do_not_keep_a_job_with_two_cores_from_the_fork(tmp_path: Path, job: MakeJob) -> None:
    with ProcessPool(tmp_path / "root", slots=2, mode="fork") as pool:
        outcome = pool.run(job("double", {"cores": 2, "warm": ("numpy",)}, n=1))

    assert (outcome.status, outcome.mode) == ("done", "fork")


def test_a_module_that_starts_threads_runs_in_a_process_of_its_own(tmp_path: Path, job: MakeJob) -> None:
    with ProcessPool(tmp_path / "root", slots=2, mode="fork") as pool:
        first, second = pool.run(job("threaded:task")), pool.run(job("threaded:task"))

    assert (first.status, first.mode) == (second.status, second.mode) == ("done", "spawn")


def test_two_hundred_jobs_all_give_their_own_result(tmp_path: Path, job: MakeJob) -> None:
    with ProcessPool(tmp_path / "root", slots=2, mode="fork") as pool:
        handles = [pool.submit(job("double", n=n)) for n in range(200)]
        waiting = list(handles)
        while waiting:
            done = pool.wait(waiting, 60)
            assert done
            waiting = [one for one in waiting if one not in done]
        outcomes = [pool.poll(handle) for handle in handles]

    assert [one.result["twice"] for one in outcomes if one and one.result] == [2 * n for n in range(200)]


def test_jobs_beyond_the_slots_run_in_the_order_they_came(tmp_path: Path, job: MakeJob) -> None:
    log = tmp_path / "order"
    with ProcessPool(tmp_path / "root", slots=1, mode="fork") as pool:
        handles = [pool.submit(job("order", {"cores": 1 + n % 2}, n=n, log=str(log))) for n in range(10)]
        while handles:
            handles = [one for one in handles if one not in pool.wait(handles, 60)]

    assert log.read_text().split() == [str(n) for n in range(10)]


def test_two_pools_share_a_root(tmp_path: Path, job: MakeJob) -> None:
    with ProcessPool(tmp_path / "root", slots=1) as one, ProcessPool(tmp_path / "root", slots=1) as other:
        first, second = one.submit(job("files")), other.submit(job("files"))
        one.wait([first], 60)
        other.wait([second], 60)
        outboxes = [pool.run(job("files")).outbox for pool in (one, other)]

        assert all(outbox is not None and (outbox / "model.bin").exists() for outbox in outboxes)
    assert list((tmp_path / "root").iterdir()) == []


def test_idle_launchers_beyond_the_limit_are_closed(tmp_path: Path, job: MakeJob) -> None:
    with ProcessPool(tmp_path / "root", slots=1, mode="fork", max_launchers=1) as pool:
        pids = set()
        for name in ("a", "b", "a"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "parent.py").write_text(
                "import os\ndef task(payload, outbox):\n    return {'launcher': os.getppid()}\n"
            )
            result = pool.run(job("parent:task", {"workspace": tmp_path / name})).result
            assert result is not None
            pids.add(result["launcher"])

    assert len(pids) == 3


def test_a_read_only_workspace_will_do(pool: ProcessPool, job: MakeJob, workspace: Path) -> None:
    workspace.chmod(0o555)
    try:
        assert pool.run(job("double", n=1)).status == "done"
    finally:
        workspace.chmod(0o755)


def test_warm_imports_by_name_and_by_path(tmp_path: Path, job: MakeJob, workspace: Path) -> None:
    with ProcessPool(tmp_path / "root", slots=1, mode="fork") as pool:
        good = pool.warm(["decimal", str(workspace / "tasks.py")], workspace)
        bad = pool.warm(["broken"], workspace)
        pool.wait([bad], 60)
        outcomes = [pool.poll(good), pool.poll(bad)]

    assert [one.status for one in outcomes if one] == ["done", "failed"]


def test_a_queued_job_is_cancelled_without_ever_running(tmp_path: Path, job: MakeJob) -> None:
    with ProcessPool(tmp_path / "root", slots=1, mode="fork") as pool:
        running, queued = pool.submit(job("hang:task")), pool.submit(job("order", n=1, log=str(tmp_path / "order")))

        assert failed(pool.cancel(queued), "cancelled")["code"] == "ST340"
        assert failed(pool.cancel(running), "cancelled")["code"] == "ST340"
        assert not (tmp_path / "order").exists()


def test_closing_cancels_what_was_not_done_and_refuses_more(tmp_path: Path, job: MakeJob) -> None:
    pool = ProcessPool(tmp_path / "root", slots=1)
    handles = [pool.submit(job("hang:task")) for _ in range(2)]

    pool.close()
    pool.close()

    assert [one.status for handle in handles if (one := pool.poll(handle))] == ["cancelled", "cancelled"]
    with pytest.raises(Unavailable, match="ST343"):
        pool.submit(job("double", n=1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "no_colon"},
        {"task": "a-b:c"},
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"timeout_s": float("nan")},
        {"cores": 0},
        {"memory_bytes": 0},
        {"workspace": Path("/no/such/place")},
        {"payload": {"x": float("nan")}},
        {"payload": {"x": object()}},
    ],
    ids=lambda wrong: re.sub(r" at 0x\w+", "", str(wrong)),  # the same in each worker of the suite
)
def test_a_wrong_job_is_refused_at_once_and_names_its_field(
    tmp_path: Path, job: MakeJob, wrong: dict[str, Any]
) -> None:
    with ProcessPool(tmp_path / "root", slots=1) as pool, pytest.raises(InvalidInput, match="ST331") as caught:
        pool.submit(job("double", wrong))

    assert caught.value.facts["field"] == next(iter(wrong))


def test_the_environment_chooses_the_mode(tmp_path: Path, job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAYTRUE_FORK", "0")
    with ProcessPool(tmp_path / "root", slots=1) as pool:
        assert pool.run(job("double", n=1)).mode == "spawn"

    monkeypatch.setenv("STAYTRUE_FORK", "yes")
    with pytest.raises(InvalidInput, match="STAYTRUE_FORK"):
        ProcessPool(tmp_path / "root")
