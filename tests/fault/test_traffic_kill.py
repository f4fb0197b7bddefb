"""Traffic on a bad day: kill -9 at any moment, a disk that is full, fails or loses power; nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from crash_images import images, read_diary
from test_full_disk import small_disk, system
from traffic_workload import APP, NOW, _compact, write

from staytrue.errors import Unavailable
from staytrue.store import frames
from staytrue.store.compaction import compact
from staytrue.store.segment import read_segment, segments, traffic_folder
from staytrue.store.store import Store
from staytrue.store.traffic import Traffic
from staytrue.store.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, LD_PRELOAD and tmpfs")

WORKLOAD = Path(__file__).with_name("traffic_workload.py")
FULL_FOR_GOOD = (errno.ENOSPC, True)
FULL_ONCE = (errno.ENOSPC, False)
FAILS_ONCE = (errno.EIO, False)
LONG = pytest.mark.fault_long


def kept(place: Path) -> list[str]:
    """What a reader finds, as it was acknowledged; a thing that is found twice is in it twice."""
    with closing(Store(place)) as store:
        assert verify(store.objects, store.ledger).problems == []
    return found_in(place)


def found_in(place: Path) -> list[str]:
    with closing(Store(place)) as store:
        found = frames.to_pydict(Traffic(objects=store.objects, ledger=store.ledger, app=APP).to_arrow())
    booking = found.get("booking", [])
    labelled = [key for key, label in zip(booking, found["label"], strict=True) if label is not None]
    return sorted([*(f"prediction {key}" for key in booking), *(f"label {key}" for key in labelled)])


def killed(place: Path, kills: int, seed: int, what: str) -> set[str]:
    command = [sys.executable, str(WORKLOAD), "kill", str(place), str(kills), str(seed), what]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


@pytest.mark.parametrize("kills", [30, pytest.param(500, marks=LONG)])
def test_a_writer_killed_at_any_moment_loses_nothing_that_it_acknowledged(tmp_path: Path, kills: int) -> None:
    acknowledged = killed(tmp_path, kills, 1, "write")

    found = kept(tmp_path)

    assert len(acknowledged) > 10 * kills
    assert acknowledged <= set(found)
    assert len(found) == len(set(found))
    # What is there and was not acknowledged: at most the step that the kill cut short, for each victim.
    assert len(found) - len(acknowledged) <= 2 * kills


@pytest.mark.parametrize("kills", [10, pytest.param(300, marks=LONG)])
def test_a_compaction_killed_at_any_moment_loses_and_doubles_nothing(tmp_path: Path, kills: int) -> None:
    for seed in range(kills // 5):
        acknowledged = killed(tmp_path, 3, seed, "write")
        before = kept(tmp_path)
        assert acknowledged <= set(before)
        killed(tmp_path, 5, seed, "compact")
        assert kept(tmp_path) == before
    with closing(Store(tmp_path)) as store:
        done = compact(store, APP, NOW)
        assert (done.busy, done.damaged) == (False, ())
    assert segments(traffic_folder(tmp_path, APP, "predictions")) == []
    assert kept(tmp_path) == before


@contextlib.contextmanager
def serving(library: Path, place: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """A function that runs one order of traffic_workload.py in a fresh process, on a disk that obeys."""
    command = [sys.executable, str(WORKLOAD), "serve", str(place)]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def order(**fields: Any) -> dict[str, Any]:
            stdin.write(json.dumps(fields) + "\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline())
            assert answer["status"] == 0, "the process died of something that is not our error; see its traceback above"
            return answer

        yield order
        stdin.close()


@pytest.mark.parametrize(
    "fault", [FULL_FOR_GOOD, FULL_ONCE, FAILS_ONCE], ids=["full for good", "full once", "fails once"]
)
@pytest.mark.parametrize(("steps", "stride"), [(3, 31), pytest.param(6, 1, marks=LONG)])
def test_a_failure_at_any_call_loses_nothing_and_is_told(
    failing_io: Path, fast_disk: Path, fault: tuple[int, bool], steps: int, stride: int
) -> None:
    place = (fast_disk / "store").resolve()
    told: Counter[str] = Counter()
    with serving(failing_io, place) as order:
        position, fired = 1, True
        while fired:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            first = order(run="first", steps=steps, fail=[position, *fault])
            assert set(first["acknowledged"]) <= set(kept(place))
            second = order(run="second", steps=steps)
            assert second["errors"] == []
            found = kept(place)
            assert {*first["acknowledged"], *second["acknowledged"]} <= set(found)
            assert len(found) == len(set(found))
            fired = first["fired"] > 0
            told.update(first["errors"])
            position += stride
    assert set(told) <= {"ST402", "ST403", "ST411"}
    assert told.total() > 3
    assert position > 50


@pytest.mark.parametrize("room", [300, *(pytest.param(room, marks=LONG) for room in range(30, 1200, 90))])
def test_a_full_disk_keeps_what_was_acknowledged_and_no_half_of_a_record(tmp_path: Path, room: int) -> None:
    with small_disk(tmp_path / "disk", room) as place:
        acknowledged: list[str] = []
        with pytest.raises(Unavailable, match="ST402"):
            write(place, "first", range(1000), acknowledged.append, commit=False)
        for kind in ("predictions", "labels"):
            for path in segments(traffic_folder(place, APP, kind)):
                found = read_segment(path)
                assert (found.torn_bytes, found.damaged) == (0, ())
        assert system("mount", "-o", "remount,size=64000k", place)
        write(place, "second", range(5), acknowledged.append, commit=False)
        assert set(acknowledged) <= set(kept(place))
        _compact(place)
        assert set(acknowledged) <= set(kept(place))


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=LONG)])
def test_a_power_cut_takes_nothing_that_waited_for_the_disk(failing_io: Path, fast_disk: Path, count: int) -> None:
    place, diary = (fast_disk / "store").resolve(), fast_disk / "diary"
    place.mkdir()
    with serving(failing_io, place) as order:
        assert order(run="only", steps=20, diary=str(diary))["errors"] == []

    assert_cuts_lose_nothing(diary, place, count)


# The first calls, which make the folders, one by one: a name whose sync failed must be synced by whoever comes next.
@pytest.mark.parametrize(
    ("positions", "count"),
    [([*range(1, 13), *range(15, 60, 9)], 30), pytest.param(range(1, 140), 60, marks=LONG)],
    ids=["some", "all"],
)
def test_nothing_is_acknowledged_on_a_sync_that_failed(
    failing_io: Path, fast_disk: Path, positions: Iterable[int], count: int
) -> None:
    place, diary = (fast_disk / "store").resolve(), fast_disk / "diary"
    told: set[str] = set()
    with serving(failing_io, place) as order:
        for position in positions:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            answer = order(run="only", steps=6, diary=str(diary), fail=[position, *FAILS_ONCE])
            told |= set(answer["errors"])
            assert_cuts_lose_nothing(diary, place, count)
    assert "ST403" in told


def assert_cuts_lose_nothing(diary: Path, place: Path, count: int) -> None:
    folder = place.with_name("image")
    for image in images(read_diary(diary, place), count, seed=7):
        shutil.rmtree(folder, ignore_errors=True)
        for path, data in image.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        found = found_in(folder)
        assert image.acknowledged <= set(found)
        assert len(found) == len(set(found))
