"""The demo: the whole of it, on the real bookings, against the server that it starts; how it ends, and what it refuses."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from living import beating
from server import until

from staytrue.cli import main
from staytrue.loop.losses import losses
from staytrue.store.ledger import LIVE
from staytrue.store.store import open_store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="staytrue up runs on Linux and macOS")
DEMO = [sys.executable, "-W", "ignore", "-m", "staytrue", "demo"]
APP, LIVE_FROM = "hotel-rates", "2017-02-17"
_NO_DECISIONS = {"noted", "alarm", "looked", "replayed"}


def refused(capsys, *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["demo", "--headless", "--json", *words]) > 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_that_holds_another_app_is_left_alone(tmp_path, capsys):
    (tmp_path / "app.py").write_text("mine = True\n")

    found = refused(capsys, "--dir", str(tmp_path))

    assert found["code"] == "ST1031"
    assert [file.name for file in tmp_path.iterdir()] == ["app.py"]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear")

    found = refused(capsys, "--dir", str(tmp_path))

    assert found["code"] == "ST133"
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_a_port_that_somebody_has_is_named(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = refused(capsys, "--dir", str(tmp_path / "demo"), "--port", str(port))

    assert (found["code"], str(port) in found["message"]) == ("ST774", True)


def test_a_store_whose_loop_runs_already_is_left_to_it(tmp_path, capsys):
    with beating(tmp_path / "store", APP):
        found = refused(capsys, "--dir", str(tmp_path / "demo"), "--store", str(tmp_path / "store"))

    assert found["code"] == "ST1030"


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> tuple[Path, str]:
    """A demo of so many days that a challenger is promoted, and what it said."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    command = [*DEMO, "--dir", str(folder), "--port", "0", "--days", "16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "as with --headless" in done.stderr
    return folder, done.stdout


@pytest.fixture
def copied(played, tmp_path) -> Path:
    return Path(shutil.copytree(played[0], tmp_path / "demo"))


@pytest.mark.slow
def test_it_tells_a_whole_story_and_decides_as_a_replay_of_the_same_days(played):
    folder, told = played
    store = open_store(folder / ".staytrue", must_exist=True)

    said = store.ledger.events(APP, LIVE)
    document = losses(store, APP)
    asked = store.traffic(app=APP).to_pandas()
    store.close()

    decided = [e.kind for e in said if e.at.isoformat() > LIVE_FROM and e.kind not in _NO_DECISIONS]
    assert decided == ["retrain", "backtest", "shadow", "canary", "canary", "promoted"]
    policies = {
        line.split()[0]: line.split() for line in told.splitlines() if line.startswith(("payback", "never", "every"))
    }
    # It decides the same, so it trains nothing that the live loop had not trained.
    assert policies["payback"][6] == "0"
    assert document["never"]
    assert document["never_why"] == ""
    assert len(document["points"]) > 30
    assert {"champion", "shadow", "challenger"} <= set(asked["arm"])
    assert re.search(r"16 days live: [\d,]+ requests, 0 failed", told)


class Staying:
    """A demo that stays up, with whoever looks on: `--open`, and a browser that is none."""

    def __init__(self, folder: Path) -> None:
        self._out = folder.parent / "out"
        command = [*DEMO, "--dir", str(folder), "--port", "0", "--days", "1", "--open"]
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "BROWSER": "true"})
        until(lambda: "until Ctrl-C" in self.said or self.process.poll() is not None, "that it stays", seconds=300)
        assert self.process.poll() is None, self.said
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    @property
    def said(self) -> str:
        return self._out.read_text()

    def page(self) -> int:
        (port, *_) = re.findall(r"http://127\.0\.0\.1:(\d+)/", self.said)
        asked = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
        with contextlib.closing(asked):
            asked.request("GET", "/")
            return asked.getresponse().status

    def left(self) -> list[psutil.Process]:
        return psutil.wait_procs(self.family, timeout=30)[1]


@pytest.fixture
def staying(copied) -> Iterator[Staying]:
    made = Staying(copied)
    yield made
    made.process.kill()
    made.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_again_it_goes_on_and_serves_until_it_is_told_to_end(staying, number):
    assert "It goes on from 2017-03-05" in staying.said
    assert "clock stands at 2017-03-06" in staying.said
    assert staying.page() == 200

    staying.process.send_signal(number)

    assert staying.process.wait(timeout=60) == 0
    assert staying.left() == []


@pytest.mark.slow
def test_killed_it_leaves_no_server_behind(staying):
    assert staying.page() == 200

    staying.process.kill()

    assert staying.left() == []


@pytest.mark.slow
def test_a_server_that_dies_is_the_end_of_it(staying):
    server = next(one for one in staying.family if "up" in one.cmdline())

    server.kill()

    assert staying.process.wait(timeout=60) == 5
    assert "ST1032" in staying.said
    assert staying.left() == []
