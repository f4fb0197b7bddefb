"""`staytrue up` as a whole: from an app's file alone to answers, beside a broken one, and to a quiet end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing

import psutil
import pytest
from server import PATIENCE_S, ROW, Server, serving, until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a server needs fork")


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def new(served):
    """The app of server.py, without a store."""
    return type(served)(served.folder, served.store_path.with_name("another"), served.capsys)


def app(shop) -> list[str]:
    return ["--app", str(shop.folder / "app.py")]


def alarms(shop) -> list[tuple[str, str]]:
    bodies = [event["body"] for event in shop.events("alarm")]
    return [(body["what"], body["state"]) for body in bodies if body["alarm"] == "system"]


def test_an_app_without_a_store_is_fetched_trained_and_served(new) -> None:
    port = free_port()
    told = []
    asked = Server(
        process=None, store_path=new.store_path, stderr_path=new.folder / "none", url=f"http://127.0.0.1:{port}"
    )

    def answers() -> bool:
        try:
            told.append((asked.get("/readyz"), asked.predict(ROW)))
        except OSError:  # it does not listen yet
            return False
        return told[-1][1].status == 200

    command = [sys.executable, "-m", "staytrue", "up", "--store", str(new.store_path), "--port", str(port), "--json"]
    with subprocess.Popen([*command, *app(new)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(answers, "a first answer", seconds=2 * PATIENCE_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)

    before = [(ready.json["status"], prediction.code) for ready, prediction in told[:-1] if ready.status == 503]
    assert set(before) <= {("starting", "ST765"), ("starting", "")}
    assert ("starting", "ST765") in before
    assert process.returncode == 0, err
    assert json.loads(out)["release"] == new.champion() == told[-1][1].release
    assert new.verifies()


@pytest.mark.slow
def test_a_controller_that_is_killed_is_back_and_nobody_who_asks_notices(served) -> None:
    with serving(served.store_path, *app(served)) as server:
        front = server.front()
        first = until(server.controller, "a controller")

        first.kill()

        again = until(lambda: (one := server.controller()) and one.pid != first.pid and one, "another controller")
        assert server.predict(ROW).status == 200
        assert server.front() == front
        until(lambda: alarms(served) == [("controller", "opened"), ("controller", "resolved")], "both events")
        assert server.end() == 0
    assert not again.is_running()


def test_an_alarm_about_a_process_is_over_with_the_next_up(served) -> None:
    with serving(served.store_path, *app(served)) as server:
        until(server.controller, "a controller").kill()
        until(lambda: alarms(served) == [("controller", "opened")], "the alarm")
        for one in (server.process, server.front()):  # before anybody can say that all is well again
            os.kill(one.pid, signal.SIGKILL)

    with serving(served.store_path, *app(served)):
        until(lambda: alarms(served)[1:] == [("controller", "resolved")], "the end of the alarm")


def test_a_champion_is_served_though_the_app_in_the_folder_is_broken(served) -> None:
    served.write("this is no Python")

    with serving(served.store_path, *app(served)) as server:
        assert server.predict(ROW).status == 200
        assert server.end() == 0


def test_a_broken_app_with_nothing_to_serve_is_told_so_and_all_ends(new, staytrue) -> None:
    new.write("raise ValueError('not today')")

    code, out, _ = staytrue("up", "--store", new.store_path, "--port", "0", "--json", *app(new))

    assert code != 0
    assert json.loads(out)["code"] == "ST115"
    assert "not today" in json.loads(out)["message"]


def test_an_app_file_that_is_not_there_is_refused(new, staytrue) -> None:
    nowhere = new.folder / "nowhere.py"
    code, out, _ = staytrue("up", "--store", new.store_path, "--port", "0", "--json", "--app", nowhere)

    assert (code, json.loads(out)["code"]) == (3, "ST114")
    assert not new.store_path.exists()


def test_a_store_without_an_app_file_is_served_and_nothing_more(served) -> None:
    with serving(served.store_path) as server:
        assert server.controller() is None
        assert "nothing is fetched or retrained" in server.stderr


def test_told_to_end_while_it_trains_it_leaves_nothing_running(new) -> None:
    new.edit("    return np.polyfit", "    time.sleep(600)\n    return np.polyfit")
    command = [sys.executable, "-m", "staytrue", "up", "--store", str(new.store_path), "--port", "0", *app(new)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        tree = until(lambda: training(process.pid), "a training", seconds=2 * PATIENCE_S)

        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=10) == 0
        until(lambda: not [one for one in tree if alive(one)], "the end of all", seconds=2)


def training(keeper: int) -> list[psutil.Process]:
    """All processes, once a job has been forked from a launcher."""
    tree = psutil.Process(keeper).children(recursive=True)
    for one in tree:
        try:
            if "staytrue.engines.launcher" in one.cmdline() and "staytrue.engines.launcher" in one.parent().cmdline():
                # The first jobs are fetches: a training that sleeps is still there a moment later.
                return tree if one.cpu_times().user >= 0 and not _ends(one) else []
        except (psutil.Error, AttributeError):
            continue
    return []


def _ends(process: psutil.Process) -> bool:
    gone, _ = psutil.wait_procs([process], timeout=1)
    return bool(gone)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
