"""What rows look like beside the training's rows: counts over cells that were fixed once, and nothing else.

A `Reference` fixes the cells of a set of columns, from the stored sketches of the training table. A `Profile` counts
rows in them: a few hundred bytes a column however many rows it has seen, and adding two is adding whole numbers, so any
sharding, order or grouping gives the same bits. There are two ways to the same counts: `profile` reads rows, fast
enough to run beside traffic (`benchmarks/health.py`); `of_sketches` reads the sketches that every part has anyway.

Left out by whoever builds a reference: the time and the key of a row, which are new in every window by nature.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.bins import (
    MISSING,
    NEW,
    SHIFT,
    Bins,
    category_bins,
    centred_bins,
    group_cell,
    group_of,
    is_narrow,
    nearest_centroid,
    number_bins,
    plain_bins,
    share_row,
    vector_bins,
)
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Column
from staytrue.kernel.sketch import Sketch, category, kind_of
from staytrue.kernel.sketch_list import items_by_place
from staytrue.kernel.sketch_text import CLASSES, eighths

__all__ = ["Codes", "Profile", "Reference", "by_segment", "narrow", "of_sketches", "profile", "reference"]


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A text column as a dictionary keeps it: codes (n,) into `categories`, and which of them are not null (n,).

    Arrow, Parquet and pandas have it this way already; counting codes is some twenty times as fast as counting texts.
    A code where `valid` is False means nothing.
    """

    codes: NDArray[np.integer[Any]]
    valid: NDArray[np.bool_]
    categories: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The cells of a set of columns, by feature: the column's name, or `column: view` for another side of it.

    Texts that are too many to name have a feature for their length and for each class of characters, lists for their
    length and for the item that stands first.
    """

    bins: Mapping[str, Bins]

    @cached_property
    def digest(self) -> str:
        """Equal references have equal digests, on every machine."""
        # Not 64 hex digits: those would refer to an object.
        return "bins:" + hashlib.blake2b(canonical_json(self.document()), digest_size=16).hexdigest()

    def document(self) -> dict[str, Any]:
        """Plain JSON, to be kept beside the release whose training it describes."""
        return {"kind": "profile_reference", "bins": {f"={name}": bins.document() for name, bins in self.bins.items()}}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Reference:
        """What `document` gave.

        Raises:
            InvalidInput: ST906, the document of something else.

        Example:
            >>> Reference.from_document(Reference(bins={}).document()) == Reference(bins={})
            True
        """
        _is(document, "profile_reference")
        return cls(bins={name[1:]: Bins.from_document(bins) for name, bins in sorted(document["bins"].items())})


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """Rows counted over the cells of a reference.

    Attributes:
        reference: its digest.
        rows: how many were counted.
        counts: feature -> int64 (cells of the feature's bins,), each adding up to `rows`.
    """

    reference: str
    rows: int
    counts: Mapping[str, NDArray[np.int64]]

    @classmethod
    def empty(cls, over: Reference) -> Profile:
        """No rows: what adding begins with.

        Example:
            >>> Profile.empty(Reference(bins={})).rows
            0
        """
        return cls(
            reference=over.digest,
            rows=0,
            counts={name: np.zeros(bins.size, np.int64) for name, bins in over.bins.items()},
        )

    def __add__(self, other: Profile) -> Profile:
        """The profile of the rows of both; exact, so any order and grouping gives the same.

        Raises:
            InvalidInput: ST903, profiles over different references.
        """
        if self.reference != other.reference:
            raise InvalidInput(
                "ST903",
                f"Can't add a profile over {other.reference} to one over {self.reference}; expected the same "
                "reference. Profile the rows again over one of them.",
                references=[self.reference, other.reference],
            )
        counts = {name: mine + other.counts[name] for name, mine in self.counts.items()}
        return Profile(reference=self.reference, rows=self.rows + other.rows, counts=counts)

    def __eq__(self, other: object) -> bool:
        """Whether both counted the same over the same reference."""
        return isinstance(other, Profile) and self.document() == other.document()

    __hash__ = None  # type: ignore[assignment]  # arrays can be written to

    def document(self) -> dict[str, Any]:
        """Plain JSON.

        Example:
            >>> empty = Profile.empty(Reference(bins={}))
            >>> Profile.from_document(empty.document()) == empty
            True
        """
        return {
            "kind": "profile",
            "reference": self.reference,
            "rows": self.rows,
            "counts": {f"={name}": counts.tolist() for name, counts in self.counts.items()},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Profile:
        """What `document` gave.

        Raises:
            InvalidInput: ST906, the document of something else.
        """
        _is(document, "profile")
        counts = {name[1:]: np.array(counts, np.int64) for name, counts in document["counts"].items()}
        return cls(reference=document["reference"], rows=document["rows"], counts=counts)


def reference(
    sketches: Mapping[str, Sketch],
    *,
    centred: Iterable[str] = (),
    vectors: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    clusters: int = 16,
) -> Reference:
    """The cells for these columns, from the sketches of the rows that a model learned from.

    Times are counted by day of the week, since a later time is no news. Leave the row's own time and key out.

    Args:
        sketches: by column.
        centred: columns of numbers to count in cells around their mean (see `narrow`). Their counts, and those of
            vectors, then come from rows only, and `of_sketches` refuses the reference.
        vectors: for a column of vectors a sample of them (m, d); it gets the nearest of at most `clusters` centroids
            in place of its lengths.
        clusters: how many centroids, from 1 to 254.

    Raises:
        InvalidInput: ST900, a name that has no sketch or is no number, or a sample that is empty or not finite.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> made = reference({"price": sketch(np.array([1.0, 2.0]), np.ones(2, bool), "number")})
        >>> made.bins["price"].label(4)
        '1'
    """
    samples = {name: np.asarray(sample, np.float64) for name, sample in (vectors or {}).items()}
    around = set(centred)
    _check_asked(sketches, around, samples, clusters)
    made: list[Bins] = []
    for name, s in sketches.items():
        if name in samples:
            made.append(vector_bins(name, samples[name], clusters))
        elif name in around:
            made.append(centred_bins(name, s))
        else:
            made.extend(_views(name, s))
    # A column that is called like another's view wins: it comes later.
    made.sort(key=lambda bins: bins.view == "values")
    by_feature = {_feature(bins): bins for bins in made}
    return Reference(bins=dict(sorted(by_feature.items())))


def narrow(sketches: Mapping[str, Sketch]) -> list[str]:
    """The columns of numbers that a sketch is too coarse to watch, such as years or latitudes: `centred` for them.

    A sketch is right to 1 % of a number, which is 16 years.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> narrow({"year": sketch(np.arange(2010.0, 2026.0), np.ones(16, bool), "number")})
        ['year']
    """
    return [name for name, s in sketches.items() if is_narrow(s)]


def profile(over: Reference, columns: Mapping[str, Column | Codes]) -> Profile:
    """These rows counted over the reference's cells.

    Args:
        over: the cells.
        columns: by name, each of the same length; those that the reference does not know are left out.

    Raises:
        InvalidInput: ST901, a column is missing; ST902, a column is of another kind than in the reference; ST905,
            columns of different lengths, or a code that stands for no category.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> made = reference({"n": sketch(np.array([1.0, 2.0]), np.ones(2, bool), "number")})
        >>> profile(made, {"n": Column(type="int64", values=np.array([2, 0]), valid=np.ones(2, bool))}).counts["n"]
        array([0, 0, 0, 1, 0, 1, 0])
    """
    given: dict[str, _Given] = {}
    rows = len(next(iter(columns.values())).valid) if columns else 0
    counts: dict[str, NDArray[np.int64]] = {}
    for feature, bins in over.bins.items():
        one = given.get(bins.column) or _Given.of(bins.column, columns, rows)
        given[bins.column] = one
        counts[feature] = one.counted(bins)
    return Profile(reference=over.digest, rows=rows, counts=counts)


def by_segment(
    over: Reference, columns: Mapping[str, Column | Codes], segment: NDArray[np.integer[Any]], segments: int
) -> list[Profile]:
    """A profile for each segment of the rows; together they are the profile of all.

    Args:
        over: the cells.
        columns: as for `profile`.
        segment: (n,) the segment of each row, from 0 to `segments` - 1; give rows of no segment one of their own.
        segments: how many.

    Raises:
        InvalidInput: as `profile`; ST905 also for a segment that is not there, or another number of rows.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> made = reference({"n": sketch(np.array([1.0, 2.0]), np.ones(2, bool), "number")})
        >>> rows = {"n": Column(type="int64", values=np.array([2, 1, 0]), valid=np.ones(3, bool))}
        >>> [one.rows for one in by_segment(made, rows, np.array([1, 1, 0]), 3)]
        [1, 2, 0]
    """
    rows = len(next(iter(columns.values())).valid) if columns else len(segment)
    if segment.shape != (rows,) or (rows and not 0 <= int(segment.min()) <= int(segment.max()) < segments):
        raise InvalidInput(
            "ST905",
            f"Can't profile by segment: {segment.shape} segments from {segment.min(initial=0)} to "
            f"{segment.max(initial=0)} for {rows} rows; expected one a row, from 0 to {segments - 1}.",
        )
    # Sorted once, each segment is a slice of every column.
    order = np.argsort(segment, kind="stable")
    ends = np.cumsum(np.bincount(segment, minlength=segments)).tolist()
    known = {bins.column for bins in over.bins.values()}
    ordered = {name: _cut(column, order) for name, column in columns.items() if name in known}
    pieces = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    profiles = [profile(over, {name: _cut(one, piece) for name, one in ordered.items()}) for piece in pieces]
    return [replace(one, rows=piece.stop - piece.start) for one, piece in zip(profiles, pieces, strict=True)]


def of_sketches(over: Reference, sketches: Mapping[str, Sketch]) -> Profile:
    """The same counts as `profile` of the rows that these are sketches of, without reading a row.

    Exactly the same: cells begin and end where the sketch's buckets do. One case is not: a window of more than 1,000
    categories, in a column for which training had fewer. Names that its sketch dropped count as new, also those that
    training knew.

    Raises:
        InvalidInput: ST901, ST902 as `profile`; ST904, the reference has cells that only rows can fill (around a
            centre, vectors), or a sketch was made before characters and items were counted.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> one = sketch(np.array([1.0, 2.0]), np.ones(2, bool), "number")
        >>> of_sketches(reference({"n": one}), {"n": one}).counts["n"]
        array([0, 0, 0, 0, 1, 1, 0])
    """
    blind = [feature for feature, bins in over.bins.items() if not bins.of_sketch]
    if blind:
        raise InvalidInput(
            "ST904",
            f"Can't count {', '.join(map(repr, blind))} from sketches: the cells are around a centre or of vectors. "
            "Profile the rows, or build the reference without `centred` and `vectors`.",
            features=blind,
        )
    counts = {}
    rows = next(iter(sketches.values()))["count"] if sketches else 0
    for feature, bins in over.bins.items():
        s = sketches.get(bins.column)
        if s is None:
            raise _missing(bins.column, sketches)
        counts[feature] = _of_sketch(bins, s)
    return Profile(reference=over.digest, rows=rows, counts=counts)


# -- which cells ------------------------------------------------------------------------------------------------------

_MOST_CLUSTERS: Final = 254
_DIMENSIONS: Final = 2


def _check_asked(
    sketches: Mapping[str, Sketch], centred: set[str], samples: Mapping[str, NDArray[np.float64]], clusters: int
) -> None:
    wrong = None
    for name in centred:
        if name not in sketches or sketches[name]["is"] != "number":
            wrong = f"{name!r} is to be centred, but there is no sketch of numbers of that name"
    for name, sample in samples.items():
        if name not in sketches:
            wrong = f"{name!r} has a sample of vectors but no sketch"
        elif sample.ndim != _DIMENSIONS or not sample.size or not np.isfinite(sample).all():
            wrong = f"the sample of {name!r} has shape {sample.shape}; expected (m, d) finite numbers, at least one row"
    if not 1 <= clusters <= _MOST_CLUSTERS:
        wrong = f"clusters is {clusters}; expected 1 to {_MOST_CLUSTERS}"
    if wrong:
        raise InvalidInput("ST900", f"Can't build a reference: {wrong}.")


def _views(name: str, s: Sketch) -> Iterable[Bins]:
    kind = s["is"]
    if kind == "number":
        yield number_bins(name, "values", s)
    elif kind == "text":
        yield (values := category_bins(name, "values", s))
        if values.kind == "group":
            yield number_bins(name, "length", s["lengths"])
            if s.get("characters", {}).get("texts") == s["count"] - s["nulls"]:
                yield from (plain_bins(name, view, "share") for view in CLASSES)
    elif kind == "list":
        yield number_bins(name, "length", s["lengths"])
        if "items" in s:
            yield category_bins(name, "first", s["items"]["1"])
    else:
        yield plain_bins(name, "values", {"time": "weekday", "bool": "bool"}.get(kind, "none"))  # type: ignore[arg-type]


def _feature(bins: Bins) -> str:
    return bins.column if bins.view == "values" else f"{bins.column}: {bins.view}"


# -- from rows --------------------------------------------------------------------------------------------------------

_UNSIGNED_SHIFT: Final = np.uint64(SHIFT)
_ONE_BYTE: Final = 256
# From here on two cells are counted as one of 2**16 pairs: half the increments, and columns that repeat one value wait
# less for their own last increment (benchmarks/health.py). Pieces stay in the second-level cache.
_PAIRS_FROM: Final = 1 << 15
_PIECE: Final = 1 << 16
_DAY: Final = 86_400_000_000


@dataclass(kw_only=True)
class _Given:
    """A column as it came; what several views need of it is made once."""

    name: str
    kind: str
    values: NDArray[Any]
    valid: NDArray[np.bool_]
    nulls: int
    categories: Sequence[str] | None

    @classmethod
    def of(cls, name: str, columns: Mapping[str, Column | Codes], rows: int) -> _Given:
        column = columns.get(name)
        if column is None:
            raise _missing(name, columns)
        values = column.codes if isinstance(column, Codes) else column.values
        if len(column.valid) != rows or len(values) != rows:
            raise InvalidInput(
                "ST905",
                f"Can't profile {name!r}: it has {len(values)} values and {len(column.valid)} marks of validity, another "
                f"column has {rows} rows; expected columns of one length.",
                column=name,
            )
        return cls(
            name=name,
            kind="text" if isinstance(column, Codes) else kind_of(column.type),
            values=values,
            valid=column.valid,
            nulls=rows - int(np.count_nonzero(column.valid)),
            categories=column.categories if isinstance(column, Codes) else None,
        )

    def counted(self, bins: Bins) -> NDArray[np.int64]:
        """(cells,) of one view."""
        _check_kind(bins, self.kind)
        if self.nulls == len(self.valid):
            made = np.zeros(bins.size, np.int64)
        elif bins.kind == "number":
            made = self._numbers(bins)
        elif bins.kind in {"category", "group"}:
            made = self._categories(bins)
        elif bins.kind == "share":
            made = np.concatenate([[0], self._eighths[share_row(bins.view)]])
        elif bins.kind == "weekday":
            made = np.bincount(1 + (self.present // _DAY + 3) % 7, minlength=bins.size)
        elif bins.kind == "bool":
            true = int(np.count_nonzero(self.present))
            made = np.array([0, len(self.present) - true, true])
        elif bins.kind == "vector":
            made = _of_vectors(bins, self.present)
        else:
            made = np.array([0, len(self.present)])
        if self.nulls:
            made[MISSING] += self.nulls
        return made

    @cached_property
    def present(self) -> NDArray[Any]:
        return self.values if not self.nulls else self.values[self.valid]

    def _numbers(self, bins: Bins) -> NDArray[np.int64]:
        if bins.view != "length":
            if not self.nulls:
                return _of_numbers(bins, self.values)
            if self.nulls > len(self.valid) // 8:
                return _of_numbers(bins, self.present)
            # A null has a value too, which means nothing: counting all and taking those back is twice as fast.
            return _of_numbers(bins, self.values) - _of_numbers(bins, self.values[~self.valid])
        if self.kind == "list":
            return _of_numbers(bins, np.fromiter(map(len, self.present), np.int64, len(self.present)))
        lengths = np.fromiter(map(len, self._by_text), np.float64, len(self._by_text))
        return _weighed(_cells(bins, lengths), self._by_text.values(), bins.size)

    def _categories(self, bins: Bins) -> NDArray[np.int64]:
        if bins.view == "first":
            made = _of_names(
                bins, items_by_place(value[:1] for value in self.present if not isinstance(value, str))["1"]
            )
            made[MISSING] += len(self.present) - int(made.sum())
            return made
        if self.categories is None or bins.kind == "group":
            return _of_names(bins, self._by_text)
        return _weighed(_cells_of_texts(bins, self.categories), self._by_code, bins.size)

    @cached_property
    def _by_code(self) -> NDArray[np.int64]:
        codes = self.present
        known = len(self.categories or ())
        try:
            counts = np.bincount(codes if codes.dtype != np.uint64 else codes.astype(np.int64), minlength=known)
        except (TypeError, ValueError):
            counts = None
        if counts is None or len(counts) > known:
            raise InvalidInput(
                "ST905",
                f"Can't profile {self.name!r}: its codes are {codes.dtype} from {codes.min()} to {codes.max()}; expected "
                f"whole numbers from 0 to {known - 1}, one for each category. Nulls are marked in `valid`.",
                column=self.name,
            )
        return counts

    @cached_property
    def _by_text(self) -> Mapping[str, int]:
        if self.categories is None:
            return Counter(self.present.tolist())
        made: Counter[str] = Counter()
        for code in np.flatnonzero(self._by_code).tolist():
            made[self.categories[code]] += int(self._by_code[code])
        return made

    @cached_property
    def _eighths(self) -> NDArray[np.int64]:
        return eighths(self._by_text)


def _cut(column: Column | Codes, which: NDArray[np.int64] | slice) -> Column | Codes:
    valid = column.valid[which]
    if isinstance(column, Codes):
        return Codes(codes=column.codes[which], valid=valid, categories=column.categories)
    return Column(type=column.type, values=column.values[which], valid=valid)


def _of_numbers(bins: Bins, values: NDArray[Any]) -> NDArray[np.int64]:
    if len(values) < _PAIRS_FROM:
        return np.bincount(_cells(bins, values), minlength=bins.size)
    pairs = np.zeros(bins.size * _ONE_BYTE, np.int64)
    for start in range(0, len(values) - 1, _PIECE):
        cells = _cells(bins, values[start : start + _PIECE])
        pairs += np.bincount(cells[: len(cells) & ~1].view(np.uint16), minlength=len(pairs))
    square = pairs.reshape(-1, _ONE_BYTE)
    made: NDArray[np.int64] = square.sum(axis=1) + square.sum(axis=0)[: bins.size]
    if len(values) % 2:
        made[int(_cells(bins, values[-1:])[0])] += 1
    return made


def _cells(bins: Bins, values: NDArray[Any]) -> NDArray[np.uint8]:
    """(n,) from the highest 18 bits of the floats: no search, no comparison."""
    numbers = np.ascontiguousarray(values, np.float64)
    if bins.centre:
        with np.errstate(over="ignore"):
            numbers = numbers - bins.centre
    return bins.lookup.take((numbers.view(np.uint64) >> _UNSIGNED_SHIFT).view(np.int64))


def _weighed(cells: NDArray[Any], times: Iterable[int] | NDArray[np.int64], size: int) -> NDArray[np.int64]:
    weights = times if isinstance(times, np.ndarray) else np.fromiter(times, np.int64, len(cells))
    # Sums of whole numbers in floats, exact below 2**53.
    return np.bincount(cells, weights=weights, minlength=size).astype(np.int64)


def _of_names(bins: Bins, by_text: Mapping[str, int]) -> NDArray[np.int64]:
    if bins.kind == "group":
        cells = np.fromiter((group_cell(category(text)) for text in by_text), np.int64, len(by_text))
    else:
        cells = _cells_of_texts(bins, by_text)
    return _weighed(cells, by_text.values(), bins.size)


def _cells_of_texts(bins: Bins, texts: Collection[str]) -> NDArray[np.int64]:
    cells = np.fromiter(map(bins.cell_of_name.get, texts, repeat(NEW)), np.int64, len(texts))
    if bins.has_long_names:
        # A long text is known by its beginning and a hash.
        new = set(np.flatnonzero(cells == NEW).tolist())
        for at, text in enumerate(texts):
            if at in new:
                cells[at] = bins.cell_of_name.get(category(text)[1:], NEW)
    return cells


def _of_vectors(bins: Bins, lists: NDArray[Any]) -> NDArray[np.int64]:
    centroids = np.array(bins.centroids)
    made = np.zeros(bins.size, np.int64)
    fitting = [value for value in lists if len(value) == centroids.shape[1] and not isinstance(value, str)]
    for start in range(0, len(fitting), _PIECE // 8):
        try:
            vectors = np.array(fitting[start : start + _PIECE // 8], np.float64)
        except (TypeError, ValueError) as exc:
            raise InvalidInput(
                "ST905",
                f"Can't profile {bins.column!r}: {exc}. Expected lists of numbers, as its centroids are.",
                column=bins.column,
            ) from exc
        vectors = vectors[np.isfinite(vectors).all(axis=1)]
        made += np.bincount(1 + nearest_centroid(vectors, centroids), minlength=bins.size)
    made[MISSING] = len(lists) - int(made.sum())
    return made


# -- from sketches ----------------------------------------------------------------------------------------------------


def _of_sketch(bins: Bins, s: Sketch) -> NDArray[np.int64]:
    made = np.zeros(bins.size, np.int64)
    _check_kind(bins, s["is"])
    if s["is"] == "null":
        pass
    elif bins.kind == "number":
        numbers = s["lengths"] if bins.view == "length" else s
        made = _weighed(bins.cells_of_places(np.array(numbers["at"], np.int64)), numbers["n"], bins.size)
        made[1] += numbers["nan"] + numbers["infinite"]
    elif bins.kind in {"category", "group"}:
        made = _names_of_sketch(bins, s)
    elif bins.kind == "share":
        made[1:] = _kept(bins, s, "characters")["shares"][bins.view]
    elif bins.kind == "weekday":
        made = _weighed(1 + (np.array(s["at"], np.int64) + 3) % 7, s["n"], bins.size)
    elif bins.kind == "bool":
        made[1:] = s["count"] - s["nulls"] - s["true"], s["true"]
    else:
        made[1] = s["count"] - s["nulls"]
    made[MISSING] += s["count"] - int(made.sum())
    return made


def _names_of_sketch(bins: Bins, s: Sketch) -> NDArray[np.int64]:
    by_name = _kept(bins, s, "items")["1"] if bins.view == "first" else s
    named = by_name["categories"]
    if bins.kind == "group":
        cells = [*map(group_cell, named), *(group_of(int(place)) for place in by_name["other"])]
    else:
        cells = [*(bins.cell_of_name.get(name[1:], NEW) for name in named), *(NEW for _ in by_name["other"])]
    return _weighed(np.array(cells, np.int64), [*named.values(), *by_name["other"].values()], bins.size)


def _kept(bins: Bins, s: Sketch, field: str) -> dict[str, Any]:
    """A field that sketches of earlier versions lack."""
    present = s["count"] - s["nulls"]
    nothing = _nothing(field) if not present or (field == "items" and s["lengths"]["at"] in ([], [0])) else None
    kept: dict[str, Any] | None = s.get(field, nothing)
    if kept is None or (field == "characters" and kept["texts"] != present):
        raise InvalidInput(
            "ST904",
            f"Can't count {_feature(bins)!r} from this sketch: it was made before {field} were counted. Profile the "
            "rows, or fetch the part again.",
            features=[_feature(bins)],
        )
    return kept


def _nothing(field: str) -> dict[str, Any]:
    if field == "items":
        return {"1": {"categories": {}, "other": {}}}
    return {"texts": 0, "shares": dict.fromkeys(CLASSES, 0)}


# -- what does not fit ------------------------------------------------------------------------------------------------


def _check_kind(bins: Bins, kind: str) -> None:
    if kind not in bins.accepts:
        had = " or ".join(sorted(bins.accepts - {"null"}))
        raise InvalidInput(
            "ST902",
            f"Can't count the column {bins.column!r}: it holds {kind} now, and training had {had}. See what changed "
            "upstream; a contract refuses such rows.",
            column=bins.column,
            got=kind,
        )


def _missing(name: str, there: Mapping[str, Any]) -> InvalidInput:
    return InvalidInput(
        "ST901",
        f"Can't count the column {name!r}: it is not among {', '.join(map(repr, there)) or 'the columns (none)'}. Give "
        "every column of the reference; a column of nulls is fine.",
        column=name,
    )


def _is(document: Mapping[str, Any], kind: str) -> None:
    if document.get("kind") != kind:
        raise InvalidInput(
            "ST906", f"Can't read a {kind} from a document of kind {document.get('kind')!r}; expected {kind!r}."
        )
