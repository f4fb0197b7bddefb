"""Scorer: blocks of very many rows through the lanes of one release, as the server has them, over blocking sockets.

A lane that dies is replaced and asked again. A block that the predict function fails on is halved until the row is found.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import subprocess
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Self

from numpy.typing import NDArray

from staytrue.engines.guard import KILL, Guard, signal_group
from staytrue.engines.launcher import read_frame
from staytrue.errors import InvalidInput, Unavailable
from staytrue.serve.channel import ARRAY, Asked, Receiver, Told, ask_head, told
from staytrue.serve.channel import unpack_answers as unpack
from staytrue.serve.handshake import START_S, Errand, Facts, hand_over, read_facts, send_errand
from staytrue.serve.spawn import start_worker
from staytrue.store.block import Block, Layout

__all__ = ["Scorer"]

_MOST_TRIES: Final = 3
_END_S: Final = 2.0


class Scorer:
    """One release in processes of its own, from `with` to its end.

    Args:
        errand: to load which.
        lanes: how many blocks are answered at once.
        threads: native threads of each lane.

    Raises:
        StaytrueError: what the worker says is wrong with its release. Unavailable: ST761, it says nothing.
    """

    def __init__(self, errand: Errand, *, lanes: int, threads: int) -> None:
        self._errand, self._threads = errand, threads
        self._guard = Guard()
        self._starting = threading.Lock()
        self._closing = False
        self._workers: list[tuple[subprocess.Popen[bytes], socket.socket]] = []
        self._taken: set[int] = set()
        self._lanes: set[socket.socket] = set()
        self._of_thread = threading.local()
        self._seq = itertools.count(1)
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
        try:
            self.facts = self._start()
        except BaseException:
            self.close()
            raise

    def submit(self, rows: NDArray[Any], packed: bytes) -> Future[NDArray[Any] | list[Any]]:
        """The answers to a packed block, in time. `rows` (n,): which rows of the file these are, for messages.

        Its result raises InvalidInput, ST787: the predict function fails on a row. Unavailable, ST788: lanes die of it.
        """
        return self._pool.submit(self._answers, rows, packed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process. Blocks under way are given up."""
        self._closing = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for lane in list(self._lanes):
            with contextlib.suppress(OSError):
                lane.shutdown(socket.SHUT_RDWR)
        for process, control in self._workers:
            control.close()
            # Without control and lanes it ends by itself; only one that is stuck in somebody's code has to be killed.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_END_S)
            signal_group(process.pid, KILL)
            process.wait()
            self._guard.forget(process.pid)
        self._guard.close()
        self._pool.shutdown(wait=True)
        for lane in self._lanes:
            lane.close()

    # ------------------------------------------------------------ processes

    def _start(self) -> Facts:
        process, control = start_worker(self._errand.root, threads=self._threads)
        send_errand(control, self._errand)
        self._guard.watch(process.pid)
        self._workers.append((process, control))
        said = None
        if select.select([control], [], [], START_S)[0]:
            with contextlib.suppress(ConnectionError):
                said = read_frame(control.fileno())
        return read_facts(said, self._errand.release, process)

    def _lane(self) -> socket.socket:
        """The lane of this thread, opened if need be."""
        lane: socket.socket | None = getattr(self._of_thread, "lane", None)
        if lane is not None:
            return lane
        ours, theirs = socket.socketpair()
        with theirs, self._starting:
            process, control = self._workers[-1]
            # A worker that does not fork is its own lane: it takes one socket, and ends with it.
            if not self._closing and (process.poll() is not None or process.pid in self._taken):
                self._start()
                process, control = self._workers[-1]
            if not self.facts.forks:
                self._taken.add(process.pid)
            hand_over(control, theirs)
            self._lanes.add(ours)
        self._of_thread.lane = ours
        return ours

    def _drop_lane(self) -> None:
        lane: socket.socket = self._of_thread.lane
        self._of_thread.lane = None
        with self._starting:
            self._lanes.discard(lane)
        lane.close()

    # ------------------------------------------------------------ work

    def _answers(self, rows: NDArray[Any], packed: bytes) -> NDArray[Any] | list[Any]:
        said = self._asked(rows, packed)
        if said.answers[0] is not None:
            return unpack(said.answers[0])
        raise self._failed(rows, Layout(self.facts.signature.schema).unpack(packed), said.errors[0])

    def _asked(self, rows: NDArray[Any], packed: bytes) -> Told:
        head = ask_head(
            ARRAY, Asked(next(self._seq), 0, "champion", 0.0, [(bytes(16), len(rows))], [], b""), len(packed)
        )
        for _ in range(_MOST_TRIES):
            lane = self._lane()
            with contextlib.suppress(OSError):
                lane.sendall(head)
                lane.sendall(packed)
                answer = Receiver(lane).next()
                if answer is not None:
                    return told(answer)
            self._drop_lane()
            if self._closing:
                break
        first, last = int(rows[0]), int(rows[-1])
        raise Unavailable(
            "ST788",
            f"The model's process died {_MOST_TRIES} times on rows {first:,} to {last:,} (the first row is 0). "
            "What it printed stands above. Is there enough memory? The same command goes on from there.",
            first=first,
            last=last,
        )

    def _failed(self, rows: NDArray[Any], block: Block, error: dict[str, Any]) -> InvalidInput:
        """The error, with the row that it comes from."""
        while block.n > 1:
            at = error["facts"].get("row")
            if at is not None:
                rows = rows[at : at + 1]
                break
            middle = block.n // 2
            for begin, end in ((0, middle), (middle, block.n)):
                half = block.slice(begin, end)
                said = self._asked(rows[begin:end], half.pack())
                if said.answers[0] is None:
                    rows, block, error = rows[begin:end], half, said.errors[0]
                    break
            else:
                break  # each half alone is answered: it is their company that it can't stand
        first, last = int(rows[0]), int(rows[-1])
        where = f"row {first:,}" if first == last else f"rows {first:,} to {last:,} together"
        return InvalidInput(
            "ST787",
            f"Can't score {where} (the first row is 0): {error['message']} "
            "Mend the rows, or the app; what was scored before is kept.",
            first=first,
            last=last,
            cause=error["code"],
        )
