"""What "on disk" means: the file system steps that make bytes and names survive a power cut, and their errors as ours.

Both keepers of truth use it: objects sync files and directories through it, the ledger makes its folder with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, BinaryIO

from staytrue.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["disk", "make_directory", "sync_directory", "sync_file", "write_all"]

_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


@contextlib.contextmanager
def disk(doing: str) -> Iterator[None]:
    """Turns what the file system refuses while `doing` into our error.

    Raises:
        Unavailable: ST402 when the disk is full, ST403 for every other refusal.

    Example:
        >>> with disk("store object 3fa2"):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        ...
        staytrue.errors.Unavailable: ST402 Can't store object 3fa2: the disk is full. Free some space ...
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            hint = "Free some space (`staytrue gc` frees what nothing refers to), then try again."
            message = f"Can't {doing}: the disk is full. {hint}"
            raise Unavailable("ST402", message, doing=doing, errno=exc.errno) from exc
        reason = exc.strerror or str(exc)
        hint = "Check the disk and the rights on the store, then try again."
        message = f"Can't {doing}: the file system says {reason!r}. {hint}"
        raise Unavailable("ST403", message, doing=doing, errno=exc.errno, reason=reason) from exc


def write_all(file: BinaryIO, view: memoryview) -> None:
    """Writes every byte of `view` to an unbuffered file; one call may take only a part of them."""
    while view:
        view = view[file.write(view) :]


def sync_file(descriptor: int) -> None:
    """Returns once the bytes of an open file are on disk."""
    if sys.platform == "darwin":
        import fcntl

        # macOS: fsync stops at the drive's cache; only this one empties it. Some file systems (SMB) lack it.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Returns once the names in a directory are on disk. Windows journals names itself and offers no call for it."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Makes a directory and its missing parents; returns once its own name is on disk.

    The parent is synced even when the directory was there: the process that made it may not have come to that yet.
    """
    if not path.parent.exists():
        make_directory(path.parent)
    path.mkdir(exist_ok=True)
    # A parent that we may pass but not read (a shared /home) was made long ago by somebody else.
    with contextlib.suppress(PermissionError):
        sync_directory(path.parent)
