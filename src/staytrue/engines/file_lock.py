"""File lock: one that the kernel takes back when its process is gone, however that ended."""

from __future__ import annotations

import sys

__all__ = ["try_lock"]


def try_lock(fd: int) -> bool:
    """Whether the lock on this file is ours now; the kernel takes it back when this process is gone."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
