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
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from staytrue.errors import InvalidInput
from staytrue.kernel.gain import ALPHA, Cell, Change, Gain, Lost, gain, runs

__all__ = ["Interaction", "Repair", "repair", "shares"]

_ALIKE: Final = 0.2
"""Two repairs are alike when one wins back at most this share less than the other."""
_MOST_AXES: Final = 12


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
    each further change; where all of them win back surely more than that, all but one, and so on. With k axes that need a
    training these are k trainings where nobody is to blame, k + (k - 1) where one is, k more at most where only several
    together repair it.

    Args:
        changes: what may be done, in the order in which it is preferred where two do equally well.
        blocks: (n,) the block of each row.
        smallest: a gain a row below this is not worth anything; above 0, so that noise is no finding.
        groups: sets of changes that belong together and are also tried as one, such as both halves of the code.
        alpha: for all looks together.

    Yields:
        mixtures not asked for before. It is to be sent their outcomes; None, or a mixture left out: the budget is spent.

    Raises:
        InvalidInput: ST997, the bad release itself does not run; ST996, losses of other rows, or of none; ST998, a change
            twice, `smallest` not above 0, or `alpha` not between 0 and a half.

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
    if len(set(changes)) < len(changes) or not 0 < smallest < math.inf or not 0 < alpha < 0.5:
        msg = (
            f"Blaming: got {len(changes)} changes of which {len(set(changes))} differ, smallest {smallest} and alpha {alpha}; "
            "expected each change once, a smallest gain above 0 and an alpha above 0 and below 0.5."
        )
        raise InvalidInput("ST998", msg, changes=[[m.axis, m.how] for m in changes], smallest=smallest, alpha=alpha)
    return (yield from _Search(tuple(changes), blocks, smallest, tuple(groups), alpha).run())


class _Spent(Exception):
    """The budget is spent."""


class _Search:
    def __init__(
        self, changes: tuple[Change, ...], blocks: np.ndarray, smallest: float, groups: tuple[Cell, ...], alpha: float
    ) -> None:
        self.changes, self.blocks, self.smallest = changes, blocks, smallest
        self.groups = tuple(dict.fromkeys(group for group in groups if len(group) > 1 and group <= set(changes)))
        self.alpha = alpha
        self.lost: dict[Cell, Lost] = {}
        self.gains: dict[tuple[Cell, Cell], Gain] = {}
        self.looks: dict[Cell, int] = {}
        self.found: Cell = frozenset()
        self.steps: list[Gain] = []

    def run(self) -> Generator[Sequence[Cell], Mapping[Cell, Lost] | None, Repair]:
        cut_short = False
        try:
            yield from self._know([frozenset(), self._all_back()])
            yield from self._know([frozenset({change}) for change in self.changes] + list(self.groups))
            yield from self._greedy()
            yield from self._all_but_some()
        except _Spent:
            cut_short = True
        return self._repair(cut_short=cut_short)

    def _know(self, cells: Sequence[Cell]) -> Generator[Sequence[Cell], Mapping[Cell, Lost] | None, None]:
        wanted = [cell for cell in dict.fromkeys(cells) if cell not in self.lost]
        if not wanted:
            return
        given = (yield wanted) or {}
        self.lost |= {cell: runs(given[cell], self.blocks) for cell in wanted if cell in given}
        bad = self.lost.get(frozenset())
        if isinstance(bad, str):
            msg = f"Blaming: the release that got worse does not run, so nothing can be compared with it: {bad}"
            raise InvalidInput("ST997", msg, fails=bad)
        if any(cell not in self.lost for cell in wanted):
            raise _Spent

    def _all_back(self) -> Cell:
        return frozenset(change for change in self.changes if change.how == "back")

    def _gain(self, cell: Cell, over: Cell = frozenset()) -> Gain:
        if (cell, over) not in self.gains:
            level = 2 * self.alpha / self.looks.get(over, len(self.changes) + len(self.groups) + 1)
            made = gain(self.lost[over], self.lost[cell], self.blocks, tuple(cell - over), alpha=level)
            self.gains[cell, over] = made
        return self.gains[cell, over]

    def _count(self, over: Cell, cells: Sequence[Cell]) -> None:
        """How many looks share alpha when these are compared with `over`.

        Each step has an alpha of its own: a search goes on only after something was surely won back, and what it looks at then
        is new. A mixture that nowhere differs by more than `smallest` can't be blamed, so it is no look: most axes that changed
        are of this kind, and counting them would make intervals a tenth wider.
        """
        base = self.lost[over]
        looks = {cell: self.lost.get(cell, "not known") for cell in {*cells, self._all_back()} if cell > over}
        with np.errstate(over="ignore"):
            idle = sum(
                not isinstance(lost, str) and np.abs(lost - base).max() <= self.smallest for lost in looks.values()
            )
        self.looks[over] = max(1, len(looks) - idle)

    def _greedy(self) -> Generator[Sequence[Cell], Mapping[Cell, Lost] | None, None]:
        """Take the best change as long as one is surely worth it."""
        while True:
            taken = {change.axis for change in self.found}
            more = [self.found | {change} for change in self.changes if change.axis not in taken]
            more += [self.found | group for group in self.groups if not taken & {change.axis for change in group}]
            try:
                yield from self._know(more)
            finally:  # of what the budget was enough for, too
                self._count(self.found, more)
                best = self._best([cell for cell in more if cell in self.lost])
                if best is not None:
                    self.steps.append(self._gain(best, self.found))
                    self.found = best
            if best is None:
                return

    def _best(self, cells: Sequence[Cell]) -> Cell | None:
        """The mixture that wins most, of those that surely win; of several that do equally well the one preferred."""
        sure = [(self._gain(cell, self.found), cell) for cell in cells]
        sure = [(won, cell) for won, cell in sure if self._surely(won)]
        if not sure:
            return None
        most = max(won.mean for won, _ in sure)
        alike = [cell for won, cell in sure if won.mean >= (1 - _ALIKE) * most]
        return min(alike, key=self._rank)

    def _surely(self, won: Gain) -> bool:
        return won.fails is None and won.low > self.smallest

    def _rank(self, cell: Cell) -> tuple[int, list[int]]:
        return len(cell), sorted(self.changes.index(change) for change in cell)

    def _all_but_some(self) -> Generator[Sequence[Cell], Mapping[Cell, Lost] | None, None]:
        """Where everything taken back wins more than what was found: put forward again whatever is not needed for it."""
        whole = self._all_back()
        if not self.found < whole or len(whole - self.found) < 2 or not self._surely(self._gain(whole, self.found)):
            return
        needed = whole
        for part in self._dispensable(whole - self.found):
            less = needed - part
            if not part <= needed or not less > self.found or len(less - self.found) < 2:
                continue
            yield from self._know([less])
            if not self._misses(less, needed, whole):
                needed = less
        self.steps.append(self._gain(needed, self.found))
        self.found = needed

    def _dispensable(self, changes: Cell) -> list[Cell]:
        """What to try to do without: first what wins least alone; what belongs together first as one."""
        singles = sorted(changes, key=lambda one: (self._won_alone(one), -self.changes.index(one)))
        groups = [group for group in self.groups if group <= changes]
        return groups + [frozenset({change}) for change in singles]

    def _won_alone(self, change: Change) -> float:
        won = self._gain(frozenset({change}))
        return won.mean if won.fails is None else math.inf

    def _misses(self, less: Cell, needed: Cell, whole: Cell) -> bool:
        """Whether `less` no longer wins what `needed` does: clearly less, or surely less by something that matters."""
        won, lost = self._gain(less, self.found), self._gain(needed, less)
        if won.fails is not None:
            return True
        return won.mean < (1 - _ALIKE) * self._gain(whole, self.found).mean or self._surely(lost)

    def _repair(self, *, cut_short: bool) -> Repair:
        singles = tuple(self._gain(cell) for change in self.changes if (cell := frozenset({change})) in self.lost)
        looked = [*singles, *(self._gain(group) for group in self.groups if group in self.lost)]
        whole = self._all_back()
        # Of what was surely found the interval is wide because it is large.
        known = [one for one in looked if one.fails is None]
        unsure = [one.half for one in known if not self._surely(one)]
        return Repair(
            changes=tuple(change for step in self.steps for change in step.changes),
            gain=self._gain(self.found) if self.found else None,
            steps=tuple(self.steps),
            singles=singles,
            all_back=self._gain(whole) if whole and whole in self.lost else None,
            alternatives=self._alternatives(singles),
            interactions=tuple(self._interactions()),
            resolution=self.smallest + max(unsure, default=0.0 if known else math.inf),
            smallest=self.smallest,
            lost=dict(self.lost),
            cut_short=cut_short,
        )

    def _alternatives(self, singles: Sequence[Gain]) -> tuple[Change, ...]:
        if len(self.found) != 1:
            return ()
        enough = (1 - _ALIKE) * self._gain(self.found).mean
        return tuple(
            one.changes[0]
            for one in singles
            if one.changes[0] not in self.found and self._surely(one) and one.mean >= enough
        )

    def _interactions(self) -> list[Interaction]:
        """Pairs of which all four corners are known and that do not add up, by more than noise and than `smallest`."""
        found = []
        level = 2 * self.alpha / max(1, len(self.changes))
        for a, b in itertools.combinations(self.changes, 2):
            corners = [frozenset(), frozenset({a}), frozenset({b}), frozenset({a, b})]
            losses = [self.lost.get(corner, "unknown") for corner in corners]
            if a.axis == b.axis or any(isinstance(each, str) for each in losses):
                continue
            # What both win beyond the sum of each: (none - both) - (none - one) - (none - other). Halved, or it may overflow.
            none, one, other, both = (np.asarray(each, dtype=np.float64) / 2 for each in losses)
            half = gain(one + other, none + both, self.blocks, alpha=level)
            beyond = replace(half, mean=2 * half.mean, low=2 * half.low, high=2 * half.high)
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

    Raises:
        InvalidInput: ST999, the loss of no change or of every change is missing or no finite number, or too many axes.

    Example:
        >>> a, b = Change(axis="code"), Change(axis="data")
        >>> shares({frozenset(): 1.0, frozenset({a}): 0.9, frozenset({b}): 0.4, frozenset({a, b}): 0.2}, [a, b])
        ({'code': 0.15, 'data': 0.65}, True)
    """
    ends = [losses.get(frozenset(), math.nan), losses.get(frozenset(axes), math.nan)]
    if len(axes) > _MOST_AXES or not all(map(math.isfinite, ends)):
        msg = (
            f"Shares: got losses {ends[0]} with no change and {ends[1]} with every change of {len(axes)} axes; expected two "
            f"finite numbers and at most {_MOST_AXES} axes. Run both releases on the same rows first."
        )
        raise InvalidInput("ST999", msg, axes=[axis.axis for axis in axes])
    known = {cell: losses[cell] for cell in map(frozenset, _subsets(axes)) if math.isfinite(losses.get(cell, math.nan))}
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
