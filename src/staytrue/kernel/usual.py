"""What one earlier window held, small enough to keep ninety of them at hand: what `kernel/checks` calls usual.

It is made from the sketches of a part, so no row is read again; and of the window that is judged in the same way, so
like is held against like.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.sketch import Sketch, quantile

__all__ = ["ENOUGH_WINDOWS", "LEVELS", "Usual", "usual"]

ENOUGH_WINDOWS: Final = 5
"""With fewer windows before it, nothing is usual."""

LEVELS: Final = (np.arange(40) + 0.5) / 40
"""(40,) the shares at which a shape gives its quantiles."""


@dataclass(frozen=True, kw_only=True)
class Usual:
    """What one window held.

    Attributes:
        rows: how many.
        nulls: nulls, NaN and infinities by column.
        quartiles: (q25, median, q75) of each numeric column with finite values.
        ranges: (least, largest) finite value of each numeric column.
        spans: (oldest, newest) of each time column, in microseconds.
        shapes: of each numeric column, (40,) the buckets of the sketch at `LEVELS` of the values that are finite and
            not zero; missing when there are none.
        weights: of each numeric column, (negative, zero, positive) counts.
        peaks: the count of the most frequent bucket, category or truth value of each column.
        decimals: of each numeric column, the fewest decimals with which its sum can be written; -2 when it is a
            multiple of 100, None when there are too many to tell. At most what its values need, mostly just that. Missing
            where fractions sum to a whole number.
        categories: of each text or truth column, counts by category; None when they are too many to mean anything.
        prints: a fingerprint of each column's sketch: equal for equal values, in any order.
        cells: of each column, how many buckets, days or categories occur.
    """

    rows: int
    nulls: Mapping[str, int]
    quartiles: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    shapes: Mapping[str, NDArray[np.int64]] = field(default_factory=dict, compare=False)
    weights: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    peaks: Mapping[str, int] = field(default_factory=dict)
    decimals: Mapping[str, int | None] = field(default_factory=dict)
    categories: Mapping[str, Mapping[str, int] | None] = field(default_factory=dict)
    prints: Mapping[str, int] = field(default_factory=dict)
    cells: Mapping[str, int] = field(default_factory=dict)


def usual(rows: int, sketches: Mapping[str, Sketch]) -> Usual:
    """What the contract remembers of a window, from its sketches.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> made = usual(3, {"n": sketch(np.array([1, 2, 3]), np.ones(3, bool), "number")})
        >>> made.quartiles["n"], made.ranges["n"], made.decimals["n"]
        ((1.0, 2.0, 2.0), (1.0, 3.0), 0)
    """
    numbers = {name: s for name, s in sketches.items() if s["is"] == "number" and s["min"] is not None}
    named = {name: _categories(s) for name, s in sketches.items() if s["is"] in {"text", "bool"}}
    return Usual(
        rows=rows,
        nulls={name: s["nulls"] + s.get("nan", 0) + s.get("infinite", 0) for name, s in sketches.items()},
        quartiles={name: _quartiles(s) for name, s in numbers.items()},
        ranges={name: (s["min"], s["max"]) for name, s in numbers.items()},
        spans={name: (s["min"], s["max"]) for name, s in sketches.items() if s["is"] == "time" and s["n"]},
        shapes={name: shape for name, s in numbers.items() if (shape := _shape(s)) is not None},
        weights={name: _weights(s) for name, s in numbers.items()},
        peaks={name: peak for name, s in sketches.items() if (peak := _peak(s, named.get(name)))},
        decimals={name: _decimals(s) for name, s in numbers.items() if not _sums_up(s)},
        categories=named,
        prints={name: _print(s) for name, s in sketches.items()},
        cells={name: _cells(s) for name, s in sketches.items()},
    )


_MOST_CATEGORIES: Final = 256
_MOST_DECIMALS: Final = 9


def _quartiles(s: Sketch) -> tuple[float, float, float]:
    low, middle, high = (quantile(s, q) or 0.0 for q in (0.25, 0.5, 0.75))
    return low, middle, high


def _shape(s: Sketch) -> NDArray[np.int64] | None:
    places, counts = np.array(s["at"], np.int64), np.array(s["n"], np.int64)
    counts[places == 0] = 0
    total = int(counts.sum())
    return places[np.searchsorted(np.cumsum(counts), LEVELS * total, side="right")] if total else None


def _weights(s: Sketch) -> tuple[int, int, int]:
    places, counts = np.array(s["at"], np.int64), np.array(s["n"], np.int64)
    return int(counts[places < 0].sum()), int(counts[places == 0].sum()), int(counts[places > 0].sum())


def _categories(s: Sketch) -> dict[str, int] | None:
    if s["is"] == "bool":
        counts = {"true": s["true"], "false": s["count"] - s["nulls"] - s["true"]}
        return {name: n for name, n in counts.items() if n}
    if s["other"] or len(s["categories"]) > _MOST_CATEGORIES:
        return None
    return {name[1:]: n for name, n in s["categories"].items()}


def _peak(s: Sketch, categories: Mapping[str, int] | None) -> int:
    counts = s["n"] if "n" in s else (categories or {}).values()
    return max(counts, default=0)


def _cells(s: Sketch) -> int:
    counted = s["categories"] if s["is"] == "text" else s["lengths"]["n"] if s["is"] == "list" else s.get("n", ())
    return len(counted)


def _print(s: Sketch) -> int:
    # Not the canonical spelling of documents, which has no word for half a character, as a garbled text may hold.
    text = json.dumps(s, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _sums_up(s: Sketch) -> bool:
    """Whether fractions sum to a whole number, as those of a calendar do: the sum tells nothing of their decimals."""
    return bool(s["fractions"]) and (_decimals(s) or 0) <= 0 and _decimals(s) is not None


def _decimals(s: Sketch) -> int | None:
    """The fewest decimals that the sum can be written with.

    A sum needs at most the decimals of its values. It needs fewer by chance only, one window in ten.
    """
    mantissa, _, exponent = s["sum"].partition("p")
    total = int(mantissa, 16) * Fraction(2) ** int(exponent)
    blur = sum(s["n"]) * max(abs(s["min"]), abs(s["max"])) * 2.0**-52
    for decimals in range(-2, _MOST_DECIMALS + 1):
        scaled = total * Fraction(10) ** decimals
        if blur * 10.0**decimals > 0.01:
            return None
        if abs(float(scaled - round(scaled))) <= max(blur * 10.0**decimals, 1e-12):
            return decimals
    return None
