"""How steps ask for heavy work: a step is a generator that yields the jobs it needs and is sent their outcomes.

So one scheduler runs many steps side by side, equal jobs of two steps run once, and a step itself starts no process: a test can
drive it by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

from staytrue.engines.process import Job, Outcome, ProcessPool
from staytrue.errors import InvalidInput, Refused, StaytrueError, Unavailable

__all__ = ["Steps", "drive", "result_of"]

T = TypeVar("T")
Steps = Generator[Sequence[Job], Sequence[Outcome], T]
"""Yields the jobs that it needs next; is sent their outcomes in the same order; returns its result."""


def drive(
    lines: Mapping[str, Steps[T]], pool: ProcessPool, *, moved: Callable[[str], None] | None = None
) -> dict[str, T]:
    """Run every line to its end, side by side, and give back their results.

    Args:
        lines: the steps, by name.
        pool: where jobs run; jobs with equal keys that are under way at the same time run once.
        moved: called with a line's name whenever it went on.

    Raises:
        whatever a line raises; the others are stopped first, and their jobs cancelled.
    """
    results: dict[str, T] = {}
    waiting: dict[str, list[str]] = {}
    under_way: dict[str, Any] = {}
    done: dict[str, Outcome] = {}

    def go_on(name: str, outcomes: Sequence[Outcome] | None) -> None:
        try:
            jobs = lines[name].send(outcomes) if outcomes is not None else next(lines[name])  # type: ignore[arg-type]
        except StopIteration as stop:
            results[name] = stop.value
            waiting.pop(name, None)
        else:
            for job in jobs:
                if job.key not in under_way and job.key not in done:
                    under_way[job.key] = pool.submit(job)
            waiting[name] = [job.key for job in jobs]
        if moved:
            moved(name)

    try:
        for name in lines:
            go_on(name, None)
        while waiting:
            ready = [name for name, keys in waiting.items() if all(key in done for key in keys)]
            for name in ready:
                go_on(name, [done[key] for key in waiting[name]])
            if ready or not under_way:
                continue
            for handle in pool.wait(list(under_way.values()), timeout=60.0):
                key = next(k for k, h in under_way.items() if h is handle)
                done[key] = _outcome(pool, handle)
                del under_way[key]
    finally:
        for handle in under_way.values():
            pool.cancel(handle)
        for line in lines.values():
            line.close()
    return results


def _outcome(pool: ProcessPool, handle: Any) -> Outcome:
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
    """
    if outcome.status == "done" and outcome.result is not None:
        return outcome.result
    error = outcome.error or {}
    raised = error.get("code")
    if raised and str(raised).startswith("ST") and error.get("error") in _OURS:
        raise _OURS[error["error"]](raised, error["message"], **error.get("facts", {}))
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


def _tree(kind: type[StaytrueError]) -> dict[str, type[StaytrueError]]:
    return {kind.__name__: kind} | {name: k for sub in kind.__subclasses__() for name, k in _tree(sub).items()}


_OURS = _tree(StaytrueError)
