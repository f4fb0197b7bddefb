"""What keeps a job from outliving its controller: groups, limits, and a small process that kills what is left.

Every job leads its own process group. Three layers end it when the controller is gone: the launcher sees the end of its
stdin; on Linux the kernel kills a job whose launcher died; and the guard, which runs no user code and therefore can't
hang, sees its own stdin end and kills all groups it was told of, grandchildren included. The guard is run by file path
without site-packages (it starts in some 40 ms), so this module imports nothing but the standard library.

Limit: a program that a job starts in a session of its own leaves the group, and is not followed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, cast

__all__ = [
    "DETACHED",
    "KILL",
    "Ended",
    "Guard",
    "die_with_parent",
    "fork_is_safe",
    "limit_this_process",
    "limited_memory",
    "reap",
    "signal_group",
]

# How a process is started so that it leads its own group and a Ctrl-C in the terminal does not reach it.
DETACHED: dict[str, Any] = {"start_new_session": True}
if sys.platform == "win32":
    DETACHED = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}

# The signal that nothing survives; Windows has one way to end a process, whatever the number.
KILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)

# Threads that survive a fork of their process: jemalloc (inside pyarrow, hence inside `import pandas`) stops and
# restarts its own through fork handlers.
_FORK_PROOF_THREADS = frozenset({"jemalloc_bg_thd"})
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended: its exit code (-9: by signal 9) and what it used; None where the platform can't say."""

    exit_code: int
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None


class Guard:
    """The controller's side of the guard process: tell it which groups must not outlive this process.

    Example:
        >>> with Guard() as guard:
        ...     guard.watch(4_000_000)
        ...     guard.forget(4_000_000)
    """

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process = self._started()

    def watch(self, group: int) -> None:
        """From now on the guard kills this process group when we are gone."""
        self._groups.add(group)
        self._tell(b"+%d\n" % group)

    def forget(self, group: int) -> None:
        """The group has ended; its number may soon belong to somebody else."""
        self._groups.discard(group)
        self._tell(b"-%d\n" % group)

    def close(self) -> None:
        """End the guard; whatever it still watches is killed."""
        self._stdin.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-I", "-S", __file__]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, bufsize=0, cwd=Path(__file__).anchor, **DETACHED)

    @property
    def _stdin(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stdin)

    def _tell(self, line: bytes) -> None:
        try:
            self._stdin.write(line)
        except BrokenPipeError:
            # Somebody killed the guard: a new one learns all groups again.
            self.close()
            self._process = self._started()
            self._stdin.write(b"".join(b"+%d\n" % group for group in self._groups))


def signal_group(group: int, signum: int) -> bool:
    """Whether the signal went to any process of the group. On Windows any signal ends the whole process tree."""
    if sys.platform == "win32":
        argv = ["taskkill", "/F", "/T", "/PID", str(group)]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):  # PermissionError: macOS says so of a group of zombies
        return False
    return True


def reap(pid: int, *, wait: bool) -> Ended | None:
    """How our child `pid` ended; what it left in its group is killed. None: it still runs, and `wait` is False."""
    if sys.platform == "win32":
        raise NotImplementedError
    found, status, usage = os.wait4(pid, 0 if wait else os.WNOHANG)
    if not found:
        return None
    signal_group(pid, KILL)
    return Ended(
        exit_code=os.waitstatus_to_exitcode(status),
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_memory_bytes=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when `parent`, its single-threaded parent, dies (Linux only; elsewhere nothing).

    Not for children of a process with threads: the kernel looks at the thread that forked, not at the process.
    """
    if sys.platform == "linux":
        import ctypes  # only here: the guard process must start fast

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)


def limit_this_process(*, oom_score: int = 900) -> None:
    """This process and its children: among the first that a machine short of memory ends, and they write no core files.

    Args:
        oom_score: 0 to 1000; the process with the highest one ends first.
    """
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # not Linux, or a sandbox that forbids it: the limit in bytes still holds
        Path("/proc/self/oom_score_adj").write_text(str(oom_score))


@contextlib.contextmanager
def limited_memory(size_bytes: int | None) -> Iterator[None]:
    """Within this block the process may take `size_bytes` more address space than it has now; None: no limit.

    What the warm process has loaded before does not count: the limit is about the job. Asking for more ends in
    MemoryError; when the block is left the old limit is back, so that the failure can be reported.
    """
    if size_bytes is None or sys.platform == "win32":
        yield
        return
    import resource

    before = soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    known = [limit for limit in (_address_space_bytes() + size_bytes, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(known), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fork_is_safe() -> bool:
    """Whether a fork of this process gives a child that can't inherit a lock held by a thread it does not have.

    Native threads are seen on Linux only; elsewhere only Python's own are.
    """
    if threading.active_count() > 1:
        return False
    if not _foreign_threads():
        return True
    # OpenBLAS parks its threads in a fork handler and starts them again on use: after one trial fork they are gone,
    # while those of other libraries (tokio, rayon) stay.
    trial = os.fork()
    if trial == 0:
        os._exit(0)
    os.waitpid(trial, 0)
    return not _foreign_threads()


def _foreign_threads() -> list[str]:
    try:
        threads = [entry for entry in Path("/proc/self/task").iterdir() if entry.name != str(os.getpid())]
        names = [(entry / "comm").read_text().strip() for entry in threads]
    except OSError:
        return []
    return [name for name in names if name not in _FORK_PROOF_THREADS]


def _address_space_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _main() -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
    for group in groups:
        signal_group(group, KILL)


if __name__ == "__main__":
    _main()
