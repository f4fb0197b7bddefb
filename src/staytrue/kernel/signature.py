"""Signature: what a release wants to be asked, and what to do with a request that asks otherwise.

Nobody writes it by hand: columns and types come from the table that the model was trained on, ranges, categories and
nulls from its sketches. So a price in cents for one in euros, a text for a number or a word that no training has seen is
found before the model turns it into a confident answer. What is found is refused, or answered and flagged; the defaults
refuse what the model can't mean and flag what it may be able to answer.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.contract import Schema, list_item, micros
from staytrue.kernel.sketch import Sketch, category, kind_of

__all__ = [
    "ACTIONS",
    "DEFAULTS",
    "Action",
    "Bounds",
    "Fault",
    "Feature",
    "Finding",
    "Signature",
    "about",
    "checked_inputs",
    "read_row",
    "signature",
]

Fault = Literal["type", "missing", "extra", "null", "nonfinite", "range", "unit", "category"]
Action = Literal["refuse", "flag", "accept"]

ACTIONS: Final[tuple[str, ...]] = get_args(Action)
_FAULTS: Final[tuple[str, ...]] = get_args(Fault)

DEFAULTS: Final[Mapping[str, Action]] = {
    "type": "refuse",
    "missing": "refuse",
    "extra": "flag",
    "null": "refuse",
    "nonfinite": "refuse",
    "range": "flag",
    "unit": "refuse",
    "category": "flag",
}
"""What is done about each fault where the app says nothing. A null is no fault in a column that had some in training."""

_UNIT_FACTOR: Final = 100.0
"""Beyond so many times the largest magnitude ever seen a value is taken for one of another unit.

Of the rows after the first 2,000 or 3,000 of hotel_rates, elec2 and movielens, in floats: 0.13 % of elec2's lie 10 times
beyond (real price spikes), 0.016 % 100 times. In whole numbers, which may be names (movieId), 16 % and 1.7 %: so a float
of another unit is refused, a whole number flagged, and 10 times beyond is said in words.
"""
_WORTH_A_WORD: Final = 10.0
_ENOUGH_FOR_UNITS: Final = 100
_MOST_CATEGORIES_SHARE: Final = 0.2
"""A text column in which more than this share of the rows are different texts holds no categories."""
_MOST_EXTRAS: Final = 20
_INT64: Final = (-(2**63), 2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of a request.

    Attributes:
        type: as in `store/frames.py`.
        role: `feature`, or `key` / `time`, which the model does not see and a request may leave out.
        low, high: of the finite values in training, None where nothing is known or the type has no range.
        unit_low, unit_high: beyond these a value has another unit.
        nullable: training saw nulls.
        categories: the texts that training saw (see `sketch.category`), None when they are too many to mean anything.
        actions: fault -> what to do about it.
    """

    name: str
    type: str
    role: Literal["feature", "key", "time"] = "feature"
    low: float | None = None
    high: float | None = None
    unit_low: float | None = None
    unit_high: float | None = None
    nullable: bool = False
    categories: frozenset[str] | None = None
    actions: Mapping[str, Action] = field(default_factory=lambda: DEFAULTS)

    @property
    def optional(self) -> bool:
        """Whether a request may leave the column out without a word."""
        return self.role != "feature"

    @property
    def tells_units(self) -> bool:
        """Whether a value of another unit is told as that, and not as one outside of the range.

        Whoever refuses what lies outside of the range refuses what lies far outside too.
        """
        return ACTIONS.index(self.actions["unit"]) <= ACTIONS.index(self.actions["range"])

    def document(self) -> dict[str, Any]:
        """The feature as JSON."""
        return {
            "name": self.name,
            "type": self.type,
            "role": self.role,
            "low": self.low,
            "high": self.high,
            "unit_low": self.unit_low,
            "unit_high": self.unit_high,
            "nullable": self.nullable,
            "required": not self.optional and self.actions["missing"] == "refuse",
            "categories": None if self.categories is None else sorted(self.categories),
            "actions": dict(self.actions),
        }


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing about one row that is not as the signature has it. `got` and `expected` are for people."""

    field: str
    fault: Fault
    action: Action
    message: str
    got: str
    expected: str

    def document(self, row: int) -> dict[str, Any]:
        """The finding as an answer's JSON has it."""
        return {
            "row": row,
            "field": self.field,
            "fault": self.fault,
            "message": self.message,
            "got": self.got,
            "expected": self.expected,
        }


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The columns of a request, in the order in which the model gets them, then key and time.

    Attributes:
        key, time: the columns that say which row it is and when it happened; either may be a feature too.
        ignored: columns of the source that no prediction needs; a request may hold them.
        extra: what to do about columns that nobody knows.
    """

    features: tuple[Feature, ...]
    key: str | None = None
    time: str | None = None
    ignored: frozenset[str] = frozenset()
    extra: Action = "flag"

    @property
    def schema(self) -> Schema:
        """(name, type) of every column."""
        return tuple((one.name, one.type) for one in self.features)

    @property
    def seen(self) -> tuple[str, ...]:
        """The columns that the model gets, in its order."""
        return tuple(one.name for one in self.features if one.role == "feature")

    def document(self) -> dict[str, Any]:
        """The signature as JSON; `from_document` reads it.

        Example:
            >>> made = Signature(features=(Feature(name="size", type="float64"),))
            >>> Signature.from_document(made.document()) == made
            True
        """
        return {
            "columns": [one.document() for one in self.features],
            "key": self.key,
            "time": self.time,
            "ignored": sorted(self.ignored),
            "extra": self.extra,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Signature:
        """The signature that was written as `document`."""
        features = []
        for column in document["columns"]:
            known = {name: value for name, value in column.items() if name != "required"}
            if known["categories"] is not None:
                known["categories"] = frozenset(known["categories"])
            features.append(Feature(**known))
        return cls(
            features=tuple(features),
            key=document["key"],
            time=document["time"],
            ignored=frozenset(document["ignored"]),
            extra=document["extra"],
        )


def signature(
    schema: Schema,
    sketches: Mapping[str, Sketch],
    *,
    features: Sequence[str],
    key: str | None = None,
    time: str | None = None,
    label: str | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Signature:
    """The signature of a release, from the table that its model was trained on.

    Args:
        schema: of that table.
        sketches: of its columns, over all rows; a column without one has no range.
        features: the columns that predictions see, in order.
        inputs: what the app says to do: column (or `*`) -> an action for all its faults, or fault -> action.

    Raises:
        InvalidInput: ST752, `inputs` names a column that no request has.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> sizes = sketch(np.array([1.0, 5.0]), np.ones(2, bool), "number")
        >>> made = signature((("size", "float64"),), {"size": sizes}, features=["size"], inputs={"size": {"range": "refuse"}})
        >>> made.features[0].high, made.features[0].actions["range"]
        (5.0, 'refuse')
    """
    types = dict(schema)
    said = checked_inputs(inputs or {})
    asked = [*features, *(name for name in (key, time) if name is not None and name not in features)]
    unknown = [name for name in said if name != "*" and name not in asked]
    if unknown:
        raise InvalidInput(
            "ST752",
            f"@app.predict(inputs=...) names {unknown[0]!r}, which no request has; there are {', '.join(asked)}.",
            column=unknown[0],
        )
    made = []
    for name in asked:
        role: Literal["feature", "key", "time"] = "feature"
        if name not in features:
            role = "key" if name == key else "time"
        made.append(_feature(name, types[name], role, sketches.get(name), said))
    beside = frozenset(name for name, _ in schema if name not in asked)
    extra = said.get("*", {}).get("extra", DEFAULTS["extra"])
    if label:
        beside |= {label}
    return Signature(features=tuple(made), key=key, time=time, ignored=beside, extra=extra)


def checked_inputs(inputs: Mapping[str, Any]) -> dict[str, dict[str, Action]]:
    """What an app says to do about faults, spelled out by column.

    Raises:
        InvalidInput: ST753, not a mapping of columns, or a word that is no fault or no action.

    Example:
        >>> checked_inputs({"size": {"range": "refuse"}})
        {'size': {'range': 'refuse'}}
    """
    if not isinstance(inputs, Mapping):
        raise _unfit(inputs, "a dict of columns")
    spelled: dict[str, dict[str, Action]] = {}
    for column, said in inputs.items():
        if isinstance(said, str):
            # A value of the wrong type can't be answered, whatever the app says.
            said = {fault: said for fault in _FAULTS if fault != "type"}  # noqa: PLW2901 - the long form of the short one
        if not isinstance(column, str) or not isinstance(said, Mapping):
            raise _unfit({column: said}, "an action, or a dict of faults, for each column")
        for fault, action in said.items():
            if fault not in _FAULTS or fault == "type":
                raise _unfit({column: {fault: action}}, f"a fault among {', '.join(f for f in _FAULTS if f != 'type')}")
            if action not in ACTIONS:
                raise _unfit({column: {fault: action}}, f"an action among {', '.join(ACTIONS)}")
        spelled[column] = dict(said)
    return spelled


def _unfit(got: Any, expected: str) -> InvalidInput:
    return InvalidInput("ST753", f"@app.predict(inputs={got!r}): expected {expected}.", got=repr(got)[:200])


def _feature(
    name: str,
    type_name: str,
    role: Literal["feature", "key", "time"],
    known: Sketch | None,
    said: Mapping[str, Mapping[str, Action]],
) -> Feature:
    actions: dict[str, Action] = dict(DEFAULTS)
    nullable = bool(known and known["nulls"]) or type_name == "null" or role != "feature"
    if nullable:
        actions["null"] = "accept"
    if type_name in {"int64", "uint64"}:
        actions["unit"] = "flag"
    if role != "feature":
        # Keys and times go on for ever; the model does not see them.
        actions |= {"range": "accept", "unit": "accept", "category": "accept", "missing": "accept"}
    else:
        actions |= said.get("*", {})
    actions |= said.get(name, {})
    low, high = _range(known)
    unit_low, unit_high = _unit_bounds(low, high, known)
    return Feature(
        name=name,
        type=type_name,
        role=role,
        low=low,
        high=high,
        unit_low=unit_low,
        unit_high=unit_high,
        nullable=nullable,
        categories=_categories(known) if role == "feature" else None,
        actions=actions,
    )


def _range(known: Sketch | None) -> tuple[float | None, float | None]:
    if known is None or known["is"] != "number" or known["min"] is None:
        return None, None
    return float(known["min"]), float(known["max"])


def _unit_bounds(low: float | None, high: float | None, known: Sketch | None) -> tuple[float | None, float | None]:
    """Where another unit begins: a hundred times beyond the largest magnitude that training saw.

    Too few rows, or a column that was always 0, say nothing about it.
    """
    if low is None or high is None or known is None or known["count"] - known["nulls"] < _ENOUGH_FOR_UNITS:
        return None, None
    largest = max(abs(low), abs(high))
    return (-_UNIT_FACTOR * largest, _UNIT_FACTOR * largest) if largest > 0 else (None, None)


def _categories(known: Sketch | None) -> frozenset[str] | None:
    if known is None or known["is"] != "text" or known["other"] or known["bar"] is not None:
        return None
    names = known["categories"]
    if not names or len(names) > max(2, _MOST_CATEGORIES_SHARE * (known["count"] - known["nulls"])):
        return None
    return frozenset(names)


# -- many rows at once ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Within which numbers nothing has to be said, for columns side by side in a matrix."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, features: Sequence[Feature]) -> Bounds | None:
        """The bounds of these columns; None when no value of them is ever remarked on.

        Example:
            >>> bounds = Bounds.of([Feature(name="size", type="float64", low=1.0, high=5.0)])
            >>> bounds.outside(np.array([[2.0], [7.0], [np.nan]])).tolist()
            [False, True, False]
        """
        low = np.array([_quiet(one, one.low, one.unit_low, -math.inf) for one in features], np.float64)
        high = np.array([_quiet(one, one.high, one.unit_high, math.inf) for one in features], np.float64)
        if bool(np.isneginf(low).all()) and bool(np.isposinf(high).all()):
            return None
        return cls(low=low, high=high)

    def outside(self, matrix: NDArray[Any]) -> NDArray[np.bool_]:
        """(n,) which rows have a value outside; a NaN is outside of nothing."""
        beyond: NDArray[np.bool_] = np.logical_or.reduce((matrix < self.low) | (matrix > self.high), axis=1)
        return beyond


def _quiet(one: Feature, edge: float | None, unit: float | None, never: float) -> float:
    if edge is not None and one.actions["range"] != "accept":
        return edge
    return unit if unit is not None and one.actions["unit"] != "accept" else never


# -- one row, every word about it -------------------------------------------------------------------------------------


def read_row(sig: Signature, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """A row as JSON had it -> its values as columns hold them, and all that is to be said about it.

    Times become microseconds, lists lists; what is missing, null or not accepted is None. Findings with the action
    `accept` are left out. When one says `refuse`, the values mean nothing.

    Example:
        >>> sig = Signature(features=(Feature(name="size", type="float64", low=1.0, high=5.0),))
        >>> values, found = read_row(sig, {"size": 7, "sise": 1})
        >>> values, [(one.field, one.fault, one.action) for one in found]
        ({'size': 7.0}, [('sise', 'extra', 'flag'), ('size', 'range', 'flag')])
    """
    found: list[Finding] = []
    names = {one.name for one in sig.features}
    # Of a row that is nothing but strangers the first ones say enough.
    extras = list(islice((name for name in row if name not in names and name not in sig.ignored), _MOST_EXTRAS))
    if sig.extra != "accept":
        found += [_extra(name, sig) for name in extras]
    values: dict[str, Any] = {}
    for one in sig.features:
        values[one.name] = None
        if one.name not in row:
            found += _said(one, "missing", "is missing", "nothing", _expected(one), near=extras)
            continue
        try:
            values[one.name] = value = _read(one.type, row[one.name])
        except _UnreadableError as exc:
            if exc.fault == "type":
                found.append(_finding(one, "type", "refuse", f"is {exc}", _shown(row[one.name]), _expected(one)))
            else:
                found += _said(one, exc.fault, f"is {exc}", _shown(row[one.name]), _expected(one))
            continue
        found += about(one, value)
    return values, [finding for finding in found if finding.action != "accept"]


def about(one: Feature, value: Any) -> Iterator[Finding]:
    """What is to be said about a value that has the right type, and is finite.

    Example:
        >>> [found.fault for found in about(Feature(name="size", type="float64", low=1.0, high=5.0), 7.0)]
        ['range']
    """
    if value is None:
        if one.type != "null":
            yield from _said(one, "null", "is null; training never saw it so", "null", _expected(one))
    elif isinstance(value, str):
        if one.categories is not None and category(value) not in one.categories:
            near = _near(value, [name[1:] for name in one.categories])
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield from _said(one, "category", f"is a word that training never saw{hint}", _shown(value), _expected(one))
    elif kind_of(one.type) == "number":
        yield from _about_number(one, value)


def _about_number(one: Feature, value: float) -> Iterator[Finding]:
    if one.low is None or one.high is None or one.low <= value <= one.high:
        return
    largest = max(abs(one.low), abs(one.high))
    times = abs(value) / largest if largest else 0.0
    what = "is outside of what training saw"
    if times >= _WORTH_A_WORD:
        what = f"is {times:,.0f} times beyond all that training saw: another unit ({10 ** int(math.log10(times)):,}x)?"
    other_unit = one.unit_low is not None and one.unit_high is not None and not one.unit_low <= value <= one.unit_high
    fault: Fault = "unit" if other_unit and one.tells_units else "range"
    yield from _said(one, fault, what, _shown(value), _expected(one))


def _said(
    one: Feature, fault: Fault, what: str, got: str, expected: str, *, near: Iterable[str] = ()
) -> Iterator[Finding]:
    action = one.actions[fault]
    if action == "accept":
        return
    alike = _near(one.name, near)
    hint = f"; is it {alike[0]!r}, which nobody knows?" if alike else ""
    yield _finding(one, fault, action, what + hint, got, expected)


def _finding(one: Feature, fault: Fault, action: Action, what: str, got: str, expected: str) -> Finding:  # noqa: PLR0917
    message = f"{one.name!r} {what}; expected {expected}."
    return Finding(field=one.name, fault=fault, action=action, message=message, got=got, expected=expected)


def _extra(name: str, sig: Signature) -> Finding:
    near = _near(name, [one.name for one in sig.features])
    hint = f"; the nearest that is known is {near[0]!r}" if near else ""
    shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…"
    return Finding(
        field=shown,
        fault="extra",
        action=sig.extra,
        message=f"{shown!r} is no column of this app{hint}.",
        got=shown,
        expected="only columns of this app",
    )


def _near(word: str, known: Iterable[str]) -> list[str]:
    """The known word that is most alike, if one is; long ones are not looked at, since that takes its time."""
    short = [name for name in known if len(name) <= _LONGEST_SHOWN]
    return difflib.get_close_matches(word, short, n=1, cutoff=0.5) if len(word) <= _LONGEST_SHOWN else []


_WORDS: Final[Mapping[str, str]] = {
    "int64": "a whole number",
    "uint64": "a whole number of at least 0",
    "float32": "a number",
    "float64": "a number",
    "bool": "true or false",
    "string": "a text",
    "date": "a date such as 2026-03-01",
    "timestamp": "a time without zone such as 2026-03-01T12:00:00",
    "timestamp[UTC]": "a time with zone such as 2026-03-01T12:00:00Z",
    "null": "null",
}
_FEW: Final = 8


def _expected(one: Feature) -> str:
    """What belongs into this column, in words."""
    words = _WORDS.get(one.type) or f"a list ({one.type.removeprefix('list')})"
    if one.categories is not None:
        names = sorted(name[1:] for name in one.categories)
        words = f"one of {', '.join(names)}" if len(names) <= _FEW else f"one of {len(names)} known texts"
    elif one.low is not None and one.high is not None and one.role == "feature":
        words += f" from {one.low:g} to {one.high:g}"
    return f"{words}, or null" if one.nullable and one.type != "null" else words


_LONGEST_SHOWN: Final = 60


def _shown(value: Any) -> str:
    """A value as it is quoted: short, and in JSON's words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


class _UnreadableError(Exception):
    """A value that does not fit its column; says why, after "is"."""

    def __init__(self, said: str, fault: Fault = "type") -> None:
        super().__init__(said)
        self.fault = fault


def _read(type_name: str, value: Any) -> Any:  # noqa: PLR0911 - a case for each family of types
    if value is None or type_name == "null":
        return None
    if type_name.startswith("float"):
        return _float(value)
    if type_name in {"int64", "uint64"}:
        return _whole(value, unsigned=type_name == "uint64")
    if type_name == "bool":
        if not isinstance(value, bool):
            raise _UnreadableError(_kind(value))
        return value
    if type_name == "string":
        if not isinstance(value, str):
            raise _UnreadableError(_kind(value))
        return value
    if type_name.startswith("list<"):
        return _list(type_name, value)
    return _moment(type_name, value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnreadableError(_kind(value))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _UnreadableError("not a finite number", "nonfinite")
    return number


def _whole(value: Any, *, unsigned: bool) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnreadableError(_kind(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _UnreadableError("not a finite number", "nonfinite")
        # pandas writes whole numbers with a point where some are missing.
        if value != math.trunc(value):
            raise _UnreadableError("no whole number")
        value = int(value)
    low, high = (0, 2**64 - 1) if unsigned else _INT64
    if not low <= value <= high:
        raise _UnreadableError("a whole number beyond 64 bits" if value > 0 or not unsigned else "below 0")
    return int(value)


def _list(type_name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _UnreadableError(_kind(value))
    item, size = list_item(type_name)
    if size is not None and len(value) != size:
        raise _UnreadableError(f"a list of {len(value)} items, not of {size}")
    read = [_read(item, each) for each in value]
    if size is not None and any(each is None for each in read):
        raise _UnreadableError("a list with a null in it")
    return read


def _moment(type_name: str, value: Any) -> int:
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day, tzinfo=UTC if type_name != "timestamp" else None)
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise _UnreadableError("a text that is no time") from None
        if len(value) == _DATE_ALONE and type_name == "timestamp[UTC]":
            moment = moment.replace(tzinfo=UTC)  # a day is its midnight in UTC, as in a source
    else:
        raise _UnreadableError(_kind(value))
    if type_name == "timestamp[UTC]" and moment.tzinfo is None:
        raise _UnreadableError("a time without a zone")
    if type_name == "timestamp" and moment.tzinfo is not None:
        raise _UnreadableError("a time with a zone")
    try:
        at = micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except OverflowError:
        raise _UnreadableError("a time too far away") from None
    if type_name == "date" and at % _DAY:
        raise _UnreadableError("a time of day, not a date")
    return at


_DAY: Final = 86_400_000_000
_DATE_ALONE: Final = len("2026-03-01")


def _kind(value: Any) -> str:
    for types, words in _KINDS:
        if isinstance(value, types):
            return words
    return f"a {type(value).__name__}"


_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "a text"),
    (list, "a list"),
    (dict, "an object"),
)
