"""Batch scoring on a bad day: kill -9 of any process at any moment, a full disk; each row once, and no half an output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_full_disk import small_disk, system

from staytrue import testing
from staytrue.errors import Unavailable
from staytrue.store import frames
from staytrue.store.pieces import ANSWER, Pieces

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, /proc and tmpfs")

LONG = pytest.mark.fault_long
STEPS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir", "fcntl.flock"})
"""What the interpreter tells of as it changes the disk, before it does."""
DEADLINE_S = 120.0

# ---------------------------------------------------------------- pieces alone, at every step


def write(out: Path, *, restart: bool) -> None:
    """Thirty rows in ten pieces, from wherever an earlier try got to."""
    with Pieces(out, {"input": "thirty"}, restart=restart) as pieces:
        while not pieces.finished and pieces.done < 30:
            begin = pieces.done
            rows = {"id": list(range(begin, begin + 3)), ANSWER: [float(i) for i in range(begin, begin + 3)]}
            pieces.add(frames.to_rows(rows, doing="test"), {"json": False})
        if not pieces.finished:
            pieces.finish(frames.no_rows((("id", "int64"), (ANSWER, "float64"))), {})
        pieces.clear()


def killed_at(step: int, out: Path, *, restart: bool) -> bool:
    """Whether a child that writes `out` was killed before its step of that number; else it got to the end."""
    child = os.fork()
    if not child:
        left = step

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            # Of what the child opens only the files at stake count, not a module that it imports.
            if event in STEPS and str(out.parent) in str(arguments[0] if event != "fcntl.flock" else out.parent):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        code = 1
        try:
            write(out, restart=restart)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) in {0, -signal.SIGKILL}
    return os.waitstatus_to_exitcode(status) != 0


@pytest.mark.parametrize("restart", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=LONG)])
def test_a_kill_at_any_step_leaves_an_output_that_is_whole_or_not_there(fast_disk, stride, restart):
    step, killed = 1, True
    while killed:
        folder = fast_disk / str(step)
        folder.mkdir()
        out = folder / "out.parquet"
        if restart:
            pq.write_table(pa.table({"id": [-1]}), out)
        killed = killed_at(step, out, restart=restart)
        ids = pq.read_table(out).column("id").to_pylist() if out.exists() else None
        assert ids in ([None, list(range(30))] if not restart else [[-1], list(range(30))])
        # Before the manifest was there the flag is still needed; afterwards it would throw pieces away.
        began = (folder / "out.parquet.part" / "manifest.json").exists()
        over = ids is not None and len(ids) == 30 and not began
        if not over:
            write(out, restart=restart and not began)

        assert pq.read_table(out).column("id").to_pylist() == list(range(30))
        assert pq.read_table(out).column(ANSWER).to_pylist() == [float(i) for i in range(30)]
        assert [entry.name for entry in folder.iterdir() if not over] in ([], ["out.parquet"])
        step += stride
    assert step > 60


def test_kills_one_after_the_other_always_get_further(fast_disk):
    out = fast_disk / "out.parquet"
    tries = 0
    # Thirty steps are a start, and some pieces; joining them is one stretch, which takes longer than that.
    while killed_at(30 + 3 * tries, out, restart=False):
        tries += 1
        assert tries < 50
    assert tries >= 3
    assert pq.read_table(out).column("id").to_pylist() == list(range(30))


@pytest.mark.parametrize("room", [40, *(pytest.param(room, marks=LONG) for room in range(8, 48, 4))])
def test_a_full_disk_is_told_and_the_same_call_goes_on_when_there_is_room(tmp_path, room):
    with small_disk(tmp_path / "disk", room) as place:
        out = place / "out.parquet"
        with pytest.raises(Unavailable, match="ST402"):
            write(out, restart=False)
        assert not out.exists()
        assert system("mount", "-o", "remount,size=64000k", place)

        write(out, restart=False)

        assert pq.read_table(out).column("id").to_pylist() == list(range(30))


# ---------------------------------------------------------------- the verb, with its processes

ROWS, CHUNK = 6_000, 100


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A store with a champion, and rows for it."""
    folder = tmp_path_factory.mktemp("predict")
    app = folder / "app.py"
    app.write_text(Path(__file__).with_name("prices.py").read_text())
    with testing.bench(app, folder) as bench:
        bench.fetch("2026-01-01", "2026-01-31")
        bench.train()
        table = bench.store.table(next(iter(bench.app.sources))).to_arrow()
        label = bench.app.labelled.spec.label
    rows = pa.table(frames.drop(table, [label]))
    rows = pa.concat_tables([rows] * (ROWS // rows.num_rows + 1)).slice(0, ROWS)
    pq.write_table(rows.append_column("number", pa.array(range(ROWS))), folder / "in.parquet")
    return folder


def started(place: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [
        "predict",
        place / "in.parquet",
        out,
        "--store",
        place / "store",
        "--chunk-rows",
        CHUNK,
        "--keep",
        "number",
    ]
    return subprocess.Popen([sys.executable, "-m", "staytrue", *map(str, command)], stdout=subprocess.DEVNULL)


def finished(place: Path, out: Path) -> list[Any]:
    """The predictions, after as many calls as it takes: one."""
    assert started(place, out).wait(DEADLINE_S) == 0
    table = pq.read_table(out)
    assert table.column("number").to_pylist() == list(range(ROWS))
    assert not out.with_name(f"{out.name}.part").exists()
    return table.column("prediction").to_pylist()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def pieces_there(out: Path) -> int:
    return len(list(out.with_name(f"{out.name}.part").glob("rows-*.parquet")))


def children(pid: int) -> list[int]:
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    direct = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [each for child in direct for each in (child, *children(child))]


def commands(pids: list[int]) -> dict[int, str]:
    return {pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in pids}


@pytest.fixture(scope="module")
def answers(place) -> list[Any]:
    """What comes out when nobody is killed."""
    return finished(place, place / "quiet.parquet")


@pytest.mark.parametrize("pieces", [1, 25, *(pytest.param(n, marks=LONG) for n in range(2, 60, 3))])
def test_a_killed_verb_goes_on_and_gives_each_row_once(place, answers, tmp_path, pieces):
    out = tmp_path / "out.parquet"
    process = started(place, out)
    wait_for(lambda: pieces_there(out) >= pieces)
    left = children(process.pid)

    process.kill()
    process.wait()

    assert not out.exists()
    assert pieces_there(out) >= pieces
    wait_for(lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in left))  # nobody outlives it
    assert finished(place, out) == answers


def test_ctrl_c_ends_all_processes_and_the_same_call_goes_on(place, answers, tmp_path):
    out = tmp_path / "out.parquet"
    process = started(place, out)
    wait_for(lambda: pieces_there(out) >= 3)
    left = children(process.pid)

    process.send_signal(signal.SIGINT)

    assert process.wait(DEADLINE_S) == 130
    wait_for(lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in left))
    assert finished(place, out) == answers


@pytest.mark.parametrize("which", ["worker", "lane"])
def test_a_killed_worker_or_lane_is_replaced(place, answers, tmp_path, which):
    out = tmp_path / "out.parquet"
    process = started(place, out)
    wait_for(lambda: pieces_there(out) >= 3)
    workers = [pid for pid, command in commands(children(process.pid)).items() if "serve.worker" in command]

    os.kill(workers[0] if which == "worker" else workers[-1], signal.SIGKILL)

    assert process.wait(DEADLINE_S) == 0
    table = pq.read_table(out)
    assert table.column("number").to_pylist() == list(range(ROWS))
    assert table.column("prediction").to_pylist() == answers


def test_another_input_under_the_same_name_is_a_conflict(place, tmp_path):
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pq.read_table(place / "in.parquet"), source)
    here = tmp_path / "place"
    here.mkdir()
    (here / "store").symlink_to(place / "store")
    (here / "in.parquet").symlink_to(source)
    process = started(here, out)
    wait_for(lambda: pieces_there(out) >= 2)
    process.kill()
    process.wait()
    pq.write_table(pq.read_table(source).slice(0, ROWS - 1), source)

    again = started(here, out)

    assert again.wait(DEADLINE_S) == 4
    assert not out.exists()
    assert np.all([path.exists() for path in (out.with_name("out.parquet.part"), source)])
