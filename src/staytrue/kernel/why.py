"""Why: what a single answer rests on. How far rows of training are from the row that was asked about, and what moved the answer.

Two ways to look at one answer, both without a look into the model: rows that it learned from and that are much alike, and
what it answers when one column has another value. Values go in, numbers come out; reading rows and asking releases is the
loop's work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.contract import Column
from staytrue.kernel.sketch import Sketch, kind_of, moments, quantile

__all__ = [
    "Effect",
    "Smallest",
    "Standing",
    "changed_numbers",
    "distances",
    "label_effect",
    "number_effect",
    "probabilities",
    "ranked",
    "smallest",
    "standing",
    "units",
]

Floats = NDArray[np.float64]
Direction = Literal["raises", "lowers", "either"]

_FARTHEST: Final = 3.0
"""So far apart two numbers count at most: one absurd value must not decide alone who is near."""
_RTOL: Final = 1e-6
_ATOL: Final = 1e-12
_ONE_WAY: Final = 0.8
"""From this share of the movement on a column is said to raise, or to lower, the answer."""
_SUM_TOLERANCE: Final = 1e-4
_LARGEST: Final = 1e300
_SPREADS: Final = ((0.25, 0.75), (0.05, 0.95), (0.0, 1.0))


# -- how far apart rows are -------------------------------------------------------------------------------------------


def units(sketches: Mapping[str, Sketch]) -> dict[str, float]:
    """How far apart two values of a column have to be to count 1: its interquartile range in training.

    Numbers and times only, in their own unit (times: microseconds). Where the quartiles are equal, the range of the middle
    90 %, of all, or the standard deviation; a column of one value has no unit and is left out.

    Args:
        sketches: by column, over all rows of training.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> units({"size": sketch(np.arange(1.0, 102.0), np.ones(101, bool), "number")})
        {'size': 50.0}
    """
    found = {}
    for name, one in sketches.items():
        if one["is"] not in {"number", "time"}:
            continue
        spread = next((gap for low, high in _SPREADS if (gap := _gap(one, low, high)) > 0), 0.0)
        told = moments(one) if not spread and one["is"] == "number" else None
        spread = spread or (told[1] if told else 0.0)
        if spread > 0 and math.isfinite(spread):
            found[name] = spread
    return found


def _gap(one: Sketch, low: float, high: float) -> float:
    ends = quantile(one, low), quantile(one, high)
    return 0.0 if ends[0] is None or ends[1] is None else ends[1] - ends[0]


def distances(asked: Mapping[str, Column], rows: Mapping[str, Column], units: Mapping[str, float]) -> Floats:
    """(n,) how far each row is from the one that was asked about: the mean over the columns of how far apart the values are.

    Numbers and times: their difference in units, at most 3, so that one absurd value does not decide alone. Texts and
    booleans: 0 or 1. Lists of as many numbers: the length of their difference over the sum of their lengths, in [0, 1]; other
    lists: the share of items that only one of them has. Missing on one side only: 1, on both: 0. So a mean of 1 is as far
    as a row with another word, or a quarter of all rows between, in every column.

    Args:
        asked: column -> its one value, (1,).
        rows: column -> (n,), of the same types; columns beyond `asked` are passed over.
        units: as `units` gives them; a number without one counts 0 when it is equal, else 1.

    Raises:
        InvalidInput: ST970, a column of `asked` that the rows lack, or columns of different lengths.

    Source:
        Gower, "A general coefficient of similarity and some of its properties", Biometrics 27 (1971), with interquartile
        ranges in the place of ranges.

    Example:
        >>> one = {"size": Column(type="float64", values=np.array([2.0]), valid=np.ones(1, bool))}
        >>> many = {"size": Column(type="float64", values=np.array([2.0, 3.0, 99.0]), valid=np.ones(3, bool))}
        >>> distances(one, many, {"size": 2.0}).tolist()
        [0.0, 0.5, 3.0]
    """
    lacking = [name for name in asked if name not in rows]
    lengths = {len(rows[name].valid) for name in asked if name in rows}
    if lacking or len(lengths) > 1 or not asked:
        raise InvalidInput(
            "ST970",
            f"Can't tell how far rows are from the one asked about: they lack {', '.join(lacking) or 'nothing'}, and their "
            f"columns have the lengths {sorted(lengths)}. Expected the same columns, at least one.",
            lacking=lacking,
        )
    total = np.zeros(lengths.pop())
    for name, one in asked.items():
        total += _apart(one, rows[name], units.get(name))
    return total / len(asked)


def _apart(one: Column, many: Column, unit: float | None) -> Floats:
    """(n,) how far apart the values of one column are."""
    there = many.valid & ~_nan(many)
    if not bool(one.valid[0]) or bool(_nan(one)[0]):
        return there.astype(np.float64)
    kind = kind_of(many.type)
    value = one.values[0]
    if kind in {"number", "time"}:
        apart = _numbers_apart(float(value), many, unit)
    elif kind == "list":
        apart = _lists_apart(value, many.values, there)
    elif kind == "null":
        apart = np.ones(len(there))
    else:
        apart = np.asarray(many.values != value, np.float64)
    return np.where(there, apart, 1.0)


def _nan(column: Column) -> NDArray[np.bool_]:
    values: NDArray[Any] = column.values
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), np.bool_)


def _numbers_apart(value: float, many: Column, unit: float | None) -> Floats:
    numbers: NDArray[Any] = many.values.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if unit is None:
            return np.asarray(numbers != value, np.float64)
        apart = np.minimum(np.abs(numbers - value) / unit, _FARTHEST)
    # Two infinities have no difference; equal ones are not apart.
    made: Floats = np.where(np.isnan(apart), np.where(numbers == value, 0.0, _FARTHEST), apart)
    return made


def _lists_apart(value: Any, many: NDArray[Any], there: NDArray[np.bool_]) -> Floats:
    made = np.ones(len(many))
    for i in np.flatnonzero(there).tolist():
        made[i] = _two_lists(np.asarray(value), np.asarray(many[i]))
    return made


def _two_lists(a: NDArray[Any], b: NDArray[Any]) -> float:
    if a.shape == b.shape and a.dtype.kind in "iuf" and b.dtype.kind in "iuf":
        with np.errstate(invalid="ignore", over="ignore"):
            gap, both = np.linalg.norm(a - b.astype(np.float64)), np.linalg.norm(a) + np.linalg.norm(b)
            return float(gap / both) if both and math.isfinite(both) else float(not np.array_equal(a, b))
    left, right = ({repr(item) for item in x.tolist()} for x in (a, b))
    return 1 - len(left & right) / len(left | right) if left | right else 0.0


# -- the nearest, and a sample: whatever is smallest ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Smallest:
    """The places of the smallest values that were folded so far: the nearest rows, or with random values a sample of them.

    Attributes:
        most: so many are kept.
        values: (k,) ascending, k <= most.
        places: (k,) where each stands, as whoever folded them counts; of equal values the smaller place is kept.
    """

    most: int
    values: Floats = field(default_factory=lambda: np.empty(0))
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def limit(self) -> float:
        """A value above it is not kept any more; infinity while there is room."""
        return float(self.values[-1]) if len(self.values) >= self.most and self.most else math.inf


def smallest(kept: Smallest, values: Floats, places: NDArray[np.int64]) -> Smallest:
    """What is kept once these values are folded in; the same in any order and grouping.

    Args:
        values: (n,), none NaN.
        places: (n,), each different from all others.

    Example:
        >>> one = smallest(Smallest(most=2), np.array([3.0, 1.0]), np.array([0, 1]))
        >>> smallest(one, np.array([2.0]), np.array([2])).places.tolist()
        [1, 2]
    """
    near = values <= kept.limit
    values, places = np.concatenate([kept.values, values[near]]), np.concatenate([kept.places, places[near]])
    if len(values) > 4 * kept.most:  # a sort of all of them takes longer than a look for the border
        border = np.partition(values, kept.most - 1)[kept.most - 1] if kept.most else -math.inf
        values, places = values[values <= border], places[values <= border]
    order = np.lexsort([places, values])[: kept.most]
    return Smallest(most=kept.most, values=values[order], places=places[order])


# -- what moved the answer --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What became of an answer when one column of the row had other values, drawn from training.

    Attributes:
        draws: answers that came of it; `failed`: draws that the release had no answer to.
        changed: of these draws, how many had another answer.
        mean: the row's answer minus the answer with a drawn value, on average: above 0, the row's own value raises the answer.
            In the answer's unit; None where answers are no numbers.
        size: the mean of how far the answer moved, in the same unit; None likewise.
        direction: what the row's own value does to the answer, when at least four fifths of all that it moved went that way;
            `either` when neither did; None where nothing changed, or answers are no numbers.
    """

    column: str
    draws: int
    failed: int
    changed: int
    mean: float | None = None
    size: float | None = None
    direction: Direction | None = None

    @property
    def share(self) -> float:
        """The share of the draws with another answer; 0 without any."""
        return self.changed / self.draws if self.draws else 0.0

    def document(self) -> dict[str, Any]:
        """The effect as JSON."""
        names = ("column", "draws", "failed", "changed", "mean", "size", "direction")
        return {name: getattr(self, name) for name in names} | {"share": self.share}


def changed_numbers(base: float, answers: Floats) -> NDArray[np.bool_]:
    """(m,) which answers are another number: by more than a millionth, or 1e-12 around 0; a NaN is no answer.

    Example:
        >>> changed_numbers(1.0, np.array([1.0, 1.0000001, 1.1, np.nan])).tolist()
        [False, False, True, False]
    """
    with np.errstate(invalid="ignore", over="ignore"):
        within = np.abs(answers - base) <= np.maximum(_RTOL * np.maximum(np.abs(answers), abs(base)), _ATOL)
    return ~within & ~np.isnan(answers)


def number_effect(column: str, base: float, answers: Floats) -> Effect:
    """The effect of a column on an answer that is a number.

    Args:
        base: the answer to the row as it was asked, finite.
        answers: (m,) with a drawn value in the place of the row's; NaN where there was none. m = 0: nothing moved.

    Example:
        >>> effect = number_effect("size", 10.0, np.array([8.0, 6.0, 10.0, np.nan]))
        >>> effect.mean, effect.size, effect.changed, effect.failed, effect.direction
        (2.0, 2.0, 2, 1, 'raises')
    """
    given = answers[~np.isnan(answers)]
    changed = changed_numbers(base, given)
    with np.errstate(over="ignore"):  # the sums of what is cut here stay finite
        gaps = np.where(changed, np.clip(base - given, -_LARGEST, _LARGEST), 0.0)
    return Effect(
        column=column,
        draws=len(given),
        failed=len(answers) - len(given),
        changed=int(changed.sum()),
        mean=float(gaps.mean()) if len(gaps) else 0.0,
        size=float(np.abs(gaps).mean()) if len(gaps) else 0.0,
        direction=_direction(gaps[changed]),
    )


def _direction(gaps: Floats) -> Direction | None:
    if not len(gaps):
        return None
    raised = float(gaps[gaps > 0].sum() / np.abs(gaps).sum())
    return "raises" if raised >= _ONE_WAY else "lowers" if raised <= 1 - _ONE_WAY else "either"


def label_effect(column: str, changed: NDArray[np.bool_], answered: NDArray[np.bool_]) -> Effect:
    """The effect of a column on an answer that is no number: whether it is another one.

    Args:
        changed: (m,) whether the answer differs from that to the row as it was asked.
        answered: (m,) whether there was an answer at all; what stands in `changed` elsewhere does not count.

    Example:
        >>> label_effect("city", np.array([True, False, True]), np.array([True, True, False])).share
        0.5
    """
    draws = int(answered.sum())
    return Effect(column=column, draws=draws, failed=len(answered) - draws, changed=int((changed & answered).sum()))


def ranked(effects: Iterable[Effect], *, most: int = 8) -> list[Effect]:
    """Those that moved the answer, the farthest first: by size, then by share of draws, then by name.

    Example:
        >>> [one.column for one in ranked([Effect(column="a", draws=4, failed=0, changed=c) for c in (0, 2)])]
        ['a']
    """
    moved = [one for one in effects if one.changed]
    return sorted(moved, key=lambda one: (-(one.size or 0.0), -one.share, one.column))[:most]


def probabilities(base: Any, answers: Sequence[Any]) -> tuple[str, float, Floats] | None:
    """Answers that are probabilities of classes, as the one number that tells most: that of the class which the row got most of.

    Args:
        base: the answer to the row as it was asked.
        answers: (m,) others; None where there was none.

    Returns:
        The class (a name, or its place in a list), its probability in `base`, and (m,) in the others, NaN where there is
        none. None: `base` is no dict or list of at least two probabilities that sum to 1.

    Example:
        >>> probabilities({"cat": 0.7, "dog": 0.3}, [{"cat": 0.2, "dog": 0.8}, None])
        ('cat', 0.7, array([0.2, nan]))
    """
    items = _named_numbers(base)
    if len(items) < 2 or min(items.values()) < 0 or abs(sum(items.values()) - 1) > _SUM_TOLERANCE:
        return None
    # The first of equal ones: the order of a dict is that of the answer.
    which = max(items, key=lambda name: items[name])
    return which, items[which], np.array([_named_numbers(one).get(which, math.nan) for one in answers], np.float64)


def _named_numbers(answer: Any) -> dict[str, float]:
    """Name -> number; empty when it is something else."""
    if isinstance(answer, list | tuple):
        answer = {str(place): value for place, value in enumerate(answer)}
    if not isinstance(answer, dict) or any(
        isinstance(v, bool) or not isinstance(v, int | float) for v in answer.values()
    ):
        return {}
    return {str(name): float(value) for name, value in answer.items()}


# -- how usual a loss is ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A loss among others of the same release: the shares of the rows that lost more, and that lost as much, in [0, 1]."""

    rows: int
    more: float
    as_much: float


def standing(loss: float, others: Floats) -> Standing:
    """How usual a loss is among those of other rows; of none, shares of 0.

    Example:
        >>> standing(2.0, np.array([1.0, 2.0, 5.0, 9.0]))
        Standing(rows=4, more=0.5, as_much=0.25)
    """
    if not len(others):
        return Standing(rows=0, more=0.0, as_much=0.0)
    same = np.isclose(others, loss, rtol=_RTOL, atol=_ATOL)
    return Standing(rows=len(others), more=float(((others > loss) & ~same).mean()), as_much=float(same.mean()))
