"""A process that uses a store on a disk that may fail: what the fault tests start.

`python workload.py serve` reads one JSON order per line and runs each in a fork, so that libraries load only once:
    {"store", "steps", "fail": [n, errno, forever] or null, "diary": path or null, "synchronous", "pages"}
and answers with one JSON line: {"acknowledged": [...], "error": code or null, "fired": calls that failed, "status"}.

`python workload.py loop STORE NAME` puts and appends until it is killed and prints a line for each acknowledgement.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import random
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Pool
from sqlalchemy import event as hooks

from staytrue.errors import Conflict, StaytrueError
from staytrue.store.ledger import Entry, Ledger, Ref, RoleChange
from staytrue.store.objects import LocalObjects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def content(step: int) -> bytes:
    """The same bytes for the same step, of very different sizes."""
    source = random.Random(step)
    return source.randbytes(source.choice([0, 10, 700, 5000, 20_000]))


def one_step(objects: LocalObjects, ledger: Ledger, app: str, step: int, acknowledge: Callable[[str], None]) -> None:
    """Put an object and its document, then make it the champion's in one append of two events."""
    part = objects.put(content(step))
    acknowledge(f"object {part}")
    document = objects.put_document({"kind": "release", "part": part, "app": app, "step": step})
    acknowledge(f"object {document}")
    role = ledger.role(app, "live", "champion")
    change = RoleChange(role="champion", release=f"r{step}", share=1.0, expect_epoch=role.epoch if role else 0)
    ref = Ref(kind="release", name=f"r{step}", digest=document)
    made = Entry(app=app, key=f"made {step}", at=NOW, kind="made", sentence="Made it.", refs=(ref,))
    promoted = Entry(app=app, key=f"promoted {step}", at=NOW, kind="promoted", sentence="x" * 500, roles=(change,))
    for event in ledger.append([made, promoted], recorded_at=NOW):
        acknowledge(f"event {event.app} {event.key}")


def run(store: Path, steps: int, acknowledge: Callable[[str], None]) -> None:
    """So many steps, with the ledger closed and opened again on the way: both touch the files."""
    objects = LocalObjects(store)
    for half in (range(steps * 3 // 4), range(steps * 3 // 4, steps)):
        ledger = Ledger.open(store / "ledger.db")
        for step in half:
            one_step(objects, ledger, "rates", step, acknowledge)
        ledger.close()


def _serve() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(readable)
            with os.fdopen(writable, "w") as out:
                json.dump(_obey(order), out)
            os._exit(0)
        os.close(writable)
        with os.fdopen(readable) as answer:
            text = answer.read()
        _, status = os.waitpid(child, 0)
        print(json.dumps({**json.loads(text or "{}"), "status": status}), flush=True)


def _obey(order: dict[str, Any]) -> dict[str, Any]:
    store = Path(order["store"])
    hooks.listen(Pool, "checkout", lambda connection, *_: _tune(connection, order))
    disk = ctypes.CDLL(None)
    disk.io_below(os.fsencode(store))
    acknowledged: list[str] = []
    acknowledge = acknowledged.append
    if order.get("diary"):
        disk.io_record(os.fsencode(order["diary"]))
        acknowledge = _note_in(store / "acknowledged")
    if order.get("fail"):
        disk.io_fail(*order["fail"])
    error = None
    try:
        run(store, order["steps"], acknowledge)
    except StaytrueError as exc:
        error = str(exc)
    return {"acknowledged": acknowledged, "error": error, "fired": disk.io_fired()}


def _tune(connection: Any, order: dict[str, Any]) -> None:
    """Checkpoints often, so that they are seen too; and, as a control, waits for the disk less than the ledger asks."""
    connection.execute(f"PRAGMA wal_autocheckpoint={order.get('pages', 1000)}")
    if order.get("synchronous"):
        connection.execute(f"PRAGMA synchronous={order['synchronous']}")


def _note_in(path: Path) -> Callable[[str], None]:
    """Acknowledgements as writes to a file on the recorded disk: so the diary knows when each one was given."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)

    def acknowledge(line: str) -> None:
        os.write(descriptor, f"{line}\n".encode())

    return acknowledge


def _loop(store: Path, name: str) -> None:
    def acknowledge(line: str) -> None:
        print(line, flush=True)

    objects, ledger = LocalObjects(store), Ledger.open(store / "ledger.db")
    for step in _fresh(ledger, name):
        one_step(objects, ledger, name, step, acknowledge)
        _contend(ledger, name, step)


def _contend(ledger: Ledger, name: str, step: int) -> None:
    """Both processes want this one role: the loser must be told."""
    role = ledger.role("shared", "live", "champion")
    change = RoleChange(role="champion", release=name, share=1.0, expect_epoch=role.epoch if role else 0)
    entry = Entry(app="shared", key=f"{name} {step}", at=NOW, kind="promoted", sentence="", roles=(change,))
    try:
        ledger.append([entry], recorded_at=NOW)
    except Conflict:
        return


def _fresh(ledger: Ledger, name: str) -> Iterator[int]:
    return itertools.count(len(ledger.events(name, kinds=["made"])))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve()
    else:
        _loop(Path(sys.argv[2]), sys.argv[3])
