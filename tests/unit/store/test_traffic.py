"""Traffic: what was appended is there, once, with the right label, from segments and from what they were compacted to."""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from staytrue.errors import Corrupt, InvalidInput, NotFound
from staytrue.kernel.traffic import Label
from staytrue.store import frames, gc
from staytrue.store.block import Layout
from staytrue.store.compaction import compact
from staytrue.store.counts import answered_rows
from staytrue.store.labels import Labels
from staytrue.store.ledger import Entry
from staytrue.store.records import pack_answers, pack_body
from staytrue.store.segment import (
    SegmentWriter,
    Syncer,
    backlog_bytes,
    closed_segments,
    read_segment,
    segments,
    traffic_folder,
)
from staytrue.store.store import Store
from staytrue.store.verify import verify

APP = "rates"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
COLUMNS = (("booking", "int64"), ("size", "float64"), ("city", "string"))
RELEASE = "a" * 64


def us(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


def uid(at: datetime, number: int = 0) -> bytes:
    """The UUIDv7 of the `number`-th request of a moment."""
    return ((us(at) // 1000) << 80 | 0x7 << 76 | 0b10 << 62 | number << 32).to_bytes(16, "big")


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path)) as opened:
        said = Entry(app=APP, key="made", at=NOON, kind="made", sentence="Made it.")
        opened.ledger.append([said], recorded_at=NOON)
        yield opened


def log(store, release=RELEASE, columns=COLUMNS, key="booking", **limits):
    header = {"kind": "predictions", "app": APP, "release": release, "columns": columns, "key": key, "time": None}
    return SegmentWriter(traffic_folder(store.root, APP, "predictions"), header, **limits)


def rows(n, start=0):
    numbers = list(range(start, start + n))
    return {"booking": numbers, "size": [number / 2 for number in numbers], "city": [None, "porto"] * n}


def batch(writer, at, values, answers, *, requests=None, columns=COLUMNS, arm="champion", **more):
    n = len(next(iter(values.values())))
    values = {name: column[:n] for name, column in values.items()}
    body = pack_body(
        seq=1, at_us=us(at), arm=arm, block=Layout(columns).block(values).pack(), requests=requests or [(uid(at), n)], **more
    )  # fmt: skip
    return writer.append(body, pack_answers(answers))


def texts(*answers):
    return [json.dumps(answers).encode()]


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_logged_prediction_is_read_back_with_what_it_was_made_from(store):
    with log(store) as writer:
        batch(writer, NOON, rows(2), texts(1.5, 2), flags=[(1, "city is new")], weight=4.0)

        found = store.traffic().to_pandas()

    assert list(found) == [
        "id", "at", "release", "arm", "weight", "booking", "size", "city", "answer", "label", "label_at", "label_got_at", "flags",
    ]  # fmt: skip
    first = int.from_bytes(uid(NOON), "big")
    assert found["id"].tolist() == [str(uuid.UUID(int=first)), str(uuid.UUID(int=first + 1))]
    assert found["at"].tolist() == [pd.Timestamp(NOON)] * 2
    assert found["booking"].tolist() == [0, 1]
    assert found["city"].isna().tolist() == [True, False]
    assert found["answer"].tolist() == [1.5, 2.0]
    assert found["weight"].tolist() == [4.0, 4.0]
    assert found["flags"].fillna("").tolist() == ["", "city is new"]
    assert found["label"].isna().all()


def test_the_rows_of_a_request_that_the_app_refused_are_no_traffic(store):
    with log(store) as writer:
        batch(writer, NOON, rows(3), [None, b"[7]"], requests=[(uid(NOON), 2), (uid(NOON, 1), 1)])

        found = store.traffic().to_pandas()

    assert found["booking"].tolist() == [2]
    assert found["answer"].tolist() == [7.0]


def test_a_prediction_that_was_written_twice_is_one(store):
    for _ in range(2):
        with log(store) as writer:
            batch(writer, NOON, rows(2), texts(1, 2))

    assert store.traffic().to_arrow().num_rows == 2


def test_champion_and_shadow_under_one_id_are_two_rows(store):
    with log(store) as writer, log(store, release="b" * 64) as other:
        batch(writer, NOON, rows(1), texts(1))
        batch(other, NOON, rows(1), texts(2), arm="shadow")

    found = store.traffic().to_pandas()

    assert found[["arm", "answer"]].to_numpy().tolist() == [["champion", 1.0], ["shadow", 2.0]]


def test_rows_come_in_the_order_of_time_and_only_those_asked_for(store):
    with log(store) as writer:
        for shift in (3, 1, 2, 0):
            batch(writer, NOON + shift * SECOND, rows(1, start=shift), texts(shift))

    found = store.traffic(NOON + SECOND, NOON + 3 * SECOND).to_pandas()

    assert found["booking"].tolist() == [1, 2]


def test_days_come_one_after_the_other(store):
    with log(store) as writer:
        for day in (1, 0):
            batch(writer, NOON + timedelta(days=day), rows(1, start=day), texts(day))

    days = list(store.traffic().batches())

    assert [frames.to_pydict(rows_)["booking"] for rows_ in days] == [[0], [1]]


def test_answers_that_are_not_all_numbers_are_json(store):
    with log(store) as writer:
        batch(writer, NOON, rows(1), texts(1))
        batch(writer, NOON + SECOND, rows(2), texts({"b": [1, None], "a": "x"}, None))
        batch(writer, NOON + timedelta(days=1), rows(1), texts(2))

    found = store.traffic().to_arrow()

    assert frames.to_pydict(found)["answer"] == ["1.0", '{"a":"x","b":[1,null]}', None, "2.0"]


def test_columns_are_the_union_over_the_releases_with_a_type_that_all_fit(store):
    wide = (("booking", "string"), ("size", "int64"), ("answer", "bool"))
    with log(store) as one, log(store, release="b" * 64, columns=wide) as other:
        batch(one, NOON, rows(1), texts(1))
        batch(other, NOON + SECOND, {"booking": ["x"], "size": [3], "answer": [True]}, texts(2), columns=wide)

    found = frames.to_pydict(store.traffic().to_arrow())

    assert found["booking"] == ["0", "x"]
    assert found["size"] == [0.0, 3.0]
    assert found["city"] == [None, None]
    assert found["row.answer"] == [None, True]
    assert found["answer"] == [1.0, 2.0]


def test_every_type_of_column_survives_segment_and_compaction(store):
    columns = (
        ("day", "date"), ("at", "timestamp[UTC]"), ("naive", "timestamp"), ("yes", "bool"), ("big", "uint64"),
        ("small", "float32"), ("tags", "list<string>"), ("vector", "list<float64>"), ("nothing", "null"),
    )  # fmt: skip
    values = {
        "day": [0, None], "at": [us(NOON), None], "naive": [5, None], "yes": [True, None], "big": [2**63 + 1, None],
        "small": [0.5, None], "tags": [["a"], None], "vector": [[1.0], None], "nothing": [None, None],
    }  # fmt: skip
    with log(store, columns=columns, key=None) as writer:
        batch(writer, NOON, values, texts(1, 2), columns=columns)
    before = store.traffic().to_arrow()

    compact(store, APP, NOON)

    assert frames.content_digest(store.traffic().to_arrow()) == frames.content_digest(before)
    found = frames.to_pydict(before)
    assert found["big"] == [2**63 + 1, None]
    assert found["row.at"] == [NOON, None]
    assert found["tags"] == [["a"], None]


def test_columns_are_those_of_the_days_asked_for(store):
    with log(store) as one, log(store, release="b" * 64, columns=(("booking", "int64"),)) as other:
        batch(one, NOON, rows(1), texts(1))
        batch(other, NOON + timedelta(days=1), rows(1), texts(2), columns=(("booking", "int64"),))

    assert "size" in store.traffic().to_arrow().column_names
    assert "size" not in store.traffic(NOON + timedelta(hours=13)).to_arrow().column_names


def test_nothing_served_is_an_empty_table_with_the_usual_columns(store):
    found = store.traffic().to_arrow()

    assert found.num_rows == 0
    assert {"id", "at", "release", "answer", "label"} <= set(found.column_names)


def test_times_without_a_zone_and_unknown_apps_are_refused(store):
    with pytest.raises(InvalidInput, match="ST710"):
        store.traffic(datetime(2026, 3, 1))
    with pytest.raises(NotFound, match="ST471"):
        store.traffic(app="other")


def test_polars_and_pyarrow_take_traffic_as_it_is(store):
    polars = pytest.importorskip("polars")
    with log(store) as writer:
        batch(writer, NOON, rows(3), texts(1, 2, 3))

    assert polars.DataFrame(store.traffic()).shape == (3, 13)


# -- labels -----------------------------------------------------------------------------------------------------------


def label(value, *, id=None, key=None, at=NOON, got=NOON, source=""):  # noqa: A002
    return Label(id=id, key=key, label=value, at_us=us(at), got_us=us(got), source=source)


def add(store, *labels):
    with Labels(store.root, APP) as writer:
        writer.add(labels)


def labels_of(store, **asked):
    return frames.to_pydict(store.traffic(**asked).to_arrow())["label"]


@pytest.fixture
def two(store):
    """Two predictions, of the bookings 0 and 1."""
    with log(store) as writer:
        batch(writer, NOON, rows(2), texts(1, 2))
    return store


def test_a_label_finds_its_prediction_by_id_and_by_key(two):
    second = (int.from_bytes(uid(NOON), "big") + 1).to_bytes(16, "big")
    add(two, label(10.5, id=second), label(7, key="0"))

    assert labels_of(two) == [7.0, 10.5]


def test_a_label_by_key_belongs_to_every_prediction_of_that_row_even_to_later_ones(store):
    add(store, label(7, key=0))
    for shift in (0, 1):
        with log(store) as writer:
            batch(writer, NOON + shift * SECOND, rows(1), texts(1))

    assert labels_of(store) == [7.0, 7.0]


@pytest.mark.parametrize(
    ("kind", "value", "key"),
    [
        ("string", "0", "0"), ("string", "a b", "a b"), ("float64", 7.0, 7), ("float32", 7.5, "7.5"),
        ("uint64", 2**63, str(2**63)), ("date", 86_400_000_000, "1970-01-02"), ("bool", True, "true"),
    ],
)  # fmt: skip
def test_keys_of_any_type_are_compared_as_text(store, kind, value, key):
    with log(store, columns=(("booking", kind),)) as writer:
        batch(writer, NOON, {"booking": [value]}, texts(1), columns=(("booking", kind),))
    add(store, label(5, key=key))

    assert labels_of(store) == [5.0]


def test_an_integer_key_is_not_found_by_another_spelling_of_it(two):
    add(two, label(5, key="00"), label(6, key="+1"), label(7, key="one"))

    assert labels_of(two) == [None, None]


def test_the_later_event_wins_then_the_later_arrival_then_the_greater_value(two):
    late, early = NOON + SECOND, NOON
    add(two, label(1, key=0, at=late, got=early), label(2, key=0, at=early, got=late))
    add(two, label(5, key=1, got=late), label(6, key=1, got=early), label(4, key=1, got=late))

    assert labels_of(two) == [1.0, 5.0]


def test_the_same_label_again_does_not_undo_a_correction(two):
    first, corrected = label(1, key=0, got=NOON), label(2, key=0, got=NOON + SECOND)
    add(two, first, corrected, first._replace(got_us=us(NOON + 2 * SECOND)))

    assert labels_of(two) == [2.0, None]


def test_a_null_takes_a_label_back(two):
    add(two, label(1, key=0), label(None, key=0, at=NOON + SECOND))

    assert labels_of(two) == [None, None]


def test_labels_that_arrived_later_are_not_known_yet(two):
    add(two, label(1, key=0, got=NOON + SECOND), label(2, key=0, at=NOON + SECOND, got=NOON + 5 * SECOND))

    assert labels_of(two, known_by=NOON + SECOND) == [None, None]
    assert labels_of(two, known_by=NOON + 2 * SECOND) == [1.0, None]
    assert labels_of(two, until=NOON + 2 * SECOND) == [1.0, None]
    assert labels_of(two) == [2.0, None]


def test_labels_that_are_not_all_numbers_are_json(two):
    add(two, label("sold", key=0), label(2, key=1))

    assert labels_of(two) == ['"sold"', "2.0"]


@pytest.mark.parametrize(
    "bad",
    [
        label(1), label(1, id=uid(NOON), key="x"), label(1, id=b"short"), label(float("nan"), key=0), label(float("inf"), key=0),
        label([float("nan")], key=0), label(2**70, key=0), label({"a": {1}}, key=0),
    ],
)  # fmt: skip
def test_a_label_that_can_not_be_kept_is_refused_and_none_beside_it_is_kept(two, bad):
    with Labels(two.root, APP) as writer, pytest.raises(InvalidInput, match="ST713"):
        writer.add([label(1, key=0), bad])

    assert labels_of(two) == [None, None]


def test_many_threads_share_syncs_and_each_label_is_on_disk_when_it_is_acknowledged(tmp_path):
    script = f"""
import ctypes, os, threading
from pathlib import Path
from staytrue.store.labels import Label, Labels
real, calls = os.fdatasync, []
def counted(fd):
    calls.append(fd)
    real(fd)
os.fdatasync = counted
with Labels(Path({str(tmp_path)!r}), "{APP}") as writer:
    go = threading.Barrier(16)
    def run(n):
        go.wait()
        for i in range(20):
            writer.add([Label(id=None, key=n * 100 + i, label=1, at_us=0, got_us=0)])
    threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
    [t.start() for t in threads]; [t.join() for t in threads]
print(len(calls))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    (path,) = segments(traffic_folder(tmp_path, APP, "labels"))
    assert len(read_segment(path).payloads) == 320
    assert int(done.stdout) < 320


# -- tallies ----------------------------------------------------------------------------------------------------------


def test_tallies_count_each_prediction_once_and_only_labelled_ones_have_a_loss(two):
    with log(two) as writer:
        batch(writer, NOON, rows(2), texts(1, 2))
    add(two, label(5, key=0))

    tallies = two.traffic().tallies("mae", segments=["city"])

    assert {group[3]: (t.rows, t.labelled, t.mean_loss) for group, t in tallies.groups.items()} == {
        "": (1, 1, 4.0),
        "porto": (1, 0, None),
    }
    assert tallies.over("day").groups[("2026-03-01",)].rows == 2


def test_a_row_without_an_answer_has_no_loss(two):
    with log(two, release="b" * 64) as writer:
        batch(writer, NOON, rows(2), texts(None, 4))
    add(two, label(5, key=0), label(5, key=1))

    found = two.traffic().tallies("mae").over("release").groups["b" * 64,]

    assert (found.rows, found.labelled, found.mean_loss) == (2, 1, 1.0)


def test_a_metric_of_the_users_own_sees_the_rows(two):
    add(two, label(5, key=0), label(5, key=1))

    found = two.traffic().tallies(lambda answers, labels, rows_: rows_["size"].to_numpy()).total

    assert found.mean_loss == 0.25


def test_tallies_of_answers_that_are_classes_use_them_as_they_were_given(two):
    with log(two, release="b" * 64) as writer:
        batch(writer, NOON, rows(2), texts("cat", "dog"))
    add(two, label("cat", key=0), label("cat", key=1))

    tallies = two.traffic().tallies("error_rate").over("release")

    assert tallies.groups[("b" * 64,)].mean_loss == 0.5


# -- segments ---------------------------------------------------------------------------------------------------------


def whole(folder):
    return [bytes(payload) for path in segments(folder) for payload in read_segment(path).payloads]


def test_a_torn_end_is_passed_over_and_told(tmp_path):
    with SegmentWriter(tmp_path, {"kind": "labels"}) as writer:
        for text in (b"one", b"two", b"three"):
            writer.write(text)
    (path,) = segments(tmp_path)
    data = path.read_bytes()
    for cut in range(1, 13):
        path.write_bytes(data[:-cut])
        found = read_segment(path)
        assert [bytes(payload) for payload in found.payloads] == [b"one", b"two"]
        assert (found.torn_bytes, found.damaged) == (13 - cut, ())
    path.write_bytes(data + bytes(4096))
    assert len(read_segment(path).payloads) == 3
    assert read_segment(path).torn_bytes == 4096


def test_no_flipped_byte_hides_another_record_or_goes_unseen(tmp_path):
    with SegmentWriter(tmp_path, {"kind": "labels"}) as writer:
        for number in range(3):
            writer.write(b"%d" % number * 20)
    (path,) = segments(tmp_path)
    data = path.read_bytes()
    header = len(data) - 3 * 28
    for place in range(header, len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])
        found = read_segment(path)
        hit = (place - header) // 28
        assert [bytes(payload) for payload in found.payloads] == [b"%d" % n * 20 for n in range(3) if n != hit]
        assert bool(found.damaged) == (hit < 2)
        assert bool(found.torn_bytes) == (hit == 2)


@pytest.mark.parametrize("sizes", [(100, 60_000), (70_000, 500_000)], ids=["small", "large"])
def test_behind_a_length_that_changed_the_other_records_are_found(tmp_path, sizes):
    source = random.Random(1)
    records = [source.randbytes(source.randint(*sizes)) for _ in range(40)]
    with SegmentWriter(tmp_path, {"kind": "labels"}) as writer:
        for record in records:
            writer.write(record)
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    first = data.index(records[0]) - 8
    data[first + 2] ^= 0xFF

    path.write_bytes(data + b"torn")
    found = read_segment(path)

    assert [bytes(payload) for payload in found.payloads] == records[1:]
    assert (found.damaged, found.torn_bytes) == ((first,), 4)


def test_segments_rotate_by_size_and_by_age(tmp_path):
    with SegmentWriter(tmp_path, {"kind": "labels"}, limit_bytes=1000) as writer:
        for _ in range(10):
            writer.write(bytes(400))
    assert len(segments(tmp_path)) >= 5
    assert len(whole(tmp_path)) == 10

    with SegmentWriter(tmp_path / "old", {"kind": "labels"}, limit_s=0) as writer:
        for _ in range(3):
            writer.write(b"x")
    assert len(segments(tmp_path / "old")) == 3


def test_a_writer_that_writes_nothing_leaves_nothing(tmp_path):
    with SegmentWriter(tmp_path / "folder", {"kind": "labels"}):
        pass

    assert not (tmp_path / "folder").exists()


def test_an_open_segment_is_told_from_a_closed_one(tmp_path):
    writer = SegmentWriter(tmp_path, {"kind": "labels"})
    writer.write(b"x")
    assert closed_segments(tmp_path) == []

    writer.close()
    assert closed_segments(tmp_path) == segments(tmp_path)


def test_a_syncer_closes_a_segment_that_grew_old_and_brings_the_rest_to_disk(tmp_path):
    with SegmentWriter(tmp_path, {"kind": "labels"}, limit_s=0.05) as writer, Syncer(writer, within_s=0.01):
        writer.write(b"x")
        deadline = time.monotonic() + 30
        while not closed_segments(tmp_path):
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
        assert not writer.dirty.is_set()


def test_a_write_that_a_disk_takes_in_part_is_cut_back_and_the_next_one_is_whole(tmp_path):
    # A limit on the size of files acts as a full disk does: the kernel takes what fits, then refuses.
    script = f"""
import resource
from pathlib import Path
from staytrue.errors import Unavailable
from staytrue.store.segment import SegmentWriter
with SegmentWriter(Path({str(tmp_path)!r}), {{"kind": "labels"}}) as writer:
    writer.write(b"small")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        writer.write(bytes(10_000))
    except Unavailable as exc:
        print(exc.code)
    writer.write(b"after")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["ST403"]
    assert whole(tmp_path) == [b"small", b"after"]
    assert read_segment(segments(tmp_path)[0]).torn_bytes == 0


@pytest.mark.parametrize("newer", ["format", "layout"])
def test_a_segment_of_a_newer_staytrue_is_refused(tmp_path, newer):
    with SegmentWriter(tmp_path, {"kind": "labels", newer: 2}) as writer:
        writer.write(b"x")

    with pytest.raises(InvalidInput, match="ST711"):
        read_segment(segments(tmp_path)[0])


def test_a_record_that_is_no_traffic_is_told_not_skipped(store):
    with log(store) as writer:
        writer.write(b"\x05\x00\x00\x00hello")

    with pytest.raises(Corrupt, match="ST712"):
        store.traffic().to_arrow()


def test_verify_names_a_segment_that_changed_and_the_others_are_still_read(two):
    with log(two) as writer:
        for number in range(3):
            batch(writer, NOON + SECOND, rows(1, start=5 + number), texts(9), requests=[(uid(NOON, number), 1)])
    path = segments(traffic_folder(two.root, APP, "predictions"))[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    (problem,) = verify(two.objects, two.ledger).problems

    assert problem.kind == "traffic"
    assert path.name in problem.sentence
    assert two.traffic().to_arrow().num_rows == 4
    assert compact(two, APP, NOON).damaged == (path.name,)
    assert two.traffic().to_arrow().num_rows == 4


# -- compaction -------------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(store):
    """Predictions of two releases over two days, with labels by id and by key, some of it twice."""
    for release in (RELEASE, "b" * 64):
        for _ in range(2):
            with log(store, release=release) as writer:
                for hours in (0, 11, 13):
                    at = NOON + timedelta(hours=hours)
                    batch(writer, at, rows(3, start=hours), texts(1, 2, hours))
    add(store, label(5, key=1), label(6, key=12, got=NOON + SECOND), label("x", id=uid(NOON + timedelta(hours=13))))
    return store


def test_compaction_changes_nothing_of_what_is_read(busy):
    before = busy.traffic().to_arrow()
    assert backlog_bytes(busy.root, APP) > 1000

    done = compact(busy, APP, NOON)

    assert done.segments == 5
    assert backlog_bytes(busy.root, APP) == 0
    assert segments(traffic_folder(busy.root, APP, "predictions")) == []
    assert frames.content_digest(busy.traffic().to_arrow()) == frames.content_digest(before)
    assert verify(busy.objects, busy.ledger).problems == []


def test_what_is_read_is_the_same_however_it_was_compacted(busy, tmp_path):
    before = busy.traffic().to_arrow()

    compact(busy, APP, NOON, set_bytes=1)

    assert len(busy.ledger.events(APP, "traffic")) == 5
    assert frames.content_digest(busy.traffic().to_arrow()) == frames.content_digest(before)


def test_compacting_again_does_nothing(busy):
    compact(busy, APP, NOON)

    again = compact(busy, APP, NOON + SECOND)

    assert (again.segments, again.deleted) == (0, 0)
    assert len(busy.ledger.events(APP, "traffic")) == 2


def test_a_segment_that_an_event_names_counts_no_more_though_its_file_is_there(busy):
    folder = traffic_folder(busy.root, APP, "predictions")
    kept = {path: path.read_bytes() for path in segments(folder)}
    before = busy.traffic().to_arrow()
    compact(busy, APP, NOON)
    for path, data in kept.items():
        path.write_bytes(data)

    assert repr(busy.traffic()).endswith("in 0 segments>")
    assert frames.content_digest(busy.traffic().to_arrow()) == frames.content_digest(before)
    assert compact(busy, APP, NOON).deleted == len(kept)
    assert segments(folder) == []


def test_segments_under_way_are_left_alone(store):
    with log(store) as writer:
        batch(writer, NOON, rows(1), texts(1))
        assert backlog_bytes(store.root, APP) == 0
        assert compact(store, APP, NOON).segments == 0
        assert store.traffic().to_arrow().num_rows == 1


def test_a_segment_whose_writer_died_before_its_first_record_is_swept(store):
    folder = traffic_folder(store.root, APP, "predictions")
    folder.mkdir(parents=True)
    (folder / "0.seg").write_bytes(b"STTR")

    compact(store, APP, NOON)

    assert segments(folder) == []
    assert store.ledger.events(APP, "traffic") == []


def test_two_compactions_at_once_do_not_meet(busy):
    folder = traffic_folder(busy.root, APP, "labels").parent
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert compact(busy, APP, NOON).busy
    finally:
        os.close(descriptor)
    assert not compact(busy, APP, NOON).busy


def test_gc_keeps_compacted_traffic(busy):
    compact(busy, APP, NOON)
    before = busy.traffic().to_arrow()

    gc.collect(busy.objects, busy.ledger, now=datetime.now(UTC) + timedelta(days=9), grace=timedelta(0))

    assert frames.content_digest(busy.traffic().to_arrow()) == frames.content_digest(before)


def test_a_reader_goes_on_when_segments_are_compacted_under_it(busy):
    before = [frames.content_digest(day) for day in busy.traffic().batches()]
    days = busy.traffic().batches()
    first = next(days)
    compact(busy, APP, NOON)

    assert [frames.content_digest(first), *map(frames.content_digest, days)] == before


def test_the_module_compacts_as_a_process_of_its_own(busy):
    command = [sys.executable, "-m", "staytrue.store.compaction", str(busy.root), APP]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["segments"] == 5


def test_a_repr_says_what_and_where(busy):
    compact(busy, APP, NOON)
    with log(busy) as writer:
        batch(writer, NOON, rows(1), texts(1))

        said = repr(busy.traffic(NOON, NOON + timedelta(days=1)))

    assert said.startswith(
        "<traffic of rates, 2026-03-01 12:00 .. 2026-03-02 12:00, labels known by 2026-03-02 12:00: 18 rows"
    )
    assert said.endswith("in 1 segments>")


# -- counting ---------------------------------------------------------------------------------------------------------


def test_rows_are_counted_by_release_and_arm_from_a_moment_on_as_reading_finds_them(store):
    other = "b" * 64
    with log(store) as writer, log(store, release=other) as challenger:
        batch(writer, NOON, rows(3), texts(1, 2, 3))
        batch(writer, NOON + SECOND, rows(2), texts(1, 2))
        batch(
            writer,
            NOON + SECOND,
            rows(3),
            [b"[1]", None],
            requests=[(uid(NOON, 5), 1), (uid(NOON, 6), 2)],
            arm="shadow",
        )
        batch(challenger, NOON + SECOND, rows(4), texts(1, 2, 3, 4), arm="challenger")
        batch(challenger, NOON + timedelta(days=1), rows(5), texts(1, 2, 3, 4, 5), arm="challenger")

        expected = {(RELEASE, "champion"): 2, (RELEASE, "shadow"): 1, (other, "challenger"): 9}
        while_written = answered_rows(store, APP, NOON + SECOND)
    closed = answered_rows(store, APP, NOON + SECOND)
    compact(store, APP, NOON)
    compacted_ = answered_rows(store, APP, NOON + SECOND)
    with log(store, release=other) as challenger:
        batch(challenger, NOON + timedelta(days=1, seconds=1), rows(1), texts(1), arm="challenger")
        more = answered_rows(store, APP, NOON + timedelta(days=1))

    assert while_written == closed == compacted_ == expected
    assert more == {(other, "challenger"): 6}
    read = store.traffic(NOON + SECOND).to_pandas().groupby(["release", "arm"]).size().to_dict()
    assert read == expected | {(other, "challenger"): 10}
    assert answered_rows(store, APP, NOON + timedelta(days=2)) == {}
    assert answered_rows(store, "nobody", NOON) == {}


def test_a_segment_that_nobody_has_written_to_since_is_not_opened(store):
    with log(store) as writer:
        batch(writer, NOON, rows(1), texts(1))
    (path,) = segments(traffic_folder(store.root, APP, "predictions"))
    path.write_bytes(b"this is no segment")
    os.utime(path, (NOON.timestamp(), NOON.timestamp()))

    assert answered_rows(store, APP, NOON + timedelta(minutes=1)) == {}
