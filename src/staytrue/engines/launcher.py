"""The warm process that jobs are born from: it imports what they need once, then forks one child per job.

`python -m staytrue.engines.launcher fork WORKSPACE` serves jobs until its stdin ends; `... one WORKSPACE` runs a single
job, for platforms and programs where a fork is not safe: in a child that is forked before anything is loaded, so that a job
that kills its parent does not hit the controller.

Importing pandas and scikit-learn costs over a second and a replay trains a hundred times for a tenth of one, hence the
fork. The process never starts a thread for the same reason: a fork copies the locks, not the threads that would release
them.

Frames (4 bytes of length, then JSON) go through copies of fd 0 and 1; fd 0 becomes /dev/null and fd 1 and 2 the log, so
whatever a job prints can't reach the protocol. A frame names an attempt and its place, a directory with

    job.json    what to run                         log            all that it printed
    outbox/     the files that the task wrote       result.json    its answer or its error, renamed into place
    progress.json    how far it is, renamed into place

In, from the controller: `{"nonce", "place"}`. Out: `{"is": KIND}` and the nonce, with KIND one of

    ready (no nonce)  ->  taken  ->  started (pid)  ->  exited (exit_code, cpu_seconds, peak_memory_bytes)
                                 ->  failed (import or prepare; result.json says how, or exit_code that it can't)
                                 ->  unforkable (threads run here: use a process of its own)
"""

from __future__ import annotations

import contextlib
import ctypes  # noqa: F401 (`die_with_parent` needs it in every child, which inherits it from here)
import errno
import faulthandler
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from staytrue.engines.guard import (
    KILL,
    adopt_orphans,
    adopted,
    die_with_parent,
    fork_is_safe,
    limit_this_process,
    limited_memory,
    reap,
    signal_group,
    started_at,
)
from staytrue.errors import InvalidInput, Refused, StaytrueError, Unavailable

__all__ = ["CANT_WRITE", "RESULT_LIMIT_BYTES", "echo", "main", "progress", "read_frame", "write_frame"]

Task = Callable[[dict[str, Any], Path], dict[str, Any]]

# A result document is read whole by the controller; anything larger is a file in the outbox.
RESULT_LIMIT_BYTES = 16 << 20
# A job ends so when not even its answer can be written: the EX_IOERR of sysexits.h.
CANT_WRITE = 74
_TEXT_LIMIT = 20_000
_TELL_S = 0.1
_HUNT_S = 1.0
"""Between two looks for orphans while other jobs run; when none does, it is looked at once."""
# What a disk says of itself, whoever asked: it is full, over quota, failing.
_DISK = frozenset({errno.ENOSPC, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)})
_PACKAGE = f"{Path(__file__).absolute().parents[1]}{os.sep}"


def echo(payload: dict[str, Any], outbox: Path) -> dict[str, Any]:  # noqa: ARG001 (every task is given an outbox)
    """A task that gives back its payload: it warms a launcher and shows that jobs run.

    Example:
        >>> echo({"a": 1}, Path("unused"))
        {'a': 1}
    """
    return payload


def progress(outbox: Path, done: float, total: float, doing: str = "") -> None:
    """Tell how far a task is: so much of so much, and in a few words what it does. Cheap: told at most ten times a second.

    Args:
        outbox: the one that the task was given.

    Example:
        >>> import tempfile
        >>> outbox = Path(tempfile.mkdtemp()) / "outbox"
        >>> outbox.mkdir()
        >>> progress(outbox, 3, 10, "training fold 3")
        >>> json.loads((outbox.parent / "progress.json").read_text())
        {'done': 3, 'total': 10, 'doing': 'training fold 3'}
    """
    now_s = time.monotonic()
    if now_s - _told.get(outbox, -_TELL_S) < _TELL_S and done < total:
        return
    _told[outbox] = now_s
    with contextlib.suppress(OSError):  # a full disk must not end a training that would fit
        (outbox.parent / "progress.tmp").write_text(json.dumps({"done": done, "total": total, "doing": doing[:200]}))
        (outbox.parent / "progress.tmp").replace(outbox.parent / "progress.json")


_told: dict[Path, float] = {}


def read_frame(source: int) -> dict[str, Any] | None:
    """The next frame of a file descriptor; None at its end, in the middle of a frame too.

    Example:
        >>> source, sink = os.pipe()
        >>> write_frame(sink, {"is": "ready"})
        >>> read_frame(source)
        {'is': 'ready'}
        >>> os.close(sink)
        >>> read_frame(source) is None
        True
        >>> os.close(source)
    """
    size = _read_exactly(source, 4)
    body = size and _read_exactly(source, int.from_bytes(size, "big"))
    return json.loads(body) if body else None


def write_frame(sink: int, document: dict[str, Any]) -> None:
    """Send one frame. Frames are far smaller than a pipe's buffer, so this does not wait for the reader."""
    body = json.dumps(document).encode()
    data = len(body).to_bytes(4, "big") + body
    while data:
        data = data[os.write(sink, data) :]


def main() -> None:
    """Serve the controller at the other end of stdin and stdout: see the module."""
    mode, workspace = sys.argv[1:3]
    limit_this_process()
    adopt_orphans()
    if mode == "one":
        _shield()
    source, sink = _take_over_stdio()
    # `fork_is_safe` decides that with more knowledge than the interpreter, which would say it in every job's log.
    warnings.filterwarnings("ignore", ".* is multi-threaded, use of fork", DeprecationWarning)
    faulthandler.enable()  # a job that dies of a segmentation fault leaves its stack in its log
    if workspace:
        os.chdir(workspace)
        sys.path.insert(0, workspace)
    if mode == "one":
        _run_here(source, sink, workspace)
    _Launcher(source, sink, workspace).serve()


class _Launcher:
    """Forks jobs and reports what becomes of them. Never starts a thread."""

    def __init__(self, source: int, sink: int, workspace: str) -> None:
        self._source = source
        self._sink = sink
        self._workspace = workspace
        self._pid = os.getpid()
        self._children: dict[int, str] = {}
        self._began: dict[int, int] = {}
        self._hunted_s = 0.0
        self._preparing = False
        self._modules = 0
        self._wake, self._waker = os.pipe()
        for end in (self._wake, self._waker):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGUSR1, self._abandon)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until stdin ends; then nothing of it is left."""
        self._send("ready")
        try:
            while True:
                # Not epoll: its descriptor would be shared with the children.
                readable, _, _ = select.select([self._source, self._wake], [], [])
                if self._wake in readable:
                    os.read(self._wake, 4096)
                    self._report_ended()
                if self._source in readable:
                    frame = read_frame(self._source)
                    if frame is None:
                        return
                    self._take(frame["nonce"], Path(frame["place"]))
        finally:
            for pid in self._children:
                signal_group(pid, KILL)
            _end_adopted(set(self._children))

    def _take(self, nonce: str, place: Path) -> None:
        self._send("taken", nonce=nonce)
        try:
            self._begin(nonce, place)
        except OSError:  # neither the log nor the answer can be written: other jobs may have more luck
            self._send("failed", nonce=nonce, exit_code=CANT_WRITE)

    def _begin(self, nonce: str, place: Path) -> None:
        with _log_to(place / "log"):
            try:
                try:
                    self._preparing = True
                    job = _Work(place, nonce, self._workspace)
                    task = job.prepared()
                finally:
                    self._preparing = False
                if not fork_is_safe():
                    self._send("unforkable", nonce=nonce)
                    return
                pid = self._forked(job, task)
            except BaseException as exc:  # noqa: BLE001 (whatever user code raises is its job's failure)
                if not isinstance(exc, _Abandoned):
                    _Work.write_error(place, nonce, exc, self._workspace)
                self._send("failed", nonce=nonce)
                return
        self._children[pid], self._began[pid] = nonce, started_at(pid)
        self._send("started", nonce=nonce, pid=pid)

    def _forked(self, job: _Work, task: Task) -> int:
        if len(sys.modules) != self._modules:
            # What is loaded now stays: outside the collector's reach its pages are not written to, hence not copied.
            gc.collect()
            gc.freeze()
            self._modules = len(sys.modules)
        pid = os.fork()
        if pid == 0:
            self._be_the_child(job, task)
        with contextlib.suppress(OSError):  # the child does the same: whoever comes first
            os.setpgid(pid, pid)
        return pid

    def _be_the_child(self, job: _Work, task: Task) -> NoReturn:
        exit_code = 1
        try:
            os.setpgid(0, 0)
            die_with_parent(self._pid)
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, signal.SIG_DFL)
            for fd in (self._source, self._sink, self._wake, self._waker):
                os.close(fd)
            job.run(task)
            exit_code = 0
        except OSError:
            exit_code = CANT_WRITE
        finally:
            _flush()
            os._exit(exit_code)

    def _report_ended(self) -> None:
        for pid, nonce in list(self._children.items()):
            ended = reap(pid, wait=False)
            if ended is not None:
                del self._children[pid], self._began[pid]
                self._send("exited", nonce=nonce, **asdict(ended))
        self._bury_and_hunt()

    def _bury_and_hunt(self) -> None:
        """Reap orphans that have died; end those that their job has left behind.

        An orphan may belong to any job that had begun before it; it is ended when none of those runs any more.
        """
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if dead.si_pid in self._children:
                    break  # it died just now: its signal has woken us already
                os.waitpid(dead.si_pid, 0)
            if not self._children or time.monotonic() - self._hunted_s > _HUNT_S:
                self._hunted_s = time.monotonic()
                _end_adopted(set(self._children), before=min(self._began.values(), default=None))

    def _abandon(self, *_: object) -> None:
        # The controller gave up on the attempt that is being prepared. Once that has started, it is killed instead.
        if self._preparing:
            self._preparing = False
            raise _Abandoned

    def _send(self, kind: str, **facts: Any) -> None:
        write_frame(self._sink, {"is": kind, **facts})


def _end_adopted(known: set[int], *, before: int | None = None) -> None:
    """Kill the orphans that came to us, and those that come to us when these die; of those that began `before` that only."""
    while orphans := [pid for pid, began in adopted(but=known) if before is None or began < before]:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, KILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _shield() -> None:
    """Go on in a child; who stays behind ends as it does, and is hit in its place when it kills its parent."""
    pid = os.fork()
    if pid == 0:
        die_with_parent(os.getppid())
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is for the child, who may have to say something
    for fd in (0, 1):
        os.close(fd)  # the protocol is the child's
    _, status = os.waitpid(pid, 0)
    _end_adopted(set())
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code != KILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


class _Abandoned(BaseException):
    """Leaves user code that runs in the launcher itself."""


class _Work:
    """One attempt as its own process sees it: what to run, and where its answer goes."""

    def __init__(self, place: Path, nonce: str, workspace: str) -> None:
        self._place = place
        self._nonce = nonce
        self._workspace = workspace
        self._job = json.loads((place / "job.json").read_bytes())

    def prepared(self) -> Task:
        """The task, its modules imported and its `prepare` called."""
        name, _, function = self._job["task"].partition(":")
        with _stage("ST333", f"importing the task {self._job['task']}"):
            for other in self._job["warm"]:
                _import(other)
            module = importlib.import_module(name)
            task: Task = getattr(module, function)
        prepare = getattr(module, "prepare", None)
        if prepare is not None:
            with _stage("ST334", f"preparing the task {self._job['task']}"):
                prepare(self._job["payload"])
        return task

    def run(self, task: Task) -> None:
        """Run the task and write its answer, or its error, into place."""
        if self._job["nice"] and sys.platform != "win32":
            os.nice(self._job["nice"])
        try:
            with (
                limited_memory(self._job["memory_bytes"]),
                _stage("ST332", f"running the task {self._job['task']}"),
            ):
                result = task(self._job["payload"], self._place / "outbox")
            self._write(self._place, {"nonce": self._nonce, "status": "done", "result": self._checked(result)})
        except BaseException as exc:  # noqa: BLE001 (it is the answer)
            self.write_error(self._place, self._nonce, exc, self._workspace)

    def _checked(self, result: object) -> object:
        task = self._job["task"]
        advice = "Return a dict of JSON values and write bytes as files into the outbox."
        if not isinstance(result, dict):
            kind = type(result).__name__
            raise InvalidInput("ST335", f"The task {task} returned {kind}, not a dict. {advice}", task=task, got=kind)
        try:
            size = len(json.dumps(result, allow_nan=False).encode())
        except (TypeError, ValueError, RecursionError) as exc:
            text = f"The task {task} returned what JSON can't say: {exc}. {advice}"
            raise InvalidInput("ST335", text, task=task) from exc
        if size > RESULT_LIMIT_BYTES:
            text = f"The task {task} returned a document of {size:,} bytes; at most {RESULT_LIMIT_BYTES:,}. {advice}"
            raise InvalidInput("ST335", text, task=task, size_bytes=size, limit_bytes=RESULT_LIMIT_BYTES)
        return result

    @classmethod
    def write_error(cls, place: Path, nonce: str, exc: BaseException, workspace: str) -> None:
        """The attempt's answer is an error: ours with its code, any other with the code of the stage it came from.

        A disk that is full or fails says nothing about the job: that is lost, not failed.
        """
        status = "memory" if isinstance(exc, MemoryError) else "lost" if _is_disk(exc) else "failed"
        cls._write(place, {"nonce": nonce, "status": status, "error": _error_document(exc, workspace)})

    @staticmethod
    def _write(place: Path, document: dict[str, Any]) -> None:
        (place / "result.tmp").write_text(json.dumps(document, default=repr))
        (place / "result.tmp").replace(place / "result.json")


def _run_here(source: int, sink: int, workspace: str) -> NoReturn:
    """Take one job, run it in this process, end. A thread ends it when stdin does: then the controller is gone."""
    exit_code = 1
    try:
        frame = read_frame(source)
        if frame is None:
            os._exit(exit_code)
        threading.Thread(target=_end_with, args=(source,), daemon=True).start()
        write_frame(sink, {"is": "taken", "nonce": frame["nonce"]})
        place = Path(frame["place"])
        with _log_to(place / "log"):
            try:
                job = _Work(place, frame["nonce"], workspace)
                job.run(job.prepared())
            except BaseException as exc:  # noqa: BLE001 (it is the answer)
                _Work.write_error(place, frame["nonce"], exc, workspace)
            exit_code = 0
    except OSError:
        exit_code = CANT_WRITE
    finally:
        _flush()
        os._exit(exit_code)


def _end_with(source: int) -> None:
    while os.read(source, 4096):
        pass
    signal_group(os.getpgrp(), KILL)
    os._exit(1)


@contextlib.contextmanager
def _stage(code: str, doing: str) -> Iterator[None]:
    """Mark an exception that leaves this block with where it happened, for its document."""
    try:
        yield
    except _Abandoned:
        raise
    except BaseException as exc:
        with contextlib.suppress(Exception):  # an exception with __slots__ keeps its own counsel
            exc.__staytrue_stage__ = (code, doing)  # type: ignore[attr-defined]
        raise


def _is_disk(exc: BaseException) -> bool:
    return isinstance(exc, OSError) and exc.errno in _DISK


def _error_document(exc: BaseException, workspace: str) -> dict[str, Any]:
    code, doing = getattr(exc, "__staytrue_stage__", ("ST332", "running the task"))
    text = _traceback_text(exc, workspace)
    if isinstance(exc, StaytrueError):
        return {**exc.document(), "traceback": text}
    if isinstance(exc, MemoryError):
        said = f" ({exc})" if str(exc) else ""
        message = f"Out of memory while {doing}{said}. Give the job more memory_bytes, or work on fewer rows at a time."
        return {**Refused("ST338", message, doing=doing).document(), "traceback": text}
    if _is_disk(exc):
        message = f"The disk is full or fails while {doing}: {exc}. Free some space or check the disk, then try again."
        return {**Unavailable("ST347", message, doing=doing, reason=str(exc)).document(), "traceback": text}
    message = str(exc)[:_TEXT_LIMIT]
    if isinstance(exc, SystemExit):
        message = f"the code called sys.exit({exc.code!r}); a task returns its result, or raises"
    kind = type(exc).__name__
    return {"error": kind, "code": code, "message": message, "facts": {"doing": doing}, "traceback": text}


def _traceback_text(exc: BaseException, workspace: str) -> str:
    """As Python prints it, with the frames of the user's files only; without such frames, those that are not ours."""
    report = traceback.TracebackException.from_exception(exc)
    waiting: list[traceback.TracebackException | None] = [report]
    while waiting:
        part = waiting.pop()
        if part is not None:
            part.stack = _users_frames(part.stack, workspace)
            waiting += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]
    return "".join(report.format())[-_TEXT_LIMIT:]


def _users_frames(stack: traceback.StackSummary, workspace: str) -> traceback.StackSummary:
    home = f"{os.path.realpath(workspace)}{os.sep}" if workspace else ""
    users = [frame for frame in stack if home and os.path.realpath(frame.filename).startswith(home)]
    others = [frame for frame in stack if not frame.filename.startswith((_PACKAGE, "<frozen "))]
    return traceback.StackSummary.from_list(users or others or list(stack))


def _import(module: str) -> None:
    """By name, or by the path of a `.py` file, which then carries the name of its stem."""
    if not module.endswith(".py"):
        importlib.import_module(module)
    elif Path(module).stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(Path(module).stem, module)
        if spec is None or spec.loader is None:
            raise ImportError(f"can't import the file {module!r}")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = loaded
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            del sys.modules[spec.name]
            raise


def _take_over_stdio() -> tuple[int, int]:
    """The protocol's two descriptors, moved away from fd 0 and 1; programs that a job starts do not inherit them."""
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        # Line by line, so that the log of a killed job holds what it said.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    return source, sink


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """What is printed in this block, by any language, is appended to this file. A child forked inside keeps it so."""
    _flush()
    before = os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    try:
        yield
    finally:
        _flush()
        os.dup2(before, 1)
        os.dup2(before, 2)
        os.close(before)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a job may have closed or replaced it
            stream.flush()


def _read_exactly(source: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = os.read(source, size - len(data))
        if not chunk:
            return b""
        data += chunk
    return data


if __name__ == "__main__":
    main()
