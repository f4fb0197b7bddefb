"""Service: one app, served: rows in, answers out, whatever protocol they came in. The front and control speak HTTP for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from staytrue.engines.guard import Guard
from staytrue.serve.batch import Reply, Request
from staytrue.serve.gate import Gate
from staytrue.serve.handshake import Begun
from staytrue.serve.ids import ids_json, later, new_id
from staytrue.serve.intake import LARGE_BYTES, Form, Intake, Taken, flagged, read_form
from staytrue.serve.limits import ServerLimits
from staytrue.serve.metrics import Metrics
from staytrue.serve.problem import Problem
from staytrue.serve.response import HeaderList
from staytrue.serve.router import Router, Share
from staytrue.serve.schema import Flag, Read
from staytrue.serve.supervisor import NOT_THERE, Limits, Supervisor
from staytrue.serve.upkeep import Upkeep
from staytrue.serve.vitals import Figures, Vitals
from staytrue.store.store import Store
from staytrue.store.tokens import tokens

__all__ = ["BUSY", "GONE", "IDS_AT_ONCE", "NOT_READY", "TOO_LARGE", "Body", "Predicted", "Receive", "Service"]

Receive: TypeAlias = Callable[[], Awaitable[Any]]
Body: TypeAlias = bytes | list[bytes]

IDS_AT_ONCE: Final = 2_000
_LAG_S: Final = 0.5
_ADMITTED: Final = 0.9
"""Who is let in should be answered, so a part of the deadline is kept for what nobody could foresee."""
_encode = msgspec.json.Encoder().encode


class Predicted(NamedTuple):
    """The answers to the rows of a request.

    Attributes:
        parts: JSON texts of lists, which together hold one answer a row, in order.
        first_id, size: the ids: row i has the one that is i higher.
        by: who answered which rows.
        flags: what was accepted though it is not like training.
        logged: whether all of it is in the log.
    """

    parts: Sequence[bytes]
    first_id: bytes
    size: int
    by: Sequence[Share]
    flags: Sequence[Flag]
    logged: bool

    @property
    def answers(self) -> bytes:
        """One JSON text of the list of all answers."""
        if len(self.parts) == 1:
            return self.parts[0]
        return b"[" + b",".join([part[1:-1] for part in self.parts]) + b"]"

    @property
    def release(self) -> str:
        """Who answered; of a request that a canary split, the champion."""
        return self.by[-1].by.release if len(self.by) == 1 else _champion_of(self.by).release

    def releases(self) -> list[str] | None:
        """Who answered each row, where that was not one and the same."""
        if len({id(share.by) for share in self.by}) == 1:
            return None
        return [share.by.release for share in self.by for _ in range(share.size)]

    def headers(self) -> HeaderList:
        """What every protocol says of an answer."""
        headers: HeaderList = [(b"staytrue-release", self.release.encode())]
        return headers if self.logged else [*headers, (b"staytrue-logged", b"false")]

    def body(self) -> bytes:
        """The answer to `POST /predict`."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The body piece by piece, so that a large one need not be made at one go."""
        yield b'{"predictions":'
        yield self.answers
        yield b',"ids":['
        for start in range(0, self.size, IDS_AT_ONCE):
            ids = ids_json(later(self.first_id, start), min(IDS_AT_ONCE, self.size - start))
            yield ids[1:-1] if start == 0 else b"," + ids[1:-1]
        yield b'],"release":"%s"' % self.release.encode()
        releases = self.releases() if len(self.by) > 1 else None
        if releases is not None:
            yield b',"releases":' + _encode(releases)
        if self.flags:
            yield b',"flags":' + _encode(flagged(self.flags))
        yield b"}"


def _champion_of(by: Sequence[Share]) -> Supervisor:
    return next((share.by for share in by if share.arm == "champion"), by[-1].by)


class Service:
    """Everything of an app's server but HTTP.

    Args:
        store: opened; roles and tokens are read from it.
        app: which one.
        gate: told of the tokens in use.
        limits: of the server. lanes, threads: of each release.
        say: called with a sentence for the person who runs the server.
        begun: a worker that is starting already.
    """

    def __init__(
        self,
        store: Store,
        app: str,
        *,
        gate: Gate,
        limits: ServerLimits,
        lanes: int = 1,
        threads: int = 1,
        say: Callable[[str], None],
        begun: Begun | None = None,
    ) -> None:
        self.store, self.app, self.gate, self.limits = store, app, gate, limits
        self.metrics = Metrics()
        self.guard = Guard()
        self.intake = Intake(self.guard, most_bytes=limits.bodies_bytes)
        self._say = say
        of_release = Limits(
            most_rows=limits.rows,
            queue_rows=limits.queue_rows,
            shadow_rows=limits.shadow_rows,
            hang_s=limits.hang_s,
            patience_s=limits.deadline_s,
            lanes=lanes,
            threads=threads,
        )
        self.router = Router(
            store,
            app,
            limits=of_release,
            guard=self.guard,
            metrics=self.metrics,
            say=say,
            also=lambda: gate.renew(tokens(store.ledger)),
            begun=begun,
        )
        self.metrics.queue_rows.follow(self._queue_rows)
        self.vitals = Vitals(
            store, app, metrics=self.metrics, figures=self._figures, shed=self.router.shed_log, say=say
        )
        self.ending = False
        self._bodies_bytes = 0
        self._loop: asyncio.AbstractEventLoop
        self._tasks: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Begin to start what the ledger wants served."""
        self._loop = asyncio.get_running_loop()
        await self.router.start()
        upkeep = Upkeep(self.store.root, self.app, guard=self.guard, say=self._say)
        self._tasks = [self._loop.create_task(work) for work in (self._watch_lag(), upkeep.run(), self.vitals.run())]

    async def first_champion(self) -> Supervisor:
        """The release that answers, once one does."""
        while self.router.table.champion is None:
            await self.router.changed.wait()
        return self.router.table.champion

    async def close(self) -> None:
        """Answer what is under way; end every process of ours."""
        self.ending = True
        for task in self._tasks:
            task.cancel()
        await self.router.close()
        self.intake.close()
        self.guard.close()

    def _figures(self) -> Figures:
        table = self.router.table
        return Figures(
            there=any(one is not None and one.is_there for one in (table.champion, table.previous)),
            restarts=self.router.champion_restarts,
            queue_rows=self._queue_rows(),
            read_s=self.router.read_s,
        )

    def _queue_rows(self) -> float:
        table = self.router.table
        return float(sum(one.queue.rows for one in (table.champion, table.challenger) if one is not None))

    async def _watch_lag(self) -> None:
        while True:
            planned = self._loop.time() + _LAG_S
            await asyncio.sleep(_LAG_S)
            self.metrics.loop_lag.set(max(0.0, self._loop.time() - planned))

    # ------------------------------------------------------------ predictions

    def ready(self) -> Supervisor | Problem:
        """The champion, if it can still answer in time."""
        champion = self.router.table.champion
        if champion is None:
            return NOT_READY
        if not champion.is_there and self.router.stand_in(champion) is not None:
            return champion  # it reads the rows, and somebody else answers
        queue, deadline_s = champion.queue, self.limits.deadline_s
        # What is under way has to end before, and his own turn takes its time too. But a deadline shorter than a turn is
        # about the wait only: somebody has to be answered, or nobody would learn that it is quick again.
        if queue.rows and queue.wait_s() + min(2 * queue.turn_s(), deadline_s / 2) > _ADMITTED * deadline_s:
            self.metrics.shed.labels("deadline").inc()
            return BUSY
        return champion

    async def predicted(self, read: Read, champion: Supervisor) -> Predicted | Problem:
        """The answers to rows that the champion's schema has read, whoever gives them."""
        at = time.time_ns() // 1000
        first_id = new_id(at)
        size = read.size
        if not champion.queue.has_room(size, large=bool(read.packed)):
            self.metrics.shed.labels("queue").inc()
            return BUSY
        self.metrics.rows.inc(size)
        shares = self.router.shares(read, champion, first_id)
        if len(shares) == 1 and shares[0].arm == "champion":
            request = self.request(shares[0], first_id, at, read.flags)
            request.packed = read.packed
            if not champion.is_there and self.router.stand_in(champion) is not None:
                request.settle(NOT_THERE)
            else:
                champion.ask(request, alone=self.metrics.active_requests.value <= 1)
            outcome = await request.answered
            if isinstance(outcome, Problem):
                return await self.instead(read, champion, shares[0], request, outcome)
            return Predicted(outcome.parts, first_id, size, shares, outcome.flags, outcome.logged)
        return await self._split(read, champion, shares, first_id, at)

    async def instead(
        self, read: Read, champion: Supervisor, share: Share, request: Request, problem: Problem
    ) -> Predicted | Problem:
        """The answer to a whole request that the champion did not answer, if somebody else has one."""
        outcome, by = await self._stood_in(read, champion, share, request, problem)
        if isinstance(outcome, Problem):
            return outcome
        return Predicted(outcome.parts, request.id, read.size, [by], outcome.flags, outcome.logged)

    async def _split(
        self, read: Read, champion: Supervisor, shares: list[Share], first_id: bytes, at: int
    ) -> Predicted | Problem:
        """A request of which a challenger answers some rows."""
        answered = await asyncio.gather(*(self._answered(read, champion, share, first_id, at) for share in shares))
        parts: list[bytes] = []
        flags: list[Flag] = []
        logged = True
        by = []
        for outcome, share in answered:
            if isinstance(outcome, Problem):
                return outcome
            parts += outcome.parts
            flags += [(share.start + row, one) for row, one in outcome.flags]
            logged = logged and outcome.logged
            by.append(share)
        return Predicted(parts, first_id, read.size, by, flags, logged)

    async def _answered(
        self, read: Read, champion: Supervisor, share: Share, first_id: bytes, at: int
    ) -> tuple[Reply | Problem, Share]:
        """The answer to one share, and by whom: who fails is stood in for, if somebody can."""
        stop = share.start + share.size
        flags = None if read.flags is None else [(r - share.start, f) for r, f in read.flags if share.start <= r < stop]
        request = self.request(share, later(first_id, share.start), at, flags)
        if share.start == 0 and share.size == read.size:
            request.packed = read.packed
        share.by.ask(request)
        outcome = await request.answered
        if not isinstance(outcome, Problem):
            return outcome, share
        return await self._stood_in(read, champion, share, request, outcome)

    async def _stood_in(
        self, read: Read, champion: Supervisor, share: Share, request: Request, problem: Problem
    ) -> tuple[Reply | Problem, Share]:
        """What another release says to a share instead; the problem as it was when nobody knows better."""
        other = self.router.instead(read, share, champion, problem)
        if other is None:
            return problem, share
        began_s = self._loop.time()
        first_id = later(request.id, -share.start)
        outcome, by = await self._answered(read, champion, other, first_id, request.at)
        seconds = self._loop.time() - began_s
        answered = not isinstance(outcome, Problem)
        # Of a challenger that failed together with the champion nothing is said, whoever answered at last.
        alone = answered and by is other
        self.router.stood_in(share, problem, answered=alone, together=request.together, seconds=seconds)
        return (outcome, by) if answered or share.arm == "challenger" else (problem, share)

    def request(self, share: Share, first_id: bytes, at: int, flags: list[Flag] | None) -> Request:
        """The request that asks a release for its share."""
        answered: asyncio.Future[Reply | Problem] = self._loop.create_future()
        queue, wait_s = share.by.queue, self.limits.deadline_s
        if queue.rows:
            wait_s -= min(queue.turn_s(), wait_s / 2)
        return Request(
            id=first_id,
            at=at,
            size=share.size,
            rows=share.rows,
            deadline_s=self._loop.time() + wait_s,
            answered=answered,
            arm=share.arm,
            flags=flags,
        )

    def count_refused(self, problem: Problem) -> None:
        """Count what a schema would not take."""
        for one in problem.errors:
            self.metrics.refused_rows.labels(str(one.get("fault")), str(one.get("field"))).inc()

    # ------------------------------------------------------------ bodies

    async def read(self, champion: Supervisor, form: Form, head: str, body: Body) -> Taken | Problem:
        """The rows in a body: read here, or, of a large one, in a process of its own. What is refused is counted."""
        if isinstance(body, bytes) and len(body) <= LARGE_BYTES:
            taken = read_form(champion.schema, form, head, body)
        else:
            pieces = [body] if isinstance(body, bytes) else body
            chunk_rows = champion.queue.chunk_rows
            taken = await self.intake.read(champion.schema, form, head, pieces, chunk_rows=chunk_rows)
        if isinstance(taken, Problem):
            self.count_refused(taken)
        return taken

    async def body(self, headers: HeaderList, receive: Receive) -> Body | Problem:
        """All bytes of a request, unless they are too many; of a large one in the pieces in which they came."""
        told = 0
        for name, value in headers:
            if name == b"content-length":
                told = int(value) if value.isdigit() else 0
            elif name == b"content-encoding" and value.lower() != b"identity":
                return ENCODED
        if told > self.limits.body_bytes:
            return TOO_LARGE
        event = await receive()
        if event.get("more_body"):
            return await self._rest(event, receive)
        whole: bytes = event.get("body", b"")
        return whole if len(whole) <= self.limits.body_bytes else TOO_LARGE

    async def _rest(self, event: Mapping[str, Any], receive: Receive) -> Body | Problem:
        """A body that comes in several pieces, counted against what all bodies together may take.

        What has come is counted, not what was told: else a few callers that tell much and send nothing shut out all others.
        """
        pieces = [event.get("body", b"")]
        size = len(pieces[0])
        self._bodies_bytes += size
        try:
            while event.get("more_body"):
                if self._bodies_bytes > self.limits.bodies_bytes:
                    self.metrics.shed.labels("memory").inc()
                    return BUSY
                event = await receive()
                if event["type"] == "http.disconnect":
                    return GONE
                pieces.append(event.get("body", b""))
                size += len(pieces[-1])
                self._bodies_bytes += len(pieces[-1])
                if size > self.limits.body_bytes:
                    return TOO_LARGE
            # Joined they would have to be copied, at 2 ms a megabyte where the memory is fresh, while everybody waits.
            return pieces if size > LARGE_BYTES else b"".join(pieces)
        finally:
            self._bodies_bytes -= size


_RETRY: Final = ((b"retry-after", b"1"),)
BUSY: Final = Problem(
    status=503,
    code="ST764",
    detail="The server has more to do than it can answer in time. Try again.",
    headers=_RETRY,
)
NOT_READY: Final = Problem(
    status=503,
    code="ST765",
    detail="No release is ready to answer yet. `GET /readyz` tells when one is.",
    headers=_RETRY,
)
TOO_LARGE: Final = Problem(
    status=413,
    code="ST766",
    detail="The body is too large. Send fewer rows at a time, or use `staytrue predict` for files.",
    headers=((b"connection", b"close"),),
)
GONE: Final = Problem(status=400, code="ST767", detail="The request broke off.")
ENCODED: Final = Problem(
    status=415, code="ST778", detail="The body is compressed; send it as it is, without content-encoding."
)
