"""A release that a person asked for, on its way to the champion's place: by the loop where it lives, by hand, or at once."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from living import APP, Live

from staytrue.engines.process import ProcessPool
from staytrue.errors import Conflict
from staytrue.kernel.release import Digest
from staytrue.loop.context import release_context
from staytrue.loop.controller import Controller
from staytrue.loop.deliver import Delivered, champion_epoch, train_by_hand
from staytrue.loop.lease import FileBeats
from staytrue.loop.past import Past
from staytrue.loop.release import answered_release
from staytrue.loop.revert import hand_over
from staytrue.loop.train import train
from staytrue.loop.trial import inputs

SETTING = APP.replace("@app.train\ndef fit(sales):", '@app.train(params={"more": 2}, seed=5)\ndef fit(sales, params):')
SETTING = SETTING.replace('recent["rate"], 1)', 'recent["rate"] + params["more"], 1)')
"""The same sales; a setting makes every answer 2 too high, which the code says and nobody noticed."""


class Shop(Live):
    """An app whose releases come from outside of its loop."""

    def lives(self) -> None:
        """What a controller that runs leaves behind twice a second."""
        FileBeats(self.ctx.store.root, "shop").write({"pid": os.getpid(), "count": 1})

    def champion(self) -> Any:
        found = self.ctx.store.champion("shop")
        assert found is not None
        return found

    def with_params(self, **params: float) -> tuple[Any, Any]:
        """The champion's code, trained by other params on the rows of ten days: a release, and what keeps it."""
        ctx, past = replace(self.ctx, params=params), Past.whole(self.ctx)
        trained = self._run(train(ctx, inputs(past, 0, 10)))
        return self._run(answered_release(ctx, trained, parents=(self.champion().id,)))

    def hand(self, release: Any, refs: Any, **more: Any) -> Delivered:
        asked = {"kind": "repaired", "why": "more taken back", "now": False, "by": "ada", **more}
        return self._run(hand_over(self.ctx, release, refs, **asked))

    def as_champion_has_it(self) -> Controller:
        """A controller as the process starts one."""
        self.ctx = release_context(self.ctx.store, self.champion().release, self.folder)
        return self.controller()

    def id(self, release: Any) -> Digest:
        return self.ctx.store.objects.put_document(release.document())


@pytest.fixture
def shop(tmp_path):
    with ProcessPool(tmp_path / "jobs") as pool:
        made = Shop(tmp_path / "shop", pool, text=SETTING)
        yield made
        made.ctx.store.close()


def test_where_the_loop_lives_it_tries_what_a_person_asked_for_in_place_of_a_retraining(shop):
    controller = shop.controller()
    shadow = shop.until(controller, "shadow")
    release, refs = shop.with_params(more=0)
    shop.lives()

    given = shop.hand(release, refs)
    controller.turn()

    assert (given.promoted, given.verdict, given.release) == (False, "ordered", shop.id(release))
    assert shop.roles()["challenger"] == given.release
    rejected = shop.events("rejected")[-1]
    assert rejected.body["release"] == shadow.body["release"]
    assert "ada has another release tried: more taken back" in rejected.sentence
    tried = shop.events("backtest")[-1]
    assert tried.sentence.startswith(f"ada has release {given.release[:8]} tried: more taken back; it loses ")
    assert tried.body["evidence"]["order"] == given.order.seq
    shop.ask("promote")
    assert not controller.turn()  # other params: the process starts anew
    assert shop.roles()["champion"] == given.release


def test_a_setting_taken_back_is_kept_in_retrainings_until_other_code_brings_its_own(shop):
    controller = shop.controller()
    shop.live(controller, 11)
    release, refs = shop.with_params(more=0)
    assert shop.hand(release, refs, now=True).promoted

    assert not controller.turn()  # the process is to start anew: its context is another one
    controller = shop.as_champion_has_it()
    assert controller.turn()
    shop.ask("retrain")
    shop.until(controller, "retrain")

    store = shop.ctx.store
    recipes = [store.recipe(ref.name) for ref in store.ledger.refs(kind="recipe")]
    assert [(dict(one.params), one.seed) for one in recipes[-2:]] == [({"more": 0}, 5)] * 2
    assert dict(recipes[0].params) == {"more": 2}


def test_a_training_by_hand_of_the_champions_code_keeps_its_setting(shop):
    shop.live(shop.controller(), 4)
    release, refs = shop.with_params(more=0)
    shop.hand(release, refs, now=True)

    _, trained = shop._run(train_by_hand(shop.ctx, Past.whole(shop.ctx), now=True))

    assert dict(shop.ctx.app.params) == {"more": 2}
    assert dict(shop.ctx.store.recipe(trained.recipe).params) == dict(shop.champion().release.params) == {"more": 0}


def test_what_nobody_can_tell_from_the_champion_takes_its_place_without_a_trial(shop):
    controller = shop.controller()
    shop.until(controller, "shadow")
    before = shop.champion()
    same = replace(before.release, scores={"again": 1.0})
    shop.lives()

    given = shop.hand(same, ())
    controller.turn()

    assert shop.roles() | {"challenger": None} == {"champion": given.release, "previous": before.id, "challenger": None}
    (event,) = shop.events("repaired")
    assert "the model and the golden answers are the same" in event.sentence
    assert shop.roles()["challenger"] is not None  # the trial goes on: the champion answers as before


def test_a_release_that_is_worse_on_rows_that_nobody_learned_from_is_kept_out(shop):
    controller = shop.controller()
    shop.live(controller, 11)
    release, refs = shop.with_params(more=9)
    shop.lives()

    given = shop.hand(release, refs)
    controller.turn()

    (tried,) = shop.events("tried")
    assert tried.body["release"] == given.release
    assert "worse, and the champion stays" in tried.sentence
    assert "challenger" not in shop.roles()


def test_an_order_waits_for_a_controller_and_is_obeyed_once(shop):
    shop.live(shop.controller(), 11)
    release, refs = shop.with_params(more=0)
    shop.lives()
    given = shop.hand(release, refs)
    shop.hand(release, refs)  # asked for again, as after a kill

    later = shop.controller()
    later.turn()
    later.turn()

    assert shop.roles()["challenger"] == given.release
    assert len(shop.events("shadow")) == 1
    (declined,) = shop.events("declined")
    assert "it is on trial already" in declined.sentence
    assert shop.ledger.ref("release", given.release) is not None


def test_without_a_controller_the_newest_labelled_rows_decide(shop):
    shop.live(shop.controller(), 11)
    release, refs = shop.with_params(more=0)
    (shop.ctx.store.root / "work" / "loop" / "shop.beat").unlink()

    given = shop.hand(release, refs)

    assert (given.promoted, given.verdict) == (True, "better")
    assert shop.roles()["champion"] == given.release
    assert shop.events("repaired")[0].body["verdict"] == "better"


def test_at_once_means_at_once_and_another_champion_meanwhile_is_a_conflict(shop):
    shop.live(shop.controller(), 4)
    release, refs = shop.with_params(more=0)
    epoch = champion_epoch(shop.ctx)

    given = shop.hand(release, refs, now=True, epoch=epoch, about={"settings": ["more"]})
    again = shop.hand(release, refs, now=True)

    assert (given.promoted, given.verdict) == (True, "forced")
    assert shop.events("repaired")[0].body["about"] == {"settings": ["more"]}
    assert (again.promoted, again.verdict) == (True, "same")
    with pytest.raises(Conflict, match="ST641"):
        shop.hand(replace(release, scores={"x": 1.0}), refs, now=True, epoch=epoch)
    assert len(shop.events("repaired")) == 1


def test_a_champion_that_is_a_plain_service_gets_another_loop(shop):
    controller = shop.controller()
    shop.live(controller, 2)
    trained = shop.champion().release
    service = replace(trained, model=None, recipe=None, golden=None, tables={}, params={}, seed=0)

    assert shop.hand(service, (), now=True).promoted

    assert not controller.turn()  # the process starts anew, as a service's loop
