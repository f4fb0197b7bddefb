"""Place: a pool's own directory, which is swept away when its process is gone."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from staytrue.engines import job_log
from staytrue.engines.file_lock import try_lock
from staytrue.errors import Unavailable

__all__ = ["OwnPlace"]


class OwnPlace:
    """A pool's own directory under `root`, locked for as long as its process lives.

    A lock, not a process id: ids are reused, and mean nothing in the next container that shares the directory.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for lock in root.glob("pool-*.lock"):
                _sweep(lock)
            self._lock, self._fd = _locked(root)
            self.path = self._lock.with_suffix("")
            self.path.mkdir(mode=0o700)
        except OSError as exc:
            text = f"Can't make a place for jobs at {root}: {exc}. Free some space or check the rights, then try again."
            raise Unavailable("ST348", text, path=str(root), reason=str(exc)) from exc

    def remove(self) -> None:
        """Leave nothing there."""
        shutil.rmtree(self.path, ignore_errors=True)
        if not self.path.exists():  # else a process that was just killed still wrote: the next sweep finds the lock
            self._lock.unlink(missing_ok=True)
        os.close(self._fd)


def _locked(root: Path) -> tuple[Path, int]:
    """A new lock file, and the descriptor that holds it."""
    while True:
        lock = root / f"pool-{secrets.token_hex(8)}.lock"
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        if try_lock(fd) and lock.exists():
            return lock, fd
        os.close(fd)  # somebody swept it between its creation and its locking


def _sweep(lock: Path) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(lock, os.O_RDWR)
        try:
            if try_lock(fd):
                job_log.break_off(lock.with_suffix(""))
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink()
        finally:
            os.close(fd)
