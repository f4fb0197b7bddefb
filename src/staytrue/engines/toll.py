"""Toll: what jobs take of this machine, read from the kernel: memory, disk, and whether somebody stopped them.

All but one function look and say; who ends what is the foreman's. Where there is no /proc the answers are "nothing known".
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "disk_bytes", "forget_beginning", "free_bytes", "group_bytes", "is_stopped", "memory"]

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_MOST_FILES = 10_000
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of this machine, or of the container that this process is in, whichever has less left."""

    total_bytes: int
    available_bytes: int


def memory() -> Memory | None:
    """What there is; None where that can't be known.

    Example:
        >>> seen = memory()
        >>> seen is None or 0 < seen.available_bytes <= seen.total_bytes
        True
    """
    try:
        lines = (line.split() for line in (_PROC / "meminfo").read_text().splitlines())
        kilobytes = {words[0]: int(words[1]) for words in lines if words[0] in {"MemTotal:", "MemAvailable:"}}
        machine = Memory(total_bytes=kilobytes["MemTotal:"] << 10, available_bytes=min(kilobytes.values()) << 10)
    except (OSError, KeyError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):  # no limit is the word "max"; no file: another kind of container
        most, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        if most - used < machine.available_bytes:
            return Memory(total_bytes=most, available_bytes=max(0, most - used))
    return machine


def group_bytes(groups: Iterable[int]) -> dict[int, int]:
    """Process group -> the memory that its processes hold, where they do not share it with a file."""
    held = dict.fromkeys(groups, 0)
    page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
    for entry in _processes():
        with contextlib.suppress(OSError, ValueError, IndexError):  # it ended between the list and the look
            group = int(_fields(entry)[2])
            if group in held:
                pages = (entry / "statm").read_text().split()
                held[group] += (int(pages[1]) - int(pages[2])) * page
    return held


def is_stopped(pid: int) -> bool:
    """Whether somebody stopped this process (SIGSTOP, a debugger)."""
    with contextlib.suppress(OSError, IndexError):
        return _fields(_PROC / str(pid))[0] in "Tt"
    return False


def disk_bytes(folder: Path) -> int:
    """What the files under a folder take on disk; of very many files, those seen first."""
    size = seen = 0
    for root, _, names in os.walk(folder):
        for name in names:
            seen += 1
            with contextlib.suppress(OSError):  # removed between the list and the look
                size += os.lstat(os.path.join(root, name)).st_blocks * 512  # noqa: PTH118 - many times a second
            if seen >= _MOST_FILES:
                return size
    return size


def forget_beginning(file: Path, limit_bytes: int, *, keep_bytes: int) -> None:
    """Of a file that takes more disk than its limit, give back all but its end, also while somebody appends to it.

    On Linux its beginning becomes a hole (zeros that take no disk), so nothing that is written meanwhile is lost; elsewhere
    it is emptied, its end with it.
    """
    with file.open("r+b") as opened:
        seen = os.fstat(opened.fileno())
        if getattr(seen, "st_blocks", seen.st_size // 512) * 512 <= limit_bytes:
            return
        hole = max(0, seen.st_size - keep_bytes)
        if sys.platform != "linux" or _punch(opened.fileno(), hole):
            opened.truncate(0)


def _punch(fd: int, size: int) -> int:
    """0 when the first bytes of the file are a hole now."""
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return int(call(fd, _PUNCH_HOLE | _KEEP_SIZE, 0, size))


def free_bytes(folder: Path) -> int | None:
    """What may still be written beside this folder; None where that can't be known."""
    try:
        disk = os.statvfs(folder)
    except (OSError, AttributeError):
        return None
    return disk.f_bavail * disk.f_frsize


def _processes() -> list[Path]:
    try:
        return [entry for entry in _PROC.iterdir() if entry.name.isdigit()]
    except OSError:
        return []


def _fields(entry: Path) -> list[str]:
    """State, parent, group, session and so on: what stands behind the name, which may hold anything."""
    return (entry / "stat").read_text().rpartition(")")[2].split()
