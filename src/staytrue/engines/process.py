"""Heavy work on this machine: jobs in processes of their own, with a deadline, a memory limit and a number of cores.

A job can't take the controller down, leaves nothing running, and its late result is refused: each attempt has its own
directory and nonce, and a result counts only when the clean end of that attempt is reported while the pool waits for
it.

The pool is one thread that owns all state and gets events from a queue (`Foreman`); callers, and a thread per launcher
that reads its frames, only post to it. Jobs are forked from warm launchers, one per workspace, number of cores and
interpreter (`launcher.py`), or, where a fork is not safe, run in a fresh interpreter each, with the same promises. What is left
after a kill -9 of the controller is ended by `guard.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from staytrue.engines.foreman import Foreman, Pending
from staytrue.engines.guard import cores
from staytrue.engines.job import (
    Handle,
    Job,
    Mode,
    Outcome,
    Progress,
    Status,
    cancelled,
    environment,
    error_document,
    job_document,
)
from staytrue.engines.place import OwnPlace
from staytrue.errors import InvalidInput, NotFound, Unavailable

__all__ = ["Handle", "Job", "Mode", "Outcome", "ProcessPool", "Progress", "Status", "environment"]

_BACKGROUND_PATIENCE = 6


class ProcessPool:
    """Runs jobs, at most `slots` cores at a time, the rest first in first out. Safe to use from several threads.

    Another engine (Ray, say) takes its place with `submit`, `poll`, `wait` and `cancel`: that is all that `loop/jobs.py` calls.

    Args:
        root: a directory of the pool's own, made if missing; what dead controllers left in it is removed. Where it
            can't be made: Unavailable, ST348.
        slots: cores to give out; None: as many as this process may use.
        mode: None: `STAYTRUE_FORK` (0 or 1) decides, else fork, except on Windows and macOS. Where imports or `prepare`
            leave threads running in the launcher, its jobs are spawned after all.
        max_launchers: idle launchers beyond this number are closed, longest idle first.
        background: whether jobs give way to all other work of this machine: beside a server.
        reserve_bytes: memory that the machine keeps: below it the job that holds most is ended. None: 3 %, 128 MB to 1 GB.
        start_s, answer_s: how long a launcher may take to start, and to answer when a job is handed to it; in the background
            six times as long, for it may have to wait until somebody gives way.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root, ProcessPool(Path(root), slots=1) as pool:
        ...     job = Job(key="a", task="staytrue.engines.launcher:echo", payload={"rows": 3}, timeout_s=60)
        ...     outcome = pool.run(job)
        >>> outcome.status, outcome.result
        ('done', {'rows': 3})
    """

    def __init__(
        self,
        root: Path,
        slots: int | None = None,
        *,
        mode: Mode | None = None,
        max_launchers: int = 4,
        background: bool = False,
        reserve_bytes: int | None = None,
        start_s: float = 60.0,
        answer_s: float = 10.0,
    ) -> None:
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._outcomes: dict[int, Outcome | None] = {}
        self._under_way: dict[int, tuple[Path, float]] = {}
        self._events: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._place = OwnPlace(Path(root).resolve())
        self._foreman = Foreman(
            place=self._place.path,
            slots=slots or cores(),
            mode=mode or _default_mode(),
            max_launchers=max_launchers,
            start_s=start_s * (_BACKGROUND_PATIENCE if background else 1),
            answer_s=answer_s * (_BACKGROUND_PATIENCE if background else 1),
            background=background,
            reserve_bytes=reserve_bytes,
            begun=self._begun,
            post=lambda act, *facts: self._events.put((act, facts)),
            conclude=self._conclude,
        )
        self._ended: str | None = None
        self._thread = threading.Thread(target=self._work, name="staytrue-pool", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Handle:
        """Queue a job; the payload is copied now.

        Raises:
            InvalidInput: ST331, the job can't be run as it is written; the message names the field.
            Unavailable: ST343, the pool is closed.
        """
        document = job_document(job)
        with self._changed:
            if self._ended is not None:
                raise Unavailable(
                    "ST343", f"Can't run {job.key}: the pool {self._ended}. Open a new ProcessPool.", key=job.key
                )
            handle = Handle(number=next(self._numbers), key=job.key)
            self._outcomes[handle.number] = None
            self._events.put((self._foreman.queue, (Pending(handle=handle, job=job, document=document),)))
        return handle

    def warm(
        self, modules: Iterable[str], workspace: Path | None = None, cores: int = 1, timeout_s: float = 300
    ) -> Handle:
        """Start a launcher and import these modules, by name or by path of a `.py` file, ahead of the first job."""
        task = "staytrue.engines.launcher:echo"
        job = Job(
            key="warm",
            task=task,
            payload={},
            timeout_s=timeout_s,
            workspace=workspace,
            cores=cores,
            warm=tuple(modules),
        )
        return self.submit(job)

    def poll(self, handle: Handle) -> Outcome | None:
        """The outcome, or None while the job waits or runs.

        Raises:
            NotFound: ST344, not a job of this pool, or discarded.
        """
        with self._changed:
            return self._outcome(handle)

    def progress(self, handle: Handle) -> Progress | None:
        """How far a job is; None while it waits, when it is done, and before its task has told anything.

        Raises:
            NotFound: ST344, not a job of this pool, or discarded.
        """
        with self._changed:
            self._outcome(handle)
            place, began_s = self._under_way.get(handle.number, (None, 0.0))
        if place is None:
            return None
        try:
            told = json.loads((place / "progress.json").read_bytes())
            return Progress(
                done=float(told["done"]),
                total=float(told["total"]),
                doing=str(told["doing"]),
                seconds=time.monotonic() - began_s,
            )
        except (OSError, ValueError, KeyError, TypeError):  # nothing told yet, or the job writes what it likes there
            return None

    def wait(self, handles: Iterable[Handle], timeout: float | None = None) -> list[Handle]:
        """Those that are done, in the order given, as soon as at least one is; none after `timeout` seconds."""
        wanted = list(handles)
        with self._changed:
            self._changed.wait_for(lambda: not wanted or any(self._outcome(one) for one in wanted), timeout)
            return [one for one in wanted if self._outcome(one) is not None]

    def run(self, job: Job) -> Outcome:
        """Submit and wait: the outcome."""
        return self._awaited(self.submit(job))

    def cancel(self, handle: Handle) -> Outcome:
        """End the job's whole process group (SIGTERM, 0.1 s later SIGKILL) and wait for that; at most some 0.2 s.

        Gives the outcome: `cancelled`, or what it already was.
        """
        self._events.put((self._foreman.cancel, (handle,)))
        return self._awaited(handle)

    def discard(self, handle: Handle) -> None:
        """Forget the outcome and remove its outbox; a job that still runs is cancelled first."""
        outcome = self.cancel(handle)
        with self._changed:
            self._outcomes.pop(handle.number, None)
        for kept in (outcome.outbox, outcome.log_file):
            if kept is not None:
                shutil.rmtree(kept.parent, ignore_errors=True)

    def close(self) -> None:
        """Kill what runs and remove all outboxes. Outcomes stay readable; what was not done is `cancelled`."""
        with self._changed:
            self._ended = self._ended or "is closed"
        self._events.put((self._foreman.close, ()))
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _outcome(self, handle: Handle) -> Outcome | None:
        try:
            return self._outcomes[handle.number]
        except KeyError:
            text = f"No job {handle.number} ({handle.key}) in this pool: submitted elsewhere, or discarded."
            raise NotFound("ST344", text, key=handle.key) from None

    def _awaited(self, handle: Handle) -> Outcome:
        with self._changed:
            while (outcome := self._outcome(handle)) is None:
                self._changed.wait()
            return outcome

    def _begun(self, handle: Handle, place: Path | None) -> None:
        with self._changed:
            if place is None:
                self._under_way.pop(handle.number, None)
            else:
                self._under_way[handle.number] = (place, time.monotonic())

    def _conclude(self, handle: Handle, outcome: Outcome) -> None:
        with self._changed:
            if handle.number in self._outcomes:
                self._outcomes[handle.number] = outcome
            self._changed.notify_all()

    def _work(self) -> None:
        foreman = self._foreman
        try:
            while not foreman.closed:
                with contextlib.suppress(queue.Empty):
                    act, facts = self._events.get(timeout=foreman.pause_s())
                    act(*facts)
                foreman.look_around()
        except BaseException as exc:
            # Nobody waits for ever on a pool that broke: everything not done is lost, with the reason.
            with self._changed:
                self._ended = f"broke ({exc!r})"
            error = Unavailable("ST345", f"The process pool broke: {exc!r}. Open a new one, and report it.")
            foreman.close(Outcome(status="lost", error=error_document(error)))
            raise
        finally:
            with self._changed:
                unseen = [number for number, outcome in self._outcomes.items() if outcome is None]
                for number in unseen:  # submitted behind the closing
                    self._outcomes[number] = cancelled("The pool was closed.")
                self._changed.notify_all()
            self._place.remove()


def _default_mode() -> Mode:
    wish = os.environ.get("STAYTRUE_FORK", "")
    if wish not in ("", "0", "1"):
        raise InvalidInput("ST331", f"STAYTRUE_FORK is {wish!r}; set it to 0 or 1, or leave it out.", got=wish)
    if not hasattr(os, "fork") or wish == "0":
        return "spawn"
    # macOS frameworks start threads behind the program's back, so a fork there is not safe by default.
    return "spawn" if sys.platform == "darwin" and wish != "1" else "fork"
