"""A plain service: from the function of a calculator to releases that answer, wait, go back and are refused."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server import serving, until

from staytrue import testing
from staytrue.cli.new import make, templates
from staytrue.errors import InvalidInput, NotFound, StaytrueError
from staytrue.kernel.rollout import service_steps
from staytrue.loop.service import service_advice
from staytrue.store.counts import answered_rows
from staytrue.store.ledger import LIVE, Entry, RoleChange
from staytrue.store.store import open_store

TILL = """
import os
import sys

from staytrue import App

app = App("shop")


@app.predict(examples=[{"price": 2.5, "count": 4}, {"price": 10.0, "count": 1, "code": "SALE"}])
def total(rows):
    return [cost(row) for row in rows]


def cost(row):
    if row["code"] == "DIE":
        os._exit(9)
    if row["code"] == "PANDAS":
        return float("pandas" in sys.modules)
    return row["price"] * row["count"] * (0.9 if row["code"] == "SALE" else 1)
"""
ROW = {"price": 3.0, "count": 2}
DEARER = ("* (0.9 if", "* (0.8 if")
"""A change that one of the examples shows."""


@pytest.fixture
def till(shop):
    """The till in place of the app that learns, which lies beside its folder."""
    for name in ("shop_history.py", "app.py"):
        (shop.folder / name).rename(shop.folder.parent / name)
    return shop.write(TILL)


def on_bench(shop):
    return testing.bench(shop.folder / "app.py", shop.store_path.parent)


def deployed(shop, *, now=False):
    with on_bench(shop) as bench:
        return bench.deploy(now=now)


# -- releases -----------------------------------------------------------------------------------------------------------


def test_the_first_release_answers_at_once_and_the_same_code_makes_no_second_one(till):
    first = deployed(till)
    again = deployed(till)

    assert (first.promoted, first.verdict) == (True, "unopposed")
    assert again is None
    with on_bench(till) as bench:
        assert bench.answers([ROW, {**ROW, "code": "SALE"}]) == [6.0, 5.4]
        assert bench.release().release.is_service
        assert "plain service" in repr(bench.release())


def test_code_that_answers_the_same_takes_over_and_code_that_does_not_waits(till):
    old = deployed(till)
    same = deployed(till.edit("def cost(row):", "def cost(row):  # what the customer pays"))
    other = deployed(till.edit(*DEARER))
    again = deployed(till)
    by_hand = deployed(till, now=True)

    assert (same.promoted, same.release != old.release) == (True, True)
    assert (other.promoted, other.verdict) == (False, "undecided")
    assert "row 1 answers 8.0, expected 9.0" in other.sentence
    assert again == other
    assert (by_hand.promoted, by_hand.release, by_hand.verdict) == (True, other.release, "forced")
    assert [event["kind"] for event in till.events() if event["kind"] != "given"] == [
        "deployed",
        "deployed",
        "tried",
        "deployed",
    ]


@pytest.mark.parametrize("old_is_right", [True, False])
def test_an_example_that_comes_with_a_correction_shows_it_and_one_that_comes_alone_does_not(till, old_is_right):
    deployed(till)
    till.edit('{"price": 2.5, "count": 4},', '{"price": 2.5, "count": 4}, {"price": 1.0, "count": 0},')
    if not old_is_right:
        till.edit('return row["price"]', 'return 1.0 if row["count"] == 0 else row["price"]')

    done = deployed(till)

    assert done.promoted is old_is_right
    assert ("of the new release's examples, row 1 answers 1.0, expected 0.0" in done.sentence) is not old_is_right


def test_a_column_that_the_old_code_does_not_know_waits_for_a_canary(till):
    deployed(till)
    till.edit('"count": 4}', '"count": 4, "gift": True}').edit('"count": 1,', '"count": 1, "gift": False,')

    done = deployed(till)

    assert (done.promoted, "'gift'" in done.sentence) == (False, True)


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("return [cost(row) for row in rows]", "return [1 / 0 for row in rows]", "ST303", "ZeroDivisionError"),
        ("return [cost(row) for row in rows]", "return [cost(rows[0])]", "ST304", "gave 1 answers to 2 rows"),
        ("return [cost(row) for row in rows]", 'return [float("nan") for row in rows]', "ST305", "row 0"),
        ("return [cost(row) for row in rows]", "return [object() for row in rows]", "ST306", "object"),
        ("return [cost(row) for row in rows]", "return [float(os.getpid()) for row in rows]", "ST869", "row 0 answers"),
        ('{"price": 2.5, "count": 4}', '{"price": 2.5, "count": "four"}', "ST204", "'count' mixes"),
        (
            '{"price": 2.5, "count": 4}',
            '{"price": {"eur": 2.5}, "count": 4}',
            "ST867",
            "'price' of example 0 is a dict",
        ),
        ('{"price": 2.5, "count": 4}', '{"price": float("inf"), "count": 4}', "ST867", "'price' of example 0 is inf"),
        ('"code": "SALE"}', '"code": None}', "ST867", "'code' is null in every example"),
        ('examples=[{"price": 2.5, "count": 4}, {"price": 10.0, "count": 1, "code": "SALE"}]', "", "ST868", "examples"),
        ("def total(rows):", "def total(model, rows):", "ST116", "asks for a model"),
        ("def total(rows):", "def total():", "ST116", "(model, rows), or (rows)"),
        ("def total(rows):", "def total(rows: set):", "ST111", "set"),
        ("@app.predict(", '@app.predict(inputs={"prise": "flag"}, ', "ST752", "'prise'"),
        ("@app.predict(", '@app.predict(segments=["colour"], ', "ST113", "'colour'"),
    ],
)
def test_what_makes_no_release_is_refused_with_the_reason_and_nothing_changes(till, old, new, code, said):
    with pytest.raises(StaytrueError) as refused:
        deployed(till.edit(old, new))

    assert refused.value.code == code
    assert said in refused.value.message
    assert open_store(till.store_path).apps() == []


def test_a_service_that_hangs_is_ended(till):
    till.edit('app = App("shop")', 'app = App("shop")\napp.policy(timeout="1s")')
    till.edit("return [cost(row) for row in rows]", "import time; time.sleep(600)")

    with pytest.raises(StaytrueError, match="ST339"):
        deployed(till)


def test_an_app_that_trains_takes_no_examples_and_is_not_deployed_as_a_service(shop, bench_of):
    app = (shop.folder / "app.py").read_text()
    with (
        pytest.raises(InvalidInput, match="ST868"),
        bench_of(app.replace("@app.predict(", '@app.predict(examples=[{"size": 1.0}], ')),
    ):
        pass
    with bench_of(app) as bench, pytest.raises(InvalidInput, match="ST870"):
        bench.deploy()


def test_a_service_that_learns_something_is_held_back_until_a_person_says_so(till, shop):
    service = deployed(till)
    for name in ("shop_history.py", "app.py"):
        shop.write((shop.folder.parent / name).read_text(), name=name)
    shop.fetched("2026-02-01")

    held, by_hand = shop.run("train"), shop.run("train", "--now")

    assert (held.code, held.document["delivered"]["verdict"]) == (1, "undecided")
    assert "plain service" in held.document["delivered"]["sentence"]
    assert by_hand.code == 0, by_hand.err
    assert shop.run("revert", "--code", service.release).document["code"] == "ST866"
    back = shop.run("revert", "--all", "--now", service.release)
    assert back.code == 0, back.err
    assert shop.verifies()


# -- the command line --------------------------------------------------------------------------------------------------


def test_every_verb_knows_what_a_service_is(till):
    old = deployed(till)
    new = deployed(till.edit(*DEARER), now=True)

    shown = till.run("show", "champion").document
    compared = till.run("diff", old.release, new.release).document
    trained, fetched, replayed = till.run("train"), till.run("fetch"), till.run("replay")
    status = till.run("status").document

    assert (shown["id"], shown["model"], shown["recipe"], shown["tables"]) == (new.release, None, None, {})
    assert (compared["axes"], compared["retrains"], compared["sentences"]) == (["code"], False, ["code: files differ"])
    assert compared["code"]["files"]["changed"] == ["app.py"]
    assert (trained.code, trained.document["code"]) == (2, "ST871")
    assert "staytrue deploy" in trained.err
    assert (replayed.code, replayed.document["code"]) == (2, "ST872")
    assert (fetched.code, fetched.document["fetched"]) == (0, [])
    assert status["champion"]["release"] == new.release
    assert status["right"]["state"] == "unknown"
    assert "other code" in status["next"]["sentence"]


def test_old_code_is_taken_back_and_nothing_is_lost_by_gc(till):
    old = deployed(till)
    deployed(till.edit(*DEARER), now=True)

    waits = till.run("revert", "--code", old.release)
    back = till.run("revert", "--code", "--now", old.release)
    collected = till.run("gc")

    assert (waits.code, waits.document["delivered"]["verdict"]) == (1, "undecided")
    assert back.code == 0, back.err
    reverted = back.document["delivered"]["release"]
    assert reverted == old.release  # of a service code is all there is: it is the old one again
    assert collected.code == 0
    assert till.verifies()
    store = till.store
    document = store.release(reverted).release
    assert document.code == store.release(old.release).release.code
    assert document.golden == store.release(old.release).release.golden
    with pytest.raises(NotFound, match="ST865"):
        store.release(reverted).model()
    store.close()
    assert till.run("revert", "--model", old.release).document["code"] == "ST454"


def test_a_release_whose_golden_answers_do_not_hold_is_not_reverted_to(till):
    there = till.folder.parent / "there"
    there.write_text("")
    marked = f"os.path.exists({str(there)!r})"
    deployed(till.edit('return row["price"]', f'return (1 if {marked} else 2) * row["price"]'))
    old = till.champion()
    deployed(till.edit(*DEARER), now=True)
    there.unlink()

    said = till.run("revert", "--code", "--now", old)

    assert (said.code, said.document["code"]) == (1, "ST640")


# -- served ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def counter(till):
    """The till, and a server of it that may be changed."""
    deployed(till)
    with serving(till.store_path, "--no-loop") as server:
        yield till, server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server of the till, which may be asked only."""
    place = tmp_path_factory.mktemp("till")
    (place / "app").mkdir()
    (place / "app" / "app.py").write_text(TILL)
    with testing.bench(place / "app", place) as bench:
        bench.deploy()
    with serving(place / "store") as running:
        yield running


def test_a_service_is_asked_in_every_protocol_and_loads_no_pandas(server):
    got = server.predict(ROW, {**ROW, "code": "SALE"}, {**ROW, "code": None})
    assert (got.status, got.json["predictions"], got.flags) == (200, [6.0, 5.4, 6.0], {})
    assert server.predict({**ROW, "code": "PANDAS"}).json["predictions"] == [0.0]
    mlflow = server.post("/invocations", {"dataframe_records": [ROW]})
    assert (mlflow.status, mlflow.json["predictions"]) == (200, [6.0])
    tensors = [
        {"name": "price", "shape": [1], "datatype": "FP64", "data": [3.0]},
        {"name": "count", "shape": [1], "datatype": "INT64", "data": [2]},
    ]
    oip = server.post("/v2/models/shop/infer", {"inputs": tensors})
    assert oip.status == 200, oip.body
    assert oip.json["outputs"][0] == {"name": "predictions", "shape": [1], "datatype": "FP64", "data": [6.0]}
    label = {"id": got.json["ids"][0], "label": 6.5}
    assert server.post("/labels", {"labels": [label]}).json == {"accepted": 1}

    document = server.get("/openapi.json").json
    asked = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert asked == {"rows": [{"price": 2.5, "count": 4}]}
    assert document["components"]["schemas"]["Row"]["required"] == ["price", "count"]


def test_requests_that_are_none_are_refused_by_field(server):
    def faults(row):
        got = server.predict(row)
        return got.status, {name: one["fault"] for name, one in got.errors.items()} if got.status == 422 else got.flags

    assert faults({"price": "3", "count": 2}) == (422, {"price": "type"})
    assert faults({"price": 3.0, "count": 2.5}) == (422, {"count": "type"})
    assert faults({"price": 3.0}) == (422, {"count": "missing"})
    assert faults({"price": None, "count": 2}) == (422, {"price": "null"})
    assert faults({**ROW, "cuont": 1}) == (200, {"cuont": "extra"})
    assert faults({"price": 1e100, "count": -(2**40)}) == (200, {})
    assert faults({**ROW, "code": {"a": 1}}) == (422, {"code": "type"})
    # An answer that is none, and one that never comes.
    assert server.predict({"price": 1e308, "count": 2**40}).code == "ST305"
    assert server.predict({**ROW, "code": "DIE"}).status >= 500
    assert server.predict(ROW).json["predictions"] == [6.0]


def test_a_new_release_takes_over_while_requests_come_and_the_old_code_comes_back(counter):
    till, server = counter
    new = deployed(till.edit(*DEARER), now=True)
    row = {**ROW, "code": "SALE"}

    server.answered_by(new.release, row=row)
    assert server.predict(row).json["predictions"] == [pytest.approx(4.8)]
    back = till.run("revert", "--code", "--now").document["delivered"]["release"]
    server.answered_by(back, row=row)

    assert server.predict(row).json["predictions"] == [pytest.approx(5.4)]


def test_code_on_disk_that_answers_otherwise_than_its_release_did_is_not_served(counter):
    till, server = counter
    old = server.release
    marked = '"staytrue.serve.answerer" in sys.modules'
    # In a job it answers one thing, where it is served another.
    new = deployed(till.edit('return row["price"]', f'return (2 if {marked} else 1) * row["price"]'), now=True)

    failed = until(lambda: till.events("serve_failed"), "an event that says so")

    assert (failed[0]["body"]["code"], failed[0]["body"]["release"]) == ("ST755", new.release)
    assert server.predict(ROW).release == old


def test_a_challenger_is_seen_in_shadow_and_canary_by_the_rows_that_it_answers(counter):
    till, server = counter
    champion = server.release
    waiting = deployed(till.edit(*DEARER)).release
    shadow, canary, _ = service_steps("shadow:20, canary:50%:60%")
    began = datetime.now(UTC) - timedelta(seconds=1)

    def advice(step, since=began, *, over=False):
        store = open_store(till.store_path)
        said = service_advice(store, "shop", step, challenger=waiting, champion=champion, since=since, over=over)
        store.close()
        return said

    assert (advice(shadow).move, advice(shadow, over=True).move) == ("stay", "reject")
    give(till, waiting, 0.0)
    # Shadow answers come when nothing else waits; all but a few rows of ours are shown.
    until(lambda: server.predict(*[ROW] * 5).status == 200 and advice(shadow).move == "pass", "20 rows in shadow")
    give(till, waiting, 0.5)
    until(lambda: server.predict(*[ROW] * 40).status == 200 and advice(canary).move == "pass", "100 rows in canary")

    last = advice(canary)
    assert last.evidence["rows"] >= 100
    assert "0 failed" in last.sentence
    # What came before the step began says nothing about it.
    assert advice(canary, datetime.now(UTC) + timedelta(hours=1)).move == "stay"
    store = open_store(till.store_path)
    counts = answered_rows(store, "shop", began)
    rows = store.traffic().to_pandas()
    store.close()
    assert set(counts) >= {(champion, "champion"), (waiting, "shadow"), (waiting, "challenger")}
    assert counts[waiting, "challenger"] == int(np.sum((rows["release"] == waiting) & (rows["arm"] == "challenger")))
    trip(till, waiting, "errors")
    assert (advice(canary).move, advice(canary).evidence["failed"]) == ("reject", 12)


def trip(shop, release, guard):
    """What the front says of a release that it has cut off."""
    store = open_store(shop.store_path)
    now = datetime.now(UTC)
    body = {"release": release, "role": "challenger", "guard": guard, "rows": 20, "failed": 12}
    entry = Entry(app="shop", key=f"tripped {now}", at=now, kind="tripped", sentence="It fails.", body=body)
    store.ledger.append([entry], recorded_at=now)
    store.close()


def give(shop, release, share):
    """The challenger's role, in the way in which the loop does it."""
    store = open_store(shop.store_path)
    role = store.ledger.role("shop", LIVE, "challenger")
    now = datetime.now(UTC)
    change = RoleChange(role="challenger", release=release, share=share, expect_epoch=role.epoch if role else 0)
    entry = Entry(app="shop", key=f"challenger {now}", at=now, kind="given", sentence="A role.", roles=(change,))
    store.ledger.append([entry], recorded_at=now)
    store.close()


# -- the template ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calculator(tmp_path_factory):
    """The shipped calculator, served."""
    place = tmp_path_factory.mktemp("calculator")
    make(templates()["calculator"], place / "app")
    with testing.bench(place / "app", place) as bench:
        bench.deploy()
    with serving(place / "store") as server:
        yield server


def test_the_template_is_made_and_says_what_to_do_next(tmp_path, capsys):
    from staytrue.cli import main

    assert main(["new", str(tmp_path / "calc"), "--from", "calculator"]) == 0

    assert (tmp_path / "calc" / "test_app.py").is_file()
    assert "staytrue deploy && staytrue up" in capsys.readouterr().out


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.text(alphabet="0123456789.+-*/() e_xj\"'[]\x00é日", max_size=40) | st.text(max_size=40))
def test_whatever_is_calculated_there_is_a_number_or_an_error_that_says_why(calculator, expression):
    got = calculator.post("/predict", json.dumps({"rows": [{"expression": expression}]}).encode())

    if got.status == 200:
        assert math.isfinite(got.json["predictions"][0])
    else:
        assert got.status in {400, 422, 500}
        assert got.code in {"ST303", "ST305", "ST757", "ST759"}
        assert "Traceback" not in got.json["detail"]
