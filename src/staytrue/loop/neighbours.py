"""Neighbours: the rows of a training table that are most like one row, and a sample of all of them, found in one pass.

Part by part, the newest first, with no more in memory than the largest part and what is kept. A part that is not there any
more is counted, not missed in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from staytrue.errors import Corrupt, NotFound
from staytrue.kernel.contract import Column
from staytrue.kernel.why import Floats, Smallest, distances, smallest
from staytrue.store import frames, tables
from staytrue.store.objects import LocalObjects

__all__ = ["MOST_ROWS", "Neighbours", "neighbours"]

MOST_ROWS: Final = 2_000_000
"""So many rows are looked at, those of the newest parts: half of them, 10 columns, take 0.5 s in 20 parts, 2.3 s in 1,000
(benchmarks/why.py)."""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What a pass over a training table found.

    Attributes:
        rows: looked at, of those with a label; `table_rows`: all that the table has, with and without.
        parts: of the table that have rows; `looked`: read; `gone`: no longer kept; `damaged`: not what they were.
        distances: (k,) of the nearest rows, ascending. `nearest`: these rows, all columns.
        drawn: the sample, all columns, the same rows for the same seed.
    """

    rows: int
    table_rows: int
    parts: int
    looked: int
    gone: int
    damaged: int
    distances: Floats
    nearest: frames.Rows
    drawn: frames.Rows


def neighbours(
    objects: LocalObjects,
    table: tables.Table,
    asked: Mapping[str, Column],
    units: Mapping[str, float],
    *,
    nearest: int,
    draws: int,
    seed: int = 0,
    most_rows: int = MOST_ROWS,
) -> Neighbours:
    """The rows of a table nearest to one, and a sample of it, of the rows that a training sees: those with a label.

    Args:
        asked: column -> the one value, (1,), in the table's types. units: as `kernel.why.units` gives them.
        most_rows: older parts are left out from the one on with which it would be more; the newest is always looked at.

    Raises:
        Unavailable: the disk refuses.
    """
    close, drawn = _Kept(Smallest(most=nearest)), _Kept(Smallest(most=draws))
    parts = [(number, part) for number, part in enumerate(table.parts) if part.rows]
    rows = looked = gone = damaged = seen = 0
    for number, part in reversed(parts):
        if seen and seen + part.rows > most_rows:
            break
        try:
            read = frames.conform(frames.read_parquet(objects.get(part.object)), table.schema)
        except NotFound:
            gone += 1
            continue
        except Corrupt:
            damaged += 1
            continue
        ranks = np.random.default_rng([seed, number]).random(read.num_rows)
        if part.unlabelled and table.label is not None:
            known = frames.column(read, table.label).valid
            read, ranks = frames.take(read, known), ranks[known]
        # Of equally near rows the newer one is kept.
        places = seen + np.arange(read.num_rows - 1, -1, -1)
        seen += part.rows
        looked += 1
        rows += read.num_rows
        if not read.num_rows:
            continue
        if asked:
            close.fold(read, distances(asked, {name: frames.column(read, name) for name in asked}, units), places)
        drawn.fold(read, ranks, places)
    return Neighbours(
        rows=rows,
        table_rows=table.rows,
        parts=len(parts),
        looked=looked,
        gone=gone,
        damaged=damaged,
        distances=close.best.values,
        nearest=close.taken(table.schema),
        drawn=drawn.taken(table.schema),
    )


class _Kept:
    """The smallest so far, and copies of their rows, so that no part is held for the sake of a few of its rows."""

    def __init__(self, best: Smallest) -> None:
        self.best = best
        self._rows: dict[int, tuple[frames.Rows, int]] = {}

    def fold(self, rows: frames.Rows, values: Floats, places: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        if not self.best.most or values.min() > self.best.limit:
            return  # as of most parts: nothing of it is near enough
        self.best = smallest(self.best, values, places)
        new = np.flatnonzero(np.isin(places, self.best.places))
        if not len(new):
            return
        copy = frames.take(rows, new)
        self._rows |= {place: (copy, at) for at, place in enumerate(places[new].tolist())}
        self._rows = {place: self._rows[place] for place in self.best.places.tolist()}

    def taken(self, schema: frames.Schema) -> frames.Rows:
        """The rows, the smallest first."""
        each = [frames.take(*_one(self._rows[place])) for place in self.best.places.tolist()]
        return frames.concat(each) if each else frames.no_rows(schema)


def _one(where: tuple[frames.Rows, int]) -> tuple[frames.Rows, np.ndarray[Any, np.dtype[np.int64]]]:
    rows, at = where
    return rows, np.array([at])
