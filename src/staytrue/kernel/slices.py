"""Slices: where a model loses most, found among single bins and pairs of bins of its columns, and told as a rule.

Half of the ticks are searched, the other half decide. So a slice that chance made, which any search over thousands of slices
finds, is gone on the rows that it was not chosen by; and a slice that one bad day made, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from staytrue.errors import InvalidInput

__all__ = ["Condition", "Slice", "found"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BINS: Final = 8
_FEWEST_ROWS: Final = 30
_FEWEST_TICKS: Final = 5
# Losses beyond this quantile count as much as it: one absurd row makes no slice.
_HIGHEST: Final = 0.995
# In the search a slice must stand out by so many standard errors; chance makes about 4 among thousands of slices.
_WORTH_A_TEST: Final = 2.5
# A pair must stand out by so many standard errors more than what it was made of: the shorter rule is the better one.
_LONGER: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What one column must be: a text, `above` < a number <= `upto` (None: no such bound), or missing."""

    column: str
    value: str | None = None
    above: float | None = None
    upto: float | None = None

    def __str__(self) -> str:
        name, low, high = self.column, self.above, self.upto
        if self.value is not None:
            return f"{name} = {self.value}"
        if low is None and high is None:
            return f"{name} is missing"
        if low is None:
            return f"{name} <= {high:.4g}"
        return f"{name} > {low:.4g}" if high is None else f"{low:.4g} < {name} <= {high:.4g}"

    def holds(self, values: NDArray[Any]) -> Bools:
        """(n,) of which of the column's values it holds."""
        if self.value is not None:
            return np.fromiter((text == self.value for text in _texts(values)), np.bool_, len(values))
        numbers = values.astype(np.float64)
        if self.above is None and self.upto is None:
            return ~np.isfinite(numbers)
        low, high = (-math.inf if self.above is None else self.above), (math.inf if self.upto is None else self.upto)
        return np.isfinite(numbers) & (numbers > low) & (numbers <= high)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows that are alike and lose more than the others, by the half of the ticks that did not choose it.

    Fields:
        conditions: one or two, of different columns; a row must meet all.
        rows: of both halves. loss: mean loss in it, elsewhere: of all other rows, both on the deciding half.
        share: of all that was lost, what these rows lost beyond what the others lose a row.
        p: chance of so large an excess on the deciding half if there were none, for this slice alone.
    """

    conditions: tuple[Condition, ...]
    rows: int
    loss: float
    elsewhere: float
    share: float
    p: float

    @property
    def rule(self) -> str:
        """For people, such as `market_segment = Groups and lead_time > 180`."""
        return " and ".join(map(str, self.conditions))

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that it names."""
        return tuple(one.column for one in self.conditions)

    def inside(self, columns: Mapping[str, ArrayLike]) -> Bools:
        """(n,) which rows it is about.

        Example:
            >>> both = (Condition(column="city", value="faro"), Condition(column="size", above=5.0))
            >>> one = Slice(conditions=both, rows=0, loss=0.0, elsewhere=0.0, share=0.0, p=1.0)
            >>> one.rule, one.inside({"city": ["faro", "faro", "porto"], "size": [9, 5, 9]}).tolist()
            ('city = faro and size > 5', [True, False, False])
        """
        masks = [one.holds(np.asarray(columns[one.column])) for one in self.conditions]
        return np.asarray(np.logical_and.reduce(masks), np.bool_)

    @property
    def excess(self) -> float:
        """By how much a row loses more than elsewhere."""
        return self.loss - self.elsewhere

    @property
    def sentence(self) -> str:
        """For a person."""
        more = f" ({self.excess / self.elsewhere:+.0%})" if self.elsewhere > 0 else ""
        return f"where {self.rule} ({self.rows:,} rows) it loses {self.loss:.3g} a row, elsewhere {self.elsewhere:.3g}{more}"

    def document(self) -> dict[str, Any]:
        """As JSON."""
        numbers = {name: getattr(self, name) for name in ("rows", "loss", "elsewhere", "share", "p")}
        return {"rule": self.rule, "columns": list(self.columns), **numbers, "sentence": self.sentence}


def found(
    columns: Mapping[str, ArrayLike],
    losses: ArrayLike,
    *,
    rng: np.random.Generator,
    ticks: ArrayLike | None = None,
    level: float = 0.05,
    effect: float = 0.1,
    most: int = 5,
) -> list[Slice]:
    """Slices that lose more than the other rows, the surest first; none where that may be chance.

    Numbers are cut at eighths, and any run of neighbouring eighths is a bin; of texts the seven most frequent values are.
    Each single bin and each pair of bins of two columns is scored by its size-weighted excess loss, the best one's rows are
    put aside, and the next is looked for: at most `most`, without overlap. On the deciding half each is tested with
    ticks as the units that vary, and Benjamini and Hochberg keep those whose false discovery rate is at most `level`.

    Args:
        columns: name -> (n,) numbers (NaN: missing), bools, or texts (None: missing). losses: (n,) finite.
        rng: chooses the halves. ticks: (n,) whole numbers, of rows that may be alike (a day); None: rows are independent.
        effect: the least excess worth a word, as a share of the mean loss. most: slices to be tested.

    Returns:
        At most `most` slices; none below 120 rows.

    Raises:
        InvalidInput: ST956, losses that are no finite numbers, columns of other lengths, ticks that are not whole, or a level
            outside (0, 1).

    Source:
        Chung et al., "Slice Finder" (ICDE 2019); Sagadeeva and Boehm, "SliceLine" (SIGMOD 2021), for the size-weighted
        excess; Benjamini and Hochberg, JRSS B 57 (1995).

    Example:
        >>> rng = np.random.default_rng(1)
        >>> city, size = rng.choice(["faro", "porto", "lisbon"], 4000), rng.uniform(0, 8, 4000).round()
        >>> lost = rng.exponential(1, 4000) + 2 * ((city == "faro") & (size > 5))
        >>> [slice.rule for slice in found({"city": city, "size": size}, lost, rng=rng)]
        ['city = faro and size > 5']
    """
    lost, keys = _checked(columns, losses, ticks, level)
    if len(lost) < 4 * _FEWEST_ROWS or not lost.any():
        return []
    search = _half(keys, rng)
    lost = np.minimum(lost, _ceiling(lost[search]))
    binned = [_binned(name, np.asarray(values), search) for name, values in columns.items()]
    lattice = [one for one in binned if one.conditions]
    rest = np.ones(len(lost), np.bool_)
    candidates: list[Slice] = []
    while len(candidates) < most:
        best = _best(lattice, lost, search & rest, effect)
        if best is None:
            break
        inside = best.mask(len(lost)) & rest
        candidates.append(_tested(best, inside, rest & ~search, lost, keys))
        rest &= ~inside
    kept = _discoveries([one.p for one in candidates], level)
    sure = [one for one, yes in zip(candidates, kept, strict=True) if yes and one.excess >= effect * lost.mean()]
    return sorted(sure, key=lambda one: one.p)


# ---------------------------------------------------------------------------------------------- bins


@dataclass(frozen=True, kw_only=True)
class _Binned:
    """A column as bins, and the selections of bins that a rule may name.

    Fields:
        codes: (n,) the bin of each row. choice: (conditions, bins) 0 or 1.
    """

    codes: Ints
    choice: Floats
    conditions: tuple[Condition, ...]


def _binned(name: str, values: NDArray[Any], search: Bools) -> _Binned:
    if values.dtype.kind in "iuf":
        return _numbers_binned(name, values.astype(np.float64), search)
    texts = np.array(_texts(values), dtype=object)
    seen, counts = np.unique(texts[search], return_counts=True)
    kept = seen[np.lexsort((seen, -counts))][: _BINS - 1].tolist() if len(seen) > 1 else []
    place = {value: at for at, value in enumerate(kept)}
    codes = np.fromiter((place.get(text, len(kept)) for text in texts.tolist()), np.int64, len(texts))
    conditions = tuple(Condition(column=name, value=value) for value in kept)
    return _Binned(codes=codes, choice=np.eye(len(kept), len(kept) + 1), conditions=conditions)


def _texts(values: NDArray[Any]) -> list[str]:
    return ["none" if v is None or v != v else str(v) for v in values.tolist()]  # noqa: PLR0124 - NaN is not itself


def _numbers_binned(name: str, values: Floats, search: Bools) -> _Binned:
    missing = ~np.isfinite(values)
    seen = values[search & ~missing]
    if not len(seen):
        return _Binned(codes=np.zeros(len(values), np.int64), choice=np.zeros((0, 1)), conditions=())
    cuts = np.quantile(seen, np.arange(1, _BINS) / _BINS, method="inverted_cdf")
    edges = np.unique([float(f"{cut:.4g}") for cut in cuts])
    edges = edges[(edges >= seen.min()) & (edges < seen.max())]
    last = len(edges)
    codes = np.searchsorted(edges, values, side="left").astype(np.int64)
    codes[missing] = last + 1
    runs = [(low, high) for low in range(last + 1) for high in range(low, last + 1) if high - low < last]
    choice = np.zeros((len(runs) + 1, last + 2))
    for at, (low, high) in enumerate(runs):
        choice[at, low : high + 1] = 1
    choice[-1, -1] = 1
    bounds = [None, *edges.tolist(), None]
    conditions = (Condition(column=name, above=bounds[low], upto=bounds[high + 1]) for low, high in runs)
    return _Binned(codes=codes, choice=choice, conditions=(*conditions, Condition(column=name)))


# ---------------------------------------------------------------------------------------------- the search


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A selection of bins in one column or in two, and how far it stands out."""

    score: float
    parts: tuple[tuple[_Binned, int], ...]

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(one.conditions[at] for one, at in self.parts)

    def mask(self, n: int) -> Bools:
        inside = np.ones(n, np.bool_)
        for one, at in self.parts:
            inside &= one.choice[at][one.codes] > 0
        return inside


def _best(lattice: Sequence[_Binned], lost: Floats, rows: Bools, effect: float) -> _Candidate | None:
    """What stands out most among these rows; None when nothing is worth a test."""
    own = lost[rows]
    if len(own) < 2 * _FEWEST_ROWS or not own.std():
        return None
    singles = list(_scored(((one,) for one in lattice), own, rows, effect))
    pairs = list(_scored(combinations(lattice, 2), own, rows, effect))
    single, pair = (max(some, key=lambda c: c.score, default=None) for some in (singles, pairs))
    if pair and (single is None or pair.score > single.score + _LONGER):
        single = pair
    return single if single and single.score >= _WORTH_A_TEST else None


def _scored(
    groups: Iterator[tuple[_Binned, ...]] | Any, own: Floats, rows: Bools, effect: float
) -> Iterator[_Candidate]:
    """The best selection of each group of columns: the excess loss of its rows in standard errors.

    That is its excess a row times the root of its size, in units of the spread: size-weighted excess loss.
    """
    total, spread, mean = len(own), float(own.std()), float(own.mean())
    for group in groups:
        width = [one.choice.shape[1] for one in group]
        codes = group[0].codes[rows] if len(group) == 1 else group[0].codes[rows] * width[1] + group[1].codes[rows]
        n, s = (_selected(group, np.bincount(codes, weights, math.prod(width))) for weights in (None, own))
        fits = (n >= _FEWEST_ROWS) & (n <= total - _FEWEST_ROWS)
        inside = np.maximum(n, 1)
        excess = s / inside - (own.sum() - s) / np.maximum(total - n, 1)
        score = np.where(fits & (excess >= effect * mean), excess * np.sqrt(inside * (1 - n / total)) / spread, -np.inf)
        at = np.unravel_index(int(score.argmax()), score.shape)
        yield _Candidate(score=float(score[at]), parts=tuple(zip(group, (int(i) for i in at), strict=True)))


def _selected(group: tuple[_Binned, ...], counts: NDArray[Any]) -> Floats:
    """Sums over bins as sums over selections: (selections,) or (selections, selections)."""
    if len(group) == 1:
        return group[0].choice @ counts.astype(np.float64)
    table = counts.astype(np.float64).reshape(group[0].choice.shape[1], group[1].choice.shape[1])
    return group[0].choice @ table @ group[1].choice.T


# ---------------------------------------------------------------------------------------------- the deciding half


def _half(keys: Ints, rng: np.random.Generator) -> Bools:
    """(n,) whether a row is searched: about half of the ticks, chosen by chance."""
    ticks, at = np.unique(keys, return_inverse=True)
    order = rng.permutation(len(ticks))
    searched: Bools = (order < (len(ticks) + 1) // 2)[at]
    return searched


def _ceiling(lost: Floats) -> float:
    high = float(np.quantile(lost, _HIGHEST))
    return high if high > 0 else float(lost.max())


def _tested(candidate: _Candidate, inside: Bools, deciding: Bools, lost: Floats, keys: Ints) -> Slice:
    own, others = lost[inside & deciding], lost[deciding & ~inside]
    loss, elsewhere = (float(x.mean()) if len(x) else math.nan for x in (own, others))
    p = 1.0
    if min(len(own), len(others)) >= _FEWEST_ROWS:
        pull = np.where(inside, (lost - loss) / len(own), -(lost - elsewhere) / len(others))[deciding]
        _, at = np.unique(keys[deciding], return_inverse=True)
        ticks = len(np.unique(keys[deciding & inside]))
        if ticks >= _FEWEST_TICKS:
            error = math.sqrt(float((np.bincount(at, pull) ** 2).sum()) * ticks / (ticks - 1))
            p = _tail((loss - elsewhere) / error, ticks - 1) if error > 0 else float(loss <= elsewhere)
    excess = (loss - elsewhere) * len(own)
    return Slice(
        conditions=candidate.conditions,
        rows=int(inside.sum()),
        loss=loss,
        elsewhere=elsewhere,
        share=excess / float(lost[deciding].sum()) if lost[deciding].sum() > 0 else 0.0,
        p=p,
    )


def _tail(t: float, freedom: int) -> float:
    """P(T >= t) of Student's t, by Wallace's approximation."""
    z = (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t * t / freedom))
    return 0.5 * math.erfc(math.copysign(z, t) / math.sqrt(2))


def _discoveries(p_values: Sequence[float], level: float) -> list[bool]:
    """Benjamini and Hochberg: which of these to keep."""
    ranked = sorted(p_values)
    bar = max((p for k, p in enumerate(ranked, start=1) if p <= level * k / len(ranked)), default=-1.0)
    return [p <= bar for p in p_values]


def _checked(
    columns: Mapping[str, ArrayLike], losses: ArrayLike, ticks: ArrayLike | None, level: float
) -> tuple[Floats, Ints]:
    try:
        raw = np.asarray(losses)
        if raw.dtype.kind in "USMm":
            raise TypeError(f"losses of type {raw.dtype}")  # noqa: TRY301 - one message for all wrong types
        lost = raw.astype(np.float64)
    except (TypeError, ValueError) as exc:
        raise InvalidInput("ST956", f"Can't read the losses as numbers: {exc}.") from exc
    keys = np.arange(lost.size) if ticks is None else np.asarray(ticks)
    wrong = [name for name, values in columns.items() if np.asarray(values).shape != lost.shape]
    if lost.ndim != 1 or wrong or keys.shape != lost.shape or (keys.dtype.kind not in "iu" and lost.size):
        raise InvalidInput(
            "ST956",
            f"Can't look for slices in {lost.shape} losses: expected a column, and for each row one whole tick and one "
            f"value of each column; {', '.join(wrong[:5]) or 'ticks or losses'} differ.",
            columns=wrong,
        )
    if not np.isfinite(lost).all() or not 0 < level < 1:
        raise InvalidInput(
            "ST956",
            f"Can't look for slices at level {level!r}: it must be between 0 and 1, and every loss a finite number.",
            level=str(level),
        )
    return lost, keys.astype(np.int64)
