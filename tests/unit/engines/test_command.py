"""A command of the user's, run as a job: it may hang, fork, print for ever and ruin its files, and nothing of it is left."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from staytrue.engines.command import OUTPUT_BYTES
from staytrue.engines.process import Job, ProcessPool

PATIENCE_S = 20


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with ProcessPool(tmp_path_factory.mktemp("pool"), slots=2) as made:
        yield made


def job(
    tree: Path, script: str, *, timeout_s: float = 60, argv: list[str] | None = None, **environment: str | None
) -> Job:
    tree.mkdir(exist_ok=True)
    (tree / "script.py").write_text(script)
    payload = {
        "argv": argv or [sys.executable, "script.py"],
        "tree": str(tree),
        "timeout_s": timeout_s,
        "environment": environment,
    }
    return Job(key="command", task="staytrue.engines.command:run", payload=payload, timeout_s=timeout_s + 60)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def ends(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while is_alive(pid) and time.monotonic() < deadline:
        os.sched_yield()
    return not is_alive(pid)


def test_it_runs_in_a_copy_with_the_environment_it_is_given(pool, tmp_path):
    assert "HOME" in os.environ
    script = "import os\nopen('script.py', 'w').write('ruined')\nprint(os.environ['GIVEN'], 'HOME' in os.environ, os.getcwd())"

    outcome = pool.run(job(tmp_path / "app", script, GIVEN="ä", HOME=None))

    assert outcome.status == "done", outcome.error
    words = outcome.result["tail"].split()
    assert words[:2] == ["ä", "False"]
    assert not Path(words[2]).is_relative_to(tmp_path / "app")
    assert not Path(words[2]).exists()
    assert (tmp_path / "app" / "script.py").read_text() == script


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_one_that_hangs_is_stopped_at_its_deadline_with_all_that_it_has_started(pool, tmp_path):
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "forked = os.fork()\n"
        "if forked == 0:\n    time.sleep(600)\n"
        "print('started', child.pid, forked, flush=True)\n"
        "time.sleep(600)\n"
    )

    outcome = pool.run(job(tmp_path / "app", script, timeout_s=2))

    assert outcome.status == "done"
    assert outcome.result["exit_code"] is None
    words = outcome.result["tail"].split()
    assert words[0] == "started"
    assert all(ends(int(pid)) for pid in words[1:])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_what_it_leaves_running_does_not_hold_up_its_result_and_ends_with_it(pool, tmp_path):
    script = "import os, time\npid = os.fork()\nif pid == 0:\n    time.sleep(600)\nprint(pid, flush=True)"

    outcome = pool.run(job(tmp_path / "app", script))

    assert outcome.result["exit_code"] == 0
    assert outcome.seconds < PATIENCE_S
    assert ends(int(outcome.result["tail"]))


def test_one_that_prints_without_end_leaves_its_first_and_its_last_words(pool, tmp_path):
    script = "print('first')\nfor _ in range(40_000):\n    print('x' * 1000)\nprint('last')"

    outcome = pool.run(job(tmp_path / "app", script))

    assert outcome.result["printed"] > 40_000_000
    log = (outcome.outbox / "log").read_bytes()
    assert len(log) < 2 * OUTPUT_BYTES + 1_000_000
    assert log.startswith(b"first")
    assert log.endswith(b"last\n")
    assert b"bytes left out" in log
    assert outcome.result["tail"].endswith("last\n")


@pytest.mark.parametrize(
    ("script", "exit_code"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9), ("1/0", 1)]
)
def test_how_it_ended_is_told(pool, tmp_path, script, exit_code):
    assert pool.run(job(tmp_path / "app", script)).result["exit_code"] == exit_code


def test_a_program_that_is_not_there_is_named_and_no_shell_reads_the_command(pool, tmp_path):
    outcome = pool.run(job(tmp_path / "app", "", argv=["no-such-program; touch evil"]))

    assert (outcome.status, outcome.error["code"]) == ("failed", "ST841")
    said = pool.run(
        job(tmp_path / "app", "import sys; print(sys.argv[1])", argv=[sys.executable, "script.py", "$(id); `id`"])
    )
    assert said.result["tail"].strip() == "$(id); `id`"
