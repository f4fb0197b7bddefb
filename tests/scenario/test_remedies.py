"""What follows from an alarm: a champion of before comes back, and people hear what is wrong with the rows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from living import APP, LIVE_FROM, START, Live

from staytrue.engines.process import ProcessPool
from staytrue.kernel.incidents import standing
from staytrue.loop.data import kept_back
from staytrue.loop.replay import replay

TURNS_BACK = (
    APP.replace("6 * (number >= 24)", "6 * (24 <= number < 52)")
    .replace("retrain_cost=20", "retrain_cost=1500")
    .replace("tail(240)", "tail(120)")
)
DOWN = APP.replace("    now = pd", "    if Path('down').exists():\n        raise OSError('no database')\n    now = pd")
FLAWED = APP.replace(
    "    return found", "    if Path('flawed').exists():\n        found['size'] *= 1000\n    return found"
)


@pytest.fixture
def pool(tmp_path):
    with ProcessPool(tmp_path / "jobs") as pool:
        yield pool


def test_when_the_world_turns_back_a_champion_of_before_does_too_without_a_training(tmp_path, pool):
    shop = Live(tmp_path / "shop", pool, text=TURNS_BACK)
    controller = shop.controller()
    promoted = shop.until(controller, "promoted")
    first = shop.roles()["previous"]
    assert controller.life is not None
    look = controller.life.look()
    # What the champion before it has lost of late is no word on this one.
    assert (look["rows"], look["loss"]) == (look["fresh_rows"], look["fresh_loss"])
    restored = shop.until(controller, "restore")
    retrained = len(shop.events("retrain"))

    # Another process goes on in the middle of the trial.
    controller = shop.controller()
    while len(shop.events("promoted")) < 2:
        shop.live(controller, 1)

    assert restored.body["release"] == first != promoted.body["release"]
    assert shop.roles()["champion"] == first
    assert len(shop.events("retrain")) == retrained
    told = replay(shop.ctx, ["payback", "payback restore=false"], since=START + timedelta(days=LIVE_FROM))
    with_it, without = told["policies"]
    assert (with_it["restored"], without["restored"]) == (1, 0)
    assert with_it["retrains"] < without["retrains"]
    lived = [(e.at.isoformat(), e.kind, e.sentence) for e in shop.events()]
    replayed = [(e["at"], e["kind"], e["sentence"]) for e in told["timeline"] if e["policy"] == "payback"]
    assert replayed[: len(lived)] == lived
    shop.ctx.store.close()


def test_a_source_from_which_nothing_comes_is_an_alarm_until_it_is_back(tmp_path, pool):
    shop = Live(tmp_path / "shop", pool, text=DOWN)
    controller = shop.controller()
    shop.live(controller, 1)
    (shop.folder / "down").touch()
    shop.live(controller, 1)
    assert shop.events("alarm") == []  # one window is late, as any may be

    shop.live(controller, 3)
    (opened,) = shop.events("alarm")
    known = [one.cause for one in standing(shop.events())]
    (shop.folder / "down").unlink()
    shop.live(shop.controller(), 1)

    assert (opened.body["alarm"], opened.body["what"]) == ("silence", "sales")
    assert "nothing came from sales since 2026-01-14 00:00 UTC" in opened.sentence
    assert "no database" in opened.sentence
    assert known == ["sales"]
    assert [event.body["state"] for event in shop.events("alarm")] == ["opened", "resolved"]
    assert standing(shop.events()) == []
    shop.ctx.store.close()


def test_a_window_in_quarantine_is_an_alarm_until_the_source_gives_other_rows(tmp_path, pool):
    shop = Live(tmp_path / "shop", pool, text=FLAWED)
    controller = shop.controller()
    shop.live(controller, 2)
    (shop.folder / "flawed").touch()
    shop.live(controller, 2)

    (opened,) = shop.events("alarm")
    assert (opened.body["alarm"], opened.body["what"]) == ("fault", "sales")
    assert "size" in opened.sentence
    assert "1000" in opened.sentence
    assert controller.life is not None
    assert controller.life.look()["alarms"] == ["fault"]
    assert kept_back(shop.ctx.store, "shop") == []  # a window in quarantine is none of the rows that look mislabelled

    (shop.folder / "flawed").unlink()
    shop.live(shop.controller(), 1)

    assert [event.body["state"] for event in shop.events("alarm")] == ["opened", "resolved"]
    shop.ctx.store.close()
