"""Objects: bytes named by their BLAKE3, kept in a local directory. An object equals its digest or does not exist.

    objects/ab/cdef...   the bytes; read-only, never rewritten
    tmp/                 writes under way; `gc` sweeps what a crash left behind
    trash/abcdef...      what `gc` condemned: gone after another grace, back at once when somebody reads it

A write is: temporary name, every byte, fsync, rename, fsync of the directory. Only then is the digest given back, so
whoever commits a digest to the ledger afterwards can never refer to bytes that a power cut takes away.
Documents (manifests) are objects too: canonical JSON with a `"kind"`; each 64-hex string in one refers to an object.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from blake3 import blake3

from staytrue.errors import Corrupt, InvalidInput, NotFound
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.release import Digest
from staytrue.store.durable import disk, make_directory, sync_directory, sync_file, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["MANIFEST_LIMIT_BYTES", "LocalObjects", "Manifest", "Stored", "digest", "manifest"]

MANIFEST_LIMIT_BYTES = 8 << 20
"""No document is larger: so `gc` knows without reading that a larger object refers to nothing."""

_CHUNK_BYTES = 1 << 20
_HEX64 = re.compile(r"[0-9a-f]{64}")
_HEX62 = re.compile(r"[0-9a-f]{62}")


def digest(data: bytes | memoryview) -> Digest:
    """The name of these bytes: 64 lowercase hex digits of BLAKE3.

    Example:
        >>> digest(b"")
        'af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262'
    """
    return Digest(_hasher(len(data)).update(data).hexdigest())


class Stored(NamedTuple):
    """One object as `list` finds it. `changed_at` is when it was last put: gc's grace counts from there."""

    digest: Digest
    size_bytes: int
    changed_at: datetime


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a document refers to. `canonical`: its bytes are ours for sure, not a user's JSON file that looks alike."""

    references: frozenset[Digest]
    canonical: bool


def manifest(data: bytes) -> Manifest | None:
    """The references of a document, or None when these bytes are not a JSON object with a `"kind"`.

    Example:
        >>> manifest(b'{"kind":"table","parts":[]}')
        Manifest(references=frozenset(), canonical=True)
        >>> manifest(b"PAR1") is None
        True
    """
    if not data.startswith(b"{") or len(data) > MANIFEST_LIMIT_BYTES:
        return None
    try:
        document = json.loads(data)
        if not _is_document(document):
            return None
        return Manifest(references=_references(document), canonical=canonical_json(document) == data)
    except (ValueError, RecursionError, InvalidInput):
        return None


class LocalObjects:
    """Objects in the directory `root`, which is made at the first write. Any number of processes may use it at once.

    Example:
        >>> import tempfile
        >>> objects = LocalObjects(Path(tempfile.mkdtemp()))
        >>> name = objects.put(b"hello")
        >>> objects.get(name), objects.has(name), [stored.size_bytes for stored in objects.list()]
        (b'hello', True, [5])
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._objects = self.root / "objects"
        self._temporary = self.root / "tmp"
        self._trash = self.root / "trash"
        self._on_disk: set[Path] = set()

    def put(self, data: bytes | memoryview) -> Digest:
        """The digest of these bytes, once they are on disk.

        Bytes already there are checked, healed if need be, and count as new for gc.

        Raises:
            Unavailable: ST402 the disk is full, ST403 it refuses; nothing stays behind.
        """
        view = _flat(data)
        name = digest(view)
        with disk(f"store object {name[:12]} ({len(view)} bytes)"):
            if not self._refresh(name, len(view)):
                with self._writing() as file:
                    write_all(file, view)
                    self._publish(file, name)
        return name

    def put_file(self, path: Path) -> Digest:
        """Like `put` for the content of a file of any size; the file itself is only read.

        One pass names and copies: the digest is that of the bytes kept, even when somebody writes meanwhile.

        Raises:
            InvalidInput: ST409 the file can't be opened.
        """
        try:
            source = Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed by the `with` below
        except OSError as exc:
            reason = exc.strerror or str(exc)
            message = f"Can't store the file {str(path)!r}: {reason}. Give a file that can be read."
            raise InvalidInput("ST409", message, path=str(path), reason=reason) from exc
        with source, disk(f"store the file {str(path)!r}"), self._writing() as file:
            hasher = _hasher(_CHUNK_BYTES)
            for chunk in _chunks(source):
                hasher.update(chunk)
                write_all(file, chunk)
            name = Digest(hasher.hexdigest())
            if not self._refresh(name, file.tell()):
                self._publish(file, name)
        return name

    def get(self, name: Digest) -> bytes:
        """The bytes with this digest, checked at every read. One that gc condemned comes back from the trash.

        Raises:
            InvalidInput: ST404 not a digest.    NotFound: ST405 no such object.    Corrupt: ST406 changed on disk.
        """
        path = self._path(name)
        with disk(f"read object {name[:12]}"):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                self.restore(name)
                try:
                    data = path.read_bytes()
                except FileNotFoundError:
                    raise _absent(name) from None
        return _checked(name, data)

    def has(self, name: Digest) -> bool:
        """Whether the object is there. A hint: what is to be referred to must be `put`, which shields it from gc."""
        return self._path(name).exists()

    def delete(self, name: Digest, *, unless_put_since: datetime | None = None) -> bool:
        """Moves an object to the trash; False when it is not there, or was put since the given time and so stays."""
        path, trashed = self._path(name), self._trash / name
        with disk(f"move object {name[:12]} to the trash"):
            self._directory(self.root, self._trash)
            try:
                path.replace(trashed)
                changed_at = _changed_at(trashed.stat())
            except FileNotFoundError:
                return False
            # Looked at after the move: a writer that found the object before it has refreshed the time by now, and one
            # that comes after it finds nothing and writes anew. So no writer's object ever stays in the trash.
            if unless_put_since is not None and changed_at > unless_put_since:
                self.restore(name)
                return False
            with contextlib.suppress(FileNotFoundError):
                os.utime(trashed)
        return True

    def list(self) -> Iterator[Stored]:
        """Every object, sorted by digest; those in the trash are not among them."""
        with disk("list the objects"):
            for folder in _sorted_entries(self._objects):
                for name in _sorted_entries(folder):
                    if len(folder.name) == 2 and _HEX62.fullmatch(name.name):
                        yield from _stored(Digest(folder.name + name.name), name)

    def put_document(self, document: Mapping[str, Any]) -> Digest:
        """Stores a document as canonical JSON: equal documents, equal digests.

        Raises:
            InvalidInput: ST407 no "kind" in it, or larger than `MANIFEST_LIMIT_BYTES`; ST401 not JSON.
        """
        if not _is_document(document):
            got = str(document)[:80]
            message = (
                f"Can't store a document without a \"kind\": got {got!r}. Say what it is, as in {{'kind': 'table'}}."
            )
            raise InvalidInput("ST407", message, got=got)
        data = canonical_json(document)
        if len(data) > MANIFEST_LIMIT_BYTES:
            size = f"{len(data)} bytes, at most {MANIFEST_LIMIT_BYTES}"
            message = f"Can't store a {document['kind']!r} document: {size}. Split it into documents that it refers to."
            raise InvalidInput("ST407", message, size_bytes=len(data), limit_bytes=MANIFEST_LIMIT_BYTES)
        return self.put(data)

    def get_document(self, name: Digest) -> dict[str, Any]:
        """The document with this digest.

        Raises:
            InvalidInput: ST408 the object is no document.    As `get` otherwise.
        """
        try:
            document = json.loads(self.get(name))
        except ValueError:
            document = None
        if not _is_document(document):
            wanted = 'it is no JSON object with a "kind". Give the digest of a manifest.'
            message = f"Can't read object {name[:12]} as a document: {wanted}"
            raise InvalidInput("ST408", message, digest=name)
        return cast("dict[str, Any]", document)

    # What gc and verify need beside the five.

    def peek(self, name: Digest) -> bytes | None:
        """The checked bytes of an object small enough to be a document, else None; trash stays trash.

        Checked even when it does not look like a document: a flipped first byte must not hide its references from gc.

        Raises:
            NotFound: ST405.    Corrupt: ST406.
        """
        path = self._path(name)
        with disk(f"read object {name[:12]}"):
            # The first place twice: it may be restored between the two looks.
            for place in (path, self._trash / name, path):
                try:
                    if place.stat().st_size > MANIFEST_LIMIT_BYTES:
                        return None
                    return _checked(name, place.read_bytes())
                except FileNotFoundError:
                    continue
        raise _absent(name)

    def intact(self, name: Digest) -> bool:
        """Whether the object is there and equals its digest; any size, in constant memory."""
        with disk(f"check object {name[:12]}"):
            return _holds(self._path(name), name)

    def trashed(self) -> Iterator[Stored]:
        """Every object in the trash, sorted; `changed_at` is when it was condemned."""
        with disk("list the trash"):
            for entry in _sorted_entries(self._trash):
                if _HEX64.fullmatch(entry.name):
                    yield from _stored(Digest(entry.name), entry)

    def restore(self, name: Digest) -> bool:
        """Takes an object back out of the trash, new for gc; False when it is not in there."""
        path = self._path(name)
        with disk(f"restore object {name[:12]}"):
            try:
                os.utime(self._trash / name)
                self._directory(self.root, self._objects, path.parent)
                (self._trash / name).replace(path)
            except FileNotFoundError:
                return False
            sync_directory(path.parent)
        return True

    def destroy(self, name: Digest) -> None:
        """Deletes an object in the trash for good."""
        _ = self._path(name)
        with disk(f"delete object {name[:12]}"):
            (self._trash / name).unlink(missing_ok=True)

    def sweep(self, *, before: datetime, dry_run: bool = False) -> int:
        """Removes what writes that died before then left behind; gives back its size in bytes."""
        freed_bytes = 0
        with disk("sweep unfinished writes"):
            for entry in _sorted_entries(self._temporary):
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat()
                    if _changed_at(stat) < before:
                        if not dry_run:
                            entry.unlink()
                        freed_bytes += stat.st_size
        return freed_bytes

    def _path(self, name: object) -> Path:
        if not isinstance(name, str) or not _HEX64.fullmatch(name):
            message = f"Can't look for an object named {str(name)[:80]!r}: a digest is 64 characters of 0-9a-f."
            raise InvalidInput("ST404", message, digest=str(name)[:80])
        return self._objects / name[:2] / name[2:]

    def _directory(self, *path: Path) -> None:
        """Makes sure, once per process, that these directories and their names are on disk; outermost first."""
        for directory in path:
            if directory not in self._on_disk:
                make_directory(directory)
                self._on_disk.add(directory)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[BinaryIO]:
        """A new file in `tmp/`, gone at the end unless published."""
        self._directory(self.root, self._temporary)
        temporary = self._temporary / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            with temporary.open("xb", buffering=0) as file:
                yield cast("BinaryIO", file)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _publish(self, file: BinaryIO, name: Digest) -> None:
        path = self._path(name)
        if os.name != "nt":  # On Windows a read-only file can be neither touched nor replaced.
            os.fchmod(file.fileno(), 0o444)
        sync_file(file.fileno())
        file.close()
        self._directory(self.root, self._objects, path.parent)
        try:
            Path(file.name).replace(path)
        except PermissionError:
            # Windows: somebody reads that very object at this moment, so it is there already.
            if not _holds(path, name):
                raise
        sync_directory(path.parent)

    def _refresh(self, name: Digest, size_bytes: int) -> bool:
        """Whether the object was there, whole, and is now as if just written."""
        path = self._path(name)
        try:
            if path.stat().st_size != size_bytes or not _holds(path, name):
                return False
            os.utime(path)
            self._directory(self.root, self._objects, path.parent)
            # Its writer may have died, or failed, between the rename and this.
            sync_directory(path.parent)
        except FileNotFoundError:
            return False
        # gc may have moved it away before the time was refreshed.
        return path.exists()


def _hasher(size_bytes: int) -> blake3:
    # Threads pay from about a megabyte on (benchmarks/objects.py); below they only cost.
    return blake3(max_threads=blake3.AUTO if size_bytes >= _CHUNK_BYTES else 1)


def _flat(data: bytes | memoryview) -> memoryview:
    view = memoryview(data)
    return view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())


def _chunks(file: BinaryIO) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        yield buffer[:count]


def _holds(path: Path, name: Digest) -> bool:
    try:
        with path.open("rb", buffering=0) as file:
            hasher = _hasher(os.fstat(file.fileno()).st_size)
            for chunk in _chunks(cast("BinaryIO", file)):
                hasher.update(chunk)
    except FileNotFoundError:
        return False
    return hasher.hexdigest() == name


def _checked(name: Digest, data: bytes) -> bytes:
    found = digest(data)
    if found != name:
        message = (
            f"Can't read object {name[:12]}: its {len(data)} bytes have the digest {found[:12]}: they changed. "
            "`staytrue verify` names the releases that it touches; storing the same content again heals it."
        )
        raise Corrupt("ST406", message, digest=name, found=found, size_bytes=len(data))
    return data


def _absent(name: Digest) -> NotFound:
    message = f"No object {name[:12]} in this store. `staytrue verify` tells whether a release needs it."
    return NotFound("ST405", message, digest=name)


def _is_document(document: object) -> bool:
    return isinstance(document, dict) and isinstance(document.get("kind"), str) and document["kind"] != ""


def _references(document: object) -> frozenset[Digest]:
    found, waiting = set(), [document]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str) and _HEX64.fullmatch(item):
            found.add(Digest(item))
    return frozenset(found)


def _sorted_entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stored(name: Digest, path: Path) -> Iterator[Stored]:
    # Another process may move it between the listing and the look.
    with contextlib.suppress(FileNotFoundError):
        stat = path.stat()
        yield Stored(name, stat.st_size, _changed_at(stat))


def _changed_at(stat: os.stat_result) -> datetime:
    return datetime.fromtimestamp(stat.st_mtime, UTC)
