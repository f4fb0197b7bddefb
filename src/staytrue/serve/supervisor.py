"""Supervisor: the front's side of a release's worker: starts it, gives its lanes work, and replaces what dies.

A batch that was on its way to a lane that died goes to the next one, with the same ids. A batch that kills lanes is taken
apart, so that the one request at fault is found and told, and the others are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from staytrue.engines.guard import KILL, Guard, signal_group
from staytrue.errors import StaytrueError
from staytrue.kernel.release import Digest
from staytrue.serve.batch import Batch, Chunk, Queue, Request
from staytrue.serve.channel import LOGGED, STREAMED, UNLOGGED, Asked, Told, ask, frames_of, told
from staytrue.serve.handshake import START_S, Errand, Facts, hand_over, read_facts, send_errand
from staytrue.serve.ids import later
from staytrue.serve.problem import Problem
from staytrue.serve.schema import Schema
from staytrue.serve.spawn import Started, start_worker
from staytrue.store.store import Store

__all__ = ["NOT_THERE", "SLOW", "Limits", "Supervisor", "Watcher"]

_DRAIN_S: Final = 10.0
_END_S: Final = 0.5
_TOGETHER_TRIES: Final = 2
_MOST_TRIES: Final = 3
_ASYNC_AT_ONCE: Final = 64
_AGAIN_S: Final = 0.2
"""Between two tries to start a worker that does not start; doubles up to a minute."""


class Watcher(Protocol):
    """What the supervisor tells of while it works: to be counted, shown to a shadow, written down."""

    def answered(self, by: Supervisor, batch: Batch, said: Told) -> None:
        """A batch was answered."""

    def noted(self, column: str, fault: str, refused: bool) -> None:  # noqa: FBT001 - one of three facts
        """A value was not like training: it was refused, or flagged."""

    def died(self, by: Supervisor, batch: Batch) -> None:
        """A lane died while it had this batch."""

    def restarted(self, by: Supervisor) -> None:
        """A lane died and is replaced."""

    def said(self, sentence: str) -> None:
        """Something that the person who runs the server should read."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may wait for one release, how long it may take, how many lanes answer, on how many native threads each.

    patience_s: how long a batch may take at least, before somebody else answers it.
    """

    most_rows: int
    queue_rows: int
    shadow_rows: int
    hang_s: float
    patience_s: float = 2.0
    lanes: int = 1
    threads: int = 1


class Supervisor:
    """One release, served. `start` it; `ask` it; `close` it.

    Attributes:
        release: which.
        facts: what it is, once it is ready.
        schema, queue: likewise.
        is_there: whether it can be asked: a lane is open, and none of them takes too long.
        stand_in_s: how long a batch may take until somebody else answers it; None while nobody can.
        is_on_trial: what hangs is given up as soon as nobody waits for it, and what dies is not asked again.
        logs_all: whether every row is logged, whatever the app's policy says: somebody is on trial.
        logs_none: whether no row is logged, and every answer says so: the disk is nearly full.
    """

    facts: Facts
    schema: Schema
    queue: Queue

    def __init__(
        self,
        store: Store,
        release: Digest,
        *,
        limits: Limits,
        guard: Guard,
        watcher: Watcher,
        begun: Started | None = None,
    ) -> None:
        self.release = release
        self.head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nstaytrue-release: %s\r\ncontent-length: "
            % release.encode()
        )
        """Of every usual answer; its length follows."""
        self._store, self._limits, self._guard, self._watcher = store, limits, guard, watcher
        self._begun = begun
        self._loop = asyncio.get_running_loop()
        self._worker: _Process | None = None
        self._lanes: list[_Lane] = []
        self._again: deque[Batch] = deque()
        self._shadow: deque[Batch] = deque()
        self._shadow_rows = 0
        self.logs_all = self.logs_none = False
        self.is_there = False
        self.stand_in_s: float | None = None
        self.is_on_trial = False
        self._seq = 0
        self._together = 1
        """Requests in the newest batch."""
        self._planned = False
        self._closing = False
        self._drained: asyncio.Event | None = None
        self._pause_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Start the worker and its first lanes.

        Raises:
            StaytrueError: what the worker says is wrong with its release. Unavailable: ST761, it says nothing.
        """
        self._worker = await self._started()
        self.facts = self._worker.facts
        self.schema = Schema(self.facts.signature, most_rows=self._limits.most_rows)
        self.queue = Queue(
            self.schema,
            most_rows=self._limits.queue_rows,
            at_once=self._lanes_wanted * (_ASYNC_AT_ONCE if self.facts.is_async else 1),
            noted=self._watcher.noted,
        )
        await self._open_lanes()

    async def close(self) -> None:
        """Answer what is under way, then end every process."""
        if not self.idle:
            self._drained = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await self._drained.wait()
        self._closing = True
        self.queue.drain(_ENDING)
        for lane in list(self._lanes):
            lane.close()
        if self._worker is not None:
            await asyncio.to_thread(self._worker.end, self._guard)
        for task in self._tasks:
            task.cancel()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self.queue and not self._busy()

    def _busy(self) -> bool:
        return bool(self._again) or any(lane.under_way for lane in self._lanes)

    async def _started(self) -> _Process:
        begun, self._begun = self._begun, None
        if begun is None:
            errand = await asyncio.to_thread(Errand.of, self._store, self.release)
            begun = start_worker(self._store.root, threads=self._limits.threads)
            send_errand(begun[1], errand)
        process, ours = begun
        ours.setblocking(False)
        self._guard.watch(process.pid)
        try:
            async with asyncio.timeout(START_S):
                said = await _read_frame(self._loop, ours)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            said = None
        try:
            facts = read_facts(said, self.release, process)
        except StaytrueError:
            await asyncio.to_thread(_Process(process=process, control=ours, facts=None).end, self._guard)
            raise
        started = _Process(process=process, control=ours, facts=facts)
        self._spawn(self._watch(started))
        return started

    async def _watch(self, worker: _Process) -> None:
        """Until the worker dies; then another one is started, while its lanes go on."""
        with contextlib.suppress(ConnectionError):
            await self._loop.sock_recv(worker.control, 1)
        if self._closing:
            return
        self._watcher.said(f"The worker of release {self.release[:8]} died; another one is started.")
        await asyncio.to_thread(worker.end, self._guard, kill_group=False)
        self._let_go(worker)
        pause_s = _AGAIN_S
        while not self._closing:
            try:
                self._worker = await self._started()
            except StaytrueError as exc:
                self._watcher.said(f"The worker of release {self.release[:8]} does not start: {exc}")
                await asyncio.sleep(pause_s)
                pause_s = min(60.0, 2 * pause_s)
            else:
                # The old group is empty once its lanes are gone; those that still answer are left alone.
                await self._open_lanes()
                self._plan()
                return

    async def _open_lanes(self) -> None:
        for _ in range(len(self._lanes), self._lanes_wanted):
            await self._open_lane()

    @property
    def _lanes_wanted(self) -> int:
        # A worker that can't fork is the one lane itself.
        return self._limits.lanes if self.facts.forks else 1

    async def _open_lane(self) -> None:
        worker = self._worker
        if worker is None or worker.ended or len(self._lanes) >= self._lanes_wanted:
            return
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            worker.hand_over(theirs)
        await self._loop.create_connection(lambda: _Lane(self, worker), sock=ours)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def look_after(self) -> None:
        """Several times a second: nobody waits for ever, for a lane that is not there or for one that hangs."""
        now_s = self._loop.time()
        self.queue.expire(now_s)
        oldest_s = min((sent for lane in self._lanes for _, sent in lane.under_way.values()), default=now_s)
        self.is_there = bool(self._lanes)
        patience_s = self.stand_in_s
        if patience_s is not None:
            self._hand_on(now_s, oldest_s, patience_s)
        hang_s = patience_s if self.is_on_trial and patience_s is not None else self._limits.hang_s
        worker = self._worker
        if now_s - oldest_s > hang_s and not self.facts.is_async and worker and not worker.ended:
            self._watcher.said(f"Release {self.release[:8]} took over {hang_s:g} s to answer; it is restarted.")
            worker.ended = True
            signal_group(worker.process.pid, KILL)

    def _hand_on(self, now_s: float, oldest_s: float, patience_s: float) -> None:
        """Tell those who wait in vain, since somebody else can answer them."""
        if now_s - oldest_s > patience_s:
            self.is_there = self.is_there and self.facts.is_async
            for lane in self._lanes:
                for batch, sent_s in lane.under_way.values():
                    # Who has read the beginning of an answer waits for its end.
                    if now_s - sent_s > patience_s and batch.arm != "shadow" and batch.tries < _MOST_TRIES:
                        batch.settle(SLOW)
        if not self.is_there:
            self.queue.drain(NOT_THERE)
            for batch in self._again:
                batch.settle(_DIED)
            self._again.clear()

    def cut(self) -> None:
        """Nobody is sent here any more: whoever waits is told so, and nothing is done for nobody."""
        self.queue.drain(_CUT)
        for batch in self._again:
            batch.settle(_CUT)
        self._again.clear()
        self._shadow.clear()
        self._shadow_rows = 0
        for lane in self._lanes:
            for batch, _ in lane.under_way.values():
                if batch.arm != "shadow":
                    batch.settle(_CUT)

    @property
    def is_free(self) -> bool:
        """Whether nobody waits for it: shadows don't."""
        return not (
            self.queue
            or self._again
            or any(batch.arm != "shadow" for lane in self._lanes for batch, _ in lane.under_way.values())
        )

    # ------------------------------------------------------------ work

    def ask(self, request: Request, *, alone: bool = False) -> None:
        """Let a request wait for its turn; it is answered through its future.

        Args:
            alone: nobody else is about to ask, so there is no company to wait two turns for.
        """
        if self._closing:
            request.settle(_ENDING)
            return
        self.queue.put(request)
        # After a batch of many, the first to ask again is alone for a moment only: the others are about to follow.
        if alone and self._together == 1 and not self._planned:
            self._pump()
        else:
            self._plan()

    def mirror(self, batch: Batch) -> bool:
        """Ask this release, as a shadow, what another one has answered. False: it has too much to do, and is left out."""
        if self._shadow_rows + batch.size > self._limits.shadow_rows:
            return False
        self._shadow_rows += batch.size
        self._shadow.append(batch)
        self._plan()
        return True

    def _plan(self) -> None:
        # Two turns later all requests that came in with this one have been read, and go together.
        if not self._planned:
            self._planned = True
            self._loop.call_soon(self._loop.call_soon, self._pump)

    def _pump(self) -> None:
        self._planned = False
        most = _ASYNC_AT_ONCE if self.facts.is_async else 1
        for lane in self._lanes:
            while len(lane.under_way) < most:
                batch = self._next()
                if batch is None:
                    return
                self._send(lane, batch)

    def _next(self) -> Batch | None:
        if self._again:
            return self._again.popleft()
        batch = self.queue.take(self._loop.time(), alone=self.facts.is_async)
        if batch is None and self._shadow:
            batch = self._shadow.popleft()
            self._shadow_rows -= batch.size
        return batch

    def _send(self, lane: _Lane, batch: Batch) -> None:
        self._together = len(batch.chunks)
        self._seq += 1
        first = batch.chunks[0].request
        batch.waited_s = max(0.0, time.time() - first.at / 1e6)
        share = 1.0 if self.logs_all or batch.arm != "champion" else self.facts.log
        body = Asked(
            self._seq,
            first.at,
            batch.arm,
            1.0 / share if share else 0.0,
            [(later(chunk.request.id, chunk.start), chunk.size) for chunk in batch.chunks],
            batch.flags,
            batch.packed,
        )
        batch.shed = self.logs_none  # by the time of the answer it may be otherwise
        kind = LOGGED if _drawn(first.id, share) and not batch.shed else UNLOGGED
        if first.piece is not None and batch.arm != "shadow":
            kind = STREAMED
        lane.send(self._seq, batch, ask(kind, body), self._loop.time())

    def told(self, lane: _Lane, said: Told) -> None:
        """A lane has answered, or sent a piece."""
        batch, sent_s = lane.under_way[said.seq]
        if not said.last:
            batch.tries = _MOST_TRIES  # a client that has read a beginning must not get it twice
            piece = batch.chunks[0].request.piece
            if piece is not None and said.answers[0] is not None:
                piece(said.answers[0])
            return
        del lane.under_way[said.seq]
        batch.seconds = self._loop.time() - sent_s
        self.queue.pace.learn(batch.size, batch.seconds)
        lane.has_answered = True
        if said.errors:
            self._note_failures(batch, said)
        if batch.shed:
            said = said._replace(logged=False)
        if batch.arm != "shadow":
            for place, chunk in enumerate(batch.chunks):
                answers = said.answers[place]
                if answers is None:
                    chunk.request.settle(_failed(chunk, said.errors[place]))
                else:
                    chunk.request.part(chunk, answers, logged=said.logged)
        self._watcher.answered(self, batch, said)
        if self._again or self._shadow or self.queue:
            self._pump()
        elif self._drained is not None and self.idle:
            self._drained.set()

    @staticmethod
    def _note_failures(batch: Batch, said: Told) -> None:
        # What was strange about a request is the likely cause, and the caller's.
        places = [place for place in said.errors if not batch.chunks[place].request.flags]
        batch.failed = frozenset(places)
        if places:
            error = said.errors[places[-1]]
            batch.why = f"{error['code']} {error['message']}"

    def opened(self, lane: _Lane) -> None:
        """A lane can be asked."""
        self._lanes.append(lane)
        self.is_there = True

    def lost(self, lane: _Lane) -> None:
        """A lane is gone: what it had goes to the next one."""
        self._lanes.remove(lane)
        if self._closing:
            return
        self._let_go(lane.worker)
        self._watcher.restarted(self)
        self.is_there = bool(self._lanes)
        for batch, _ in lane.under_way.values():
            self._watcher.died(self, batch)
            self._retry(batch)
        lane.under_way.clear()
        self._spawn(self._replaced(lane))

    def _let_go(self, worker: _Process) -> None:
        """Once a worker and all its lanes are gone the guard must not kill who has its number next."""
        if worker.ended and not any(lane.worker is worker for lane in self._lanes):
            signal_group(worker.process.pid, KILL)
            self._guard.forget(worker.process.pid)

    async def _replaced(self, lane: _Lane) -> None:
        # One that ends without an answer would be forked again without end; where its deaths are counted, soon not at all.
        most_s = 1.0 if self.stand_in_s is None else 0.1
        self._pause_s = 0.0 if lane.has_answered else min(most_s, 2 * self._pause_s + 0.01)
        await asyncio.sleep(self._pause_s)
        await self._open_lane()
        self._plan()

    def _retry(self, batch: Batch) -> None:
        """Once more as it is; then each request alone, to find the one that kills; that one three times.

        Where somebody else can answer, he does so instead: at once of a challenger, after one more try of a champion.
        """
        if batch.arm == "shadow":
            return
        batch.tries += 1
        alone = len(batch.chunks) == 1
        if self.stand_in_s is not None and (self.is_on_trial or batch.tries >= _TOGETHER_TRIES):
            batch.settle(_DIED)
        elif batch.tries < (_MOST_TRIES if alone else _TOGETHER_TRIES):
            self._again.append(batch)
        elif alone:
            batch.chunks[0].request.settle(_POISON)
        else:
            self._again.extend(batch.taken_apart(self.schema))


@dataclass(kw_only=True, eq=False)
class _Process:
    """A worker's process and the socket to it."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    facts: Any
    ended: bool = field(default=False)

    def hand_over(self, sock: socket.socket) -> None:
        """Give the worker the socket of a new lane."""
        hand_over(self.control, sock)

    def end(self, guard: Guard, *, kill_group: bool = True) -> None:
        """Let go of the worker; its lanes end when their sockets do, or are killed with it."""
        self.ended = True
        self.control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_END_S)
        if kill_group:
            signal_group(self.process.pid, KILL)
            self.process.wait()
            guard.forget(self.process.pid)


class _Lane(asyncio.Protocol):
    """The front's end of a lane's socket."""

    def __init__(self, owner: Supervisor, worker: _Process) -> None:
        self.worker = worker
        self.under_way: dict[int, tuple[Batch, float]] = {}
        self._owner = owner
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self.has_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._owner.opened(self)  # not later: it may be gone before whoever opened it goes on

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for frame in frames_of(self._buffer):
            self._owner.told(self, told(frame))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        self._owner.lost(self)

    def send(self, seq: int, batch: Batch, frame: bytes, now_s: float) -> None:
        self.under_way[seq] = (batch, now_s)
        if self._transport is not None:
            self._transport.write(frame)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def _read_frame(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> dict[str, Any]:
    """One message of the worker."""
    size = int.from_bytes(await _read_exactly(loop, sock, 4), "big")
    document: dict[str, Any] = json.loads(await _read_exactly(loop, sock, size))
    return document


async def _read_exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        got = await loop.sock_recv(sock, size - len(data))
        if not got:
            raise asyncio.IncompleteReadError(data, size)
        data += got
    return data


def _drawn(first: bytes, share: float) -> bool:
    """Whether a batch is among the share that is logged; decided by its id, so anybody can check."""
    return share >= 1.0 or (int.from_bytes(first[-4:], "big") & 0x7FFFFFFF) / 2.0**31 < share


def _failed(chunk: Chunk, error: Mapping[str, Any]) -> Problem:
    """What a request is told on which the predict function failed.

    Where something about it was odd, that is the likely cause, and the caller can mend it. Otherwise it is the app's fault.
    """
    flags = chunk.request.flags or ()
    row = error.get("facts", {}).get("row")
    errors: list[Mapping[str, Any]] = [one.document(at) for at, one in flags]
    if row is not None:
        message = f"The app failed on row {chunk.start + row}."
        errors.append({"row": chunk.start + row, "field": None, "fault": "failed", "message": message})
    return Problem(status=422 if flags else 500, code=str(error["code"]), detail=str(error["message"]), errors=errors)


_ENDING: Final = Problem(
    status=503, code="ST762", detail="The server ends. Ask again.", headers=((b"retry-after", b"1"),)
)
NOT_THERE: Final = Problem(
    status=503,
    code="ST820",
    detail="The model's process died; another one is started. Ask again.",
    headers=((b"retry-after", b"1"),),
)
SLOW: Final = Problem(
    status=503,
    code="ST821",
    detail="The model did not answer in time.",
    headers=((b"retry-after", b"1"),),
)
_CUT: Final = Problem(
    status=503,
    code="ST822",
    detail="The release was cut off, because it failed too often. Ask again.",
    headers=((b"retry-after", b"1"),),
)
_DIED: Final = Problem(status=500, code="ST823", detail="The model's process died on this request.")
_POISON: Final = Problem(
    status=500,
    code="ST763",
    detail=f"The model's process died on this request, {_MOST_TRIES} times. Others are answered; the server's log tells more.",
)
