"""What a disk may hold after the power fails: built from the diary that failing_io.c keeps of a real process.

The rules, which are those of a journaling file system on an honest disk:
  - what was written to a file and synced is there; what was written and not synced is there, or not, or torn at a sector;
  - a name (created, renamed, removed) is there for sure once its directory was synced; until then the changes of one
    directory are there up to some point, in their order.
An image is everything that may be found after a cut behind the k-th call, for one throw of the dice.
"""

from __future__ import annotations

import os
import random
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECTOR = 512
ACKNOWLEDGED = "acknowledged"


class Call(NamedTuple):
    """One line of the diary: w(rite), t(runcate), s(ync), c(reate), r(ename), u(nlink), m(kdir); paths below the store."""

    what: str
    path: str
    offset: int
    data: bytes


@dataclass
class Image:
    """What is found after the cut, and what had been acknowledged before it."""

    files: dict[str, bytes]
    acknowledged: set[str]


def read_diary(diary: Path, store: Path) -> list[Call]:
    """The calls in their order."""
    raw, position, calls = diary.read_bytes(), 0, []
    while position < len(raw):
        what, offset, path_size, data_size = struct.unpack_from("=4Q", raw, position)
        position += 32
        path = os.path.relpath(raw[position : position + path_size].decode(), store)
        data = raw[position + path_size : position + path_size + data_size]
        position += path_size + data_size
        if chr(what) == "r":
            data = os.path.relpath(data.decode(), store).encode()
        # The -shm file is shared memory, not storage: SQLite builds it anew.
        if not path.endswith("-shm"):
            calls.append(Call(chr(what), path, offset, data))
    return calls


def images(calls: list[Call], count: int, seed: int) -> Iterator[Image]:
    """So many cuts, spread at random over the diary."""
    source = random.Random(seed)
    disk, done = _Disk(), 0
    for cut in sorted(source.randrange(len(calls) + 1) for _ in range(count)):
        for call in calls[done:cut]:
            disk.follow(call)
        done = cut
        yield Image(disk.after_a_cut(source), set(disk.acknowledged))


@dataclass
class _Disk:
    live: dict[str, int] = field(default_factory=dict)
    names: dict[str, int | None] = field(default_factory=dict)  # durable; None is a directory
    content: dict[int, bytes] = field(default_factory=dict)  # durable, by file
    writes: defaultdict[int, list[Call]] = field(default_factory=lambda: defaultdict(list))
    changes: defaultdict[str, list[tuple[str, str, int | None]]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: list[str] = field(default_factory=list)
    files: int = 0

    def follow(self, call: Call) -> None:
        if call.path == ACKNOWLEDGED:
            self.acknowledged += call.data.decode().splitlines() if call.what == "w" else []
        elif call.what in "wt":
            if call.path in self.live:
                self.writes[self.live[call.path]].append(call)
        elif call.what == "s" and call.path in self.live:
            file = self.live[call.path]
            self.content[file] = _applied(self.content[file], self.writes.pop(file, []))
        elif call.what == "s":
            for change in self.changes.pop(call.path, []):
                _rename(self.names, *change)
        else:
            self._change_names(call)

    def _change_names(self, call: Call) -> None:
        folder = os.path.dirname(call.path) or "."
        if call.what == "c":
            self.files += 1
            self.live[call.path], self.content[self.files] = self.files, b""
            self.changes[folder].append(("", call.path, self.files))
        elif call.what == "m":
            self.changes[folder].append(("", call.path, None))
        elif call.what == "u":
            self.live.pop(call.path, None)
            self.changes[folder].append((call.path, "", None))
        elif call.what == "r":
            target = call.data.decode()
            file = self.live[target] = self.live.pop(call.path)
            self.changes[os.path.dirname(target) or "."].append((call.path, target, file))

    def after_a_cut(self, source: random.Random) -> dict[str, bytes]:
        names = dict(self.names)
        for changes in self.changes.values():
            for change in changes[: source.randrange(len(changes) + 1)]:
                _rename(names, *change)
        lose = source.choice([0, 0.3, 0.7, 1.0])
        found = {}
        for path, file in names.items():
            if file is not None and _reachable(path, names):
                found[path] = _applied(self.content[file], _survivors(self.writes.get(file, []), lose, source))
        return found


def _rename(names: dict[str, int | None], old: str, new: str, file: int | None) -> None:
    names.pop(old, None)
    if new:
        names[new] = file


def _reachable(path: str, names: dict[str, int | None]) -> bool:
    folder = os.path.dirname(path)
    return not folder or (folder in names and _reachable(folder, names))


def _survivors(writes: list[Call], lose: float, source: random.Random) -> Iterator[Call]:
    for call in writes:
        dice = source.random()
        if dice < lose:
            continue
        if call.what == "w" and dice < lose + 0.15:
            yield call._replace(data=call.data[: source.randrange(len(call.data) + 1) // SECTOR * SECTOR])
        else:
            yield call


def _applied(content: bytes, writes: Iterator[Call] | list[Call]) -> bytes:
    result: bytearray | None = None
    for call in writes:
        result = bytearray(content) if result is None else result
        if call.what == "t":
            del result[call.offset :]
        result.extend(bytes(max(0, call.offset - len(result))))
        result[call.offset : call.offset + len(call.data)] = call.data
    return content if result is None else bytes(result)
