"""Job: what is to be run in a process of its own, within which limits, and what became of it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from staytrue.errors import InvalidInput, Refused, StaytrueError

__all__ = [
    "Handle",
    "Job",
    "Mode",
    "Outcome",
    "Progress",
    "Status",
    "cancelled",
    "environment",
    "error_document",
    "job_document",
    "other_interpreter",
]

Status = Literal["done", "failed", "timeout", "cancelled", "lost", "memory"]
Mode = Literal["fork", "spawn"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run, and within which limits.

    Args:
        key: a name for logs and for the caller; the pool does not compare keys.
        task: `package.module:function`, called as `function(payload, outbox)`; it writes bytes as files into `outbox`,
            an empty private directory, and returns a JSON-able dict. A function `prepare(payload)` in the same module
            is called before it, in the launcher: what it caches is inherited by this and all later jobs without a copy.
        workspace: a code tree that never changes; first on sys.path, and the working directory. May be read-only.
        timeout_s: from the moment a launcher takes the job, imports and `prepare` included.
        memory_bytes: what the task may take beyond what its process had when it began; None: no limit.
        cores: granted native threads; the job takes as many of the pool's slots.
        nice: steps of lower priority.
        disk_bytes: what it may write into its outbox and its log; None: half of what is free when it begins.
        warm: modules to import before, by name or by path of a `.py` file.
        interpreter: the Python of another environment, which finds this staytrue; None: the one that runs here.
        app, purpose: whose it is and what for, in a few words, for whoever looks on.
    """

    key: str
    task: str
    payload: dict[str, Any]
    timeout_s: float
    workspace: Path | None = None
    memory_bytes: int | None = None
    cores: int = 1
    nice: int = 0
    disk_bytes: int | None = None
    warm: tuple[str, ...] = ()
    interpreter: Path | None = None
    app: str = ""
    purpose: str = ""


@dataclass(frozen=True, kw_only=True)
class Handle:
    """A submitted job."""

    number: int
    key: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is, as its task told by `engines.launcher.progress`.

    Attributes:
        done, total: so much of so much.
        doing: in a few words.
        seconds: since it was taken on.
    """

    done: float
    total: float
    doing: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job.

    Attributes:
        status: `done`; `failed`: it raised, crashed, took the disk, or lost its launcher twice; `memory`: beyond its limit, or
            all of the machine's; `timeout`;
            `cancelled`; `lost`: this machine could not run it, which says nothing about the job.
        result: what the task returned, if done.
        outbox: the directory of the task's files, if done; it stays until `discard` or `close`.
        error: if not done: error (class), code, message, facts, traceback (the user's frames only).
        seconds: wall time of the last attempt, from its taking on; 0.0 if it never got there.
        cpu_seconds, peak_memory_bytes: of the process and the children that it waited for; None if unknown.
        log: the last 64 KiB of what it printed.
        log_file: all of it (of more than 16 MB the end, after zeros), if it was begun; it stays until `discard` or `close`.
        mode: whether it was forked from a warm launcher or had an interpreter of its own.
    """

    status: Status
    result: dict[str, Any] | None = None
    outbox: Path | None = None
    error: dict[str, Any] | None = None
    seconds: float = 0.0
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    log: str = ""
    log_file: Path | None = None
    mode: Mode = "fork"


def environment(cores: int, interpreter: str = "") -> dict[str, str]:
    """What a process of ours finds in its environment, so that native libraries take no more cores than it was granted.

    Args:
        interpreter: another one than the one that runs here: what tells this one where its own library is does not hold there.

    Example:
        >>> environment(2)["OMP_NUM_THREADS"]
        '2'
    """
    numbered = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "RAYON")
    limited = ("NUMEXPR_MAX", "VECLIB_MAXIMUM", "POLARS_MAX")
    threads = {f"{name}_NUM_THREADS": str(cores) for name in numbered}
    threads |= {f"{name}_THREADS": str(cores) for name in limited}
    own = {"PYTHONHOME", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__"} if interpreter else set()
    given = {name: value for name, value in os.environ.items() if name not in own}
    # A fixed hash seed: pickles of sets, hence model digests, are the same in every process.
    return {**given, **threads, "PYTHONHASHSEED": "0"}


def other_interpreter(interpreter: Path | None) -> str:
    """The path of an interpreter; of the one that runs here, however it is said, nothing.

    Not resolved: the interpreters of two environments are links to one file, and the link is what tells them apart.

    Example:
        >>> other_interpreter(None), other_interpreter(Path(sys.executable)), other_interpreter(Path("/old/bin/python"))
        ('', '', '/old/bin/python')
    """
    return "" if interpreter is None or str(interpreter) == sys.executable else str(interpreter)


def job_document(job: Job) -> dict[str, Any]:
    """The job as its process reads it; checks all that can be checked here."""

    def wrong(name: str, got: object, expected: str) -> InvalidInput:
        text = f"Can't run the job {job.key!r}: {name} is {got!r}; expected {expected}."
        return InvalidInput("ST331", text, field=name, expected=expected)

    module, colon, function = job.task.partition(":")
    if not (colon and all(part.isidentifier() for part in module.split(".")) and function.isidentifier()):
        raise wrong("task", job.task, "package.module:function")
    if not 0 < job.timeout_s < float("inf"):
        raise wrong("timeout_s", job.timeout_s, "a positive finite number of seconds")
    if job.cores < 1:
        raise wrong("cores", job.cores, "at least 1")
    for limit in ("memory_bytes", "disk_bytes"):
        size = getattr(job, limit)
        if size is not None and size < 1:
            raise wrong(limit, size, "a positive number of bytes, or None")
    if job.workspace is not None and not job.workspace.is_dir():
        raise wrong("workspace", str(job.workspace), "an existing directory")
    if job.interpreter is not None and not (job.interpreter.is_absolute() and os.access(job.interpreter, os.X_OK)):
        raise wrong("interpreter", str(job.interpreter), "the absolute path of a program that may be run")
    names = ("task", "payload", "memory_bytes", "nice", "warm")
    try:
        # Through JSON and back: what the caller does to the payload later is not seen by the job.
        copy: dict[str, Any] = json.loads(json.dumps({name: getattr(job, name) for name in names}, allow_nan=False))
    except (TypeError, ValueError) as exc:
        raise wrong("payload", type(job.payload).__name__, f"JSON values only ({exc})") from exc
    return copy


def cancelled(why: str) -> Outcome:
    """The outcome of a job that nobody wants any more."""
    return Outcome(status="cancelled", error=error_document(Refused("ST340", why)))


def error_document(error: StaytrueError) -> dict[str, Any]:
    """An error of ours as the `error` of an outcome."""
    return {**error.document(), "traceback": ""}
