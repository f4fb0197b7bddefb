"""Where rows come from: any frame, several sources, snapshots, corrections, labels that come late."""

from __future__ import annotations

import pytest

from staytrue import testing

DICTS = """
from datetime import timedelta

from staytrue import App

app = App("shop")
app.policy(holdout=40, trial="backtest, shadow:20", watch_rows=0)


def dicts(since, until):
    return [
        {"at": since + timedelta(days=d, minutes=n), "id": f"{since + timedelta(days=d):%Y%m%d}-{n}", "size": n % 5 + 0.5,
         "city": "porto" if n % 2 else "lisbon", "n": n, "rate": 10.0 + 2 * (n % 5)}
        for d in range((until - since).days) for n in range(20)
    ]


@app.data(time="at", key="id", label="rate", every="1d")
def sales(since, until):
    rows = dicts(since, until)
    return rows


@app.train
def fit(sales):
    return {"kind": type(sales).__module__.partition(".")[0], "columns": sorted(map(str, COLUMNS(sales)))}


@app.predict(metric="mae")
def quote(model, rows):
    assert type(rows).__module__.partition(".")[0] == model["kind"], type(rows)
    assert "rate" not in COLUMNS(rows)
    return [10.0] * SIZE(rows)


def COLUMNS(frame):
    return frame.column_names if hasattr(frame, "column_names") else list(frame.columns)


def SIZE(frame):
    return len(frame)
"""

GIVEN = {
    "dicts": "rows",
    "columns": "{name: [row[name] for row in rows] for name in rows[0]}",
    "pandas": "__import__('pandas').DataFrame(rows)",
    "polars": "__import__('polars').DataFrame(rows)",
    "pyarrow": "__import__('pyarrow').Table.from_pylist(rows)",
    "duckdb": "__import__('duckdb').from_arrow(__import__('pyarrow').Table.from_pylist(rows))",
}


@pytest.mark.parametrize("given", ["columns", "pandas", "polars", "pyarrow", "duckdb"])
def test_whatever_frame_a_source_gives_the_table_is_the_same(bench_of, given):
    if given not in {"columns", "pandas"}:
        pytest.importorskip(given)
        pytest.importorskip("pyarrow")

    tables = []
    for kind in ("dicts", given):
        with bench_of(DICTS.replace("    return rows\n", f"    return {GIVEN[kind]}\n")) as bench:
            fetched = bench.fetch("2026-01-01", "2026-01-06")
            tables.append(bench.store.table("sales").table.id)

    assert (fetched.rows, fetched.quarantined) == (100, 0)
    assert {(b.code, b.severity) for b in fetched.breaches} == {("ST926", "warn")}  # its days are alike
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("library", "annotation"), [("pandas", "pd.DataFrame"), ("polars", "pl.DataFrame"), ("pyarrow", "pa.Table")]
)
def test_training_and_answers_get_the_frame_that_the_annotation_says(bench_of, library, annotation):
    pytest.importorskip(library)
    text = DICTS.replace("def fit(sales)", f"def fit(sales: {annotation!r})")

    with bench_of(text) as bench:
        bench.fetch("2026-01-01", "2026-01-06")
        training = bench.train()
        answers = bench.answers([{"at": bench.now, "id": "x", "size": 1.5, "city": "porto", "n": 1}])

    assert training.model["kind"] == library
    assert training.model["columns"] == ["city", "n", "rate", "size"]
    assert answers == [10.0]


SEVERAL = """
from datetime import timedelta

from staytrue import App

app = App("shop")
app.policy(holdout=40, trial="backtest, shadow:20", watch_rows=0)


@app.data(time="at", key="id", label="rate", features=["at", "n"])
def sales(since, until):
    days = range((until - since).days)
    stamp = lambda d, n: since + timedelta(days=d, minutes=n)
    return [{"at": stamp(d, n), "id": f"{stamp(d, n):%m%d}-{n}", "n": n, "rate": float(n)} for d in days for n in range(20)]


@app.data(time="day", key="id", every="1d")
def weather(since, until):
    days = [since + timedelta(days=d) for d in range((until - since).days)]
    return [{"day": day, "id": f"{day:%m%d}", "sun": 8.0} for day in days]


@app.data(key="sku", snapshot=True)
def catalogue():
    return [{"sku": f"s{n}", "price": 2.0} for n in range(3)]


@app.train
def fit(sales, weather, catalogue):
    newest = {"sales": str(sales["at"].max()), "weather": str(weather["day"].max())}
    return {**newest, "skus": sorted(catalogue["sku"]), "days": len(weather)}


@app.predict(metric="mae")
def quote(model, rows):
    return [9.5] * len(rows)
"""


def test_several_sources_and_a_snapshot_are_handed_to_training_by_name(bench_of):
    with bench_of(SEVERAL) as bench:
        bench.fetch("2026-01-01", "2026-02-10")
        model = bench.train().model
        sources = set(bench.release().release.tables)

    assert sources == {"sales", "weather", "catalogue"}
    assert (model["days"], model["skus"]) == (40, ["s0", "s1", "s2"])


def test_training_sees_the_newest_snapshot_only(bench_of):
    with bench_of(SEVERAL) as bench:
        bench.fetch("2026-01-01", "2026-01-20")
        bench.fetch("2026-01-20", "2026-02-10")
        model = bench.train().model

    assert model["skus"] == ["s0", "s1", "s2"]


def test_a_snapshot_that_has_not_changed_makes_no_new_version(bench_of):
    with bench_of(SEVERAL) as bench:
        first = bench.fetch("2026-01-01", "2026-01-20", source="catalogue")
        again = bench.fetch("2026-01-20", "2026-02-10", source="catalogue")

    assert (first.rows, again.rows) == (3, 0)
    assert first.table == again.table


def test_a_replay_gives_a_second_source_up_to_the_same_moment_and_no_further(bench_of):
    with bench_of(SEVERAL) as bench:
        bench.fetch("2026-01-01", "2026-02-10")
        story = bench.replay(["every:7d"], since="2026-01-15")
        first = bench.store.release(next(e["release"] for e in story["timeline"] if e["kind"] == "deployed"))
        model = first.model()

    assert model["sales"].startswith("2026-01-14")
    assert model["weather"].startswith("2026-01-14")
    assert model["skus"] == ["s0", "s1", "s2"]


def test_a_corrected_day_becomes_a_new_version_and_both_stay(kept_and_corrected):
    bench, before, after = kept_and_corrected

    assert after.corrected == 1
    assert before != after.table
    assert bench.store.table_by_id(before).to_pandas()["rate"].max() == 18.0
    assert bench.store.table_by_id(after.table).to_pandas()["rate"].max() == 99.0
    assert [e.body["corrected"] for e in bench.log("fetched")] == [0, 1]


@pytest.fixture
def kept_and_corrected(tmp_path):
    text = (
        DICTS.replace("    return rows\n", "    return fixed(rows)\n")
        + """

def fixed(rows):
    from pathlib import Path
    if Path(__file__).with_name("fixed").exists():
        rows[0]["rate"] = 99.0 if rows[0]["at"].day == 3 else rows[0]["rate"]
    return rows
"""
    )
    (tmp_path / "app.py").write_text(text)
    with testing.bench(tmp_path / "app.py", tmp_path) as bench:
        bench.fetch("2026-01-01", "2026-01-06")
        before = bench.store.table("sales").table.id
        (tmp_path / "fixed").write_text("")
        yield bench, before, bench.fetch("2026-01-03", "2026-01-04")


def test_a_label_that_was_not_known_yet_is_asked_for_again(tmp_path):
    text = DICTS.replace('every="1d"', 'every="1d", label_after="2d"').replace(
        "    return rows\n", "    return [{**r, 'rate': r['rate'] if KNOWN.exists() else None} for r in rows]\n"
    )
    (tmp_path / "app.py").write_text(
        text.replace(
            "\n\ndef dicts", "\nfrom pathlib import Path\nKNOWN = Path(__file__).with_name('known')\n\n\ndef dicts", 1
        )
    )
    with testing.bench(tmp_path / "app.py", tmp_path) as bench:
        bench.fetch("2026-01-01", "2026-01-06")
        assert bench.store.table("sales").to_pandas()["rate"].isna().all()

        (tmp_path / "known").write_text("")
        later = bench.fetch("2026-01-06", "2026-01-08")

        # By the 8th the labels of the first five days are due; nobody asked for them by name.
        assert later.corrected == 5
        assert bench.store.table("sales").to_pandas()["rate"].isna().sum() == 0
