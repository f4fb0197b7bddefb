"""People are told of incidents: once a change, by a command of their own or by apprise, and whatever they do stops nobody."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from staytrue.errors import InvalidInput
from staytrue.loop.notify import Notifier, by_apprise, by_command, ways
from staytrue.settings import setting, settings_list
from staytrue.store.ledger import Entry, Ledger

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PATIENCE_S = 60.0
SECRET = "hunter2"  # noqa: S105 - it is there to be looked for
needs_apprise = pytest.mark.skipif(importlib.util.find_spec("apprise") is None, reason="apprise is not installed")

HOOK = """
import json, sys, time
from pathlib import Path

here = Path(__file__).parent
told = json.load(sys.stdin)
with (here / "told").open("a") as file:
    file.write(json.dumps(told) + "\\n")
exec((here / "then").read_text() if (here / "then").exists() else "")
"""


class Desk:
    """A ledger in which things happen, and a hook that writes down what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger.open(folder / "ledger.db")
        self._seq = 0
        (folder / "hook.py").write_text(HOOK)

    @property
    def command(self):
        """The hook as a way, with a password on its command line."""
        return by_command([sys.executable, str(self.folder / "hook.py"), f"--password={SECRET}"])

    def then(self, code: str) -> None:
        """What the hook does after it was told."""
        (self.folder / "then").write_text(code)

    def happens(self, *kinds: str, **body) -> None:
        """Events of these kinds."""
        entries = []
        for kind in kinds:
            self._seq += 1
            said = {"alarm": "harm", "state": "opened"} if kind == "alarm" and not body else body
            entries.append(Entry(app="shop", key=f"{self._seq}", at=NOW, kind=kind, sentence=f"{kind}.", body=said))
        self.ledger.append(entries, recorded_at=NOW)

    @property
    def told(self) -> list[tuple[int, str, str]]:
        """(event, kind, state) of each message that arrived."""
        file = self.folder / "told"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(one["event"], one["kind"], one["state"]) for one in map(json.loads, lines)]

    def failures(self) -> list[str]:
        """What the ledger says of deliveries that failed."""
        return [event.sentence for event in self.ledger.events("shop", kinds=["notify_failed"])]


@pytest.fixture
def desk(tmp_path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.ledger.close()


class Clock:
    """Seconds that the test sets, or that pass."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped_s


def turn_until(notifier: Notifier, desk: Desk, holds, clock: Clock | None = None) -> None:
    """Turns of a loop, none of which may take long, until something holds."""
    clock = clock or Clock()
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        notifier.turn(desk.ledger, NOW, clock())
        time.sleep(0.01)


def settled(notifier: Notifier, desk: Desk, clock: Clock | None = None) -> None:
    """Turns until there is nothing more to tell."""
    notifier.turn(desk.ledger, NOW, (clock or Clock())())
    turn_until(notifier, desk, lambda: not notifier.busy, clock)


# ---------------------------------------------------------------- a command


def test_each_change_of_an_incident_is_told_once(desk):
    # given
    notifier = Notifier("shop", [desk.command], after=0)
    # when
    for kinds in (["alarm"] * 50, ["looked", "retrain", "shadow"], ["canary", *["alarm"] * 50], ["promoted"]):
        desk.happens(*kinds)
        settled(notifier, desk)
    # then
    assert desk.told == [(1, "harm", "opened"), (52, "harm", "acting"), (105, "harm", "resolved")]
    assert notifier.done == 105
    assert desk.failures() == []


def test_the_command_gets_the_incident_as_json_and_no_shell_looks_at_it(desk):
    # given
    spoiled = desk.folder / "spoiled"
    way = by_command([sys.executable, str(desk.folder / "hook.py"), f"; touch {spoiled}", "$(touch x)"])
    # when
    desk.happens("alarm", alarm="system", what="disk", state="opened")
    settled(Notifier("shop", [way], after=0), desk)
    # then
    (told,) = [json.loads(line) for line in (desk.folder / "told").read_text().splitlines()]
    assert told == {
        "app": "shop", "id": "system:disk:1", "kind": "system", "cause": "disk", "state": "opened",
        "title": "system (disk) opened", "sentence": "alarm.", "opened_at": NOW.isoformat(),
        "changed_at": NOW.isoformat(), "event": 1,
    }  # fmt: skip
    assert not spoiled.exists()


def test_after_a_restart_it_goes_on_where_it_was(desk):
    # given
    first = Notifier("shop", [desk.command], after=0)
    desk.happens("alarm")
    settled(first, desk)
    desk.happens("retrain")
    # when it is started again before, and after the second change was told
    second = Notifier("shop", [desk.command], after=first.done)
    settled(second, desk)
    settled(Notifier("shop", [desk.command], after=second.done), desk)
    # then
    assert desk.told == [(1, "harm", "opened"), (2, "harm", "acting")]


def test_what_was_under_way_when_it_died_is_told_again(desk):
    # given a hook that was told, and has not come to its end
    desk.then("time.sleep(600)")
    desk.happens("alarm")
    first = Notifier("shop", [desk.command], after=0)
    turn_until(first, desk, lambda: desk.told)
    # when
    kept = first.done
    first.close()
    desk.then("")
    settled(Notifier("shop", [desk.command], after=kept), desk)
    # then
    assert kept == 0
    assert desk.told == [(1, "harm", "opened")] * 2


def test_old_incidents_are_not_told_to_whoever_begins_today(desk):
    desk.happens("alarm", "retrain")
    notifier = Notifier("shop", [desk.command], after=2)
    settled(notifier, desk)
    desk.happens("promoted")
    settled(notifier, desk)
    assert desk.told == [(3, "harm", "resolved")]


def test_a_hook_that_hangs_is_ended_with_all_it_started_and_nobody_waits_for_it(desk):
    # given a hook that starts another process, and neither ends
    child = "import time; time.sleep(600)"
    desk.then(f"import subprocess; p = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
              "(here / 'child').write_text(str(p.pid)); time.sleep(600)")  # fmt: skip
    notifier, clock = Notifier("shop", [desk.command], after=0, deadline_s=20), Clock()
    desk.happens("alarm")
    pid = desk.folder / "child"
    turn_until(notifier, desk, lambda: pid.exists() and pid.read_text(), clock)
    # when
    clock.skipped_s = 21
    turn_until(notifier, desk, desk.failures, clock)
    # then
    turn_until(notifier, desk, lambda: is_gone(int(pid.read_text())), clock)
    assert desk.failures() == [
        "Nobody could be told by command: it did not end within 20 s. It is tried again; that it fails is said this once."
    ]
    notifier.close()


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_hook_that_does_not_read_or_never_stops_talking_blocks_nobody(desk):
    # given
    way = by_command([sys.executable, "-c", "import sys; [sys.stdout.write('x' * 10**6) for _ in range(100)]"])
    desk.ledger.append(
        [Entry(app="shop", key="big", at=NOW, kind="alarm", sentence="x" * 10**6, body={"alarm": "harm"})],
        recorded_at=NOW,
    )
    notifier = Notifier("shop", [way], after=0)
    # when
    began = time.monotonic()
    notifier.turn(desk.ledger, NOW, began)
    notifier.turn(desk.ledger, NOW, began)
    # then: it went on while the hook was busy, and the hook has come to its end
    settled(notifier, desk)
    assert notifier.done == 1
    assert desk.failures() == []


def test_a_failing_hook_is_tried_again_then_given_up_and_told_of_once(desk):
    # given
    desk.then("sys.exit(7)")
    notifier, clock = Notifier("shop", [desk.command], after=0), Clock()
    desk.happens("alarm")
    # when
    for pause_s in (0, 5, 30, 120, 600):
        clock.skipped_s += pause_s
        before = len(desk.told)
        turn_until(notifier, desk, lambda before=before: len(desk.told) > before and at_rest(notifier), clock)
    settled(notifier, desk, clock)
    # then
    assert desk.told == [(1, "harm", "opened")] * 5
    assert notifier.done == max(event.seq for event in desk.ledger.events("shop", kinds=["alarm"]))
    assert len(desk.failures()) == 1
    assert "exit code 7" in desk.failures()[0]
    # and when the next message fails too, then one arrives, and one fails again
    desk.happens("retrain")
    clock.skipped_s += 600
    turn_until(notifier, desk, lambda: len(desk.told) > 5 and at_rest(notifier), clock)
    notifier.turn(desk.ledger, NOW, clock())
    assert len(desk.failures()) == 1
    desk.then("")
    clock.skipped_s += 600
    desk.happens("rejected")
    settled(notifier, desk, clock)
    assert len(desk.failures()) == 1
    desk.then("sys.exit(8)")
    desk.happens("promoted")
    turn_until(notifier, desk, lambda: len(desk.failures()) == 2, clock)
    notifier.close()


def test_a_failure_is_told_once_also_when_another_notifier_meets_it_and_another_failure_is_another_event(desk):
    desk.happens("alarm")
    for code in (7, 7, 8):
        desk.then(f"sys.exit({code})")
        notifier, before = Notifier("shop", [desk.command], after=0), len(desk.told)
        turn_until(notifier, desk, lambda: len(desk.told) > before and at_rest(notifier))  # noqa: B023 - called at once
        notifier.turn(desk.ledger, NOW, time.monotonic())
    assert [sentence.partition(".")[0][-11:] for sentence in desk.failures()] == ["exit code 7", "exit code 8"]


def test_what_changes_while_it_is_told_is_told_too(desk):
    # given a hook that was told of the first state, and goes on until it may end
    desk.then("while not (here / 'end').exists(): time.sleep(0.01)")
    desk.happens("alarm")
    notifier = Notifier("shop", [desk.command], after=0)
    turn_until(notifier, desk, lambda: desk.told)
    # when
    desk.happens("retrain")
    notifier.turn(desk.ledger, NOW, time.monotonic())
    (desk.folder / "end").touch()
    settled(notifier, desk)
    # then
    assert desk.told == [(1, "harm", "opened"), (2, "harm", "acting")]


def at_rest(notifier: Notifier) -> bool:
    """No delivery is under way."""
    return all(line.process is None for line in notifier._lines)


def test_a_state_that_was_overtaken_before_it_could_be_told_is_left_out(desk):
    notifier = Notifier("shop", [desk.command], after=0)
    desk.happens("alarm", "retrain")
    desk.happens("alarm", alarm="system", what="disk", state="opened")
    settled(notifier, desk)
    assert desk.told == [(2, "harm", "acting"), (3, "system", "opened")]


def test_a_command_that_is_not_there_is_told_of_without_its_passwords(desk):
    desk.happens("alarm")
    notifier = Notifier("shop", [by_command([f"/nowhere/tell --password={SECRET}"])], after=0)
    turn_until(notifier, desk, desk.failures)
    assert desk.failures()[0].startswith("Nobody could be told by command: it can't be started: No such file")
    assert not holds_the_secret(desk)


def test_one_way_that_hangs_holds_up_no_other(desk):
    stuck = by_command([sys.executable, "-c", "import time; time.sleep(600)"])
    notifier = Notifier("shop", [stuck, desk.command], after=0)
    desk.happens("alarm")
    turn_until(notifier, desk, lambda: desk.told)
    assert notifier.done == 0
    notifier.close()


def holds_the_secret(desk: Desk) -> bool:
    return any(SECRET.encode() in file.read_bytes() for file in desk.folder.glob("ledger.db*"))


# ---------------------------------------------------------------- apprise


class Web(HTTPServer):
    """A real server, which keeps what it is sent."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """No more answers."""
        self.shutdown()
        self.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        """As apprise wants it, with a user and a password."""
        return f"json://anna:{SECRET}@127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heard.append((self.path, json.loads(body)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.end()


@needs_apprise
def test_apprise_tells_a_service(desk, web):
    notifier = Notifier("shop", [by_apprise(web.url)], after=0)
    desk.happens("alarm")
    settled(notifier, desk)
    desk.happens("promoted")
    settled(notifier, desk)
    assert [(path, told["title"], told["message"], told["type"]) for path, told in web.heard] == [
        ("/hook", "shop: harm opened", "alarm.", "warning"),
        ("/hook", "shop: harm resolved", "promoted.", "success"),
    ]


@needs_apprise
@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"json://anna:{SECRET}@127.0.0.1:1/", "the service did not take it"),
        (f"nosuch://{SECRET}", "does not understand the URL"),
    ],
)
def test_a_service_that_does_not_take_it_is_told_of_without_its_passwords(desk, url, why):
    notifier = Notifier("shop", [by_apprise(url)], after=0)
    desk.happens("alarm")
    turn_until(notifier, desk, desk.failures)
    assert why in desk.failures()[0]
    assert not holds_the_secret(desk)


def test_without_apprise_its_absence_is_what_is_said(desk):
    way = by_apprise("json://127.0.0.1:1/")
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import runpy, sys; sys.exit(runpy.run_path(sys.argv[1])['send']({}))", sender_file()],
        capture_output=True, check=False, env={},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")
    assert way.means(3) == "apprise is not installed: pip install 'staytrue[notify]'"


def sender_file() -> str:
    return importlib.util.find_spec("staytrue.loop.sender").origin


# ---------------------------------------------------------------- settings


def test_ways_come_from_the_project_or_the_environment(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text(
        '[tool.staytrue]\nnotify = ["json://a/?x=1&y=#z", "mailto://b"]\nnotify_command = ["python", "tell it.py", "C:\\\\x"]\n'
    )
    assert [way.name for way in ways(tmp_path)] == ["command", "json (1)", "mailto (2)"]
    assert settings_list("notify_command", folder=tmp_path) == ("python", "tell it.py", "C:\\x")
    assert settings_list("notify", folder=tmp_path) == ("json://a/?x=1&y=#z", "mailto://b")
    monkeypatch.setenv("STAYTRUE_NOTIFY", "json://c/?x=1&y=2 'json://d e'")
    monkeypatch.setenv("STAYTRUE_NOTIFY_COMMAND", "python 'tell it.py'")
    assert settings_list("notify", folder=tmp_path) == ("json://c/?x=1&y=2", "json://d e")
    assert ways(tmp_path)[0].argv == ("python", "tell it.py")


def test_without_settings_nobody_is_told(tmp_path):
    assert ways(tmp_path) == []
    idle = Notifier("shop", [], after=3)
    assert (idle.busy, idle.done) == (False, 3)


@pytest.mark.parametrize(
    "text", [f'notify = ["{SECRET}", 3]', f'notify = {{url = "{SECRET}"}}', f'notify = "\'{SECRET}"']
)
def test_a_setting_that_can_not_be_read_keeps_its_secret(tmp_path, text):
    (tmp_path / "pyproject.toml").write_text(f"[tool.staytrue]\n{text}\n")
    with pytest.raises(InvalidInput, match="ST139") as refused:
        ways(tmp_path)
    assert SECRET not in str(refused.value.document())


def test_doctor_shows_that_a_secret_is_set_and_not_what(tmp_path, monkeypatch, staytrue):
    monkeypatch.setenv("STAYTRUE_NOTIFY", f"json://{SECRET}")
    assert setting("notify") == f"json://{SECRET}"
    _, out, err = staytrue("doctor", "--json", "--store", tmp_path / "store", cwd=tmp_path)
    assert json.loads(out)["settings"]["notify"]["value"] == "***"
    assert SECRET not in out + err
