"""Reserve: room on the store's disk that is kept aside, and given back before the disk is full.

A full disk must not stop what makes room and what tells of it: `gc` and the ledger. So a file holds some room while all
is well, and is removed when little is left. What is given up comes in this order, by the room that is left, the reserve
counted in: new trainings (`low`), then the log of predictions and labels (`full`); the rest is the ledger's and gc's.

    room, in reserves    4 or more: it is made      below 3: low      below 2: it is removed      below 1/2: full
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from staytrue.settings import setting
from staytrue.store.durable import disk, make_directory

__all__ = ["Disk", "DiskState", "disk_of", "disk_state", "keep_reserve", "reserve_path"]

DiskState = Literal["well", "low", "full"]

_MB: Final = 1 << 20
_SHARE: Final = 64
"""Of a small disk the reserve is one part in so many."""
_MADE_AT: Final = 4.0
_LOW_AT: Final = 3.0
_REMOVED_AT: Final = 2.0
_FULL_AT: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Disk:
    """What there is on a store's disk: free, held by the reserve, and how large the reserve should be."""

    free_bytes: int
    held_bytes: int
    reserve_bytes: int

    @property
    def room_bytes(self) -> int:
        """What is left in all."""
        return self.free_bytes + self.held_bytes

    @property
    def state(self) -> DiskState:
        """`low`: begin nothing that needs room. `full`: write nothing that can be done without.

        Example:
            >>> [Disk(free_bytes=n, held_bytes=0, reserve_bytes=10).state for n in (40, 29, 4)]
            ['well', 'low', 'full']
        """
        if self.room_bytes < _FULL_AT * self.reserve_bytes:
            return "full"
        return "low" if self.room_bytes < _LOW_AT * self.reserve_bytes else "well"


def reserve_path(root: Path) -> Path:
    """Where a store keeps its reserve."""
    return root / "work" / "reserve"


def disk_of(root: Path) -> Disk:
    """How it stands with the disk of a store.

    Raises:
        Unavailable: ST403, the file system does not say.    InvalidInput: ST139, the setting `reserve` can't be read.
    """
    wanted = int(setting("reserve")) * _MB
    with disk(f"look how much room there is at {root}"):
        usage = shutil.disk_usage(root)
    return Disk(
        free_bytes=usage.free, held_bytes=_held(reserve_path(root)), reserve_bytes=min(wanted, usage.total // _SHARE)
    )


def disk_state(root: Path) -> DiskState:
    """Whether there is room enough for new trainings (`well`), and for anything but the ledger (`low`). Raises as `disk_of`."""
    return disk_of(root).state


def keep_reserve(root: Path) -> Disk:
    """Makes the reserve when there is room for it, removes it when there is little; how it stands then. Raises as `disk_of`.

    Any number of processes may do so.
    """
    found = disk_of(root)
    path = reserve_path(root)
    if found.held_bytes and found.room_bytes < _REMOVED_AT * found.reserve_bytes:
        path.unlink(missing_ok=True)
    elif found.held_bytes > 2 * found.reserve_bytes:
        path.unlink(missing_ok=True)  # of a larger setting
    elif found.held_bytes < found.reserve_bytes // 2 and found.room_bytes >= _MADE_AT * found.reserve_bytes:
        _make(path, found.reserve_bytes)
    else:
        return found
    return disk_of(root)


def _held(path: Path) -> int:
    try:
        stat = path.stat()
    except OSError:
        return 0  # none is there
    blocks = getattr(stat, "st_blocks", None)  # what it really takes; Windows does not tell
    return int(stat.st_size if blocks is None else blocks * 512)


def _make(path: Path, size_bytes: int) -> None:
    # A reserve that can't be made is none: whoever asks sees so by its size, and it is tried again.
    try:
        make_directory(path.parent)
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            else:
                for _ in range(size_bytes // _MB):
                    file.write(bytes(_MB))
                file.write(bytes(size_bytes % _MB))
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
