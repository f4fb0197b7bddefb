"""What the pages say: incidents that are remembered and not mistaken, losses with their interval, cards that stay text."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from staytrue.dashboard.card import markdown, sections
from staytrue.dashboard.heard import cases, open_cases
from staytrue.dashboard.log_page import replays_document
from staytrue.dashboard.words import said
from staytrue.loop.losses import losses
from staytrue.store.ledger import Entry, Ref
from staytrue.store.store import Store

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOSTILE = "<script>|`#"


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    yield made
    made.close()


def entry(key, kind, body=None, *, refs=(), timeline="live", sentence="It happened."):
    return Entry(
        app="shop", timeline=timeline, key=key, at=NOW, kind=kind, sentence=sentence, body=body or {}, refs=refs
    )


def alarm(key, state="opened"):
    return entry(key, "alarm", {"alarm": "harm", "state": state})


def told(store, policy, losses_, *, retrains=0, timeline=None, cost=None, begin="2026-01-05"):
    """A replay that was lived to its end, week by week."""
    first = datetime.fromisoformat(begin)
    weekly = [[(first + timedelta(weeks=k)).date().isoformat(), 10, loss] for k, loss in enumerate(losses_)]
    summed = sum(10 * loss for loss in losses_)
    result = {
        "policy": policy, "loss": summed / len(weekly) / 10, "loss_interval": None, "retrains": retrains, "promoted": 0,
        "rejected": 0, "bad_days": 0, "cost": summed + 50 * retrains if cost is None else cost, "weekly": weekly,
    }  # fmt: skip
    kept = store.objects.put_document({"kind": "replay", "story": json.dumps({"result": result, "timeline": []})})
    line = timeline or f"replay/{policy}/ab"
    refs = (Ref(kind="replay", name=f"{policy}{begin}", digest=kept),)
    store.ledger.append([entry(f"{policy}{begin}", "replayed", refs=refs, timeline=line)], recorded_at=NOW)


# ------------------------------------------------------------ incidents


def test_an_incident_is_followed_from_its_first_word_to_its_last(store):
    store.ledger.append([alarm("a")], recorded_at=NOW)
    (case,) = open_cases(store, "shop")

    store.ledger.append([entry("r", "retrain"), entry("p", "promoted")], recorded_at=NOW)

    assert [one.state for one in cases(store, "shop")[0].steps] == ["opened", "acting", "resolved"]
    assert cases(store, "shop")[0].number == case.number
    assert open_cases(store, "shop") == []


def test_another_ledger_at_the_same_place_is_read_anew(tmp_path):
    place = tmp_path / "store"
    first = Store(place)
    first.ledger.append([alarm("a"), alarm("b", "resolved"), alarm("c")], recorded_at=NOW)
    assert len(cases(first, "shop")) == 2
    first.close()
    shutil.rmtree(place)

    second = Store(place)
    second.ledger.append([alarm("other")], recorded_at=NOW + timedelta(days=1))

    assert [case.number for case in cases(second, "shop")] == [1]
    second.close()


# ------------------------------------------------------------ losses


def test_nothing_is_said_of_losses_that_nobody_knows(store):
    document = losses(store, "shop")

    assert (document["points"], document["line"], document["never"]) == ([], [], None)
    assert "No loss is known" in document["sentence"]


def test_the_interval_waits_for_three_weeks_and_never_goes_below_what_a_loss_can_be(store):
    told(store, "payback", [1.0, 9.0, 1.0, 9.0], timeline="live")

    line = losses(store, "shop")["line"]

    assert [one["low"] is None for one in line] == [True, True, False, False]
    assert all(one["low"] >= 0 for one in line[2:])
    assert all(one["low"] <= one["loss"] <= one["high"] for one in line[2:])


def test_never_is_held_against_the_same_weeks_only(store):
    told(store, "payback", [2.0, 2.0], timeline="live")
    told(store, "never", [4.0, 4.0], begin="2025-01-06")
    assert losses(store, "shop")["never"] is None

    told(store, "never", [4.0, 4.0])

    document = losses(store, "shop")
    assert [one["loss"] for one in document["never"]] == [4.0, 4.0]
    assert "50% less than without any retraining" in document["sentence"]


# ------------------------------------------------------------ replays


def test_the_price_of_a_retraining_turns_the_order_of_policies(store):
    told(store, "never", [10.0, 10.0])
    told(store, "often", [6.0, 6.0], retrains=1)

    def order(price):
        return [one["policy"] for one in replays_document(store, "shop", price=price)["replays"][0]["policies"]]

    assert order(1.0) == ["often", "never"]
    assert order(4.0) == ["never", "often"]


def test_replays_of_other_rows_are_not_held_against_each_other(store):
    told(store, "never", [10.0, 10.0])
    told(store, "often", [6.0, 6.0], begin="2025-01-06")

    assert len(replays_document(store, "shop")["replays"]) == 2


# ------------------------------------------------------------ words


def test_a_card_says_what_is_not_known_and_quotes_nothing_as_markup():
    card = {
        "app": HOSTILE, "release": "ab" * 32, "role": None, "at": NOW.isoformat(), "model": None, "recipe": None,
        "code": "cd" * 32,
        "env": {"python": None, "id": "ef" * 32, "distributions": []}, "seed": 0, "params": {HOSTILE: HOSTILE},
        "parents": [], "data": [], "label": None, "trial": None, "scores": {}, "losses": None, "limits": [HOSTILE], "history": [],
    }  # fmt: skip

    text = markdown(card)

    assert "Unknown: nothing was measured." in text
    assert "<script>" not in text
    assert text == markdown(card)
    assert sections(card)[0][0] == "What it is"


def test_a_sentence_with_one_backtick_stays_as_it_is():
    assert str(said("a ` b <i>")) == "a ` b &lt;i&gt;"
