"""A process that logs traffic on a disk that may fail, or until it is killed: what test_traffic_kill.py starts.

`serve STORE` reads one JSON order per line and runs each in a fork, so that libraries load only once:
    {"run": name, "steps", "fail": [n, errno, forever] or null, "diary": path or null}
and answers with one JSON line: {"acknowledged": [...], "error": code or null, "fired": calls that failed, "status"}.

`kill STORE KILLS SEED WHAT` forks as many victims one after the other, kills each with signal 9 at a random moment, and prints
all that they acknowledged. WHAT: `write` predictions and labels, or `compact`.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import signal
import sys
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staytrue.errors import StaytrueError
from staytrue.store.block import Layout
from staytrue.store.compaction import compact
from staytrue.store.labels import Label, Labels
from staytrue.store.records import pack_answers, pack_body
from staytrue.store.segment import SegmentWriter, Syncer, traffic_folder
from staytrue.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

APP = "rates"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
NOW_US = int(NOW.timestamp() * 1_000_000)
COLUMNS = (("booking", "string"), ("text", "string"))
LAYOUT = Layout(COLUMNS)
HEADER = {"kind": "predictions", "app": APP, "release": "a" * 64, "columns": COLUMNS, "key": "booking", "time": None}
LIMIT_BYTES = 30_000


def log(store: Path) -> SegmentWriter:
    return SegmentWriter(traffic_folder(store, APP, "predictions"), HEADER, limit_bytes=LIMIT_BYTES)


def prediction(run: str, step: int) -> tuple[bytes, bytes]:
    """A record of one row, of very different sizes."""
    source = random.Random(step)
    size = source.choice([0, 10, 2000, 100_000])
    block = LAYOUT.block({"booking": [f"{run}-{step}"], "text": ["x" * size]}).pack()
    number = (NOW_US // 1000) << 80 | 0x7 << 76 | 0b10 << 62 | random.Random(f"{run}-{step}").getrandbits(60)
    request = (number.to_bytes(16, "big"), 1)
    return pack_body(seq=step, at_us=NOW_US, arm="champion", block=block, requests=[request]), pack_answers([b"[1]"])


def label(run: str, step: int) -> Label:
    return Label(id=None, key=f"{run}-{step}", label=step, at_us=NOW_US, got_us=NOW_US)


def write(store: Path, run: str, steps: range, acknowledge: Callable[[str], None], *, commit: bool) -> None:
    """Predictions, acknowledged when written (or with `commit` when on disk), each followed by its label."""
    with log(store) as writer, Labels(store, APP, limit_bytes=LIMIT_BYTES) as labels, Syncer(writer):
        for step in steps:
            ticket = writer.append(*prediction(run, step))
            if commit:
                writer.commit(ticket)
            acknowledge(f"prediction {run}-{step}")
            labels.add([label(run, step)])
            acknowledge(f"label {run}-{step}")


# -- a disk that obeys orders -----------------------------------------------------------------------------------------


def _serve(store: Path) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(readable)
            with os.fdopen(writable, "w") as out:
                json.dump(_obey(store, order), out)
            os._exit(0)
        os.close(writable)
        with os.fdopen(readable) as answer:
            text = answer.read()
        _, status = os.waitpid(child, 0)
        print(json.dumps({**json.loads(text or "{}"), "status": status}), flush=True)


def _obey(store: Path, order: dict[str, Any]) -> dict[str, Any]:
    disk = ctypes.CDLL(None)
    disk.io_below(os.fsencode(store))
    acknowledged: list[str] = []
    acknowledge = acknowledged.append
    if order.get("diary"):
        disk.io_record(os.fsencode(order["diary"]))
        acknowledge = _note_in(store / "acknowledged")
    if order.get("fail"):
        disk.io_fail(*order["fail"])
    errors = []
    # One after the other, each with what the last one left: a failure in one must not keep the others from trying.
    for half in range(2):
        steps = range(half * order["steps"], (half + 1) * order["steps"])
        for work in (
            lambda steps=steps: write(store, order["run"], steps, acknowledge, commit=True),
            lambda: _compact(store),
        ):
            try:
                work()
            except StaytrueError as exc:
                errors.append(exc.code)
    return {"acknowledged": acknowledged, "errors": errors, "fired": disk.io_fired()}


def _compact(store: Path) -> None:
    with closing(Store(store)) as opened:
        compact(opened, APP, NOW, set_bytes=LIMIT_BYTES)


def _note_in(path: Path) -> Callable[[str], None]:
    """Acknowledgements as writes to a file on the recorded disk: so the diary knows when each one was given."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)

    def acknowledge(line: str) -> None:
        # The call that fails may be this one: then nobody was told.
        with suppress(OSError):
            os.write(descriptor, f"{line}\n".encode())

    return acknowledge


# -- kill -9 ----------------------------------------------------------------------------------------------------------


def _kill(store: Path, kills: int, seed: int, what: str) -> None:
    source = random.Random(seed)
    for number in range(kills):
        readable, writable = os.pipe()
        victim = os.fork()
        if victim == 0:
            os.close(readable)
            # Dies as whoever forgot to close anything does, if it is not killed before.
            with suppress(StaytrueError):
                _live(store, f"{what}{seed}.{number}", what, writable)
            os._exit(0)
        os.close(writable)
        acknowledged = _until(readable, source.randrange(1, 60) if what == "write" else 1)
        # Not a wait for anything: the moment of the kill is what is random.
        threading.Event().wait(source.random() * (0.01 if what == "write" else 0.15))
        os.kill(victim, signal.SIGKILL)
        with os.fdopen(readable, "rb") as rest:
            acknowledged += rest.read()
        os.waitpid(victim, 0)
        # The last line may be cut: then nobody was told.
        sys.stdout.write(acknowledged[: acknowledged.rfind(b"\n") + 1].decode())
    sys.stdout.flush()


def _live(store: Path, run: str, what: str, descriptor: int) -> None:
    def acknowledge(line: str) -> None:
        os.write(descriptor, f"{line}\n".encode())

    if what == "write":
        write(store, run, range(10**9), acknowledge, commit=False)
    acknowledge("begun")
    _compact(store)


def _until(readable: int, lines: int) -> bytes:
    found = b""
    deadline = time.monotonic() + 60
    while found.count(b"\n") < lines:
        assert select.select([readable], [], [], max(0.0, deadline - time.monotonic()))[0], "the victim said nothing"
        more = os.read(readable, 1 << 16)
        assert more, "the victim ended by itself"
        found += more
    return found


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(Path(sys.argv[2]))
    else:
        _kill(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
