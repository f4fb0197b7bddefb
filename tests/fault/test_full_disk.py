"""The whole command line on a disk that is full or failing: it says so, and the same command goes on when there is room again."""

from __future__ import annotations

import contextlib
import errno
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from orders import FETCH, REPLAY, TRAIN, Done, Witness, run

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD, tmpfs and /proc")

FULL_FOR_GOOD = (errno.ENOSPC, True)
FAILS_ONCE = (errno.EIO, False)
UNAVAILABLE = 5
LAUNCHER = "staytrue.engines.launcher"
LONG = pytest.mark.fault_long


@pytest.fixture
def fetched(prices: Path, fast_disk: Path) -> Path:
    """A store with nothing but its rows."""
    run(prices, fast_disk / "fetched", FETCH).well()
    return fast_disk / "fetched"


@pytest.mark.parametrize(
    ("verb", "fault", "only", "growth"),
    [
        # `growth`: from each position that fails to the next; the first ones, one by one, are the most different.
        pytest.param(TRAIN, FULL_FOR_GOOD, "", 40, id="train, full"),
        pytest.param(TRAIN, FAILS_ONCE, LAUNCHER, 6, id="train, its jobs fail once"),
        pytest.param(FETCH, FULL_FOR_GOOD, "", 1.9, id="fetch, full, long", marks=LONG),
        pytest.param(TRAIN, FULL_FOR_GOOD, "", 1.4, id="train, full, long", marks=LONG),
        pytest.param(TRAIN, FAILS_ONCE, "", 1.4, id="train, fails once, long", marks=LONG),
        pytest.param(REPLAY, FULL_FOR_GOOD, "", 1.4, id="replay, full, long", marks=LONG),
        pytest.param(REPLAY, FAILS_ONCE, "", 1.4, id="replay, fails once, long", marks=LONG),
        pytest.param(REPLAY, FULL_FOR_GOOD, LAUNCHER, 1.2, id="replay, its jobs find it full, long", marks=LONG),
        pytest.param(REPLAY, FAILS_ONCE, LAUNCHER, 1.2, id="replay, its jobs fail once, long", marks=LONG),
    ],
)
def test_a_failure_at_any_call_is_told_and_the_command_goes_on_later(
    *, failing_io: Path, prices: Path, fetched: Path, verb: tuple[str, ...], fault: tuple[int, bool], only: str, growth: float
) -> None:  # fmt: skip
    expected = result(run(prices, Path(shutil.copytree(fetched, fetched.with_name("well"))), verb).well())
    told: Counter[str] = Counter()
    position, fired = 1, True
    while fired:
        store = Path(shutil.copytree(fetched, fetched.with_name(f"failing-{position}"), dirs_exist_ok=True))
        if verb is FETCH:
            shutil.rmtree(store)  # the making of a store is a part of this one
        witness = Witness(store)
        mark = store.with_name("fired")
        mark.unlink(missing_ok=True)
        order = "\t".join([str(store), str(position), str(fault[0]), str(int(fault[1])), str(mark), only])
        first = run(prices, store, verb, LD_PRELOAD=str(failing_io), FAILING_IO=order)
        fired = mark.exists()
        assert_told(first)
        told[first.code] += fired
        if store.exists():
            witness.look()
        second = run(prices, store, verb).well()
        witness.look()
        witness.heard(second)
        assert result(second) == expected
        shutil.rmtree(store)
        position = max(position + 1, int(position * growth))
    # Some failures can be done without (a checkpoint comes later, remembered answers are a convenience); most are told.
    assert told.total() > 2 * told[""]


def result(done: Done) -> object:
    """What must be the same however often it was begun."""
    if done.verb == "replay":
        return done.timeline
    document = done.document
    return document["fetched"][0]["table"] if done.verb == "fetch" else document["model"]


def assert_told(done: Done) -> None:
    assert "Traceback" not in done.err, done.err
    if done.exit_code != 0:
        assert done.exit_code == UNAVAILABLE, done.err
        assert done.code.startswith("ST"), done.out
        assert done.code in done.err


@contextlib.contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own, with so much room."""
    place.mkdir()
    if not system("mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "staytrue-test", place):
        pytest.skip("mounting a small tmpfs is not allowed here (it takes root)")
    try:
        yield place
    finally:
        assert system("umount", "--lazy", place)


def system(tool: str, *arguments: str | Path) -> bool:
    """Whether a tool of the system is there and did what it was asked."""
    found = shutil.which(tool)
    return found is not None and subprocess.run([found, *arguments], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("room", [1800, *(pytest.param(room, marks=LONG) for room in range(60, 2500, 160))])
def test_a_replay_on_a_disk_too_small_goes_on_when_there_is_room(tmp_path: Path, prices: Path, room: int) -> None:
    with small_disk(tmp_path / "disk", room) as disk:
        store = disk / "store"
        witness = Witness(store)
        story: list[Done] = []
        for verb in (FETCH, REPLAY):
            done = run(prices, store, verb)
            assert_told(done)
            if done.exit_code != 0:
                assert system("mount", "-o", "remount,size=64000k", disk)
                witness.look()
                story.append(done)
                done = run(prices, store, verb).well()
            witness.look()
            witness.heard(done)
        assert story, "there was room enough: nothing was shown"
