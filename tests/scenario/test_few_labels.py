"""Where labels are few: command line, metrics and page say the same, and none of them calls right what labels do not show."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from living import APP, Live, beating

from staytrue.dashboard.site import respond
from staytrue.engines.process import ProcessPool
from staytrue.kernel.traffic import Label
from staytrue.loop.lease import alive
from staytrue.loop.look import last_look, verdict
from staytrue.loop.status import status
from staytrue.store.block import Layout
from staytrue.store.labels import Labels
from staytrue.store.records import pack_answers, pack_body
from staytrue.store.segment import SegmentWriter, traffic_folder

EACH = 8
OWN = APP.replace('metric="mae"', "metric=far").replace(
    "@app.train", "def far(answers, labels, rows):\n    return abs(answers - labels)\n\n\n@app.train"
)


def rare(text):
    """The shop with so few sales that the loop's own rows say little."""
    return text.replace("60", str(EACH))


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with ProcessPool(tmp_path_factory.mktemp("jobs"), slots=1) as made:
        yield made


@pytest.fixture(params=[APP, OWN], ids=["a named metric", "a metric of its own"])
def live(tmp_path, pool, request):
    made = Live(tmp_path / "shop", pool, text=rare(request.param))
    yield made
    made.ctx.store.close()


def wait_until(happened, within_s=30.0):
    until = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def answered(live, answers, labels):
    """Predictions of the last ten days, the first of which have labels."""
    root, columns = live.ctx.store.root, (("size", "float64"),)
    release = live.roles()["champion"]
    header = {"kind": "predictions", "app": "shop", "release": release, "columns": columns, "key": None, "time": None}
    block = Layout(columns).block({"size": [2.0]}).pack()
    ids, times = [], []
    with SegmentWriter(traffic_folder(root, "shop", "predictions"), header) as writer:
        for number, answer in enumerate(answers):
            at_us = int((live.now - timedelta(days=number % 10, hours=1)).timestamp() * 1e6)
            ids.append((at_us // 1000 << 80 | 0x7 << 76 | 0b10 << 62 | number << 32).to_bytes(16, "big"))
            times.append(at_us)
            body = pack_body(seq=1, at_us=at_us, arm="champion", block=block, requests=[(ids[-1], 1)])
            writer.append(body, pack_answers([json.dumps([answer]).encode()]))
    told = zip(ids, times, labels, strict=False)
    with Labels(root, "shop") as kept:
        kept.add([Label(id=id_, key=None, label=label, at_us=at, got_us=at) for id_, at, label in told])


def said(live):
    """What the three say: of a loop that is at work."""
    store = live.ctx.store
    with beating(store.root):
        wait_until(lambda: alive(store.root, "shop"))
        command = status(store, "shop", at=None)
        page = json.loads(respond(store, "/api/apps/shop", {}, now=datetime.now(UTC), live={}).body)
        look = last_look(store, "shop", datetime.now(UTC))
        metrics = verdict(
            look,
            command["champion"]["release"],
            system=(),
            now=look.judged_at(datetime.now(UTC), "end"),
            answered=lambda: 0,
        )
    assert page["status"]["right"] == command["right"]
    assert metrics.state == command["right"]["state"]
    return command["right"]


def test_labels_that_say_otherwise_make_an_app_harmed_that_looked_right(live):
    controller = live.controller()
    live.live(controller, 8)
    before = said(live)
    answered(live, [25.0] * 60, [60.0 + one for one in range(60)])

    controller.turn()

    assert before["state"] == "right"
    found = said(live)
    assert found["state"] == "harmed", found
    assert found["evidence"]["rows"] == 60


def test_predictions_without_labels_make_an_app_unknown_that_looked_right(live):
    controller = live.controller()
    live.live(controller, 8)
    answered(live, [25.0] * 60, [])

    before, _ = said(live), controller.turn()

    assert before["sentence"].endswith("the loop of `staytrue up` does")
    assert before["state"] == said(live)["state"] == "unknown"
    assert "0 labels were ever seen" in said(live)["sentence"]


def test_what_few_labels_said_is_known_to_the_next_controller(live):
    live.live(live.controller(), 8)
    first = live.controller()
    first.turn()
    answered(live, [25.0] * 60, [60.0] * 60)
    first.turn()

    second = live.controller()
    second.turn()

    assert second.few == first.few
    assert second.few["labels"] == 60
