"""Parquet: files of any size, read and written batch by batch, so that memory holds some batches and never a file.

`store/frames.py` has the rows of a part in memory; here are a user's own files, with whatever types they have.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import arro3.core as ac
import arro3.io
from blake3 import blake3

from staytrue.errors import InvalidInput, NotFound
from staytrue.store.durable import disk, sync_directory, sync_file, write_all
from staytrue.store.frames import Rows

__all__ = ["ParquetFile", "appended", "open_parquet", "read_batches", "write_parquet_file"]

_MAGIC: Final = b"PAR1"
_TAIL_BYTES: Final = 8
_SAMPLE_ROWS: Final = 1024
_MOST_ROWS: Final = 65_536
_LEAST_ROWS: Final = 64
_BATCH_BYTES: Final = 4 << 20
"""Of the rows of a batch in memory: enough that a batch costs little beside its rows, and a dozen of them fit anywhere."""


@dataclass(frozen=True, kw_only=True)
class ParquetFile:
    """A Parquet file on disk.

    Attributes:
        size: in bytes.
        rows: how many it has.
        footer: BLAKE3 of its footer, which tells where each column chunk lies and what its smallest and largest value are.
        schema: its columns, in Arrow's types.
        metadata: what its writer noted.
    """

    path: Path
    size: int
    rows: int
    footer: str
    schema: ac.Schema
    metadata: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Of its columns, in order."""
        return [self.schema.field(i).name for i in range(len(self.schema))]

    def none(self) -> Rows:
        """Its columns, without a row."""
        return ac.Table.from_batches([], schema=self.schema)

    def batch_rows(self) -> int:
        """How many rows a batch of it may have."""
        for first in read_batches(self, _SAMPLE_ROWS):
            width = sum(column.nbytes for column in first.columns) / max(1, first.num_rows)
            return max(_LEAST_ROWS, min(_MOST_ROWS, int(_BATCH_BYTES / max(1.0, width))))
        return _MOST_ROWS


def open_parquet(path: Path) -> ParquetFile:
    """The file, known by its footer; no row is read.

    Raises:
        NotFound: ST780, no such file. InvalidInput: ST781, it is no Parquet file, or can't be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(len(_MAGIC))
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
            length = int.from_bytes(tail[:4], "little")
            if size < len(_MAGIC) + _TAIL_BYTES or head != _MAGIC or tail[4:] != _MAGIC or length > size - 12:
                raise _unreadable(path, "it does not begin and end as Parquet does; give a file of that kind")
            file.seek(size - _TAIL_BYTES - length)
            footer = file.read(length)
    except FileNotFoundError as exc:
        raise NotFound("ST780", f"Can't read {path}: there is no such file.", path=str(path)) from exc
    except OSError as exc:
        raise _unreadable(path, exc.strerror or str(exc)) from exc
    schema: ac.Schema = _guarded(path, lambda: arro3.io.read_parquet(path).schema)
    noted = {key.decode(): value.decode("utf-8", "replace") for key, value in (schema.metadata or {}).items()}
    return ParquetFile(
        path=path,
        size=size,
        rows=_guarded(path, lambda: _Thrift(footer).rows()),
        footer=blake3(footer).hexdigest(),
        schema=schema,
        metadata=noted,
    )


def read_batches(file: ParquetFile, rows: int, *, skip: int = 0) -> Iterator[Rows]:
    """The rows of a file behind the first `skip`, about `rows` at a time. A row group is not read whole.

    Raises:
        InvalidInput: ST781, the file is damaged; the message says behind which row.

    Example:
        >>> import tempfile
        >>> from staytrue.store import frames
        >>> path = Path(tempfile.mkdtemp()) / "n.parquet"
        >>> write_parquet_file(path, iter([frames.to_rows({"n": [1, 2, 3, 4]}, doing="write")]))
        4
        >>> [frames.to_pydict(batch) for batch in read_batches(open_parquet(path), 2, skip=1)]
        [{'n': [2]}, {'n': [3, 4]}]
    """
    at = 0
    reader = _guarded(file.path, lambda: arro3.io.read_parquet(file.path, batch_size=rows))
    while True:
        # Limit: columns that nobody asked for are decoded too; the library can't leave them out.
        batch = _guarded(file.path, lambda: next(reader, None), after=at)
        if batch is None:
            return
        begin, at = at, at + batch.num_rows
        if at > skip:
            table = ac.Table.from_batches([batch], schema=file.schema)
            yield table.slice(skip - begin) if begin < skip else table


def appended(rows: Rows, beside: Rows) -> Rows:
    """The columns of both, side by side; `rows` may have none.

    Example:
        >>> from staytrue.store import frames
        >>> one, two = (frames.to_rows({name: [1]}, doing="read") for name in "ab")
        >>> appended(one, two).column_names
        ['a', 'b']
    """
    if not rows.num_columns:
        return beside
    for i, name in enumerate(beside.column_names):
        rows = rows.append_column(beside.schema.field(i), beside.column(name))
    return rows


def write_parquet_file(path: Path, batches: Iterator[Rows], *, metadata: Mapping[str, str] | None = None) -> int:
    """Writes a file that is on disk, under its name, when this returns; how many rows it has. At least one batch.

    It is written to `path` with `.tmp` behind it and renamed, so a reader finds all of it or none.

    Raises:
        Unavailable: ST402, ST403.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with disk(f"write {path}"):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            with io.FileIO(descriptor, "w") as file:
                rows = _write(file, batches, metadata or {})
                sync_file(descriptor)
        except BaseException:
            # On a disk that is full half a file is in the way.
            temporary.unlink(missing_ok=True)
            raise
        temporary.rename(path)
        sync_directory(path.parent)
    return rows


def _write(file: io.FileIO, batches: Iterator[Rows], metadata: Mapping[str, str]) -> int:
    sink = _Sink(file)
    first = next(batches)
    rows = 0

    def counted() -> Iterator[ac.RecordBatch]:
        nonlocal rows
        following: Rows | None = first
        while following is not None and sink.error is None:
            rows += following.num_rows
            yield from following.to_batches()
            following = next(batches, None)

    # An error in `counted` comes out of the library as its text alone; so it is kept here.
    source = _Kept(counted())
    reader = ac.RecordBatchReader.from_batches(_bare(first.schema), source)
    try:
        arro3.io.write_parquet(
            reader,
            cast("IO[bytes]", sink),
            compression="zstd(1)",
            key_value_metadata=dict(metadata) or None,
        )
    except Exception:
        if source.error is not None:
            raise source.error from None
        raise
    if sink.error is not None:
        raise sink.error
    return rows


def _bare(schema: ac.Schema) -> ac.Schema:
    """Without what the writer of another file noted about it: pandas keeps the names of its columns there."""
    return ac.Schema([schema.field(i) for i in range(len(schema))])


class _Sink(io.RawIOBase):
    """Takes what the library writes. It panics when that fails, and says so at length: so the error is kept for later."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if self.error is None:
            try:
                write_all(self._file, view)
            except OSError as exc:
                self.error = exc
        return len(view)


class _Kept:
    """An iterator that remembers what went wrong in it."""

    def __init__(self, inner: Iterator[ac.RecordBatch]) -> None:
        self._inner = inner
        self.error: BaseException | None = None

    def __iter__(self) -> _Kept:
        return self

    def __next__(self) -> ac.RecordBatch:
        try:
            return next(self._inner)
        except StopIteration:
            raise
        except BaseException as exc:
            self.error = exc
            raise


def _guarded(path: Path, reading: Any, *, after: int | None = None) -> Any:
    """What reading gives, and what the library says against it as our error: it panics, too, which is no `Exception`."""
    try:
        return reading()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as exc:
        where = "" if after is None else f" behind its first {after:,} rows"
        raise _unreadable(path, f"the file is damaged{where}: {str(exc)[:200]}") from exc


def _unreadable(path: Path, why: str) -> InvalidInput:
    return InvalidInput("ST781", f"Can't read {path} as Parquet: {why}.", path=str(path), why=why)


class _Thrift:
    """As much of Thrift's compact protocol as it takes to find the number of rows in a footer.

    Source:
        parquet-format, `FileMetaData` in parquet.thrift: 1 version, 2 schema, 3 num_rows.
    """

    _ROWS: Final = 3

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def rows(self) -> int:
        number = 0
        while kind := self._byte():
            number = number + (kind >> 4) if kind >> 4 else self._signed()
            if number == self._ROWS:
                return self._signed()
            self._skip(kind & 15)
        raise ValueError("no number of rows")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, kind: int, *, item: bool = False) -> None:
        """Past a value of this kind. A boolean field has its value in the kind, one in a list has a byte."""
        if kind in _FIXED:
            self._at += 1 if item and kind < 3 else _FIXED[kind]
        elif kind in _VARINTS:
            self._varint()
        elif kind == _BINARY:
            length = self._varint()
            self._at += length
        elif kind in _LISTS:
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 < 15 else self._varint()):
                self._skip(head & 15, item=True)
        elif kind == _STRUCT:
            while inner := self._byte():
                if not inner >> 4:
                    self._varint()
                self._skip(inner & 15)
        else:
            raise ValueError(f"a value of kind {kind}")


_FIXED: Final = {1: 0, 2: 0, 3: 1, 7: 8}
"""kind -> bytes: true, false, a byte, a double."""
_VARINTS: Final = frozenset({4, 5, 6})
_BINARY: Final = 8
_LISTS: Final = frozenset({9, 10})
_STRUCT: Final = 12
