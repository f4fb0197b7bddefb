"""People ask something of the loop: it is written down, told, and read by a controller in its order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from staytrue.errors import Conflict, NotFound
from staytrue.kernel.release import Digest, Release
from staytrue.loop.lease import FileBeats
from staytrue.loop.orders import ORDERS, ask, challenger, is_paused, orders, paused
from staytrue.store.ledger import Entry, Ref, RoleChange
from staytrue.store.store import open_store

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NOBODY = Release(
    app="shop", code=Digest("0" * 64), training_code=Digest("1" * 64), tables={}, env=Digest("2" * 64), params={}, seed=0,
    model=Digest("3" * 64), recipe=Digest("4" * 64), as_trained=True, golden=None, scores={}, parents=(),
)  # fmt: skip


class Trial:
    """A store in which a release is champion and another one is on trial."""

    def __init__(self, shop) -> None:
        self.shop = shop
        self.store = open_store(shop.store_path)
        self.champion, self.challenger, self.other = (
            self.store.objects.put_document(replace(NOBODY, seed=seed).document()) for seed in range(3)
        )
        self.give(champion=self.champion, challenger=self.challenger)

    def give(self, **roles: str | None) -> None:
        """Give roles to releases."""
        epochs = {role.role: role.epoch for role in self.store.ledger.roles("shop", "live")}
        changes = [
            RoleChange(role=role, release=release, share=0.0, expect_epoch=epochs.get(role, 0))
            for role, release in roles.items()
        ]
        refs = [Ref(kind="release", name=id_, digest=id_) for id_ in (self.champion, self.challenger, self.other)]
        entry = Entry(
            app="shop",
            key=str(epochs),
            at=NOW,
            kind="deployed",
            sentence="Deployed.",
            roles=tuple(changes),
            refs=tuple(refs),
        )
        self.store.ledger.append([entry], recorded_at=NOW)

    def orders(self, after: int = 0):
        """What a controller would read."""
        return [(order.what, order.release, order.why) for order in orders(self.store.ledger, "shop", after=after)]


@pytest.fixture
def trial(shop):
    made = Trial(shop)
    yield made
    made.store.close()


def test_pause_and_resume_are_kept_in_order_and_say_so_once(trial):
    # when
    said = [trial.shop.run(verb, "--why", "the source moves") for verb in ("pause", "pause", "resume", "resume")]
    # then
    assert [one.code for one in said] == [0, 0, 0, 0]
    assert [one.document["order"] is not None for one in said] == [True, False, True, False]
    assert trial.orders() == [("pause", None, "the source moves"), ("resume", None, "the source moves")]
    assert "paused already" in said[1].document["sentence"]


def test_an_order_tells_that_nobody_is_there_to_act_on_it_and_waits(trial):
    said = trial.shop.run("pause")
    assert said.document["controller_alive"] is False
    assert "as soon as `staytrue up` runs" in said.err
    assert paused(trial.store.ledger, "shop")


def test_an_order_says_nothing_of_waiting_while_a_controller_lives(trial):
    FileBeats(trial.store.root, "shop").write({"pid": os.getpid(), "count": 1})
    said = trial.shop.run("pause")
    assert said.document["controller_alive"] is True
    assert said.err == ""


@pytest.mark.parametrize("verb", ["promote", "reject"])
def test_promote_and_reject_name_the_challenger_that_is_meant(trial, verb):
    said = trial.shop.run(verb, "--why", "I looked")
    again = trial.shop.run(verb, trial.challenger[:9])
    assert (said.code, again.code) == (0, 0)
    assert trial.orders() == [(verb, trial.challenger, "I looked"), (verb, trial.challenger, None)]
    (event, _) = [e for e in trial.shop.events("asked") if e["timeline"] == ORDERS]
    assert event["sentence"].endswith(f"asked to {verb} {trial.challenger[:8]}: I looked")
    assert said.document["order"]["by"] in event["sentence"]


@pytest.mark.parametrize("verb", ["promote", "reject"])
def test_without_a_challenger_there_is_nothing_to_decide(trial, verb):
    trial.give(challenger=None)
    said = trial.shop.run(verb)
    assert (said.code, said.document["code"]) == (3, "ST853")
    assert "no challenger on trial" in said.err
    assert trial.orders() == []


@pytest.mark.parametrize(("which", "word"), [("other", "is not on trial"), ("champion", "is champion already")])
def test_another_release_than_the_challenger_is_a_conflict(trial, which, word):
    said = trial.shop.run("promote", getattr(trial, which))
    assert (said.code, said.document["code"]) == (4, "ST854")
    assert word in said.err
    assert trial.orders() == []


def test_a_release_that_does_not_exist_is_not_found(trial):
    said = trial.shop.run("promote", "feed")
    assert (said.code, said.document["code"]) == (3, "ST473")


def test_a_controller_reads_each_order_once_and_in_its_order(trial):
    # given
    ledger = trial.store.ledger
    first = ask(ledger, "shop", "pause", by="anna", now=NOW)
    second = ask(ledger, "shop", "retrain", by="anna", now=NOW)
    # then
    assert [order.seq for order in orders(ledger, "shop")] == [first.seq, second.seq]
    assert orders(ledger, "shop", after=first.seq) == [second]
    assert orders(ledger, "shop", after=second.seq) == []


def test_an_order_with_the_same_key_is_one_order(trial):
    asked = [ask(trial.store.ledger, "shop", "retrain", by="ci", now=NOW, key="push 7") for _ in range(3)]
    assert len(orders(trial.store.ledger, "shop")) == 1
    assert asked[0] == asked[1] == asked[2]


def test_orders_that_this_version_does_not_know_are_left_alone(trial):
    entry = Entry(app="shop", timeline=ORDERS, key="x", at=NOW, kind="asked", sentence="Dance.", body={"what": "dance"})
    trial.store.ledger.append([entry], recorded_at=NOW)
    assert trial.orders() == []


def test_paused_is_what_the_newest_of_pause_and_resume_says(trial):
    ledger = trial.store.ledger
    for what, then in [("retrain", False), ("pause", True), ("promote", True), ("resume", False), ("deploy", False)]:
        ask(ledger, "shop", what, by="anna", now=NOW, code=Digest("a" * 64))
        assert is_paused(ledger.events("shop")) is then


def test_a_reason_can_not_write_on_a_terminal_nor_break_the_ledger(trial):
    nasty = "\x1b[2J\x00one\nline \ud800" + "x" * 5000
    order = ask(trial.store.ledger, "shop", "pause", by="\n", now=NOW, why=nasty)
    assert order.by == "somebody"
    assert order.why.startswith("[2J one line xxx")
    assert len(order.why) == 500
    assert trial.store.ledger.verify() == []


def test_who_may_be_promoted_is_checked_for_whoever_asks(trial):
    ledger = trial.store.ledger
    assert challenger(ledger, "shop", None) == challenger(ledger, "shop", trial.challenger) == trial.challenger
    with pytest.raises(Conflict, match="ST854"):
        challenger(ledger, "shop", trial.other)
    trial.give(challenger=None)
    with pytest.raises(NotFound, match="ST853"):
        challenger(ledger, "shop", trial.other)


def test_orders_of_many_processes_at_once_are_all_kept(trial):
    # given
    command = [sys.executable, "-m", "staytrue", "promote", "--store", str(trial.store.root), "--json"]
    # when
    asked = [subprocess.Popen([*command, "--why", str(n)], stdout=subprocess.PIPE) for n in range(3)]
    said = [json.loads(one.communicate(timeout=60)[0]) for one in asked]
    # then
    assert {one.returncode for one in asked} == {0}
    assert sorted(why for _, _, why in trial.orders()) == ["0", "1", "2"]
    assert sorted(one["order"]["seq"] for one in said) == [order.seq for order in orders(trial.store.ledger, "shop")]
