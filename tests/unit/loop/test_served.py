"""Served: what a release answered to live requests is found again by the key of the row."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from staytrue.kernel.release import Digest, Release
from staytrue.loop.served import ServedAnswers
from staytrue.store.block import Layout
from staytrue.store.ledger import Entry
from staytrue.store.records import pack_answers, pack_body
from staytrue.store.segment import SegmentWriter, traffic_folder
from staytrue.store.store import Store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WHO = (Digest("c" * 64), Digest("d" * 64))


def released(store: Store) -> str:
    code, model = WHO
    release = Release(
        app="rates", code=code, training_code=code, tables={}, env=code, params={}, seed=0, model=model, recipe=code,
        as_trained=True,
    )  # fmt: skip
    made = store.objects.put_document(release.document())
    store.ledger.append([Entry(app="rates", key="made", at=NOON, kind="made", sentence="Made it.")], recorded_at=NOON)
    return str(made)


def log(store: Store, release: str, key: str, answers: dict[int, float]) -> None:
    columns = ((key, "int64"), ("size", "float64"))
    header = {
        "kind": "predictions", "app": "rates", "release": release, "columns": columns, "key": key, "time": None,
    }  # fmt: skip
    values = {key: list(answers), "size": [1.0] * len(answers)}
    us = int(NOON.timestamp() * 1_000_000)
    first_id = ((us // 1000) << 80 | 0x7 << 76 | 0b10 << 62).to_bytes(16, "big")
    requests = [(first_id, len(answers))]
    body = pack_body(seq=1, at_us=us, arm="champion", block=Layout(columns).block(values).pack(), requests=requests)
    with closing(SegmentWriter(traffic_folder(store.root, "rates", "predictions"), header)) as writer:
        writer.append(body, pack_answers([json.dumps(list(answers.values())).encode()]))


# `id`, `at` and `label` are names of ours in the traffic: there, the row's own are called `row.id` and so on.
@pytest.mark.parametrize("key", ["booking", "id", "label"])
def test_answers_are_found_by_the_rows_key_whatever_it_is_called(tmp_path, key):
    with closing(Store(tmp_path)) as store:
        log(store, released(store), key, {7: 70.5, 8: 80.5})

        found = ServedAnswers(store, "rates", key=key).answers(
            [WHO], [8, 9, 7], NOON - timedelta(hours=1), NOON + timedelta(hours=1)
        )

    assert found == {WHO: {0: 80.5, 2: 70.5}}
