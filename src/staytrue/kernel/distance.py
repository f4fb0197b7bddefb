"""How far apart two counts over the same cells are, and which cells moved: numbers for a chart, a sentence for an alarm.

Nothing here is a test: a distance grows and shrinks with the number of rows, and an alarm that is to keep its promise
asks the evidence instead. Once it has fired, this says what happened.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.bins import MISSING, NEW, OTHER, Bins, digits

__all__ = ["Distances", "Move", "distances", "explain", "moves"]


@dataclass(frozen=True, kw_only=True)
class Distances:
    """How far the counts `after` are from those `before`; 0 each when either has no rows.

    Attributes:
        ks: the largest gap between the cumulative shares, or the gap in missing values where that is larger, in [0, 1];
            None where the cells have no order.
        psi: population stability index over all cells, with half a row added to each; above 0.25 a big change by
            custom.
        js: Jensen-Shannon distance (the root of the divergence in bits), in [0, 1].
        share_moved: the share of rows that would have to change cell (total variation), in [0, 1].
        wasserstein: how far values moved in the mean, in standard deviations of `before`, from the middles of cells;
            None where the cells have no order or `before` no spread.
    """

    ks: float | None
    psi: float
    js: float
    share_moved: float
    wasserstein: float | None


@dataclass(frozen=True, kw_only=True)
class Move:
    """A cell, or all cells on one side of a border, whose share of rows moved: in words, and the shares."""

    what: str
    before: float
    after: float

    @property
    def sentence(self) -> str:
        """What an alarm says.

        Example:
            >>> Move(what="lead_time above 120", before=0.03, after=0.41).sentence
            'The share of lead_time above 120 rose from 3 % to 41 %.'
        """
        word = "rose" if self.after > self.before else "fell"
        # As many decimals as it takes to see that the two differ.
        texts = [tuple(f"{100 * share:.{places}f} %" for share in (self.before, self.after)) for places in (0, 1, 2, 3)]
        before, after = next((pair for pair in texts if pair[0] != pair[1]), texts[-1])
        return f"The share of {self.what} {word} from {before} to {after}."


def distances(bins: Bins, before: NDArray[np.int64], after: NDArray[np.int64]) -> Distances:
    """The usual distances between two counts.

    Args:
        bins: the cells.
        before: (cells,) of the reference's rows.
        after: (cells,) of the rows to compare.

    Raises:
        InvalidInput: ST907, counts that do not belong to these cells.

    Example:
        >>> from staytrue.kernel.bins import plain_bins
        >>> made = distances(plain_bins("x", "values", "bool"), np.array([0, 5, 5]), np.array([0, 2, 8]))
        >>> round(made.share_moved, 3), made.ks
        (0.3, None)
    """
    p, q = _shares(bins, before), _shares(bins, after)
    ordered = bins.ordered.stop > 0
    if not before.sum() or not after.sum():
        return Distances(ks=0.0 if ordered else None, psi=0.0, js=0.0, share_moved=0.0, wasserstein=None)
    return Distances(
        ks=_ks(bins, p, q) if ordered else None,
        psi=_psi(before, after),
        js=_jensen_shannon(p, q),
        share_moved=float(np.abs(q - p).sum() / 2),
        wasserstein=_wasserstein(bins, p, q) if bins.kind == "number" else None,
    )


def moves(bins: Bins, before: NDArray[np.int64], after: NDArray[np.int64], *, top: int = 3) -> list[Move]:
    """The cells and sides whose shares moved most, farthest first; an empty list when none did.

    The first is the one to tell people: a whole side of a border when the rows wandered over it, one cell when that
    alone tells nearly as much (a stuck value, zeros, nulls). The others are single cells.

    Raises:
        InvalidInput: ST907, counts that do not belong to these cells.

    Example:
        >>> from staytrue.kernel.bins import plain_bins
        >>> [move.what for move in moves(plain_bins("x", "values", "bool"), np.array([0, 5, 5]), np.array([5, 2, 3]))]
        ['missing x', 'x = false', 'x = true']
    """
    p, q = _shares(bins, before), _shares(bins, after)
    if not before.sum() or not after.sum():
        return []
    gaps = np.abs(q - p)
    # Of two that moved as far, the one that gained: it says where the rows went.
    ranked = np.lexsort((p > q, -gaps))
    cells = [_of_cell(bins, int(at), p, q) for at in ranked[:top] if gaps[at] > 0]
    side = _side(bins, p, q)
    if side and abs(side.after - side.before) * _ALONE > gaps.max():
        return [side, *cells[: top - 1]]
    return cells


def explain(bins: Bins, before: NDArray[np.int64], after: NDArray[np.int64]) -> str:
    """What moved, in one sentence.

    Raises:
        InvalidInput: ST907, counts that do not belong to these cells.

    Example:
        >>> from staytrue.kernel.bins import number_bins
        >>> from staytrue.kernel.sketch import sketch
        >>> bins = number_bins("lead_time", "values", sketch(np.array([8.0, 120.0]), np.ones(2, bool), "number"))
        >>> explain(bins, np.array([0, 0, 0, 0, 97, 3, 0]), np.array([0, 0, 0, 0, 59, 41, 0]))
        'The share of lead_time = 120 rose from 3 % to 41 %.'
    """
    found = moves(bins, before, after, top=1)
    return found[0].sentence if found else f"{_subject(bins)} did not move."


# A single cell is told before a side when its gap is at least nine tenths of the side's.
_ALONE = 0.9


def _shares(bins: Bins, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    if counts.shape != (bins.size,) or (counts < 0).any():
        raise InvalidInput(
            "ST907",
            f"Can't compare counts of {bins.column!r}: they are {counts.shape}, the lowest {counts.min(initial=0)}; "
            f"expected ({bins.size},), none below 0. Count the rows over the same reference.",
            column=bins.column,
        )
    return counts / max(int(counts.sum()), 1)


def _within(bins: Bins, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulative shares of the ordered cells among themselves."""
    of = p[bins.ordered]
    return np.asarray(np.cumsum(of) / max(of.sum(), np.finfo(float).tiny))


def _ks(bins: Bins, p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    apart = np.abs(q - p)[: bins.ordered.start].max(initial=0.0)
    if not p[bins.ordered].sum() or not q[bins.ordered].sum():
        return float(apart)
    return float(max(apart, np.abs(_within(bins, q) - _within(bins, p)).max()))


def _psi(before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (before, after))
    return float(np.sum((q - p) * np.log(q / p)))


def _jensen_shannon(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    middle = (p + q) / 2
    bits = sum(float(np.sum(side[side > 0] * np.log2(side[side > 0] / middle[side > 0]))) for side in (p, q))
    return float(np.sqrt(min(max(bits / 2, 0.0), 1.0)))


def _wasserstein(bins: Bins, p: NDArray[np.float64], q: NDArray[np.float64]) -> float | None:
    middles = bins.middles
    share = p[bins.ordered] / max(p[bins.ordered].sum(), np.finfo(float).tiny)
    mean = float(share @ middles)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(np.sqrt(share @ (middles - mean) ** 2))
    if not spread or not np.isfinite(spread):
        return None
    gaps = np.abs(_within(bins, q) - _within(bins, p))[:-1]
    return float(gaps @ np.diff(middles)) / spread


def _side(bins: Bins, p: NDArray[np.float64], q: NDArray[np.float64]) -> Move | None:
    """The side of a border that gained or lost most, of all rows; the smaller side before is the one named."""
    if bins.kind != "number" or not p[bins.ordered].sum() or not q[bins.ordered].sum():
        return None
    above_p, above_q = (np.cumsum(shares[bins.ordered][::-1])[::-1] for shares in (p, q))
    gaps = np.abs(above_q - above_p)[1:]
    at = int(np.argmax(gaps)) + 1
    border = bins.low(bins.ordered.start + at)
    if not gaps[at - 1] or border is None:
        return None
    before, after = float(above_p[at]), float(above_q[at])
    if before <= above_p[0] / 2:
        words = (
            "above " + digits(bins.centre)
            if bins.ordered.start + at == bins.zero + 1
            else f"at {digits(border)} or above"
        )
        return Move(what=f"{_subject(bins)} {words}", before=before, after=after)
    below = (float(above_p[0]) - before, float(above_q[0]) - after)
    return Move(what=f"{_subject(bins)} below {digits(border)}", before=below[0], after=below[1])


def _of_cell(bins: Bins, cell: int, p: NDArray[np.float64], q: NDArray[np.float64]) -> Move:
    return Move(what=_in_words(bins, cell), before=float(p[cell]), after=float(q[cell]))


def _in_words(bins: Bins, cell: int) -> str:
    subject, label = _subject(bins), bins.label(cell)
    if cell == MISSING:
        return f"missing {subject}"
    if bins.kind == "category" and cell in {NEW, OTHER}:
        return f"{subject} {'hardly or never seen in training' if cell == NEW else 'among the rarer known ones'}"
    if bins.kind == "number" and " " in label:
        return f"{subject} {'at ' if cell == bins.size - 1 else ''}{label}"
    return f"{subject} = {label}"


def _subject(bins: Bins) -> str:
    if bins.view == "values":
        return bins.column
    return f"{bins.column}'s {bins.view.replace('_', '-')}" + (" characters" if bins.kind == "share" else "")
