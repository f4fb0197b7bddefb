"""Rhythm: do rows and labels come as they use to, or have they stopped or slowed?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self

from staytrue.kernel.silence import Silence, fold_silence, overdue
from staytrue.loop.past import Past

__all__ = ["Break", "Rhythm"]

_EPOCH: Final = datetime(1970, 1, 5, tzinfo=UTC)
"""A Monday: so that a phase of the week is one in every life."""
_WEEK: Final = timedelta(days=7)
_LONGEST: Final = 168
"""Ticks of a week whose rhythm is learned phase by phase, at most: hours. Shorter ticks have none."""
_HISTORY: Final = 26
"""Weeks of history that say what is usual."""


@dataclass(frozen=True, kw_only=True)
class Break:
    """Rows or labels fell silent, or come again."""

    what: Literal["rows", "labels"]
    opened: bool
    sentence: str
    numbers: Mapping[str, Any]


@dataclass(kw_only=True)
class Rhythm:
    """How many rows a tick brings, and how many of those whose time has come have a label."""

    rows: Silence
    labels: Silence
    open_: tuple[str, ...] = ()
    """Which of the two are silent."""

    @classmethod
    def of(cls, past: Past, stop: int, arl: float) -> Self:
        """The rhythm of the ticks before `stop`."""
        every = past.spec.every
        weekly = _WEEK // every if _WEEK % every == timedelta(0) else 1
        period = weekly if 1 <= weekly <= _LONGEST else 1
        fresh = Silence.fresh(arl=arl, period=period)
        made = cls(rows=fresh, labels=fresh)
        for tick in range(max(0, stop - _HISTORY * max(period, 1)), stop):
            made._fold_rows(past, tick)
            made._fold_labels(past, tick)
        made.open_ = tuple(what for what in ("rows", "labels") if made._is_silent(what))
        return made

    def came(self, past: Past, tick: int) -> Break | None:
        """One more tick is over."""
        self._fold_rows(past, tick)
        return self._turn("rows", past, tick)

    def labelled(self, past: Past, tick: int) -> Break | None:
        """The labels of one more tick should be there."""
        self._fold_labels(past, tick)
        return self._turn("labels", past, tick)

    def _fold_rows(self, past: Past, tick: int) -> None:
        self.rows = _folded(self.rows, past, tick, past.ticks[tick].rows, None)

    def _fold_labels(self, past: Past, tick: int) -> None:
        part = past.ticks[tick].part
        self.labels = _folded(self.labels, past, tick, part.rows - part.unlabelled, part.rows)

    def _is_silent(self, what: Literal["rows", "labels"]) -> bool:
        counts = self.rows if what == "rows" else self.labels
        return counts.is_open or overdue(counts)

    def _turn(self, what: Literal["rows", "labels"], past: Past, tick: int) -> Break | None:
        silent = self._is_silent(what)
        if silent == (what in self.open_):
            return None
        self.open_ = tuple(sorted({*self.open_, what} if silent else {*self.open_} - {what}))
        counts = self.rows if what == "rows" else self.labels
        if not silent:
            return Break(what=what, opened=False, sentence=f"{what} come as they use to", numbers={})
        came, usual = counts.last or (0.0, float("nan"))
        part = past.ticks[tick].part
        numbers = {"tick": part.since.isoformat(), "came": came, "usual": round(usual, 1), "empty": counts.empty}
        many = f"{came:.0f} {what} on {part.since:%Y-%m-%d %H:%M}"
        if what == "labels":
            many = f"{came:.0f} of {part.rows} rows of {part.since:%Y-%m-%d %H:%M} have a label"
        sentence = f"{many}, where {usual:.0f} are usual" if usual == usual else many  # noqa: PLR0124 - not a NaN
        return Break(what=what, opened=True, sentence=sentence, numbers=numbers)

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal state."""
        return {"rows": self.rows.document(), "labels": self.labels.document(), "open": list(self.open_)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The state that `document` wrote."""
        return cls(
            rows=Silence.from_document(document["rows"]),
            labels=Silence.from_document(document["labels"]),
            open_=tuple(document["open"]),
        )


def _folded(silence: Silence, past: Past, tick: int, count: int, of: int | None) -> Silence:
    number = (past.ticks[tick].part.since - _EPOCH) // past.spec.every
    if silence.tick is not None and number <= silence.tick:
        return silence  # a tick that was looked at before
    return fold_silence(silence, number, count, of=of)
