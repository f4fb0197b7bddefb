"""Batch: requests that go to the model together, and what waits for its turn.

Nothing ever waits for company: as soon as a lane is free, all that has come by then goes. Rows are what is counted, not
requests. A large request is cut into chunks that take turns with the small ones, so nobody waits for another's million.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from staytrue.serve.pace import Pace
from staytrue.serve.problem import UNEXPECTED, Problem
from staytrue.serve.schema import Flag, Schema, Structs, refusal

__all__ = ["LATE", "Arm", "Batch", "Chunk", "Queue", "Reply", "Request"]

Arm: TypeAlias = Literal["champion", "challenger", "shadow"]
"""In which role a release answers; of a shadow nobody sees the answer."""

_CHUNK_S: Final = 0.004
"""How long a chunk of a large request may keep the small ones waiting."""
_BATCH_S: Final = 0.025
_LEAST_ROWS: Final = 16
_MOST_ROWS: Final = 4096
_MOST_CHUNK_ROWS: Final = 2048


class Reply(NamedTuple):
    """The answer to a request: JSON text of the list of its answers, in one piece or in several."""

    parts: Sequence[bytes]
    flags: Sequence[Flag] = ()
    logged: bool = True


@dataclass(kw_only=True, eq=False, slots=True)
class Request:
    """Rows that want an answer from one release.

    Attributes:
        id: of its first row; row i has the id that is i higher.
        at: microseconds UTC, when it came in.
        size: rows.
        rows: the rows as structs of the release's schema, or, of a large request,
        packed: how many rows each of its chunks has, and the packed block of each.
        flags: what was flagged already; None: nobody has looked at the values yet.
        deadline_s: on the loop's clock; its turn has to begin by then, or nobody wants the answer any more.
        answered: where the answer goes.
        piece: called with each piece of an answer that is streamed.
        together: how many requests a process took with it when it died on this one.
    """

    id: bytes
    at: int
    size: int
    rows: Structs
    deadline_s: float
    answered: asyncio.Future[Reply | Problem]
    arm: Arm = "champion"
    packed: Sequence[tuple[int, bytes]] = ()
    flags: list[Flag] | None = None
    piece: Callable[[bytes], None] | None = None
    together: int = 1
    taken: int = 0
    taken_rows: int = 0
    _parts: dict[int, bytes] = field(default_factory=dict)
    _got: int = 0
    _logged: bool = True

    @property
    def gone(self) -> bool:
        """Nobody waits for the answer any more."""
        return self.answered.done()

    def part(self, chunk: Chunk, answers: bytes, *, logged: bool) -> None:
        """The answers to some of its rows; with the last ones it is answered."""
        if chunk.size == self.size:
            self.settle(Reply([answers], self.flags or (), logged))
            return
        self._parts[chunk.start] = answers
        self._got += chunk.size
        self._logged = self._logged and logged
        if self._got == self.size:
            parts = [self._parts[start] for start in sorted(self._parts)]
            self.settle(Reply(parts=parts, flags=self.flags or (), logged=self._logged))

    def settle(self, outcome: Reply | Problem) -> None:
        """Answer it, if somebody waits still."""
        if not self.answered.done():
            self.answered.set_result(outcome)


class Chunk(NamedTuple):
    """Rows of a request that go in one batch."""

    request: Request
    start: int
    size: int


@dataclass(kw_only=True, eq=False, slots=True)
class Batch:
    """Chunks that go to a lane together, as one block."""

    arm: Arm
    chunks: Sequence[Chunk]
    size: int
    packed: bytes
    rows: Structs
    """Beside the block, for a release with other columns; empty for a chunk of a large request."""
    flags: list[tuple[int, str]]
    tries: int = 0
    shed: bool = False
    """It was sent not to be logged, the disk being nearly full."""
    waited_s: float = 0.0
    """From when its oldest request came in to when it was sent to a lane."""
    seconds: float = 0.0
    """How long the lane took."""
    failed: frozenset[int] = frozenset()
    """The chunks that the release failed on, though nothing was strange about them."""
    why: str = ""
    """What it said of the last of them."""
    beside: Batch | None = None
    """Of a shadow: what another release has answered."""

    @property
    def failed_rows(self) -> int:
        """The rows of those chunks."""
        return sum(chunk.size for place, chunk in enumerate(self.chunks) if place in self.failed) if self.failed else 0

    def settle(self, outcome: Problem) -> None:
        """Tell everybody who waits for it."""
        for chunk in self.chunks:
            chunk.request.together = len(self.chunks)
            chunk.request.settle(outcome)

    def taken_apart(self, schema: Schema) -> list[Batch]:
        """A batch for each of its chunks."""
        if len(self.chunks) == 1:
            return [self]
        made = []
        at = 0
        for chunk in self.chunks:
            end = at + chunk.size
            flags = [(row - at, text) for row, text in self.flags if at <= row < end]
            rows = self.rows[at:end]
            packed = schema.block(rows).pack()
            made.append(Batch(arm=self.arm, chunks=[chunk], size=chunk.size, packed=packed, rows=rows, flags=flags))
            at = end
        return made


class Queue:
    """What waits for one release's lanes.

    Args:
        schema: of the release.
        most_rows: how many rows may wait.
        at_once: how many batches are answered at the same time.
        noted: called with each finding's field and fault, and whether it was refused, to be counted.
    """

    def __init__(
        self, schema: Schema, *, most_rows: int, at_once: int, noted: Callable[[str, str, bool], None]
    ) -> None:
        self.pace = Pace()
        self._schema, self._most_rows, self._at_once, self._noted = schema, most_rows, at_once, noted
        self._small: deque[Request] = deque()
        self._large: deque[Request] = deque()
        # Apart, because they take turns: a large request must not count as thousands of small ones before yours.
        self._small_rows = self._large_rows = 0
        self._was_large = False

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._small_rows + self._large_rows

    def __bool__(self) -> bool:
        return bool(self._small or self._large)

    def wait_s(self) -> float:
        """How long who comes now with a few rows would wait for his turn, as far as is known."""
        if not self._small:
            return 0.0
        together = self._together()
        wait_s = self.pace.wait_s(self._small_rows, together)
        if self._large:
            wait_s += -(-self._small_rows // together) * self.pace.seconds(self.chunk_rows)
        return wait_s / self._at_once

    def turn_s(self) -> float:
        """How long the answer takes, once it is the turn of who comes now."""
        return self.pace.seconds(min(self._small_rows + 1, self._together()))

    def has_room(self, rows: int, *, large: bool = False) -> bool:
        """Whether so many rows more may wait; one request always may, however large. `large`: it comes in chunks."""
        waiting = self._large_rows if large else self._small_rows
        return waiting == 0 or waiting + rows <= self._most_rows

    def put(self, request: Request) -> None:
        """Let a request wait for its turn."""
        if request.packed:
            self._large_rows += request.size
            self._large.append(request)
        else:
            self._small_rows += request.size
            self._small.append(request)

    def take(self, now_s: float, *, alone: bool = False) -> Batch | None:
        """The next batch; None when nothing is left that can be answered. `alone`: one request at a time."""
        while self:
            large = bool(self._large) and (not self._small or not self._was_large)
            self._was_large = large
            batch = self._chunk(now_s) if large else self._together_now(now_s, alone=alone)
            if batch is not None:
                return batch
        return None

    def expire(self, now_s: float) -> None:
        """Tell those who have waited too long; needed while no lane takes anything."""
        while self._small and self._is_late(self._small[0], now_s):
            self._left(self._small.popleft())
        while self._large and self._is_late(self._large[0], now_s):
            self._left(self._large.popleft())

    def drain(self, outcome: Problem) -> None:
        """Tell everybody who waits."""
        for waiting in (self._small, self._large):
            while waiting:
                request = waiting.popleft()
                self._left(request)
                request.settle(outcome)

    @property
    def chunk_rows(self) -> int:
        """How many rows of a large request may go at a time without keeping the small ones waiting."""
        return max(_LEAST_ROWS, min(_MOST_CHUNK_ROWS, self.pace.rows_within(_CHUNK_S)))

    def _together(self) -> int:
        return max(_LEAST_ROWS, min(_MOST_ROWS, self.pace.rows_within(_BATCH_S)))

    def _together_now(self, now_s: float, *, alone: bool) -> Batch | None:
        waiting = self._small
        most = 1 if alone else self._together()
        requests: list[Request] = []
        size = 0
        arm = waiting[0].arm
        while waiting and waiting[0].arm == arm and (size == 0 or size + waiting[0].size <= most):
            request = waiting.popleft()
            self._left(request)
            if not self._is_late(request, now_s):
                requests.append(request)
                size += request.size
        try:
            return self._built(requests) if requests else None
        except Exception:  # noqa: BLE001 - whatever it is: who waits here must hear of it, and the loop must go on
            sys.stderr.write(traceback.format_exc())
            for request in requests:
                request.settle(UNEXPECTED)
            return None

    def _chunk(self, now_s: float) -> Batch | None:
        request = self._large[0]
        if self._is_late(request, now_s):
            self._left(self._large.popleft())
            return None
        size, packed = request.packed[request.taken]
        start = request.taken_rows
        request.taken += 1
        request.taken_rows += size
        self._large_rows -= size
        if request.taken == len(request.packed):
            self._large.popleft()
        flags = [(row - start, _flag(one)) for row, one in request.flags or () if start <= row < start + size]
        chunk = Chunk(request=request, start=start, size=size)
        return Batch(arm=request.arm, chunks=[chunk], size=size, packed=packed, rows=(), flags=flags)

    def _left(self, request: Request) -> None:
        """Its rows, or what is left of them, wait no more."""
        if request.packed:
            self._large_rows -= request.size - request.taken_rows
        else:
            self._small_rows -= request.size

    @staticmethod
    def _is_late(request: Request, now_s: float) -> bool:
        # What has begun is brought to its end: a large request is under way for longer than anybody may wait.
        if request.deadline_s < now_s and not request.taken:
            request.settle(LATE)
        return request.gone

    def _built(self, requests: list[Request]) -> Batch | None:
        """One block of all these rows, after a look at every value; those that can't be answered are told so."""
        rows: list[Any] = []
        for request in requests:
            rows += request.rows
        try:
            block = self._schema.block(rows)
        except OverflowError:
            return self._without_overflow(requests)
        suspects = self._schema.suspects(block)
        if suspects is not None:
            left = self._looked_at(requests, suspects.tolist())
            if len(left) < len(requests):
                return self._built(left) if left else None
        flags = []
        chunks = []
        at = 0
        for request in requests:
            if request.flags:
                flags += [(at + row, _flag(one)) for row, one in request.flags]
            chunks.append(Chunk(request=request, start=0, size=request.size))
            at += request.size
        return Batch(arm=requests[0].arm, chunks=chunks, size=block.n, packed=block.pack(), rows=rows, flags=flags)

    def _looked_at(self, requests: list[Request], suspects: list[bool]) -> list[Request]:
        """The requests that may go on, what is strange about them flagged."""
        left = []
        at = 0
        for request in requests:
            mine = suspects[at : at + request.size]
            at += request.size
            if request.flags is None:
                request.flags = []
                if any(mine) and not self._explained(request, [row for row, strange in enumerate(mine) if strange]):
                    continue
            left.append(request)
        return left

    def _explained(self, request: Request, which: Sequence[int]) -> bool:
        """Whether the request may be answered, after a close look at these rows."""
        request.flags, errors = self._schema.explain(request.rows, which)
        for _, one in request.flags:
            self._noted(one.field, one.fault, False)
        for error in errors:
            self._noted(str(error["field"]), str(error["fault"]), True)
        if errors:
            request.settle(refusal(errors))
        return not errors

    def _without_overflow(self, requests: list[Request]) -> Batch | None:
        """A whole number beyond 64 bits came through the decoder: find who sent it."""
        left = [one for one in requests if one.flags is not None or self._explained(one, range(one.size))]
        return self._built(left) if left else None


LATE: Final = Problem(
    status=503,
    code="ST760",
    detail="The answer would have come too late: the server has more to do than it can. Try again.",
    headers=((b"retry-after", b"1"),),
)


def _flag(one: Any) -> str:
    return f"{one.field}:{one.fault}"
