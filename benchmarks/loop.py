"""What the loop itself costs, and how soon it acts: a step, an idle turn, a commit until it is live, a take-over after kill -9.

python benchmarks/loop.py       DBOS_PYTHON=/path/to/python with dbos installed: its step beside ours, in the same run
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import psutil

from staytrue.loop.lease import FileBeats
from staytrue.store.ledger import Entry, Fence, Ledger

STEPS = 1000
STEP_MS = 0.1
"""CPU of a step: what the facts of the loop ask for. Missed: ours is a transaction of its own, chained and synced."""
ROUNDS = 5
PATIENCE_S = 120.0

APP = '''
"""One sale an hour, made up."""

import numpy as np
import pandas as pd

from staytrue import App

app = App("shop")


@app.data(time="at", key="id", label="rate", every="1d", features=["size"])
def sales(since, until):
    at = pd.date_range(since, until, freq="1h", inclusive="left")
    number = np.arange(len(at)) + int(since.timestamp()) // 3600
    size = 1.0 + number * 7 % 90
    return pd.DataFrame({"at": at, "id": number, "size": size, "rate": 20 + 3 * size + number % 5})


@app.train
def fit(sales):
    return np.polyfit(sales["size"], sales["rate"], 1).tolist()


@app.predict(metric="mae")
def quote(model, rows):
    return np.polyval(model, rows["size"])
'''

DBOS = """
import sys, time
from dbos import DBOS, DBOSConfig
DBOS(config=DBOSConfig(name="bench", system_database_url="sqlite:///" + sys.argv[1]))

@DBOS.step()
def step(n):
    return n

@DBOS.workflow()
def work(n):
    return sum(step(i) for i in range(n))

DBOS.launch()
work(20)
began = time.process_time()
work(200)
print((time.process_time() - began) / 200 * 1000)
"""


def cpu_s() -> float:
    """CPU time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def step_ms() -> float:
    """CPU of one step of the loop as it is kept: an event, the memory, the fence; one transaction, synced."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(Path(folder) / "ledger.db")
        now = datetime.now(UTC)
        epoch = ledger.take("shop", owner="me", expect_epoch=0, at=now).epoch
        began = cpu_s()
        for n in range(STEPS):
            entry = Entry(app="shop", key=str(n), at=now, kind="step", sentence="A step.", body={"n": n})
            ledger.append([entry], recorded_at=now, fence=Fence(app="shop", epoch=epoch, state={"n": n}))
        used = cpu_s() - began
        ledger.close()
    return used / STEPS * 1000


def dbos_ms() -> float | None:
    """CPU of one warm step of DBOS on SQLite; None where it is not installed."""
    python = os.environ.get("DBOS_PYTHON")
    if not python:
        return None
    with tempfile.TemporaryDirectory() as folder:
        argv = [python, "-c", DBOS, str(Path(folder) / "dbos.sqlite")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        print(f"dbos failed: {done.stderr.strip()[-300:]}")
        return None
    return float(done.stdout.strip().splitlines()[-1])


def until(condition: Callable[[], Any]) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > PATIENCE_S:
            raise TimeoutError(condition)
        time.sleep(0.005)
    return time.monotonic() - began


class Running:
    """`staytrue up` on a small app in a git repository."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / ".staytrue"
        (folder / "app.py").write_text(APP)
        (folder / ".gitignore").write_text(".staytrue\n")
        self.git("init", "-q", "-b", "main")
        self.commit("Begin")
        argv = [sys.executable, "-m", "staytrue", "up", "--port", "0", "--json"]
        self.process = subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        text = ""
        while not text.rstrip().endswith("}"):
            text += self.process.stdout.readline() if self.process.stdout else ""
        self.url = json.loads(text)["url"]

    def git(self, *arguments: str) -> None:
        """A git command."""
        who = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
        git = shutil.which("git") or "git"
        subprocess.run([git, *who, *arguments], cwd=self.folder, check=True, capture_output=True)

    def commit(self, message: str) -> None:
        """All that is there."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def release(self) -> str | None:
        """Who answers."""
        body = json.dumps({"rows": [{"size": 3.0}]}).encode()
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
        try:
            connection.request("POST", "/predict", body, {"content-type": "application/json"})
            return str(json.load(connection.getresponse()).get("release"))
        except OSError:
            return None
        finally:
            connection.close()

    def beat(self) -> dict[str, Any]:
        """The controller's sign of life."""
        return dict(FileBeats(self.store, "shop").read() or {})

    def end(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


@contextmanager
def running() -> Iterator[Running]:
    """One that answers, and whose loop has looked."""
    folder = Path(tempfile.mkdtemp())
    server = Running(folder)
    try:
        until(lambda: server.beat().get("state") == "looks")
        yield server
    finally:
        server.end()
        shutil.rmtree(folder, ignore_errors=True)


def commit_s(server: Running) -> list[float]:
    """From `git commit` of a change that trains nothing to the first answer of its release, in seconds."""
    found = []
    for n in range(ROUNDS):
        until(lambda: server.beat().get("state") == "looks")
        before = server.release()
        text = (server.folder / "app.py").read_text()
        (server.folder / "app.py").write_text(f"{text}\n\ndef helper_{n}():\n    return {n}\n")
        server.commit(f"Helper {n}")
        found.append(until(lambda before=before: server.release() not in (None, before)))
    return found


def take_over_s(server: Running) -> list[float]:
    """From kill -9 of the controller to the first sign of its successor."""
    found = []
    for _ in range(ROUNDS):
        until(lambda: server.beat().get("state") == "looks" and psutil.pid_exists(int(server.beat()["pid"])))
        beat = server.beat()
        os.kill(int(beat["pid"]), signal.SIGKILL)
        found.append(until(lambda beat=beat: server.beat().get("epoch", 0) > beat["epoch"]))
    return found


def idle_share(server: Running) -> float:
    """CPU of the controller with nothing to do, as a share of one core."""
    process = psutil.Process(int(server.beat()["pid"]))
    until(lambda: server.beat().get("state") == "looks")
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    until(lambda: time.monotonic() - began > 10)
    return float((sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began))


def main() -> int:
    """Print the table; exit code 1 when a target is missed."""
    ours, theirs = step_ms(), dbos_ms()
    print(f"a step (event + memory + fence, synced): {ours:.2f} ms CPU")
    print(
        f"a step of DBOS on SQLite: {theirs:.2f} ms CPU, {theirs / ours:.1f} x ours"
        if theirs
        else "DBOS: not installed, skipped"
    )
    with running() as server:
        idle = idle_share(server)
        lives, taken = commit_s(server), take_over_s(server)
    print(f"controller with nothing to do: {idle:.1%} of a core")
    print(f"commit to live, code only: {median(lives):.2f} s (most {max(lives):.2f}, {ROUNDS} times)")
    print(f"take-over after kill -9: {median(taken):.2f} s (most {max(taken):.2f}, {ROUNDS} times)")
    missed = [
        *([f"a step costs more than {STEP_MS} ms"] if ours > STEP_MS else []),
        *(["idle above 2 %"] if idle > 0.02 else []),
        *(["take-over above 2 s"] if median(taken) > 2 else []),
    ]
    print("missed: " + "; ".join(missed) if missed else "all targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
