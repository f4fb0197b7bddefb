"""A disk that fills up under a server: it goes on answering and says what it could not write down; labels are refused."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from load import Reply, ask, post
from served import APP, Kept, Up, kept_traffic, predict, until, up
from test_full_disk import small_disk

from staytrue.store.ledger import Entry
from staytrue.store.reserve import disk_of
from staytrue.store.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs tmpfs")

AT_ONCE = 3
"""Labels in a request: all of them are kept, or none."""
SLOW_MS = 700.0


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.fault_long)])
def test_predictions_go_on_and_labels_are_refused_while_the_disk_is_full(tmp_path, kept: Kept, times: int) -> None:
    logged: dict[str, int] = {}
    unlogged: dict[str, int] = {}
    acknowledged: dict[str, float] = {}
    refused: list[list[str]] = []
    with small_disk(tmp_path / "disk", 12_000) as disk:
        store = kept.copied(disk / "store")
        with up(store, says=tmp_path) as server:
            for _ in range(times):
                asking = Asking(server, logged, unlogged, acknowledged, refused)
                asking.predicted(100 * AT_ONCE)  # enough to be labelled while none more are logged
                assert asking.labelled()
                filler = filled(disk)
                # Again and again, since the reserve makes room meanwhile.
                until(
                    lambda asking=asking: filled(disk) and not asking.predicted(20), "an answer that is not in the log"
                )
                until(lambda asking=asking: filled(disk) and not asking.labelled(), "a label that is refused")
                until(lambda: filled(disk) and sheds(server), "a server that logs nothing")
                filler.unlink()
                # One of the slow ones is asked while nothing is logged, and answered when everything is again.
                until(lambda asking=asking: asking.predicted(1, SLOW_MS), "a slow answer that is in the log again")
                until(lambda asking=asking: asking.predicted(20), "answers that are in the log again")
                until(asking.labelled, "labels that are taken again")
            told = server.stderr()
        found = kept_traffic(store)

    print(
        f"{len(logged)} logged, {len(unlogged)} not; {len(acknowledged)} labels taken, {AT_ONCE * len(refused)} refused"
    )
    assert "Traceback" not in told, told
    assert logged.keys() <= found.keys()
    assert not unlogged.keys() & found.keys()
    assert {id_: found[id_][1] for id_ in acknowledged} == acknowledged
    assert [ids for ids in refused if len({found[id_][1] is None for id_ in ids}) != 1] == [], "half there"


class Asking:
    """Predictions and labels, and what became of them."""

    def __init__(self, server: Up, logged, unlogged, acknowledged, refused) -> None:
        self._server, self._logged, self._unlogged = server, logged, unlogged
        self._acknowledged, self._refused = acknowledged, refused
        self._ready: list[str] = []

    def predicted(self, count: int, ms: float = 0.0) -> bool:
        """Whether all of so many answers are in the log; every one is right."""
        all_logged = True
        for number in range(count):
            got = ask(self._server.port, predict(number, ms))
            assert got.status == 200, got.body
            said = json.loads(got.body)
            assert said["predictions"][0] - number in {0.25, 0.5}
            is_logged = "staytrue-logged" not in got.headers
            assert is_logged or got.headers["staytrue-logged"] == "false"
            (self._logged if is_logged else self._unlogged)[said["ids"][0]] = number
            if is_logged:
                self._ready.append(said["ids"][0])
            all_logged &= is_logged
        return all_logged

    def labelled(self) -> bool:
        """Whether labels of predictions in the log were taken."""
        if len(self._ready) < AT_ONCE:
            assert self.predicted(AT_ONCE)
        ids, self._ready = self._ready[:AT_ONCE], self._ready[AT_ONCE:]
        labels = [{"id": id_, "label": float(place)} for place, id_ in enumerate(ids)]
        got: Reply = ask(self._server.port, post("/labels", json.dumps({"labels": labels}).encode()))
        if got.status == 200:
            self._acknowledged.update((label["id"], label["label"]) for label in labels)
            return True
        assert got.status == 503, got.body
        assert "retry-after" in got.headers
        self._refused.append(ids)
        # Some of them were logged before the disk was full; they may be labelled later.
        return False


def sheds(server: Up) -> bool:
    """Whether it logs nothing, the disk being full as it knows."""
    said = ask(server.port, post("/labels", b'{"labels":[]}'))
    return said.status == 503 and json.loads(said.body)["code"] == "ST824"


def filled(disk: Path) -> Path:
    """A file that takes all the room there is."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with filler.open("ab", buffering=0) as file, pytest.raises(OSError) as caught:
        file.write(bytes(4096))
    assert caught.value.errno == errno.ENOSPC
    return filler


def test_the_reserve_keeps_room_for_the_ledger_and_comes_back(tmp_path, kept: Kept) -> None:
    with small_disk(tmp_path / "disk", 96_000) as disk:
        store = kept.copied(disk / "store")
        with up(store, says=tmp_path) as server:
            until(lambda: disk_of(store).held_bytes, "a reserve")
            filler = filled(disk)
            opened = until(lambda: alarms(store), "an alarm, written on a disk that was full")
            low = disk_of(store)

            more = filled_up_to(disk, low.reserve_bytes // 4)
            until(lambda: answered(server)[0] is False, "an answer that says that it is not in the log")
            _, labels = answered(server)
            appended = note(store)

            filler.unlink()
            more.unlink()
            until(lambda: len(alarms(store)) > 1, "the alarm to be resolved")
            until(lambda: answered(server) == (True, "200"), "predictions in the log and labels taken again")
            until(lambda: disk_of(store).held_bytes, "the reserve made again")
            told, story = server.stderr(), alarms(store)

    assert "Traceback" not in told, told
    assert (low.state, low.held_bytes) == ("low", 0)
    assert labels == "503 ST824"
    assert appended
    assert [one["state"] for one in story] == ["opened", "resolved"]
    assert story[:1] == opened


def alarms(store: Path) -> list[dict]:
    """What the ledger says of the disk."""
    kept_store = Store(store)
    with contextlib.closing(kept_store.ledger) as ledger:
        return [event.body for event in ledger.events(kinds=["alarm"]) if event.body["what"] == "disk"]


def note(store: Path) -> bool:
    """Whether the ledger takes an event."""
    now = datetime.now(UTC)
    with contextlib.closing(Store(store).ledger) as ledger:
        return bool(
            ledger.append([Entry(app=APP, key="full", at=now, kind="note", sentence="Written.")], recorded_at=now)
        )


def answered(server: Up) -> tuple[bool, str]:
    """Whether an answer is in the log, and what became of its label."""
    got = ask(server.port, predict(7))
    assert got.status == 200, got.body
    label = {"id": json.loads(got.body)["ids"][0], "label": 1.0}
    said = ask(server.port, post("/labels", json.dumps({"labels": [label]}).encode()))
    code = "" if said.status == 200 else f" {json.loads(said.body)['code']}"
    return "staytrue-logged" not in got.headers, f"{said.status}{code}"


def filled_up_to(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes."""
    more = disk / "more"
    more.write_bytes(bytes(shutil.disk_usage(disk).free - left))
    return more
