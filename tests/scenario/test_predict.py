"""Batch scoring, as a user meets it: a Parquet file in, a Parquet file out, and clear words where that can't be."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from staytrue import testing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="lanes are handed over Unix sockets")

SLOW = pytest.mark.slow
ROWS = 1_000


def sales(rows: int = ROWS, **columns) -> pa.Table:
    """Rows as they lie in a warehouse, in no special order of keys."""
    rng = np.random.default_rng(5)
    at = [datetime(2026, 6, 1, tzinfo=UTC) + timedelta(minutes=i) for i in range(rows)]
    made = {
        "id": rng.permutation(rows) + 1_000_000,
        "at": pa.array(at, pa.timestamp("us", "UTC")),
        "size": rng.uniform(1.5, 4.5, rows).round(3),
        "city": rng.choice(["lisbon", "porto"], rows),
    } | columns
    return pa.table({name: values for name, values in made.items() if values is not None})


@pytest.fixture(scope="module")
def _kept_champion(tmp_path_factory, _kept_sales) -> Path:
    """The store of 150 days of sales, with a champion."""
    place = tmp_path_factory.mktemp("champion")
    shutil.copytree(_kept_sales.parent / "shop", place / "shop")
    shutil.copytree(_kept_sales, place / "store")
    with testing.bench(place / "shop" / "app.py", place) as bench:
        bench.train()
    return place / "store"


@pytest.fixture
def scored(shop, _kept_champion, tmp_path):
    """`scored(table, *flags)`: what the verb said of a file with this table; `scored.out` is what it wrote."""
    shutil.copytree(_kept_champion, shop.store_path)

    def run(table: pa.Table | None, *flags: str):
        if table is not None:
            pq.write_table(table, run.source)
        return shop.run("predict", str(run.source), str(run.out), "--chunk-rows", "300", *flags)

    run.source, run.out, run.shop = tmp_path / "in.parquet", tmp_path / "out.parquet", shop
    return run


def written(scored) -> dict[str, list]:
    return pq.read_table(scored.out).to_pydict()


def expected(scored, table: pa.Table) -> list[float]:
    """What the champion's model answers in this process."""
    store = scored.shop.store
    model = store.champion().model()
    store.close()
    return np.polyval(model, table.column("size").to_numpy()).tolist()


def test_every_row_has_its_prediction_in_the_order_of_the_input(scored):
    table = sales()

    said = scored(table)

    assert said.code == 0, said.err
    assert (said.document["rows"], said.document["scored"], said.document["refused_rows"]) == (ROWS, ROWS, 0)
    assert pq.read_schema(scored.out).names == ["id", "at", "prediction"]
    assert pq.read_table(scored.out).select(["id", "at"]).equals(table.select(["id", "at"]))
    assert written(scored)["prediction"] == pytest.approx(expected(scored, table))
    assert not scored.out.with_name("out.parquet.part").exists()


def test_the_output_and_the_log_say_which_release_scored_what(scored):
    said = scored(sales())

    noted = pq.read_metadata(scored.out).metadata[b"staytrue"].decode()
    (event,) = scored.shop.events("scored")

    assert said.document["release"] == scored.shop.champion()
    assert said.document["release"] in noted
    assert event["sentence"] == f"Release {said.document['release'][:8]} scored {ROWS:,} rows of in.parquet."
    assert scored.shop.verifies()


def test_two_lanes_give_the_same_file(scored):
    table = sales()
    scored(table)
    one = written(scored)

    said = scored(None, "--lanes", "2", "--restart")

    assert said.code == 0, said.err
    assert written(scored) == one


def test_rows_that_can_not_be_answered_say_why_and_the_others_are_scored(scored):
    size = np.full(ROWS, 3.0)
    size[10], size[500] = 1e6, np.inf
    mask = np.zeros(ROWS, np.bool_)
    mask[20] = True

    said = scored(sales(size=pa.array(size, mask=mask)))

    assert said.code == 1
    assert said.document["refused"] == {"size": {"unit": 1, "null": 1, "nonfinite": 1}}
    rows = written(scored)
    assert [i for i, answer in enumerate(rows["prediction"]) if answer is None] == [10, 20, 500]
    reasons = {i: why for i, why in enumerate(rows["refused"]) if why}
    assert list(reasons) == [10, 20, 500]
    assert "times beyond all that training saw" in reasons[10]
    assert "is null" in reasons[20]
    assert "not a finite number" in reasons[500]


def test_what_is_strange_is_counted_and_answered(scored):
    city = np.array(["lisbon"] * ROWS, object)
    city[3] = "faro"

    said = scored(sales(city=pa.array(city.tolist()), size=np.r_[9.0, np.full(ROWS - 1, 3.0)]))

    assert said.code == 0, said.err
    assert said.document["flagged"] == {"size": {"range": 1}, "city": {"category": 1}}
    assert None not in written(scored)["prediction"]


def test_a_file_in_which_every_row_is_refused_is_written_too(scored):
    said = scored(sales(10, size=np.full(10, 1e9)))

    assert said.code == 1
    assert said.document["scored"] == 0
    assert pq.read_schema(scored.out).field("prediction").type == pa.float64()
    assert written(scored)["prediction"] == [None] * 10


@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_and_one_row(scored, rows):
    said = scored(sales(rows))

    assert said.code == 0, said.err
    assert len(written(scored)["prediction"]) == rows
    assert pq.read_schema(scored.out).names == ["id", "at", "prediction"]


def test_key_and_time_may_be_missing_and_strangers_are_named_once(scored):
    said = scored(sales(id=None, at=None, colour=["red"] * ROWS, nested=[{"a": 1}] * ROWS, rate=[1.0] * ROWS))

    assert said.code == 0, said.err
    assert said.document["ignored"] == ["colour", "nested"]
    assert pq.read_schema(scored.out).names == ["prediction"]


def test_kept_columns_stand_in_the_output_as_they_are(scored):
    table = sales(colour=pa.array(["red", None] * (ROWS // 2)).dictionary_encode(), nested=[{"a": 1}] * ROWS)

    said = scored(table, "--keep", "nested", "--keep", "colour")
    some = pq.read_table(scored.out)
    all_said = scored(None, "--keep", "all", "--restart")
    every = pq.read_table(scored.out)

    assert (said.code, all_said.code) == (0, 0), said.err + all_said.err
    assert some.column_names == ["id", "at", "colour", "nested", "prediction"]
    assert every.column_names == ["id", "at", "size", "city", "colour", "nested", "prediction"]
    assert every.drop_columns("prediction").equals(table.select(every.column_names[:-1]))


def test_whole_numbers_and_small_floats_do_for_floats(scored):
    for size in (np.full(ROWS, 3), np.full(ROWS, 3, np.int8), np.full(ROWS, 3.0, np.float32)):
        said = scored(sales(size=size), "--restart")

        assert said.code == 0, said.err
        assert written(scored)["prediction"] == pytest.approx(expected(scored, sales(size=size)))


@pytest.mark.parametrize(
    "form", ["dictionary", *(pytest.param(form, marks=SLOW) for form in ("large_string", "string_view"))]
)
def test_texts_may_come_in_any_of_their_forms(scored, form):
    city = sales().column("city").combine_chunks()
    made = city.dictionary_encode() if form == "dictionary" else city.cast(getattr(pa, form)())

    said = scored(sales(city=made), "--keep", "city")

    assert said.code == 0, said.err
    assert said.document["flagged"] == {}
    assert written(scored)["city"] == city.to_pylist()


def test_any_release_scores_with_its_own_code(scored):
    old = scored.shop.champion()
    (scored.shop.folder / "app.py").write_text("raise SystemExit('broken')")

    said = scored(sales(), "--release", old[:10])

    assert said.code == 0, said.err
    assert said.document["release"] == old


# ---------------------------------------------------------------- what the app answers


@pytest.fixture
def app_of(scored):
    """`app_of(expression)`: the shop answers with this from now on."""

    def change(answer: str) -> None:
        scored.shop.edit('np.polyval(model, rows["size"])', answer)
        assert scored.shop.run("train", "--now").code == 0

    return change


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param('(rows["size"] > 3).tolist()', "bool", marks=SLOW),
        pytest.param('[len(c) for c in rows["city"]]', "int64", marks=SLOW),
        ('rows["city"]', "string"),
        pytest.param('[[1.0, s] for s in rows["size"]]', "list<item: double>", marks=SLOW),
        ('[{"rate": s} for s in rows["size"]]', "string"),
    ],
)
def test_answers_of_any_kind_have_a_column(scored, app_of, answer, kind):
    app_of(answer)

    said = scored(sales(), "--json")

    assert said.code == 0, said.err
    assert str(pq.read_schema(scored.out).field("prediction").type) == kind
    assert said.document["as_json"] == ("{" in answer)
    assert None not in written(scored)["prediction"]


def test_the_row_on_which_the_app_fails_is_named(scored, app_of):
    app_of('[20.0 if n != 777 else 1 / 0 for n in rows["size"].mul(1000).round().astype(int) - 1000]')
    size = np.full(ROWS, 3.0)
    size[654] = 1.777

    said = scored(sales(size=size))

    assert (said.code, said.document["code"]) == (2, "ST787")
    assert "row 654 " in said.document["message"]
    assert "ZeroDivisionError" in said.document["message"]
    assert not scored.out.exists()


def test_rows_that_kill_the_models_process_are_named_after_three_tries(scored, app_of, tmp_path):
    app_of(
        f'[__import__("os").write(__import__("os").open({str(tmp_path / "tries")!r}, 1025 | 64), b"x") and __import__("os")'
        '._exit(1) if (rows["size"] == 1.777).any() else 1.0 for _ in range(len(rows))]'
    )
    size = np.full(ROWS, 3.0)
    size[654] = 1.777

    said = scored(sales(size=size))

    assert (said.code, said.document["code"]) == (5, "ST788")
    assert "rows 600 to 899" in said.document["message"]
    assert (tmp_path / "tries").read_bytes() == b"xxx"


@pytest.mark.parametrize("forks", [True, pytest.param(False, marks=SLOW)])
def test_a_lane_that_dies_once_is_asked_again(scored, app_of, tmp_path, forks):
    if (
        not forks
    ):  # with a thread in it a process can't be forked, so the worker is the lane, and another one is started
        waiting = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
        scored.shop.edit("import numpy as np\n", f"import numpy as np\n{waiting}\n")
    mark = str(tmp_path / "died")
    app_of(
        f'[__import__("os").path.exists({mark!r}) or (open({mark!r}, "w"), __import__("os")._exit(1)) if rows["size"].iloc[0]'
        " == 1.777 else 1.0 for _ in range(len(rows))]"
    )
    size = np.full(ROWS, 3.0)
    size[300] = 1.777

    said = scored(sales(size=size), "--lanes", "2")

    assert said.code == 0, said.err
    assert os.path.exists(mark)  # noqa: PTH110 - as the app does
    assert len(written(scored)["prediction"]) == ROWS


# ---------------------------------------------------------------- what can't be


@pytest.mark.parametrize(
    ("columns", "flags", "code", "words"),
    [
        ({"size": None}, [], "ST783", "'size' is missing"),
        ({"size": ["3"] * ROWS}, [], "ST783", "'size' is string, expected float64"),
        ({"size": [{"a": 1}] * ROWS}, [], "ST203", "struct"),
        ({"size": [[1.0]] * ROWS}, [], "ST783", "'size' is list<float64>"),
        ({}, ["--keep", "colour"], "ST789", "no such column"),
        ({"prediction": [1] * ROWS}, ["--keep", "all"], "ST789", "Rename it"),
        ({}, ["--lanes", "0"], "ST791", "at least 1"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_its_first_row(scored, columns, flags, code, words):
    said = scored(sales(**columns), *flags)

    assert (said.code, said.document["code"]) == (2, code)
    assert words in said.document["message"]
    assert not scored.out.exists()


@pytest.mark.parametrize("what", ["missing", "text", "directory"])
def test_what_is_no_parquet_file_is_told_so(scored, what):
    if what == "text":
        scored.source.write_text("size,city\n1,porto\n")
    elif what == "directory":
        scored.source.mkdir()

    said = scored(None)

    assert said.document["code"] == ("ST780" if what == "missing" else "ST781")
    assert str(scored.source) in said.document["message"]


def test_a_file_is_not_scored_into_itself_nor_into_a_directory(scored):
    scored(sales())
    into_itself = scored.shop.run("predict", str(scored.source), str(scored.source), "--restart")
    into_directory = scored.shop.run("predict", str(scored.source), str(scored.source.parent))
    nowhere = scored.shop.run("predict", str(scored.source), str(scored.source.parent / "no" / "out.parquet"))

    assert [said.document["code"] for said in (into_itself, into_directory, nowhere)] == ["ST782"] * 3
    assert pq.read_table(scored.source).equals(sales())


def test_an_output_that_is_there_stays_until_restart(scored):
    scored(sales())
    before = scored.out.read_bytes()

    again = scored(None)
    anew = scored(sales(10), "--restart")

    assert (again.code, again.document["code"]) == (4, "ST784")
    assert "--restart" in again.document["message"]
    assert before != scored.out.read_bytes()
    assert (anew.code, anew.document["rows"]) == (0, 10)


def test_a_store_without_a_release_says_what_to_do(stocked, tmp_path):
    pq.write_table(sales(), tmp_path / "in.parquet")

    said = stocked.run("predict", str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"))

    assert (said.code, said.document["code"]) == (3, "ST792")
    assert "staytrue train" in said.document["message"]
