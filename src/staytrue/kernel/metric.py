"""How wrong an answer is: one loss a row, lower is better, whether it comes from a name or from a user's function.

Everything above (evidence, alarms, replay) reads nothing but these losses, so what is not a loss stops here: a wrong
length, a NaN, a text where a number belongs, a probability of 1.2. The error names the row and the value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput

__all__ = ["METRICS", "Metric", "UserMetric", "metric"]

Floats = NDArray[np.float64]
UserMetric = Callable[[Any, Any, Any], Any]
Losses = Callable[[Any, Any, Any], Floats]
RankValue = Callable[[list[Any], frozenset[Any]], float]

# A sure answer that is wrong would cost infinity; so it costs -ln(1e-15) = 34.5.
_SUREST = 1e-15
# Rows of a probability matrix may miss 1 by what float32 sums miss.
_SUM_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A way to count losses.

    Fields:
        name: as the user wrote it, or the function's name.
        losses: (answers, labels, rows) -> (n,) finite float64, one a row, lower is better; n = 0 gives none.
        summary: losses -> the number that people know the metric by (their mean; for rmse its root); NaN for none.
    """

    name: str
    losses: Losses
    summary: Callable[[Floats], float]


def metric(spec: str | UserMetric) -> Metric:
    """The metric that an app names, or its own function wrapped in the same checks.

    Args:
        spec: one of `METRICS`, with a number for Q (0 to 1) or K (1 or more), or a function (answers, labels, rows) ->
            losses, which gets all three untouched and gives one finite number a row.

    Raises:
        InvalidInput: ST520, no such metric. From `losses`: ST521, lengths differ; ST522, a value of the wrong type;
            ST523, a value is missing, NaN or infinite; ST524, no probability; ST525, a label that the metric can't
            use; ST526, no ranked list; ST527, the user's function raised; ST528, it gave no loss for each row.

    Example:
        >>> metric("mae").losses([1.0, 4.0], [2.0, 2.0], None)
        array([1., 2.])
        >>> metric("rmse").summary(metric("rmse").losses([1, 5], [1, 1], None)) ** 2
        8.000000000000002
    """
    if callable(spec):
        return _from_function(spec)
    name = str(spec)
    found = _named(name)
    if found is None:
        near = get_close_matches(re.split("[:@]", name)[0], [re.split("[:@]", known)[0] for known in METRICS], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidInput(
            "ST520",
            f"Can't find the metric {name!r}.{hint} Expected one of {', '.join(METRICS)} (such as pinball:0.9 or "
            "ndcg@10) or a function (answers, labels, rows) -> losses.",
            metric=name,
            known=list(METRICS),
        )
    return Metric(name=name, losses=found, summary=_root_mean if name == "rmse" else _mean)


def _named(name: str) -> Losses | None:
    kind, _, number = name.partition("@")
    if kind in _RANKED and re.fullmatch("[1-9][0-9]{0,8}", number):
        return _ranked(name, int(number), _RANKED[kind])
    kind, _, number = name.partition(":")
    if kind == "pinball" and (share := _share(number)) is not None:
        return _pinball(share)
    return _PLAIN.get(name)


def _share(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < 1 else None


def _mean(losses: Floats) -> float:
    return float(losses.mean()) if losses.size else math.nan


def _root_mean(losses: Floats) -> float:
    return math.sqrt(float(losses.mean())) if losses.size else math.nan


# ---------------------------------------------------------------------------------------------- numbers


def _mae(answers: Any, labels: Any, _rows: Any) -> Floats:
    a, y = _number_pairs(answers, labels)
    return _finite_losses(np.abs(a - y))


def _rmse(answers: Any, labels: Any, _rows: Any) -> Floats:
    a, y = _number_pairs(answers, labels)
    with np.errstate(over="ignore"):
        return _finite_losses((a - y) ** 2)


def _mape(answers: Any, labels: Any, _rows: Any) -> Floats:
    a, y = _number_pairs(answers, labels)
    _demand(y != 0, y, "ST525", "label", "a number other than 0 (mape divides by it; use mae where a label may be 0)")
    with np.errstate(over="ignore"):
        return _finite_losses(np.abs(a - y) / np.abs(y))


def _pinball(share: float) -> Losses:
    def losses(answers: Any, labels: Any, _rows: Any) -> Floats:
        a, y = _number_pairs(answers, labels)
        return _finite_losses(np.where(y >= a, share * (y - a), (1 - share) * (a - y)))

    return losses


def _number_pairs(answers: Any, labels: Any) -> tuple[Floats, Floats]:
    a, y = _column(answers, "answer"), _column(labels, "label")
    _same_length(a, y)
    return _numbers(a, "answer"), _numbers(y, "label")


# ---------------------------------------------------------------------------------------------- probabilities


def _log_loss(answers: Any, labels: Any, _rows: Any) -> Floats:
    p, y = _chances(answers, labels)
    given: Floats = np.clip(p[np.arange(len(y)), y], _SUREST, 1.0)
    return -np.log(given)


def _brier(answers: Any, labels: Any, _rows: Any) -> Floats:
    p, y = _chances(answers, labels)
    happened = np.zeros_like(p)
    happened[np.arange(len(y)), y] = 1.0
    # Half of the sum over the classes: with two classes that is (p - y)^2, whichever way the chances are given.
    losses: Floats = ((p - happened) ** 2).sum(axis=1) / 2
    return losses


def _chances(answers: Any, labels: Any) -> tuple[Floats, NDArray[np.intp]]:
    """(n, classes) probabilities and (n,) classes, from P(label = 1) a row or from a row of probabilities a row."""
    raw = _matrix(answers)
    y = _column(labels, "label")
    _same_length(raw, y)
    p = _numbers(raw, "answer")
    _demand((p >= 0) & (p <= 1), p, "ST524", "answer", "a probability from 0 to 1")
    if p.ndim == 1:
        p = np.column_stack([1 - p, p])
    else:
        total = p.sum(axis=1)
        _demand(
            np.abs(total - 1) <= _SUM_TOLERANCE, total, "ST524", "sum of answer", "1 (a probability for each class)"
        )
    number = _numbers(y, "label")
    last = p.shape[1] - 1
    _demand(np.isin(number, np.arange(last + 1)), number, "ST525", "label", f"a class number from 0 to {last}")
    return p, number.astype(np.intp)


# ---------------------------------------------------------------------------------------------- classes and rankings


def _error_rate(answers: Any, labels: Any, _rows: Any) -> Floats:
    a, y = _column(answers, "answer"), _column(labels, "label")
    _same_length(a, y)
    _all_present(a, "answer")
    _all_present(y, "label")
    if a.size and {isinstance(v, str) for v in a} == {True} and not any(isinstance(v, str) for v in y):
        raise _wrong_type("answer", 0, a[0], f"the labels' type ({type(y[0]).__name__}), or every answer is wrong")
    if y.size and {isinstance(v, str) for v in y} == {True} and not any(isinstance(v, str) for v in a):
        raise _wrong_type("answer", 0, a[0], "text like the labels, or every answer is wrong")
    return np.array([_differs(one, other) for one, other in zip(a, y, strict=True)], dtype=np.float64)


def _differs(answer: Any, label: Any) -> bool:
    return not bool(np.all(answer == label))


def _ndcg(ranked: list[Any], wanted: frozenset[Any]) -> float:
    best = sum(1 / math.log2(place + 2) for place in range(min(len(wanted), len(ranked))))
    return sum(1 / math.log2(place + 2) for place, item in enumerate(ranked) if item in wanted) / best


def _hit(ranked: list[Any], wanted: frozenset[Any]) -> float:
    return float(any(item in wanted for item in ranked))


def _ranked(name: str, k: int, value: RankValue) -> Losses:
    def losses(answers: Any, labels: Any, _rows: Any) -> Floats:
        lists, wanted = _items(answers, "answer"), _items(labels, "label")
        _same_length(lists, wanted)
        values = [
            value(_first(name, position, answer, k), _wanted(name, position, label))
            for position, (answer, label) in enumerate(zip(lists, wanted, strict=True))
        ]
        return 1 - np.array(values, dtype=np.float64)

    return losses


def _first(name: str, position: int, answer: Any, k: int) -> list[Any]:
    """Exactly k places; None where the list is too short or names an item again, which is a wasted place."""
    if isinstance(answer, (str, bytes, dict, set, frozenset)) or not isinstance(answer, Iterable):
        raise InvalidInput(
            "ST526",
            f"Can't count {name}: answer number {position} is {_shown(answer)}, expected a list of items, best first.",
            position=position,
            value=_shown(answer),
        )
    items = list(islice(answer, k))
    try:
        places = dict(zip(reversed(items), reversed(range(len(items))), strict=True))
    except TypeError as exc:
        raise _wrong_type("answer", position, answer, "items that can be looked up (text, numbers)") from exc
    return [item if places[item] == at else None for at, item in enumerate(items)] + [None] * (k - len(items))


def _wanted(name: str, position: int, label: Any) -> frozenset[Any]:
    many = isinstance(label, (set, frozenset, list, tuple, np.ndarray))
    try:
        wanted = frozenset(label) if many else frozenset([label])
    except TypeError as exc:
        raise _wrong_type("label", position, label, "items that can be looked up (text, numbers)") from exc
    if not wanted or any(_missing(item) for item in wanted):
        raise InvalidInput(
            "ST525",
            f"Can't count {name}: label number {position} is {_shown(label)}, expected an item or a set of items. "
            "Leave rows without a label out.",
            position=position,
            value=_shown(label),
        )
    return wanted


_PLAIN: dict[str, Losses] = {
    "mae": _mae, "rmse": _rmse, "mape": _mape, "log_loss": _log_loss, "brier": _brier, "error_rate": _error_rate,
}  # fmt: skip
_RANKED: dict[str, RankValue] = {"ndcg": _ndcg, "hit": _hit}

METRICS: dict[str, str] = {
    "mae": "|answer - label|",
    "rmse": "(answer - label)^2 a row; the summary is the root of their mean",
    "mape": "|answer - label| / |label|, a share (0.1 is 10 %); a label of 0 is an error",
    "pinball:Q": "Q * (label - answer) when the label is above, (1 - Q) * (answer - label) when below",
    "log_loss": "-ln of the probability given to what happened, at most 34.5",
    "brier": "(probability - what happened)^2; with many classes half of their sum",
    "error_rate": "1 when answer and label differ, else 0",
    "ndcg@K": "1 - normalised discounted gain of the first K items",
    "hit@K": "0 when a wanted item is among the first K, else 1",
}


# ---------------------------------------------------------------------------------------------- a user's function


def _from_function(function: UserMetric) -> Metric:
    name = getattr(function, "__name__", type(function).__name__)

    def losses(answers: Any, labels: Any, rows: Any) -> Floats:
        expected = _length(labels, "label")
        try:
            given = function(answers, labels, rows)
        except Exception as exc:
            raise InvalidInput(
                "ST527",
                f"Can't count losses: the metric {name!r} raised {type(exc).__name__}: {exc}.",
                metric=name, error=type(exc).__name__,
            ) from exc  # fmt: skip
        return _checked(name, given, expected)

    return Metric(name=name, losses=losses, summary=_mean)


def _checked(name: str, given: Any, expected: int) -> Floats:
    try:
        losses = np.asarray(_plain(given), dtype=np.float64)
    except (TypeError, ValueError) as exc:
        losses, problem = np.empty(0), f"gave no numbers ({exc})"
    else:
        bad = np.flatnonzero(~np.isfinite(losses))
        problem = f"gave {losses.flat[bad[0]]} as loss number {bad[0]}" if bad.size else ""
        if losses.shape != (expected,):
            problem = f"gave losses of shape {losses.shape}"
    if problem:
        raise InvalidInput(
            "ST528",
            f"Can't use the metric {name!r}: it {problem}, expected {expected} finite numbers, one loss a row "
            "(not their mean).",
            metric=name, expected=expected,
        )  # fmt: skip
    return losses


# ---------------------------------------------------------------------------------------------- checks


def _plain(values: Any) -> Any:
    """Columns of frames and of Arrow as arrays: numpy would walk through some of them value by value."""
    return values.__array__() if hasattr(values, "__array__") and not isinstance(values, np.generic) else values


def _matrix(values: Any) -> NDArray[Any]:
    """The answers as (n,) or (n, classes)."""
    if values is None:
        raise _wrong_type("answers", None, None, "one answer a row")
    try:
        array = np.asarray(_plain(values))
        if array.dtype == object and array.size and isinstance(array.flat[0], (list, tuple, np.ndarray)):
            array = np.array([list(row) for row in array.tolist()])
    except (TypeError, ValueError) as exc:
        raise InvalidInput(
            "ST522", f"Can't count losses: the answers are rows of different lengths ({exc}).", what="answer"
        ) from exc
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2):
        raise _wrong_shape("answer", array)
    return array


def _column(values: Any, what: str) -> NDArray[Any]:
    """(n,) of any type; a (n, 1) matrix counts as a column."""
    if values is None or isinstance(values, (str, bytes, dict)) or not isinstance(values, Sized):
        raise _wrong_type(f"{what}s", None, values, f"one {what} a row")
    raw = _plain(values)
    mixed = isinstance(raw, (list, tuple)) and len({type(v) for v in raw}) > 1
    try:
        # Without dtype=object numpy writes [1, "a"] as two texts.
        array = np.array(raw, dtype=object) if mixed else np.asarray(raw)
    except ValueError as exc:
        problem = f"Can't count losses: the {what}s are rows of different lengths."
        raise InvalidInput("ST522", problem, what=what) from exc
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise _wrong_shape(what, array)
    return array


def _items(values: Any, what: str) -> list[Any]:
    if values is None or isinstance(values, (str, bytes, dict)) or not isinstance(values, Iterable):
        raise _wrong_type(f"{what}s", None, values, f"one {what} a row")
    converted = _plain(values)
    return list(converted.tolist() if isinstance(converted, np.ndarray) and converted.ndim == 1 else converted)


def _length(values: Any, what: str) -> int:
    if not isinstance(values, Sized):
        raise _wrong_type(f"{what}s", None, values, f"one {what} a row")
    return len(values)


def _same_length(answers: Sized, labels: Sized) -> None:
    if len(answers) != len(labels):
        raise InvalidInput(
            "ST521",
            f"Can't count losses: {len(answers)} answers for {len(labels)} labels. Give exactly one answer a row.",
            answers=len(answers), labels=len(labels),
        )  # fmt: skip


def _numbers(array: NDArray[Any], what: str) -> Floats:
    if array.dtype.kind == "O":
        for position, value in enumerate(array.flat):
            _check_number(value, what, position, array)
    elif array.dtype.kind not in "biuf" and array.size:
        raise _wrong_type(what, 0, array.flat[0], "a number")
    numbers = array.astype(np.float64)
    _demand(np.isfinite(numbers), numbers, "ST523", what, "a finite number")
    return numbers


def _check_number(value: Any, what: str, position: int, array: NDArray[Any]) -> None:
    row = position // (array.shape[1] if array.ndim > 1 else 1)
    if _missing(value):
        raise _absent(what, row, value)
    try:
        wrong = isinstance(value, (str, bytes, complex)) or not isinstance(float(value), float)
    except (TypeError, ValueError, OverflowError):
        wrong = True
    if wrong:
        raise _wrong_type(what, row, value, "a number")


def _all_present(array: NDArray[Any], what: str) -> None:
    for position, value in enumerate(array):
        if _missing(value):
            raise _absent(what, position, value)


def _missing(value: Any) -> bool:
    """None, NaN, NaT and pandas' NA, which alone is neither equal nor unequal to itself."""
    if value is None:
        return True
    try:
        return bool(value != value)  # noqa: PLR0124 - what is not itself is NaN
    except (TypeError, ValueError):
        return not isinstance(value, (np.ndarray, list, tuple))


def _demand(holds: NDArray[np.bool_], values: Floats, code: str, what: str, expected: str) -> None:
    """Raise for the first value at which a demand does not hold."""
    bad = np.argwhere(~holds)
    if bad.size:
        position = int(bad[0][0])
        value = float(values[tuple(bad[0])])
        raise InvalidInput(
            code,
            f"Can't count losses: {what} number {position} is {value:g}, expected {expected}.",
            what=what, position=position, value=str(value),
        )  # fmt: skip


def _finite_losses(losses: Floats) -> Floats:
    _demand(np.isfinite(losses), losses, "ST523", "loss", "a finite number (answer and label are too far apart)")
    return losses


def _absent(what: str, position: int, value: Any) -> InvalidInput:
    return InvalidInput(
        "ST523",
        f"Can't count losses: {what} number {position} is missing ({_shown(value)}). "
        "Every row needs an answer; leave rows without a label out.",
        what=what, position=position, value=_shown(value),
    )  # fmt: skip


def _wrong_type(what: str, position: int | None, value: Any, expected: str) -> InvalidInput:
    where = "" if position is None else f" number {position}"
    verb = "are" if position is None else "is"
    return InvalidInput(
        "ST522",
        f"Can't count losses: {what}{where} {verb} {_shown(value)}, expected {expected}.",
        what=what, position=position, value=_shown(value),
    )  # fmt: skip


def _wrong_shape(what: str, array: NDArray[Any]) -> InvalidInput:
    return InvalidInput(
        "ST522",
        f"Can't count losses: the {what}s have shape {array.shape}, expected one {what} a row.",
        what=what,
        shape=list(array.shape),
    )


def _shown(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else text[:57] + "..."
