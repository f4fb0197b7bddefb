"""Lane: whatever the predict function does, every batch gets a reply."""

from __future__ import annotations

import asyncio
import json
import socket
import threading

import numpy as np
import pytest

from staytrue import App
from staytrue.kernel.signature import Feature, Signature
from staytrue.serve.answerer import Answerer
from staytrue.serve.channel import LOGGED, STREAMED, Asked, Receiver, ask, told
from staytrue.serve.ids import new_id
from staytrue.serve.lane import run_lane
from staytrue.store.block import Layout

SIG = Signature(features=(Feature(name="a", type="float64"),))
LAYOUT = Layout(SIG.schema)


def answerer_of(predict):
    app = App("numbers")

    @app.data(time="at", key="id", label="y")
    def rows(since, until):
        return []

    @app.train
    def fit(rows):
        return None

    app.predict(metric="mae")(predict)
    return Answerer(
        id="0" * 64, release=None, app=app, model=None, signature=SIG, layout=LAYOUT, label_type="float64", example={}
    )


def replies(predict, kind=LOGGED):
    """What a lane says to one row, message by message."""
    ours, theirs = socket.socketpair()
    lane = threading.Thread(target=run_lane, args=(theirs, answerer_of(predict), None))
    lane.start()
    said = []
    with ours:
        ours.settimeout(10)
        body = Asked(1, 0, "champion", 1.0, [(new_id(), 1)], [], LAYOUT.block({"a": [2.0]}).pack())
        ours.sendall(ask(kind, body))
        receiver = Receiver(ours)
        while not said or not said[-1].last:
            frame = receiver.next()
            assert frame is not None
            said.append(told(frame))
        ours.shutdown(socket.SHUT_RDWR)
    lane.join(10)
    theirs.close()
    assert not lane.is_alive()
    return said


async def cancelled(model, rows):
    raise asyncio.CancelledError


async def half(model, rows):
    return ["\ud800"]


async def late(model, rows):
    async with asyncio.timeout(0.01):
        await asyncio.sleep(5)


def half_at_once(model, rows):
    return ["\ud800"]


@pytest.mark.parametrize(
    ("predict", "code"), [(cancelled, "ST303"), (late, "ST303"), (half, "ST306"), (half_at_once, "ST306")]
)
def test_a_function_that_ends_in_an_odd_way_is_answered_with_an_error(predict, code):
    (said,) = replies(predict)

    assert said.answers == [None]
    assert said.errors[0]["code"] == code


def test_pieces_come_one_by_one_and_then_the_whole():
    async def words(model, rows):
        for word in ("a", "b"):
            yield word

    said = replies(words, STREAMED)

    assert [(one.last, [json.loads(part) for part in one.answers]) for one in said] == [
        (False, ["a"]), (False, ["b"]), (True, [["ab"]]),
    ]  # fmt: skip


def test_a_piece_that_can_not_be_written_ends_the_stream_with_an_error():
    async def words(model, rows):
        yield "a"
        yield np.int64(5)

    first, *_, last = replies(words, STREAMED)

    assert first.answers == [b'"a"']
    assert (last.last, last.answers, last.errors[0]["code"]) == (True, [None], "ST303")
