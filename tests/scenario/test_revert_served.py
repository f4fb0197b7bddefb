"""Reverts and undoings while people ask: nobody is refused, and a release that is warm answers within a second."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from server import ROW, SHOP, Server, serving, until
from test_service_life import ROW as BOUGHT
from test_service_life import TILL
from test_serving_releases import QUOTE, Asking

from staytrue.loop.lease import alive
from staytrue.store.ledger import LIVE, Entry, RoleChange

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a server needs fork")

TRAINED = 'return np.polyfit(sales["size"], sales["rate"], 1).tolist()'


class Timed(Asking):
    """Requests, and when each answer came, by which release."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.came: list[tuple[float, str]] = []

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                got = self.server.predict(ROW)
            except OSError as exc:
                self.failures.append(repr(exc))
                continue
            if got.status != 200:
                self.failures.append(str(got))
            self.answers.append(got.json)
            self.came.append((time.time(), got.release))

    def first(self, release: str, since: float) -> float:
        """When this release first answered after that time."""
        return until(
            lambda: next((at for at, by in list(self.came) if at >= since and by == release), None), f"{release[:8]}"
        )


def taken(shop: Any, asking: Timed, *verb: str) -> tuple[str, float, float]:
    """Run a verb that changes the champion: who answers now, seconds from the event and from the command to its first answer."""
    began = time.time()
    said = shop.run(*verb)
    assert said.code == 0, said.err
    kind = "undone" if verb[0] == "undo" else "reverted"
    event = shop.events(kind)[-1]
    recorded = datetime.fromisoformat(event["recorded_at"]).timestamp()
    release = event["body"]["release"]
    effect = asking.first(release, recorded)
    return release, effect - recorded, effect - began


@pytest.fixture
def two(served):
    """(shop, old, new): between them what is trained, what answers and the rows are others."""
    old = served.champion()
    served.write(SHOP.replace(TRAINED, "return [3.5, 19.5]").replace(QUOTE, QUOTE + " + 1"))
    fetched = served.run("fetch", "--until", "2026-01-13")
    trained = served.run("train", "--now")
    assert (fetched.code, trained.code) == (0, 0), fetched.err + trained.err
    return served, old, trained.document["delivered"]["release"]


def test_a_revert_of_each_axis_refuses_nobody_and_one_that_is_warm_answers_within_a_second(two) -> None:
    shop, old, new = two
    took: dict[str, tuple[float, float, float, float]] = {}
    with serving(shop.store_path) as server, Timed(server) as asking:
        for axis in ("code", "data", "model", "all"):
            asking.more(10)
            # A mixture that never was: its worker has to start, and the champion answers until it is there.
            made, cold, cold_all = taken(shop, asking, "revert", f"--{axis}", "--now", old)
            asking.more(10)
            back, warm, warm_all = taken(shop, asking, "revert", f"--{axis}", "--now", new)
            took[axis] = (cold, cold_all, warm, warm_all)
            assert back == new
            assert (made == old) == (axis == "all")
        asking.more(10)

    for axis, seconds in took.items():
        print(  # noqa: T201 - figures
            f"revert --{axis}: cold {seconds[0]:.2f} s ({seconds[1]:.2f}), warm {seconds[2]:.2f} s ({seconds[3]:.2f})"
        )
    assert asking.failures == []
    assert len({by for _, by in asking.came}) >= 4
    assert max(warm for _, _, warm, _ in took.values()) < 1.0


def test_an_undoing_refuses_nobody_and_answers_within_a_second(two) -> None:
    shop, old, new = two
    _promoted_by_the_loop(shop, old, new)
    with serving(shop.store_path) as server, Timed(server) as asking:
        asking.more(10)
        until(lambda: len(server.lanes()) == 2, "both are warm")
        release, took, took_all = taken(shop, asking, "undo")
        asking.more(10)
        again, redone, _ = taken(shop, asking, "undo", shop.events("undone")[-1]["id"])
        asking.more(10)

    print(f"undo: {took:.2f} s ({took_all:.2f}), and undone: {redone:.2f} s")  # noqa: T201 - figures
    assert (release, again) == (old, new)
    assert asking.failures == []
    assert max(took, redone) < 1.0


def _promoted_by_the_loop(shop: Any, old: str, new: str) -> None:
    """As a controller tells of it."""
    store = shop.store
    epochs = {role.role: role.epoch for role in store.ledger.roles("shop", LIVE)}
    changes = [
        RoleChange(role=name, release=release, share=share, expect_epoch=epochs.get(name, 0))
        for name, release, share in (("champion", new, 1.0), ("previous", old, 0.0))
    ]
    entry = Entry(
        app="shop",
        key="loop:1",
        at=datetime.now(UTC),
        kind="promoted",
        sentence=f"Release {new[:8]} is champion: it is better.",
        body={"policy": "payback", "release": new, "evidence": {}},
        roles=tuple(changes),
    )
    store.ledger.append([entry], recorded_at=entry.at)
    store.close()


def test_a_service_takes_old_code_back_through_its_canary_while_the_loop_lives(shop) -> None:
    shop.write(TILL.replace('app = App("shop")', 'app = App("shop")\napp.policy(trial="shadow:20, canary:40%:60%")'))
    first = shop.run("deploy").document["delivered"]["release"]
    shop.edit("* 1.0 for", "* 2.0 for")
    assert shop.run("deploy", "--now").document["delivered"]["promoted"]
    with serving(shop.store_path, "--app", str(shop.folder / "app.py"), "--no-follow") as server:
        until(lambda: alive(shop.store_path, "shop"), "a controller")
        shop.write("this is no Python(")

        said = shop.run("revert", "--code", first)
        until(lambda: server.predict(*[BOUGHT] * 10).status == 200 and shop.champion() == first, "the old code")

        assert said.document["delivered"]["verdict"] == "ordered"
        until(lambda: server.predict(BOUGHT).json["predictions"] == [6.0], "its answers")
    kinds = [event["kind"] for event in shop.events() if event["timeline"] == "live"]
    assert kinds[-5:] == ["backtest", "shadow", "canary", "canary", "promoted"]
