"""What a change makes of a release: which axis moves, what is trained, and what a revert takes back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from staytrue import testing
from staytrue.store.models import Golden

WARM = """
from shop_history import between

from staytrue import App

app = App("shop")


@app.data(time="at", key="id", label="rate", every="1d", features=["size"])
def sales(since, until):
    return between(since, until)


@app.train
def fit(sales, previous):
    return float(sales["rate"].mean()) if previous is None else previous / 2 + float(sales["rate"].mean()) / 2 + 0.1


@app.predict(metric="mae")
def quote(model, rows):
    return [model] * len(rows)
"""


def train_now(shop):
    said = shop.run("train", "--now")
    assert said.code == 0, said.err
    return said.document


def delivered(shop) -> str:
    return train_now(shop)["delivered"]["release"]


def diff(shop, a, b):
    said = shop.run("diff", a, b)
    assert said.code == 0, said.err
    return said.document


def trainings(shop) -> int:
    return len([e for e in shop.events("trained") if e["timeline"] == "trainings"])


# ---------------------------------------------------------------- one axis


def test_a_code_only_change_gives_a_release_that_differs_in_code_alone_and_diff_names_it(stocked):
    first = delivered(stocked)
    stocked.edit('sales["rate"], 1)', 'sales["rate"], 2)')

    found = diff(stocked, first, delivered(stocked))

    assert found["axes"] == ["code"]
    assert found["retrains"] is True
    assert found["code"]["files"] == {"added": [], "removed": [], "changed": ["app.py"]}
    assert found["data"] == {}
    assert found["sentences"] == ["code: what training sees differs"]


def test_a_data_only_change_gives_a_release_that_differs_in_data_alone_and_diff_names_it(stocked):
    first = delivered(stocked)
    stocked.fetched("2026-06-10")

    found = diff(stocked, first, delivered(stocked))

    assert found["axes"] == ["data"]
    assert found["sentences"] == ["data: table sales differs"]
    assert found["data"]["sales"]["rows"] == {"a": 3000, "b": 3200, "added": 200, "removed": 0, "changed": 0}
    assert found["code"]["files"] == {"added": [], "removed": [], "changed": []}


def test_a_model_only_change_gives_a_release_that_differs_in_the_model_alone_and_diff_names_it(stocked):
    stocked.write(WARM)
    first = delivered(stocked)

    found = diff(stocked, first, delivered(stocked))

    assert found["axes"] == ["model"]
    assert found["model"]["a"] != found["model"]["b"]
    assert found["sentences"] == ["model: equal code and data, another warm start"]


def test_what_a_replay_promotes_differs_from_its_parent_in_data_alone(stocked):
    story = stocked.run("replay", "--policy", "every:28d").document
    (promoted, *_) = [e["release"] for e in story["timeline"] if e["kind"] == "promoted"]
    parent = stocked.run("show", promoted).document["parents"][0]

    found = diff(stocked, parent, promoted)

    assert found["axes"] == ["data"]
    assert found["data"]["sales"]["rows"]["added"] > 0


# ---------------------------------------------------------------- what trains


def test_editing_the_readme_trains_nothing(stocked):
    stocked.write("A shop.", name="README.md")
    first = train_now(stocked)
    before = trainings(stocked)

    stocked.write("A shop. Really.", name="README.md")
    again = stocked.run("train").document

    assert (first["trained"], again["trained"]) == (True, False)
    assert again["model"] == first["model"]
    assert trainings(stocked) == before
    assert again["delivered"]["promoted"] is True
    assert diff(stocked, first["delivered"]["release"], again["delivered"]["release"])["retrains"] is False


def test_editing_a_test_or_how_rows_are_fetched_trains_nothing(stocked):
    first = train_now(stocked)

    stocked.write("def test_nothing(): pass", name="test_app.py")
    stocked.edit("    return between(since, until)", "    found = between(since, until)\n    return found")

    assert train_now(stocked)["trained"] is False
    assert stocked.run("train").document["model"] == first["model"]


def test_editing_fit_trains_once_and_reverting_the_edit_trains_nothing(stocked):
    first = train_now(stocked)
    stocked.edit('sales["rate"], 1)', 'sales["rate"], 2)')
    edited = train_now(stocked)
    again = train_now(stocked)
    stocked.edit('sales["rate"], 2)', 'sales["rate"], 1)')
    back = train_now(stocked)

    assert [d["trained"] for d in (first, edited, again, back)] == [True, True, False, False]
    assert again["delivered"] is None
    assert back["model"] == first["model"] != edited["model"]
    assert trainings(stocked) == 2


def test_a_second_store_trains_the_same_recipe_to_the_same_ids(stocked, tmp_path):
    here = train_now(stocked)
    elsewhere = tmp_path / "elsewhere"
    stocked.run("fetch", "--since", "2026-01-01", "--until", "2026-05-31", store=elsewhere)

    there = stocked.run("train", "--now", store=elsewhere).document

    assert (there["recipe"], there["model"]) == (here["recipe"], here["model"])
    assert there["delivered"]["release"] == here["delivered"]["release"]


# ---------------------------------------------------------------- revert


def to_the_edited(text: str) -> str:
    return text.replace('sales["rate"], 1)', 'sales["rate"], 2)')


@pytest.fixture(scope="session")
def _kept_releases(tmp_path_factory, _kept_sales) -> tuple[Path, str, str]:
    place = tmp_path_factory.mktemp("releases")
    shutil.copytree(_kept_sales, place / "store")
    shutil.copytree(_kept_sales.parent / "shop", place / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    app = place / "shop" / "app.py"
    with testing.bench(app, place) as bench:
        old = bench.train(now=True).delivered
    app.write_text(to_the_edited(app.read_text()))
    with testing.bench(app, place) as bench:
        bench.fetch("2026-05-31", "2026-06-10")
        new = bench.train(now=True).delivered
    assert old is not None
    assert new is not None
    return place / "store", old.release, new.release


@pytest.fixture
def two_releases(shop, _kept_releases):
    """(shop, old, new): between them `fit` was edited and data came."""
    store, old, new = _kept_releases
    shutil.copytree(store, shop.store_path)
    shop.write(to_the_edited((shop.folder / "app.py").read_text()))
    return shop, old, new


AXES = {"code": ("code", "training_code", "env", "params", "seed"), "data": ("tables",), "model": ("model", "recipe")}


@pytest.mark.parametrize("taken", [["data"], ["code"], ["model"], ["code", "model"], ["code", "data", "model"]])
def test_a_revert_takes_exactly_the_named_axes_and_its_golden_rows_hold(two_releases, taken):
    shop, old, new = two_releases
    flags = ["--all"] if len(taken) == 3 else [f"--{axis}" for axis in taken]

    said = shop.run("revert", *flags, "--now", old)
    made = shop.run("show", said.document["delivered"]["release"]).document

    assert said.code == 0, said.err
    assert shop.champion() == made["id"]
    was = {"old": shop.run("show", old).document, "new": shop.run("show", new).document}
    for axis, fields in AXES.items():
        source = was["old" if axis in taken else "new"]
        assert {f: made[f] for f in fields} == {f: source[f] for f in fields}, axis
    # All that the old one is made of is the old one again, which may be warm; anything else is a release of its own.
    assert (made["id"] == old) == (len(taken) == 3)
    assert made["parents"] == ([] if made["id"] == old else [new])
    # Golden answers were given twice by the mixture itself; where code and model are the old ones, they are the old answers.
    store = shop.store
    golden = {
        n: Golden.from_document(store.objects.get_document(r["golden"])) for n, r in {"made": made, **was}.items()
    }
    store.close()
    assert len(golden["made"].answers) == 32
    assert golden["made"] == golden["old" if "model" in taken else "new"]
    assert trainings(shop) == 2
    assert shop.verifies()


def test_a_reverted_model_answers_as_it_did(two_releases):
    shop, old, new = two_releases
    rows = [{"size": 1.0, "city": "porto"}, {"size": 4.0, "city": "lisbon"}]

    shop.run("revert", "--all", "--now", old)

    assert answers(shop, rows) == answers(shop, rows, old) != answers(shop, rows, new)


def answers(shop, rows, release=None):
    with testing.bench(shop.folder / "app.py", shop.store_path.parent) as bench:
        return bench.answers(rows, release=release)


def test_a_revert_goes_through_the_trial_and_one_that_makes_it_worse_is_kept_out(shop):
    shop.fetched("2026-04-11")
    old = delivered(shop)  # knows nothing of the day on which everything began to cost more
    shop.fetched("2026-07-20").edit('sales["rate"], 1)', 'sales["rate"].tail(1000), 1)')
    shop.edit('(sales["size"], ', '(sales["size"].tail(1000), ')
    new = delivered(shop)

    said = shop.run("revert", "--model", old)

    assert said.code == 1
    assert said.document["delivered"]["verdict"] in {"worse", "undecided"}
    assert said.document["delivered"]["promoted"] is False
    assert shop.champion() == new
    assert [e["kind"] for e in shop.events()][-1] == "tried"


def test_a_revert_of_nothing_names_the_flags(two_releases):
    shop, old, _ = two_releases

    said = shop.run("revert", old)

    assert (said.code, said.document["code"]) == (2, "ST135")


def test_a_revert_to_an_unknown_release_is_not_found(two_releases):
    shop, _, new = two_releases

    said = shop.run("revert", "--all", "f" * 64)

    assert (said.code, said.document["code"]) == (3, "ST473")
    assert shop.champion() == new
