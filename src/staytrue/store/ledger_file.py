"""Ledger file: whether somebody may have written to the ledger, without reading it.

Looking at two files' times costs some 5 us, a read of the ledger 100 times that. A commit moves the times before its sync to
disk, and can be read only after it: so after a move the ledger is worth a read for a while. And now and then without any, for a
ledger that is no file beside us (Postgres) and for file systems with coarse times.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

__all__ = ["LedgerFile", "ledger_times"]

_READ_S: Final = 0.5
_VISIBLE_S: Final = 0.5


class LedgerFile:
    """Looks at the ledger's files.

    Args:
        root: the store's folder.

    Example:
        >>> looked = LedgerFile(Path("nowhere"))
        >>> looked.may_have_moved(100.0), looked.may_have_moved(100.1), looked.may_have_moved(100.7)
        (True, False, True)
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: tuple[int, ...] = ()
        self._moved_s = self._read_s = float("-inf")

    def may_have_moved(self, now_s: float) -> bool:
        """Whether to read the ledger now; to be asked several times a second, with a clock that never jumps."""
        times = ledger_times(self._root)
        if times != self._seen:
            self._seen, self._moved_s = times, now_s
        if now_s - self._moved_s >= _VISIBLE_S and now_s - self._read_s < _READ_S:
            return False
        self._read_s = now_s
        return True


def ledger_times(root: Path) -> tuple[int, ...]:
    """Times and sizes of the ledger's files: others than before, somebody has written."""
    found = []
    for name in ("ledger.db", "ledger.db-wal"):
        with contextlib.suppress(OSError):  # not there yet, or not any more: that is a move too
            stat = (root / name).stat()
            found += [stat.st_mtime_ns, stat.st_size]
    return tuple(found)
