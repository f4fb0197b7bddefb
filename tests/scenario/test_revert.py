"""`staytrue revert`: what it would do, and that it does it while code, source and folder are broken or gone."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

import pytest
from living import beating

from staytrue import testing
from staytrue.dashboard.confirm_page import confirm_document
from staytrue.loop.lease import alive
from staytrue.loop.orders import orders
from staytrue.store.store import Store

OLD, NEW = 'sales["rate"], 1)', 'sales["rate"], 2)'


@pytest.fixture(scope="session")
def _kept_pair(tmp_path_factory, _kept_sales) -> tuple[Path, str, str]:
    place = tmp_path_factory.mktemp("pair")
    shutil.copytree(_kept_sales, place / "store")
    shutil.copytree(_kept_sales.parent / "shop", place / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    app = place / "shop" / "app.py"
    with testing.bench(app, place) as bench:
        old = bench.train(now=True).delivered
    app.write_text(app.read_text().replace(OLD, NEW))
    with testing.bench(app, place) as bench:
        bench.fetch("2026-05-31", "2026-06-10")
        new = bench.train(now=True).delivered
    assert old is not None
    assert new is not None
    return place / "store", old.release, new.release


@pytest.fixture
def pair(shop, _kept_pair):
    """(shop, old, new): of both releases all three axes differ, and whatever stands in the folder is broken."""
    store, old, new = _kept_pair
    shutil.copytree(store, shop.store_path)
    shop.write("this is no Python(")
    shop.write("raise RuntimeError('the source is down')", name="shop_history.py")
    return shop, old, new


def kept(shop) -> tuple[list[str], list[str]]:
    """All that a command could have written: objects and events."""
    objects = sorted(str(path) for path in (shop.store_path / "objects").rglob("*") if path.is_file())
    return objects, [event["id"] for event in shop.events()]


@pytest.mark.parametrize(
    ("axis", "way", "differs"),
    [
        ("code", "same", ["code: what training sees differs"]),
        ("data", "same", ["data: table sales differs"]),
        ("model", "few", ["model: one model was trained from other code or data than the release holds"]),
        ("all", "few", ["code: what training sees differs", "data: table sales differs"]),
    ],
)
def test_a_dry_run_says_what_would_happen_and_writes_nothing(pair, axis, way, differs):
    shop, old, new = pair
    before = kept(shop)

    said = shop.run("revert", f"--{axis}", "--dry-run", old)

    document, sentences = said.document, " ".join(said.document["sentences"])
    assert said.code == 0, said.err
    assert (document["dry_run"], document["champion"], document["to"]) == (True, new, old)
    assert document["release"] == (old if axis == "all" else None)
    assert (document["way"], document["differs"], document["trains"]) == (way, differs, False)
    assert "Nothing is trained" in sentences
    assert "sales up to 2026-06-10, 3,200 with a label" in sentences
    assert ("0 labelled rows are newer than what both learned from" in sentences) == (way == "few")
    assert ("3,000 rows up to 2026-05-31 instead of 3,200 rows up to 2026-06-10" in sentences) == (
        axis in {"data", "all"}
    )
    assert kept(shop) == before

    # The page, which asks nobody, says the same in the same words as far as it goes.
    with contextlib.closing(Store(shop.store_path)) as store:
        chosen = dict.fromkeys(["code", "data", "model"] if axis == "all" else [axis], "1")
        page = confirm_document(store, "shop", "revert", {"to": old, **chosen})["sentences"]
        assert page[:3] == said.document["sentences"][:3]
        assert "asks both releases first" in page[-1]
        with beating(shop.store_path):
            until(lambda: alive(shop.store_path, "shop"))
            page = confirm_document(store, "shop", "revert", {"to": old, **chosen})["sentences"]
            assert ("The loop, which is alive, tries it on live traffic" in page[3]) == (way == "few")
            assert ("asks both releases first" in page[-1]) == (way == "same")


def until(happened) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_dry_run_that_would_skip_the_trial_says_so(pair):
    shop, old, _ = pair

    said = shop.run("revert", "--model", "--now", "--dry-run", old)

    assert said.document["way"] == "now"
    assert shop.champion() != old


@pytest.mark.parametrize("gone", ["broken", "absent"])
def test_it_takes_all_back_though_code_source_and_folder_are_broken_or_gone(pair, gone):
    shop, old, new = pair
    if gone == "absent":
        shutil.rmtree(shop.folder)

    said = shop.run("revert", "--all", "--now", "--why", "prices look wrong", old)

    assert said.code == 0, said.err
    assert shop.champion() == old
    (event,) = shop.events("reverted")
    assert "code, data, model taken from" in event["sentence"]
    assert "(prices look wrong)" in event["sentence"]
    about = event["body"]["about"]
    assert (about["axes"], about["to"], about["why"]) == (["code", "data", "model"], old, "prices look wrong")
    assert event["body"]["against"] == new
    changed = shop.run("status").document["changed"]
    assert changed["axes"] == ["code: what training sees differs", "data: table sales differs"]


def test_given_twice_it_is_done_once(pair):
    shop, old, new = pair
    first = shop.run("revert", "--data", "--now", old)

    again = shop.run("revert", "--data", "--now", old)

    assert (first.code, again.code) == (0, 0)
    assert again.document["delivered"]["verdict"] == "same"
    assert again.document["delivered"]["release"] == first.document["delivered"]["release"] == shop.champion()
    assert len(shop.events("reverted")) == 1
    assert shop.run("show", shop.champion()).document["parents"] == [new]


def test_one_that_nobody_can_tell_from_the_champion_is_let_in_without_a_trial(pair):
    shop, old, _ = pair

    said = shop.run("revert", "--code", old)

    assert said.code == 0
    assert said.document["delivered"]["promoted"] is True
    assert "the model and the golden answers are the same" in said.document["delivered"]["sentence"]


def test_where_the_loop_lives_it_is_handed_to_it(pair):
    shop, old, new = pair
    with beating(shop.store_path):
        foreseen = shop.run("revert", "--all", "--dry-run", old).document
        said = shop.run("revert", "--all", "--why", "I saw it", old)

    assert foreseen["way"] == "loop"
    assert said.code == 0
    assert said.document["delivered"]["verdict"] == "ordered"
    assert shop.champion() == new
    store = shop.store
    (order,) = orders(store.ledger, "shop")
    store.close()
    assert (order.what, order.release, order.kind) == ("try", old, "reverted")
    assert order.why is not None
    assert order.why.endswith("(I saw it)")


def test_what_can_not_be_reverted_is_named(pair):
    shop, old, new = pair
    asked = {
        "ST135": ["revert", old],
        "ST454": ["revert", "--all", new],
        "ST473": ["revert", "--all", "feed" * 16],
        "ST471": ["revert", "--all", "--name", "nobody", old],
    }

    said = {code: shop.run(*arguments).document["code"] for code, arguments in asked.items()}

    assert said == {code: code for code in asked}
    assert shop.champion() == new


def test_without_a_store_or_a_champion_there_is_nothing_to_revert(shop, stocked):
    no_store = shop.run("revert", "--all", store=shop.folder / "nowhere")
    no_champion = stocked.run("revert", "--all")

    assert (no_store.code, no_store.document["code"]) == (3, "ST470")
    assert (no_champion.code, no_champion.document["code"]) == (3, "ST650")
    assert not (shop.folder / "nowhere").exists()
