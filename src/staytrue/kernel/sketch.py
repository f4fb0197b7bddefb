"""What a column looked like, small enough to keep for ever: counts that add up.

One sketch a column and part, as a JSON document. Merging is exact and knows no order: the sketch of all rows equals the
merge of the sketches of any split of them, in any order, so distributions of any window come from stored sketches
without reading a row. Hence only counts, extremes and exact sums are kept:

- numbers: buckets that split every power of two into 64, so a quantile is right to 1 %; found from the bits of the
  float, so every machine finds the same. Sums are exact rationals, written as text, since sums of floats depend on
  their order.
- text: counts by category. Beyond 1,000 categories those whose hash is smallest keep their name and the others fall
  into 256 bins; "smallest hash" (rather than "most frequent") is what makes a merge of merges exact.
- texts too by length and by class of character (`sketch_text.py`).
- times: counts by day. Lists: their lengths, and their items by place (`sketch_list.py`).

Sketches made before characters and items were counted lack these fields; merged with newer ones they add nothing to
them.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.sketch_list import PLACES, items_by_place
from staytrue.kernel.sketch_text import characters, merged_characters

__all__ = [
    "Kind",
    "Sketch",
    "category",
    "category_group",
    "coverage",
    "describe",
    "distinct",
    "exact_sum",
    "is_cut",
    "kind_of",
    "merge",
    "moments",
    "moved",
    "psi",
    "quantile",
    "sketch",
]

Sketch: TypeAlias = dict[str, Any]
Kind = Literal["number", "time", "bool", "text", "list", "null"]

CATEGORIES: Final = 1_000
_BINS: Final = 256
_DAY: Final = 86_400_000_000


def kind_of(type_name: str) -> Kind:
    """The kind of sketch that a column of this type gets.

    Example:
        >>> kind_of("int64"), kind_of("date"), kind_of("list<string>")
        ('number', 'time', 'list')
    """
    if type_name.startswith("list<"):
        return "list"
    kinds: dict[str, Kind] = {"bool": "bool", "string": "text", "null": "null"}
    return kinds.get(type_name, "time" if type_name.startswith(("date", "timestamp")) else "number")


def sketch(values: NDArray[Any], valid: NDArray[np.bool_], kind: Kind) -> Sketch:
    """The sketch of one column.

    Args:
        values: (n,) as a `Column` has them: numbers, booleans, int64 microseconds (time), str (text), arrays (list).
        valid: (n,) False where the value is null.
        kind: what the values are.

    Example:
        >>> sketch(np.array([1.0, 2.0, 9.0]), np.array([True, True, False]), "number")["nulls"]
        1
    """
    made: Sketch = {"is": kind, "count": len(valid), "nulls": int(len(valid) - np.count_nonzero(valid))}
    present = values if not made["nulls"] else values[valid]
    return made | _MAKERS[kind](present)


def merge(*sketches: Sketch) -> Sketch:
    """The sketch of all the rows that these are sketches of; exact, in any order and grouping.

    Sketches of columns in which nothing came (`null`) merge with any other kind. Of nothing: an empty `null` sketch.

    Raises:
        InvalidInput: ST221, sketches of different kinds.

    Example:
        >>> one, two = (sketch(np.array([x]), np.array([True]), "number") for x in (1.0, 2.0))
        >>> merge(one, two) == sketch(np.array([1.0, 2.0]), np.array([True, True]), "number")
        True
    """
    kinds = {s["is"] for s in sketches} - {"null"}
    if len(kinds) > 1:
        raise InvalidInput(
            "ST221", f"Can't merge sketches of {' and '.join(sorted(kinds))}; expected one kind.", kinds=sorted(kinds)
        )
    kind: Kind = kinds.pop() if kinds else "null"
    made: Sketch = {"is": kind, "count": sum(s["count"] for s in sketches), "nulls": sum(s["nulls"] for s in sketches)}
    return made | _MERGERS[kind]([s for s in sketches if s["is"] == kind])


def quantile(s: Sketch, q: float) -> float | None:
    """The value below which the share `q` of the finite values lies; None when there are none.

    Numbers: within 1 %, exact at q = 0 and 1. Times: microseconds, to the day. Lists: of their lengths.

    Args:
        q: in [0, 1].

    Raises:
        InvalidInput: ST222, `q` outside [0, 1], or a sketch without an order (text, bool).

    Example:
        >>> round(quantile(sketch(np.arange(1.0, 101.0), np.ones(100, bool), "number"), 0.5))
        50
    """
    if not 0 <= q <= 1 or s["is"] in {"text", "bool"}:
        raise InvalidInput(
            "ST222", f"Can't take the quantile {q} of a sketch of {s['is']}; expected q in [0, 1] and numbers.", q=q
        )
    s = s["lengths"] if s["is"] == "list" else s
    if s.get("min") is None:
        return None
    if q in {0, 1}:
        return float(s["max"] if q else s["min"])
    places, counts = _ordered(s)
    at = int(np.searchsorted(np.cumsum(counts), q * (int(counts.sum()) - 1), side="right"))
    middle = (int(places[at]) + 0.5) * _DAY if s["is"] == "time" else _bucket_middle(int(places[at]))
    if s["is"] == "number" and not s["fractions"]:
        middle = round(middle)
    return float(min(max(middle, s["min"]), s["max"]))


def psi(a: Sketch, b: Sketch) -> float:
    """The population stability index of `b` against the reference `a`: 0 equal, above 0.25 a big change by custom.

    Over tenths of `a` (numbers, times) or over categories, nulls apart; half a row is added to every bin so that it
    stays finite.

    Raises:
        InvalidInput: ST221, sketches of different kinds.

    Example:
        >>> s = sketch(np.arange(100.0), np.ones(100, bool), "number")
        >>> psi(s, s)
        0.0
    """
    counts_a, counts_b, ordered = _side_by_side(a, b)
    if ordered:
        counts_a, counts_b = _tenths(counts_a, counts_b)
    share_a = (counts_a + 0.5) / (counts_a.sum() + 0.5 * len(counts_a))
    share_b = (counts_b + 0.5) / (counts_b.sum() + 0.5 * len(counts_b))
    return float(np.sum((share_b - share_a) * np.log(share_b / share_a)))


def moved(a: Sketch, b: Sketch) -> float:
    """How far apart two distributions are, in [0, 1]; 0 when either has no rows.

    Numbers, times and lengths: the largest gap between the two cumulative shares (Kolmogorov-Smirnov), or the gap in
    the share of nulls where that is larger. Categories: the share of rows that would have to change category.

    Raises:
        InvalidInput: ST221, sketches of different kinds.

    Example:
        >>> low, high = (sketch(np.full(9, x), np.ones(9, bool), "number") for x in (1.0, 5.0))
        >>> moved(low, low), moved(low, high)
        (0.0, 1.0)
    """
    counts_a, counts_b, ordered = _side_by_side(a, b)
    if not counts_a.sum() or not counts_b.sum():
        return 0.0
    gaps = counts_b / counts_b.sum() - counts_a / counts_a.sum()
    if not ordered:
        return float(np.abs(gaps).sum() / 2)
    # The first bin holds the nulls, which have no place in the order.
    total_a, total_b = max(counts_a[1:].sum(), 1), max(counts_b[1:].sum(), 1)
    steps = np.cumsum(counts_b[1:] / total_b - counts_a[1:] / total_a)
    return float(max(abs(gaps[0]), np.abs(steps).max(initial=0.0)))


def describe(s: Sketch) -> dict[str, Any]:
    """The sketch for people: rows, nulls, and by kind the extremes, quartiles, mean, most frequent categories.

    Example:
        >>> describe(sketch(np.array([1, 2, 3]), np.ones(3, bool), "number"))["mean"]
        2.0
    """
    told: dict[str, Any] = {"kind": s["is"], "rows": s["count"], "nulls": s["nulls"]}
    if s["is"] == "bool":
        return told | {"true": s["true"]}
    if s["is"] == "text":
        top = sorted(s["categories"].items(), key=lambda item: (-item[1], item[0]))[:5]
        return told | {
            "categories": len(s["categories"]),
            "more": bool(s["other"]),
            "top": {name[1:]: n for name, n in top},
        }
    if s["is"] == "null":
        return told
    of = s["lengths"] if s["is"] == "list" else s
    told |= {"min": of["min"], "max": of["max"]}
    told |= {name: quantile(s, q) for name, q in (("q25", 0.25), ("median", 0.5), ("q75", 0.75))}
    if s["is"] == "number":
        told |= _moments(s) | {name: s[name] for name in ("nan", "infinite", "zeros") if s[name]}
    return told


def distinct(s: Sketch) -> int:
    """How many different texts came: exact up to 1,000, else an estimate, right to about 3 % (one standard error).

    From the bar of hashes below which every category kept its name: n names below a share b of all hashes are about
    n / b in all.

    Args:
        s: a sketch of texts, or one place of a list's `items`.

    Source:
        Bar-Yossef et al., "Counting distinct elements in a data stream", RANDOM 2002.

    Example:
        >>> distinct(sketch(np.array(["a", "b", "a"], object), np.ones(3, bool), "text"))
        2
    """
    names = len(s["categories"])
    return names if s["bar"] is None else round(names / (s["bar"] / 2**64))


def coverage(s: Sketch, top: int = 10) -> dict[str, Any]:
    """Which items lists hold: how many different, the most frequent with their counts, and by place.

    Args:
        s: a sketch of lists.
        top: how many items to name; among those that kept their name, all while they are at most 1,000.

    Returns:
        `items`: how many in all; `distinct`; `top`: name -> count; `places`: for each bucket of places (1, 2-3, 4-7,
        8 and after, named by its beginning) the same three. Zeros and empty when no item is known.

    Example:
        >>> rankings = np.empty(2, object)
        >>> rankings[:] = [[7, 9], [7]]
        >>> coverage(sketch(rankings, np.ones(2, bool), "list"))["top"]
        {'7': 2, '9': 1}
    """
    places = s.get("items") or {str(place): _capped(Counter(), Counter()) for place in PLACES}
    return _covered(_merged_categories(list(places.values())), top) | {
        "places": {place: _covered(items, top) for place, items in places.items()}
    }


def _covered(items: Sketch, top: int) -> dict[str, Any]:
    ranked = sorted(items["categories"].items(), key=lambda item: (-item[1], item[0]))
    return {
        "items": sum(items["categories"].values()) + sum(items["other"].values()),
        "distinct": distinct(items),
        "top": {name[1:]: n for name, n in ranked[:top]},
    }


def moments(s: Sketch) -> tuple[float, float] | None:
    """Mean and standard deviation of the finite values of a number sketch, from exact sums; None when either has none.

    Example:
        >>> moments(sketch(np.array([1.0, 3.0]), np.ones(2, bool), "number"))
        (2.0, 1.0)
    """
    told = _moments(s)
    mean, std = told["mean"], told["std"]
    return None if mean is None or std is None else (mean, std)


# -- numbers ----------------------------------------------------------------------------------------------------------

# 6 bits of the mantissa: 64 buckets a power of two, each at most 1/64 wide, so its middle is within 0.8 % of all in it.
_SHIFT: Final = 46
_ONE: Final = 1023 << 6


def _of_numbers(values: NDArray[Any]) -> Sketch:
    numbers = values.astype(np.float64, copy=False)
    finite = numbers[np.isfinite(numbers)]
    nan = int(np.isnan(numbers).sum())
    places, counts = _counted(_buckets(finite))
    large = bool((np.abs(finite) > 1e150).any())
    return {
        "nan": nan,
        "infinite": len(numbers) - len(finite) - nan,
        "zeros": int((finite == 0).sum()),
        "fractions": int((finite != np.trunc(finite)).sum()),
        "min": _plain(finite.min()) if len(finite) else None,
        "max": _plain(finite.max()) if len(finite) else None,
        "sum": _exact_text(exact_sum(finite)),
        # A square that overflows has no sum; the mean stays.
        "squares": None if large else _exact_text(exact_sum(finite * finite)),
        "at": places.tolist(),
        "n": counts.tolist(),
    }


def _buckets(finite: NDArray[np.float64]) -> NDArray[np.int64]:
    """Signed bucket numbers in the order of the values: negative below, 0 for zero, positive above."""
    sizes = np.abs(finite).view(np.int64) >> _SHIFT
    return np.where(finite == 0, 0, np.where(finite > 0, sizes + 1, -sizes - 1))


def _counted(places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places that occur, in order, and how often."""
    low, high = (int(places.min()), int(places.max())) if len(places) else (0, 0)
    if high - low > 4 * len(places):
        return np.unique(places, return_counts=True)
    counts = np.bincount(places - low)
    there = np.flatnonzero(counts)
    return there + low, counts[there]


def _bucket_middle(place: int) -> float:
    if place == 0:
        return 0.0
    edges = np.array([abs(place) - 1, abs(place)], np.int64) << _SHIFT
    low, high = edges.view(np.float64).tolist()
    # The last bucket ends at infinity; halves, since the sum of two edges may overflow.
    return math.copysign(low if math.isinf(high) else low / 2 + high / 2, place)


def exact_sum(values: NDArray[np.float64]) -> tuple[int, int]:
    """The sum of finite floats as (m, e) = m * 2**e, without rounding: the same in any order.

    Mantissas are added as whole numbers, exponent by exponent.

    Example:
        >>> mantissa, exponent = exact_sum(np.array([1e16, 1.0, -1e16]))
        >>> mantissa * 2.0**exponent
        1.0
    """
    if not len(values):
        return 0, 0
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    low_exponent = int(exponents.min())
    where = (exponents - low_exponent).astype(np.int64)
    total = 0
    # In halves, so that the float sums of `bincount` stay exact: 2**27 * n < 2**53 for up to 67 million values.
    for half, shift in ((whole >> 26, 26), (whole & (2**26 - 1), 0)):
        sums = np.bincount(where, weights=half.astype(np.float64))
        total += sum(int(part) << (int(exponent) + shift) for exponent, part in enumerate(sums.tolist()) if part)
    return total, low_exponent - 53


def _exact_text(exact: tuple[int, int]) -> str:
    mantissa, exponent = exact
    if not mantissa:
        return "0p0"
    zeros = (mantissa & -mantissa).bit_length() - 1
    return f"{mantissa >> zeros:x}p{exponent + zeros}"


def _exact_parsed(text: str) -> tuple[int, int]:
    mantissa, _, exponent = text.partition("p")
    return int(mantissa, 16), int(exponent)


def _exact_merged(texts: list[str]) -> str:
    parsed = [_exact_parsed(text) for text in texts]
    low = min((exponent for _, exponent in parsed), default=0)
    return _exact_text((sum(mantissa << (exponent - low) for mantissa, exponent in parsed), low))


def _merged_numbers(parts: list[Sketch]) -> Sketch:
    squares = [part["squares"] for part in parts]
    return {
        **{name: sum(part[name] for part in parts) for name in ("nan", "infinite", "zeros", "fractions")},
        **_merged_extremes(parts),
        "sum": _exact_merged([part["sum"] for part in parts]),
        "squares": None if None in squares else _exact_merged(squares),
        **_merged_places(parts),
    }


def _merged_extremes(parts: list[Sketch]) -> Sketch:
    there = [part for part in parts if part["min"] is not None]
    return {"min": min((p["min"] for p in there), default=None), "max": max((p["max"] for p in there), default=None)}


def _merged_places(parts: list[Sketch]) -> Sketch:
    places = np.array([place for part in parts for place in part["at"]], np.int64)
    counts = np.array([n for part in parts for n in part["n"]], np.int64)
    union, where = np.unique(places, return_inverse=True)
    totals = np.zeros(len(union), np.int64)
    np.add.at(totals, where, counts)
    return {"at": union.tolist(), "n": totals.tolist()}


def _moments(s: Sketch) -> dict[str, float | None]:
    n = sum(s["n"])
    if not n:
        return {"mean": None, "std": None}
    mean = _fraction(s["sum"]) / n
    spread = None if s["squares"] is None else max(_fraction(s["squares"]) / n - mean * mean, Fraction(0))
    return {"mean": float(mean), "std": None if spread is None else math.sqrt(spread)}


def _fraction(text: str) -> Fraction:
    mantissa, exponent = _exact_parsed(text)
    return Fraction(mantissa) * Fraction(2) ** exponent


def _plain(value: Any) -> float:
    # -0.0 and 0.0 are equal, and min() would take whichever came first.
    return float(value) + 0.0


# -- the other kinds --------------------------------------------------------------------------------------------------


def _of_times(values: NDArray[Any]) -> Sketch:
    micros = values.astype(np.int64, copy=False)
    places, counts = _counted(micros // _DAY)
    low, high = (int(micros.min()), int(micros.max())) if len(micros) else (None, None)
    return {"min": low, "max": high, "at": places.tolist(), "n": counts.tolist()}


def _merged_times(parts: list[Sketch]) -> Sketch:
    return _merged_extremes(parts) | _merged_places(parts)


def _of_bools(values: NDArray[Any]) -> Sketch:
    return {"true": int(np.count_nonzero(values))}


def _merged_bools(parts: list[Sketch]) -> Sketch:
    return {"true": sum(part["true"] for part in parts)}


def _of_lists(values: NDArray[Any]) -> Sketch:
    made: Sketch = {"lengths": _sizes([len(value) for value in values])}
    by_place = items_by_place(values)
    if any(by_place.values()):
        made["items"] = {place: _capped(_named(items), Counter()) for place, items in by_place.items()}
    return made


def _merged_lists(parts: list[Sketch]) -> Sketch:
    made: Sketch = {"lengths": merge(_sizes([]), *(part["lengths"] for part in parts))}
    known = [part["items"] for part in parts if "items" in part]
    if known:
        made["items"] = {str(place): _merged_categories([items[str(place)] for items in known]) for place in PLACES}
    return made


def _sizes(lengths: list[int]) -> Sketch:
    return sketch(np.array(lengths, np.int64), np.ones(len(lengths), np.bool_), "number")


def _of_texts(values: NDArray[Any]) -> Sketch:
    by_text = Counter(values.tolist())
    lengths = np.repeat(
        np.fromiter(map(len, by_text), np.int64, len(by_text)), np.fromiter(by_text.values(), np.int64, len(by_text))
    )
    return {
        "lengths": sketch(lengths, np.ones(len(lengths), np.bool_), "number"),
        "characters": characters(by_text),
        **_capped(_named(by_text), Counter()),
    }


def _merged_texts(parts: list[Sketch]) -> Sketch:
    made = {"lengths": merge(_sizes([]), *(part["lengths"] for part in parts)), **_merged_categories(parts)}
    known = [part["characters"] for part in parts if "characters" in part]
    return made | {"characters": merged_characters(known)} if known else made


def _named(by_text: Counter[str]) -> Counter[str]:
    by_name: Counter[str] = Counter()
    for text, n in by_text.items():
        by_name[category(text)] += n
    return by_name


def _merged_categories(parts: list[Sketch]) -> Sketch:
    by_name: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for part in parts:
        by_name.update(part["categories"])
        other.update(part["other"])
    # A name that one part dropped may stand in another whose own names are few: the lowest bar of all parts holds.
    bar = min((part["bar"] for part in parts if part["bar"] is not None), default=None)
    return _capped(by_name, other, bar)


_LONGEST_NAME: Final = 64
_CUT_NAME: Final = 58


def category(text: str) -> str:
    """The name under which a text is counted: itself after a sign, or its beginning and a hash when it is long.

    Example:
        >>> category("porto")
        '=porto'
    """
    # With a sign before it a text never looks like the digest of an object, which stored documents mean as a reference.
    return "=" + (text if len(text) <= _LONGEST_NAME else f"{text[:40]}…{_hash(text):016x}")


def is_cut(name: str) -> bool:
    """Whether a category's name may be the beginning and hash of a long text.

    Example:
        >>> is_cut(category("porto")), is_cut(category("x" * 65))
        (False, True)
    """
    return len(name) == _CUT_NAME and name[41] == "…"


def category_group(name: str) -> int:
    """The bin, in 0..255, in which a category is counted once it has lost its name.

    Args:
        name: as `category` gives it.

    Example:
        >>> category_group(category("porto"))
        6
    """
    return _hash(name) % _BINS


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _capped(by_name: Counter[str], other: Counter[str], bar: int | None = None) -> Sketch:
    """Names whose hash is below the bar, or the 1,000 smallest; the others counted in bins by hash."""
    if bar is None and len(by_name) <= CATEGORIES:
        return {"categories": dict(by_name), "other": dict(other), "bar": None}
    ranked = sorted((_hash(name), name) for name in by_name)
    keep = ranked[:CATEGORIES] if bar is None else [item for item in ranked if item[0] < bar][:CATEGORIES]
    others = Counter(other)
    for value, name in ranked[len(keep) :]:
        others[str(value % _BINS)] += by_name[name]
    if len(ranked) > len(keep):
        bar = ranked[len(keep)][0] if bar is None else min(bar, ranked[len(keep)][0])
    return {"categories": {name: by_name[name] for _, name in keep}, "other": dict(others), "bar": bar}


def _of_nothing(_: NDArray[Any]) -> Sketch:
    return {}


def _merged_nothing(_: list[Sketch]) -> Sketch:
    return {}


_MAKERS: Final[dict[Kind, Callable[[NDArray[Any]], Sketch]]] = {
    "number": _of_numbers,
    "time": _of_times,
    "bool": _of_bools,
    "text": _of_texts,
    "list": _of_lists,
    "null": _of_nothing,
}
_MERGERS: Final[dict[Kind, Callable[[list[Sketch]], Sketch]]] = {
    "number": _merged_numbers,
    "time": _merged_times,
    "bool": _merged_bools,
    "text": _merged_texts,
    "list": _merged_lists,
    "null": _merged_nothing,
}


# -- two sketches on the same bins ------------------------------------------------------------------------------------


def _ordered(s: Sketch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.array(s["at"], np.int64), np.array(s["n"], np.int64)


def _side_by_side(a: Sketch, b: Sketch) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Counts of both on the same bins, the nulls (with NaN) first, and whether the rest has an order."""
    both = merge(a, b)
    kind = both["is"]
    if kind in {"text", "bool", "null"}:
        keys = [_keys(s, both) for s in (a, b)]
        names = sorted(keys[0].keys() | keys[1].keys())
        left, right = ([float(key.get(name, 0)) for name in names] for key in keys)
        return np.array([float(a["nulls"]), *left]), np.array([float(b["nulls"]), *right]), False
    missing = [float(s["nulls"] + s.get("nan", 0)) for s in (a, b)]
    sides = [s if s["is"] == kind else s | _MERGERS[kind]([]) for s in (a, b)]
    if kind == "list":
        both, sides = both["lengths"], [s["lengths"] for s in sides]
    places = np.array(both["at"], np.int64)
    counts = []
    for side, nothing in zip(sides, missing, strict=True):
        own, n = _ordered(side)
        spread = np.zeros(len(places) + 1)
        spread[0] = nothing
        spread[1 + np.searchsorted(places, own)] = n
        counts.append(spread)
    return counts[0], counts[1], True


def _keys(s: Sketch, both: Sketch) -> dict[str, int]:
    """Counts by category, in the categories that the merge of both still names."""
    if s["is"] == "bool":
        return {"true": s["true"], "false": s["count"] - s["nulls"] - s["true"]}
    if s["is"] == "null":
        return {}
    cut = _capped(Counter(s["categories"]), Counter(s["other"]), both["bar"])
    return {**cut["categories"], **{f"#{place}": n for place, n in cut["other"].items()}}


def _tenths(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both on bins that hold about a tenth of `a` each (the nulls keep their own)."""
    rest = a[1:]
    middle = np.cumsum(rest) - rest / 2
    bins = np.minimum((10 * middle / max(rest.sum(), 1)).astype(np.int64), 9) + 1
    counts = []
    for side in (a, b):
        summed = np.bincount(bins, weights=side[1:], minlength=11)
        summed[0] = side[0]
        counts.append(summed[np.bincount(bins, minlength=11).astype(bool) | (np.arange(11) == 0)])
    return counts[0], counts[1]
