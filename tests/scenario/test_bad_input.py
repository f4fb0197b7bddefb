"""Bad input: a clear error with a code, the champion untouched, the event in the log, nothing half-written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from staytrue import Corrupt, InvalidInput, NotFound, Refused, Unavailable, testing
from staytrue.app import load
from staytrue.store.store import open_store
from staytrue.store.verify import verify

SHOP = """
import math
import threading
import time
from datetime import timedelta
from pathlib import Path

from staytrue import App

app = App("shop")
app.policy(holdout=40, trial="backtest, shadow:20", watch_rows=0)


def good(since, until):
    for day in range((until - since).days):
        at = since + timedelta(days=day)
        for n in range(20):
            size = n % 5
            yield {"at": at + timedelta(minutes=n), "id": f"{at:%Y%m%d}-{n}", "size": size + 0.5, "n": n, "rate": 10.0 + 2 * size}


@app.data(time="at", key="id", label="rate", every="1d", features=["size", "n"])
def sales(since, until):
    spoil = Path(__file__).with_name("spoil")
    rows = list(good(since, until))
    scope = {"rows": rows, "since": since, "until": until, "timedelta": timedelta, "math": math, "good": good}
    exec(spoil.read_text() if spoil.exists() else "", scope)
    return scope["rows"]


@app.train
def fit(sales):
    return float(sales["rate"].mean())


@app.predict(metric="mae")
def quote(model, rows):
    return [model] * len(rows)
"""
"""A shop whose source does to `rows` what the file `spoil` beside it says."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """The shop with 30 days and a champion, made once."""
    place = tmp_path_factory.mktemp("kept")
    (place / "app.py").write_text(SHOP)
    with testing.bench(place / "app.py", place) as bench:
        bench.fetch("2026-01-01", "2026-01-31")
        assert bench.train().promoted
    return place


@pytest.fixture(scope="module")
def shared(kept, tmp_path_factory):
    """One bench for everything that is refused at the door: the table is the same afterwards."""
    place = tmp_path_factory.mktemp("shared")
    shutil.copytree(kept, place, dirs_exist_ok=True)
    with testing.bench(place / "app.py", place) as bench:
        bench.spoil = place / "spoil"
        yield bench


@pytest.fixture
def door(shared):
    """`door(spoil)` fetches a spoilt day; afterwards champion and table must be what they were and the store must verify."""
    before = (shared.release().id, shared.store.table("sales").table.id)

    def fetch(spoil: str, since="2026-01-31", until="2026-02-01"):
        shared.spoil.write_text(spoil)
        return shared.fetch(since, until)

    yield fetch
    assert (shared.release().id, shared.store.table("sales").table.id) == before
    assert verify(shared.store.objects, shared.store.ledger).problems == []


def newest(bench):
    return max(bench.log(), key=lambda event: event.seq)


# ---------------------------------------------------------------- the source


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        pytest.param("for r in rows: r['price'] = r.pop('size')", "ST231", id="a wrong column"),
        pytest.param("for r in rows: r['size'] = 'large'", "ST233", id="another dtype"),
        pytest.param("for r in rows: r['id'] = 'same'", "ST234", id="duplicate keys"),
        pytest.param("rows[3]['id'] = None", "ST235", id="a row without a key"),
        pytest.param("rows[3]['at'] = None", "ST236", id="a row without a time"),
        pytest.param("for r in rows: r['at'] = r['at'].replace(tzinfo=None)", "ST237", id="naive times"),
        pytest.param("for r in rows: r['at'] = r['at'].isoformat()", "ST237", id="times as text"),
        pytest.param("rows[3]['at'] = until", "ST238", id="a row on the far border of the window"),
        pytest.param("rows = list(good(since - timedelta(days=9), until))", "ST238", id="rows outside the window"),
        pytest.param("rows[3]['rate'] = math.inf", "ST239", id="an infinite label"),
        pytest.param("rows[3]['rate'] = math.nan", "ST239", id="a NaN label"),
        pytest.param(
            "rows = [{**r, 'id': f'{i}'} for i, r in enumerate(rows * 11)]", "ST240", id="eleven times the usual rows"
        ),
    ],
)
def test_rows_that_break_the_contract_go_into_quarantine_and_the_log_says_why(shared, door, spoil, code):
    fetched = door(spoil)

    assert (fetched.rows, fetched.parts, fetched.quarantined) == (0, 0, 1)
    assert code in {b.code for b in fetched.breaches if b.severity == "refuse"}
    assert all(b.sentence for b in fetched.breaches)
    assert code in {b["code"] for e in shared.log("quarantined") for b in e.body["breaches"]}


def test_a_source_that_raises_is_unavailable_and_the_log_holds_its_words(shared, door):
    with pytest.raises(Unavailable) as caught:
        door("raise ConnectionError('the database is down')")

    assert caught.value.code == "ST621"
    assert "the database is down" in caught.value.message
    assert newest(shared).kind == "fetch_failed"
    assert newest(shared).body["code"] == "ST621"


@pytest.mark.parametrize("nothing", ["rows = None", "rows = 7", "rows = 'rows'", "rows = [1, 2]"])
def test_a_source_that_gives_no_frame_is_named_with_what_it_gave(shared, door, nothing):
    with pytest.raises(InvalidInput) as caught:
        door(nothing)

    assert caught.value.code.startswith("ST20")
    assert newest(shared).kind == "fetch_failed"


def test_a_quiet_day_of_a_known_source_is_no_error(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "shop")
    (tmp_path / "shop" / "spoil").write_text("rows = []")
    with testing.bench(tmp_path / "shop" / "app.py", tmp_path / "shop") as bench:
        fetched = bench.fetch("2026-01-31", "2026-02-02")

    assert (fetched.rows, fetched.quarantined, fetched.breaches) == (0, 0, ())


def test_a_source_that_never_gave_a_row_is_said_so_and_nothing_is_kept(tmp_path):
    (tmp_path / "app.py").write_text(SHOP)
    (tmp_path / "spoil").write_text("rows = []")
    with testing.bench(tmp_path / "app.py", tmp_path) as bench:
        with pytest.raises(InvalidInput) as caught:
            bench.fetch("2026-01-01", "2026-01-11")

        assert caught.value.code == "ST622"
        assert [e.kind for e in bench.log()] == ["fetch_failed"]
        assert verify(bench.store.objects, bench.store.ledger).problems == []


def test_one_spoilt_day_among_good_ones_is_set_apart_alone(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "shop")
    (tmp_path / "shop" / "spoil").write_text("for r in rows: r['id'] = 'same' if r['at'].day == 2 else r['id']")
    with testing.bench(tmp_path / "shop" / "app.py", tmp_path / "shop") as bench:
        fetched = bench.fetch("2026-01-31", "2026-02-04")
        assert (fetched.parts, fetched.quarantined) == (3, 1)

        (tmp_path / "shop" / "spoil").unlink()
        mended = bench.fetch("2026-01-31", "2026-02-04")

        assert (mended.rows, mended.quarantined) == (20, 0)
        assert bench.store.table("sales").table.rows == 34 * 20


def test_a_source_that_hangs_is_stopped_at_its_deadline(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "shop")
    text = (tmp_path / "shop" / "app.py").read_text().replace("watch_rows=0", "watch_rows=0, timeout='2s'")
    (tmp_path / "shop" / "app.py").write_text(text)
    (tmp_path / "shop" / "spoil").write_text("import time; time.sleep(600)")
    with testing.bench(tmp_path / "shop" / "app.py", tmp_path / "shop") as bench:
        with pytest.raises(Unavailable) as caught:
            bench.fetch("2026-01-31", "2026-02-01")

        assert caught.value.code == "ST621"
        assert newest(bench).kind == "fetch_failed"


# ---------------------------------------------------------------- training and answers


@pytest.fixture
def edited(kept, tmp_path):
    """`edited(old, new, ...)`: a bench on a copy of the shop whose app was changed."""
    benches = []

    def make(*changes: tuple[str, str]):
        place = tmp_path / f"shop{len(benches)}"
        shutil.copytree(kept, place)
        text = (place / "app.py").read_text()
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (place / "app.py").write_text(text)
        context = testing.bench(place / "app.py", place)
        benches.append(context)
        return context

    return make


MEAN = '    return float(sales["rate"].mean())'
ANSWER = "    return [model] * len(rows)"


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        pytest.param((MEAN, "    raise ZeroDivisionError('no sales')"), InvalidInput, "ST361", id="raises"),
        pytest.param((MEAN, "    return None"), InvalidInput, "ST310", id="gives None"),
        pytest.param((MEAN, "    return threading.Lock()"), InvalidInput, "ST311", id="gives what can't be stored"),
        pytest.param((MEAN, "    import os; os._exit(3)"), Unavailable, "ST336", id="dies"),
        pytest.param((ANSWER, "    return [model]"), InvalidInput, "ST304", id="answers too few rows"),
        pytest.param((ANSWER, "    return model"), InvalidInput, "ST304", id="answers once"),
        pytest.param((ANSWER, "    return [math.nan] * len(rows)"), InvalidInput, "ST305", id="answers NaN"),
        pytest.param((ANSWER, "    return [None] * len(rows)"), InvalidInput, "ST305", id="answers None"),
        pytest.param((ANSWER, "    return [object()] * len(rows)"), InvalidInput, "ST306", id="answers a wrong type"),
        pytest.param((ANSWER, "    return rows['no_such_column']"), InvalidInput, "ST303", id="can't answer"),
    ],
)
def test_what_can_not_be_trained_or_answered_is_refused_and_the_champion_stays(edited, change, error, code):
    with edited(change) as bench:
        champion = bench.release().id
        with pytest.raises(error) as caught:
            bench.train()

        assert caught.value.code == code
        assert bench.release().id == champion
        assert (newest(bench).kind, newest(bench).body["code"]) == ("train_failed", code)
        assert verify(bench.store.objects, bench.store.ledger).problems == []


def test_a_training_that_hangs_is_stopped_at_its_deadline(edited):
    with edited((MEAN, "    time.sleep(600)"), ("watch_rows=0", "watch_rows=0, timeout='2s'")) as bench:
        champion = bench.release().id
        with pytest.raises(Refused) as caught:
            bench.train()

        assert caught.value.code == "ST339"
        assert "longer than its 2 s" in caught.value.message
        assert bench.release().id == champion
        assert newest(bench).kind == "train_failed"


def test_a_challenger_whose_training_raises_in_a_replay_is_rejected_and_life_goes_on(edited):
    broken = "    if len(sales) > 500:\n        raise ValueError('too many sales')\n"
    with edited((MEAN, broken + MEAN)) as bench:
        story = bench.replay(["every:2d"], since="2026-01-10")

    (lived,) = story["policies"]
    assert (lived["promoted"], lived["rejected"] > 0) == (0, True)
    assert lived["loss"] is not None
    said = next(e for e in story["timeline"] if e["kind"] == "rejected" and "too many sales" in e["sentence"])
    assert said["evidence"]["code"] == "ST361"


@pytest.mark.parametrize("spoilt", ["losses[0] = np.nan", "raise ValueError('no')"])
def test_a_metric_that_gives_no_finite_loss_a_row_promotes_nobody(edited, spoilt):
    own = f"""
import numpy as np


def own(answers, labels, rows):
    losses = np.abs(np.asarray(answers, float) - np.asarray(labels, float))
    {spoilt}
    return losses


app = App("shop")"""
    with edited(('\napp = App("shop")', own), ('metric="mae"', "metric=own")) as bench:
        champion = bench.release().id
        story = bench.replay(["every:5d"], since="2026-01-10")

        (lived,) = story["policies"]
        assert (lived["promoted"], lived["loss"]) == (0, None)
        alarm = next(e for e in story["timeline"] if e["kind"] == "alarm")
        assert alarm["evidence"]["alarm"] == "system"
        assert alarm["evidence"]["code"] in {"ST527", "ST528"}
        assert bench.release().id == champion
        assert verify(bench.store.objects, bench.store.ledger).problems == []


# ---------------------------------------------------------------- the store


def test_a_damaged_object_is_named_by_verify_and_never_read_as_if_it_were_whole(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "shop")
    store = open_store(tmp_path / "shop" / "store")
    part = store.table("sales").table.parts[0].object
    (file,) = (p for p in (tmp_path / "shop" / "store").rglob("*") if part in {p.name, p.parent.name + p.name})
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)

    with pytest.raises(Corrupt):
        store.table("sales").to_pandas()
    report = verify(store.objects, store.ledger)
    store.close()

    assert [p.digest for p in report.problems] == [part]


def test_a_ledger_of_other_bytes_is_corrupt_and_left_as_it_is(kept, tmp_path, staytrue):
    shutil.copytree(kept, tmp_path / "shop")
    ledger = tmp_path / "shop" / "store" / "ledger.db"
    ledger.write_bytes(b"no database" * 1000)

    code, _, err = staytrue("log", "--store", tmp_path / "shop" / "store")

    assert code == 1
    assert "ST412" in err
    assert "Traceback" not in err
    assert ledger.read_bytes() == b"no database" * 1000


def test_a_model_under_a_foreign_key_is_not_loaded(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "shop")
    key = tmp_path / "shop" / "store" / "key"
    key.chmod(0o600)
    key.write_bytes(bytes(32))
    with testing.bench(tmp_path / "shop" / "app.py", tmp_path / "shop") as bench, pytest.raises(Refused) as caught:
        bench.answers([{"size": 1.0, "n": 2}])

    assert caught.value.code == "ST313"


def test_two_processes_on_one_store_leave_one_champion_and_a_whole_store(kept, tmp_path):
    place = tmp_path / "shop"
    shutil.copytree(kept, place)
    (place / "app.py").write_text(SHOP.replace(MEAN, '    return float(sales["rate"].median())'))
    where = ["--app", place / "app.py", "--store", place / "store", "--json"]
    jobs = [["train", "--now"], ["replay", "--policy", "every:5d", "--since", "2026-01-10"], ["train", "--now"]]

    running = [
        subprocess.Popen(
            [sys.executable, "-m", "staytrue", *job, *where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for job in jobs
    ]
    ended = [(*p.communicate(timeout=120), p.returncode) for p in running]

    assert all(code in {0, 4} for _, _, code in ended), ended
    assert ended[1][2] == 0
    store = open_store(place / "store")
    assert store.champion("shop") is not None
    assert len([e for e in store.ledger.events("shop", "live") if e.kind == "trained"]) == 1
    assert verify(store.objects, store.ledger).problems == []
    store.close()


# ---------------------------------------------------------------- an app written wrong


APP = """
from staytrue import App
app = App("shop")

@app.data(time="at", key="id", label="y")
def sales(since, until):
    return []

@app.train
def fit(sales):
    return 1

@app.predict(metric="mae", segments=["city"])
def quote(model, rows):
    return [model] * len(rows)
"""


@pytest.mark.parametrize(
    ("old", "new", "error", "code"),
    [
        ('App("shop")', 'App("Shop")', InvalidInput, "ST102"),
        ('App("shop")', 'App("")', InvalidInput, "ST102"),
        ('App("shop")', 'App("s" * 64)', InvalidInput, "ST102"),
        ('App("shop")', "App(7)", InvalidInput, "ST102"),
        ('App("shop")', 'App("../shop")', InvalidInput, "ST102"),
        ('time="at", ', "", InvalidInput, "ST110"),
        ('key="id", ', "", InvalidInput, "ST110"),
        ('key="id"', "key=7", InvalidInput, "ST110"),
        ('key="id"', 'key="at"', InvalidInput, "ST243"),
        (', label="y"', "", InvalidInput, "ST109"),
        ('label="y"', 'label="y", every="daily"', InvalidInput, "ST103"),
        ('label="y"', 'label="y", every="0s"', InvalidInput, "ST110"),
        ('label="y"', 'label="y", label_after="-1d"', InvalidInput, "ST103"),
        ('label="y"', 'label="y", features=["y"]', InvalidInput, "ST243"),
        ('label="y"', 'label="y", snapshot=True', InvalidInput, "ST110"),
        ("def sales(since, until)", "def sales(since)", InvalidInput, "ST116"),
        ("def sales(since, until)", "def params(since, until)", InvalidInput, "ST110"),
        ("def fit(sales)", "def fit(purchases)", InvalidInput, "ST111"),
        ("def fit(sales)", "def fit(sales: dict)", InvalidInput, "ST111"),
        ("@app.train\n", "@app.train\n@app.train\n", InvalidInput, "ST111"),
        ("def quote(model, rows)", "def quote(rows)", InvalidInput, "ST116"),
        ('metric="mae"', 'metric="mea"', InvalidInput, None),
        ('metric="mae"', 'metric="pinball:2"', InvalidInput, None),
        ('metric="mae"', "metric=3", InvalidInput, None),
        ('segments=["city"]', 'segments="city"', InvalidInput, "ST112"),
        ('segments=["city"]', 'segments=["y"]', InvalidInput, "ST113"),
        ('segments=["city"]', 'segments=["at"]', InvalidInput, "ST113"),
        ('App("shop")\n', 'App("shop")\napp.policy(retrain="sometimes")\n', InvalidInput, "ST104"),
        ('App("shop")\n', 'App("shop")\napp.policy(window="sometimes")\n', InvalidInput, "ST103"),
        ('App("shop")\n', 'App("shop")\napp.policy(windows="all")\n', InvalidInput, "ST106"),
        ('App("shop")\n', 'App("shop")\napp.policy(alpha=2)\n', InvalidInput, "ST106"),
        ('App("shop")\n', 'App("shop")\napp.policy(trial="tea, biscuits")\n', InvalidInput, "ST107"),
        ('App("shop")\n', 'App("shop")\napp.policy(7)\n', InvalidInput, "ST104"),
        ('App("shop")\n', 'App("shop")\nother = App("other")\n', InvalidInput, "ST115"),
        ('app = App("shop")', "app = 7", InvalidInput, "ST115"),
        ("from staytrue import App", "from staytrue import App, Cake", InvalidInput, "ST115"),
        ("    return 1", "    return 1 +", InvalidInput, "ST115"),
        ("    return 1\n", "    return 1\n\nraise SystemExit(1)\n", InvalidInput, "ST115"),
    ],
)
def test_an_app_that_is_written_wrong_is_told_where(tmp_path, monkeypatch, *, old, new, error, code):
    assert APP.count(old) == 1
    (tmp_path / "app.py").write_text(APP.replace(old, new))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "app", raising=False)

    with pytest.raises(error) as caught:
        load(str(tmp_path / "app.py"))

    assert caught.value.code == code if code else caught.value.code.startswith("ST")
    assert len(caught.value.message) > 20


def test_no_app_at_that_place_is_not_found(tmp_path, staytrue):
    with pytest.raises(NotFound) as caught:
        load(str(tmp_path / "nowhere.py"))
    code, out, err = staytrue("replay", "--app", tmp_path / "nowhere.py", "--store", tmp_path / "store")

    assert caught.value.code == "ST114"
    assert (code, out) == (3, "")
    assert "ST114" in err
    assert "Traceback" not in err
    assert not (tmp_path / "store").exists()


def test_a_verb_that_does_not_exist_is_wrong_use(staytrue):
    code, _, err = staytrue("bake")

    assert code == 2
    assert "replay" in err
