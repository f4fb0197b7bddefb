"""`staytrue label`: rows go out to people, labels come back, and what they say is known to be a random sample."""

from __future__ import annotations

import argparse
import csv
import io
import json
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from staytrue.cli import label as verb
from staytrue.cli.screen import Screen
from staytrue.errors import InvalidInput
from staytrue.kernel.confidence import Calibration, fold, scores
from staytrue.kernel.traffic import Label
from staytrue.loop.label import Judge, draw, standing, take
from staytrue.store import frames
from staytrue.store.block import Layout
from staytrue.store.labels import Labels
from staytrue.store.ledger import Entry
from staytrue.store.records import pack_answers, pack_body
from staytrue.store.segment import SegmentWriter, traffic_folder
from staytrue.store.store import Store

APP = """
from staytrue import App

app = App("rates")


@app.data(time="at", key="booking", label="rate", every="1d", features=["size", "city"])
def bookings(since, until):
    return []


@app.train
def fit(bookings):
    return 1.0


@app.predict(metric="mae")
def quote(model, rows):
    return [model] * len(rows)
"""
NOW = datetime.now(UTC).replace(microsecond=0)
WEEK = timedelta(days=7)
COLUMNS = (("booking", "int64"), ("size", "float64"), ("city", "string"))
MAE = Judge(metric="mae", key="booking")
CITIES = ['Setúbal, "centro"', None, "=1+1", "porto\nsul"]


@dataclass
class Place:
    """A folder with an app and a store whose traffic holds 200 predictions of two hours ago."""

    folder: Path
    store: Store

    def log(
        self,
        answers: list[Any],
        *,
        first: int = 0,
        arm: str = "champion",
        at: datetime | None = None,
        key: str = "booking",
    ) -> None:
        at = at or NOW - timedelta(hours=2)
        n = len(answers)
        columns = ((key, "int64"), *COLUMNS[1:])
        rows = {
            key: list(range(first, first + n)),
            "size": [number / 2 for number in range(n)],
            "city": [CITIES[number % 4] for number in range(n)],
        }
        header = {
            "kind": "predictions",
            "app": "rates",
            "release": "a" * 64,
            "columns": columns,
            "key": key,
            "time": None,
        }
        id_ = (int(at.timestamp() * 1000) << 80 | 0x7 << 76 | 0b10 << 62 | first << 32).to_bytes(16, "big")
        body = pack_body(
            seq=1,
            at_us=int(at.timestamp() * 1e6),
            arm=arm,
            block=Layout(columns).block(rows).pack(),
            requests=[(id_, n)],
        )
        with SegmentWriter(traffic_folder(self.store.root, "rates", "predictions"), header) as writer:
            writer.append(body, pack_answers([json.dumps(answers).encode()]))

    def labels(self) -> dict[str, Any]:
        found = frames.to_pydict(self.store.traffic().to_arrow())
        return dict(zip(found["id"], found["label"], strict=True))

    def run(self, *arguments: str, as_json: bool = False) -> int:
        parser = argparse.ArgumentParser()
        verb.arguments(parser)
        parser.add_argument("--app")
        parser.add_argument("--store")
        given = [*arguments, "--app", str(self.folder / "app.py"), "--store", str(self.store.root)]
        return verb.run(parser.parse_args(given), Screen(as_json=as_json))


@pytest.fixture
def place(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    with closing(Store(tmp_path / "store")) as store:
        said = Entry(app="rates", key="made", at=NOW, kind="made", sentence="Made it.")
        store.ledger.append([said], recorded_at=NOW)
        made = Place(folder=tmp_path, store=store)
        made.log([float(number % 10) for number in range(200)])
        yield made


def drawn(place: Place, n: int = 20, **more: Any) -> list[dict[str, Any]]:
    return list(draw(place.store, "rates", n, now=NOW, span=WEEK, judge=MAE, **more).lines)


def taken(place: Place, text: str | bytes, judge: Judge = MAE) -> Any:
    data = text if isinstance(text, bytes) else text.encode()
    return take(place.store, "rates", data, now=NOW, judge=judge, source="labels.csv")


def why(found: Any) -> dict[int, str]:
    return {one.line: one.why for one in found.problems}


# -- out --------------------------------------------------------------------------------------------------------------


def test_rows_go_out_as_csv_and_their_labels_come_back(place, capsys):
    assert place.run("--next", "20") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert list(rows[0]) == ["id", "at", "booking", "size", "city", "answer", "label"]
    assert len({row["id"] for row in rows}) == 20
    assert all(row["city"] == (CITIES[int(row["booking"]) % 4] or "") for row in rows)

    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows({**row, "label": "7.5"} for row in rows)
    file = place.folder / "filled.csv"
    file.write_text(out.getvalue(), encoding="utf-8-sig", newline="")

    assert place.run("--from", str(file)) == 0
    assert "20 labels taken" in capsys.readouterr().out
    assert {place.labels()[row["id"]] for row in rows} == {7.5}
    assert sum(value is not None for value in place.labels().values()) == 20


def test_a_label_finds_its_row_when_the_key_column_is_called_id(place):
    before = set(place.labels())
    place.log([4.0], first=7_000, key="id")
    (id_,) = set(place.labels()) - before

    assert taken(place, f"id,label\n{id_},9.5\n", Judge(metric="mae", key="id")).accepted == 1

    assert place.labels()[id_] == 9.5


def test_a_file_of_json_lines_is_written_and_read_and_never_written_over(place, capsys):
    out = place.folder / "rows.jsonl"
    assert place.run("--next", "5", "--out", str(out)) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["label"] for line in lines] == [None] * 5

    with pytest.raises(InvalidInput, match="ST948"):
        place.run("--next", "5", "--out", str(out))

    out.write_text("".join(json.dumps({**line, "label": 3}) + "\n" for line in lines))
    assert place.run("--from", str(out), as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["accepted"] == 5


def test_what_was_drawn_or_has_a_label_or_only_a_shadow_answered_is_not_drawn(place):
    place.log([1.0] * 50, first=1000, arm="shadow")
    with Labels(place.store.root, "rates") as writer:
        writer.add([Label(id=None, key=0, label=4.0, at_us=1, got_us=1)])

    first, second = drawn(place, 150), drawn(place, 150)

    bookings = [row["booking"] for row in [*first, *second]]
    assert sorted(bookings) == list(range(1, 200))
    assert drawn(place, 5) == []


def test_a_draw_is_remembered_with_its_probabilities_and_a_seed_repeats_it(place):
    rows = drawn(place, 20, seed=3)
    event = place.store.ledger.events("rates", "labels")[0]
    assert event.body["ids"] == [row["id"] for row in rows]
    assert event.body["probabilities"] == [0.1] * 20
    assert event.body["rows"] == 200


def test_the_less_sure_are_drawn_more_often_where_answers_are_probabilities(place):
    place.log([0.5] * 40 + [0.99] * 160, first=1000, at=NOW - timedelta(hours=1))
    judge = Judge(metric="brier", key="booking")
    found = draw(place.store, "rates", 100, now=NOW, span=timedelta(minutes=90), judge=judge)
    unsure = sum(row["answer"] == 0.5 for row in found.lines)
    assert 30 < unsure <= 40


def test_rows_that_wait_are_given_again(place, capsys):
    rows = drawn(place, 3)
    taken(place, f"id,label\n{rows[0]['id']},1\n")
    place.run("--awaited", as_json=True)
    again = json.loads(capsys.readouterr().out)
    assert {row["id"] for row in again["lines"]} == {row["id"] for row in rows[1:]}


@pytest.mark.parametrize("n", [0, -1, 10_001])
def test_a_draw_of_nothing_or_of_too_much_is_an_error(place, n):
    with pytest.raises(InvalidInput, match="ST943"):
        drawn(place, n)


# -- in ---------------------------------------------------------------------------------------------------------------


def test_bad_lines_are_named_and_the_rest_is_taken(place):
    ids = [row["id"] for row in drawn(place, 8)]
    text = "\n".join(
        [
            "id,label",
            f"{ids[0]},4",
            f"{ids[1]},",
            f"{ids[2]},nan",
            f"{ids[3]},dear",
            "018f0000-0000-7000-8000-000000000000,1",
            "no id,1",
            f"{ids[4]},1",
            f"{ids[4]},2",
            f"{ids[5]},1",
            f"{ids[5]},1",
            f"{ids[6]}",
            f"{ids[7].upper()}, 1e3 ",
            "ffffffff-ffff-ffff-ffff-ffffffffffff,1",
            f"{ids[7][:-1]}é,1",
        ]
    )

    found = taken(place, text)

    assert (found.accepted, found.empty) == (3, 1)
    known = place.labels()
    assert [known[id_] for id_ in ids] == [4, None, None, None, None, 1, None, 1000]
    said = why(found)
    assert sorted(said) == [4, 5, 6, 7, 8, 9, 12, 14, 15]
    assert "finite" in said[4]
    assert "'dear'" in said[5]
    assert "no prediction" in said[6]
    assert said[8] == said[9] == "lines 8, 9 give one id different labels"
    assert "cells" in said[12]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "%s", "label": NaN}', "finite"),
        ('{"id": "%s", "label": 1e999}', "finite"),
        ('{"id": "%s", "label": 123456789012345678901234567890}', "64 bits"),
        ('{"id": "%s", "label": [1]}', "no single value"),
        ('{"id": "%s", "label": "12"}', "does not fit mae"),
        ('{"id": "%s"}', "no object"),
        ('{"id": 7, "label": 1}', "no object"),
        ("[1]", "no object"),
        ('{"id": "%s", "label": 1', "no JSON"),
    ],
)
def test_json_lines_with_a_wrong_value_are_refused(place, line, says):
    one, other = (row["id"] for row in drawn(place, 2))
    found = taken(place, json.dumps({"id": other, "label": 2}) + "\n" + line.replace("%s", one))
    assert found.accepted == 1
    assert says in why(found)[2]


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"booking,rate\n1,2\n", b"id;rate\n", b"PK\x03\x04\x00\x00"])
def test_what_is_no_file_of_labels_is_an_error(place, data):
    with pytest.raises(InvalidInput, match="ST948"):
        taken(place, data)


def test_labels_of_classes_stay_text_and_without_the_app_anything_fits_but_text_beside_numbers(place):
    place.log(["7", "dear"], first=1000, at=NOW - timedelta(hours=1))
    seen = frames.to_pydict(place.store.traffic(NOW - timedelta(minutes=90)).to_arrow())
    ids = seen["id"]
    assert taken(place, f"id;label\n{ids[0]};7\n{ids[1]};cheap\n", Judge(metric="error_rate")).accepted == 2
    found = frames.to_pydict(place.store.traffic(NOW - timedelta(minutes=90)).to_arrow())["label"]
    assert found == ['"7"', '"cheap"']
    assert "no number" in why(taken(place, f"id,label\n{drawn(place, 1)[0]['id']},dear\n", Judge()))[2]


def test_a_label_goes_to_the_key_of_the_row_so_that_the_loop_learns_it_too(place):
    place.log([3.0], first=5, at=NOW - timedelta(hours=1))  # booking 5 was asked about twice
    id_ = next(row["id"] for row in drawn(place, 201) if row["booking"] == 5)
    taken(place, f"id,label\n{id_},9\n")
    assert sum(value == 9 for value in place.labels().values()) == 2


def test_a_correction_counts_and_is_counted(place):
    id_ = drawn(place, 1)[0]["id"]
    taken(place, f"id,label\n{id_},1\n")
    later = take(
        place.store,
        "rates",
        f"id,label\n{id_},2\n".encode(),
        now=NOW + timedelta(minutes=1),
        judge=MAE,
        source="second",
    )
    assert (later.accepted, later.corrected) == (1, 1)
    assert place.labels()[id_] == 2


# -- how it stands ----------------------------------------------------------------------------------------------------


def test_it_says_how_many_labels_there_are_and_what_100_more_would_bring(place, capsys):
    rows = drawn(place, 40)
    # Two thirds of the answers are 1 off, the others right.
    text = "id,label\n" + "".join(f"{row['id']},{row['answer'] + (at % 3 > 0)}\n" for at, row in enumerate(rows[:30]))
    assert taken(place, text).accepted == 30

    found = standing(place.store, "rates", now=NOW + timedelta(minutes=1), span=WEEK, judge=MAE)

    assert (found.rows, found.labelled, found.drawn, found.awaited, found.sampled) == (200, 30, 40, 10, True)
    assert found.few is not None
    assert found.few.best.lo < 2 / 3 < found.few.best.hi
    assert found.half_width_with_100 < found.half_width / 1.9
    assert place.run() == 0
    said = capsys.readouterr().out
    assert "30 of 200 predictions" in said
    assert "10 of 40" in said
    assert "100 more" in said


def test_the_estimate_of_the_champions_answers_helps_the_labels(place):
    rows = drawn(place, 60)
    # An answer of 9 is off by 9, one of 0 is right.
    taken(place, "id,label\n" + "".join(f"{row['id']},{2 * row['answer']}\n" for row in rows))
    answers = np.tile(np.arange(10.0), 100)
    first = scores("mae", answers)
    state = fold(Calibration.fresh(first, scale=4.5), 0, first, answers)

    found = standing(
        place.store, "rates", now=NOW, span=WEEK, judge=Judge(metric="mae", key="booking", calibration=state)
    )

    assert found.few is not None
    assert found.few.chosen == "ppi"
    assert found.few.best.half_width < 0.2 * found.few.labels.half_width
    assert found.few.best.mean == pytest.approx(4.5, abs=0.05)  # of all 200 rows


def test_without_a_label_nothing_is_said_of_the_loss(place, capsys):
    assert place.run(as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["labelled"], found["few"], found["half_width"], found["newest_label_at"]) == (0, None, None, None)


def test_labels_that_came_by_themselves_vary_by_days(place):
    for day in range(1, 5):
        place.log([0.0] * 20, first=1000 * day, at=NOW - timedelta(days=day))
    with Labels(place.store.root, "rates") as writer:
        writer.add(
            [
                Label(id=None, key=1000 * day + row, label=day % 2, at_us=1, got_us=1)
                for day in range(1, 5)
                for row in range(20)
            ]
        )
    found = standing(place.store, "rates", now=NOW, span=WEEK, judge=MAE)
    assert found.few is not None
    assert (found.sampled, found.few.units, found.few.rows) == (False, 4, 80)
    assert found.half_width is not None
    assert found.half_width > 0.5
