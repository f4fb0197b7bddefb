"""Several processes that start on one store at the same moment: each does its work or says why not, and the store is one."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from orders import FETCH, REPLAY, TRAIN, Done, Order, Witness, run

from staytrue.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc for processes that live on")

PROCESSES = 8
CONFLICT, UNAVAILABLE = 4, 5
SHORTER_FETCH = (*FETCH[:-1], "2025-04-01")


@pytest.mark.fault_long
def test_one_of_several_first_trainings_makes_the_champion(tmp_path: Path, prices: Path) -> None:
    store = tmp_path / "store"

    fetched = at_once(prices, store, [FETCH] * PROCESSES)
    trained = at_once(prices, store, [TRAIN] * PROCESSES)

    assert {done.exit_code for done in fetched} == {0}
    assert {done.exit_code for done in trained} <= {0, CONFLICT, UNAVAILABLE}
    assert 0 in {done.exit_code for done in trained}
    assert {done.document["model"] for done in trained if done.exit_code == 0} == {champion_model(store)}
    with closing(Store(store)) as opened:
        kinds = Counter(event.kind for event in opened.ledger.events())
    assert kinds == {"fetched": 1, "trained": 1, "deployed": 1}

    assert_sound(store, [*fetched, *trained])


def test_fetches_of_different_spans_are_never_mixed(tmp_path: Path, prices: Path) -> None:
    store = tmp_path / "store"

    done = at_once(prices, store, [FETCH, SHORTER_FETCH] * 2)
    last = run(prices, store, FETCH).well()

    assert {(one.exit_code, one.code) for one in done} <= {(0, ""), (CONFLICT, "ST624")}
    assert last.document["fetched"][0]["until"] == "2025-05-01T00:00:00+00:00"
    assert_sound(store, [*done, last])


@pytest.mark.fault_long
def test_equal_replays_at_once_tell_one_story(tmp_path: Path, prices: Path) -> None:
    store = tmp_path / "store"
    run(prices, store, FETCH).well()

    done = at_once(prices, store, [REPLAY] * PROCESSES)

    assert {one.exit_code for one in done} == {0}, [one.err for one in done]
    assert len({one.timeline for one in done}) == 1
    assert_sound(store, done)


def at_once(app: Path, store: Path, verbs: list[tuple[str, ...]]) -> list[Done]:
    orders = [Order(app, store, verb) for verb in verbs]
    found = [order.done() for order in orders]
    for order in orders:
        order.wait_for_its_children()
    return found


def champion_model(store: Path) -> str:
    with closing(Store(store)) as opened:
        champion = opened.champion("prices")
        assert champion is not None
        return champion.release.model


def assert_sound(store: Path, reports: list[Done]) -> None:
    witness = Witness(store)
    witness.look()
    for done in reports:
        assert "Traceback" not in done.err, done.err
        if done.exit_code == 0:
            witness.heard(done)
        else:
            assert done.code.startswith("ST"), done.out
