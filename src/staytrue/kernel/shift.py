"""Shift: what comes in (or goes out) no longer looks like the reference and the windows before; where, since when, how far.

A window is what one tick brought, as one count vector a column. Its distance from the pool (reference + earlier windows)
is ranked among the distances of earlier windows from theirs (`detector.py`), so days may differ from each other as
much as they like, and rows within a day be as alike as they like: what counts is that days *stay* as they were. Row-level
tests (KS, chi-square) take the rows of a day for independent and alarm on nearly every real batch.

Each column has two detectors, over single windows and over blocks of four, since four windows together show a small shift
that one does not. The alarm is the average of all of them, which needs no assumption on how columns depend on each
other; which columns is e-BH. The pool stops learning from a column while evidence speaks for a change in it, so a
slow drift does not become the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel import detector
from staytrue.kernel.detector import Detector

__all__ = ["Moved", "Shift", "Shifted", "fold_shift", "shifted"]

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Counts = Mapping[str, NDArray[np.int64]]
_S = TypeVar("_S", bound="Shift")

# 64 bins spread a shift of the mean over 64 degrees of freedom; 20 cells of about 5 % see it sooner and keep the state small.
_CELLS: Final = 20
_BLOCK: Final = 4
# A column is suspect from this evidence on, and no longer below 1. Chance alone reaches 2 every other window, and that
# costs nothing: suspicion moves windows aside, it does not alarm.
_SUSPICIOUS: Final = 2.0
# Two ordinary windows and two ordinary blocks in a row end a shift.
_ORDINARY: Final = 2
_MOST_ROWS: Final = 2**40
# 90 steps a unit of log log: a step is an eighth of the spread where rows are independent.
_STEPS: Final = 90


@dataclass(frozen=True, kw_only=True, eq=False)
class Shift:
    """What is known of all columns. Start with `Shift.fresh(reference, arl=..., parts=...)`.

    While windows are alike, `is_open` becomes True within N windows with probability at most N / arl, all columns (and
    segments: a key may be any text) together; `budget.arl` turns an alpha a year into the arl. It stays open until
    the windows look like the reference again, or until a new champion brings a new reference (`Shift.fresh` again).

    Fields:
        arl: mean number of windows between false alarms, at least. columns: names, sorted. cells: for each column, (bins,)
            the cell of each of its bins. pool: (columns, 20) the reference and calm windows. block: (columns, 20) the open
            block of four. waiting: (columns, 20) what of it is calm and joins the pool at its end, so that a block is never
            compared with itself. held: (columns, 20) what came while a column is suspect.
        windows: how many were folded. tick: the newest, block_tick: the first of the open block (None: none yet).
        one, four: detectors over windows and over blocks. suspect: (columns,) see `held`. opened: (columns,) the tick at
            which the alarm named the column, -1 for none. ordinary: (columns, 2) ordinary windows and blocks in a row.
    """

    arl: float
    columns: tuple[str, ...]
    cells: tuple[Ints, ...]
    pool: Ints
    block: Ints
    waiting: Ints
    held: Ints
    windows: int
    tick: int | None
    block_tick: int | None
    one: Detector
    four: Detector
    suspect: Bools
    opened: Ints
    ordinary: Ints

    @classmethod
    def fresh(cls, reference: Counts, *, arl: float, parts: Sequence[Counts] = ()) -> Self:
        """Nothing seen but the reference.

        Args:
            reference: for each column (bins,) rows per bin, at least 0: what the champion learned from.
            arl: see the class; 1 or more.
            parts: the reference, window by window, oldest first. From them it learns how different windows usually
                are. Without, the first windows teach it, and a shift that is there from the first one on is taken for usual.

        Raises:
            InvalidInput: ST911, arl; ST912, counts; ST914, parts that are not parts of the reference.

        Example:
            >>> Shift.fresh({"age": np.array([5, 5])}, arl=1000).is_open
            False
        """
        if not (np.isfinite(arl) and arl >= 1):
            raise InvalidInput("ST911", f"Can't watch with arl {arl!r}: give 1 or more windows between false alarms.")
        columns = tuple(sorted(reference))
        checked = [_checked(name, reference[name], None) for name in columns]
        none, k = np.zeros((len(columns), _CELLS), np.int64), len(columns)
        shift = cls(
            arl=float(arl), columns=columns, cells=tuple(_cells(counts) for counts in checked),
            pool=none, block=none, waiting=none, held=none, windows=0, tick=None, block_tick=None,
            one=Detector.fresh(k), four=Detector.fresh(k), suspect=np.zeros(k, np.bool_),
            opened=np.full(k, -1, np.int64), ordinary=np.zeros((k, 2), np.int64),
        )  # fmt: skip
        shift = replace(shift, pool=_gathered(shift, reference))
        return shift if not parts else _taught(shift, [_gathered(shift, part) for part in parts])

    @property
    def evidence(self) -> Floats:
        """(columns,) of each column: the average of its two detectors."""
        return (self.one.evidence + self.four.evidence) / 2

    @property
    def is_open(self) -> bool:
        """Whether the alarm is on."""
        return bool((self.opened >= 0).any())

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal state; below 1 kB a column, however long the stream."""
        return {
            "arl": self.arl, "columns": list(self.columns), "cells": [cells.tolist() for cells in self.cells],
            "pool": self.pool.tolist(), "block": self.block.tolist(),
            "waiting": self.waiting.tolist(), "held": _lines(self.held, self.suspect),
            "windows": self.windows, "tick": self.tick, "block_tick": self.block_tick,
            "one": self.one.document(), "four": self.four.document(), "suspect": self.suspect.tolist(),
            "opened": self.opened.tolist(), "ordinary": self.ordinary.tolist(),
        }  # fmt: skip

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The state that `document()` wrote; ST910 when it is not one."""
        try:
            columns = tuple(str(name) for name in document["columns"])
            k = len(columns)
            shape = {
                "pool": (k, _CELLS),
                "block": (k, _CELLS),
                "waiting": (k, _CELLS),
                "ordinary": (k, 2),
                "opened": (k,),
            }
            tables = {name: np.array(document[name], np.int64).reshape(shape[name]) for name in shape}
            suspect = np.array(document["suspect"], np.bool_).reshape(k)
            held = np.zeros((k, _CELLS), np.int64)
            held[suspect] = np.array(document["held"], np.int64).reshape(-1, _CELLS)
            cells = tuple(np.array(line, np.int64).reshape(-1) for line in document["cells"])
            if len(cells) != k or any(line.size and not 0 <= line.min() <= line.max() < _CELLS for line in cells):
                raise ValueError(f"{len(cells)} columns of cells for {k} columns, or a cell outside 0 to {_CELLS - 1}")  # noqa: TRY301 - one message for all
            return cls(
                arl=float(document["arl"]), columns=columns, cells=cells, held=held, suspect=suspect,
                windows=int(document["windows"]), tick=document["tick"], block_tick=document["block_tick"],
                one=Detector.from_document(document["one"], k), four=Detector.from_document(document["four"], k), **tables,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise InvalidInput(
                "ST910", f"Can't read a shift from a document: {exc}. Expected what `document()` wrote."
            ) from exc


def fold_shift(shift: Shift, tick: int, counts: Counts) -> Shift:
    """The shift after one more window.

    Args:
        tick: above the one before; gaps are fine.
        counts: for each column (bins,) rows per bin. A column that is not there, or all 0, had no rows.

    Raises:
        InvalidInput: ST912, counts; ST913, a tick that is not above the one before.

    Source:
        Wang, Ramdas, "False discovery rate control with e-values" (JRSS B 2022) on the columns; `detector.py` on the evidence.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> usual, other = [.2, .3, .5], [.3, .3, .4]
        >>> days = [{"age": rng.multinomial(500, usual)} for _ in range(60)]
        >>> shift = Shift.fresh({"age": sum(day["age"] for day in days)}, arl=365 / 0.05, parts=days)
        >>> for tick in range(8):
        ...     shift = fold_shift(shift, tick, {"age": rng.multinomial(500, usual if tick < 4 else other)})
        >>> found = shifted(shift)
        >>> found.is_open, found.since, found.columns[0].name
        (True, 4, 'age')
    """
    if shift.tick is not None and tick <= shift.tick:
        raise InvalidInput(
            "ST913",
            f"Can't fold tick {tick} after tick {shift.tick}: each window counts once, in order. Leave it out.",
            tick=tick, after=shift.tick,
        )  # fmt: skip
    now = _gathered(shift, counts)
    block, first = shift.block + now, tick if shift.block_tick is None else shift.block_tick
    is_full = (shift.windows + 1) % _BLOCK == 0
    scores = _scores(shift.pool, now), _scores(shift.pool, block) if is_full else np.zeros(len(now), np.uint8)
    folded = replace(
        shift,
        windows=shift.windows + 1,
        tick=tick,
        block=np.zeros_like(block) if is_full else block,
        block_tick=None if is_full else first,
        one=detector.seen(shift.one, tick, scores[0]),
        four=detector.seen(shift.four, first, scores[1]),
    )
    return _pooled(_named(replace(folded, ordinary=_ordinary(folded, *scores))), now, *scores)


class Moved(NamedTuple):
    """How far a column is from the reference: shares of rows, so that 10 rows and 10 million can be compared."""

    name: str
    is_named: bool
    """By the alarm, at a false discovery rate of 5 %."""
    evidence: float
    since: int
    """Tick of the window (or of the first of the block) with which it probably began."""
    rows: int
    """That the distances are from: what came since the column is suspect."""
    share_moved: float
    """Half the summed difference of shares: the least share of rows that has to change place."""
    ks: float
    """The largest difference of cumulated shares, over the cells in their order."""


@dataclass(frozen=True, kw_only=True)
class Shifted:
    """What there is to tell: whether the alarm is on, since when, and the columns that evidence speaks for, strongest first."""

    is_open: bool
    evidence: float
    arl: float
    since: int | None
    columns: tuple[Moved, ...]


def shifted(shift: Shift) -> Shifted:
    """The columns that are suspect or named, strongest first; columns that were named come before the others.

    Example:
        >>> shifted(Shift.fresh({"age": np.array([5, 5])}, arl=1000)).columns
        ()
    """
    evidence, from_four = shift.evidence, shift.four.peak > shift.one.peak
    since = np.where(from_four & (shift.four.since >= 0), shift.four.since, shift.one.since)
    moved = []
    for i in np.flatnonzero(shift.suspect | (shift.opened >= 0)).tolist():
        p, q = (counts / max(int(counts.sum()), 1) for counts in (shift.pool[i], shift.held[i]))
        gap = q - p
        moved.append(
            Moved(
                name=shift.columns[i],
                is_named=bool(shift.opened[i] >= 0),
                evidence=float(evidence[i]),
                since=int(since[i]),
                rows=int(shift.held[i].sum()),
                share_moved=float(np.abs(gap).sum() / 2),
                ks=float(np.abs(np.cumsum(gap)).max()),
            )
        )
    columns = tuple(sorted(moved, key=lambda m: (not m.is_named, -m.evidence, m.name)))
    named = [m.since for m in columns if m.is_named and m.since >= 0]
    total = float(evidence.mean()) if evidence.size else 0.0
    return Shifted(
        is_open=shift.is_open, evidence=total, arl=shift.arl, since=min(named, default=None), columns=columns
    )


# ---------------------------------------------------------------------------------------------- one step


def _named(shift: Shift) -> Shift:
    """With the columns that the alarm names (e-BH), and without those that are ordinary again."""
    evidence, k = shift.evidence, len(shift.columns)
    order = np.argsort(-evidence, kind="stable")
    opened = shift.opened.copy()
    if k and evidence.mean() >= shift.arl:
        enough = np.flatnonzero(evidence[order] * np.arange(1, k + 1) >= k * shift.arl)
        names = order[: max(int(enough[-1]) + 1 if enough.size else 1, 1)]
        opened[names] = np.where(opened[names] < 0, shift.tick or 0, opened[names])
    over = (opened >= 0) & (shift.ordinary >= _ORDINARY).all(axis=1)
    return replace(
        shift,
        opened=np.where(over, -1, opened),
        one=detector.settled(shift.one, over),
        four=detector.settled(shift.four, over),
        held=np.where(over[:, None], 0, shift.held),
        suspect=shift.suspect & ~over,
    )


def _pooled(shift: Shift, now: Ints, one_scores: Bytes, four_scores: Bytes) -> Shift:
    """With the window in pool and memory, or held back where evidence speaks for a change."""
    evidence, named = shift.evidence, shift.opened >= 0
    speaks = np.where(shift.suspect, evidence >= 1, evidence >= _SUSPICIOUS)
    suspect = named | (speaks & (shift.one.suspect_n < detector.PATIENCE))
    cleared = shift.suspect & ~suspect
    aside = suspect[:, None]
    waiting = shift.waiting + np.where(aside, 0, now) + np.where(cleared[:, None], shift.held, 0)
    is_full = shift.block_tick is None
    return replace(
        shift,
        suspect=suspect,
        pool=shift.pool + waiting if is_full else shift.pool,
        waiting=np.zeros_like(waiting) if is_full else waiting,
        held=np.where(aside, shift.held + now, 0),
        one=detector.kept(detector.calmed(shift.one, cleared), one_scores, suspect),
        four=detector.kept(detector.calmed(shift.four, cleared), four_scores, suspect),
    )


def _ordinary(shift: Shift, one_scores: Bytes, four_scores: Bytes) -> Ints:
    """(columns, 2) ordinary windows and blocks in a row since the naming; a column without rows keeps its count."""
    there = np.column_stack([one_scores, four_scores]) > 0
    extreme = np.column_stack([shift.one.extreme, shift.four.extreme])
    ordinary = np.where(there, np.where(extreme, 0, shift.ordinary + 1), shift.ordinary)
    return np.where((shift.opened < 0)[:, None], 0, ordinary)


def _taught(shift: _S, parts: list[Ints]) -> _S:
    """With the usual distances learned: of each part, and of each four, from the rest of the reference."""
    one, four, calm = shift.one, shift.four, np.zeros(len(shift.columns), np.bool_)
    if (sum(parts) > shift.pool).any():
        raise InvalidInput(
            "ST914", "Can't learn from parts that hold more rows than the reference: give the parts it is the sum of."
        )
    block = np.zeros_like(shift.pool)
    for number, part in enumerate(parts, start=1):
        one = detector.kept(one, _scores(shift.pool - part, part), calm)
        block += part
        if number % _BLOCK == 0:
            four = detector.kept(four, _scores(shift.pool - block, block), calm)
            block[:] = 0
    return replace(shift, one=one, four=four)


def _scores(pool: Ints, now: Ints) -> Bytes:
    """(columns,) how far each window is from the pool: two-sample chi-square per degree of freedom, on a log log scale.

    Both errors, the window's and the pool's, are in it, so it does not change as the pool grows. 0: no rows on a side.
    """
    n_pool, n_now = (counts.sum(axis=1, keepdims=True).astype(np.float64) for counts in (pool, now))
    both = pool + now
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.sqrt(n_now / n_pool) * pool - np.sqrt(n_pool / n_now) * now
        distance = np.where(both > 0, gap * gap / both, 0.0).sum(axis=1)
    freedom = np.maximum(np.count_nonzero(both, axis=1) - 1, 1)
    there = (n_pool > 0)[:, 0] & (n_now > 0)[:, 0]
    steps = np.rint(_STEPS * np.log1p(np.log1p(np.where(there, distance, 0.0) / freedom)))
    return np.where(there, 1 + np.minimum(steps, 254), 0).astype(np.uint8)


# ---------------------------------------------------------------------------------------------- counts


def _cells(reference: Ints) -> Ints:
    """(bins,) the cell of each bin: 0 for what the reference never had, else neighbours joined to about 5 % of its rows."""
    total = int(reference.sum())
    middle = np.cumsum(reference) - reference / 2
    cell = 1 + np.floor(middle * (_CELLS - 1) / max(total, 1)).astype(np.int64)
    return np.where(reference > 0, np.minimum(cell, _CELLS - 1), 0)


def _gathered(shift: Shift, counts: Counts) -> Ints:
    """(columns, 20) rows per cell."""
    unknown = sorted(set(counts) - set(shift.columns))
    if unknown:
        raise InvalidInput(
            "ST912",
            f"Can't compare column {unknown[0]!r}: the reference does not have it. Leave it out, or take a new reference.",
            columns=unknown,
        )
    there = [i for i, name in enumerate(shift.columns) if name in counts]
    if not there:
        return np.zeros((len(shift.columns), _CELLS), np.int64)
    values = np.concatenate([_checked(shift.columns[i], counts[shift.columns[i]], shift.cells[i].size) for i in there])
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= _MOST_ROWS:
        raise InvalidInput(
            "ST912",
            f"Can't count a bin of {int(values.min())} and one of {int(values.max())} rows: expected 0 to 2**40.",
        )
    places = np.concatenate([i * _CELLS + shift.cells[i] for i in there])
    # Sums of weights are floats: exact for these, of which no cell holds 2**53.
    sums = np.bincount(places, weights=values, minlength=len(shift.columns) * _CELLS)
    return sums.astype(np.int64).reshape(-1, _CELLS)


def _checked(name: str, counts: Any, bins: int | None) -> Ints:
    values = np.asarray(counts)
    if values.ndim != 1 or values.dtype.kind not in "iu" or (bins is not None and values.size != bins):
        raise InvalidInput(
            "ST912",
            f"Can't count column {name!r} from type {values.dtype} and shape {values.shape}: "
            f"give whole numbers, one for each of its {'bins' if bins is None else f'{bins} bins'}.",
            column=name, dtype=str(values.dtype), shape=list(values.shape),
        )  # fmt: skip
    return values.astype(np.int64, copy=False)


def _lines(table: Ints, which: Bools) -> list[list[int]]:
    lines: list[list[int]] = table[which].tolist()
    return lines
