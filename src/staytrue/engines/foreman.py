"""Foreman: all state of a pool of jobs, and all that changes it. It lives in one thread, which gets events from a queue.

Whatever happens (a submission, a cancel, a frame of a launcher, the end of a process, a moment that has come) is one call
of one method here, after another: there is nothing to lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, cast

from staytrue.engines import job_log, toll
from staytrue.engines.guard import (
    DETACHED,
    KILL,
    Ended,
    Guard,
    end_families,
    end_marked,
    give_way,
    marked,
    reap,
    signal_group,
)
from staytrue.engines.job import (
    Handle,
    Job,
    Mode,
    Outcome,
    Status,
    cancelled,
    environment,
    error_document,
    other_interpreter,
)
from staytrue.engines.launcher import CANT_WRITE, read_frame, write_frame
from staytrue.errors import Refused, StaytrueError, Unavailable

__all__ = ["Foreman", "Pending"]

# From SIGTERM to SIGKILL, and from there to a verdict without the launcher's word: a cancel takes 0.2 s at most.
_TERM_S = 0.1
_KILL_S = 0.05
# A launcher that is told to leave a `prepare` and does not is killed.
_ABANDON_S = 1.0
_LOG_TAIL_BYTES = 64 << 10
_LOG_LIMIT_BYTES = 16 << 20
_WATCH_S = 0.1
_STOPPED_S = 10.0
# What a machine keeps for all others: below it the largest job has to go, before the kernel chooses.
_RESERVE = 0.03
_LEAST_RESERVE_BYTES, _MOST_RESERVE_BYTES = 128 << 20, 1 << 30
_NEVER = float("inf")
_Key: TypeAlias = tuple[str, int, str, int]
"""Workspace, cores, interpreter ("": the one that runs here), and for a job that needs a launcher of its own its number."""


@dataclass(kw_only=True)
class Pending:
    """A job that waits for its (next) attempt."""

    handle: Handle
    job: Job
    document: dict[str, Any]
    losses: int = 0

    @property
    def key(self) -> _Key:
        """Which launcher it may be given to. After a loss one of its own: what it does to its launcher hits nobody else."""
        workspace = "" if self.job.workspace is None else str(self.job.workspace.resolve())
        alone = self.handle.number + 1 if self.losses else 0
        return (workspace, self.job.cores, other_interpreter(self.job.interpreter), alone)


@dataclass(kw_only=True, eq=False)
class _Attempt:
    """One try at a job.

    phase, and what happens when `due` comes:
        handed     -> the launcher is silent: kill it        preparing  -> timeout: the launcher leaves it
        abandoned  -> it does not leave: kill the launcher   running    -> timeout: SIGTERM
        stopping   -> SIGKILL                                killed     -> conclude without the launcher's word
    """

    pending: Pending
    nonce: str
    place: Path
    launcher: _Launcher
    phase: Literal["handed", "preparing", "abandoned", "running", "stopping", "killed"]
    due: float
    began: float | None = None
    deadline: float = _NEVER
    group: int | None = None
    disk_bytes: float = _NEVER
    stopped_at: float | None = None
    ending: tuple[Status, StaytrueError] | None = None


@dataclass(kw_only=True, eq=False)
class _Launcher:
    """A launcher process as its pool sees it. `handing` is the one attempt that it prepares; others may run."""

    key: _Key
    mode: Mode
    process: subprocess.Popen[bytes]
    log: Path
    mark: str
    due: float
    ready: bool = False
    retired: bool = False
    condemned: bool = False
    handing: _Attempt | None = None
    running: set[str] = field(default_factory=set)
    idle_since: float = 0.0
    stopped_at: float | None = None
    reader: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        return self.ready and self.handing is None and not self.running


class Foreman:
    """All state of a pool and all that changes it; lives in the pool's one thread."""

    def __init__(
        self,
        *,
        place: Path,
        slots: int,
        mode: Mode,
        max_launchers: int,
        start_s: float,
        answer_s: float,
        background: bool,
        reserve_bytes: int | None,
        post: Callable[..., None],
        begun: Callable[[Handle, Path | None], None],
        conclude: Callable[[Handle, Outcome], None],
    ) -> None:
        self.closed = False
        self._place = place
        self._slots = slots
        self._mode: Mode = mode
        self._max_launchers = max_launchers
        self._start_s = start_s
        self._answer_s = answer_s
        self._post = post
        self._begun = begun
        self._conclude = conclude
        self._queue: deque[Pending] = deque()
        self._attempts: dict[str, _Attempt] = {}
        self._launchers: dict[_Key, _Launcher] = {}
        self._processes: set[_Launcher] = set()
        self._unforkable: set[_Key] = set()
        self._watch_due = _NEVER
        self._background, self._reserve_bytes = background, reserve_bytes
        self._mark = f"{place.name}."
        self._guard = Guard(self._mark)

    # What callers ask for

    def queue(self, pending: Pending) -> None:
        """Let a job wait for its turn."""
        self._queue.append(pending)

    def cancel(self, handle: Handle) -> None:
        """End a job that waits or runs; of one that is done nothing changes."""
        text = "The caller cancelled it."
        for pending in self._queue:
            if pending.handle == handle:
                self._queue.remove(pending)
                self._conclude(handle, cancelled(text))
                return
        for attempt in self._attempts.values():
            if attempt.pending.handle == handle and attempt.ending is None:
                self._stop(attempt, "cancelled", Refused("ST340", text))

    def close(self, outcome: Outcome | None = None) -> None:
        """End everything; what is not done is concluded with `outcome`."""
        final = outcome or cancelled("The pool was closed.")
        for attempt in self._attempts.values():
            if attempt.group is not None:
                signal_group(attempt.group, KILL)
                self._guard.forget(attempt.group)
            if attempt.phase != "abandoned":
                self._told(attempt, replace(final, log=_tail(attempt.place / "log")))
        for pending in self._queue:
            self._conclude(pending.handle, final)
        end_families(launcher.process.pid for launcher in self._processes)
        for launcher in self._processes:
            self._guard.forget(launcher.process.pid)
            _forget_process(launcher)
        end_marked(self._mark)
        self._attempts.clear()
        self._queue.clear()
        self._guard.close()
        self.closed = True

    # What time brings

    def pause_s(self) -> float | None:
        """Seconds until the next thing is due; None: nothing is."""
        dues = [attempt.due for attempt in self._attempts.values()]
        dues += [launcher.due for launcher in self._processes]
        due = min([*dues, self._watch_due])
        return None if due == _NEVER else max(0.0, due - time.monotonic())

    def look_around(self) -> None:
        """Act on what is due, hand out what fits, let go of launchers that nobody uses."""
        now = time.monotonic()
        for attempt in [one for one in self._attempts.values() if one.due <= now]:
            self._on_due(attempt, now)
        for launcher in [one for one in self._processes if one.due <= now]:
            self._kill(launcher)
        self._hand_out()
        self._let_go()
        self._watch(now)

    def _on_due(self, attempt: _Attempt, now: float) -> None:
        if attempt.phase in ("handed", "abandoned"):
            attempt.due = _NEVER
            self._kill(attempt.launcher)
        elif attempt.phase in ("preparing", "running"):
            key, limit = attempt.pending.job.key, attempt.pending.job.timeout_s
            text = f"{key} ran longer than its {limit:g} s and was stopped. Allow more timeout_s, or do less."
            self._stop(attempt, "timeout", Refused("ST339", text, timeout_s=limit))
        elif attempt.phase == "stopping" and attempt.group is not None:
            signal_group(attempt.group, KILL)
            attempt.phase, attempt.due = "killed", now + _KILL_S
        else:
            # The launcher is busy or stopped. What it reports later is about an attempt that nobody knows.
            self._finish(attempt, None)

    def _stop(self, attempt: _Attempt, status: Status, why: StaytrueError) -> None:
        attempt.ending = (status, why)
        if attempt.group is not None:
            signal_group(attempt.group, signal.SIGTERM)
            attempt.phase, attempt.due = "stopping", time.monotonic() + _TERM_S
            return
        # User code runs in the launcher itself, beside other jobs: it is asked to leave, and takes no further jobs,
        # since an import that was cut short leaves libraries half loaded.
        self._told(attempt, self._outcome(attempt, status, error=error_document(why)))
        attempt.phase, attempt.due = "abandoned", time.monotonic() + _ABANDON_S
        self._retire(attempt.launcher)
        self._interrupt(attempt.launcher)

    # What launchers report

    def on_frame(self, launcher: _Launcher, frame: dict[str, Any]) -> None:
        """A launcher says something."""
        if frame["is"] == "ready":
            launcher.ready, launcher.due, launcher.idle_since = True, _NEVER, time.monotonic()
            return
        attempt = self._attempts.get(frame["nonce"])
        if frame["is"] == "exited":
            launcher.running.discard(frame["nonce"])
            launcher.idle_since = time.monotonic()
        elif frame["is"] != "taken":
            launcher.handing = None
        if attempt is not None:
            act = {
                "taken": self._on_taken,
                "started": self._on_started,
                "failed": self._on_failed,
                "unforkable": self._on_unforkable,
                "exited": self._on_exited,
            }
            act[frame["is"]](attempt, frame)

    def _on_taken(self, attempt: _Attempt, _: dict[str, Any]) -> None:
        attempt.began = time.monotonic()
        attempt.deadline = attempt.began + attempt.pending.job.timeout_s
        if attempt.phase == "abandoned":
            self._interrupt(attempt.launcher)
        elif attempt.phase == "handed":
            attempt.phase, attempt.due = "preparing", attempt.deadline
            if attempt.launcher.mode == "spawn":
                self._on_started(attempt, {"pid": attempt.group})

    def _on_started(self, attempt: _Attempt, frame: dict[str, Any]) -> None:
        attempt.launcher.handing = None
        attempt.launcher.running.add(attempt.nonce)
        attempt.group = frame["pid"]
        self._guard.watch(frame["pid"])
        if attempt.phase == "abandoned":
            signal_group(frame["pid"], KILL)
            attempt.due = _NEVER
        else:
            attempt.phase, attempt.due = "running", attempt.deadline
            self._watch_due = min(self._watch_due, time.monotonic() + _WATCH_S)

    def _on_failed(self, attempt: _Attempt, frame: dict[str, Any]) -> None:
        self._finish(attempt, Ended(exit_code=frame.get("exit_code", 0)))

    def _on_unforkable(self, attempt: _Attempt, _: dict[str, Any]) -> None:
        self._unforkable.add(attempt.launcher.key)
        self._retire(attempt.launcher)
        self._drop(attempt)
        if attempt.phase != "abandoned":
            self._queue.appendleft(attempt.pending)

    def _on_exited(self, attempt: _Attempt, frame: dict[str, Any]) -> None:
        self._finish(attempt, Ended(**{name: frame[name] for name in Ended.__dataclass_fields__}))

    def on_gone(self, launcher: _Launcher, ended: Ended) -> None:
        """The launcher's process has ended: by our will, by its own, or somebody killed it."""
        self._processes.discard(launcher)
        self._retire(launcher)
        self._guard.forget(launcher.process.pid)
        attempts = [one for one in self._attempts.values() if one.launcher is launcher]
        # Who is to blame: what it was preparing; else nobody, if we ended it ourselves; else all that ran.
        blamed = [launcher.handing] if launcher.handing else [] if launcher.condemned else attempts
        for attempt in attempts:
            if launcher.mode == "spawn" and attempt.began is not None:
                self._finish(attempt, ended)
                continue
            if attempt.group is not None:
                signal_group(attempt.group, KILL)
            self._lose(attempt, ended, blamed=attempt in blamed)
        end_marked(launcher.mark)
        if launcher.mode == "fork" and not launcher.ready:
            self._give_up_on(launcher, ended)
        _forget_process(launcher)

    def _lose(self, attempt: _Attempt, ended: Ended, *, blamed: bool) -> None:
        if attempt.ending is not None:
            self._finish(attempt, None)
            return
        pending = attempt.pending
        pending.losses += blamed
        if pending.losses < 2:
            self._drop(attempt)
            self._queue.appendleft(pending)
            return
        text = (
            f"The launcher of {pending.job.key} died twice, the second time with this job alone "
            f"({_exit_words(ended.exit_code)}): an import or `prepare` crashes it, or the job kills it. See the log."
        )
        log = _tail(attempt.launcher.log) + _tail(attempt.place / "log")
        error = error_document(Unavailable("ST341", text, losses=pending.losses))
        self._told(attempt, self._outcome(attempt, "failed", error=error, log=log))
        self._drop(attempt)

    def _give_up_on(self, launcher: _Launcher, ended: Ended) -> None:
        text = f"Can't start a process for jobs: it ended with {_exit_words(ended.exit_code)} before it was ready."
        log = _tail(launcher.log)
        error = Unavailable("ST342", f"{text} Its last words: {log.strip()[-500:]!r}", exit_code=ended.exit_code)
        for pending in [one for one in self._queue if one.key == launcher.key]:
            self._queue.remove(pending)
            self._conclude(pending.handle, Outcome(status="lost", error=error_document(error), log=log))

    # How an attempt ends

    def _finish(self, attempt: _Attempt, ended: Ended | None) -> None:
        """Conclude with our own verdict, else the task's answer, else the way its process ended."""
        if attempt.phase == "abandoned":
            self._drop(attempt)
            return
        if attempt.ending is not None:
            outcome = self._outcome(attempt, attempt.ending[0], ended, error=error_document(attempt.ending[1]))
        else:
            report = _report(attempt) if ended is not None and ended.exit_code == 0 else None
            if report is None:
                cant = ended is not None and ended.exit_code == CANT_WRITE
                report = {"status": "lost" if cant else "failed", "error": _crash_error(attempt.pending.job, ended)}
            if report["status"] == "lost" and (size := toll.disk_bytes(attempt.place)) > attempt.disk_bytes:
                # The disk is full, and it is this job that filled it.
                report = {"status": "failed", "error": error_document(_disk_error(attempt, size))}
            answer = {name: report.get(name) for name in ("result", "error")}
            outcome = self._outcome(attempt, report["status"], ended, **answer)
        job_log.end(attempt.place, outcome)
        self._drop(attempt, keep=outcome)
        self._conclude(attempt.pending.handle, outcome)

    def _told(self, attempt: _Attempt, outcome: Outcome) -> None:
        job_log.end(attempt.place, outcome)
        self._conclude(attempt.pending.handle, outcome)

    def _outcome(self, attempt: _Attempt, status: Status, ended: Ended | None = None, **facts: Any) -> Outcome:
        log = attempt.place / "log"
        facts.setdefault("log", _tail(log))
        return Outcome(
            log_file=log if log.exists() else None,
            status=status,
            outbox=attempt.place / "outbox" if status == "done" else None,
            seconds=0.0 if attempt.began is None else time.monotonic() - attempt.began,
            cpu_seconds=ended.cpu_seconds if ended else None,
            peak_memory_bytes=ended.peak_memory_bytes if ended else None,
            mode=attempt.launcher.mode,
            **facts,
        )

    def _drop(self, attempt: _Attempt, *, keep: Outcome | None = None) -> None:
        """Forget it, and all that it wrote but what its outcome names."""
        del self._attempts[attempt.nonce]
        self._begun(attempt.pending.handle, None)
        attempt.launcher.running.discard(attempt.nonce)
        if attempt.launcher.key[-1]:
            self._retire(attempt.launcher)  # it was for this job
        if attempt.group is not None:
            self._guard.forget(attempt.group)
        if keep is None or keep.log_file is None:
            shutil.rmtree(attempt.place, ignore_errors=True)
        elif keep.outbox is None:
            shutil.rmtree(attempt.place / "outbox", ignore_errors=True)

    # How an attempt begins

    def _hand_out(self) -> None:
        free = self._slots - sum(self._slots_of(one.pending) for one in self._attempts.values())
        for pending in list(self._queue):
            if self._slots_of(pending) > free:
                return  # strictly first in, first out: small jobs must not starve a large one
            self._hand_over(pending)
            # A job whose launcher still starts, or prepares another, holds its slot: at most `slots` launchers start.
            free -= self._slots_of(pending)

    def _slots_of(self, pending: Pending) -> int:
        return min(pending.job.cores, self._slots)

    def _hand_over(self, pending: Pending) -> None:
        """To its launcher, if that is ready for it; else it stays in the queue."""
        launcher = None
        try:
            launcher = self._launcher_for(pending)
            if launcher is None:
                return
            attempt = self._attempt(pending, launcher)
        except OSError as exc:
            if launcher is not None and launcher.mode == "spawn":
                self._kill(launcher)
            self._queue.remove(pending)
            text = f"Can't start {pending.job.key}: {exc}. Free disk, memory or processes, then submit it again."
            self._conclude(pending.handle, Outcome(status="lost", error=error_document(Unavailable("ST346", text))))
            return
        self._queue.remove(pending)
        launcher.handing = self._attempts[attempt.nonce] = attempt
        self._begun(pending.handle, attempt.place)
        with contextlib.suppress(OSError):  # it died: its end is reported, and the attempt is lost then
            write_frame(
                cast("IO[bytes]", launcher.process.stdin).fileno(),
                {"nonce": attempt.nonce, "place": str(attempt.place)},
            )

    def _launcher_for(self, pending: Pending) -> _Launcher | None:
        key = pending.key
        if self._mode == "spawn" or key in self._unforkable:
            return self._launch(key, "spawn")
        launcher = self._launchers.get(key)
        if launcher is None:
            self._launchers[key] = self._launch(key, "fork")
        return launcher if launcher is not None and launcher.ready and launcher.handing is None else None

    def _attempt(self, pending: Pending, launcher: _Launcher) -> _Attempt:
        nonce = secrets.token_hex(8)
        place = self._place / nonce
        (place / "outbox").mkdir(parents=True, mode=0o700)
        (place / "job.json").write_text(json.dumps(pending.document))
        job_log.begin(place, pending.job)
        spawned = launcher.mode == "spawn"
        return _Attempt(
            pending=pending,
            nonce=nonce,
            place=place,
            launcher=launcher,
            phase="handed",
            due=time.monotonic() + (self._start_s if spawned else self._answer_s),
            group=launcher.process.pid if spawned else None,
            disk_bytes=self._disk_bytes(pending.job),
        )

    def _disk_bytes(self, job: Job) -> float:
        free = toll.free_bytes(self._place)
        return job.disk_bytes or (_NEVER if free is None else free / 2)

    # Launchers

    def _launch(self, key: _Key, mode: Mode) -> _Launcher:
        workspace, cores, interpreter, _ = key
        name = secrets.token_hex(4)
        log = self._place / f"launcher-{name}.log"
        mark = f"{self._mark}{name}"
        argv = [
            interpreter or sys.executable,
            "-P",
            "-m",
            "staytrue.engines.launcher",
            "one" if mode == "spawn" else "fork",
            workspace,
        ]
        with log.open("ab") as sink:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                bufsize=0,
                env=environment(cores, interpreter) | marked(mark),
                **DETACHED,
            )
        if self._background:
            give_way(process.pid)
        due = _NEVER if mode == "spawn" else time.monotonic() + self._start_s
        launcher = _Launcher(key=key, mode=mode, process=process, log=log, mark=mark, due=due)
        self._processes.add(launcher)
        self._guard.watch(process.pid)
        launcher.reader = threading.Thread(target=self._read, args=(launcher,), name="staytrue-launcher", daemon=True)
        launcher.reader.start()
        return launcher

    def _read(self, launcher: _Launcher) -> None:
        """In a thread per launcher: post its frames, then its end."""
        process = launcher.process
        source = cast("IO[bytes]", process.stdout).fileno()
        frame = read_frame(source)
        while frame is not None:
            self._post(self.on_frame, launcher, frame)
            # A process of its own says one thing. Its end is seen by waiting, not by the end of its stdout, which
            # children of the job may hold open.
            frame = read_frame(source) if launcher.mode == "fork" else None
        if sys.platform == "win32":
            ended = Ended(exit_code=process.wait())
        else:
            ended = reap(process.pid, wait=True) or Ended(exit_code=1)
            process.returncode = ended.exit_code
        self._post(self.on_gone, launcher, ended)

    def _interrupt(self, launcher: _Launcher) -> None:
        if sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError):
                os.kill(launcher.process.pid, signal.SIGUSR1)

    def _retire(self, launcher: _Launcher) -> None:
        launcher.retired = True
        if self._launchers.get(launcher.key) is launcher:
            del self._launchers[launcher.key]

    def _kill(self, launcher: _Launcher) -> None:
        launcher.condemned, launcher.due = True, _NEVER
        self._retire(launcher)
        end_families([launcher.process.pid])

    def _let_go(self) -> None:
        idle = sorted((one for one in self._launchers.values() if one.idle), key=lambda one: one.idle_since)
        for launcher in idle[: max(0, len(self._launchers) - self._max_launchers)]:
            self._retire(launcher)
        for launcher in [one for one in self._processes if one.retired and one.idle and not one.condemned]:
            self._kill(launcher)

    # What running jobs take

    def _watch(self, now: float) -> None:
        """Ten times a second while jobs run: none may take the machine from all others."""
        if self._watch_due > now:
            return
        running = [one for one in self._attempts.values() if one.group is not None and one.phase == "running"]
        self._watch_due = now + _WATCH_S if self._attempts else _NEVER
        for attempt in running:
            self._watch_disk(attempt)
            self._watch_state(attempt, now)
        self._watch_memory([one for one in running if one.phase == "running"])
        for launcher in [one for one in self._processes if one.running and one.mode == "fork"]:
            if not toll.is_stopped(launcher.process.pid):
                launcher.stopped_at = None
            elif launcher.stopped_at is None:
                launcher.stopped_at = now
            elif now - launcher.stopped_at > _STOPPED_S:
                self._kill(launcher)  # its jobs are lost by no fault of theirs, and run again

    def _watch_disk(self, attempt: _Attempt) -> None:
        """A job that prints for ever must not fill the disk: the beginning of its log goes. Nor one that writes."""
        log = attempt.place / "log"
        with contextlib.suppress(OSError):
            toll.forget_beginning(log, _LOG_LIMIT_BYTES, keep_bytes=_LOG_TAIL_BYTES)
        size = toll.disk_bytes(attempt.place)
        if size > attempt.disk_bytes:
            self._stop(attempt, "failed", _disk_error(attempt, size))

    def _watch_state(self, attempt: _Attempt, now: float) -> None:
        if attempt.group is None or not toll.is_stopped(attempt.group):
            attempt.stopped_at = None
        elif attempt.stopped_at is None:
            attempt.stopped_at = now
        elif now - attempt.stopped_at > _STOPPED_S:
            text = (
                f"The process of {attempt.pending.job.key} was stopped from outside, and ended after {_STOPPED_S:g} s."
            )
            self._stop(attempt, "lost", Unavailable("ST881", text))

    def _watch_memory(self, running: list[_Attempt]) -> None:
        """Short of memory the kernel ends whom it likes; so before that the job goes that holds most, if it holds much."""
        seen = toll.memory() if running else None
        if seen is None:
            return
        usual = min(max(int(seen.total_bytes * _RESERVE), _LEAST_RESERVE_BYTES), _MOST_RESERVE_BYTES)
        reserve = usual if self._reserve_bytes is None else self._reserve_bytes
        if seen.available_bytes >= reserve:
            return
        held = toll.group_bytes(one.group for one in running if one.group is not None)
        largest = max(running, key=lambda one: held.get(one.group or 0, 0))
        size = held.get(largest.group or 0, 0)
        if size > min(usual, reserve):
            text = (
                f"{largest.pending.job.key} was stopped: it held {size >> 20:,} MB, and the machine had "
                f"{seen.available_bytes >> 20:,} MB left. Work on fewer rows at a time, or set memory_bytes."
            )
            self._stop(largest, "memory", Refused("ST882", text, held_bytes=size, left_bytes=seen.available_bytes))
            if largest.group is not None:
                signal_group(largest.group, KILL)  # in the time of a last word it would take the rest


def _forget_process(launcher: _Launcher) -> None:
    """It was killed or has ended: let its reader see that, then close what we hold of it."""
    if launcher.reader is not None:
        launcher.reader.join(_ABANDON_S)
        if launcher.reader.is_alive():  # the kernel holds it (a dead disk): its pipes are in use until it goes
            return
    for pipe in (launcher.process.stdin, launcher.process.stdout):
        if pipe is not None:
            pipe.close()
    launcher.log.unlink(missing_ok=True)


def _report(attempt: _Attempt) -> dict[str, Any] | None:
    """What the attempt wrote as its answer; None: nothing, or something that is not this attempt's."""
    try:
        report: dict[str, Any] = json.loads((attempt.place / "result.json").read_bytes())
    except (OSError, ValueError):
        return None
    return report if report.get("nonce") == attempt.nonce else None


def _crash_error(job: Job, ended: Ended | None) -> dict[str, Any]:
    code = None if ended is None else ended.exit_code
    if code == CANT_WRITE:
        text = f"{job.key} could not write its answer. Free some space or check the disk, then try again."
        return error_document(Unavailable("ST347", text))
    if code is not None and code < 0:
        hint = " The kernel does that when memory runs out: set memory_bytes." if -code == KILL else " See its log."
        text = f"The process of {job.key} was ended by {_exit_words(code)}, without a result.{hint}"
        return error_document(Unavailable("ST337", text, signal=-code))
    text = (
        f"The process of {job.key} ended with {_exit_words(code)}, without a result. A task returns a dict, or raises."
    )
    return error_document(Unavailable("ST336", text, exit_code=code))


def _disk_error(attempt: _Attempt, size: int) -> StaytrueError:
    text = (
        f"{attempt.pending.job.key} wrote {size >> 20:,} MB; it may write {int(attempt.disk_bytes) >> 20:,} MB here "
        "(half of what was free, or its disk_bytes). Write less, or give it a larger disk."
    )
    return Refused("ST883", text, written_bytes=size, limit_bytes=int(attempt.disk_bytes))


def _exit_words(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _tail(log: Path) -> str:
    return job_log.tail(log, _LOG_TAIL_BYTES)
