"""How a model does in each segment: its loss there, who is selected, gaps between segments, and whether one is harmed.

- `SegmentSums`: what is kept of a column's values, as whole numbers by tick and value: bounded, and exact to merge.
- `figures` and `gap`: what is read off them, with intervals whose units are ticks, since rows of one day are alike.
- `SegmentWatch`: whether the loss rose in some segment, all of them together under one alpha a year.

Segments differ in how hard they are, so a segment that loses more than others is a figure; one that loses more than it did
when the champion was fresh is harm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.evidence import Harm, fold_harm

__all__ = [
    "OTHER",
    "Estimate",
    "Figure",
    "Gap",
    "SegmentHarm",
    "SegmentSums",
    "SegmentWatch",
    "e_bh",
    "figures",
    "fold_segments",
    "fold_watch",
    "gap",
    "merge_segments",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OTHER: Final = "(other)"
"""Where rows go whose value has no sums of its own."""

Figure = Literal["loss", "error", "selection_rate", "positive_rate", "true_positive_rate", "false_positive_rate"]

_ROWS, _LABELLED, _LOSS, _ERROR, _SELECTED, _JUDGED, _POSITIVE, _CHOSEN, _HIT = range(9)
_FIGURES: Final[dict[Figure, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    # figure -> (columns that are added up, columns that they are divided by); a minus is written as -1 - column.
    "loss": ((_LOSS,), (_LABELLED,)),
    "error": ((_ERROR,), (_JUDGED,)),
    "selection_rate": ((_SELECTED,), (_ROWS,)),
    "positive_rate": ((_POSITIVE,), (_JUDGED,)),
    "true_positive_rate": ((_HIT,), (_POSITIVE,)),
    "false_positive_rate": ((_CHOSEN, -1 - _HIT), (_JUDGED, -1 - _POSITIVE)),
}
# Losses and errors in scale * 2**-36: 134 million rows at the scale fit.
_UNIT: Final = 2.0**36
_FEWEST_TICKS: Final = 5
_FEWEST_ROWS: Final = 30
_MEMORY_BLOCKS: Final = 128
"""Blocks that a `Harm` remembers: at each look a rise may have begun in any of them."""


# ---------------------------------------------------------------------------------------------- what is kept


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentSums:
    """Sums over the rows of each value of one column, tick by tick. Start with `SegmentSums.fresh`.

    Which values have sums of their own is said at the start and never by what comes, and of ticks the newest `keep`
    stay: so the state is bounded, and the same whatever the order and sharding of the rows.

    Fields:
        column: whose values these are. values: those with sums of their own; all others are `OTHER`.
        scale: losses and errors count at most this much, up or down. threshold: from where on an answer selects.
        keep: ticks that stay. ticks: (k,) ascending tick keys, k <= keep.
        sums: (k, values + 1, 9) whole numbers: rows, labelled, loss, error (answer - label), selected, judged (answer and
            label known), positive labels, selected among the judged, selected and positive.
    """

    column: str
    values: tuple[str, ...]
    scale: float
    threshold: float
    keep: int
    ticks: Ints
    sums: Ints

    def __post_init__(self) -> None:
        self.ticks.setflags(write=False)
        self.sums.setflags(write=False)

    @classmethod
    def fresh(cls, column: str, values: Sequence[str], *, scale: float, threshold: float = 0.5, keep: int = 32) -> Self:
        """No rows seen.

        Raises:
            InvalidInput: ST950, a value twice or `OTHER`, a scale that is no finite number above 0, a threshold that is
                not finite, or nothing to keep.

        Example:
            >>> SegmentSums.fresh("city", ["porto"], scale=10).names
            ('porto', '(other)')
        """
        known = tuple(str(value) for value in values)
        if len(set(known)) < len(known) or OTHER in known:
            raise InvalidInput(
                "ST950", f"Can't tell the segments of {column!r} apart: {known[:20]!r}; expected distinct values, "
                f"and {OTHER!r} is taken.", column=column, values=list(known[:20]),
            )  # fmt: skip
        if not (math.isfinite(scale) and scale > 0 and math.isfinite(threshold) and keep >= 1):
            raise InvalidInput(
                "ST950",
                f"Can't add up {column!r} with scale {scale!r}, threshold {threshold!r}, keep {keep!r}: "
                "scale must be a finite number above 0, threshold finite, keep 1 or more.",
                column=column, scale=str(scale), threshold=str(threshold), keep=keep,
            )  # fmt: skip
        return cls(
            column=column, values=known, scale=float(scale), threshold=float(threshold), keep=int(keep),
            ticks=np.empty(0, np.int64), sums=np.empty((0, len(known) + 1, 9), np.int64),
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """Its segments, in the order of `sums`: the values, then `OTHER`."""
        return (*self.values, OTHER)

    @property
    def rows(self) -> int:
        """Rows of the ticks that are kept."""
        return int(self.sums[:, :, _ROWS].sum())

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal state."""
        kept = {name: getattr(self, name) for name in ("column", "scale", "threshold", "keep")}
        return kept | {"values": list(self.values), "ticks": self.ticks.tolist(), "sums": self.sums.tolist()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The state that `document()` wrote; ST953 when it is not one."""
        try:
            settings = {name: document[name] for name in ("scale", "threshold", "keep")}
            empty = cls.fresh(document["column"], document["values"], **settings)
            ticks = np.array(document["ticks"], np.int64)
            sums = np.array(document["sums"], np.int64).reshape(len(ticks), len(empty.names), 9)
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise _unreadable("sums of segments", exc) from exc
        if (np.diff(ticks) <= 0).any() or len(ticks) > empty.keep or (sums[:, :, _ROWS] < 0).any():
            raise _unreadable("sums of segments", "ticks out of order, too many, or rows below 0")
        return replace(empty, ticks=ticks, sums=sums)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SegmentSums):
            return NotImplemented
        return (
            self._same_kind(other) and np.array_equal(self.ticks, other.ticks) and np.array_equal(self.sums, other.sums)
        )

    __hash__ = None  # type: ignore[assignment]

    def _same_kind(self, other: SegmentSums) -> bool:
        return (self.column, self.values, self.scale, self.threshold, self.keep) == (
            other.column, other.values, other.scale, other.threshold, other.keep,
        )  # fmt: skip


def fold_segments(
    sums: SegmentSums, ticks: ArrayLike, segment: ArrayLike, *,
    losses: ArrayLike | None = None, answers: ArrayLike | None = None, labels: ArrayLike | None = None,
) -> SegmentSums:  # fmt: skip
    """The sums with more rows. Order does not matter, but each row must be given once.

    Args:
        ticks: (n,) whole numbers, or one for all. segment: (n,) the column's values, as text.
        losses: (n,), NaN where there is no label. None: nothing is known of losses.
        answers: (n,) numbers, NaN where an answer is none. labels: (n,) numbers, NaN where not known; above 0.5 is
            positive. Either None: then nothing that needs it is counted.

    Raises:
        InvalidInput: ST951, columns of different lengths, ticks that are not whole, or a value that is no number or infinite.

    Example:
        >>> seen = fold_segments(SegmentSums.fresh("city", ["porto"], scale=10), 1, ["porto", "faro"], losses=[2.0, 4.0])
        >>> {name: round(found["loss"].value, 6) for name, found in figures(seen).items()}
        {'porto': 2.0, '(other)': 4.0}
    """
    names = np.asarray(segment)
    n = len(names) if names.ndim == 1 else -1
    keys = np.asarray(ticks)
    keys = np.full(max(n, 0), keys) if keys.ndim == 0 else keys
    given = {"losses": losses, "answers": answers, "labels": labels}
    columns = {name: _numbers(name, values, n) for name, values in given.items()}
    if n < 0 or keys.shape != (n,) or (keys.dtype.kind not in "iu" and n):
        raise InvalidInput(
            "ST951",
            f"Can't place the rows of {sums.column!r}: segment has shape {names.shape}, ticks are {keys.dtype} of shape "
            f"{keys.shape}; expected one text and one whole number for each row.",
            column=sums.column,
        )
    if not n:
        return sums
    return _added(sums, keys.astype(np.int64), _places(sums, names), _counted(sums, columns))


def _places(sums: SegmentSums, names: NDArray[Any]) -> Ints:
    """(n,) which segment each row is in."""
    place = {value: at for at, value in enumerate(sums.values)}
    return np.fromiter((place.get(str(name), len(place)) for name in names.tolist()), np.int64, len(names))


def _counted(sums: SegmentSums, columns: Mapping[str, Floats]) -> Ints:
    """(n, 9) what each row adds."""
    losses, answers, labels = columns["losses"], columns["answers"], columns["labels"]
    counted = np.zeros((len(losses), 9), np.int64)
    judged = ~np.isnan(answers) & ~np.isnan(labels)
    selected = answers > sums.threshold  # False for NaN
    positive = judged & (labels > 0.5)  # labels are 0 and 1 where this means anything
    counted[:, _ROWS] = 1
    counted[:, _LABELLED] = ~np.isnan(losses)
    counted[:, _LOSS] = _fixed(losses, sums.scale)
    with np.errstate(invalid="ignore", over="ignore"):
        counted[:, _ERROR] = _fixed(np.where(judged, answers - labels, 0.0), sums.scale)
    counted[:, _SELECTED] = selected
    counted[:, _JUDGED] = judged
    counted[:, _POSITIVE] = positive
    counted[:, _CHOSEN] = selected & judged
    counted[:, _HIT] = selected & positive
    return counted


def _fixed(values: Floats, scale: float) -> Ints:
    return np.rint(np.clip(np.nan_to_num(values / scale), -1.0, 1.0) * _UNIT).astype(np.int64)


def _added(sums: SegmentSums, keys: Ints, places: Ints, counted: Ints) -> SegmentSums:
    ticks = np.union1d(sums.ticks, keys)[-sums.keep :]
    table = np.zeros((len(ticks), len(sums.names), 9), np.int64)
    for own_keys, own_places, own in ((sums.ticks, None, sums.sums), (keys, places, counted)):
        kept = own_keys >= ticks[0]
        at = np.searchsorted(ticks, own_keys[kept])
        np.add.at(table, at if own_places is None else (at, own_places[kept]), own[kept])
    return replace(sums, ticks=ticks, sums=table)


def merge_segments(a: SegmentSums, b: SegmentSums) -> SegmentSums:
    """Both states' rows together: exact, in any order and grouping.

    Raises:
        InvalidInput: ST952, they count different things.
    """
    if not a._same_kind(b):  # noqa: SLF001 - its own class
        raise InvalidInput(
            "ST952",
            f"Can't merge the segments of {a.column!r} with those of {b.column!r}: they have other values, scale, threshold "
            "or ticks to keep. Begin both with the same settings.",
            columns=[a.column, b.column],
        )
    if not len(a.ticks) or not len(b.ticks):
        return b if len(b.ticks) else a
    ticks = np.union1d(a.ticks, b.ticks)[-a.keep :]
    table = np.zeros((len(ticks), len(a.names), 9), np.int64)
    for side in (a, b):
        kept = side.ticks >= ticks[0]
        table[np.searchsorted(ticks, side.ticks[kept])] += side.sums[kept]
    return replace(a, ticks=ticks, sums=table)


# ---------------------------------------------------------------------------------------------- what is read off it


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean or a share with its 95 % interval, and how many rows it is of. Without such rows `value` is NaN.

    `lo` and `hi` are NaN below five ticks or 30 rows: then nothing is said of how sure it is.
    """

    value: float
    lo: float
    hi: float
    of: int

    def document(self) -> dict[str, Any]:
        """The numbers as JSON: None stands for what is not known."""
        return {"value": _known(self.value), "lo": _known(self.lo), "hi": _known(self.hi), "of": self.of}


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The largest difference of a figure between two segments; the interval pays for having looked at all pairs."""

    figure: Figure
    high: str
    low: str
    size: Estimate

    @property
    def is_sure(self) -> bool:
        """Whether the interval excludes 0."""
        return self.size.lo > 0

    def document(self) -> dict[str, Any]:
        """As JSON."""
        named = {"figure": self.figure, "high": self.high, "low": self.low, "is_sure": self.is_sure}
        return named | {"size": self.size.document()}


def figures(sums: SegmentSums, *, level: float = 0.95) -> dict[str, dict[Figure, Estimate]]:
    """Segment -> its figures, for every segment with a row; a figure that nothing is known of has `of` 0.

    `loss` a labelled row; `error`, the mean of answer minus label (a model that quotes too much in a segment is above 0);
    of binary answers the selection rate, the share of positive labels and the rates of true and false positives.

    Intervals treat ticks as what varies, and assume that ticks are alike but for chance; of shares they are never narrower
    than 3 / rows.

    Example:
        >>> sums = SegmentSums.fresh("city", ["porto"], scale=1)
        >>> seen = fold_segments(sums, np.arange(80) // 8, ["porto"] * 80, answers=[0.9, 0.1] * 40, labels=[1.0] * 80)
        >>> found = figures(seen)["porto"]
        >>> found["true_positive_rate"].value, found["loss"].of
        (0.5, 0)
    """
    t = {of: _quantile(0.5 + level / 2, of) for of in range(1, len(sums.ticks))}
    made: dict[str, dict[Figure, Estimate]] = {}
    for at, name in enumerate(sums.names):
        if sums.sums[:, at, _ROWS].sum():
            made[name] = {figure: _estimate(_ratio(sums, at, figure), figure, t) for figure in _FIGURES}
    return made


def gap(sums: SegmentSums, figure: Figure, *, level: float = 0.95, fewest: int = _FEWEST_ROWS) -> Gap | None:
    """The largest difference between two segments' figures; None when fewer than two have rows and ticks enough.

    Args:
        level: of the interval, for all pairs together. fewest: rows below which a segment is left out.

    Example:
        >>> sums = SegmentSums.fresh("city", ["porto", "faro"], scale=1)
        >>> seen = fold_segments(sums, np.arange(400) // 40, ["porto", "faro"] * 200, answers=[0.9, 0.1] * 200)
        >>> found = gap(seen, "selection_rate")
        >>> found.high, found.low, found.size.value
        ('porto', 'faro', 1.0)
    """
    ratios = {name: _ratio(sums, at, figure) for at, name in enumerate(sums.names) if name != OTHER}
    there = {name: r for name, r in ratios.items() if r.of >= fewest and r.ticks >= _FEWEST_TICKS}
    if len(there) < 2:
        return None
    high, low = (pick(there, key=lambda name: there[name].value) for pick in (max, min))
    pairs = len(there) * (len(there) - 1) / 2
    a, b = there[high], there[low]
    pull = a.pull - b.pull
    ticks = min(a.ticks, b.ticks)
    half = _quantile(1 - (1 - level) / 2 / pairs, ticks - 1) * math.sqrt(float(pull @ pull) * ticks / (ticks - 1))
    if figure not in ("loss", "error"):
        half = max(half, 3 / min(a.of, b.of))
    size = a.value - b.value
    return Gap(
        figure=figure,
        high=high,
        low=low,
        size=Estimate(value=size, lo=size - half, hi=size + half, of=min(a.of, b.of)),
    )


@dataclass(frozen=True, kw_only=True)
class _Ratio:
    """Sum over sum, and how much each tick pulls it away from what the others say."""

    value: float
    of: int
    ticks: int
    pull: Floats


def _ratio(sums: SegmentSums, at: int, figure: Figure) -> _Ratio:
    above, below = (_column(sums, at, columns) for columns in _FIGURES[figure])
    of = int(below.sum())
    top = above * (sums.scale / _UNIT if figure in ("loss", "error") else 1.0)
    value = float(top.sum()) / of if of else math.nan
    pull = (top - value * below) / of if of else np.zeros(len(below))
    return _Ratio(value=value, of=of, ticks=int(np.count_nonzero(below)), pull=pull)


def _column(sums: SegmentSums, at: int, columns: tuple[int, ...]) -> Floats:
    table = sums.sums[:, at]
    total = np.zeros(len(table))
    for column in columns:
        total += table[:, column] if column >= 0 else -table[:, -1 - column]
    return total


def _error(ratio: _Ratio) -> float:
    """The standard error, with ticks as the units that vary; of at least two."""
    return math.sqrt(float(ratio.pull @ ratio.pull) * ratio.ticks / (ratio.ticks - 1))


def _estimate(ratio: _Ratio, figure: Figure, t: Mapping[int, float]) -> Estimate:
    if ratio.of < _FEWEST_ROWS or ratio.ticks < _FEWEST_TICKS:
        return Estimate(value=ratio.value, lo=math.nan, hi=math.nan, of=ratio.of)
    half = t[ratio.ticks - 1] * _error(ratio)
    if figure in ("loss", "error"):
        return Estimate(value=ratio.value, lo=ratio.value - half, hi=ratio.value + half, of=ratio.of)
    half = max(half, 3 / ratio.of)
    return Estimate(value=ratio.value, lo=max(ratio.value - half, 0.0), hi=min(ratio.value + half, 1.0), of=ratio.of)


def _quantile(p: float, freedom: int) -> float:
    """Student's t, by the expansion of Cornish and Fisher: within 1 % from 4 degrees of freedom on at p = .975."""
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, start=1)))


# ---------------------------------------------------------------------------------------------- harm in a segment


def e_bh(e_values: Mapping[str, float], level: float) -> tuple[str, ...]:
    """The names whose null is rejected, greatest evidence first, with a false discovery rate of at most `level`.

    Holds whatever the dependence between the e-values. Where no null is false, it is the chance that anything is named.

    Args:
        e_values: each with an expectation of at most 1 under its null. level: in (0, 1).

    Raises:
        InvalidInput: ST954, a level outside (0, 1), or an e-value that is NaN or below 0.

    Source:
        Wang and Ramdas, "False discovery rate control with e-values", JRSS B 84 (2022).

    Example:
        >>> e_bh({"a": 90.0, "b": 21.0, "c": 1.0}, 0.1)
        ('a', 'b')
    """
    if not 0 < level < 1 or any(math.isnan(e) or e < 0 for e in e_values.values()):
        raise InvalidInput(
            "ST954",
            f"Can't choose among e-values at level {level!r}: it must be between 0 and 1, and every e-value a number of 0 "
            "or more.",
            level=str(level),
        )
    ranked = sorted(e_values, key=lambda name: (-e_values[name], name))
    count = max((k for k, name in enumerate(ranked, start=1) if k * e_values[name] >= len(ranked) / level), default=0)
    return tuple(ranked[:count])


@dataclass(frozen=True, kw_only=True)
class SegmentHarm:
    """A segment whose loss rose: from what to what, since which tick, probably, and the evidence (an e-value)."""

    segment: str
    baseline: float
    level: float
    since: int
    evidence: float

    @property
    def sentence(self) -> str:
        """For a person."""
        rise = f" ({self.level / self.baseline - 1:+.0%})" if self.baseline > 0 else ""
        return f"loss in {self.segment} rose from {self.baseline:.3g} to {self.level:.3g} a row{rise}"


@dataclass(frozen=True, kw_only=True)
class SegmentWatch:
    """Whether the loss of a champion rose in any of its segments, above what it was there when the champion was fresh.

    The chance that any segment is named in a year without harm is at most `alpha`: half of it for baselines that came out
    too low, half for the evidence. A `Harm` adds up the evidence for a rise since each block, so divided by the blocks
    of a year (and those in its memory) it is an e-value at any moment of that year; e-BH takes all segments together. As
    for `Harm` itself this is exact for independent Gaussian block means and measured otherwise:
    benchmarks/segments.py. A rise below `effect` of a segment's fresh loss is not worth an alarm.

    Fields:
        alpha: a year; its second half is what e-BH gets. year_blocks: blocks a year, at most; with whole ticks in a block,
            the ticks of a year.
        values: column -> the values that are segments of their own. harms: segment -> its alarm.
        fired: segments that were named; they stay named until a fresh watch.
        unwatched: segments with too few fresh rows (30, on 5 ticks) to say what rose: they have no say.
    """

    alpha: float
    year_blocks: int
    values: Mapping[str, tuple[str, ...]]
    harms: Mapping[str, Harm]
    fired: tuple[str, ...] = ()
    unwatched: tuple[str, ...] = ()

    @classmethod
    def over(
        cls, fresh: Sequence[SegmentSums], *, alpha: float = 0.05, effect: float = 0.1, year_blocks: int = 365
    ) -> Self:
        """A watch over the segments of one or more columns.

        Args:
            fresh: the champion's losses where it was fresh (its trial, its first rows), one for each column.
            alpha: for all segments and a year. effect: the least rise worth an alarm, as a share of the fresh loss.

        Raises:
            InvalidInput: ST955, alpha outside (0, 1), an effect below 0 or not finite, a year without blocks.

        Example:
            >>> sums = SegmentSums.fresh("city", ["porto"], scale=100)
            >>> sums = fold_segments(sums, np.arange(400) // 20, ["porto"] * 400, losses=np.tile([1.0, 3.0], 200))
            >>> watch = SegmentWatch.over([sums])
            >>> list(watch.harms), round(watch.harms["city=porto"].baseline, 6)
            (['city=porto'], 2.0)
        """
        if not (0 < alpha < 1 and math.isfinite(effect) and effect >= 0 and year_blocks >= 1):
            raise InvalidInput(
                "ST955",
                f"Can't watch segments with alpha {alpha!r}, effect {effect!r} and {year_blocks!r} blocks a year: alpha must "
                "be between 0 and 1, effect 0 or more, blocks 1 or more.",
                alpha=str(alpha), effect=str(effect), year_blocks=year_blocks,
            )  # fmt: skip
        places = {f"{sums.column}={name}": (sums, at) for sums in fresh for at, name in enumerate(sums.names)}
        ratios = {name: _ratio(sums, at, "loss") for name, (sums, at) in places.items()}
        enough = [n for n, r in ratios.items() if r.of >= _FEWEST_ROWS and r.ticks >= _FEWEST_TICKS]
        share = alpha / 2 / max(len(enough), 1)
        return cls(
            alpha=alpha,
            year_blocks=int(year_blocks),
            values={sums.column: sums.values for sums in fresh},
            harms={name: _harm(*places[name], effect=effect, share=share) for name in enough},
            unwatched=tuple(name for name, ratio in ratios.items() if name not in enough and ratio.of),
        )

    @property
    def e_values(self) -> dict[str, float]:
        """Segment -> evidence of harm as of now."""
        return {name: harm.evidence / (self.year_blocks + _MEMORY_BLOCKS) for name, harm in self.harms.items()}

    def harmed(self) -> tuple[SegmentHarm, ...]:
        """The segments that were named, with what is known of them now."""
        return tuple(self._told(name, self.harms[name]) for name in self.fired)

    def _told(self, name: str, harm: Harm) -> SegmentHarm:
        since = harm.started if harm.started is not None else harm.blocks[-1][0]
        level = float(np.mean([mean for begun, mean in harm.blocks if begun >= since]))
        return SegmentHarm(segment=name, baseline=harm.baseline, level=level, since=since, evidence=self.e_values[name])

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal state."""
        return {
            "alpha": self.alpha,
            "year_blocks": self.year_blocks,
            "values": {column: list(values) for column, values in self.values.items()},
            "harms": {name: harm.document() for name, harm in self.harms.items()},
            "fired": list(self.fired),
            "unwatched": list(self.unwatched),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The state that `document()` wrote; ST953 when it is not one."""
        try:
            return cls(
                alpha=float(document["alpha"]),
                year_blocks=int(document["year_blocks"]),
                values={str(column): tuple(values) for column, values in document["values"].items()},
                harms={name: Harm.from_document(harm) for name, harm in document["harms"].items()},
                fired=tuple(document["fired"]),
                unwatched=tuple(document["unwatched"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise _unreadable("a watch over segments", exc) from exc


def fold_watch(
    watch: SegmentWatch, ticks: ArrayLike, segments: Mapping[str, ArrayLike], losses: ArrayLike
) -> SegmentWatch:
    """The watch after the champion's losses of one tick more, or of several, in order of arrival.

    Args:
        ticks: (n,) whole numbers, or one for all; each is complete. segments: column -> (n,) its values, as text.
        losses: (n,) finite; clipped at each segment's scale.

    Raises:
        InvalidInput: ST951, a column of another length; ST502, a loss is no finite number; ST503, ticks don't fit.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> day, city = np.repeat(np.arange(90), 40), np.tile(["faro", "porto"], 1800)
        >>> lost = rng.exponential(1, 3600) * np.where((city == "porto") & (day >= 60), 2, 1)
        >>> fresh = SegmentSums.fresh("city", ["faro", "porto"], scale=50)
        >>> fresh = fold_segments(fresh, day[:1200], city[:1200], losses=lost[:1200])
        >>> watch = fold_watch(SegmentWatch.over([fresh]), day[1200:], {"city": city[1200:]}, lost[1200:])
        >>> watch.fired, watch.harmed()[0].since
        (('city=porto',), 60)
    """
    lost = np.atleast_1d(np.asarray(losses))
    keys = np.asarray(ticks)
    keys = np.full(len(lost), keys) if keys.ndim == 0 else keys
    columns = {name: np.asarray(values).astype(str) for name, values in segments.items()}
    for name, values in columns.items():
        if values.shape != lost.shape or keys.shape != lost.shape:
            raise InvalidInput(
                "ST951",
                f"Can't place {lost.size} losses in the segments of {name!r}, which has shape {values.shape}: expected "
                "one text and one tick for each row.",
                column=name,
            )
    inside = {full: _inside(watch, columns, full) for full in watch.harms}

    for tick in np.unique(keys):
        of_tick = keys == tick
        harms = dict(watch.harms)
        for full, harm in watch.harms.items():
            mask = of_tick & inside[full]
            if mask.any():
                harms[full] = fold_harm(harm, int(tick), lost[mask], closed=True)
        watch = replace(watch, harms=harms)
        named = e_bh(watch.e_values, watch.alpha / 2) if harms else ()
        watch = replace(watch, fired=(*watch.fired, *(name for name in named if name not in watch.fired)))
    return watch


def _inside(watch: SegmentWatch, columns: Mapping[str, NDArray[Any]], full: str) -> NDArray[np.bool_]:
    """(n,) whether a row is in the segment; nowhere when its column was not given."""
    column, value = next((c, full[len(c) + 1 :]) for c in watch.values if full.startswith(f"{c}="))
    if column not in columns:
        return np.zeros(len(next(iter(columns.values()), np.empty(0))), np.bool_)
    rows = columns[column]
    return ~np.isin(rows, list(watch.values[column])) if value == OTHER else rows == value


def _harm(sums: SegmentSums, at: int, *, effect: float, share: float) -> Harm:
    """The alarm of one segment. Its tolerance is what is not worth an alarm, or the error of its baseline if that is more.

    It begins with the blocks of the fresh rows, which tell how much blocks vary: without them a loss that doubled after two
    weeks took a month to be named.
    """
    ratio = _ratio(sums, at, "loss")
    t = _quantile(1 - share, ratio.ticks - 1)
    mean = ratio.value
    # On a log scale, since few exponential losses have a mean and a spread that are too small together.
    doubt = mean * math.expm1(min(t * _error(ratio) / mean, 50.0)) if mean > 0 else t * _error(ratio)
    fresh = Harm.fresh(baseline=mean, scale=sums.scale, tolerance=max(effect * abs(mean), doubt))
    return replace(fresh, blocks=_blocks(sums, at, fresh.block_rows)[-_MEMORY_BLOCKS:])


def _blocks(sums: SegmentSums, at: int, block_rows: int) -> tuple[tuple[int, float], ...]:
    """(first tick, mean loss) of blocks of whole ticks, as a `Harm` forms them."""
    made, first, rows, total = [], 0, 0, 0
    for tick, (labelled, loss) in zip(sums.ticks.tolist(), sums.sums[:, at, [_LABELLED, _LOSS]].tolist(), strict=True):
        first = tick if not rows else first
        rows, total = rows + labelled, total + loss
        if rows >= block_rows:
            made.append((first, total / _UNIT * sums.scale / rows))
            rows, total = 0, 0
    return tuple(made)


# ---------------------------------------------------------------------------------------------- checks at the edge


def _numbers(what: str, values: ArrayLike | None, n: int) -> Floats:
    """(n,) numbers, NaN where nothing is known."""
    if values is None:
        return np.full(max(n, 0), np.nan)
    raw = np.asarray(values)
    try:
        if raw.dtype.kind in "USMm":  # numpy would turn "1.5" or a date into a number
            raise TypeError(f"values of type {raw.dtype}")  # noqa: TRY301 - one message for all wrong types
        numbers = raw.astype(np.float64)
    except (TypeError, ValueError) as exc:
        raise InvalidInput("ST951", f"Can't read the {what} as numbers: {exc}.", what=what) from exc
    if numbers.shape != (n,) or np.isinf(numbers).any():
        raise InvalidInput(
            "ST951",
            f"Can't use {what} of shape {numbers.shape} for {n} rows: expected one number for each row, "
            "finite, or NaN where it is not known.",
            what=what,
        )
    return numbers


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _unreadable(what: str, why: object) -> InvalidInput:
    return InvalidInput(
        "ST953", f"Can't read {what} from a document: {why}. Expected what `document()` wrote.", what=what
    )
