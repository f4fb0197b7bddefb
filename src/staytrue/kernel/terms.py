"""The contract of a source as a document: what is expected of each column and of a window, and who said so.

Nobody has to write it. What past windows held is learned, and moves on with the data; what a person sets is `pinned`
and wins until the person takes it back. A check that cries wolf is switched off for one column by its code (`ignore`),
instead of the whole contract.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from staytrue.errors import InvalidInput
from staytrue.kernel.duration import duration
from staytrue.kernel.sketch import category
from staytrue.kernel.source import Schema, SourceSpec
from staytrue.kernel.usual import ENOUGH_WINDOWS, Usual

__all__ = ["CHECKS", "ColumnTerms", "Contract", "WindowTerms", "lag_s", "learned"]

CHECKS: Final[Mapping[str, str]] = {
    "ST231": "a column is missing",
    "ST232": "a column is new",
    "ST233": "another type",
    "ST234": "a key comes twice, or came before",
    "ST235": "a key is null",
    "ST238": "rows outside the window",
    "ST239": "a label is NaN or infinite",
    "ST240": "far more or far fewer rows than usual",
    "ST241": "another unit or sign",
    "ST242": "more missing values than usual",
    "ST920": "values outside the range",
    "ST921": "categories not seen before",
    "ST922": "another spelling of the same texts",
    "ST923": "the newest row is old",
    "ST924": "columns changed places",
    "ST925": "a column knows the label, or lies in the future",
    "ST926": "the same rows again",
    "ST927": "a column became constant",
    "ST928": "a column was rounded",
}
"""The checks that a person may switch off, for a column or for the source, by code."""


@dataclass(frozen=True, kw_only=True)
class ColumnTerms:
    """What is expected of one column; None where nothing is.

    Attributes:
        type: as in `store/frames.py`.
        range: (low, high) of its finite values, both included.
        categories: its texts, in order (long ones as `sketch.category` names them, without the sign).
        missing: the largest share of nulls and NaN in a window, in [0, 1].
        unique: whether no value may come twice.
        pinned: the names of those above that a person set.
        ignore: the codes of checks that a person switched off here.
    """

    type: str | None = None
    range: tuple[float | None, float | None] | None = None
    categories: tuple[str, ...] | None = None
    missing: float | None = None
    unique: bool | None = None
    pinned: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class WindowTerms:
    """What is expected of a window as a whole; None where nothing is.

    Attributes:
        rows: (fewest, most) rows.
        lag_s: how long before the window's end the newest row may lie, in seconds.
        pinned, ignore: as for a column.
    """

    rows: tuple[int | None, int | None] | None = None
    lag_s: float | None = None
    pinned: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What is expected of a source: learned from its past, and set by people; `version` counts their edits.

    Example:
        >>> contract = Contract(source="sales").edited({"columns": {"price": {"range": [0, 500], "ignore": ["ST241"]}}})
        >>> contract.columns["price"].range, contract.columns["price"].pinned, contract.version
        ((0.0, 500.0), frozenset({'range'}), 1)
        >>> Contract.from_document(contract.document()) == contract
        True
    """

    source: str
    version: int = 0
    window: WindowTerms = WindowTerms()
    columns: Mapping[str, ColumnTerms] = field(default_factory=dict)

    def of(self, column: str) -> ColumnTerms:
        """What is expected of a column; nothing, when it is not known."""
        return self.columns.get(column, _NOTHING)

    def ignores(self, code: str, column: str | None) -> bool:
        """Whether a person switched this check off, for the column or for the whole source."""
        return code in self.window.ignore or (column is not None and code in self.of(column).ignore)

    def edited(self, changes: Mapping[str, Any]) -> Contract:
        """The contract with what a person changed pinned, as the next version.

        Args:
            changes: `{"window": {"rows": [10, 500], "lag": "6h", "ignore": [..]}, "columns": {name: {"type": ..,
                "range": [low, high], "categories": [..], "missing": 0.1, "unique": true, "ignore": ["ST241"]}}}`, any
                of it. None takes a pin back: the next windows set the value again. A bound that is None is open;
                `ignore` replaces the codes that were there.

        Raises:
            InvalidInput: ST929, a word, column, code or value that makes no sense; nothing was changed.
        """
        _known(changes, ("window", "columns"), "the contract")
        window = _edited(self.window, changes.get("window", {}), _WINDOW_EDITS, "the window")
        columns = dict(self.columns)
        for name, change in _mapping(changes.get("columns", {}), "columns").items():
            if columns and name not in columns:
                raise _wrong(f"there is no column {name!r}", tuple(columns), name)
            columns[name] = _edited(columns.get(name, _NOTHING), change, _COLUMN_EDITS, f"the column {name!r}")
        return replace(self, version=self.version + 1, window=window, columns=columns)

    def moved_on(self, news: Contract) -> Contract:
        """This contract with everything that nobody pinned taken from `news`, which was learned since."""
        names = dict.fromkeys([*news.columns, *self.columns])
        return replace(
            self,
            window=_moved_on(self.window, news.window),
            columns={name: _moved_on(self.of(name), news.of(name)) for name in names},
        )

    def document(self) -> dict[str, Any]:
        """The contract as JSON: each term with its value and whether a person pinned it.

        A store that reads strings as digests should keep it as bytes: a category may look like anything.
        """
        return {
            "source": self.source,
            "version": self.version,
            "window": _document(self.window),
            "columns": {name: _document(terms) for name, terms in self.columns.items()},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Contract:
        """The contract that `document` came from.

        Raises:
            InvalidInput: ST929, it is no contract.
        """
        try:
            return cls(
                source=document["source"],
                version=document["version"],
                window=WindowTerms(**_terms(document["window"], WindowTerms)),
                columns={
                    name: ColumnTerms(**_terms(terms, ColumnTerms)) for name, terms in document["columns"].items()
                },
            )
        except (KeyError, TypeError, AttributeError) as exc:
            raise _wrong(f"the document is no contract ({type(exc).__name__}: {exc})") from exc


def learned(spec: SourceSpec, schema: Schema | None, history: Sequence[Usual]) -> Contract:
    """What the past windows say is to be expected; only types and the key, while there are too few of them.

    Args:
        schema: of the table so far; None when nothing was fetched yet.
        history: the windows before, oldest first; those without rows are left out.

    Example:
        >>> spec = SourceSpec(name="sales", time="at", key="id")
        >>> learned(spec, (("id", "int64"), ("at", "date")), []).of("id")
        ColumnTerms(type='int64', range=None, categories=None, missing=None, unique=True, pinned=..., ignore=...)
    """
    past = [one for one in history if one.rows]
    if len(past) < ENOUGH_WINDOWS:
        past = []
    return Contract(
        source=spec.name,
        window=_learned_window(spec, past),
        columns={
            name: ColumnTerms(
                type=type_name,
                range=None if name in {spec.time, spec.key} else _range(name, past),
                categories=None if name in {spec.time, spec.key} else _categories(name, past),
                missing=max((one.nulls.get(name, 0) / one.rows for one in past), default=None),
                unique=True if name == spec.key else None,
            )
            for name, type_name in schema or ()
        },
    )


_NOTHING: Final = ColumnTerms()


def _learned_window(spec: SourceSpec, past: Sequence[Usual]) -> WindowTerms:
    if not past or spec.snapshot:
        return WindowTerms()
    lags = [lag for one in past if (lag := lag_s(spec, one)) is not None]
    return WindowTerms(
        rows=(min(one.rows for one in past), max(one.rows for one in past)), lag_s=max(lags) if lags else None
    )


def lag_s(spec: SourceSpec, one: Usual) -> float | None:
    """How long before its window's end the newest row of a past window lay, in seconds; None without times."""
    span = one.spans.get(spec.time or "")
    if span is None:
        return None
    every = spec.every // timedelta(microseconds=1)
    return ((span[1] // every + 1) * every - span[1]) / 1e6


def _range(name: str, past: Sequence[Usual]) -> tuple[float | None, float | None] | None:
    spans = [one.ranges[name] for one in past if name in one.ranges]
    return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None


def _categories(name: str, past: Sequence[Usual]) -> tuple[str, ...] | None:
    seen = [one.categories[name] for one in past if name in one.categories]
    if not seen or any(counts is None for counts in seen):
        return None
    return tuple(sorted({text for counts in seen for text in counts or ()}))


# -- editing ----------------------------------------------------------------------------------------------------------

_Terms = TypeVar("_Terms", ColumnTerms, WindowTerms)
_TYPES: Final = ("bool", "date", "float32", "float64", "int64", "string", "timestamp", "timestamp[UTC]", "uint64")


def _moved_on(old: _Terms, news: _Terms) -> _Terms:
    kept: dict[str, Any] = {name: getattr(old, name) for name in old.pinned}
    return replace(news, **kept, pinned=old.pinned, ignore=old.ignore)


def _edited(terms: _Terms, changes: Any, readers: Mapping[str, Callable[[Any], Any]], where: str) -> _Terms:
    changes = _mapping(changes, where)
    _known(changes, (*readers, "ignore"), where)
    values: dict[str, Any] = {}
    pinned = set(terms.pinned)
    for word, given in changes.items():
        name = _FIELDS.get(word, word)
        try:
            if word == "ignore":
                values[name] = _codes(given)
            elif given is None:
                pinned.discard(name)
                values[name] = None
            else:
                values[name] = readers[word](given)
                pinned.add(name)
        except (TypeError, ValueError, OverflowError, InvalidInput) as exc:
            why = exc.message if isinstance(exc, InvalidInput) else exc
            raise _wrong(f"{word} of {where} can't be {given!r}: {why}") from exc
    return replace(terms, **values, pinned=frozenset(pinned))


def _bounds(given: Any) -> tuple[float | None, float | None]:
    low, high = _pair(given)
    low, high = (None if bound is None else _number(bound) for bound in (low, high))
    if low is not None and high is not None and low > high:
        raise ValueError("expected low <= high")
    return low, high


def _counts(given: Any) -> tuple[int | None, int | None]:
    low, high = _bounds(given)
    if any(bound is not None and (bound < 0 or bound != int(bound)) for bound in (low, high)):
        raise ValueError("expected whole numbers of rows, at least 0")
    return None if low is None else int(low), None if high is None else int(high)


def _pair(given: Any) -> tuple[Any, Any]:
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise ValueError("expected [low, high]; null for an open end")
    return given[0], given[1]


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise ValueError("expected a finite number")
    return float(given)


def _share(given: Any) -> float:
    share = _number(given)
    if not 0 <= share <= 1:
        raise ValueError("expected a share from 0 to 1")
    return share


def _texts(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not all(isinstance(text, str) for text in given):
        raise ValueError("expected a list of texts")
    return tuple(sorted({category(text)[1:] for text in given}))


def _flag(given: Any) -> bool:
    if not isinstance(given, bool):
        raise TypeError("expected true or false")
    return given


def _type(given: Any) -> str:
    if not isinstance(given, str) or not (given in _TYPES or re.fullmatch(r"list<.+>(\[\d+\])?", given)):
        raise ValueError(f"expected one of {', '.join(_TYPES)} or list<..>")
    return given


def _lag(given: Any) -> float:
    return duration(given).total_seconds() if isinstance(given, str) else abs(_number(given))


def _codes(given: Any) -> frozenset[str]:
    codes = frozenset(_texts(() if given is None else given))
    unknown = sorted(codes - set(CHECKS))
    if unknown:
        raise ValueError(f"{unknown[0]} is no check that can be switched off; there are {', '.join(CHECKS)}")
    return codes


_FIELDS: Final[Mapping[str, str]] = {"lag": "lag_s"}
_WINDOW_EDITS: Final[Mapping[str, Callable[[Any], Any]]] = {"rows": _counts, "lag": _lag}
_COLUMN_EDITS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "type": _type,
    "range": _bounds,
    "categories": _texts,
    "missing": _share,
    "unique": _flag,
}


# -- as JSON ----------------------------------------------------------------------------------------------------------


def _document(terms: ColumnTerms | WindowTerms) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for one in fields(terms):
        value = getattr(terms, one.name)
        if one.name not in {"pinned", "ignore"} and (value is not None or one.name in terms.pinned):
            plain = list(value) if isinstance(value, tuple) else value
            told[one.name] = {"value": plain, "pinned": one.name in terms.pinned}
    return told | ({"ignore": sorted(terms.ignore)} if terms.ignore else {})


def _terms(document: Mapping[str, Any], kind: type[ColumnTerms | WindowTerms]) -> dict[str, Any]:
    found: dict[str, Any] = {"ignore": frozenset(document.get("ignore", ()))}
    told = {name: term for name, term in document.items() if name != "ignore"}
    _known(told, [one.name for one in fields(kind)], "the document")
    for name, term in told.items():
        found[name] = tuple(term["value"]) if isinstance(term["value"], list) else term["value"]
    return found | {"pinned": frozenset(name for name, term in told.items() if term["pinned"])}


def _mapping(given: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise _wrong(f"{where} can't be {given!r}: expected names with values")
    return given


def _known(given: Any, words: Iterable[str], where: str) -> None:
    for word in _mapping(given, where):
        if word not in words:
            raise _wrong(f"{where} has no {word!r}", tuple(words), word)


def _wrong(why: str, words: Sequence[str] = (), got: str = "") -> InvalidInput:
    near = difflib.get_close_matches(got, words, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(words)}" if words else ""
    return InvalidInput("ST929", f"Can't read this contract or change of one: {why}{hint}. Nothing was changed.")
