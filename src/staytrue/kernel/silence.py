"""Silence: rows, labels or traffic stopped, slowed, or only seem to come.

- `Silence`: counts a tick against their own rhythm. Each count is compared with the newest eight of the same phase (of
  the week, for days), so Sundays without rows are usual; how far it lies below is ranked among earlier ticks by
  `detector.py`, with its promise: within N ticks a false alarm with probability at most N / arl. For labels, the
  counts are the labelled among the rows of ticks whose label window has closed (`of`).
- `overdue`: nothing for longer than ever before. One empty tick is little evidence (at most one more than the ticks seen
  before), a run of them twice as long as the longest is told at once; it is a fact, not an inference, and has no alpha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np

from staytrue.errors import InvalidInput
from staytrue.kernel import detector
from staytrue.kernel.detector import Detector

__all__ = ["Silence", "fold_silence", "overdue"]

# The newest eight of a phase tell its level: a trend of 1 % a week puts it 4 % off.
_RECENT: Final = 8
_FEWEST: Final = 2
# Counts of 1,000 vary by more than their root: by about a tenth. It only weighs large and small phases against each other.
_NOISE: Final = 0.1
# Scores are bytes around 128: sixteen steps a standard deviation, to eight on either side.
_STEPS: Final = 16
# Autocorrelation is believed once neighbours have told more than this many squared standard errors.
_DOUBT: Final = 5.0
_MOST_ALIKE: Final = 0.9
_SUSPICIOUS: Final = 2.0
_ORDINARY: Final = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Silence:
    """The rhythm of one count, and whether it broke. Start with `Silence.fresh(arl=..., period=...)`.

    Fields:
        arl: mean number of ticks between false alarms, at least. period: ticks after which the rhythm begins anew.
        phases: for each of them, the logs of its newest counts, oldest first, at most eight. tick: the newest.
        is_open: whether the alarm is on. since: tick of the probable beginning. last: count and expected count.
        empty: ticks without any, in a row, up to now. longest: the longest such row that ended by itself.
        memory: how far the newest tick was below, and sums of products and of squares of neighbours: a slow day is
            followed by a slow day, and only what the day before does not explain counts. is_suspect, ordinary: as in
            `shift.Shift`. core: the evidence.
    """

    arl: float
    period: int
    phases: tuple[tuple[float, ...], ...]
    core: Detector
    memory: tuple[float, float, float] = (0.0, 0.0, _DOUBT)
    tick: int | None = None
    is_open: bool = False
    since: int | None = None
    last: tuple[float, float] | None = None
    empty: int = 0
    longest: int = 0
    is_suspect: bool = False
    ordinary: int = 0

    @classmethod
    def fresh(cls, *, arl: float, period: int = 7) -> Self:
        """Nothing seen.

        Args:
            arl: 1 or more; `budget.arl` makes it from an alpha a year. period: 7 for days with a weekly rhythm, 168 for
                hours with one, 1 for none. Evidence needs a few periods before it can speak: two of each phase.

        Raises:
            InvalidInput: ST916.

        Example:
            >>> Silence.fresh(arl=1000).evidence
            0.0
        """
        if not (math.isfinite(arl) and arl >= 1) or not 1 <= period <= 10_000:
            raise InvalidInput(
                "ST916",
                f"Can't listen with arl {arl!r} and a period of {period!r} ticks: expected 1 or more, and 1 to 10,000.",
                arl=str(arl), period=str(period),
            )  # fmt: skip
        return cls(arl=float(arl), period=int(period), phases=((),) * period, core=Detector.fresh(1))

    @property
    def evidence(self) -> float:
        """For "fewer than their rhythm"."""
        return float(self.core.evidence[0])

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal state."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {
            "phases": [list(phase) for phase in self.phases],
            "last": self.last and list(self.last),
            "memory": list(self.memory),
            "core": self.core.document(),
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The state that `document()` wrote; ST910 when it is not one."""
        try:
            state = {
                name: document[name]
                for name in ("tick", "is_open", "since", "empty", "longest", "is_suspect", "ordinary")
            }
            phases = tuple(tuple(float(x) for x in phase) for phase in document["phases"])
            last = document["last"] and (float(document["last"][0]), float(document["last"][1]))
            fresh = cls.fresh(arl=document["arl"], period=document["period"])
            if len(phases) != fresh.period:
                raise ValueError(f"{len(phases)} phases for a period of {fresh.period}")  # noqa: TRY301 - one message for all
            core = Detector.from_document(document["core"], 1)
            before, products, squares = (float(x) for x in document["memory"])
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            raise InvalidInput(
                "ST910", f"Can't read a silence from a document: {exc}. Expected what `document()` wrote."
            ) from exc
        return replace(fresh, phases=phases, last=last, core=core, memory=(before, products, squares), **state)


def fold_silence(silence: Silence, tick: int, count: int, *, of: int | None = None) -> Silence:
    """The rhythm after one more tick; a tick in which nothing came is folded with 0.

    Args:
        tick: above the one before; its phase is `tick % period`.
        count: rows, labels or requests in it. of: among how many, when the share is what has a rhythm (labels of matured
            rows); a tick with `of` 0 says nothing.

    Raises:
        InvalidInput: ST913, a tick that is not above the one before; ST917, a count below 0 or above `of`.

    Source:
        The e-detector of `detector.py` on the lower tail of log counts, as far from the mean of their phase.

    Example:
        >>> week, rng = [900, 1000, 1000, 1000, 950, 300, 0], np.random.default_rng(0)
        >>> rows = Silence.fresh(arl=365 / 0.05)
        >>> for day in range(140):
        ...     rows = fold_silence(rows, day, int(rng.poisson(week[day % 7])))
        >>> rows.is_open
        False
        >>> for day in range(140, 146):
        ...     rows = fold_silence(rows, day, week[day % 7] * 7 // 10)
        >>> rows.is_open, rows.since
        (True, 140)
    """
    if silence.tick is not None and tick <= silence.tick:
        raise InvalidInput(
            "ST913",
            f"Can't fold tick {tick} after tick {silence.tick}: each tick counts once, in order. Leave it out.",
            tick=tick, after=silence.tick,
        )  # fmt: skip
    if count < 0 or (of is not None and count > of):
        raise InvalidInput(
            "ST917", f"Can't count {count} of {of}: expected 0 or more, and no more than there are.", count=count, of=of
        )
    if of == 0:
        return replace(silence, tick=tick)
    phase = silence.phases[tick % silence.period]
    level = math.log((count + 0.5) / (1 if of is None else of + 1))
    told = replace(
        _counted(silence, count),
        tick=tick,
        last=(
            float(count),
            math.exp(sum(phase) / len(phase)) * (1 if of is None else of + 1) - 0.5 if phase else math.nan,
        ),
    )
    if len(phase) < _FEWEST:
        return _learned(told, tick, level)
    usual = sum(phase) / len(phase)
    below = (usual - level) / math.sqrt(1 / (math.exp(usual) * (1 if of is None else of + 1) + 1) + _NOISE**2)
    return _judged(told, tick, level, below)


def overdue(silence: Silence, *, factor: float = 2.0) -> bool:
    """Whether nothing has come for more than `factor` times as many ticks as ever before (at least one is usual).

    Example:
        >>> rows = Silence.fresh(arl=1000)
        >>> for day, count in enumerate([5, 5, 0, 5, 5, 0, 0]):
        ...     rows = fold_silence(rows, day, count)
        >>> overdue(rows), overdue(fold_silence(rows, 7, 0))
        (False, True)
    """
    return silence.empty > factor * max(silence.longest, 1)


def _counted(silence: Silence, count: int) -> Silence:
    if count == 0:
        return replace(silence, empty=silence.empty + 1)
    return replace(silence, empty=0, longest=max(silence.longest, silence.empty))


def _learned(silence: Silence, tick: int, level: float) -> Silence:
    at = tick % silence.period
    phase = (*silence.phases[at], level)[-_RECENT:]
    return replace(silence, phases=(*silence.phases[:at], phase, *silence.phases[at + 1 :]))


def _judged(silence: Silence, tick: int, level: float, below: float) -> Silence:
    """The evidence of one more tick; the rhythm learns from it unless the alarm is on."""
    before, products, squares = silence.memory
    # While the alarm is on, a tick that is as low as the one before is not back to usual.
    alike = 0.0 if silence.is_open else min(max(products / squares, 0.0), _MOST_ALIKE)
    score = np.array([min(max(128 + round(_STEPS * (below - alike * before)), 1), 255)], np.uint8)
    core = detector.seen(silence.core, tick, score)
    evidence, is_extreme = float(core.evidence[0]), bool(core.extreme[0])
    ordinary = 0 if is_extreme or not silence.is_open else silence.ordinary + 1
    is_over = silence.is_open and ordinary >= _ORDINARY
    is_open = (silence.is_open or evidence >= silence.arl) and not is_over
    speaks = not is_over and evidence >= (1 if silence.is_suspect else _SUSPICIOUS)
    is_suspect = is_open or (speaks and int(core.suspect_n[0]) < detector.PATIENCE)
    yes = np.ones(1, np.bool_)
    if is_over:
        core = detector.settled(core, yes)
    elif silence.is_suspect and not is_suspect:
        core = detector.calmed(core, yes)
    since = silence.since if silence.is_open else int(core.since[0])
    judged = replace(
        silence,
        core=detector.kept(core, score, yes & is_suspect),
        is_open=is_open,
        is_suspect=is_suspect,
        since=since if is_open else None,
        ordinary=ordinary if is_open else 0,
        memory=(below, products, squares)
        if is_suspect
        else (below, products + below * before, squares + before * before),
    )
    return judged if is_open else _learned(judged, tick, level)
