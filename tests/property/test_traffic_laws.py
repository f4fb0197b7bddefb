"""Laws of traffic: order, repetition, sharding and compaction of the same records change neither rows nor statistics."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from staytrue.kernel.traffic import Label, merge, tally
from staytrue.store import frames
from staytrue.store.block import Layout
from staytrue.store.compaction import compact
from staytrue.store.ledger import Entry
from staytrue.store.records import pack_answers, pack_body, pack_labels
from staytrue.store.segment import SegmentWriter, traffic_folder
from staytrue.store.store import Store

APP = "rates"
COLUMNS = (("booking", "int64"), ("size", "float64"))
LAYOUT = Layout(COLUMNS)
MIDNIGHT = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp() * 1_000_000)
NOW = datetime(2026, 3, 5, tzinfo=UTC)
STEPS = timedelta(minutes=1) // timedelta(microseconds=1)


@dataclass(frozen=True)
class Prediction:
    """One record: a request of some rows."""

    number: int
    at: int
    release: str
    arm: str
    booking: int
    answers: tuple[float | str, ...]

    @property
    def id(self) -> bytes:
        return (((MIDNIGHT + self.at) // 1000) << 80 | 0x7 << 76 | 0b10 << 62 | self.number << 32).to_bytes(16, "big")

    def record(self) -> tuple[bytes, bytes]:
        n = len(self.answers)
        block = LAYOUT.block({"booking": [self.booking + i for i in range(n)], "size": [0.5] * n}).pack()
        body = pack_body(seq=0, at_us=MIDNIGHT + self.at, arm=self.arm, block=block, requests=[(self.id, n)])
        return body, pack_answers([json.dumps(list(self.answers)).encode()])


@st.composite
def stories(draw, *, words):
    """Predictions around midnight, and labels for some of them, by id and by key, in several versions."""
    answers = st.floats(-1e6, 1e6) | st.sampled_from([1, 2, *(["x", "y"] if words else [])])
    predictions = [
        Prediction(
            number=number,
            at=draw(st.integers(-3, 3)) * STEPS,
            release=draw(st.sampled_from("ab")),
            arm=draw(st.sampled_from(["champion", "shadow"])),
            booking=draw(st.integers(0, 4)),
            answers=tuple(draw(st.lists(answers, min_size=1, max_size=2))),
        )
        for number in range(draw(st.integers(1, 5)))
    ]
    target = st.sampled_from([prediction.id for prediction in predictions])
    labels = st.builds(
        lambda by_id, id_, key, value, at, got: Label(id_ if by_id else None, None if by_id else key, value, at, got),
        st.booleans(), target, st.integers(0, 5), st.integers(-2, 2) | st.sampled_from([None, *(["x", "y"] if words else [])]),
        st.integers(0, 2), st.integers(0, 3),
    )  # fmt: skip
    return predictions, draw(st.lists(labels, max_size=6))


def store_of(folder, records, labels, *, shards, random=None):
    """A store in which these were written, one after the other, each into one of so many segments."""
    store = Store(Path(folder))
    store.ledger.append([Entry(app=APP, key="made", at=NOW, kind="made", sentence="Made it.")], recorded_at=NOW)
    pick = (lambda: random.randrange(shards)) if random is not None else (lambda: 0)
    writers = {}

    def writer(kind, release, shard):
        header = {"kind": kind, "app": APP, "release": release, "columns": COLUMNS, "key": "booking", "time": None}
        place = traffic_folder(store.root, APP, kind)
        return writers.setdefault((kind, release, shard), SegmentWriter(place, header))

    for prediction in records:
        writer("predictions", prediction.release, pick()).append(*prediction.record())
    for label in labels:
        writer("labels", "", pick()).write(pack_labels([label]))
    for one in writers.values():
        one.close()
    return store


def differs(answers, labels, _rows):
    return np.array([float(a != y) for a, y in zip(answers, labels, strict=True)])


def told(store):
    """Everything that is said of the traffic: the rows, as they come, and their statistics."""
    traffic = store.traffic(known_by=NOW)
    return frames.content_digest(traffic.to_arrow()), traffic.tallies(differs, segments=["booking"]).document()


def told_naively(store):
    """Statistics that take every record as it comes: what the law is there to forbid."""
    rows = [row for path in sorted(store.root.glob("traffic/*/predictions/*")) for row in naive_rows(path)]
    found = tally({"arm": [arm for arm, _ in rows]}, weight=np.ones(len(rows)), losses=[loss for _, loss in rows])
    return found.document()


def naive_rows(path):
    from staytrue.store.records import prediction_rows
    from staytrue.store.segment import read_segment

    for arm, rows in prediction_rows(read_segment(path)):
        yield from ((arm, answer) for answer in frames.to_pydict(rows)["answer"])


@st.composite
def retellings(draw, *, words=False):
    """A story, and the same once more: in another order, with repetitions."""
    predictions, labels = draw(stories(words=words))
    again = [*predictions, *draw(st.lists(st.sampled_from(predictions), max_size=3))]
    labels_again = [*labels, *(draw(st.lists(st.sampled_from(labels), max_size=3)) if labels else [])]
    return predictions, labels, draw(st.permutations(again)), draw(st.permutations(labels_again))


def agrees(telling, how, *, compacting, random):
    predictions, labels, again, labels_again = telling
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as other,
        closing(store_of(one, predictions, labels, shards=1)) as plain,
        closing(store_of(other, again, labels_again, shards=3, random=random)) as shuffled,
    ):
        if compacting:
            compact(shuffled, APP, NOW, set_bytes=compacting)
        return how(plain) == how(shuffled)


# One store costs some 20 ms: fewer examples than elsewhere.
LAW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@LAW
@given(
    st.booleans().flatmap(lambda words: retellings(words=words)),
    st.randoms(use_true_random=False),
    st.sampled_from([0, 1, 1 << 20]),
)
def test_order_repetition_sharding_and_compaction_change_neither_rows_nor_statistics(telling, random, compacting):
    assert agrees(telling, told, compacting=compacting, random=random)


def test_counting_records_as_they_come_breaks_the_law():
    @settings(LAW, database=None, phases=[Phase.generate])
    @given(retellings(), st.randoms(use_true_random=False))
    def law(telling, random):
        assert agrees(telling, told_naively, compacting=0, random=random)

    with pytest.raises(AssertionError):
        law()


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.floats(0.01, 100), st.floats(-1e9, 1e9) | st.just(np.nan)), max_size=20
    ),
    st.lists(st.integers(0, 3), min_size=20, max_size=20),
)
def test_tallies_of_shards_add_up_to_the_tally_of_all(rows, shards):
    def of(some):
        arms, weight, losses = ([row[i] for row in some] for i in range(3))
        return tally({"arm": arms}, weight=weight, losses=losses)

    parts = [of([row for row, at in zip(rows, shards, strict=False) if at == shard]) for shard in range(4)]

    assert merge(*parts).document() == of(rows).document()
    assert merge(*parts[::-1]).total == of(rows).total
