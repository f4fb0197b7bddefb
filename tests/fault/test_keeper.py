"""A keeper and its children, as real processes: killed, stopped, crashing again and again, asked to end once and twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from served import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a child sees the end of its keeper by the kernel")

HOUSE = """
import os, signal, sys, time
import json
from pathlib import Path
from staytrue.engines.keeper import AGAIN, Child, Keeper

place = Path(sys.argv[1])
(place / "heard").touch()

def kept(name):
    def run(line):
        with (place / f"{name}.lives").open("a") as lives:
            lives.write(f"{os.getpid()} {time.monotonic()}\\n")
        if (place / f"{name}.fails").exists():
            return 3
        if (place / f"{name}.deaf").exists():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while line.beat():
            for order, code in (("crashes", 4), ("again", AGAIN)):
                if (place / f"{name}.{order}").exists():
                    if order == "again":
                        (place / f"{name}.{order}").unlink()
                    return code
            with (place / "heard").open("a") as heard:
                heard.writelines(json.dumps(one) + "\\n" for one in line.heard() if name == "listener")
            time.sleep(0.02)
        return 1
    return Child(name=name, run=run, starts_s=5, silent_s=1, grace_s=30, needed=lambda: True)

children = [kept("listener"), kept("other")]
failure = Keeper(children, say=lambda text: print(text, file=sys.stderr), told="listener", steady_s=1.5).run()
if failure:
    print(failure.name, failure.exit_code)
    sys.exit(9)
"""


@dataclass
class House:
    """A keeper with the children `listener` (who is given the notices) and `other`."""

    place: Path
    process: subprocess.Popen[str] | None

    def lives(self, name: str) -> list[tuple[int, float]]:
        """(pid, when it began) of each life of a child."""
        try:
            lines = (self.place / f"{name}.lives").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(int(pid), float(at)) for pid, at in map(str.split, lines)]

    def pid(self, name: str) -> int:
        return self.lives(name)[-1][0]

    def order(self, name: str, what: str) -> Path:
        file = self.place / f"{name}.{what}"
        file.touch()
        return file

    def heard(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.place / "heard").read_text().splitlines()]

    def another(self, name: str, lives: int = 1, *, seconds: float = 20) -> None:
        until(lambda: len(self.lives(name)) > lives, f"another {name}", seconds=seconds)


@contextlib.contextmanager
def started(place: Path, *orders: tuple[str, str]) -> Iterator[House]:
    for name, what in orders:
        (place / f"{name}.{what}").touch()
    process = subprocess.Popen([sys.executable, "-c", HOUSE, str(place)], stdout=subprocess.PIPE, text=True)
    house = House(place, process)
    try:
        until(lambda: house.lives("listener") and house.lives("other"), "both children")
        yield house
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with started(tmp_path) as one:
        yield one


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


@pytest.mark.parametrize("name", ["listener", "other"])
def test_a_child_that_is_killed_is_back_within_a_second_and_its_sibling_does_not_notice(
    house: House, name: str
) -> None:
    sibling = "other" if name == "listener" else "listener"
    for kill in range(1, 3):
        time.sleep(1.1)  # up for longer than what counts as dying at once
        began = time.monotonic()
        os.kill(house.pid(name), signal.SIGKILL)
        house.another(name, kill)
        assert house.lives(name)[-1][1] - began < 1

    assert len(house.lives(sibling)) == 1
    # Told once, though it died twice; and that it is well again, once it was up for a while.
    until(lambda: [one["state"] for one in house.heard()][-1:] == ["resolved"], "the end of the incident")
    told = {json.dumps(one) for one in house.heard()}  # a listener that is back is told again
    states = [json.loads(one) for one in sorted(told, key=lambda one: json.loads(one)["at"])]
    assert [(one["what"], one["state"], one["restarts"]) for one in states] == [
        (name, "opened", 1),
        (name, "resolved", 2),
    ]
    assert states[0]["why"] == "was ended by SIGKILL"


def test_a_child_that_is_stopped_is_replaced(house: House) -> None:
    began = time.monotonic()
    first = house.pid("other")
    os.kill(first, signal.SIGSTOP)

    house.another("other")

    assert 0.5 < time.monotonic() - began < 5
    assert gone(first)
    assert "gave no sign of life for 1 s" in until(house.heard, "a notice")[0]["why"]


@pytest.mark.fault_long
def test_a_keeper_that_was_stopped_itself_takes_nobody_for_dead(house: House) -> None:
    before = house.pid("listener"), house.pid("other")
    os.kill(house.process.pid, signal.SIGSTOP)
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3)  # three times what a child may be silent

    os.kill(house.process.pid, signal.SIGCONT)
    time.sleep(0.3)  # it looks before they move
    for pid in before:
        os.kill(pid, signal.SIGCONT)
    time.sleep(1.5)

    assert (house.pid("listener"), house.pid("other")) == before


@pytest.mark.fault_long
def test_one_that_dies_at_once_again_and_again_is_given_growing_pauses_and_is_one_incident(house: House) -> None:
    crashes = house.order("other", "crashes")
    house.another("other", 5)
    crashes.unlink()

    began = [at for _, at in house.lives("other")]
    pauses = [b - a for a, b in pairwise(began[1:])]
    assert len(house.lives("listener")) == 1
    assert pauses == sorted(pauses)
    assert pauses[-1] > 1
    assert [one["state"] for one in house.heard()] == ["opened"]


def test_a_child_that_asks_for_it_is_started_again_without_a_word(house: House) -> None:
    time.sleep(1.1)
    house.order("other", "again")
    house.another("other")
    house.another("other", 1, seconds=1)

    assert house.heard() == []


def test_a_killed_keeper_takes_all_along_also_what_is_stopped(house: House) -> None:
    os.kill(house.pid("other"), signal.SIGSTOP)

    house.process.kill()

    until(lambda: gone(house.pid("listener")) and gone(house.pid("other")), "the end of all", seconds=1)


def test_asked_to_end_it_ends_its_children_and_well_also_a_stopped_one(house: House) -> None:
    os.kill(house.pid("other"), signal.SIGSTOP)

    house.process.send_signal(signal.SIGTERM)

    assert house.process.wait(timeout=5) == 0
    assert gone(house.pid("listener"))
    assert gone(house.pid("other"))


def test_asked_twice_it_ends_at_once(tmp_path: Path) -> None:
    with started(tmp_path, ("other", "deaf")) as house:
        house.process.send_signal(signal.SIGINT)
        until(lambda: gone(house.pid("listener")), "the end of the one that hears")
        assert house.process.poll() is None

        house.process.send_signal(signal.SIGINT)

        house.process.wait(timeout=2)
        assert gone(house.pid("other"))


def test_a_child_that_is_needed_and_does_not_come_up_ends_all(tmp_path: Path) -> None:
    (tmp_path / "other.fails").touch()

    done = subprocess.run(
        [sys.executable, "-c", HOUSE, str(tmp_path)], stdout=subprocess.PIPE, text=True, timeout=20, check=False
    )

    assert (done.returncode, done.stdout.split()) == (9, ["other", "3"])
    # The other one may have been asked to end before it could say that it lives.
    assert all(gone(pid) for pid, _ in House(tmp_path, None).lives("listener"))
