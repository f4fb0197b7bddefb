"""What becomes of a window in quarantine: shown, released, dropped, repaired; and a contract that a person changes."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime

import pytest

from staytrue import testing
from staytrue.engines.process import ProcessPool
from staytrue.kernel.repair import Repair
from staytrue.loop.context import open_context
from staytrue.loop.data import repair
from staytrue.loop.inspect import Inspector
from staytrue.loop.jobs import drive
from staytrue.loop.past import Past
from staytrue.loop.release import checked_out
from staytrue.store import frames, tables
from staytrue.store.ledger import Entry

SHOP = """
import random
from datetime import timedelta
from pathlib import Path

from staytrue import App

app = App("shop")


@app.data(time="at", key="id", label="rate", every="1d", label_after="2d", features=["size", "city"])
def sales(since, until):
    spoil = Path(__file__).with_name("spoil")
    rows = []
    for day in range((until - since).days):
        at = since + timedelta(days=day)
        dice = random.Random(at.toordinal())
        for n in range(40):
            size, id_ = dice.uniform(100, 140), f"{at:%Y%m%d}-{n}"
            rate = 2 * size + dice.gauss(0, 3)
            rows.append({"at": at + timedelta(minutes=n), "id": id_, "size": size, "city": "lisbon", "rate": rate})
    exec(spoil.read_text() if spoil.exists() else "", {"rows": rows, "since": since})
    return rows


@app.train
def fit(sales):
    return float((sales["rate"] / sales["size"]).mean())


@app.predict(metric="mae")
def quote(model, rows):
    return model * rows["size"]
"""
ROBOTS = """
for r in rows:
    robot = int(r["id"][9:]) % 5 == 0
    r["id"] = ("bot-" if robot else "") + r["id"]
    r["rate"] = 480 - r["rate"] if r["at"].day == 4 or (robot and 9 <= r["at"].day < 31) else r["rate"]
"""
CENTS = "for r in rows: r['size'] *= 100 if r['at'].day == 31 else 1"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """30 days of sales, and a 31st whose sizes came in cents."""
    place = tmp_path_factory.mktemp("kept")
    (place / "shop").mkdir()
    (place / "shop" / "app.py").write_text(SHOP)
    with testing.bench(place / "shop" / "app.py", place) as bench:
        bench.fetch("2026-01-01", "2026-01-31")
        (place / "shop" / "spoil").write_text(CENTS)
        assert bench.fetch("2026-01-31", "2026-02-01").quarantined == 1
    return place


@pytest.fixture
def held(kept, shop):
    """That shop, with the command line."""
    shutil.copytree(kept / "store", shop.store_path)
    shutil.copytree(kept / "shop", shop.folder, dirs_exist_ok=True)
    return shop


def one_of(shop):
    (one,) = shop.run("data").document["sources"]
    return one


def again(shop, since="2026-01-31", until="2026-02-01"):
    return shop.run("fetch", "--since", since, "--until", until).document["fetched"][0]


def test_a_window_in_quarantine_is_shown_with_its_column_and_the_likely_cause(held):
    said = held.run("data")
    (window,) = said.document["sources"][0]["quarantine"]
    part = held.run("data", "sales", "--part", window["id"][:8]).document

    assert (said.code, said.document["sources"][0]["held"], window["state"]) == (1, 1, "held")
    assert part["held"]["breaches"][0]["code"] == "ST241"
    assert "100" in part["held"]["breaches"][0]["likely"]
    assert part["columns"]["size"]["min"] > 10_000
    assert held.run("data", "sales", "--part", "2026-01-31").document == part
    assert held.run("data", "sales", "--part", "2026-01-30").document["held"] is None
    assert held.run("data", "sales", "--part", "2027-01-30").code == 3


def test_a_released_window_is_in_the_table_and_its_rows_are_not_refused_again(held):
    id_ = one_of(held)["quarantine"][0]["id"]

    first = held.run("data", "--release", id_[:6], "--because", "a big day")
    second = held.run("data", "--release", id_[:6])
    refetched = again(held)

    assert (first.code, first.document["new"], second.document["new"]) == (0, True, False)
    assert (one_of(held)["rows"], one_of(held)["held"]) == (31 * 40, 0)
    assert (refetched["rows"], refetched["quarantined"]) == (0, 0)
    assert held.run("data", "--drop", id_).document["code"] == "ST934"
    (event,) = held.events("released")
    assert "a big day" in event["sentence"]
    assert held.verifies()


def test_labels_that_come_later_for_a_released_window_come_in(held):
    spoil = held.folder / "spoil"
    spoil.write_text(f"{CENTS}\nfor r in rows: r['rate'] = r['rate'] if r['at'].minute else None")
    again(held)
    before = one_of(held)
    held.run("data", "--release", next(w["id"] for w in before["quarantine"] if w["state"] == "held"))
    waiting = one_of(held)["unlabelled"]
    spoil.write_text(CENTS)

    fetched = again(held)

    assert [w["state"] for w in before["quarantine"]] == ["replaced", "held"]
    assert (waiting, fetched["corrected"], fetched["quarantined"]) == (1, 1, 0)
    assert one_of(held)["unlabelled"] == 0


def test_a_dropped_window_stays_a_gap_and_is_not_asked_for_again(held):
    id_ = one_of(held)["quarantine"][0]["id"]
    again(held, "2026-02-01", "2026-02-03")

    dropped = [held.run("data", "--drop", id_) for _ in range(2)]
    (held.folder / "spoil").write_text("raise SystemExit")
    by_itself = held.run("fetch", "--until", "2026-02-03")
    (held.folder / "spoil").write_text(CENTS)
    asked = again(held)

    assert [d.document["new"] for d in dropped] == [True, False]
    assert by_itself.code == 0
    assert (one_of(held)["gaps"], one_of(held)["held"]) == (1, 0)
    assert (asked["rows"], asked["quarantined"]) == (0, 0)


def test_a_repaired_window_holds_and_its_rows_as_they_came_are_kept(held):
    id_ = one_of(held)["quarantine"][0]["id"]

    wrong = held.run("data", "--repair", id_, "--scale", "size=1/10")
    unread = held.run("data", "--repair", id_, "--scale", "size=x")
    right = held.run("data", "--repair", id_, "--scale", "size=1/100")

    assert (wrong.code, wrong.document["code"], unread.document["code"]) == (1, "ST932", "ST933")
    assert (right.code, right.document["held"]["state"]) == (0, "repaired")
    sizes = held.store.table("sales").to_pandas()["size"]
    assert (len(sizes), sizes.max() < 150) == (31 * 40, True)
    assert held.run("data", "sales", "--part", id_).document["columns"]["size"]["min"] > 10_000
    assert again(held)["quarantined"] == 0
    assert held.store.table("sales").to_pandas()["size"].max() < 150


def test_rows_that_no_table_can_hold_are_not_released(held):
    (held.folder / "spoil").write_text("for r in rows: r['at'] = r['at'].isoformat()")
    again(held)
    id_ = next(w["id"] for w in one_of(held)["quarantine"] if w["state"] == "held")

    said = held.run("data", "--release", id_)

    assert (said.code, said.document["code"]) == (1, "ST931")
    assert one_of(held)["rows"] == 30 * 40


def test_a_check_that_a_person_switched_off_refuses_no_more_and_who_did_it_is_known(held):
    edited = held.run(
        "data", "sales", "--ignore", "size=ST241", "--set", "size.range=0..50000", "--because", "cents are right"
    )
    same = held.run("data", "sales", "--ignore", "size=ST241")
    fetched = again(held)
    listed = held.run("data", "sales", "--versions").document["versions"]
    contract = held.run("data", "sales", "--contract").document["contract"]

    assert (edited.document["new"], same.document["new"]) == (True, False)
    assert (fetched["quarantined"], fetched["parts"]) == (0, 1)
    assert [(v["version"], v["because"]) for v in listed] == [(1, "cents are right")]
    assert contract["version"] == 1
    assert one_of(held)["quarantine"][0]["state"] == "mended"
    assert held.run("data", "sales", "--set", "size=3").document["code"] == "ST935"
    assert held.run("data", "sales", "--set", "nothing.range=0..1").document["code"] == "ST929"


def test_what_the_champion_finds_mislabelled_is_left_out_of_trainings_and_let_in_by_a_person(held):
    """One day's rates are mirrored, and from the ninth of February on those of every fifth row, which is a robot's."""
    (held.folder / "spoil").write_text("")
    held.run("train")
    (held.folder / "spoil").write_text(ROBOTS)
    again(held, "2026-02-01", "2026-02-21")
    ctx = open_context(str(held.folder / "app.py"), held.store_path)
    past, inspector, told = Past.whole(ctx), Inspector(), []
    champion = checked_out(ctx, ctx.store.champion("shop").release)
    with ProcessPool(ctx.store.work / "jobs") as pool:
        drive({"answers": past.answered([champion], 0, len(past.ticks))}, pool)
    for tick in range(len(past.ticks)):
        inspector = Inspector.from_document(json.loads(json.dumps(inspector.document())))
        told += inspector.inspect(past, champion, tick)
        assert inspector.inspect(past, champion, tick) == []
    table = inspector.training_table(ctx.store.objects, past.spec, past.table)
    trusting = inspector.training_table(
        ctx.store.objects, past.spec, past.table, trust={one.held.id for one in told if one.held}
    )

    held_back = {one.held.id: one.held for one in told if one.kind == "held"}
    let_go = {one.held.id for one in told if one.kind == "let_go"}
    left = [one for id_, one in held_back.items() if id_ not in let_go]
    assert [(one.group and one.group.name, f"{one.since:%d}" <= "09") for one in left] == [
        (None, True),
        ("id=bot-*", True),
    ]
    assert inspector.holds(next(p for p in past.table.parts if f"{p.since:%m-%d}" == "02-04"))
    rates = frames.to_frame(tables.read(ctx.store.objects, table), "pandas")
    assert (abs(rates["rate"] - 2 * rates["size"]) < 15).all()
    assert past.table.rows - table.rows == 40 + 8 * (21 - left[1].since.day)
    assert trusting == past.table
    ctx.store.close()


def test_what_is_held_back_is_listed_until_a_person_trusts_it(held):
    held.run("data", "--drop", one_of(held)["quarantine"][0]["id"])
    with_ids = {"a" * 64: None, "b" * 64: "id=bot-*", "c" * 64: None}
    store = held.store
    for n, (id_, group) in enumerate(with_ids.items()):
        evidence = {"held": id_, "since": f"2026-02-0{n + 1}T00:00:00+00:00", "group": group}
        body = {"evidence": evidence, "alarm": "fault", "state": "opened"}
        gone = {"evidence": {**evidence, "let_go": ["a" * 64]}, "alarm": "fault", "state": "resolved"}
        now = datetime(2026, 3, 1, tzinfo=UTC)
        told = Entry(app="shop", key=f"told:{n}", at=now, kind="alarm", sentence="They look wrong.", body=body)
        over = Entry(app="shop", key=f"over:{n}", at=now, kind="alarm", sentence="They are right.", body=gone)
        store.ledger.append([told, *([over] if n == 2 else [])], recorded_at=now)
    store.close()

    before = held.run("data")
    trusted = [held.run("data", "--release", "bbbb", "--because", "a new shop") for _ in range(2)]
    after = held.run("data")

    assert [one["state"] for one in before.document["held_back"]] == ["let_go", "held", "let_go"]
    assert (before.code, after.code) == (1, 0)
    assert [one.document["new"] for one in trusted] == [True, False]
    assert [one["state"] for one in after.document["held_back"]] == ["let_go", "trusted", "let_go"]


class Overtaken(dict):
    """A repair in the middle of which somebody else does something."""

    def __init__(self, repair, meanwhile):
        super().__init__(repair)
        self.meanwhile = [meanwhile]

    def items(self):
        while self.meanwhile:
            self.meanwhile.pop()()
        return super().items()


def test_a_repair_that_a_fetch_overtakes_is_made_anew_on_what_it_brought(held):
    id_ = one_of(held)["quarantine"][0]["id"]
    ctx = open_context(str(held.folder / "app.py"), held.store_path)
    overtaken = Overtaken({"size": "1/100"}, lambda: again(held, "2026-02-01", "2026-02-02"))

    decided = repair(ctx, ctx.app.sources["sales"].spec, id_, Repair(scale=overtaken), by="ada", because=None)
    ctx.store.close()

    assert decided.new
    assert one_of(held)["rows"] == 32 * 40
    assert held.verifies()
