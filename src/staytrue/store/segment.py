r"""Segments: append-only files of traffic that survive kill -9 at any byte, and how one gets to disk.

    8 bytes "STTRAF1\n", then records: u32 length of payload | u32 CRC-32 of payload | payload   (little-endian)

The first payload is the header, a MessagePack map that says what the others are. A record is one `writev`, made before
whoever caused it is answered: a killed process has lost nothing that it acknowledged, since the bytes are the kernel's
by then. Against a power cut they are synced a moment later (`Syncer`), or before the answer (`SegmentWriter.commit`).

An open segment is told from a closed one by the lock (`flock`) that its writer holds. The kernel takes it back however
the writer ends; a pid in the header would name another process after a restart.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import uuid
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import msgspec
import numpy as np

from staytrue.errors import InvalidInput, Unavailable
from staytrue.store.durable import disk, make_directory, sync_directory, sync_file

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = [
    "Kind",
    "Segment",
    "SegmentWriter",
    "Syncer",
    "backlog_bytes",
    "closed_segments",
    "damaged_segments",
    "read_segment",
    "remove_if_empty",
    "segments",
    "traffic_folder",
]

Kind = Literal["predictions", "labels"]

MAGIC: Final = b"STTRAF1\n"
FORMAT: Final = 1
LAYOUT: Final = 1
"""How `store/block.py` lays out rows."""
_SUFFIX: Final = ".seg"
_HEAD: Final = Struct("<II")
_U32: Final = Struct("<I")
# Looking for the next whole record behind a damaged one reads at most so many times the bytes that are left.
_SEARCH: Final = 16
_SMALL: Final = 1 << 16
_WINDOW: Final = 1 << 20
_LATE: Final = timedelta(seconds=5)
"""A file's time may be that of a coarse clock, and a batch is written some moments after it was admitted."""


def traffic_folder(root: Path, app: str, kind: Kind) -> Path:
    """Where a store keeps the segments of an app.

    Example:
        >>> traffic_folder(Path("store"), "rates", "labels").as_posix()
        'store/traffic/rates/labels'
    """
    return root / "traffic" / app / kind


# -- writing ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Open:
    """A segment under way. `named`: its directory entry is on disk."""

    path: Path
    descriptor: int
    size_bytes: int
    opened_s: float
    empty: bool = True
    named: bool = False

    def sync(self) -> None:
        sync_data(self.descriptor)
        if not self.named:
            sync_directory(self.path.parent)
            self.named = True


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """Records `first` to `last` may not be on disk."""

    first: int
    last: int
    error: Unavailable


class SegmentWriter:
    """Appends records to a segment of its own, and begins another one when that is large or old.

    For any number of threads. The file is made with the first record, so a writer that writes nothing leaves nothing.

    Args:
        folder: see `traffic_folder`; made if need be.
        header: `kind` and whatever a reader needs; `format`, `segment` and `opened_at` are added.
        limit_bytes, limit_s: a segment that is larger, or has been open for longer, is closed before the next record.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with SegmentWriter(folder, {"kind": "labels"}) as writer:
        ...     writer.commit(writer.write(b"first"))
        >>> [bytes(payload) for payload in read_segment(segments(folder)[0]).payloads]
        [b'first']
    """

    def __init__(
        self, folder: Path, header: Mapping[str, Any], *, limit_bytes: int = 64 << 20, limit_s: float = 60.0
    ) -> None:
        self.folder = folder
        self.dirty = threading.Event()
        """Set while something waits for the disk."""
        self._header = dict(header)
        self._limit_bytes, self._limit_s = limit_bytes, limit_s
        # `_lock` guards the state for a moment; `_commit` is held through a whole sync, so that those who come
        # meanwhile are served by one more sync together.
        self._lock, self._commit = threading.Lock(), threading.Lock()
        self._segment: _Open | None = None
        self._retired: list[_Open] = []
        self._written = self._synced = 0
        self._failures: list[_Failure] = []
        self._placed = False

    def append(self, body: bytes | memoryview, answers: bytes) -> int:
        """Writes a record of predictions (u32 length of body, body, answers); gives back its ticket for `commit`."""
        return self.write(_U32.pack(len(body)), body, answers)

    def write(self, *parts: bytes | memoryview) -> int:
        """Writes one record, the parts joined, in one call; gives back its ticket for `commit`.

        Raises:
            Unavailable: ST402 the disk is full, ST403 it refuses; nothing of the record stays behind.
        """
        size, crc = 0, 0
        for part in parts:
            size += len(part)
            crc = zlib.crc32(part, crc)
        head = _HEAD.pack(size, crc)
        size += _HEAD.size
        with self._lock:
            segment = self._segment
            if segment is None or self._is_over(segment, size):
                segment = self._next()
            try:
                done = os.writev(segment.descriptor, (head, *parts))
                if done < size:
                    # A disk takes what fits and refuses the rest only when asked again.
                    _write_rest(segment.descriptor, b"".join((head, *parts))[done:])
            except OSError as exc:
                self._cut_back(segment)
                with disk(f"write {size} bytes of traffic to {segment.path.name}"):
                    raise exc from None
            segment.size_bytes += size
            segment.empty = False
            self._written += 1
            ticket = self._written
        if not self.dirty.is_set():
            self.dirty.set()
        return ticket

    def commit(self, ticket: int) -> None:
        """Returns once the record with this ticket is on disk. Threads that wait at the same time share one sync.

        Raises:
            Unavailable: ST402, ST403, the disk did not take it; it may or may not be there after a power cut.
        """
        with self._commit:
            if ticket > self._synced:
                self._sync()
            for failure in self._failures:
                if failure.first <= ticket <= failure.last:
                    raise Unavailable(failure.error.code, failure.error.message, **failure.error.facts)

    def sync(self) -> None:
        """Returns once every record written so far is on disk. Raises as `commit`."""
        with self._commit:
            self._sync()

    def rotate(self, *, older_than_s: float = 0.0) -> None:
        """Closes the segment when it has been open for so long; the next record begins another one."""
        with self._lock:
            segment = self._segment
            if segment is not None and time.monotonic() - segment.opened_s >= older_than_s:
                self._retire(segment)

    def rotate_when_due(self) -> float | None:
        """Closes a segment that is older than the limit; in how many seconds the next one is due, None: not known yet."""
        self.rotate(older_than_s=self._limit_s)
        segment = self._segment
        return None if segment is None else max(0.0, segment.opened_s + self._limit_s - time.monotonic())

    def close(self) -> None:
        """Brings everything to disk and lets go of the segment. Raises as `commit`."""
        self.rotate()
        self.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_over(self, segment: _Open, size: int) -> bool:
        if segment.empty:
            return False
        return segment.size_bytes + size > self._limit_bytes or time.monotonic() - segment.opened_s > self._limit_s

    def _next(self) -> _Open:
        if self._segment is not None:
            self._retire(self._segment)
        with disk(f"begin a segment in {self.folder}"):
            if not self._placed:
                # The store's folder, `traffic`, the app's, and this one, also when they are there: whoever made them may
                # have died, or failed, before their names were on disk.
                for folder in (*reversed(self.folder.parents[:3]), self.folder):
                    make_directory(folder)
                self._placed = True
            self._segment = _begin(self.folder, self._header)
        return self._segment

    def _retire(self, segment: _Open) -> None:
        # Closed by the next sync only: until then its last records are not on disk.
        self._retired.append(segment)
        self._segment = None
        self.dirty.set()

    def _cut_back(self, segment: _Open) -> None:
        try:
            os.ftruncate(segment.descriptor, segment.size_bytes)
        except OSError:
            # Half a record stays at the end, where readers pass over it; nothing may be written behind it.
            self._retire(segment)

    def _sync(self) -> None:
        self.dirty.clear()
        with self._lock:
            upto, segment, retired = self._written, self._segment, self._retired
            self._retired = []
        try:
            with disk("sync the log of traffic"):
                for one in retired:
                    one.sync()
                if segment is not None and upto > self._synced:
                    segment.sync()
        except Unavailable as exc:
            self._give_up(exc)
            raise
        finally:
            for one in retired:
                os.close(one.descriptor)
        self._synced = upto

    def _give_up(self, error: Unavailable) -> None:
        """After a failed sync nobody knows what is on disk, and the next one may say "well" all the same."""
        with self._lock:
            for one in (*self._retired, *([self._segment] if self._segment is not None else [])):
                os.close(one.descriptor)
            self._segment, self._retired = None, []
            # Also what was written into the same file while the sync was failing.
            self._failures = [
                *self._failures[-100:],
                _Failure(first=self._synced + 1, last=self._written, error=error),
            ]
            self._synced = self._written


class Syncer:
    """A thread that brings what a writer wrote to disk, at most `within_s` after the first record that waits.

    It also closes a segment that grew old without another record. Start it after a fork: threads don't survive one.
    Half of the time is spent waiting for more records, the other half is left for the disk.

    Attributes:
        failures: how many syncs failed; the records that waited are still readable, but a power cut may take them.
        error: the newest failure.

    Example:
        >>> import tempfile
        >>> with SegmentWriter(Path(tempfile.mkdtemp()), {"kind": "labels"}) as writer, Syncer(writer) as syncer:
        ...     _ = writer.write(b"a")
        >>> syncer.failures
        0
    """

    def __init__(self, writer: SegmentWriter, *, within_s: float = 0.05) -> None:
        self.failures = 0
        self.error: Unavailable | None = None
        self._writer, self._pause_s = writer, within_s / 2
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic-sync", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, after one more sync. The writer goes on."""
        self._stop.set()
        self._writer.dirty.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        stopped = False
        while not stopped:
            if self._writer.dirty.wait(self._writer.rotate_when_due()):
                stopped = self._stop.wait(self._pause_s)
                try:
                    self._writer.sync()
                except Unavailable as exc:
                    self.failures += 1
                    self.error = exc


def sync_data(descriptor: int) -> None:
    """Returns once the bytes of an open file, and its length, are on disk."""
    if sys.platform == "linux":
        os.fdatasync(descriptor)
    else:
        sync_file(descriptor)


def _begin(folder: Path, header: Mapping[str, Any]) -> _Open:
    while True:
        name = _uuid7()
        path = folder / f"{name}{_SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            # Between the two calls somebody who looks for dead segments may have taken this one for such (and unlinked
            # it): then another name.
            if _locked(descriptor) and os.fstat(descriptor).st_nlink:
                payload = msgspec.msgpack.encode(
                    {"format": FORMAT, **header, "segment": name, "opened_at": time.time_ns() // 1000}
                )
                start = MAGIC + _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
                _write_rest(descriptor, start)
                return _Open(path=path, descriptor=descriptor, size_bytes=len(start), opened_s=time.monotonic())
        except OSError:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _write_rest(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _locked(descriptor: int) -> bool:
    """Whether this open file has the lock of its segment now. Limit: on Windows nobody holds one."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _uuid7() -> str:
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return str(uuid.UUID(int=value & ~(0xF << 76) & ~(0b11 << 62) | 0x7 << 76 | 0b10 << 62))


# -- finding ----------------------------------------------------------------------------------------------------------


def segments(folder: Path) -> list[Path]:
    """Every segment in a folder, open ones too, in the order in which they were begun."""
    try:
        return sorted(entry for entry in folder.iterdir() if entry.suffix == _SUFFIX)
    except FileNotFoundError:
        return []


def written_since(path: Path, moment: datetime) -> bool:
    """Whether a segment may hold records of requests that were admitted from this moment on, by its file's time.

    Raises:
        FileNotFoundError: it is gone.
    """
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) >= moment - _LATE


def closed_segments(folder: Path) -> list[Path]:
    """The segments that nobody writes to any more, whether their writers closed them or died."""
    return [path for path in segments(folder) if _is_closed(path)]


def _is_closed(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _locked(descriptor)
        finally:
            os.close(descriptor)
    return False


def backlog_bytes(root: Path, app: str) -> int:
    """The size of what waits for compaction: closed segments of predictions and labels.

    Example:
        >>> backlog_bytes(Path("no store"), "rates")
        0
    """
    kinds: tuple[Kind, ...] = ("predictions", "labels")
    waiting = [path for kind in kinds for path in closed_segments(traffic_folder(root, app, kind))]
    size = 0
    for path in waiting:
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def remove_if_empty(path: Path) -> bool:
    """Deletes a closed segment without a single whole record; whether it was one."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Under the lock: a writer that has made the file but not locked it yet then sees that it is gone.
            if _locked(descriptor):
                found = read_segment(path)
                if not found.payloads and not found.damaged:
                    path.unlink(missing_ok=True)
                    return True
        finally:
            os.close(descriptor)
    return False


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What is in a segment now.

    Attributes:
        header: None when there is no whole header: nothing can be read then.
        payloads: of every whole record behind the header, oldest first.
        torn_bytes: bytes at the end that are no whole record: a write under way, or one that a kill or a power cut
            ended; nobody was told that it was done.
        damaged: where bytes are not what they were, though whole records follow.
    """

    path: Path
    header: dict[str, Any] | None
    payloads: list[memoryview] = field(repr=False)
    torn_bytes: int
    damaged: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its UUIDv7."""
        return self.path.stem


def read_segment(path: Path) -> Segment:
    """The whole records of a segment, also while it grows.

    Raises:
        FileNotFoundError: it was compacted meanwhile.    Unavailable: ST403 the disk refuses.
        InvalidInput: ST711, a newer staytrue wrote it.
    """
    try:
        with disk(f"read the segment {path.name}"):
            data = memoryview(path.read_bytes())
    except Unavailable as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            raise exc.__cause__ from None
        raise
    start = len(MAGIC) if bytes(data[: len(MAGIC)]) == MAGIC else None
    found: list[memoryview] = []
    damaged: list[int] = []
    at = 0 if start is None else start
    while at < len(data):
        payload = None if at == 0 else _record(data, at)
        if payload is not None:
            found.append(payload)
            at += _HEAD.size + len(payload)
            continue
        after = _next_whole(data, at + 1)
        if after is None:
            break
        damaged.append(at)
        at = after
    header = _header(found[0], path) if found and start not in {None, *damaged} else None
    return Segment(
        path=path,
        header=header,
        payloads=found[1:] if header is not None else [],
        torn_bytes=len(data) - at,
        damaged=tuple(damaged),
    )


def damaged_segments(root: Path) -> list[tuple[Path, tuple[int, ...]]]:
    """The segments of a store in which bytes changed, and where. A torn end is no damage: nobody was told of it.

    Example:
        >>> damaged_segments(Path("no store"))
        []
    """
    found = []
    for path in sorted((root / "traffic").glob(f"*/*/*{_SUFFIX}")):
        # Compacted between the look and the reading: its rows are objects now.
        with contextlib.suppress(FileNotFoundError):
            damaged = read_segment(path).damaged
            if damaged:
                found.append((path, damaged))
    return found


def _record(data: memoryview, at: int) -> memoryview | None:
    """The payload of the record at this place, if it is a whole one."""
    if at + _HEAD.size > len(data):
        return None
    length, crc = _HEAD.unpack_from(data, at)
    payload = data[at + _HEAD.size : at + _HEAD.size + length]
    # Length 0 is none of ours: a power cut may leave zeros, whose CRC is 0 as well.
    return payload if 0 < length == len(payload) and zlib.crc32(payload) == crc else None


def _next_whole(data: memoryview, start: int) -> int | None:
    """Where the next whole record begins, None when there is none: what comes before it is damage, not a torn end.

    Nothing marks a record but that its CRC is right, and of bytes at random some look like a length everywhere. Lengths
    are seldom small by chance, so small records are looked for first; what lies before one must end where it begins.
    """
    raw = np.frombuffer(data, np.uint8)
    budget = _SEARCH * (len(raw) - start)
    found = None
    for limit, chain in ((_SMALL, 0), (len(raw), 2)):
        for at, end in _candidates(raw, start, limit, chain):
            if _record(data, at) is not None:
                found = at
                break
            budget -= end - at
            if budget < 0:
                break
        if found is not None:
            break
    while found is not None:
        before = next((at for at in _ending_at(raw, start, found) if _record(data, at) is not None), None)
        if before is None:
            break
        found = before
    return found


def _candidates(raw: NDArray[np.uint8], start: int, limit: int, chain: int) -> Iterator[tuple[int, int]]:
    """Places where a payload of at most `limit` bytes would fit, followed by so many others that would; with its end."""
    for places in _windows(start, len(raw)):
        ends = _ends(raw, places)
        fit = (ends > places + _HEAD.size) & (ends <= len(raw)) & (ends - places - _HEAD.size <= limit)
        places, ends = places[fit], ends[fit]  # noqa: PLW2901 - the window shrinks
        last = ends
        for _ in range(chain):
            over = last == len(raw)
            following = _ends(raw, np.minimum(last, len(raw) - _HEAD.size))
            fit = over | ((last <= len(raw) - _HEAD.size) & (following > last + _HEAD.size) & (following <= len(raw)))
            places, ends, last = places[fit], ends[fit], np.where(over, last, following)[fit]  # noqa: PLW2901
        yield from zip(places.tolist(), ends.tolist(), strict=True)


def _ending_at(raw: NDArray[np.uint8], start: int, end: int) -> Iterator[int]:
    """Places where a record would end right there."""
    for places in _windows(start, end):
        yield from places[_ends(raw, places) == end].tolist()


def _windows(start: int, stop: int) -> Iterator[NDArray[np.int64]]:
    """Places where a head fits, a million at a time: a segment is large, and its numbers take eight times its size."""
    for first in range(start, stop - _HEAD.size, _WINDOW):
        yield np.arange(first, min(first + _WINDOW, stop - _HEAD.size))


def _ends(raw: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where records would end that began at these places."""
    length = np.zeros(len(places), np.int64)
    for shift in range(4):
        length |= raw[places + shift].astype(np.int64) << (8 * shift)
    return places + length + _HEAD.size


def _header(payload: memoryview, path: Path) -> dict[str, Any] | None:
    try:
        header = msgspec.msgpack.decode(payload, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    known = (header.get("format"), header.get("layout", LAYOUT))
    if known != (FORMAT, LAYOUT):
        message = (
            f"Can't read the segment {path.name}: format and layout are {known}, this staytrue knows {(FORMAT, LAYOUT)}. "
            "A newer staytrue wrote it: install that one (`pip install --upgrade staytrue`)."
        )
        raise InvalidInput("ST711", message, segment=path.name, format=known[0], layout=known[1])
    return header
