"""Confidence: what the loss would be if only the inputs had moved, from the answers alone, and when not to believe it.

A model that answers with probabilities says with each answer how much it expects to lose. Held against labels that came
late, that becomes an estimate which needs no label: `Curve`, counts in bins of what the model says of itself, smoothed so
that less sure never means less loss (isotonic). Answers without probabilities say less: a price is wrong by more when it is high,
one class more often than another. Such an estimate is weak and says so (`weak`); of rankings and objects there is none.

All of it holds only while equal answers mean equal losses. When the world changes they don't, and nothing but labels can
tell. So the labels that arrive are a test of it: `Calibration`, an evidence that runs for years. While it speaks against the
estimate nobody may call an app right because of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.evidence import Harm, fold_harm
from staytrue.kernel.few_labels import t_quantile

__all__ = [
    "Belief",
    "Calibration",
    "Curve",
    "Expected",
    "Scores",
    "expected_loss",
    "expected_losses",
    "fold",
    "merge",
    "scores",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Belief = Literal["untested", "believed", "refuted"]
Kind = Literal["probability", "number", "class"]

_MOST_BINS = 32
_FEWEST_ROWS = 200
"""Labelled rows that a curve is drawn from; below, it says nothing."""
_MOST_ROWS = 1000
"""Then the curve is left as it is. One that learned on would learn the harm, and never see it: a rise of the error from 25 to
35 % was missed in 30 of 30 streams of 1,600 rows."""
_FEWEST_BLOCKS = 4
"""Blocks of labels that a curve was held against before it is believed."""
_ARL = 1000.0
_TOLERANCE = 0.1
"""An error of the estimate below this share of the loss is not worth a word."""
_SHRINK = 20
"""A bin's own mean counts as much as the mean of all at so many rows, where bins have no order."""
_UNIT = 2.0**20
_FURTHEST = 1024.0


# ---------------------------------------------------------------------------------------------- what an answer says of itself


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What each answer says of the loss to expect.

    Fields:
        kind: probability: the loss that the model itself expects; number: the answer; class: the answer as text.
        values: (n,) float64 for probability and number, text for class.
    """

    kind: Kind
    values: NDArray[Any]

    @property
    def weak(self) -> bool:
        """Whether the model says nothing of how sure it is."""
        return self.kind != "probability"


def scores(metric: str, answers: Any) -> Scores | None:
    """What these answers say of the loss to expect; None where they say nothing (rankings, objects, of mixed types).

    Args:
        metric: the name of the app's metric, or of the user's own function.
        answers: (n,) or (n, classes), as the app gives them. Under log_loss, brier and error_rate numbers between 0 and 1
            are the probability of class 1, and rows of numbers those of all classes.

    Example:
        >>> scores("brier", [0.5, 0.9]).values.round(2).tolist(), scores("mae", [120.0]).kind
        ([0.25, 0.09], 'number')
        >>> scores("ndcg@10", [["a", "b"]]) is None
        True
    """
    listed = answers.tolist() if isinstance(answers, np.ndarray) else list(answers)
    if metric in _OWN_LOSS and (p := _probabilities(metric, listed)) is not None:
        return Scores(kind="probability", values=_OWN_LOSS[metric](p))
    if metric == "error_rate" and all(isinstance(a, (str, int, bool, np.integer, np.bool_)) for a in listed):
        return Scores(kind="class", values=np.array([str(a) for a in listed], object))
    if all(isinstance(a, (int, float, np.number)) and math.isfinite(a) for a in listed):
        return Scores(kind="number", values=np.array(listed, np.float64))
    return None


def _probabilities(metric: str, listed: list[Any]) -> Floats | None:
    try:
        p = np.array(listed, np.float64)
    except (TypeError, ValueError):
        return None
    if p.ndim not in (1, 2) or not ((p >= 0) & (p <= 1)).all():
        return None
    # An error rate counts classes: 0 and 1 are answers there, not chances.
    if p.ndim == 1 and metric == "error_rate" and bool(np.isin(p, (0, 1)).all()):
        return None
    return np.column_stack([1 - p, p]) if p.ndim == 1 else p


def _own_log_loss(p: Floats) -> Floats:
    losses: Floats = -(p * np.log(np.clip(p, 1e-15, 1.0))).sum(axis=1)
    return losses


def _own_brier(p: Floats) -> Floats:
    losses: Floats = (p * (1 - p)).sum(axis=1) / 2
    return losses


def _own_error_rate(p: Floats) -> Floats:
    losses: Floats = 1 - p.max(axis=1)
    return losses


_OWN_LOSS = {"log_loss": _own_log_loss, "brier": _own_brier, "error_rate": _own_error_rate}


# ---------------------------------------------------------------------------------------------- the curve


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Losses of labelled rows by what their answers said: counts, so that any order and sharding gives the same.

    Fields:
        kind: of the scores. scale: losses are kept in units of this, 2**-20 of it exact; about the mean loss.
        edges: (bins - 1,) inner edges of the scores, ascending, or the classes, sorted; what is none of these is one more bin.
        counts: for each bin rows, sum of losses, sum of squares, whole numbers.
    """

    kind: Kind
    scale: float
    edges: tuple[float, ...] | tuple[str, ...]
    counts: tuple[tuple[int, int, int], ...]

    @classmethod
    def fresh(cls, first: Scores, *, scale: float) -> Self:
        """No losses seen, with bins for scores like these.

        Args:
            first: of labelled rows, some hundred at least. scale: above 0, about the mean loss.

        Raises:
            InvalidInput: ST944, the scale is no number above 0.
        """
        if not (math.isfinite(scale) and scale > 0):
            raise InvalidInput(
                "ST944", f"Can't count losses in units of {scale!r}: give about their mean, a number above 0."
            )
        edges: tuple[Any, ...]
        if first.kind == "class":
            names, rows = np.unique(first.values.astype(str), return_counts=True)
            edges = tuple(sorted(names[np.argsort(-rows, kind="stable")][: _MOST_BINS - 1].tolist()))
        else:
            bins = max(min(_MOST_BINS, first.values.size // 25), 1)
            cuts = np.quantile(first.values, np.arange(1, bins) / bins) if first.values.size else np.empty(0)
            edges = tuple(np.unique(cuts).tolist())
        return cls(kind=first.kind, scale=float(scale), edges=edges, counts=((0, 0, 0),) * (len(edges) + 1))

    @property
    def rows(self) -> int:
        """Labelled rows seen."""
        return sum(rows for rows, _, _ in self.counts)

    @property
    def mean(self) -> float:
        """Their mean loss; NaN without rows."""
        return sum(loss for _, loss, _ in self.counts) / _UNIT * self.scale / self.rows if self.rows else math.nan

    def places(self, found: Scores) -> Ints:
        """(n,) the bin of each score.

        Raises:
            InvalidInput: ST945, they are of another kind than this curve.
        """
        if found.kind != self.kind:
            raise InvalidInput(
                "ST945",
                f"Can't look up answers of kind {found.kind!r} on a curve of kind {self.kind!r}: begin a new curve.",
                kinds=[found.kind, self.kind],
            )
        if self.kind == "class":
            known = {name: place for place, name in enumerate(self.edges)}
            return np.array([known.get(str(one), len(known)) for one in found.values.tolist()], np.int64)
        return np.searchsorted(np.array(self.edges, np.float64), found.values, side="left").astype(np.int64)

    def seen(self, found: Scores, losses: Floats) -> Self:
        """The curve with more labelled rows, in any order. Each row must be given once."""
        x = np.clip(losses / self.scale, -_FURTHEST, _FURTHEST)
        places = self.places(found)
        columns = np.stack([np.ones(x.size), np.rint(x * _UNIT), np.rint(x * x * _UNIT)], axis=1).astype(np.int64)
        sums = np.array(self.counts, np.int64)
        np.add.at(sums, places, columns)
        return replace(self, counts=tuple(tuple(line) for line in sums.tolist()))

    def values(self) -> tuple[Floats, Floats]:
        """(bins,) expected loss in each bin, and its squared standard error; NaN without rows."""
        sums = np.array(self.counts, np.float64)
        rows, total, squares = sums[:, 0], sums[:, 1] / _UNIT, sums[:, 2] / _UNIT
        if not rows.sum():
            return np.full(rows.size, math.nan), np.full(rows.size, math.nan)
        mean = total.sum() / rows.sum()
        whole = max(squares.sum() / rows.sum() - mean**2, 0.0)
        kept = np.maximum(rows, 1)
        ordered = self.kind == "probability"
        level = _isotonic(total / kept, rows) if ordered else (total + _SHRINK * mean) / (rows + _SHRINK)
        spread = np.maximum(squares / kept - (total / kept) ** 2, 0.0)
        # Of a bin with few rows the spread is hardly known: that of all rows counts as so many rows of its own.
        error = (rows * spread + _SHRINK * whole) / (rows + _SHRINK) / kept
        return level * self.scale, error * self.scale**2

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal curve."""
        return {
            "kind": self.kind,
            "scale": self.scale,
            "edges": list(self.edges),
            "counts": [list(line) for line in self.counts],
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The curve that `document()` wrote; ST946 when it is not one."""
        try:
            kind, edges = document["kind"], document["edges"]
            counts = tuple((int(rows), int(loss), int(squares)) for rows, loss, squares in document["counts"])
            of: type = str if kind == "class" else float
            scale = float(document["scale"])
            if kind not in ("probability", "number", "class") or len(counts) != len(edges) + 1 or not scale > 0:
                raise ValueError(f"{len(counts)} counts of kind {kind} for {len(edges)} edges")  # noqa: TRY301
            return cls(kind=kind, scale=scale, edges=tuple(of(edge) for edge in edges), counts=counts)
        except (KeyError, TypeError, ValueError) as exc:
            raise _unreadable("a curve", exc) from exc


def merge(a: Curve, b: Curve) -> Curve:
    """Both curves' rows together: exact, in any order.

    Raises:
        InvalidInput: ST945, they have other bins or scales, so that their counts count different things.
    """
    if (a.kind, a.scale, a.edges) != (b.kind, b.scale, b.edges):
        raise InvalidInput(
            "ST945", "Can't merge curves with different bins or scales: begin both from one `Curve.fresh`."
        )
    counts = tuple((x[0] + y[0], x[1] + y[1], x[2] + y[2]) for x, y in zip(a.counts, b.counts, strict=True))
    return replace(a, counts=counts)


def _isotonic(level: Floats, rows: Floats) -> Floats:
    """The non-decreasing levels nearest to these, by pooling neighbours that are out of order; empty bins take the next one's.

    Source:
        Ayer, Brunk, Ewing, Reid, Silverman, Annals of Mathematical Statistics 26 (1955).
    """
    pools: list[tuple[float, float, int]] = []  # level, rows, bins
    for value, weight in zip(level.tolist(), rows.tolist(), strict=True):
        pool = (value, weight, 1)
        while pools and (pools[-1][0] >= pool[0] or not pool[1] or not pools[-1][1]):
            before = pools.pop()
            weight_of = before[1] + pool[1]
            shared = (before[0] * before[1] + pool[0] * pool[1]) / weight_of if weight_of else 0.0
            pool = (shared, weight_of, before[2] + pool[2])
        pools.append(pool)
    return np.repeat([value for value, _, _ in pools], [bins for _, _, bins in pools])


# ---------------------------------------------------------------------------------------------- the estimate and its test


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The mean loss to expect of some rows if only the inputs had moved, and between what it lies (95 %)."""

    mean: float
    lo: float
    hi: float
    rows: int
    weak: bool

    def document(self) -> dict[str, Any]:
        """As JSON: None stands for what is not known."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A curve, and what the labels that arrived since say of it.

    Two alarms run on the difference between what was lost and what was expected: one for more, one for less. Each is made
    for years (`kernel/evidence.py`: `Harm`): while the curve is right, at least 1,000 blocks of 30 labels pass on average
    until it is refuted. Then another curve is drawn from the labels that came since; with 200 of them, and 4 blocks that it
    was held against, it is believed. So the state never needs a person to begin again.

    Fields:
        curve: what is expected of an answer.
        more, less: the alarms; None while the curve has too few rows to be held against anything.
        refuted_at: tick of the labels that refuted the curve before this one, until this one is believed.
    """

    curve: Curve
    more: Harm | None = None
    less: Harm | None = None
    refuted_at: int | None = None

    @classmethod
    def fresh(cls, first: Scores, *, scale: float) -> Self:
        """Nothing known, with bins for scores like these. Arguments and errors as for `Curve.fresh`.

        Example:
            >>> Calibration.fresh(scores("brier", [0.5, 0.9, 0.2]), scale=0.2).belief
            'untested'
        """
        return cls(curve=Curve.fresh(first, scale=scale))

    @property
    def belief(self) -> Belief:
        """Whether the estimate may be believed.

        `untested`: there are too few labels to draw it from, or to hold it against. `refuted`: labels spoke against it,
        and a new one has not proven itself yet.
        """
        tested = self.more is not None and len(self.more.blocks) >= _FEWEST_BLOCKS
        if tested and self.refuted_at is None:
            return "believed"
        return "untested" if self.refuted_at is None else "refuted"

    @property
    def enough(self) -> bool:
        """Whether the curve has rows enough to expect anything."""
        return self.curve.rows >= _FEWEST_ROWS

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal state."""
        return {
            "curve": self.curve.document(),
            "more": self.more and self.more.document(),
            "less": self.less and self.less.document(),
            "refuted_at": self.refuted_at,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The state that `document()` wrote; ST946 or ST507 when it is not one."""
        try:
            alarms = {name: document[name] and Harm.from_document(document[name]) for name in ("more", "less")}
            at = document["refuted_at"]
            refuted_at = None if at is None else int(at)
            return cls(curve=Curve.from_document(document["curve"]), refuted_at=refuted_at, **alarms)
        except (KeyError, TypeError, ValueError) as exc:
            raise _unreadable("a calibration", exc) from exc


def fold(calibration: Calibration, tick: int, found: Scores, losses: ArrayLike) -> Calibration:
    """The calibration after the labels of one more tick, in the order in which labels arrive.

    They are held against the curve as it was before them, and only then drawn into it.

    Args:
        tick: a whole number, such as that of the day. found: of the tick's labelled rows. losses: (n,) theirs; n = 0
            changes nothing.

    Raises:
        InvalidInput: ST945, the scores are of another kind; ST947, not one loss a score, or one that is not finite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> def day(tick, error):
        ...     p = rng.uniform(0.5, 1, 50)
        ...     right = rng.random(50) < p - error
        ...     return tick, scores("brier", p), (p - right) ** 2
        >>> state = Calibration.fresh(day(0, 0)[1], scale=0.2)
        >>> for tick in range(30):
        ...     state = fold(state, *day(tick, 0))
        >>> state.belief
        'believed'
        >>> for tick in range(30, 34):
        ...     state = fold(state, *day(tick, 0.4))
        >>> state.belief
        'refuted'
    """
    lost = np.asarray(losses, np.float64).reshape(-1)
    if lost.size != found.values.size or not np.isfinite(lost).all():
        raise InvalidInput(
            "ST947",
            f"Can't hold {lost.size} losses against {found.values.size} answers: give one finite loss an answer, and leave rows "
            "without a label out.",
            losses=lost.size, answers=int(found.values.size),
        )  # fmt: skip
    if not lost.size:
        return calibration
    state = calibration
    if state.enough:
        state = _tested(state, tick, lost - expected_losses(state, found))
        if state.more is not None and state.less is not None and (state.more.fired or state.less.fired):
            empty = ((0, 0, 0),) * len(state.curve.counts)
            state = Calibration(curve=replace(state.curve, counts=empty), refuted_at=tick)
        elif state.more is not None and len(state.more.blocks) >= _FEWEST_BLOCKS:
            state = replace(state, refuted_at=None)
    return state if state.curve.rows >= _MOST_ROWS else replace(state, curve=state.curve.seen(found, lost))


def _tested(state: Calibration, tick: int, beyond: Floats) -> Calibration:
    more, less = state.more, state.less
    size = math.sqrt(sum(line[2] for line in state.curve.counts) / _UNIT / state.curve.rows) * state.curve.scale
    # What is not worth a word, and the error of the curve itself, which gets smaller while the curve is drawn.
    tolerance = _TOLERANCE * abs(state.curve.mean) + size / math.sqrt(state.curve.rows)
    if more is None or less is None:
        more = less = Harm.fresh(baseline=0.0, scale=max(5 * size, 1e-9), arl=_ARL)
    return replace(
        state,
        more=fold_harm(replace(more, tolerance=tolerance), tick, beyond, closed=True),
        less=fold_harm(replace(less, tolerance=tolerance), tick, -beyond, closed=True),
    )


def expected_losses(calibration: Calibration, found: Scores) -> Floats:
    """(n,) the loss to expect of each of these answers; NaN before the first label. ST945 for answers of another kind."""
    level, _ = calibration.curve.values()
    values: Floats = level[calibration.curve.places(found)]
    return values


def expected_loss(calibration: Calibration, found: Scores) -> Expected:
    """The mean loss to expect of these answers, if only the inputs had moved.

    The interval holds the error of the curve, and how far single ticks have strayed from it so far: of rows of many ticks it is
    wider than need be. It does not hold what can't be known without labels: see `Calibration.belief`.

    Returns:
        Mean NaN and bounds without an end while there are fewer than 200 labelled rows, or of no answers.

    Raises:
        InvalidInput: ST945, answers of another kind.
    """
    weak = found.kind != "probability"
    if not calibration.enough or not found.values.size:
        return Expected(mean=math.nan, lo=-math.inf, hi=math.inf, rows=int(found.values.size), weak=weak)
    level, error = calibration.curve.values()
    share = np.bincount(calibration.curve.places(found), minlength=level.size) / found.values.size
    blocks = [mean for _, mean in calibration.more.blocks] if calibration.more else []
    strayed = float(np.mean(np.square(blocks))) if blocks else 0.0
    mean = float(share @ level)
    reach = t_quantile(0.975, max(len(blocks), 2)) * math.sqrt(float(share**2 @ error) + strayed)
    return Expected(mean=mean, lo=mean - reach, hi=mean + reach, rows=int(found.values.size), weak=weak)


def _unreadable(what: str, why: object) -> InvalidInput:
    return InvalidInput(
        "ST946", f"Can't read {what} from a document: {why}. Expected what `document()` wrote.", what=what
    )
