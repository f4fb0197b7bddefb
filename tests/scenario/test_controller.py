"""The controller: what a replay does on the past, done now; orders, guards, a lease that changes hands."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from living import LIVE_FROM, START, UNTIL, Live

from staytrue.engines.process import ProcessPool
from staytrue.errors import Conflict
from staytrue.kernel.release import Digest
from staytrue.loop.fetch import fetch
from staytrue.loop.lease import FileBeats, Tenancy, held
from staytrue.loop.losses import losses
from staytrue.loop.replay import replay
from staytrue.store.ledger import LIVE, Entry, Event, RoleChange


@pytest.fixture
def pool(tmp_path):
    with ProcessPool(tmp_path / "jobs") as pool:
        yield pool


@pytest.fixture
def shop(tmp_path, pool):
    made = Live(tmp_path / "shop", pool)
    yield made
    made.ctx.store.close()


@pytest.fixture
def careful(tmp_path, pool):
    """The same app, in which a person has to approve."""
    made = Live(tmp_path / "careful", pool, settings=', approve=True, approve_within="3d"')
    yield made
    made.ctx.store.close()


def story(events: list[Any]) -> list[tuple[Any, ...]]:
    if events and isinstance(events[0], Event):
        return [(e.at.isoformat(), e.kind, e.sentence, e.body["evidence"]) for e in events]
    return [(e["at"], e["kind"], e["sentence"], e["evidence"]) for e in events if e["kind"] != "looked"]


def test_what_happens_live_is_what_a_replay_of_the_same_rows_says(shop):
    first = shop.controller()
    shop.live(first, 20)
    # Another process goes on, with nothing but what the ledger remembers; it missed three days.
    shop._set(shop.now + timedelta(days=3))
    shop.live(shop.controller(), UNTIL - LIVE_FROM - 23)

    told = replay(shop.ctx, ["payback"], since=START + timedelta(days=LIVE_FROM))

    kinds = shop.decisions()
    assert kinds[:2] == ["deployed", "retrain"]
    assert "promoted" in kinds
    assert story(shop.events()) == story(told["timeline"])
    assert told["policies"][0]["trained"] == 0  # every recipe of the replay was trained by the live loop


def test_it_goes_on_from_where_a_live_replay_ends_as_one_replay_would(shop):
    since = START + timedelta(days=LIVE_FROM)
    shop._set(START + timedelta(days=20))
    shop._run(fetch(shop.ctx, "sales", now=shop.now))
    mine = Tenancy(shop.ledger, "shop", "me", FileBeats(shop.ctx.store.root, "shop"))
    with held(mine, "replays", shop.now):
        replay(shop.ctx, ["payback"], since=since, live="payback", tenancy=mine)

    shop.live(shop.controller("me"), UNTIL - 20)

    told = replay(shop.ctx, ["payback"], since=since)
    lived = [event for event in shop.events() if event.kind not in ("looked", "replayed")]
    assert "promoted" in [event.kind for event in lived if event.at > START + timedelta(days=20)]
    assert story(lived) == story(told["timeline"])
    points = losses(shop.ctx.store, "shop")["points"]
    assert [point["since"][:10] for point in points] == [
        "2026-01-12",
        "2026-01-19",
        "2026-01-26",
        "2026-02-02",
        "2026-02-09",
        "2026-02-16",
    ]


def test_a_challenger_that_passed_waits_for_a_person_and_is_promoted_once(careful):
    controller = careful.controller()
    waiting = careful.until(controller, "waiting")
    champion = careful.roles()["champion"]
    assert careful.roles()["challenger"] == waiting.body["release"]

    careful.ask("promote")
    careful.live(controller, 2)

    assert careful.roles() == {"champion": waiting.body["release"], "challenger": None, "previous": champion}
    assert len(careful.events("promoted")) == 1


def test_a_challenger_that_nobody_approves_is_rejected_when_its_time_is_over(careful):
    controller = careful.controller()
    waiting = careful.until(controller, "waiting")

    careful.live(controller, 4)

    rejected = careful.events("rejected")[-1]
    assert rejected.body["release"] == waiting.body["release"]
    assert "nobody approved" in rejected.sentence
    assert waiting.body["release"] not in careful.roles().values()


def test_a_paused_loop_decides_nothing_and_catches_up_when_it_is_resumed(shop):
    controller = shop.controller()
    shop.live(controller, 2)
    shop.ask("pause")
    shop.live(controller, 18)
    assert [e.kind for e in shop.events()] == ["deployed", "paused"]

    shop.ask("resume")
    shop.live(shop.controller(), 1)

    assert {e.kind for e in shop.events()} > {"resumed", "retrain"}


def test_a_person_ends_a_trial_and_it_is_ended_once(shop):
    controller = shop.controller()
    shadow = shop.until(controller, "shadow")

    shop.ask("reject")
    shop.ask("reject")
    shop.live(controller, 1)

    (rejected,) = shop.events("rejected")
    assert rejected.body["release"] == shadow.body["release"]
    assert "ada said so: a test" in rejected.sentence
    assert len(shop.events("declined")) == 1  # nothing was left to reject the second time


def test_a_guard_that_trips_ends_the_trial(shop):
    controller = shop.controller()
    shadow = shop.until(controller, "shadow")

    _trip(shop, shadow.body["release"], "challenger")
    controller.turn()

    assert shop.roles()["challenger"] is None
    assert "a guard tripped" in shop.events("rejected")[-1].sentence


def test_a_champion_whose_guard_trips_gives_way_to_the_one_before(shop):
    controller = shop.controller()
    promoted = shop.until(controller, "promoted")
    before = shop.roles()["previous"]

    _trip(shop, promoted.body["release"], "champion")
    controller.turn()

    assert shop.roles()["champion"] == before
    assert len(shop.events("rolled_back")) == 1


def test_a_controller_that_was_overtaken_changes_nothing(shop):
    old = shop.controller("old")
    shop.live(old, 3)
    shop.ledger.take("shop", owner="new", expect_epoch=1, at=shop.now)
    before = shop.events(), shop.ledger.lease("shop")

    shop._set(shop.now + timedelta(days=20))
    with pytest.raises(Conflict, match="ST800"):
        old.turn()

    assert (shop.events(), shop.ledger.lease("shop")) == before


def test_a_champion_made_by_hand_ends_the_trial_and_is_gone_on_with(shop):
    controller = shop.controller()
    shadow = shop.until(controller, "shadow")
    first = Digest(str(shop.roles()["champion"]))
    epochs = {role.role: role.epoch for role in shop.ledger.roles("shop", LIVE)}
    change = {"role": "champion", "release": shadow.body["release"], "share": 1.0, "expect_epoch": epochs["champion"]}
    entry = Entry(
        app="shop", key="hand", at=shop.now, kind="reverted", sentence="By hand.", roles=(RoleChange(**change),)
    )
    shop.ledger.append([entry], recorded_at=shop.now)

    controller.turn()

    assert shop.roles()["champion"] == shadow.body["release"] != first
    assert shop.roles()["challenger"] is None
    assert controller.life is not None
    assert controller.life.release == shadow.body["release"]


def _trip(shop: Live, release: str, role: str) -> None:
    body = {
        "release": release,
        "role": role,
        "guard": "errors",
        "rows": 12,
        "failed": 12,
        "evidence": 400.0,
        "epoch": 1,
    }
    sentence = f"Release {release[:8]} failed on 12 of 12 rows."
    entry = Entry(app="shop", key=f"tripped:{release}", at=shop.now, kind="tripped", sentence=sentence, body=body)
    shop.ledger.append([entry], recorded_at=shop.now)


def test_a_retraining_waits_for_quiet_hours_to_end_and_tells_the_same_story(tmp_path, pool):
    shop = Live(tmp_path / "quiet", pool, settings=', quiet="00:00-08:00"')
    controller = shop.controller()
    shop.until(controller, "retrain")
    for _ in range(3):
        shop.live(controller, 1)
    assert shop.decisions() == ["deployed", "retrain"]  # it is always midnight when a day ends

    shop._set(shop.now + timedelta(hours=9))
    controller.turn()

    assert shop.decisions()[:4] == ["deployed", "retrain", "backtest", "shadow"]
    shop.ctx.store.close()
