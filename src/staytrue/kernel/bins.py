"""The cells into which the values of one column fall: fixed once, from its sketch, and small.

A `Bins` says for every value that can come which cell counts it. Numbers get up to 64 cells of about equal training
counts; their borders lie on borders of the sketch's buckets, so a sketch of other rows gives the same counts as the
rows themselves (`profile.py` counts both ways). Around them stand cells for what training did not have: below, above,
not finite, missing, a new category.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.sketch import Kind, Sketch, category_group, is_cut, moments
from staytrue.kernel.sketch_text import CLASSES, EIGHTHS

__all__ = ["MISSING", "Bins", "category_bins", "centred_bins", "is_narrow", "number_bins", "plain_bins", "vector_bins"]

BinsKind = Literal["number", "category", "group", "weekday", "bool", "none", "share", "vector"]

MISSING: Final = 0
"""The cell of nulls, in every column."""

NEW: Final = 1
OTHER: Final = 2
_FIRST_NAME: Final = 3
_NOT_FINITE: Final = 1
_BELOW: Final = 2

QUANTILES: Final = 63
NAMES: Final = 64
GROUPS: Final = 64
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# The sketch's buckets: sign, exponent and 6 bits of the mantissa. Places run from -LAST to LAST, 0 is zero.
SHIFT: Final = 46
_SIZES: Final = 1 << 17
_LAST: Final = 2047 << 6


@dataclass(frozen=True, kw_only=True)
class Bins:
    """The cells of one view of one column.

    Cell 0 counts nulls. Then, by kind:

    - number: 1 NaN and infinities; then in order: below, up to 64 bins with zero in its place among them, above. Zero
      is |x| < 2**-1028, which is how fine the sketch sees.
    - category: 1 new or rare (not twice in training), 2 the other known ones, then the names, most frequent first.
    - group: 64 groups of categories by hash, where names are too many.
    - weekday: Monday to Sunday, UTC.   - bool: false, true.   - none: present, where training had nulls only.
    - share: texts by the share of a class of characters: none, then eighths.
    - vector: the nearest of the centroids. A vector that is not finite or has another length is counted as missing.

    Attributes:
        column: whose values.
        view: which side of them: `values`; of texts and lists also `length`; of texts a class of characters; of lists
            `first`, the item that stands first.
        borders: number: (m + 1,) places where its bins begin, and where the last ends, ascending.
        centre: number: what is subtracted from a value before its bucket is looked up.
        whole: number: whether training had whole numbers only; for words.
        names: category: with a cell of their own; known: the others that training had twice.
        centroids: vector: (k, d).
    """

    column: str
    view: str
    kind: BinsKind
    borders: tuple[int, ...] = ()
    centre: float = 0.0
    whole: bool = False
    names: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    centroids: tuple[tuple[float, ...], ...] = ()

    @cached_property
    def size(self) -> int:
        """How many cells."""
        sizes = {"group": 1 + GROUPS, "weekday": 8, "bool": 3, "none": 2, "share": 1 + EIGHTHS}
        if self.kind == "number":
            return _BELOW + len(self.borders) + 2
        if self.kind == "category":
            return _FIRST_NAME + len(self.names)
        return 1 + len(self.centroids) if self.kind == "vector" else sizes[self.kind]

    @property
    def ordered(self) -> slice:
        """The cells that have an order, lowest first; an empty slice where none has."""
        return {"number": slice(_BELOW, self.size), "share": slice(1, self.size)}.get(self.kind, slice(0, 0))

    @cached_property
    def accepts(self) -> frozenset[str]:
        """The kinds of column that it can count (see `sketch.kind_of`); columns of nulls always."""
        if self.kind == "none":
            return frozenset(get_args(Kind))
        if self.view in {"first", "length"}:
            return frozenset({"list", "text", "null"})
        own = {"number": "number", "weekday": "time", "bool": "bool", "vector": "list"}
        return frozenset({own.get(self.kind, "text"), "null"})

    @property
    def of_sketch(self) -> bool:
        """Whether a stored sketch gives the counts: not around a centre, and not of vectors."""
        return self.kind != "vector" and not self.centre

    @cached_property
    def zero(self) -> int:
        """The cell of zero (of the centre, where there is one)."""
        return _BELOW + 1 + self._negative

    @cached_property
    def lookup(self) -> NDArray[np.uint8]:
        """(2**18,) number: the cell of a float by its highest 18 bits."""
        # Limit: 256 KB a column of numbers, in each process that counts rows; a thousand columns take 256 MB.
        low_ends = np.clip([-_LAST, *self.borders, _LAST + 1], -_LAST, _LAST + 1)
        cells = np.repeat(np.arange(len(self.borders) + 1), np.diff(low_ends)) + _BELOW
        cells += cells > _BELOW + self._negative
        # From places in order to bits: those with a sign count downwards.
        made = np.full(2 * _SIZES, _NOT_FINITE, np.uint8)
        made[:_LAST] = cells[_LAST + 1 :]
        made[_SIZES : _SIZES + _LAST] = cells[:_LAST][::-1]
        made[[0, _SIZES]] = self.zero
        return made

    @cached_property
    def cell_of_name(self) -> dict[str, int]:
        """category: the cell of each known name."""
        named = {name: _FIRST_NAME + at for at, name in enumerate(self.names)}
        return {**dict.fromkeys(self.known, OTHER), **named}

    @cached_property
    def has_long_names(self) -> bool:
        """Whether a known name stands for a text that is too long to be its own name."""
        return any(is_cut(f"={name}") for name in self.cell_of_name)

    def cells_of_places(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """number: (n,) the cells of a sketch's buckets."""
        bits = np.where(places < 0, _SIZES - 1 - places, places - 1)
        return self.lookup.take(np.where(places == 0, 0, bits)).astype(np.int64)

    def low(self, cell: int) -> float | None:
        """number: where an ordered cell begins; None for the lowest. The cell of zero begins and ends at zero.

        Example:
            >>> from staytrue.kernel.sketch import sketch
            >>> bins = number_bins("x", "values", sketch(np.array([4.0, 9.0]), np.ones(2, bool), "number"))
            >>> [bins.low(cell) for cell in range(2, bins.size)]
            [None, 0.0, 4.0, 9.0, 9.125]
        """
        return None if cell == _BELOW else float(self.lows[cell - _BELOW - 1])

    @cached_property
    def lows(self) -> NDArray[np.float64]:
        """number: (ordered cells - 1,) where each but the lowest begins, ascending but for zero."""
        low_ends = [_place_low(border) + self.centre for border in self.borders]
        return np.array([*low_ends[: self._negative], self.centre, *low_ends[self._negative :]])

    @cached_property
    def middles(self) -> NDArray[np.float64]:
        """number: (ordered cells,) the middle of each, ascending; the outermost two lie at their border."""
        made = np.concatenate([self.lows[:1], 0.5 * self.lows[:-1] + 0.5 * self.lows[1:], self.lows[-1:]])
        made[self.zero - _BELOW] = self.centre
        return np.maximum.accumulate(made)

    def label(self, cell: int) -> str:
        """The cell in words.

        Example:
            >>> plain_bins("at", "values", "weekday").label(1), plain_bins("x", "values", "bool").label(0)
            ('Monday', 'missing')
        """
        if cell == MISSING:
            return "missing"
        if self.kind == "number":
            return self._number_label(cell)
        if self.kind == "category":
            fixed = {NEW: "new or rare", OTHER: "the other known"}
            return fixed.get(cell) or repr(self.names[cell - _FIRST_NAME])
        words: dict[str, Sequence[str]] = {
            "weekday": _DAYS,
            "bool": ("false", "true"),
            "none": ("present",),
            "share": ("none", *(f"up to {at}/8" for at in range(1, EIGHTHS))),
        }
        return words[self.kind][cell - 1] if self.kind in words else f"{self.kind} {cell}"

    def document(self) -> dict[str, Any]:
        """Plain JSON; a name stands behind a sign, so that it never looks like the digest of an object."""
        made: dict[str, Any] = {"column": f"={self.column}", "view": self.view, "is": self.kind}
        if self.kind == "number":
            made |= {"borders": list(self.borders), "centre": self.centre, "whole": self.whole}
        elif self.kind == "category":
            made |= {part: [f"={name}" for name in getattr(self, part)] for part in ("names", "known")}
        elif self.kind == "vector":
            made |= {"centroids": [list(centroid) for centroid in self.centroids]}
        return made

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Bins:
        """What `document` gave.

        Example:
            >>> bins = plain_bins("at", "values", "weekday")
            >>> Bins.from_document(bins.document()) == bins
            True
        """
        return cls(
            column=document["column"][1:],
            view=document["view"],
            kind=document["is"],
            borders=tuple(document.get("borders", ())),
            centre=document.get("centre", 0.0),
            whole=document.get("whole", False),
            names=tuple(name[1:] for name in document.get("names", ())),
            known=tuple(name[1:] for name in document.get("known", ())),
            centroids=tuple(map(tuple, document.get("centroids", ()))),
        )

    @cached_property
    def _negative(self) -> int:
        """How many bins lie below zero."""
        return sum(border < 0 for border in self.borders[:-1])

    def _number_label(self, cell: int) -> str:
        if cell == _NOT_FINITE:
            return "NaN or infinite"
        if cell == self.zero:
            return digits(self.centre)
        if cell == _BELOW:
            return f"below {digits(_place_low(self.borders[0]) + self.centre)}"
        low = float(self.lows[cell - _BELOW - 1])
        if cell == self.size - 1:
            return f"{digits(low)} or above"
        high = _place_low(self.borders[cell - _BELOW - (cell > self.zero)]) + self.centre
        if self.whole:
            low, high = math.ceil(low), math.ceil(high) - 1
        return digits(low) if low >= high else f"from {digits(low)} to {digits(high)}"


def number_bins(column: str, view: str, s: Sketch) -> Bins:
    """Bins of about equal counts in this sketch of numbers; one of nothing but nulls gives no bin between the ends.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> number_bins("x", "values", sketch(np.array([1.0, 2.0]), np.ones(2, bool), "number")).size
        7
    """
    places, counts = np.array(s["at"], np.int64), np.array(s["n"], np.int64)
    # Zero and what the sketch can't tell from it have a cell of their own.
    apart = np.abs(places) > 1
    places, counts = places[apart], counts[apart]
    if not len(places):
        return Bins(column=column, view=view, kind="number", borders=(1,), whole=not s["fractions"])
    middles = np.cumsum(counts) - counts / 2
    bins = np.minimum((QUANTILES * middles / counts.sum()).astype(np.int64), QUANTILES - 1)
    begins = np.flatnonzero((np.diff(bins, prepend=-1) != 0) | (np.diff(np.sign(places), prepend=0) != 0))
    borders = places[begins]
    if borders[0] < 0:
        # What lies between zero and the smallest number seen belongs to its neighbour on the same side.
        borders[np.searchsorted(borders, 0) :][:1] = 1
    ends = (*borders.tolist(), int(places[-1]) + 1)
    return Bins(column=column, view=view, kind="number", borders=ends, whole=not s["fractions"])


def centred_bins(column: str, s: Sketch) -> Bins:
    """64 bins around the mean that would be equally full if the column were normal; from the exact mean and spread.

    For columns such as years or latitudes, whose values differ by less than the sketch's buckets are wide. A column
    without spread, or so large that its squares overflow, gets the bins of `number_bins`.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> centred_bins("x", sketch(np.array([2020.0, 2026.0]), np.ones(2, bool), "number")).centre
        2023.0
    """
    known = moments(s)
    if known is None or known[1] == 0 or known[0] == 0:
        return number_bins(column, "values", s)
    mean, std = known
    half = [NormalDist().inv_cdf(0.5 + at / 64) * std for at in range(1, 32)]
    ends = max(s["max"] - mean, mean - s["min"], 2 * half[-1])
    sizes = (np.array([*half, ends]).view(np.int64) >> SHIFT) + 1
    below, above = [-int(size) for size in sizes[::-1]], [int(size) + 1 for size in sizes]
    borders = tuple(sorted({*below, 1, *above}))
    return Bins(column=column, view="values", kind="number", borders=borders, centre=mean, whole=not s["fractions"])


def is_narrow(s: Sketch) -> bool:
    """Whether the sketch's buckets are too wide to see this column of numbers move: wider than half its spread.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> years, prices = np.arange(2010.0, 2026.0), np.arange(1.0, 17.0)
        >>> [is_narrow(sketch(values, np.ones(16, bool), "number")) for values in (years, prices)]
        [True, False]
    """
    known = moments(s) if s["is"] == "number" else None
    if known is None or not known[1]:
        return False
    fullest = int(s["at"][int(np.argmax(s["n"]))])
    if abs(fullest) <= 1:
        return False
    width = _place_low(abs(fullest) + 1) - _place_low(abs(fullest))
    return width > known[1] / 2 and (bool(s["fractions"]) or width > 1)


def category_bins(column: str, view: str, s: Sketch) -> Bins:
    """A cell each for the 64 most frequent categories; groups by hash where most rows have a category of their own.

    A category that came once in training counts as new, there too: how often a training row's category is seen in no
    other row is what to expect of the next row's (Good and Turing).

    Args:
        column: whose values. view: which side of them.
        s: a sketch of texts, or one place of a list's items.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> made = category_bins("x", "values", sketch(np.array(["b", "a", "a"], object), np.ones(3, bool), "text"))
        >>> made.names, made.known
        (('a',), ())
    """
    by_name = s["categories"]
    ranked = sorted((name for name, n in by_name.items() if n > 1), key=lambda name: (-by_name[name], name))
    if s["bar"] is not None or 2 * (len(by_name) - len(ranked)) > sum(by_name.values()):
        return Bins(column=column, view=view, kind="group")
    names = [name[1:] for name in ranked]
    return Bins(
        column=column, view=view, kind="category", names=tuple(names[:NAMES]), known=tuple(sorted(names[NAMES:]))
    )


def plain_bins(column: str, view: str, kind: Literal["weekday", "bool", "none", "share", "group"]) -> Bins:
    """Cells that need no training: days of the week, truth, presence, shares of a class of characters.

    Example:
        >>> plain_bins("comment", "digits", "share").size
        10
    """
    return Bins(column=column, view=view, kind=kind)


def vector_bins(column: str, sample: NDArray[np.float64], k: int) -> Bins:
    """A cell for each of at most `k` centroids of a sample of vectors: k-means without randomness.

    It begins with the vector nearest to the mean, adds the one farthest from those chosen until there are k, and makes
    20 rounds.

    Args:
        column: whose values.
        sample: (m, d), finite; at least one row.
        k: at least 1.

    Source:
        Gonzalez, "Clustering to minimize the maximum intercluster distance" (1985), for the beginning; Lloyd (1982).

    Example:
        >>> vector_bins("v", np.array([[0.0, 0.0], [0.0, 0.1], [9.0, 9.0]]), 2).centroids[1]
        (9.0, 9.0)
    """
    chosen = [int(np.argmin(_squares(sample, sample.mean(axis=0))))]
    nearest = _squares(sample, sample[chosen[0]])
    while len(chosen) < k and nearest.max() > 0:
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, _squares(sample, sample[chosen[-1]]))
    centroids = sample[chosen]
    for _ in range(20):
        of = nearest_centroid(sample, centroids)
        centroids = np.array(
            [sample[of == at].mean(axis=0) if (of == at).any() else c for at, c in enumerate(centroids)]
        )
    # In single precision: half the digits, and nobody needs more.
    rounded = centroids.astype(np.float32).astype(np.float64)
    return Bins(column=column, view="values", kind="vector", centroids=tuple(map(tuple, rounded.tolist())))


def nearest_centroid(vectors: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) which centroid is nearest; the first of equals.

    Limit: which of two that are equal to the last bit is for the machine's linear algebra to say.

    Example:
        >>> nearest_centroid(np.array([[1.0], [8.0]]), np.array([[0.0], [9.0]])).tolist()
        [0, 1]
    """
    nearest: NDArray[np.int64] = np.argmin((centroids**2).sum(axis=1) - 2 * vectors @ centroids.T, axis=1)
    return nearest


def digits(value: float) -> str:
    """A number for people: four digits, and whole ones all of theirs.

    Example:
        >>> digits(0.123456), digits(22780.0), digits(1e300)
        ('0.1235', '22,780', '1e+300')
    """
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def group_cell(name: str) -> int:
    """group: the cell of a category, as `category` names it."""
    return group_of(category_group(name))


def group_of(bin_: int) -> int:
    """group: the cell of the sketch's bin of nameless categories."""
    return 1 + bin_ % GROUPS


def share_row(view: str) -> int:
    """share: the row of a class of characters in `sketch_text.eighths`."""
    return CLASSES.index(view)


def _squares(vectors: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(((vectors - to) ** 2).sum(axis=1), np.float64)


def _place_low(place: int) -> float:
    """The end of a bucket that is nearer to minus infinity; for a border, the least value that is not below it."""
    size = place - 1 if place > 0 else -place
    low = float(np.array(min(size, _LAST) << SHIFT, np.int64).view(np.float64))
    return low if place > 0 else -low
