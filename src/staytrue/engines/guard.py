"""What keeps a job from outliving its controller: groups, limits, and a small process that kills what is left.

Every job leads its own process group. Three layers end it when the controller is gone: the launcher sees the end of its
stdin; on Linux the kernel kills a job whose launcher died; and the guard, which runs no user code and therefore can't
hang, sees its own stdin end and kills all groups it was told of, grandchildren included. The guard is run by file path
without site-packages (it starts in some 40 ms), so this module imports nothing but the standard library.

Who leaves the group (a daemon: a fork of a fork in a session of its own) is found again: as an orphan it becomes the child of
the launcher, which adopts orphans on Linux, and the launcher's mark stands in its environment for when the launcher is gone.

Limit: who leaves the group, hides the mark and kills the launcher is not found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, cast

__all__ = [
    "DETACHED",
    "KILL",
    "Ended",
    "Guard",
    "adopt_orphans",
    "adopted",
    "cores",
    "die_with_parent",
    "end_families",
    "end_marked",
    "fork_is_safe",
    "give_way",
    "limit_this_process",
    "limited_memory",
    "marked",
    "reap",
    "signal_group",
    "stand_back",
    "started_at",
    "unlimit_memory",
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
_PR_SET_CHILD_SUBREAPER = 36
_MARK = "STAYTRUE_JOBS"
_ROUNDS = 20
"""Whoever forks while it is hunted is found in the next round."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended: its exit code (-9: by signal 9) and what it used; None where the platform can't say."""

    exit_code: int
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None


class Guard:
    """The controller's side of the guard process: tell it which groups must not outlive this process.

    Args:
        mark: what else must not: every process that was started with `marked(mark)` in its environment.

    Example:
        >>> with Guard() as guard:
        ...     guard.watch(4_000_000)
        ...     guard.forget(4_000_000)
    """

    def __init__(self, mark: str = "") -> None:
        self._groups: set[int] = set()
        self._mark = mark
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
        argv = [sys.executable, "-I", "-S", __file__, self._mark]
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


def marked(mark: str) -> dict[str, str]:
    """What is added to the environment of a process whose descendants `end_marked` finds."""
    return {_MARK: mark}


def end_marked(mark: str) -> None:
    """Kill every process whose environment, when it was started, was marked so or with something that begins so (Linux)."""
    needle = f"{_MARK}={mark}".encode()
    for _ in range(_ROUNDS):
        found = [pid for pid in _pids() if needle in _read(pid, "environ")]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, KILL)
        time.sleep(0.002)


def end_families(leaders: Iterable[int]) -> None:
    """Kill these processes with all their descendants, adopted ones too, and with what else is in their groups.

    Descendants first: what these leave behind is adopted by a leader that still lives, and found in the next round.
    """
    heads = set(leaders)
    for _ in range(_ROUNDS):
        parents = {pid: int(fields[1]) for pid in _pids() if (fields := _stat(pid)) and fields[0] != "Z"}
        family: set[int] = set()
        while more := {pid for pid, parent in parents.items() if parent in heads | family} - family - heads:
            family |= more
        if not family:
            break
        for pid in family:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, KILL)
        time.sleep(0.002)
    for leader in heads:
        signal_group(leader, KILL)


def adopt_orphans() -> None:
    """From now on descendants of this process whose parent dies become its children (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def started_at(pid: int) -> int:
    """When a process began, in ticks of the kernel since it booted; 0 where that can't be known."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def adopted(*, but: set[int]) -> list[tuple[int, int]]:
    """(pid, when it began) of this process's children that it did not start itself, oldest first.

    Those that it did start are in its own group, or among `but`.
    """
    me = os.getpid()
    found = []
    for pid in _pids():
        fields = _stat(pid)
        if fields and int(fields[1]) == me and int(fields[2]) != os.getpgrp() and pid not in but and fields[0] != "Z":
            found.append((pid, int(fields[19])))
    return sorted(found, key=lambda one: one[1])


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - many times a second
    except OSError:
        return []


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:  # it has ended, or is somebody else's
        return b""


def _stat(pid: int) -> list[str]:
    """State, parent, group and so on: what stands behind the name, which may hold anything."""
    return _read(pid, "stat").decode("utf-8", "replace").rpartition(")")[2].split()


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


def cores() -> int:
    """How many this process may use, as far as the platform says; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stand_back() -> None:
    """From here on this process and what it starts come after others: a lower weight, and one core in four left free.

    At least one core is left, unless there is only one. Of the two a kernel that does not preempt itself needs the second.
    """
    if hasattr(os, "nice"):
        os.nice(10)
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        with contextlib.suppress(OSError):  # a sandbox that forbids it
            os.sched_setaffinity(0, mine[max(1, len(mine) // 4) :] or mine)


def give_way(pid: int) -> None:
    """A process that was just started, and what it starts, let all others go first, as far as the platform can do that.

    Not by `SCHED_IDLE`: the scheduler takes a core that runs such a process for a free one, wakes a server there, and then
    lets it wait for up to a tick (4 ms: p99 at 200 requests/s doubled).
    """
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):  # it has ended, or a sandbox forbids it; and so below
            os.setpriority(os.PRIO_PROCESS, pid, 19)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
        with contextlib.suppress(OSError):  # a kernel that doesn't schedule sessions as groups
            Path(f"/proc/{pid}/autogroup").write_text("19")


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


def unlimit_memory() -> None:
    """Of a process that was started within such a block: the limit was its parent's, not its own."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


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
    end_families(groups)
    if sys.argv[1:] and sys.argv[1]:
        end_marked(sys.argv[1])


if __name__ == "__main__":
    _main()
