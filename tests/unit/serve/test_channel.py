"""Channel: frames whole, whatever pieces they come in."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytrue.serve.channel import (
    ARRAY,
    LENGTH,
    LOGGED,
    Asked,
    Receiver,
    Told,
    ask,
    ask_head,
    asked,
    frames_of,
    pack_array,
    sizes,
    tell,
    told,
    unpack_answers,
)

REQUESTS = st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(1, 10**6)), max_size=5)
ASKED = st.builds(
    Asked,
    seq=st.integers(0, 2**63),
    at=st.integers(0, 2**62),
    arm=st.sampled_from(["champion", "challenger", "shadow"]),
    weight=st.floats(1, 1e6),
    requests=REQUESTS,
    flags=st.lists(st.tuples(st.integers(0, 1000), st.text(max_size=20)), max_size=3),
    block=st.binary(max_size=300),
)
TOLD = st.builds(
    Told,
    seq=st.integers(0, 2**63),
    last=st.booleans(),
    answers=st.lists(st.none() | st.binary(max_size=50), max_size=5),
    errors=st.dictionaries(st.integers(0, 5), st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=2)),
    logged=st.booleans(),
)


@given(ASKED)
def test_what_is_asked_comes_out_as_it_went_in(body):
    frame = ask(LOGGED, body)

    assert (LENGTH.unpack_from(frame)[0], frame[4]) == (len(frame) - 4, LOGGED)
    assert asked(frame[5:]) == body
    assert sizes(body) == [size for _, size in body.requests]


@given(ASKED)
def test_a_block_that_is_sent_after_its_head_is_read_as_one_frame(body):
    frame = ask_head(ARRAY, body._replace(block=b""), len(body.block)) + body.block

    assert LENGTH.unpack_from(frame)[0] == len(frame) - 4
    assert asked(frame[5:]) == body


@given(st.lists(TOLD, max_size=5), st.integers(1, 40))
def test_frames_are_whole_however_the_bytes_come(messages, step):
    data = b"".join(tell(said) for said in messages)
    buffer = bytearray()
    got = []
    for at in range(0, len(data), step):
        buffer += data[at : at + step]
        got += [told(frame) for frame in frames_of(buffer)]

    assert got == messages
    assert buffer == b""


def test_a_receiver_takes_frames_of_every_size_and_ends_with_the_other_end():
    sent = [b"a" * size for size in (1, 0, 70_000, 5, 200_000)]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = threading.Thread(
            target=lambda: (theirs.sendall(b"".join(LENGTH.pack(len(one)) + one for one in sent)), theirs.close())
        )
        writer.start()
        receiver = Receiver(ours, size_bytes=64)
        got = [receiver.next() for _ in sent]
        over = receiver.next()
        writer.join()

    assert got == sent
    assert over is None


def test_a_frame_that_breaks_off_is_none():
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(LENGTH.pack(100) + b"half")
        theirs.close()

        assert Receiver(ours).next() is None


@pytest.mark.parametrize(
    "values",
    [np.array([1.5, -2.5]), np.array([1, 2**62]), np.array([True, False]), np.array([1, 2], np.int8), np.zeros(0),
     np.array([0.5], np.float32)],
    ids=str,
)  # fmt: skip
def test_plain_answers_go_as_bytes(values):
    packed = pack_array(values)

    assert packed is not None
    assert unpack_answers(packed).tolist() == values.tolist()


@pytest.mark.parametrize(
    "values", [np.array(["a"]), np.zeros((2, 2)), np.array([np.nan]), np.array([np.inf]), np.array([2**64 - 1], np.uint64)],
    ids=str,
)  # fmt: skip
def test_answers_that_are_not_plain_go_another_way(values):
    assert pack_array(values) is None


def test_answers_as_json_are_read_too():
    assert unpack_answers(b'["a",{"b":1}]') == ["a", {"b": 1}]
