"""Inputs: do the rows that come still look like those that the champion learned from? Told from stored sketches; no row is read.

All that is remembered is where this began. The evidence follows from the parts since then, so another process finds the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.distance import explain
from staytrue.kernel.profile import Profile, Reference, of_sketches, reference
from staytrue.kernel.shift import Shift, Shifted, fold_shift, shifted
from staytrue.kernel.sketch import Sketch
from staytrue.loop.past import Past
from staytrue.store import tables

__all__ = ["InputWatch", "Turn"]

_FEWEST: Final = 100
"""Rows of training below which nothing is said of what is usual."""
_PARTS: Final = 120
"""So many of the newest windows of training say how different windows usually are."""
_NAMED: Final = 3


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Inputs began to differ, or look as before again."""

    opened: bool
    sentence: str
    numbers: dict[str, Any]


@dataclass(kw_only=True)
class InputWatch:
    """The inputs since a champion began to answer, beside the rows it was trained on.

    Args:
        start, stop: it was trained on ticks `start <= i < stop`.
        begun: the first tick that is looked at.
        arl: mean number of ticks between two false alarms, at least.
    """

    start: int
    stop: int
    begun: int
    arl: float
    is_open: bool = False
    """Whether people were told that inputs differ."""
    _seen: int = -1
    _over: Reference | None = None
    _shift: Shift | None = None
    _before: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def seen(self, past: Past, tick: int) -> Turn | None:
        """Look at one more tick; what has become of the alarm by it.

        Ticks between that were not looked at yet (after a restart) are looked at first, without a word.
        """
        if self._over is None and not self._prepared(past):
            return None
        for earlier in range(max(self._seen + 1, self.begun), tick):
            self._fold(past, earlier)
        self._fold(past, tick)
        if self._shift is None or self._shift.is_open == self.is_open:
            return None
        self.is_open = self._shift.is_open
        return self._opened(past, tick) if self.is_open else self._closed()

    def found(self) -> Shifted | None:
        """What there is to tell now; None while nothing was looked at."""
        return shifted(self._shift) if self._shift else None

    def _prepared(self, past: Past) -> bool:
        """Make cells and pool from the training rows; False where there is too little to compare with."""
        if past.rows(self.start, self.stop) < _FEWEST:
            return False
        sketches = self._of_features(past, tables.sketches(past.ctx.store.objects, past.window(self.start, self.stop)))
        if not sketches:
            return False
        self._over = reference(sketches)
        try:
            self._before = dict(of_sketches(self._over, sketches).counts)
            newest = range(max(self.start, self.stop - _PARTS), self.stop)
            parts = [counted.counts for t in newest if (counted := self._counted(past, t)) is not None]
        except InvalidInput:  # parts of another time, whose sketches don't tell enough
            self._over = None
            return False
        self._shift = Shift.fresh(self._before, arl=self.arl, parts=parts)
        return True

    def _fold(self, past: Past, tick: int) -> None:
        self._seen = tick
        counted = self._counted(past, tick)
        if self._shift is not None and counted is not None:
            self._shift = fold_shift(self._shift, tick, counted.counts)

    def _counted(self, past: Past, tick: int) -> Profile | None:
        sketches = self._of_features(past, tables.part_sketches(past.ctx.store.objects, past.ticks[tick].part))
        return of_sketches(self._over, sketches) if sketches and self._over is not None else None

    def _of_features(self, past: Past, sketches: dict[str, Sketch]) -> dict[str, Sketch]:
        spec = past.spec
        roles = {spec.time, spec.key, spec.label}
        names = spec.features or [name for name in sketches if name not in roles]
        return {name: sketches[name] for name in names if name in sketches}

    def _opened(self, past: Past, tick: int) -> Turn:
        found = self.found()
        named = [one for one in found.columns if one.is_named][:_NAMED] if found else []
        since = min((one.since for one in named if one.since >= 0), default=tick)
        told = []
        for one in named:
            begun = one.since if one.since >= 0 else since
            after = np.sum([self._counts(past, t, one.name) for t in range(begun, tick + 1)], axis=0)
            if self._over is not None:
                told.append(explain(self._over.bins[one.name], self._before[one.name], after).rstrip("."))
        moved = "; ".join(told) or "inputs moved"
        numbers = {
            "since": past.ticks[since].part.since.isoformat(),
            "columns": {one.name: {"share_moved": one.share_moved, "ks": one.ks} for one in named},
            "evidence": found.evidence if found else None,
        }
        return Turn(
            opened=True, sentence=f"{moved} (probably since {past.ticks[since].part.since:%Y-%m-%d})", numbers=numbers
        )

    def _counts(self, past: Past, tick: int, name: str) -> NDArray[np.int64]:
        counted = self._counted(past, tick)
        size = len(self._before[name])
        return counted.counts[name] if counted is not None else np.zeros(size, np.int64)

    def _closed(self) -> Turn:
        return Turn(opened=False, sentence="inputs look as they did in training again", numbers={})
