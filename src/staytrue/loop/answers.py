"""Answers: does the champion still answer as it did when it was fresh? Told from counts, before any label comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from staytrue.errors import InvalidInput
from staytrue.kernel.distance import explain
from staytrue.kernel.profile import Reference, of_sketches, reference
from staytrue.kernel.shift import Shift, fold_shift
from staytrue.kernel.sketch import Kind, Sketch, merge, sketch

__all__ = ["AnswerWatch"]

_NAME: Final = "the answer"


@dataclass(kw_only=True)
class AnswerWatch:
    """A champion's answers since it began, beside those to the first `warm` rows.

    Args:
        arl: mean number of ticks between two false alarms, at least.
        warm: rows that say how it answers when fresh.
    """

    arl: float
    warm: int = 600
    is_open: bool = False
    gathered: Sketch | None = None
    """The answers to the first rows, until there are enough."""
    over: Reference | None = None
    shift: Shift | None = None

    def seen(self, tick: int, answers: Sequence[Any]) -> str | None:
        """Look at the answers to one more tick; a sentence when they begin to differ, "" when they look as before again."""
        made = _sketched(answers)
        if made is None:
            return None
        try:
            if self.over is not None:
                return self._compared(tick, made)
            self._gather(made)
        except InvalidInput:  # numbers before and texts now: another kind of answer, which the schema guards look at
            pass
        return None

    def _gather(self, made: Sketch) -> None:
        self.gathered = merge(*(one for one in (self.gathered, made) if one is not None))
        if self.gathered["count"] >= self.warm:
            self.over = reference({_NAME: self.gathered})
            self.shift = Shift.fresh(of_sketches(self.over, {_NAME: self.gathered}).counts, arl=self.arl)

    def _compared(self, tick: int, made: Sketch) -> str | None:
        if self.over is None or self.shift is None or self.gathered is None:
            return None
        counts = of_sketches(self.over, {_NAME: made}).counts
        self.shift = fold_shift(self.shift, tick, counts)
        if self.shift.is_open == self.is_open:
            return None
        self.is_open = self.shift.is_open
        if not self.is_open:
            return ""
        before = of_sketches(self.over, {_NAME: self.gathered}).counts
        return explain(self.over.bins[_NAME], before[_NAME], counts[_NAME]).rstrip(".")

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal state."""
        return {
            "arl": self.arl,
            "warm": self.warm,
            "is_open": self.is_open,
            "gathered": self.gathered,
            "over": self.over and self.over.document(),
            "shift": self.shift and self.shift.document(),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The state that `document` wrote."""
        over, shift = document["over"], document["shift"]
        return cls(
            arl=float(document["arl"]),
            warm=int(document["warm"]),
            is_open=bool(document["is_open"]),
            gathered=document["gathered"],
            over=Reference.from_document(over) if over else None,
            shift=Shift.from_document(shift) if shift else None,
        )


def _sketched(answers: Sequence[Any]) -> Sketch | None:
    """The sketch of plain answers (numbers, texts, lists); None for others, and for none."""
    there = [answer for answer in answers if answer is not None]
    kinds: tuple[tuple[type | tuple[type, ...], Kind, Any], ...] = (
        (bool, "bool", np.bool_),
        ((int, float), "number", np.float64),
        (str, "text", object),
    )
    for types, kind, dtype in kinds:
        if there and all(isinstance(answer, types) for answer in there):
            return sketch(np.array(there, dtype=dtype), np.ones(len(there), np.bool_), kind)
    return None
