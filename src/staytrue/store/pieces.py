"""Pieces: the folder beside a Parquet file in the making, where finished rows are safe until all of them are there.

    OUT.parquet.part/
      manifest.json                            what these rows come from; written first, removed last
      rows-000000000000-000000050000.parquet   the rows from the first number to before the second
      whole.parquet                            all of them joined, for the moment before it becomes OUT.parquet

Every file is on disk before it has its name, so whatever kills whoever writes, and whenever, what is here is whole.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final, Self

import numpy as np

from staytrue.errors import Conflict, Corrupt, InvalidInput
from staytrue.store import frames
from staytrue.store.durable import disk, make_directory, sync_directory, sync_file, write_all
from staytrue.store.frames import Rows
from staytrue.store.parquet import ParquetFile, appended, open_parquet, read_batches, write_parquet_file

__all__ = ["ANSWER", "REFUSED", "Pieces"]

ANSWER: Final = "prediction"
REFUSED: Final = "refused"
NOTE: Final = "staytrue"
"""What this writes into the metadata of Parquet files stands under this name, as JSON."""

_NAME: Final = re.compile(r"rows-(\d{12})-(\d{12})\.parquet")
_JOINED_ROWS: Final = 65_536


class Pieces:
    """The folder of one output, locked for this process until `close`, or the end of its `with`.

    Args:
        out: the file in the making.
        manifest: what its rows come from; the same on every start.
        restart: forget what is there, and replace an `out` of before.

    Raises:
        Conflict: ST784, `out` exists; ST785, what is there comes from something else; ST786, another process is at it.
        Corrupt: ST790, what is there can't be read.

    Attributes:
        manifest: as given.
        finished: `out` is there already, made from this manifest: a kill came between that and the end.
        note: what was noted about it then.
    """

    note: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, out: Path, manifest: Mapping[str, Any], *, restart: bool) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.part")
        self.manifest = {**manifest, "format": 1}
        self._lock = self._locked()
        try:
            self._begin(restart=restart)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _locked(self) -> IO[bytes]:
        with disk(f"make {self.folder}"):
            make_directory(self.folder)
            file = (self.folder / "lock").open("ab")
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                file.close()
                raise Conflict(
                    "ST786",
                    f"Another process writes {self.out} just now. Wait for it, or give another file.",
                    path=str(self.out),
                ) from exc
        return file

    def _begin(self, *, restart: bool) -> None:
        path = self.folder / "manifest.json"
        before = self._read(path)
        if restart:
            self._empty()
            before = None
        self.finished = before is not None and self._is_out_of(before)
        if before is None:
            if self.out.exists() and not restart:
                self._drop_folder()
                raise Conflict(
                    "ST784",
                    f"{self.out} exists already. Give another file, or replace it with --restart.",
                    path=str(self.out),
                )
            before = {**self.manifest, "run": secrets.token_hex(16), "replaces": restart}
            self._write(path, before)
        else:
            self._check_same(before)
            if self.out.exists() and not self.finished and not before["replaces"]:
                raise Conflict(
                    "ST784",
                    f"{self.out} came into being while its rows were scored. Move it away and run this again, "
                    "or replace it with --restart.",
                    path=str(self.out),
                )
        self._run = before["run"]
        self._pieces = self._found()

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise self._damaged(f"can't read {path.name}: {exc}") from exc
        return found

    def _check_same(self, before: Mapping[str, Any]) -> None:
        differs = [name for name, value in self.manifest.items() if before.get(name) != value]
        if differs:
            name = differs[0]
            raise Conflict(
                "ST785",
                f"{self.folder} holds rows of another run: its {name} is {_shown(before.get(name))}, "
                f"now it is {_shown(self.manifest[name])}. Give what it was to go on, or begin anew with --restart.",
                path=str(self.folder),
                differs=differs,
            )

    def _is_out_of(self, before: Mapping[str, Any]) -> bool:
        """Whether `out` was made from this manifest."""
        if not self.out.is_file():
            return False
        try:
            self.note = json.loads(open_parquet(self.out).metadata.get(NOTE, "{}"))
        except (InvalidInput, ValueError):
            return False
        return bool(self.note.get("run") == before.get("run"))

    def _found(self) -> list[tuple[int, int]]:
        """The pieces from the first row on without a gap; whatever else lies here is removed."""
        names = sorted(entry.name for entry in self.folder.iterdir())
        found: list[tuple[int, int]] = []
        for name in names:
            match = _NAME.fullmatch(name)
            begin, end = (int(match[1]), int(match[2])) if match else (-1, -1)
            if match and begin == (found[-1][1] if found else 0) and end > begin:
                found.append((begin, end))
            elif name not in {"lock", "manifest.json"}:
                with disk(f"remove {self.folder / name}"):
                    (self.folder / name).unlink()
        return found

    # ------------------------------------------------------------ rows

    @property
    def done(self) -> int:
        """How many rows are safe, from the first on."""
        return self._pieces[-1][1] if self._pieces else 0

    def add(self, rows: Rows, note: Mapping[str, Any]) -> None:
        """Keep the rows behind those that are there; they are safe when this returns."""
        begin, end = self.done, self.done + rows.num_rows
        path = self.folder / f"rows-{begin:012}-{end:012}.parquet"
        write_parquet_file(path, iter([rows]), metadata={NOTE: json.dumps(note)})
        self._pieces.append((begin, end))

    def notes(self) -> Iterator[dict[str, Any]]:
        """What was noted about each piece, in order."""
        for file in self._files():
            yield json.loads(file.metadata.get(NOTE, "{}"))

    def _files(self) -> Iterator[ParquetFile]:
        for begin, end in self._pieces:
            try:
                file = open_parquet(self.folder / f"rows-{begin:012}-{end:012}.parquet")
            except InvalidInput as exc:
                raise self._damaged(exc.message) from exc
            if file.rows != end - begin:
                raise self._damaged(f"{file.path.name} holds {file.rows:,} rows")
            yield file

    # ------------------------------------------------------------ the end

    def finish(self, empty: Rows, note: Mapping[str, Any]) -> None:
        """Join the pieces, in order, into `out`; `empty` has the columns of an output without rows."""
        joined = self.folder / "whole.parquet"
        self.note = {**note, "run": self._run}
        metadata = {NOTE: json.dumps(self.note)}
        rows = write_parquet_file(joined, self._joined(empty), metadata=metadata)
        if rows != self.done:
            raise self._damaged(f"{rows:,} rows came out of pieces with {self.done:,}")
        with disk(f"write {self.out}"):
            joined.replace(self.out)
            sync_directory(self.out.parent)
        self.finished = True

    def _joined(self, empty: Rows) -> Iterator[Rows]:
        answer_type, has_refused = self._answer_type(empty)
        made = False
        for file in self._files():
            as_json = json.loads(file.metadata[NOTE])["json"]
            for rows in read_batches(file, _JOINED_ROWS):
                answers = _as_type(rows, answer_type, as_json=as_json)
                kept = frames.drop(rows, [ANSWER, REFUSED])
                columns = [answers]
                if has_refused:
                    there = REFUSED in rows.column_names
                    reasons = rows.select([REFUSED]) if there else _nothing(REFUSED, rows.num_rows)
                    columns.append(frames.conform(reasons, ((REFUSED, "string"),)))
                for beside in columns:
                    kept = appended(kept, beside)
                made = True
                yield kept
        if not made:
            yield empty

    def _answer_type(self, empty: Rows) -> tuple[str, bool]:
        """The type that all answers fit, `json` when they only do as text; and whether any row was refused."""
        types: Counter[str] = Counter()
        refused = False
        for file in self._files():
            as_json = json.loads(file.metadata[NOTE])["json"]
            schema = dict(frames.schema(file.none().select([ANSWER])))
            types["json" if as_json else schema[ANSWER]] += 1
            refused = refused or REFUSED in file.names
        known = set(types) - {"null"}
        if not known:
            return dict(frames.schema(empty.select([ANSWER])))[ANSWER], refused
        if len(known) == 1:
            return known.pop(), refused
        return ("float64" if known == {"int64", "float64"} else "json"), refused

    def clear(self) -> None:
        """Remove the folder: what was in it is in `out`."""
        self._empty()
        self._drop_folder()

    def _empty(self) -> None:
        with disk(f"empty {self.folder}"):
            names = sorted((entry.name for entry in self.folder.iterdir()), key=lambda name: name == "manifest.json")
            for name in names:
                if name != "lock":
                    (self.folder / name).unlink()
            sync_directory(self.folder)

    def _drop_folder(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "lock").unlink()
        with contextlib.suppress(OSError):  # somebody put a file of their own here
            self.folder.rmdir()

    def close(self) -> None:
        """Let others at it."""
        self._lock.close()

    def _write(self, path: Path, document: Mapping[str, Any]) -> None:
        temporary = path.with_name(f"{path.name}.tmp")
        data = json.dumps(document, indent=2).encode()
        with disk(f"write {path}"):
            with temporary.open("wb", buffering=0) as file:
                write_all(file, memoryview(data))
                sync_file(file.fileno())
            temporary.rename(path)
            sync_directory(path.parent)

    def _damaged(self, why: str) -> Corrupt:
        return Corrupt(
            "ST790", f"What is in {self.folder} is damaged: {why}. Begin anew with --restart.", path=str(self.folder)
        )


def _as_type(rows: Rows, wanted: str, *, as_json: bool) -> Rows:
    """The answers alone, in the type that all answers of the output have."""
    answers = rows.select([ANSWER])
    if wanted == "json" and not as_json:
        values = frames.to_pydict(answers)[ANSWER]
        texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        return frames.conform(frames.to_rows({ANSWER: texts}, doing="join answers"), ((ANSWER, "string"),))
    column = frames.column(answers, ANSWER)
    if wanted == "float64" and column.type == "int64":
        floats = frames.Column(type=wanted, values=column.values.astype(np.float64), valid=column.valid)
        return frames.from_columns({ANSWER: floats})
    return frames.conform(answers, ((ANSWER, "string" if wanted == "json" else wanted),))


def _nothing(name: str, count: int) -> Rows:
    return frames.to_rows({name: [None] * count}, doing="join pieces")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
