"""`staytrue why`: what a single answer rests on, for answers that a real server gave, and for some that are hard to tell of."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from server import HISTORY, ROW, SHOP, SINCE, UNTIL, serving, until

from staytrue import testing
from staytrue.kernel.traffic import Label
from staytrue.store.block import Layout
from staytrue.store.labels import Labels
from staytrue.store.ledger import Entry, RoleChange
from staytrue.store.records import pack_answers, pack_body
from staytrue.store.segment import SegmentWriter, traffic_folder
from staytrue.store.store import Store, open_store

QUOTE = '    return np.polyval(model, rows["size"])'
DEARER = SHOP.replace(QUOTE, QUOTE + " + 1000")
SECTIONS = ["asked", "release", "training", "moved", "instead"]


def columns(effects: Sequence[Mapping[str, Any]]) -> list[str]:
    return [one["column"] for one in effects]


def words(document: Mapping[str, Any], section: str) -> str:
    return "\n".join(document[section]["sentences"])


# -- answers that a server gave -------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What a server answered, and its store: `ids` by what was asked, `releases` in the order in which they were champion."""

    folder: Path
    ids: dict[str, str] = field(default_factory=dict)
    releases: list[str] = field(default_factory=list)
    known: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def why(self, shop: Any, *arguments: str) -> dict[str, Any]:
        """The document of `staytrue why`, asked once for all the stories of this module."""
        if arguments not in self.known:
            found = shop.run("why", *arguments)
            assert found.code == 0, found.err
            self.known[arguments] = found.document
        return self.known[arguments]


def _give(store_path: Path, release: str) -> None:
    """The challenger's role, with nothing but a shadow."""
    store, now = open_store(store_path), datetime.now(UTC)
    change = RoleChange(role="challenger", release=release, share=0.0, expect_epoch=0)
    entry = Entry(app="shop", key="challenger", at=now, kind="given", sentence="A role.", roles=(change,))
    store.ledger.append([entry], recorded_at=now)
    store.close()


def _ask(server: Any, told: Told, name: str, **row: Any) -> Any:
    got = server.predict({**ROW, **row})
    assert got.status == 200, got
    told.ids[name] = got.json["ids"][0]
    return got


@pytest.fixture(scope="module")
def _told(tmp_path_factory, _kept_server) -> Told:
    """Two champions and a shadow answer a few rows over HTTP; labels come for some of them."""
    place = tmp_path_factory.mktemp("why")
    shutil.copytree(_kept_server, place, dirs_exist_ok=True)
    told = Told(place)
    with serving(place / "store") as server:
        told.releases.append(server.release)
        _ask(server, told, "first", id=7, size=3.0, note="Größe 3 ☂", lift=True)
        _ask(server, told, "strange", id=8, size=9.0, city="faro")
        many = server.predict(*({**ROW, "id": 100 + i, "size": 1 + i / 10} for i in range(30))).json
        labels = [{"id": told.ids["first"], "label": 30.0}]
        labels += [{"id": one, "label": 20 + 3 * (1 + i / 10) + i / 10} for i, one in enumerate(many["ids"])]
        assert server.post("/labels", {"labels": labels}).json["accepted"] == 31
        (place / "shop" / "app.py").write_text(DEARER)
        arguments = [
            "train",
            "--now",
            "--app",
            str(place / "shop" / "app.py"),
            "--store",
            str(place / "store"),
            "--json",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "staytrue", *arguments], capture_output=True, text=True, check=True, cwd=place
        )
        told.releases.append(json.loads(done.stdout)["delivered"]["release"])
        server.answered_by(told.releases[1])
        _ask(server, told, "second", id=7, size=3.0)
        _give(place / "store", told.releases[0])
        until(lambda: _is_shadowed(server, told), "a shadow answers too")
    return told


def _is_shadowed(server: Any, told: Told) -> bool:
    _ask(server, told, "shadowed", id=9, size=4.0)
    store = open_store(told.folder / "store")
    seen = store.traffic().to_pandas()
    store.close()
    return "shadow" in set(seen["arm"][seen["id"] == told.ids["shadowed"]])


@pytest.fixture
def told(_told, served) -> tuple[Any, Told]:
    """The command line on that store."""
    served.store_path = _told.folder / "store"
    return served, _told


def test_an_answer_over_http_is_told_of_in_every_section(told):
    shop, said = told

    document = said.why(shop, said.ids["first"])

    assert [name for name in document if name in SECTIONS] == SECTIONS
    asked = document["asked"]
    assert (asked["arm"], asked["row"]["note"], asked["row"]["built"], asked["label"]) == (
        "champion",
        "Größe 3 ☂",
        None,
        30.0,
    )
    assert asked["loss"] == pytest.approx(abs(asked["answer"] - 30))
    assert asked["standing"]["rows"] == 30
    assert document["release"]["data"][0]["rows"] == 200
    assert document["release"]["before"] is None
    assert "Größe 3 ☂" in words(document, "asked")
    assert all(document[name]["sentences"] for name in SECTIONS)


def test_what_moved_the_answer_is_the_one_column_that_the_model_looks_at(told):
    shop, said = told

    moved = said.why(shop, said.ids["first"])["moved"]

    assert (columns(moved["effects"]), moved["still"], moved["columns"]) == (["size"], 6, 7)
    assert (moved["draws"], moved["unsteady"], moved["again"]) == (64, [], "same")
    assert moved["effects"][0]["direction"] in {"raises", "either"}


def test_the_nearest_rows_of_training_are_there_with_their_labels(told):
    shop, said = told

    training = said.why(shop, said.ids["first"])["training"]

    distances = [one["distance"] for one in training["nearest"]]
    assert (len(distances), distances) == (5, sorted(distances))
    assert all(one["row"]["city"] == "porto" and 22 < one["label"] < 40 for one in training["nearest"][:2])
    assert training["unlike"] == []


def test_a_row_unlike_training_is_told_column_by_column(told):
    shop, said = told

    document = said.why(shop, said.ids["strange"])

    told_of = {one["column"]: one["fault"] for one in document["training"]["unlike"]}
    assert told_of == {"size": "range", "city": "category", "lift": "null", "note": "null"}
    assert "no label is known yet" in words(document, "asked")


def test_what_the_champion_before_and_todays_say_to_the_same_row(told):
    shop, said = told

    first = said.why(shop, said.ids["first"])
    second = said.why(shop, said.ids["second"])

    assert first["instead"]["before"] is None
    assert (first["instead"]["champion"]["release"], first["instead"]["champion"]["difference"]) == (
        said.releases[1],
        pytest.approx(1000),
    )
    assert second["instead"]["before"]["release"] == said.releases[0]
    assert second["instead"]["before"]["difference"] == pytest.approx(-1000)
    assert "today's champion itself" in words(second, "instead")
    assert second["release"]["before"]["differs"] == ["code: files differ, none that training sees"]


def test_a_key_finds_the_newest_answer_and_names_the_others(told):
    shop, said = told

    document = shop.run("why", "--key", "7", "--draws", "0").document

    assert document["id"] == said.ids["second"]
    assert [one["id"] for one in document["asked"]["others"]] == [said.ids["first"]]
    assert said.ids["first"] in words(document, "asked")
    assert document["moved"]["effects"] == []


def test_a_shadow_is_told_of_when_it_is_meant(told):
    shop, said = told

    given = said.why(shop, said.ids["shadowed"])["asked"]
    shadow = said.why(shop, said.ids["shadowed"], "--arm", "shadow")["asked"]

    assert (given["arm"], given["release"], given["others"][0]["arm"]) == ("champion", said.releases[1], "shadow")
    assert (shadow["arm"], shadow["release"]) == ("shadow", said.releases[0])
    assert given["answer"] - shadow["answer"] == pytest.approx(1000)
    assert "which nobody was given" in shadow["sentences"][0]


def test_it_tells_the_same_twice_and_writes_nothing_down(told):
    shop, said = told
    before = len(shop.events())

    once, twice = (shop.run("why", said.ids["second"], "--seed", "5").document for _ in range(2))

    assert once == twice
    assert len(shop.events()) == before


def test_it_works_while_the_code_in_the_folder_is_broken(told):
    shop, said = told
    shop.write("raise RuntimeError('half written')")

    found = shop.run("why", said.ids["first"])

    assert (found.code, found.document["moved"]["again"]) == (0, "same")


def test_it_is_told_in_sentences(told, staytrue):
    shop, said = told

    code, out, err = staytrue("why", said.ids["first"], "--store", shop.store_path)

    assert (code, err) == (0, "")
    assert out.startswith("asked        " + said.ids["first"])
    assert "size 3 " in out
    assert "near: " in out


# -- which prediction -----------------------------------------------------------------------------------------------------


def test_the_beginning_of_an_id_finds_it_and_several_are_listed(told):
    shop, said = told
    id_ = said.ids["first"]

    whole = shop.run("why", id_.replace("-", ""), "--draws", "0")
    begin = shop.run("why", id_[:24], "--draws", "0")
    several = shop.run("why", id_[:8])

    assert (whole.document["id"], begin.document["id"]) == (id_, id_)
    assert (several.code, several.document["code"]) == (2, "ST972")
    assert id_ in several.document["facts"]["ids"] or several.document["facts"]["count"] > 10


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (["01a21519-ca9d-72d7-b7ef-bd842192118f"], 3, "ST973"),
        (["ffffffffffffffffffffffffffffffff"], 3, "ST973"),
        (["00000000"], 3, "ST973"),
        (["--key", "none such"], 3, "ST973"),
        (["--key", "7", "--since", "2126-01-01"], 3, "ST973"),
        (["--key", "7", "--arm", "canary"], 3, "ST973"),
        (["01a2"], 2, "ST971"),
        (["01a21519-ca9d-72d7-b7ef-bd842192118f0"], 2, "ST971"),
        (["01a2-1519ca9d"], 2, "ST971"),
        (["a row"], 2, "ST971"),
        ([""], 2, "ST971"),
        ([], 2, "ST977"),
        (["01a21519", "--key", "7"], 2, "ST977"),
        (["--key", "7", "--draws", "-1"], 2, "ST975"),
        (["--key", "7", "--draws", "1000000"], 2, "ST975"),
        (["--key", "7", "--seed", "-1"], 2, "ST975"),
        (["--key", "7", "--since", "yesterday"], 2, "ST130"),
    ],
)
def test_what_names_no_prediction_is_refused_with_the_next_step(told, arguments, exit_code, code):
    shop, _ = told

    found = shop.run("why", *arguments)

    assert (found.code, found.document["code"]) == (exit_code, code)


def test_an_unknown_id_says_what_ids_look_like_and_what_the_log_holds(told):
    shop, _ = told

    message = shop.run("why", "01a21519-ca9d-72d7-b7ef-bd842192118f").document["message"]

    assert f"{datetime.now(UTC):%Y-%m}" in message
    assert "`ids`" in message
    assert "--key" in message


# -- what is not there any more -------------------------------------------------------------------------------------------


def _training_parts(store: Store, release: str) -> list[str]:
    table = store.table_by_id(next(iter(store.release(release).release.tables.values()))).table
    return [part.object for part in table.parts]


def _free(store_path: Path, names: Sequence[str]) -> None:
    for name in names:
        (store_path / "objects" / name[:2] / name[2:]).unlink()


@pytest.fixture
def copied(told, tmp_path) -> tuple[Any, Told]:
    """A store of its own, to take things out of."""
    shop, said = told
    shutil.copytree(said.folder / "store", tmp_path / "copy", ignore=shutil.ignore_patterns("work", "reserve*"))
    shop.store_path = tmp_path / "copy"
    return shop, said


def test_training_rows_that_are_gone_are_missed_and_golden_rows_lend_their_values(copied):
    shop, said = copied
    store = shop.store
    parts = _training_parts(store, said.releases[0])
    store.close()

    _free(shop.store_path, parts[:4])
    some = shop.run("why", said.ids["first"]).document
    _free(shop.store_path, parts[4:])
    none = shop.run("why", said.ids["first"])

    assert (some["training"]["gone"], some["training"]["looked"], len(some["training"]["nearest"])) == (4, 6, 5)
    assert "4 of the 10 parts" in words(some, "training")
    assert (none.code, none.document["training"]["nearest"]) == (0, [])
    assert "no longer kept" in words(none.document, "training")
    assert (columns(none.document["moved"]["effects"]), none.document["moved"]["draws"]) == (["size"], 32)
    assert "golden rows" in words(none.document, "moved")


def test_a_release_whose_code_is_gone_is_told_of_as_far_as_it_goes(copied):
    shop, said = copied
    store = shop.store
    code = store.release(said.releases[0]).release.code
    store.close()
    _free(shop.store_path, [code])

    found = shop.run("why", said.ids["second"])

    assert found.code == 0
    assert found.document["moved"]["again"] == "same"
    assert "no answer to this row" in words(found.document, "instead")


# -- apps that are hard to tell of: predictions written into the log by hand ---------------------------------------------


@dataclass
class Logged:
    """An app on a bench, its champion, and what it is said to have answered."""

    shop: Any
    release: str
    schema: tuple[tuple[str, str], ...]

    def log(self, row: Mapping[str, Any], answer: Any, *, arm: str = "champion", low: int = 1) -> str:
        at = datetime.now(UTC)
        header = {
            "kind": "predictions",
            "app": "shop",
            "release": self.release,
            "columns": self.schema,
            "key": "id",
            "time": None,
        }
        whole = (int(at.timestamp() * 1000) << 80 | 0x7 << 76 | 0b10 << 62 | low).to_bytes(16, "big")
        block = Layout(self.schema).block({name: [row.get(name)] for name, _ in self.schema})
        body = pack_body(seq=1, at_us=int(at.timestamp() * 1e6), arm=arm, block=block.pack(), requests=[(whole, 1)])
        with SegmentWriter(traffic_folder(self.shop.store_path, "shop", "predictions"), header) as writer:
            writer.append(body, pack_answers([json.dumps([answer]).encode()]))
        return str(UUID(bytes=whole))

    def why(self, id_: str, *arguments: str) -> dict[str, Any]:
        found = self.shop.run("why", id_, *arguments)
        assert found.code == 0, found.err
        return found.document


COLUMNS = (
    ("size", "float64"), ("rooms", "int64"), ("city", "string"), ("kind", "string"), ("lift", "bool"), ("built", "date"),
    ("note", "string"), ("id", "int64"),
)  # fmt: skip


@pytest.fixture
def logged(shop) -> Callable[..., Logged]:
    """The app of server.py with another predict function, trained, and its log still empty."""

    def make(text: str, *, schema: tuple[tuple[str, str], ...] = COLUMNS, history: str = HISTORY) -> Logged:
        shop.write(history, name="shop_history.py").write(text)
        with testing.bench(shop.folder / "app.py", shop.store_path.parent) as bench:
            bench.fetch(SINCE, UNTIL)
            delivered = bench.train().delivered
            assert delivered is not None
        return Logged(shop, delivered.release, schema)

    return make


def test_a_function_that_answers_otherwise_each_time_is_called_so(logged):
    app = logged(
        SHOP.replace(QUOTE, "    return np.polyval(model, rows['size']) + np.random.default_rng().random(len(rows))")
    )

    document = app.why(app.log(ROW, 26.0))

    assert "not deterministic" in words(document, "moved")
    assert "asked twice" in words(document, "moved")


@pytest.mark.slow
def test_a_function_that_looks_at_the_rows_around_a_row_is_called_so(logged):
    app = logged(SHOP.replace(QUOTE, "    return np.polyval(model, rows['size']) - rows['size'].mean()"))

    document = app.why(app.log(ROW, 24.0))

    assert document["moved"]["in_company"] is not None
    assert "rows around a row" in words(document, "moved")


def test_answers_that_are_words_are_moved_by_shares_of_draws(logged):
    app = logged(SHOP.replace(QUOTE, "    return ['large' if size > 3 else 'small' for size in rows['size']]"))

    document = app.why(app.log(ROW, "small"))

    moved = document["moved"]
    assert columns(moved["effects"]) == ["size"]
    assert (moved["effects"][0]["size"], moved["effects"][0]["mean"]) == (None, None)
    assert 0.2 < moved["effects"][0]["share"] < 0.8
    assert document["instead"]["champion"]["same"]


def test_probabilities_are_moved_by_that_of_the_class_that_was_answered(logged):
    app = logged(SHOP.replace(QUOTE, "    return [{'up': s / 10, 'down': 1 - s / 10} for s in rows['size'].tolist()]"))

    moved = app.why(app.log(ROW, {"up": 0.2, "down": 0.8}))["moved"]

    assert (moved["class"], columns(moved["effects"]), moved["effects"][0]["direction"]) == ("down", ["size"], "raises")


def test_a_metric_of_the_users_own_is_asked_in_a_job(logged):
    own = 'metric=lambda answers, labels, rows: 7.0 + rows["size"]'
    app = logged(SHOP.replace('metric="mae"', own))
    id_, other = app.log({**ROW, "id": 5}, 26.0), app.log({**ROW, "id": 6, "size": 1.0}, 23.0, low=2)
    with Labels(app.shop.store_path, "shop") as writer:
        at_us = int(datetime.now(UTC).timestamp() * 1e6)
        writer.add([Label(id=UUID(one).bytes, key=None, label=25.0, at_us=at_us, got_us=at_us) for one in (id_, other)])

    asked = app.why(id_)["asked"]

    assert (asked["loss"], asked["label"], asked["metric"]) == (9.0, 25.0, "<lambda>()")
    assert asked["standing"] == {"rows": 1, "more": 0.0, "as_much": 0.0}


def test_rows_with_lists_nulls_and_answers_within_answers(logged):
    vectors = SHOP.replace('"built", "note"]', '"built", "note", "tags", "vector"]').replace(
        QUOTE, "    return [[[s], {'a': [None or s]}] for s in rows['size']]"
    )
    history = HISTORY.replace(
        '"rate":',
        '"tags": [["a", "ü"][: i % 3] for i in range(n)], "vector": [[float(i), 1.0] for i in range(n)],\n        "rate":',
    )
    schema = (*COLUMNS[:-1], ("tags", "list<string>"), ("vector", "list<float64>"), ("id", "int64"))
    app = logged(vectors, schema=schema, history=history)

    document = app.why(app.log({**ROW, "tags": ["ü", None], "vector": [3.0, 1.0]}, [[2.0], {"a": [2.0]}]))

    assert document["asked"]["row"]["tags"] == ["ü", None]
    assert document["asked"]["answer"] == [[2.0], {"a": [2.0]}]
    assert columns(document["moved"]["effects"]) == ["size"]
    assert document["training"]["nearest"][0]["row"]["vector"][1] == 1.0


@pytest.mark.slow
def test_a_release_that_fails_on_the_drawn_rows_or_before_it_is_told_and_ends_nothing(logged):
    app = logged(
        SHOP.replace(
            QUOTE,
            "    if (rows['size'] > 4.5).any() and len(rows) != 32:\n        raise ValueError('too large')\n" + QUOTE,
        )
    )
    good = app.log(ROW, 26.0)
    bad = app.log({**ROW, "size": 4.6}, 34.0, low=2)

    moved = app.why(good)["moved"]
    worse = app.why(bad)

    assert 0 < moved["effects"][0]["failed"] < 64
    assert "too large" in moved["failure"]
    assert worse["moved"]["again"] == "failed"
    assert "too large" in words(worse, "moved")


@pytest.mark.slow
def test_a_release_that_dies_on_the_row_is_told_of_all_the_same(logged):
    app = logged(SHOP)

    document = app.why(app.log({**ROW, "note": "die"}, 26.0))

    assert document["moved"]["error"]
    assert document["training"]["nearest"]


def test_a_plain_service_tells_its_code_and_what_the_code_before_says(shop):
    text = (
        "from staytrue import App\n\napp = App('shop')\n\n\n@app.predict(examples=[{'price': 2.5, 'count': 4}])\n"
        "def total(rows):\n    return [row['price'] * row['count'] for row in rows]\n"
    )
    releases = []
    for version in (text, text.replace("* row['count']", "* row['count'] * 2")):
        shop.write(version)
        with testing.bench(shop.folder / "app.py", shop.store_path.parent) as bench:
            delivered = bench.deploy(now=True)
            releases.append(delivered.release)
    app = Logged(shop, releases[1], (("price", "float64"), ("count", "int64")))

    document = app.why(app.log({"price": 3.0, "count": 2}, 12.0))

    assert (document["release"]["service"], document["training"]) == (True, None)
    assert document["instead"]["before"]["answer"] == 6.0
    assert "a plain service" in words(document, "release")
    assert "learned from no rows" in words(document, "moved")
    assert shop.run("why", "--key", "3").document["code"] == "ST974"


def test_a_canary_is_called_so_and_a_champion_before_it_that_wants_another_column_is_no_error(logged):
    before = logged(SHOP)
    fewer = SHOP.replace('"size", "rooms", "city", ', '"size", "rooms", ')
    before.shop.write(fewer)
    said = before.shop.run("train", "--now")
    assert said.code == 0, said.err
    schema = tuple(one for one in COLUMNS if one[0] != "city")
    app = Logged(before.shop, said.document["delivered"]["release"], schema)

    document = app.why(app.log(ROW, 26.0, arm="challenger"), "--arm", "canary", "--draws", "0")

    assert document["asked"]["arm"] == "canary"
    assert document["instead"]["before"]["release"] == before.release
    assert "'city' is not in the log of this row" in words(document, "instead")
