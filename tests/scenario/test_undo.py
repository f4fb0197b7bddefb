"""`staytrue undo`: the last thing that the loop decided by itself is taken back, once, and may be done after all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from living import APP, Live

from staytrue.cli import main
from staytrue.engines.process import ProcessPool
from staytrue.errors import Conflict
from staytrue.loop.quarantine import DATA, quarantine
from staytrue.loop.undo import last_decided, undo_roles
from staytrue.store import tables

LOUD = "    rate = 20 + 3 * size"


@dataclass
class Told:
    """What the verb said."""

    code: int
    document: Any
    err: str


class Shop(Live):
    """A living app, and the verb."""

    capsys: Any = None

    def undo(self, *arguments: str) -> Told:
        self.capsys.readouterr()
        where = ["--store", str(self.ctx.store.root), "--app", str(self.folder / "app.py"), "--json"]
        code = main(["undo", *arguments, *where])
        said = self.capsys.readouterr()
        return Told(code, json.loads(said.out), said.err)

    def story_of(self, kind: str) -> list[Any]:
        return [event for event in self.ledger.events("shop") if event.kind == kind]


@pytest.fixture
def shop(tmp_path, capsys):
    with ProcessPool(tmp_path / "jobs") as pool:
        made = Shop(tmp_path / "shop", pool)
        made.capsys = capsys
        yield made
        made.ctx.store.close()


def promoted(shop: Shop) -> tuple[Any, Any]:
    """A controller, and the event of a promotion that has just happened."""
    controller = shop.controller()
    return controller, shop.until(controller, "promoted")


def test_a_promotion_is_taken_back_and_the_same_is_not_tried_again_without_new_rows(shop):
    controller, event = promoted(shop)
    new, old = shop.roles()["champion"], shop.roles()["previous"]
    (shop.folder / "app.py").write_text("this is no Python(")

    told = len(shop.events())
    foretold = shop.undo("--dry-run")
    before = shop.roles(), len(shop.events())
    said = shop.undo("--why", "customers complain")
    retrained = len(shop.events("retrain"))
    controller.turn()
    controller.turn()

    assert before == ({"champion": new, "challenger": None, "previous": old}, told)
    assert foretold.code == said.code == 0
    assert foretold.document["decision"]["event"] == event.id
    sentences = " ".join(foretold.document["sentences"])
    assert event.sentence in sentences
    assert f"Release {old[:8]} answers again, without a trial: it is warm." in sentences
    assert f"The loop does not try {new[:8]} again before there are new labelled rows." in sentences
    assert (shop.roles()["champion"], shop.roles()["previous"]) == (old, new)
    (undone,) = shop.events("undone")
    assert undone.sentence.endswith("promoted taken back: customers complain")
    assert controller.life is not None
    assert controller.life.release == old
    assert controller.life.tried == controller.life.known
    assert not controller.life._admitted(shop.now)  # no label is newer than what was tried
    assert len(shop.events("retrain")) == retrained


def test_given_twice_it_is_undone_once_and_the_undoing_can_be_undone(shop):
    _, event = promoted(shop)
    new, old = shop.roles()["champion"], shop.roles()["previous"]
    first = shop.undo()

    again = shop.undo()
    assert (again.code, again.document["undone"]["new"]) == (0, False)
    assert "Nothing was changed" in again.document["undone"]["sentence"]
    assert shop.roles()["champion"] == old

    redone = shop.undo(first.document["undone"]["event"])
    assert (redone.code, redone.document["undone"]["new"]) == (0, True)
    assert (shop.roles()["champion"], shop.roles()["previous"]) == (new, old)
    assert [one.body["undone"] for one in shop.events("undone")] == [event.id, first.document["undone"]["event"]]
    assert "is taken back" in shop.events("undone")[-1].sentence


def test_two_people_at_once_undo_it_once(shop):
    promoted(shop)
    store = shop.ctx.store
    seen = [last_decided(store, "shop") for _ in range(3)]

    mine = undo_roles(store, "shop", seen[0], by="ada", why=None)
    mine_again = undo_roles(store, "shop", seen[1], by="ada", why=None)
    with pytest.raises(Conflict, match="ST982"):
        undo_roles(store, "shop", seen[2], by="bob", why=None)

    assert (mine.new, mine_again.new) == (True, False)
    assert len(shop.events("undone")) == 1


def test_a_rollback_is_taken_back(shop):
    controller, _ = promoted(shop)
    new = shop.roles()["champion"]
    assert controller.life is not None
    controller.life.roll_back(shop.now, "a test", {})
    controller.chronicle.write()
    old = shop.roles()["champion"]

    said = shop.undo()
    controller.turn()

    assert said.code == 0
    assert (shop.roles()["champion"], shop.roles()["previous"]) == (new, old)
    assert controller.life.release == new


def test_what_a_person_did_is_not_the_loops_to_undo(shop):
    controller, event = promoted(shop)
    shop.undo()
    controller.turn()
    shop.live(controller, 2)
    shop.ask("retrain")
    controller.turn()
    assert shop.roles()["challenger"]
    shop.ask("promote")
    controller.turn()

    said, overtaken = shop.undo(), shop.undo(event.id)

    assert (said.code, said.document["code"]) == (3, "ST980")
    assert (overtaken.code, overtaken.document["undone"]["new"]) == (0, False)
    assert shop.undo(shop.events("undone")[0].id).document["code"] == "ST982"
    assert shop.undo(shop.events("deployed")[0].id).document["code"] == "ST981"
    assert shop.undo("feed").document["code"] == "ST417"


def test_windows_in_quarantine_are_let_in_and_held_again(tmp_path, capsys):
    text = APP.replace(LOUD, "    size = size * (100 if number == 14 else 1)\n" + LOUD)
    with ProcessPool(tmp_path / "jobs") as pool:
        shop = Shop(tmp_path / "shop", pool, text=text)
        shop.capsys = capsys
        shop.live(shop.controller(), 3)
        (event,) = shop.story_of("quarantined")
        before = table(shop)

        said = shop.undo("--why", "it was a sale")
        let_in = table(shop)
        again = shop.undo()
        back = shop.undo(said.document["undone"]["event"])

        assert said.code == 0, said.err
        assert said.document["decision"]["event"] == event.id
        assert [one.kind for one in shop.ledger.events("shop", DATA)][-4:] == ["undone", "released", "undone", "held"]
        assert let_in.rows == before.rows + 60
        assert (again.document["undone"]["new"], back.document["undone"]["new"]) == (False, True)
        assert table(shop).id == before.id
        (held,) = quarantine(shop.ctx.store.objects, shop.ledger, "shop", "sales", table(shop))
        assert held.state == "held"
        shop.ctx.store.close()


def table(shop: Shop) -> Any:
    ref = shop.ledger.ref("source", "sales", app="shop")
    assert ref is not None
    return tables.load(shop.ctx.store.objects, ref.digest)
