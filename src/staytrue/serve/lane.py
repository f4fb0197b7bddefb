"""Lane: the process that answers one release's batches, one after the other, and logs each before it replies.

It is forked from its worker, so it is there in milliseconds and shares the model's memory. It owns nothing but its socket
and its log segment: when the front is gone it ends, when it is killed the front sends the batch to the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from staytrue.errors import InvalidInput, StaytrueError
from staytrue.serve.answerer import Answerer, Answers
from staytrue.serve.channel import ARRAY, STREAMED, UNLOGGED, Asked, Receiver, Told, asked, sizes, tell
from staytrue.store.segment import SegmentWriter

__all__ = ["Log", "run_lane"]

_NOT_LOGGED = (UNLOGGED, ARRAY)
_encode = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Log:
    """Where predictions go. `durable`: a reply waits for the disk."""

    writer: SegmentWriter
    durable: bool

    def kept(self, body: bytes | memoryview, data: list[bytes | None]) -> bool:
        """Whether the record is written: whole, or not at all."""
        try:
            ticket = self.writer.append(body, _encode(data))
            if self.durable:
                self.writer.commit(ticket)
        except StaytrueError:
            # A shop whose disk is full goes on selling; the answer says that it is in no log, and the front counts it.
            return False
        return True


def run_lane(sock: socket.socket, answerer: Answerer, log: Log | None) -> None:
    """Answer until the other end is gone."""
    if answerer.is_async:
        asyncio.run(_answer_beside(sock, answerer, log))
    else:
        _answer_in_turn(sock, answerer, log)


def _answer_in_turn(sock: socket.socket, answerer: Answerer, log: Log | None) -> None:
    unpack, answered, receive = answerer.layout.unpack, answerer.answered, Receiver(sock, eager=True).next
    while (frame := receive()) is not None:
        body = memoryview(frame)[1:]
        batch = asked(body)
        block = unpack(batch.block)
        answers = answerer.answered_whole(block) if frame[0] == ARRAY else answered(block, sizes(batch))
        said = _said(batch, body, answers, None if frame[0] in _NOT_LOGGED else log)
        with contextlib.suppress(ConnectionError):  # the front is gone: the next `receive` ends the loop
            sock.sendall(tell(said))


def _said(batch: Asked, body: bytes | memoryview, answers: Answers, log: Log | None) -> Told:
    """The reply to a batch, once what it says is in the log."""
    kept = log is None or len(answers.errors) == len(answers.data) or log.kept(body, answers.data)
    return Told(batch.seq, True, answers.data, answers.errors, kept)


async def _answer_beside(sock: socket.socket, answerer: Answerer, log: Log | None) -> None:
    """For predict functions that wait: every request is a task of its own."""
    sock.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    under_way: set[asyncio.Task[None]] = set()
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            size = int.from_bytes(await reader.readexactly(4), "little")
            frame = await reader.readexactly(size)
            task = asyncio.create_task(_one(answerer, frame, log, writer.write))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
    for task in under_way:
        task.cancel()
    writer.close()


async def _one(answerer: Answerer, frame: bytes, log: Log | None, write: Callable[[bytes], Any]) -> None:
    batch = asked(memoryview(frame)[1:])
    block = answerer.layout.unpack(batch.block)
    try:
        if frame[0] == STREAMED:
            pieces = []
            async for piece in answerer.pieces(block):
                pieces.append(piece)
                write(tell(Told(batch.seq, False, [_json(piece)], {}, False)))
            values = answerer.whole(pieces)
        else:
            values = await answerer.awaited(block)
        answers = Answers([_json(values)], {})
    except StaytrueError as exc:
        answers = Answers([None], {0: exc.document()})
    except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001 - without an answer the caller would wait for ever
        failed = InvalidInput("ST303", f"{answerer.name} ended with {type(exc).__name__}.", error=type(exc).__name__)
        answers = Answers([None], {0: failed.document()})
    write(tell(_said(batch, frame[1:], answers, None if frame[0] in _NOT_LOGGED else log)))
