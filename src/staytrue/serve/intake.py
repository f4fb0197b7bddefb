"""Intake: the process that reads large requests, so that nobody waits behind another's eight megabytes of JSON.

Decoding holds Python's lock for as long as it takes: 40 ms for 8 MiB. Here it happens in a process of its own, started
with the first large request, at a lower priority. Out come blocks, cut to a size that keeps nobody waiting for a lane.

    front -> intake    u32 length | (seq, signature's digest, signature or nil, most rows, chunk rows, form, head, body)
    intake -> front    u32 length | (seq, problem or nil, chunks, flags, rest)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

import msgspec
import numpy as np

from staytrue.engines.guard import DETACHED, Guard, limit_this_process
from staytrue.engines.process import environment
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.signature import Finding, Signature
from staytrue.serve.channel import LENGTH, Receiver, frames_of
from staytrue.serve.problem import Problem
from staytrue.serve.protocols import mlflow, oip
from staytrue.serve.schema import Flag, Read, Schema, refusal
from staytrue.store.objects import digest

__all__ = ["LARGE_BYTES", "Form", "Intake", "Taken", "main", "read_form"]

Form: TypeAlias = Literal["predict", "mlflow", "oip"]

LARGE_BYTES: Final = 128 << 10
"""A larger body is read here: reading one of this size takes the front less than a millisecond."""
_NICE: Final = 5
_MOST_SCHEMAS: Final = 8
_MOST_FLAGS: Final = 200
_TRIES: Final = 3


class _Asked(NamedTuple):
    seq: int
    name: str
    signature: dict[str, Any] | None
    most_rows: int
    chunk_rows: int
    form: Form
    head: str
    body: bytes


class _Told(NamedTuple):
    seq: int
    problem: dict[str, Any] | None
    chunks: list[tuple[int, bytes]]
    flags: list[tuple[int, dict[str, Any]]]
    rest: tuple[str | None, dict[str, bool]] | None


class Taken(NamedTuple):
    """A request of some protocol, read. `rest`: of the Open Inference Protocol, the caller's id and the wanted outputs."""

    read: Read
    rest: tuple[str | None, Mapping[str, bool]] | None = None


_encode = msgspec.msgpack.Encoder().encode
_NO_BODY: Final = _encode(b"")
_BODY: Final = struct.Struct(">BI")
_BIN32: Final = 0xC6
"""How MessagePack begins bytes, whose length follows."""
_asked = msgspec.msgpack.Decoder(_Asked).decode
_told = msgspec.msgpack.Decoder(_Told).decode


def read_form(schema: Schema, form: Form, head: str, body: bytes) -> Taken | Problem:
    """The rows in the body of a request.

    Args:
        form: the protocol that it speaks.
        head: of MLflow's the content type, of the Open Inference Protocol's the length of its JSON part, or empty.
    """
    if form == "predict":
        read = schema.read(body)
        return read if isinstance(read, Problem) else Taken(read)
    signature = schema.signature
    types = dict(signature.schema)
    rest: tuple[str | None, Mapping[str, bool]] | None = None
    if form == "mlflow":
        rows = mlflow.rows(body, head, signature.seen, types, most_rows=schema.most_rows)
    else:
        asked = oip.request(body, head.encode() or None, signature.seen, types, most_rows=schema.most_rows)
        if isinstance(asked, Problem):
            return asked
        rows, rest = asked.rows, (asked.id, asked.outputs)
    read = rows if isinstance(rows, Problem) else schema.read_dicts(rows)
    return read if isinstance(read, Problem) else Taken(read, rest)


# ---------------------------------------------------------------- in the process of its own


def main() -> None:
    """Read what comes over the socket whose number is the argument, until the front is gone."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    limit_this_process(oom_score=300)
    if hasattr(os, "nice"):
        os.nice(_NICE)
    schemas: dict[str, Schema] = {}
    receive = Receiver(sock, 1 << 20).next
    while (frame := receive()) is not None:
        asked = _asked(frame)
        schema = _schema(schemas, asked)
        taken = read_form(schema, asked.form, asked.head, asked.body)
        outcome = taken if isinstance(taken, Problem) else _cut(schema, taken, asked.chunk_rows)
        if isinstance(outcome, Problem):
            document = {name: getattr(outcome, name) for name in ("status", "code", "detail", "errors")}
            outcome = _Told(asked.seq, document, [], [], None)
        data = _encode(outcome._replace(seq=asked.seq))
        with contextlib.suppress(ConnectionError):
            sock.sendall(LENGTH.pack(len(data)) + data)


def _schema(schemas: dict[str, Schema], asked: _Asked) -> Schema:
    if asked.name not in schemas and asked.signature is not None:
        if len(schemas) >= _MOST_SCHEMAS:
            schemas.clear()
        schemas[asked.name] = Schema(Signature.from_document(asked.signature), most_rows=asked.most_rows)
    return schemas[asked.name]


def _cut(schema: Schema, taken: Taken, chunk_rows: int) -> _Told | Problem:
    """The rows as packed chunks, after a look at every value."""
    rows, flags = taken.read.rows, list(taken.read.flags or ())
    errors: list[Mapping[str, Any]] = []
    chunks = []
    for start in range(0, len(rows), chunk_rows):
        some = rows[start : start + chunk_rows]
        try:
            block = schema.block(some)
        except OverflowError:
            suspects: Any = np.ones(len(some), np.bool_)
        else:
            suspects = schema.suspects(block)
            chunks.append((len(some), block.pack()))
        if suspects is not None and taken.read.flags is None:
            found, wrong = schema.explain(some, np.flatnonzero(suspects).tolist())
            flags += [(start + row, one) for row, one in found]
            errors += [{**error, "row": start + error["row"]} for error in wrong]
    if errors:
        return refusal(errors)
    rest = None if taken.rest is None else (taken.rest[0], dict(taken.rest[1]))
    return _Told(0, None, chunks, [(row, one.document(row)) for row, one in flags[:_MOST_FLAGS]], rest)


# ---------------------------------------------------------------- in the front


class Intake(asyncio.Protocol):
    """The front's side: hands bodies over and awaits what is in them.

    Args:
        guard: kills the process when the front is gone.
        most_bytes: how much may wait here; beyond it requests are refused.
    """

    def __init__(self, guard: Guard, *, most_bytes: int) -> None:
        self._guard, self._most_bytes = guard, most_bytes
        self._waiting: dict[int, tuple[asyncio.Future[_Told], int]] = {}
        self._bytes = 0
        self._seq = 0
        self._known: set[str] = set()
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = asyncio.Lock()

    async def read(
        self, schema: Schema, form: Form, head: str, body: Sequence[bytes], *, chunk_rows: int
    ) -> Taken | Problem:
        """The rows in a large body, which is given in pieces."""
        size = sum(map(len, body))
        if self._bytes + size > self._most_bytes:
            return FULL
        self._bytes += size
        try:
            for _ in range(_TRIES):
                with contextlib.suppress(ConnectionError):
                    return self._taken(await self._asked(schema, form, head, body, chunk_rows))
            return FAILED
        finally:
            self._bytes -= size

    def close(self) -> None:
        """End the process."""
        if self._transport is not None:
            self._transport.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._guard.forget(self._process.pid)

    async def _asked(self, schema: Schema, form: Form, head: str, body: Sequence[bytes], chunk_rows: int) -> _Told:
        async with self._starting:
            if self._transport is None or self._transport.is_closing():
                await self._start()
        document = schema.signature.document()
        name = digest(canonical_json({"kind": "signature", **document, "most_rows": schema.most_rows}))
        self._seq += 1
        told: asyncio.Future[_Told] = asyncio.get_running_loop().create_future()
        size = sum(map(len, body))
        self._waiting[self._seq] = (told, size)
        sent = None if name in self._known else document
        self._known.add(name)
        asked = _Asked(self._seq, name, sent, schema.most_rows, chunk_rows, form, head, b"")
        begun = _encode(asked)[: -len(_NO_BODY)] + _BODY.pack(_BIN32, size)
        transport = cast("asyncio.Transport", self._transport)
        # The body comes last, so it can be written as it is: a copy of it would make everybody wait.
        transport.writelines([LENGTH.pack(len(begun) + size) + begun, *body])
        return await told

    @staticmethod
    def _taken(told: _Told) -> Taken | Problem:
        if told.problem is not None:
            return Problem(**told.problem)
        flags = [(row, _finding(document)) for row, document in told.flags]
        return Taken(Read(rows=(), flags=flags, packed=told.chunks), told.rest)

    async def _start(self) -> None:
        if self._process is not None:
            self._guard.forget(self._process.pid)
            self._process.wait()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        argv = [sys.executable, "-m", "staytrue.serve.intake", str(theirs.fileno())]
        self._process = subprocess.Popen(  # noqa: ASYNC220 - a spawn takes a millisecond
            argv, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment(1), **DETACHED
        )
        theirs.close()
        self._guard.watch(self._process.pid)
        self._known.clear()
        await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It can be asked."""
        self._transport = cast("asyncio.Transport", transport)
        self._buffer.clear()

    def data_received(self, data: bytes) -> None:
        """Answers, or parts of them."""
        self._buffer += data
        for frame in frames_of(self._buffer):
            told = _told(frame)
            waiting, _ = self._waiting.pop(told.seq)
            if not waiting.done():
                waiting.set_result(told)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        """It died: whoever waits asks the next one."""
        for waiting, _ in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the intake died"))
        self._waiting.clear()


def _finding(document: Mapping[str, Any]) -> Finding:
    return Finding(action="flag", **{name: value for name, value in document.items() if name != "row"})


def flagged(flags: Sequence[Flag]) -> list[dict[str, Any]]:
    """Flags as an answer's JSON has them; of very many the first ones."""
    return [one.document(row) for row, one in flags[:_MOST_FLAGS]]


FULL: Final = Problem(
    status=503,
    code="ST775",
    detail="The server reads as many large requests as it can hold. Try again, or send fewer rows at a time.",
    headers=((b"retry-after", b"1"),),
)
FAILED: Final = Problem(
    status=500,
    code="ST776",
    detail="The process that reads large requests died on this one. Send fewer rows at a time.",
)


if __name__ == "__main__":
    main()
