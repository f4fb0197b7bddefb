"""Labels that callers give by key are the source's labels, until the source knows better."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from staytrue import testing
from staytrue.kernel.traffic import Label
from staytrue.store import frames
from staytrue.store.labels import Labels

APP = """
from datetime import timedelta

from staytrue import App

app = App("flats")


@app.data(time="at", key="id", label="rent", every="1d", label_after="1d", features=["size"])
def lets(since, until):
    days = range((until - since).days)
    return [
        {"at": since + timedelta(days=d), "id": (since + timedelta(days=d)).toordinal(), "size": 2.0, "rent": LABEL}
        for d in days
    ]


@app.train
def fit(lets):
    return lets["rent"].mean()


@app.predict(metric="METRIC")
def quote(model, rows):
    return [model] * len(rows)
"""
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def fetched(tmp_path, label, posted, *, metric="mae"):
    """What is in the table after the labels were posted and the windows looked at again."""
    (tmp_path / "app.py").write_text(APP.replace("LABEL", label).replace("METRIC", metric))
    with testing.bench(tmp_path / "app.py", tmp_path) as bench:
        bench.fetch(DAY, DAY + timedelta(days=3))
        with Labels(bench.store.root, "flats") as labels:
            labels.add(
                [Label(id=None, key=key, label=value, at_us=0, got_us=got) for got, (key, value) in enumerate(posted)]
            )
        bench.fetch(DAY, DAY + timedelta(days=3))
        return frames.to_pydict(bench.store.table("lets").to_arrow())["rent"]


FIRST = DAY.toordinal()


def test_a_label_that_the_source_does_not_know_is_the_one_that_was_posted(tmp_path):
    assert fetched(tmp_path, "None", [(FIRST, 7.5), (str(FIRST + 2), 9)]) == [7.5, None, 9.0]


def test_a_later_word_counts(tmp_path):
    assert fetched(tmp_path, "None", [(FIRST, 7.5), (FIRST, 8.0)]) == [8.0, None, None]


def test_the_source_knows_better(tmp_path):
    assert fetched(tmp_path, "4.0", [(FIRST, 7.5)]) == [4.0, 4.0, 4.0]


def test_texts_and_keys_of_nobody(tmp_path):
    posted = [(FIRST, "dear"), ("of nobody", "cheap")]
    assert fetched(tmp_path, "None", posted, metric="error_rate") == ["dear", None, None]


def test_labels_of_two_kinds_are_left_to_the_source(tmp_path):
    assert fetched(tmp_path, "None", [(FIRST, "dear"), (FIRST + 1, 3)]) == [None, None, None]
