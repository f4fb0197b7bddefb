"""The words for a source and its rows: what the app declares, a column, its type, and a breach of what must hold.

The checks are in `kernel/checks`, the contract that they hold rows against in `kernel/contract.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput

__all__ = ["EPOCH", "Breach", "Column", "Schema", "SourceSpec", "Window", "list_item", "micros", "settled"]

Schema: TypeAlias = tuple[tuple[str, str], ...]
"""(name, type) of each column, in order; `store/frames.py` lists the types."""

Window: TypeAlias = tuple[datetime, datetime]
"""`since` and `until`, aware; what lies in it has since <= time < until."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A source as the app declares it.

    `time` and `key` may be None only for a snapshot, which is everything as of now. `every` is the length of a window,
    `label_after` how long after `time` the label is known. `features`: the columns that a prediction needs, None for
    all but time, key and label.

    Raises:
        InvalidInput: ST243, a source without time that is no snapshot, one column in two roles, or a length that makes
        no sense.
    """

    name: str
    time: str | None
    key: str | None
    label: str | None = None
    every: timedelta = timedelta(days=1)
    label_after: timedelta = timedelta(0)
    features: tuple[str, ...] | None = None
    snapshot: bool = False

    def __post_init__(self) -> None:
        """Check what the types can't say."""
        roles = [column for column in (self.time, self.key, self.label) if column is not None]
        wrong = None
        if self.time is None and not self.snapshot:
            wrong = "it names no time column; name the column that says when a row happened, or set snapshot=True"
        elif len(set(roles)) < len(roles):
            named = f"time={self.time!r}, key={self.key!r}, label={self.label!r}"
            wrong = f"one column has two roles among {named}; expected a column for each"
        elif self.every <= timedelta(0) or self.label_after < timedelta(0):
            wrong = f"every={self.every}, label_after={self.label_after}; expected above zero and at least zero"
        elif self.label is not None and self.label in (self.features or ()):
            wrong = f"the label {self.label!r} is among its features; a prediction can't know it"
        if wrong:
            raise InvalidInput("ST243", f"Can't declare the source {self.name!r}: {wrong}.", source=self.name)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **{name: getattr(self, name) for name in ("name", "time", "key", "label", "snapshot")},
            "every_s": self.every.total_seconds(),
            "label_after_s": self.label_after.total_seconds(),
            "features": None if self.features is None else list(self.features),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """What `document()` wrote.

        Example:
            >>> spec = SourceSpec(name="sales", time="at", key=None, every=timedelta(hours=1), features=("size",))
            >>> SourceSpec.from_document(spec.document()) == spec
            True
        """
        features = document["features"]
        return cls(
            **{name: document[name] for name in ("name", "time", "key", "label", "snapshot")},
            every=timedelta(seconds=document["every_s"]),
            label_after=timedelta(seconds=document["label_after_s"]),
            features=None if features is None else tuple(features),
        )


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of rows: its type, its values (n,), and which of them are not null (n,)."""

    type: str
    values: NDArray[Any]
    valid: NDArray[np.bool_]

    def fits(self, wanted: str) -> bool:
        """Whether the column can have the wanted type without losing anything.

        A column of nothing but nulls fits any type. Whole numbers fit a float64 column; floats fit a whole-number
        column when none has a fraction, as happens when pandas makes floats of whole numbers because some are missing:
        they are kept as whole numbers and nulls.

        Example:
            >>> Column(type="float64", values=np.array([1.0, 0.0]), valid=np.array([True, False])).fits("int64")
            True
            >>> Column(type="float64", values=np.array([1.5]), valid=np.array([True])).fits("int64")
            False
        """
        present = self.values[self.valid]
        pair = (self.type, wanted)
        if not len(present) or settled(self.type, wanted) == wanted or pair == ("float32", "float64"):
            return True
        if pair in {("int64", "float64"), ("uint64", "float64")}:
            return bool((present <= 2**53).all() and (present >= -(2**53)).all())
        if pair == ("int64", "uint64"):
            return bool((present >= 0).all())
        if pair in {("float64", "int64"), ("float32", "int64")}:
            with np.errstate(invalid="ignore"):
                return bool((np.isfinite(present) & (present == np.trunc(present)) & (np.abs(present) <= 2**53)).all())
        return False


@dataclass(frozen=True, kw_only=True)
class Breach:
    """One thing that does not hold: a stable code, where, what a person reads, the likely cause, and the numbers."""

    code: str
    column: str | None
    sentence: str
    likely: str = ""
    severity: Literal["refuse", "warn"] = "refuse"
    facts: Mapping[str, Any] = field(default_factory=dict)


def micros(moment: datetime) -> int:
    """An aware moment as microseconds since 1970 UTC.

    Example:
        >>> micros(datetime(1970, 1, 2, tzinfo=UTC))
        86400000000
    """
    return (moment - EPOCH) // timedelta(microseconds=1)


def list_item(type_name: str) -> tuple[str, int | None]:
    """The item type and, where it is fixed, the length of a list type.

    Raises:
        InvalidInput: ST203, not a list type.

    Example:
        >>> list_item("list<float32>[384]")
        ('float32', 384)
    """
    match = re.fullmatch(r"list<(.+)>(?:\[(\d+)\])?", type_name)
    if match is None:
        raise InvalidInput("ST203", f"Can't read {type_name!r} as the type of a column.", type=type_name)
    return match[1], int(match[2]) if match[2] else None


def settled(known: str, got: str) -> str:
    """The type of a column, once `got` is seen too: what was open (`null`, `list<null>`) takes the type that came.

    Example:
        >>> settled("null", "int64"), settled("list<null>", "list<string>"), settled("int64", "string")
        ('int64', 'list<string>', 'int64')
    """
    is_open = known == "null" or (known == "list<null>" and got.startswith("list<"))
    return got if is_open else known
