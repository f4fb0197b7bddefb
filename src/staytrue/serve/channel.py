"""Channel: what front and lane say to each other over a socket, as length, kind and MessagePack.

    front -> lane    u32 length | u8 kind | body      body = (seq, at, arm, weight, requests, flags, block)
    lane -> front    u32 length | (seq, last, answers, errors, logged)

The body is what is logged, byte for byte: the lane adds the answers to it and writes both with one call.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ARRAY",
    "LENGTH",
    "LOGGED",
    "STREAMED",
    "UNLOGGED",
    "Asked",
    "Receiver",
    "Told",
    "ask",
    "ask_head",
    "asked",
    "frames_of",
    "pack_array",
    "sizes",
    "tell",
    "told",
    "unpack_answers",
]

LOGGED: Final = 1
UNLOGGED: Final = 2
STREAMED: Final = 3
"""Asked for in pieces, and logged."""
ARRAY: Final = 4
"""One request of very many rows, not logged: numbers come back as the bytes of an array (see `unpack_answers`)."""

_MOMENT_S: Final = 0.0003
_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)  # macOS and Windows have none
LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<IB")
_LONG_BYTES = struct.Struct(">BI")
_BIN32: Final = 0xC6


class Asked(NamedTuple):
    """A micro-batch on its way to a lane.

    Attributes:
        seq: counts up in each front; the answer repeats it.
        at: microseconds UTC, when the oldest request came in.
        arm: `champion`, `challenger` or `shadow`.
        weight: of how many rows each of these is one in the log.
        requests: (id of the first row, rows) of each request.
        flags: (row of the batch, `column:fault`) of what was accepted all the same.
        block: the rows, packed.
    """

    seq: int
    at: int
    arm: str
    weight: float
    requests: list[tuple[bytes, int]]
    flags: list[tuple[int, str]]
    block: bytes


class Told(NamedTuple):
    """What a lane answers to one `Asked`, in one message or, streamed, in several.

    Attributes:
        last: whether nothing more comes to this seq.
        answers: a request's answers as JSON text of a list (streamed: of one piece), None where it failed.
        errors: the error document of each request that failed, by its place.
        logged: False when the log should hold it and the disk did not take it.
    """

    seq: int
    last: bool
    answers: list[bytes | None]
    errors: dict[int, dict[str, Any]]
    logged: bool


_encode = msgspec.msgpack.Encoder().encode
_asked = msgspec.msgpack.Decoder(Asked).decode
_told = msgspec.msgpack.Decoder(Told).decode


def ask(kind: int, body: Asked) -> bytes:
    """The frame that asks; `asked` reads what follows its head.

    Example:
        >>> frame = ask(LOGGED, Asked(1, 0, "champion", 1.0, [(bytes(16), 2)], [], b""))
        >>> asked(frame[5:]).requests[0][1]
        2
    """
    data = _encode(body)
    return _HEAD.pack(len(data) + 1, kind) + data


def ask_head(kind: int, body: Asked, size: int) -> bytes:
    """What comes before a block of `size` bytes in the frame that asks; the body's own block is empty.

    Sent so, ten megabytes of block are not copied twice.

    Example:
        >>> body = Asked(1, 0, "champion", 1.0, [(bytes(16), 2)], [], b"")
        >>> frame = ask_head(ARRAY, body, 3) + b"abc"
        >>> asked(frame[5:]).block, len(frame) == 4 + int.from_bytes(frame[:4], "little")
        (b'abc', True)
    """
    # The block comes last: as bytes of no length it is two bytes, as many bytes it is a letter and a length of four.
    data = _encode(body)[:-2] + _LONG_BYTES.pack(_BIN32, size)
    return _HEAD.pack(len(data) + size + 1, kind) + data


def asked(body: bytes | memoryview) -> Asked:
    """What a body asks."""
    return _asked(body)


def tell(said: Told) -> bytes:
    """The frame that answers."""
    data = _encode(said)
    return LENGTH.pack(len(data)) + data


def told(body: bytes | memoryview) -> Told:
    """What an answer says."""
    return _told(body)


_JSON_LIST: Final = b"["
_ARRAY_TYPES: Final = {b"d": np.float64, b"q": np.int64, b"?": np.bool_}
_CODES: Final = {"f": b"d", "i": b"q", "b": b"?"}


def pack_array(values: NDArray[Any]) -> bytes | None:
    """Answers as a letter for their type and their bytes; None when JSON has to say what they are.

    A number costs 10 ns so, 150 ns as JSON, and scoring a row costs a microsecond.

    Example:
        >>> unpack_answers(pack_array(np.array([1.5, 2.5]))).tolist(), unpack_answers(b'["a"]')
        ([1.5, 2.5], ['a'])
    """
    code = _CODES.get(values.dtype.kind)
    if code is None or values.ndim != 1 or (code == b"d" and not bool(np.isfinite(values).all())):
        return None
    return code + values.astype(_ARRAY_TYPES[code], copy=False).tobytes()


def unpack_answers(data: bytes) -> NDArray[Any] | list[Any]:
    """What a lane answered to an `ARRAY`: what `pack_array` wrote, or the values of a JSON list."""
    if data[:1] == _JSON_LIST:
        answers: list[Any] = msgspec.json.decode(data)
        return answers
    return np.frombuffer(data, _ARRAY_TYPES[data[:1]], offset=1)


class Receiver:
    """Frames of a blocking socket, mostly with one system call each.

    Args:
        sock: where they come from.
        size_bytes: of the buffer, which grows with the frames.
        eager: look for the next frame for a moment before going to sleep, as long as frames come that close: being woken
            takes 90 us, a fifth of the way of a lone request through the lane.
    """

    def __init__(self, sock: socket.socket, size_bytes: int = 1 << 16, *, eager: bool = False) -> None:
        self._sock = sock
        self._eager, self._close = eager, False
        self._buffer = bytearray(size_bytes)
        self._start = self._end = 0

    def next(self) -> bytes | None:
        """The next frame (without its length); None when the other end is gone."""
        if not self._filled(LENGTH.size):
            return None
        (size,) = LENGTH.unpack_from(self._buffer, self._start)
        self._start += LENGTH.size
        if not self._filled(size):
            return None
        frame = bytes(memoryview(self._buffer)[self._start : self._start + size])
        self._start += size
        return frame

    def _filled(self, size: int) -> bool:
        """Whether so many bytes are there, after waiting for them."""
        while self._end - self._start < size:
            if self._start:
                self._buffer[: self._end - self._start] = self._buffer[self._start : self._end]
                self._start, self._end = 0, self._end - self._start
            if size > len(self._buffer):
                self._buffer.extend(bytes(size - len(self._buffer)))
            try:
                got = self._received(memoryview(self._buffer)[self._end :])
            except ConnectionError:
                return False
            if not got:
                return False
            self._end += got
        return True

    def _received(self, view: memoryview) -> int:
        if self._close:
            end_s = time.perf_counter() + _MOMENT_S
            while time.perf_counter() < end_s:
                with contextlib.suppress(BlockingIOError):
                    return self._sock.recv_into(view, 0, socket.MSG_DONTWAIT)
                _give_way()  # whoever else wants the core has it
        began_s = time.perf_counter()
        got = self._sock.recv_into(view)
        self._close = self._eager and time.perf_counter() - began_s < _MOMENT_S
        return got


def frames_of(buffer: bytearray) -> Iterator[bytes]:
    """The whole frames at the beginning of `buffer`, taken out of it; what is not whole yet stays."""
    at = 0
    try:
        while len(buffer) - at >= LENGTH.size:
            (size,) = LENGTH.unpack_from(buffer, at)
            end = at + LENGTH.size + size
            if len(buffer) < end:
                return
            yield bytes(memoryview(buffer)[at + LENGTH.size : end])
            at = end
    finally:
        del buffer[:at]


def sizes(body: Asked) -> Sequence[int]:
    """How many rows each request of a batch has."""
    return [size for _, size in body.requests]
