"""Scoring: a Parquet file of any size through a release, in bounded memory, in the order of its rows, each row once.

Chunks of rows are read, held against the release's signature as a request is, answered by the same lanes that serve, and
kept as pieces (`store/pieces.py`) until all are there. So whatever kills it, the same call goes on behind the last piece.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from staytrue.errors import Conflict, InvalidInput
from staytrue.kernel.contract import Column
from staytrue.kernel.inspection import Inspected, inspect, misfits
from staytrue.kernel.release import Digest
from staytrue.kernel.signature import Signature
from staytrue.serve.handshake import Errand, Facts
from staytrue.serve.scorer import Scorer
from staytrue.store import frames
from staytrue.store.block import Layout
from staytrue.store.event import Entry
from staytrue.store.frames import Rows
from staytrue.store.parquet import ParquetFile, appended, open_parquet, read_batches
from staytrue.store.pieces import ANSWER, REFUSED, Pieces
from staytrue.store.store import KeptRelease, Store

__all__ = ["Options", "Scored", "score"]

_AHEAD: Final = 2
"""Chunks under way for each lane: one that it answers, one that waits, so that reading never keeps it waiting."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a file is scored.

    Attributes:
        keep: columns of the input to keep beside key and time; `all` keeps every one.
        lanes: processes that answer. threads: native threads of each; 0: as many as there are cores for them.
        chunk_rows: rows that go together; None: what 4 MB hold.
        restart: forget what an earlier call has scored, and replace the output.
    """

    keep: Sequence[str] = ()
    lanes: int = 1
    threads: int = 0
    chunk_rows: int | None = None
    restart: bool = False


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What became of a file.

    Attributes:
        rows: of the file. before: how many of them an earlier call had scored.
        refused, flagged: column -> fault -> rows. refused_rows: how many rows have no prediction.
        ignored: columns that the release does not know.
        as_json: the answers are no numbers or texts of one type, and stand as JSON texts.
    """

    release: Digest
    out: Path
    rows: int
    before: int
    refused_rows: int
    refused: Mapping[str, Mapping[str, int]]
    flagged: Mapping[str, Mapping[str, int]]
    ignored: Sequence[str]
    as_json: bool

    def document(self) -> dict[str, Any]:
        """It as JSON."""
        return {
            "release": self.release,
            "out": str(self.out),
            "rows": self.rows,
            "scored": self.rows - self.refused_rows,
            "before": self.before,
            "refused_rows": self.refused_rows,
            "refused": {name: dict(faults) for name, faults in self.refused.items()},
            "flagged": {name: dict(faults) for name, faults in self.flagged.items()},
            "ignored": list(self.ignored),
            "as_json": self.as_json,
        }


def score(
    store: Store,
    release: KeptRelease,
    source: Path,
    out: Path,
    *,
    options: Options,
    moved: Callable[[int, int], None] = lambda _done, _total: None,
) -> Scored:
    """Write the release's predictions for every row of `source` to `out`.

    Args:
        moved: called with (rows done, rows in all) as it goes on.

    Raises:
        NotFound: ST780. InvalidInput: ST781 to ST783, ST787, ST789, ST791. Conflict: ST784 to ST786, ST793.
        Unavailable: ST788, and when the disk is full. Corrupt: ST790.
    """
    if options.lanes < 1 or options.threads < 0 or (options.chunk_rows is not None and options.chunk_rows < 1):
        raise InvalidInput("ST791", "Lanes, threads and rows of a chunk are numbers of at least 1.")
    file = open_parquet(source)
    _check_places(source, out)
    kept = _Kept.of(file, options.keep)
    manifest = {
        "input": {"path": str(source.resolve()), "size": file.size, "footer": f"={file.footer}"},
        "release": release.id,
        "keep": kept.asked,
    }
    with Pieces(out, manifest, restart=options.restart) as pieces:
        before = file.rows if pieces.finished else pieces.done
        if not pieces.finished:
            threads = options.threads or max(1, (os.cpu_count() or 1) // options.lanes)
            with Scorer(Errand.of(store, release.id), lanes=options.lanes, threads=threads) as scorer:
                _Run(file, pieces, scorer, kept, options, moved).go()
        tally = _Tally.of(pieces.note)
        _record(store, pieces.note, file, out)
        pieces.clear()
    return Scored(
        release=release.id,
        out=out,
        rows=file.rows,
        before=before,
        refused_rows=tally.refused_rows,
        refused=tally.refused,
        flagged=tally.flagged,
        ignored=pieces.note["ignored"],
        as_json=tally.as_json,
    )


def _record(store: Store, note: Mapping[str, Any], file: ParquetFile, out: Path) -> None:
    """That it was done, once, on a timeline of its own: rows scored here are no traffic, the output is their record."""
    now = datetime.now(UTC)
    entry = Entry(
        app=note["app"],
        timeline="scoring",
        key=note["run"],
        at=now,
        kind="scored",
        sentence=f"Release {note['release'][:8]} scored {file.rows:,} rows of {file.path.name}"
        + (f" and refused {note['refused_rows']:,} of them." if note["refused_rows"] else "."),
        body={
            "release": note["release"],
            "input": note["input"],
            "out": str(out.resolve()),
            "rows": file.rows,
            "refused_rows": note["refused_rows"],
            "refused": note["refused"],
            "flagged": note["flagged"],
        },
    )
    store.ledger.append([entry], recorded_at=now)


def _check_places(source: Path, out: Path) -> None:
    if out.exists() and out.samefile(source):
        raise InvalidInput("ST782", f"Can't score {source} into itself. Give another file for the predictions.")
    if out.is_dir():
        raise InvalidInput("ST782", f"Can't write {out}: it is a directory. Give a file in it.", path=str(out))
    if not out.absolute().parent.is_dir():
        raise InvalidInput("ST782", f"Can't write {out}: there is no directory {out.absolute().parent}.", path=str(out))


class _Kept(NamedTuple):
    """Which columns of the input stand beside the predictions, as asked for: key and time are not among them yet."""

    asked: list[str]
    every: bool

    @classmethod
    def of(cls, file: ParquetFile, asked: Sequence[str]) -> _Kept:
        every = "all" in asked and "all" not in file.names
        unknown = [name for name in asked if name not in file.names and not (every and name == "all")]
        if unknown:
            raise InvalidInput(
                "ST789",
                f"Can't keep {unknown[0]!r}: {file.path} has no such column; there are {', '.join(file.names)}.",
                column=unknown[0],
            )
        return cls(sorted(set(asked)), every)

    def names(self, file: ParquetFile, sig: Signature) -> list[str]:
        first = [name for name in (sig.key, sig.time) if name is not None and name in file.names]
        names = [*first, *(name for name in file.names if name not in first and (self.every or name in self.asked))]
        for name in (ANSWER, REFUSED):
            if name in names:
                raise InvalidInput(
                    "ST789",
                    f"Can't keep {name!r}, since the output has a column of that name itself. Rename it in {file.path}.",
                    column=name,
                )
        return names


@dataclass(kw_only=True)
class _Tally:
    """What is counted on the way, piece by piece, so that it is not lost either."""

    refused_rows: int = 0
    refused: dict[str, Counter[str]] = field(default_factory=dict)
    flagged: dict[str, Counter[str]] = field(default_factory=dict)
    as_json: bool = False

    @classmethod
    def of(cls, note: Mapping[str, Any]) -> _Tally:
        return cls().plus(note)

    def plus(self, note: Mapping[str, Any]) -> _Tally:
        self.refused_rows += note["refused_rows"]
        self.as_json = self.as_json or note["json"]
        for into, counted in ((self.refused, note["refused"]), (self.flagged, note["flagged"])):
            for name, faults in counted.items():
                into.setdefault(name, Counter()).update(faults)
        return self

    def count(self, found: Inspected) -> None:
        for one in found.remarks:
            into = self.refused if one.action == "refuse" else self.flagged
            into.setdefault(one.column, Counter())[one.fault] += int(one.rows.sum())

    def note(self) -> dict[str, Any]:
        return {
            "refused_rows": self.refused_rows,
            "refused": {name: dict(faults) for name, faults in self.refused.items()},
            "flagged": {name: dict(faults) for name, faults in self.flagged.items()},
            "json": self.as_json,
        }


class _Chunk(NamedTuple):
    """Rows on their way: what is kept of them, what was found, and the answers to those that are not refused, in time."""

    kept: Rows
    size: int
    found: Inspected
    answers: Future[NDArray[Any] | list[Any]] | None


class _Run:
    """One call of `score`, between the first row that is missing and the output."""

    def __init__(  # noqa: PLR0917 - its parts, each of another type
        self,
        file: ParquetFile,
        pieces: Pieces,
        scorer: Scorer,
        kept: _Kept,
        options: Options,
        moved: Callable[[int, int], None],
    ) -> None:
        self._file, self._pieces, self._scorer, self._moved = file, pieces, scorer, moved
        self._facts: Facts = scorer.facts
        self._sig = self._facts.signature
        self._keep = kept.names(file, self._sig)
        self._layout = Layout(self._sig.schema)
        # Key and time are not the model's: they are kept as they are, and a text of each is not made for a block.
        self._needed = [one.name for one in self._sig.features if one.name in file.names and one.role == "feature"]
        self._seen = replace(self._sig, features=tuple(one for one in self._sig.features if one.role == "feature"))
        self._under_way: deque[_Chunk] = deque()
        self._most = _AHEAD * options.lanes
        self._chunk_rows = options.chunk_rows or file.batch_rows()

    def go(self) -> None:
        self._check_columns()
        at = self._pieces.done
        self._moved(at, self._file.rows)
        for rows in read_batches(self._file, self._chunk_rows, skip=at):
            self._under_way.append(self._begun(at, rows))
            at += rows.num_rows
            while len(self._under_way) >= self._most:
                self._keep_first()
        while self._under_way:
            self._keep_first()
        self._check_input()
        self._pieces.finish(self._none(), self._note())

    def _check_columns(self) -> None:
        """Nothing, when the file's columns are those of a request.

        Raises:
            InvalidInput: ST783, columns that are missing, or have a type that never fits; as `frames.to_rows`.
        """
        names = self._file.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidInput(
                "ST783", f"Can't score {self._file.path}: several columns are named {twice[0]!r}.", columns=twice
            )
        asked = [one.name for one in self._sig.features if one.name in self._file.names]
        rows = frames.to_rows(self._file.none().select(asked), doing=f"read {self._file.path}")
        others = [(name, "") for name in self._file.names if name not in asked]
        wrong = misfits(self._sig, (*frames.schema(rows), *others))
        if wrong:
            raise InvalidInput(
                "ST783",
                f"Can't score {self._file.path}: {'; '.join(one.sentence() for one in wrong)}. No row was scored. "
                f"Its columns are {', '.join(self._file.names)}.",
                columns=[one.column for one in wrong],
            )

    def _begun(self, at: int, rows: Rows) -> _Chunk:
        """Look at the rows, and send those that can be answered on their way."""
        n = rows.num_rows
        given = frames.to_rows(rows.select(self._needed), doing=f"read row {at:,} and on of {self._file.path}")
        columns = {name: frames.column(given, name) for name in self._needed}
        found = inspect(self._seen, columns, n)
        block = self._layout.of_columns(found.columns, n)
        which = np.arange(at, at + n)
        if bool(found.refused.any()):
            there = np.flatnonzero(~found.refused)
            block, which = block.take(there), which[there]
        answers = self._scorer.submit(which, block.pack()) if block.n else None
        return _Chunk(rows.select(self._keep), n, found, answers)

    def _keep_first(self) -> None:
        """Wait for the oldest chunk, and keep its rows."""
        chunk = self._under_way.popleft()
        tally = _Tally(refused_rows=int(chunk.found.refused.sum()))
        tally.count(chunk.found)
        made, tally.as_json = _answer_column(chunk, self._facts.label["type"])
        rows = appended(chunk.kept, made)
        if tally.refused_rows:
            reasons: list[str | None] = [None] * chunk.size
            for row in np.flatnonzero(chunk.found.refused).tolist():
                reasons[row] = chunk.found.reasons(row)
            rows = appended(rows, frames.to_rows({REFUSED: reasons}, doing="keep reasons"))
        self._pieces.add(rows, tally.note())
        self._moved(self._pieces.done, self._file.rows)

    def _check_input(self) -> None:
        now = open_parquet(self._file.path)
        if (now.size, now.footer) != (self._file.size, self._file.footer) or self._pieces.done != self._file.rows:
            raise Conflict(
                "ST793",
                f"{self._file.path} was changed while it was scored: {self._pieces.done:,} rows were read. "
                "Score it again with --restart.",
                path=str(self._file.path),
            )

    def _none(self) -> Rows:
        """The columns of an output without rows."""
        empty = frames.no_rows(((ANSWER, self._facts.label["type"]),))
        return appended(self._file.none().select(self._keep), empty)

    def _note(self) -> dict[str, Any]:
        tally = _Tally()
        for note in self._pieces.notes():
            tally.plus(note)
        known = {one.name for one in self._sig.features} | self._sig.ignored | set(self._keep)
        return {
            **tally.note(),
            "app": self._facts.app,
            "release": self._pieces.manifest["release"],
            "input": self._pieces.manifest["input"],
            "ignored": [name for name in self._file.names if name not in known],
        }


def _answer_column(chunk: _Chunk, label_type: str) -> tuple[Rows, bool]:
    """The answers as a column, null where a row is refused; and whether they stand there as JSON."""
    if chunk.answers is None:
        nothing = frames.to_rows({ANSWER: [None] * chunk.size}, doing="keep answers")
        return frames.conform(nothing, ((ANSWER, label_type),)), False
    answers = chunk.answers.result()
    valid = ~chunk.found.refused
    if isinstance(answers, np.ndarray):
        values = answers
        if len(answers) != chunk.size:
            values = np.zeros(chunk.size, answers.dtype)
            values[valid] = answers
        return frames.from_columns({ANSWER: Column(type=values.dtype.name, values=values, valid=valid)}), False
    spread: Iterator[Any] = iter(answers)
    every = [next(spread) if there else None for there in valid.tolist()]
    as_json = _needs_json(answers)
    if as_json:
        every = [None if answer is None else msgspec.json.encode(answer).decode() for answer in every]
    return frames.to_rows({ANSWER: every}, doing="keep answers"), as_json


_PLAIN: Final = (bool, int, float, str)


def _needs_json(answers: Sequence[Any]) -> bool:
    """Whether answers have no type that a column can have: objects, lists of lists, or of several kinds."""
    kinds = {type(answer) for answer in answers}
    if kinds == {list}:
        kinds = {type(item) for answer in answers for item in answer} or {float}
    return not (kinds <= {int, float} or (len(kinds) == 1 and kinds <= set(_PLAIN)))
