"""How steps ask for heavy work: a step is a generator that yields the jobs it needs and is sent their outcomes.

So one scheduler runs many steps side by side, equal jobs of two steps run once, and a step itself starts no process: a test can
drive it by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from staytrue.engines.process import Handle, Job, Outcome, ProcessPool
from staytrue.errors import InvalidInput, Refused, StaytrueError, Unavailable, from_document

__all__ = ["Steps", "drive", "on_behalf", "result_of", "side_by_side", "tells_of_the_job"]

T = TypeVar("T")
_LOOK_S = 0.1
Steps = Generator[Sequence[Job], Sequence[Outcome], T]
"""Yields the jobs that it needs next; is sent their outcomes in the same order; returns its result."""


def drive(
    lines: Mapping[str, Steps[T]],
    pool: ProcessPool,
    *,
    moved: Callable[[str], None] | None = None,
    stop: Callable[[], BaseException | None] | None = None,
) -> dict[str, T]:
    """Run every line to its end, side by side, and give back their results.

    Args:
        lines: the steps, by name; a job that does not say what it is for is for the line of that name.
        pool: where jobs run; jobs with equal keys that are under way at the same time run once.
        moved: called with a line's name whenever it went on.
        stop: asked ten times a second while jobs run; what it gives is raised.

    Raises:
        whatever a line raises, or `stop` gives; the others are stopped first, and their jobs cancelled.
    """
    return _Drive(lines, pool, moved or (lambda _name: None), stop).run()


class _Drive(Generic[T]):
    """Lines under way: who waits for which job, and which jobs run."""

    def __init__(
        self,
        lines: Mapping[str, Steps[T]],
        pool: ProcessPool,
        moved: Callable[[str], None],
        stop: Callable[[], BaseException | None] | None,
    ) -> None:
        self._lines, self._pool, self._moved, self._stop = lines, pool, moved, stop
        self._results: dict[str, T] = {}
        self._waiting: dict[str, list[str]] = {}
        self._under_way: dict[str, Handle] = {}
        self._done: dict[str, Outcome] = {}

    def run(self) -> dict[str, T]:
        try:
            for name in self._lines:
                self._go_on(name, None)
            while self._waiting:
                ready = [name for name, keys in self._waiting.items() if all(key in self._done for key in keys)]
                for name in ready:
                    self._go_on(name, [self._done[key] for key in self._waiting[name]])
                if not ready:
                    self._collect()
        finally:
            for handle in self._under_way.values():
                self._pool.cancel(handle)
            for line in self._lines.values():
                line.close()
        return self._results

    def _go_on(self, name: str, outcomes: Sequence[Outcome] | None) -> None:
        line = self._lines[name]
        try:
            jobs = next(line) if outcomes is None else line.send(outcomes)
        except StopIteration as stop:
            self._results[name] = stop.value
            self._waiting.pop(name, None)
        else:
            for job in jobs:
                if job.key not in self._under_way and job.key not in self._done:
                    self._under_way[job.key] = self._pool.submit(replace(job, purpose=job.purpose or name))
            self._waiting[name] = [job.key for job in jobs]
        self._moved(name)

    def _collect(self) -> None:
        handles = {handle.number: key for key, handle in self._under_way.items()}
        done = self._pool.wait(list(self._under_way.values()), None if self._stop is None else _LOOK_S)
        ending = None if self._stop is None else self._stop()
        if ending is not None:
            raise ending
        for handle in done:
            key = handles[handle.number]
            self._done[key] = _outcome(self._pool, handle)
            del self._under_way[key]


def on_behalf(purpose: str, steps: Steps[T]) -> Steps[T]:
    """The same steps, whose jobs say what they are for."""
    outcomes: Sequence[Outcome] | None = None
    while True:
        try:
            jobs = next(steps) if outcomes is None else steps.send(outcomes)
        except StopIteration as stop:
            result: T = stop.value
            return result
        outcomes = yield [replace(job, purpose=job.purpose or purpose) for job in jobs]


def side_by_side(lines: Sequence[Steps[T]]) -> Steps[list[T | StaytrueError]]:
    """Several steps as one, whose jobs run at the same time; their results in the same order.

    A line that raises an error of its job has that error for its result; any other error ends all of them.
    """
    results: dict[int, T | StaytrueError] = {}
    wanted: dict[int, Sequence[Job]] = {}
    sent: dict[int, Sequence[Outcome] | None] = dict.fromkeys(range(len(lines)))
    while sent:
        for at, outcomes in sent.items():
            try:
                wanted[at] = next(lines[at]) if outcomes is None else lines[at].send(outcomes)
            except StopIteration as stop:
                results[at] = stop.value
            except StaytrueError as exc:
                if not tells_of_the_job(exc):
                    raise
                results[at] = exc
        outcomes = yield [job for jobs in wanted.values() for job in jobs]
        given = iter(outcomes)
        sent = {at: [next(given) for _ in jobs] for at, jobs in wanted.items()}
        wanted = {}
    return [results[at] for at in range(len(lines))]


def _outcome(pool: ProcessPool, handle: Handle) -> Outcome:
    outcome = pool.poll(handle)
    if outcome is None:
        raise Unavailable("ST360", "A job that was said to be done has no outcome.")
    return outcome


def result_of(outcome: Outcome, *, doing: str) -> dict[str, Any]:
    """The result of a job that went well.

    Raises:
        StaytrueError: the job's own error when it was one of ours, as it was.
        InvalidInput: ST361, the user's function raised; the message holds type, text and the last lines of its traceback.
        Refused: ST362, it ran out of time, memory or was killed.
        Unavailable: the job was lost, by a full disk for example: nothing is known of it.
    """
    if outcome.status == "done" and outcome.result is not None:
        return outcome.result
    error = outcome.error or {}
    ours = from_document(error)
    if ours is not None:
        raise ours
    if outcome.status == "failed" and error.get("traceback"):
        last = "".join(str(error["traceback"]).strip().splitlines(keepends=True)[-4:])
        raise InvalidInput(
            "ST361", f"Can't {doing}: {error.get('message')}\n{last}", status=outcome.status, **error.get("facts", {})
        )
    said = error.get("message") or outcome.log.strip()[-300:] or "it said nothing"
    raise Refused(
        "ST362",
        f"Can't {doing}: the job ended as {outcome.status!r} after {outcome.seconds:.1f} s: {said}",
        status=outcome.status,
    )


def tells_of_the_job(error: StaytrueError) -> bool:
    """Whether an error says something of the user's code or data, and so may be held against a challenger.

    Otherwise it is about this machine, its disk or another process. Then nothing may be concluded from it: the step ends, and the
    same command goes on later. A story that holds it would be another story than the one told after the repair.

    Example:
        >>> tells_of_the_job(InvalidInput("ST361", "fit raised")), tells_of_the_job(Unavailable("ST402", "the disk is full"))
        (True, False)
    """
    return isinstance(error, InvalidInput | Refused) or error.code in _CRASHES


_CRASHES = ("ST336", "ST337", "ST341")
