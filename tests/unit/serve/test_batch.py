"""Batch and queue: who goes together, who has to wait, who is told that it is too late."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytrue.kernel.signature import DEFAULTS, Feature, Signature
from staytrue.serve.batch import Chunk, Queue, Reply, Request
from staytrue.serve.ids import new_id
from staytrue.serve.problem import Problem
from staytrue.serve.schema import Schema

SIZE = Feature(name="size", type="float64", low=1.0, high=5.0, unit_low=-500.0, unit_high=500.0)
CODE = Feature(name="code", type="uint64", actions=DEFAULTS | {"missing": "accept", "null": "accept"})
SCHEMA = Schema(Signature(features=(SIZE, CODE)), most_rows=10_000)
NOW_S = 100.0


@pytest.fixture
def noted():
    return []


@pytest.fixture
def queue(noted):
    return Queue(SCHEMA, most_rows=100, at_once=1, noted=lambda *what: noted.append(what))


@pytest.fixture(scope="module")
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


def request_of(loop, *sizes, deadline_s=NOW_S + 2, arm="champion", **row):
    """A request with a row of each size."""
    rows = [{"size": size} | row for size in sizes]
    read = SCHEMA.read(json.dumps({"rows": rows}).encode())
    assert not isinstance(read, Problem)
    return Request(
        id=new_id(), at=0, size=len(rows), rows=read.rows, flags=read.flags, deadline_s=deadline_s, arm=arm,
        answered=loop.create_future(),
    )  # fmt: skip


def large(loop, *pieces):
    """A request that was cut into pieces of so many rows."""
    return Request(
        id=new_id(), at=0, size=sum(pieces), rows=(), packed=[(size, b"%d" % size) for size in pieces],
        flags=[], deadline_s=NOW_S + 2, answered=loop.create_future(),
    )  # fmt: skip


def answered(batch, *, logged=True):
    """Answer every request of a batch with its rows' places."""
    for chunk in batch.chunks:
        values = list(range(chunk.start, chunk.start + chunk.size))
        chunk.request.part(chunk, json.dumps(values).encode(), logged=logged)


def outcome(request):
    return request.answered.result() if request.answered.done() else None


def test_all_that_waits_goes_together(queue, loop):
    asked = [request_of(loop, 2.0), request_of(loop, 3.0, 4.0), request_of(loop, 5.0)]
    for one in asked:
        queue.put(one)

    batch = queue.take(NOW_S)

    assert [chunk.request for chunk in batch.chunks] == asked
    assert SCHEMA.layout.unpack(batch.packed).floats[:, 0].tolist() == [2.0, 3.0, 4.0, 5.0]
    assert (queue.rows, bool(queue), queue.take(NOW_S)) == (0, False, None)


def test_an_async_app_is_asked_one_request_at_a_time(queue, loop):
    asked = [request_of(loop, 2.0), request_of(loop, 3.0)]
    for one in asked:
        queue.put(one)

    assert [queue.take(NOW_S, alone=True).chunks[0].request for _ in asked] == asked


def test_champion_and_challenger_never_share_a_batch(queue, loop):
    for arm in ("champion", "champion", "challenger", "champion"):
        queue.put(request_of(loop, 2.0, arm=arm))

    batches = [queue.take(NOW_S) for _ in range(3)]

    assert [(batch.arm, batch.size) for batch in batches] == [("champion", 2), ("challenger", 1), ("champion", 1)]


def test_a_slow_model_is_given_fewer_rows_at_a_time(queue, loop):
    for rows in (1, 10, 100) * 20:
        queue.pace.learn(rows, 0.001 * rows)
    for _ in range(60):
        queue.put(request_of(loop, 2.0))

    # 25 ms for a batch are 25 rows of a millisecond each.
    assert queue.take(NOW_S).size == pytest.approx(25, abs=1)


def test_who_has_waited_too_long_is_told_and_not_asked(queue, loop):
    late, timely = request_of(loop, 2.0, deadline_s=NOW_S - 1), request_of(loop, 3.0)
    queue.put(late)
    queue.put(timely)

    batch = queue.take(NOW_S)

    assert [chunk.request for chunk in batch.chunks] == [timely]
    assert (outcome(late).status, outcome(late).code) == (503, "ST760")
    assert queue.rows == 0


def test_while_nobody_takes_anything_the_late_are_told_too(queue, loop):
    late, timely = request_of(loop, 2.0, deadline_s=NOW_S - 1), request_of(loop, 3.0)
    queue.put(late)
    queue.put(timely)

    queue.expire(NOW_S)

    assert (outcome(late).code, outcome(timely), queue.rows) == ("ST760", None, 1)


def test_who_has_gone_is_not_asked(queue, loop):
    gone = request_of(loop, 2.0)
    queue.put(gone)
    gone.answered.cancel()

    assert queue.take(NOW_S) is None
    assert queue.rows == 0


def test_room_is_counted_in_rows_and_one_request_always_fits(queue, loop):
    assert queue.has_room(5_000)
    queue.put(request_of(loop, *[2.0] * 60))

    assert queue.has_room(40)
    assert not queue.has_room(41)


def test_large_requests_take_turns_with_small_ones(queue, loop):
    long = large(loop, 4, 4, 2)
    queue.put(long)
    for _ in range(2):
        queue.put(request_of(loop, 2.0))

    turns = []
    while (batch := queue.take(NOW_S)) is not None:
        turns.append((batch.size, batch.chunks[0].request is long))
        answered(batch)
        if len(turns) == 1:
            queue.put(request_of(loop, 2.0))

    assert turns == [(4, True), (3, False), (4, True), (2, True)]
    assert b"[" + b",".join(part[1:-1] for part in outcome(long).parts) + b"]" == b"[0, 1, 2, 3,4, 5, 6, 7,8, 9]"


@given(st.permutations([(0, 3), (3, 5), (8, 1), (9, 4)]), st.integers(0, 3))
def test_parts_come_in_any_order_and_the_answer_in_the_rows_order(order, unlogged):
    loop = asyncio.new_event_loop()
    asked = large(loop, 3, 5, 1, 4)
    for place, (start, size) in enumerate(order):
        assert not asked.gone
        answers = json.dumps(list(range(start, start + size))).encode()
        asked.part(Chunk(request=asked, start=start, size=size), answers, logged=place != unlogged)
    loop.close()

    reply = outcome(asked)
    assert isinstance(reply, Reply)
    assert [value for part in reply.parts for value in json.loads(part)] == list(range(13))
    assert reply.logged is False  # one piece that is in no log is enough to say so


def test_odd_values_are_flagged_in_the_row_of_the_batch_and_of_the_request(queue, loop, noted):
    plain, odd = request_of(loop, 2.0, 3.0), request_of(loop, 2.0, 7.0)
    queue.put(plain)
    queue.put(odd)

    batch = queue.take(NOW_S)

    assert batch.flags == [(3, "size:range")]
    assert [(row, one.fault) for row, one in odd.flags] == [(1, "range")]
    assert plain.flags == []
    assert noted == [("size", "range", False)]


def test_one_that_can_not_be_answered_is_told_and_those_beside_it_go_on(queue, loop, noted):
    first, bad, last = request_of(loop, 2.0), request_of(loop, 3.0, 5000.0), request_of(loop, 4.0)
    for one in (first, bad, last):
        queue.put(one)

    batch = queue.take(NOW_S)

    assert [chunk.request for chunk in batch.chunks] == [first, last]
    assert SCHEMA.layout.unpack(batch.packed).floats[:, 0].tolist() == [2.0, 4.0]
    assert [(one["row"], one["fault"]) for one in outcome(bad).errors] == [(1, "unit")]
    assert noted == [("size", "unit", True)]


def test_a_number_beyond_64_bits_refuses_its_own_request_alone(queue, loop):
    good, bad = request_of(loop, 2.0, code=2**64 - 1), request_of(loop, 3.0, code=2**64)
    queue.put(bad)
    queue.put(good)

    batch = queue.take(NOW_S)

    assert [chunk.request for chunk in batch.chunks] == [good]
    assert outcome(bad).errors[0]["field"] == "code"


def test_a_batch_is_taken_apart_into_what_each_request_had(queue, loop):
    asked = [request_of(loop, 2.0), request_of(loop, 3.0, 7.0), request_of(loop, 4.0)]
    for one in asked:
        queue.put(one)

    apart = queue.take(NOW_S).taken_apart(SCHEMA)

    assert [[chunk.request for chunk in batch.chunks] for batch in apart] == [[one] for one in asked]
    assert [SCHEMA.layout.unpack(batch.packed).floats[:, 0].tolist() for batch in apart] == [[2.0], [3.0, 7.0], [4.0]]
    assert [batch.flags for batch in apart] == [[], [(1, "size:range")], []]
    assert [batch.size for batch in apart] == [1, 2, 1]


def test_at_the_end_everybody_is_told(queue, loop):
    asked = [request_of(loop, 2.0), large(loop, 4, 4)]
    for one in asked:
        queue.put(one)
    queue.take(NOW_S)  # of the large one, the first piece

    queue.drain(Problem(status=503, code="ST762", detail="The server ends."))

    assert [outcome(one).code for one in asked] == ["ST762"] * 2
    assert (queue.rows, bool(queue)) == (0, False)


def test_an_empty_queue_has_no_wait_and_a_full_one_has(queue, loop):
    assert queue.wait_s() == 0
    queue.pace.learn(1, 0.5)
    queue.put(request_of(loop, 2.0))

    assert queue.wait_s() > 0.1
