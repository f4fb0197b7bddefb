"""The case that every check judges: a window's rows, what they come to, and what is known of the windows before."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.source import Column, Schema, SourceSpec, Window
from staytrue.kernel.terms import Contract
from staytrue.kernel.usual import Usual

__all__ = ["RECENT", "Case", "counted", "decimals_of"]

RECENT: Final = 28
"""So many windows before say how far windows lie apart by themselves."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One window to be judged.

    Attributes:
        now: what the window holds, made as `past` was.
        past: the windows before that have rows, oldest first, this one left out.
        terms: what is expected: learned from `past`, or pinned.
        seen: keys of the newest parts.
    """

    spec: SourceSpec
    window: Window
    columns: Mapping[str, Column]
    schema: Schema | None
    now: Usual
    past: Sequence[Usual]
    terms: Contract
    seen: Collection[Any] = frozenset()

    @property
    def recent(self) -> Sequence[Usual]:
        """The newest windows before this one."""
        return self.past[-RECENT:]

    @property
    def features(self) -> list[str]:
        """The columns that are neither key nor time nor label."""
        return [name for name in self.columns if name not in {self.spec.key, self.spec.time, self.spec.label}]

    @property
    def measured(self) -> list[str]:
        """The columns whose values can be held against the past: all but key and time."""
        return [name for name in self.columns if name not in {self.spec.key, self.spec.time}]


def counted(n: int, one: str, many: str) -> str:
    """`1 row has`, `2 rows have`.

    Example:
        >>> counted(2, "lies", "lie")
        '2 rows lie'
    """
    return f"1 row {one}" if n == 1 else f"{n} rows {many}"


_MOST_DECIMALS: Final = 10


def decimals_of(values: NDArray[np.float64]) -> int | None:
    """The fewest decimals that all values can be written with; below zero they are multiples of 10 or 100.

    None when they are too many to tell.

    Example:
        >>> decimals_of(np.array([0.5, 2.25])), decimals_of(np.array([1200.0, 300.0]))
        (2, -2)
    """
    for decimals in range(-2, _MOST_DECIMALS):
        with np.errstate(over="ignore"):
            scaled = values * 10.0**decimals
        blur = np.abs(scaled) * 2.0**-50
        if (blur > 0.01).any():
            return None
        if np.all(np.abs(scaled - np.rint(scaled)) <= blur + 1e-9):
            return decimals
    return None
