"""Blame: which of the changes between two releases made today's loss worse, found by asking for mixtures of the two.

A mixture is the bad release with some of its axes taken from the good one (or refreshed). All mixtures answer the same
rows, so losses are compared row by row. The headline is the *repair*: the smallest set of changes that wins back what
was lost. Shapley shares explain it.

The search is a generator that yields the mixtures it wants to know and is sent what they lose: how they are trained,
where, and whether that was done before is not its business.

Source:
    Shapley, "A value for n-person games" (1953); Budhathoki et al., "Why did the distribution change?" (2021).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from staytrue.errors import InvalidInput
from staytrue.kernel.gain import ALPHA, Cell, Change, Gain, Lost, gain

__all__ = ["Interaction", "Repair", "repair", "shares"]

_ALIKE: Final = 0.2
"""Two repairs are alike when one wins back at most this share less than the other."""


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """Two axes whose effects do not add up.

    `kind` is `together` (each alone is harmless, both new do harm: either one taken back repairs it) or `each` (each alone
    does the harm: only both taken back repair it). `beyond` is what both changes win a row beyond the sum of each alone.
    """

    axes: tuple[str, str]
    kind: str
    beyond: float


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What a search has found.

    Attributes:
        changes: the smallest set of changes that repairs; empty: nothing that changed is to blame.
        gain: what all of them together win back a row; None without changes.
        steps: each change with what it won over those before it, in the order in which they were found.
        singles: each change alone.
        all_back: the good release on the same rows; None where no such mixture exists.
        alternatives: other changes that would repair as well, each alone.
        interactions: where the whole is not the sum.
        resolution: the smallest gain a row that this search would have seen.
        smallest: gains up to this were not worth looking for.
        lost: mixture -> its outcome, all that were asked for.
        cut_short: the budget ended before the search did.
    """

    changes: tuple[Change, ...]
    gain: Gain | None
    steps: tuple[Gain, ...]
    singles: tuple[Gain, ...]
    all_back: Gain | None
    alternatives: tuple[Change, ...]
    interactions: tuple[Interaction, ...]
    resolution: float
    smallest: float
    lost: Mapping[Cell, Lost] = field(repr=False, default_factory=dict)
    cut_short: bool = False


# ---------------------------------------------------------------- the search


def repair(
    changes: Sequence[Change],
    blocks: np.ndarray,
    *,
    smallest: float,
    groups: Sequence[Cell] = (),
    alpha: float = ALPHA,
) -> Generator[Sequence[Cell], Mapping[Cell, Lost] | None, Repair]:
    """Search for the smallest set of changes that wins back more than `smallest` a row.

    Asked for are: the bad release (no change), the good one (every change back), each change alone, then what is found with
    each further change; where no change alone helps but all of them do, all but one. With k axes that need a training these
    are at most k + (k - 1) + ... trainings, usually k + (k - 1).

    Args:
        changes: what may be done, in the order in which it is preferred where two do equally well.
        blocks: (n,) the block of each row.
        smallest: a gain a row below this is not worth anything; above 0, so that noise is no finding.
        groups: sets of changes that belong together and are also tried as one, such as both halves of the code.
        alpha: for all looks together.

    Yields:
        mixtures not asked for before. It is to be sent their outcomes; None, or a mixture left out: the budget is spent.

    Raises:
        InvalidInput: ST997, the bad release itself does not run; ST996, losses of other rows.

    Example:
        >>> from staytrue.kernel.gain import blocks_of
        >>> rows = np.random.default_rng(0).exponential(size=600)
        >>> search = repair([Change(axis="code"), Change(axis="data")], blocks_of([50] * 12), smallest=0.01)
        >>> asked, outcomes = next(search), {}
        >>> while True:
        ...     outcomes = {cell: rows - 0.2 * (Change(axis="data") in cell) for cell in asked}
        ...     try: asked = search.send(outcomes)
        ...     except StopIteration as stop: found = stop.value; break
        >>> [change.axis for change in found.changes], round(found.gain.mean, 2)
        (['data'], 0.2)
    """
    return (yield from _Search(tuple(changes), blocks, smallest, tuple(groups), alpha).run())


class _Spent(Exception):
    """The budget is spent."""


class _Search:
    def __init__(
        self, changes: tuple[Change, ...], blocks: np.ndarray, smallest: float, groups: tuple[Cell, ...], alpha: float
    ) -> None:
        self.changes, self.blocks, self.smallest, self.groups = changes, blocks, smallest, groups
        self.lost: dict[Cell, Lost] = {}
        # Every single, every pair with what was found, and all: the looks of a usual search.
        self.alpha = alpha / max(1, 2 * len(changes))
        self.steps: list[Gain] = []

    def run(self) -> Generator[Sequence[Cell], Mapping[Cell, Lost] | None, Repair]:
        cut_short = False
        found: Cell = frozenset()
        try:
            yield from self._know([frozenset(), self._all_back()])
            if isinstance(self.lost[frozenset()], str):
                msg = f"Blaming: the release that got worse does not run: {self.lost[frozenset()]}"
                raise InvalidInput("ST997", msg, fails=self.lost[frozenset()])
            yield from self._know([frozenset({change}) for change in self.changes] + list(self.groups))
            found = yield from self._greedy()
            if not found:
                found = yield from self._all_but_some()
        except _Spent:
            cut_short = True
        return self._found(found, cut_short=cut_short)

    def _know(self, cells: Sequence[Cell]) -> Generator[Sequence[Cell], Mapping[Cell, Lost] | None, None]:
        wanted = [cell for cell in dict.fromkeys(cells) if cell not in self.lost]
        if not wanted:
            return
        self.lost |= (yield wanted) or {}
        if any(cell not in self.lost for cell in wanted):
            raise _Spent

    def _all_back(self) -> Cell:
        return frozenset(change for change in self.changes if change.how == "back")

    def _gain(self, cell: Cell, over: Cell = frozenset()) -> Gain:
        return gain(self.lost[over], self.lost[cell], self.blocks, tuple(cell - over), alpha=2 * self.alpha)

    def _greedy(self) -> Generator[Sequence[Cell], Mapping[Cell, Lost] | None, Cell]:
        """Take the best change as long as one is surely worth it."""
        found: Cell = frozenset()
        while True:
            free = [m for m in self.changes if m.axis not in {taken.axis for taken in found}]
            more = [found | {m} for m in free] + [found | group for group in self.groups if not found & group]
            try:
                yield from self._know(more)
            finally:
                best = self._best([cell for cell in more if cell in self.lost], found)
                if best is not None:
                    self.steps.append(self._gain(best, found))
                    found = best
            if best is None:
                return found

    def _best(self, cells: Sequence[Cell], over: Cell) -> Cell | None:
        """The mixture that wins most, of those that surely win; of several that do equally well the one preferred."""
        sure = [(self._gain(cell, over), cell) for cell in cells]
        sure = [(won, cell) for won, cell in sure if won.fails is None and won.low > self.smallest]
        if not sure:
            return None
        most = max(won.mean for won, _ in sure)
        alike = [cell for won, cell in sure if won.mean >= (1 - _ALIKE) * most]
        return min(alike, key=self._rank)

    def _rank(self, cell: Cell) -> tuple[int, list[int]]:
        return len(cell), sorted(self.changes.index(change) for change in cell)

    def _all_but_some(self) -> Generator[Sequence[Cell], Mapping[Cell, Lost] | None, Cell]:
        """No change alone helps: from everything taken back, put forward again whatever is not needed."""
        whole = self._all_back()
        most = self._gain(whole) if len(whole) > 1 else None
        if most is None or most.fails is not None or not most.low > self.smallest:
            return frozenset()
        needed = whole
        for change in sorted(whole, key=lambda m: self._single(m).mean if self._single(m).fails is None else -math.inf):
            less = needed - {change}
            if len(less) < 2:
                break
            yield from self._know([less])
            won = self._gain(less)
            if won.fails is None and won.mean >= (1 - _ALIKE) * most.mean:
                needed = less
        self.steps = [self._gain(needed)]
        return needed

    def _single(self, change: Change) -> Gain:
        return self._gain(frozenset({change}))

    def _found(self, found: Cell, *, cut_short: bool) -> Repair:
        singles = tuple(self._single(change) for change in self.changes if frozenset({change}) in self.lost)
        known = [one for one in singles if one.fails is None]
        whole = self._all_back()
        in_order = [change for step in self.steps for change in step.changes]
        return Repair(
            changes=tuple(in_order),
            gain=self._gain(found) if found else None,
            steps=tuple(self.steps),
            singles=singles,
            all_back=self._gain(whole) if whole and whole in self.lost else None,
            alternatives=self._alternatives(found, known),
            interactions=tuple(self._interactions()),
            resolution=self.smallest + max((one.half for one in known), default=math.inf),
            smallest=self.smallest,
            lost=dict(self.lost),
            cut_short=cut_short,
        )

    def _alternatives(self, found: Cell, singles: Sequence[Gain]) -> tuple[Change, ...]:
        if len(found) != 1:
            return ()
        won = self._gain(found).mean
        return tuple(
            one.changes[0]
            for one in singles
            if one.changes[0] not in found and one.low > self.smallest and one.mean >= (1 - _ALIKE) * won
        )

    def _interactions(self) -> list[Interaction]:
        """Pairs of which all four corners are known and that do not add up, by more than noise and than `smallest`."""
        found = []
        for a, b in itertools.combinations(self.changes, 2):
            corners = [frozenset(), frozenset({a}), frozenset({b}), frozenset({a, b})]
            losses = [self.lost.get(corner, "unknown") for corner in corners]
            if a.axis == b.axis or any(isinstance(each, str) for each in losses):
                continue
            none, one, other, both = (np.asarray(each, dtype=np.float64) for each in losses)
            # What both win beyond the sum of each: (none - both) - (none - one) - (none - other).
            beyond = gain(one + other, none + both, self.blocks, alpha=2 * self.alpha)
            if beyond.low > self.smallest or beyond.high < -self.smallest:
                kind = "each" if beyond.mean > 0 else "together"
                found.append(Interaction(axes=(a.axis, b.axis), kind=kind, beyond=beyond.mean))
        return found


# ---------------------------------------------------------------- to explain


def shares(losses: Mapping[Cell, float], axes: Sequence[Change]) -> tuple[dict[str, float], bool]:
    """Each axis' Shapley share of what the bad release loses more than the good one, and whether all mixtures were known.

    A mixture that is not known (or does not run) is filled in as if the axes it lacks had no interaction beyond those
    that are known: so the shares still add up, but are an estimate.

    Args:
        losses: mixture -> its mean loss; at least no change and every change of `axes`.
        axes: the changes back, one for each axis; at most 12.

    Returns:
        share by axis: above 0 made it worse; their sum is the loss of no change less that of every change.

    Example:
        >>> a, b = Change(axis="code"), Change(axis="data")
        >>> shares({frozenset(): 1.0, frozenset({a}): 0.9, frozenset({b}): 0.4, frozenset({a, b}): 0.2}, [a, b])
        ({'code': 0.15, 'data': 0.65}, True)
    """
    known = {cell: losses[cell] for cell in map(frozenset, _subsets(axes)) if cell in losses}
    whole = len(known) == 2 ** len(axes)
    value = {cell: known.get(cell, math.nan) for cell in map(frozenset, _subsets(axes))}
    for size in range(1, len(axes) + 1):
        for cell in [one for one in value if len(one) == size and math.isnan(value[one])]:
            value[cell] = _filled(cell, value)
    n = len(axes)
    found = {}
    for axis in axes:
        others = [change for change in axes if change != axis]
        share = 0.0
        for cell in map(frozenset, _subsets(others)):
            weight = math.factorial(len(cell)) * math.factorial(n - len(cell) - 1) / math.factorial(n)
            share += weight * (value[cell] - value[cell | {axis}])
        found[axis.axis] = round(share, 12)
    return found, whole


def _subsets(changes: Sequence[Change]) -> list[tuple[Change, ...]]:
    return [cell for size in range(len(changes) + 1) for cell in itertools.combinations(changes, size)]


def _filled(cell: Cell, value: Mapping[Cell, float]) -> float:
    if len(cell) == 1:
        return value[frozenset()]
    guesses = []
    for a, b in itertools.combinations(sorted(cell), 2):
        without = cell - {a, b}
        guesses.append(value[without | {a}] + value[without | {b}] - value[without])
    return float(np.mean(guesses))
