"""Traffic: which version of a label counts, and what traffic adds up to, whatever the order in which it is seen.

Labels come late, twice, corrected and before what they belong to; predictions may be written twice when a process died
between writing and answering. `first_of_each` and `winners` make one row of all that, and `Tallies` are exact sums, so
that any order, repetition and sharding of the same predictions and labels gives the same numbers.

A label belongs to a prediction by the prediction's id, or by its key: then to every prediction with that key, whenever it
was made, since a key names one row of the source and a row has one label. Of several versions the one counts whose event
time is the latest; where those are equal, the one that arrived last; where those are equal too, the greatest. The same
label again (same target, source, event time and value) is no new version: it arrived when it arrived first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.sketch import exact_sum

__all__ = ["Label", "Tallies", "Tally", "first_of_each", "merge", "ranks", "tally", "winners"]

Ints = NDArray[np.int64]

_LARGEST_LOSS = 1e150


class Label(NamedTuple):
    """What became true, as it is kept.

    Fields:
        id: the 16 bytes of the prediction's UUID, or None: then `key`, which is the row's.
        label: any JSON value. at_us: when it became true, got_us: when it arrived; microseconds since 1970 UTC.
        source: who says so.
    """

    id: bytes | None
    key: str | int | None
    label: Any
    at_us: int
    got_us: int
    source: str = ""


# -- one row of many records ------------------------------------------------------------------------------------------


def ranks(*keys: NDArray[Any]) -> Ints:
    """The place of each row among the distinct rows, by these keys: equal rows have equal ranks.

    Args:
        keys: each (n,), the weightiest first.

    Example:
        >>> ranks(np.array([2, 1, 2]), np.array([0, 5, 0])).tolist()
        [1, 0, 1]
    """
    order, new = _grouped(*keys)
    found = np.empty(len(order), np.int64)
    found[order] = np.cumsum(new) - 1
    return found


def first_of_each(target: Sequence[NDArray[Any]], ties: Sequence[NDArray[Any]]) -> Ints:
    """Positions of one row for each distinct target: the one that `ties` put first. Sorted by target.

    Args:
        target, ties: keys, each (n,), the weightiest first.

    Example:
        >>> first_of_each([np.array([7, 7, 3])], [np.array([1, 0, 9])]).tolist()
        [2, 1]
    """
    order = np.lexsort([*list(ties)[::-1], *list(target)[::-1]])
    return order[_changes(order, target)]


def winners(target: Ints, *, at: Ints, got: Ints, label: Ints, source: Ints) -> Ints:
    """Positions of the labels that count, one for each target, sorted by target.

    Args:
        target: (n,) what each label is about. at, got: (n,) event time and arrival, microseconds.
        label, source: (n,) ranks of the values: equal for equal values, greater for greater ones.

    Example:
        The correction (second) wins, although the first label is sent once more later:

        >>> labels = {"at": np.array([1, 1, 1]), "got": np.array([5, 6, 9]), "label": np.array([1, 0, 1])}
        >>> winners(np.zeros(3, int), **labels, source=np.zeros(3, int)).tolist()
        [1]
    """
    once = first_of_each([target, source, at, label], [got])
    order = once[np.lexsort([key[once] for key in (source, label, got, at, target)])]
    # The last of each target is the one before which the next target begins.
    ends = _changes(order, [target])
    return order[np.append(ends[1:], True)] if len(order) else order


def _grouped(*keys: NDArray[Any]) -> tuple[Ints, NDArray[np.bool_]]:
    order = np.lexsort(keys[::-1])
    return order, _changes(order, keys)


def _changes(order: Ints, keys: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Where in this order a row differs from the one before it."""
    new = np.ones(len(order), np.bool_)
    if len(order):
        new[1:] = False
        for key in keys:
            ordered = key[order]
            new[1:] |= ordered[1:] != ordered[:-1]
    return new


# -- sums -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Sums over rows of traffic, exact. A row that was logged with probability p has the weight 1 / p.

    Fields:
        rows, labelled: how many, and how many of them have a label (and so a loss).
        weight, labelled_weight: sums of their weights.
        loss, loss_squares: weighted sums of the losses and of their squares, over the labelled rows.
    """

    rows: int = 0
    labelled: int = 0
    weight: Fraction = Fraction(0)
    labelled_weight: Fraction = Fraction(0)
    loss: Fraction = Fraction(0)
    loss_squares: Fraction = Fraction(0)

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})

    @property
    def mean_loss(self) -> float | None:
        """The weighted mean; None without a label."""
        return float(self.loss / self.labelled_weight) if self.labelled_weight else None


@dataclass(frozen=True, kw_only=True)
class Tallies:
    """A tally for each group of rows that are alike in the columns `by`.

    Example:
        >>> one = tally({"arm": ["champion", "shadow"]}, weight=[1.0, 1.0], losses=[0.5, np.nan])
        >>> merge(one, one).groups[("champion",)].mean_loss
        0.5
    """

    by: tuple[str, ...]
    groups: Mapping[tuple[str, ...], Tally] = field(default_factory=dict)

    @property
    def total(self) -> Tally:
        """All groups together."""
        return sum(self.groups.values(), Tally())

    def over(self, *by: str) -> Tallies:
        """The same sums in the coarser groups of only these columns.

        Raises:
            InvalidInput: ST716, not one of the columns that these groups are made by.

        Example:
            >>> both = tally({"arm": ["a", "b"], "day": ["1", "1"]}, weight=[1, 1], losses=[1.0, 2.0])
            >>> {group: found.rows for group, found in both.over("day").groups.items()}
            {('1',): 2}
        """
        for name in by:
            if name not in self.by:
                raise InvalidInput(
                    "ST716", f"Can't group by {name!r}; these tallies know {', '.join(self.by)}.", name=name
                )
        places = [self.by.index(name) for name in by]
        coarser: dict[tuple[str, ...], Tally] = {}
        for group, found in self.groups.items():
            kept = tuple(group[place] for place in places)
            coarser[kept] = coarser.get(kept, Tally()) + found
        return Tallies(by=tuple(by), groups=coarser)

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes equal tallies; equal tallies give equal documents."""
        lines = [
            [list(group), *(_spelled(getattr(found, name)) for name in Tally.__dataclass_fields__)]
            for group, found in sorted(self.groups.items())
        ]
        return {"by": list(self.by), "groups": lines}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The tallies that `document()` wrote.

        Raises:
            InvalidInput: ST717, it is not such a document.
        """
        try:
            groups = {
                tuple(group): Tally(rows=rows, labelled=labelled, **dict(zip(_SUMS, map(Fraction, sums), strict=True)))
                for group, rows, labelled, *sums in document["groups"]
            }
            return cls(by=tuple(document["by"]), groups=groups)
        except (KeyError, TypeError, ValueError) as exc:
            raise InvalidInput("ST717", f"Can't read tallies from this document: {exc}.", cause=str(exc)) from exc


_SUMS = ("weight", "labelled_weight", "loss", "loss_squares")


def tally(groups: Mapping[str, Sequence[str] | NDArray[Any]], *, weight: ArrayLike, losses: ArrayLike) -> Tallies:
    """The sums of these rows. Each row must be given once: see `first_of_each`.

    Args:
        groups: (n,) values by column, as text: release, arm, day, a segment's value.
        weight: (n,) above 0. losses: (n,), NaN where there is no label.

    Raises:
        InvalidInput: ST718, a weight that is not a number above 0, a loss beyond 1e150 (its square has to be a float too),
            or columns of different lengths.

    Example:
        >>> tally({"day": ["1", "1", "2"]}, weight=[1, 2, 1], losses=[0.5, np.nan, 1]).groups[("1",)].rows
        2
    """
    weights, found = np.asarray(weight, np.float64), np.asarray(losses, np.float64)
    columns = [np.asarray(values, dtype=object) for values in groups.values()]
    if {len(column) for column in columns} | {len(weights)} != {len(found)}:
        raise InvalidInput("ST718", f"Can't tally columns of other lengths than {len(found)} losses.", rows=len(found))
    if not ((weights > 0) & np.isfinite(weights)).all() or (np.abs(found) > _LARGEST_LOSS).any():
        raise InvalidInput(
            "ST718",
            f"Can't tally a weight that is not a number above 0, or a loss beyond {_LARGEST_LOSS:g}.",
            rows=len(found),
        )
    coded = [_coded(column) for column in columns]
    keys = [codes for _, codes in coded] or [np.zeros(len(found), np.int64)]
    order, new = _grouped(*keys)
    edges = np.append(np.flatnonzero(new), len(order))
    made: dict[tuple[str, ...], Tally] = {}
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        which = order[start:stop]
        group = tuple(names[codes[which[0]]] for names, codes in coded)
        made[group] = _summed(weights[which], found[which])
    return Tallies(by=tuple(groups), groups=made)


def _coded(values: NDArray[Any]) -> tuple[list[str], Ints]:
    """The distinct texts, and for each row which it is. Without sorting: there are few of them, and many rows."""
    places: dict[str, int] = {}
    codes = np.fromiter((places.setdefault(value, len(places)) for value in values.tolist()), np.int64, len(values))
    return list(places), codes


def merge(*shards: Tallies) -> Tallies:
    """All rows together, exact, in any order and grouping. Shards must not share rows.

    Raises:
        InvalidInput: ST719, they are grouped by different columns, or there are none.
    """
    kinds = {shard.by for shard in shards}
    if len(kinds) != 1:
        raise InvalidInput(
            "ST719",
            f"Can't merge tallies by {' and by '.join(map(str, sorted(kinds))) or 'nothing'}; expected one grouping.",
            by=[list(kind) for kind in sorted(kinds)],
        )
    made: dict[tuple[str, ...], Tally] = {}
    for shard in shards:
        for group, found in shard.groups.items():
            made[group] = made.get(group, Tally()) + found
    return Tallies(by=shards[0].by, groups=made)


def _summed(weight: NDArray[np.float64], losses: NDArray[np.float64]) -> Tally:
    there = ~np.isnan(losses)
    known, heavy = losses[there], weight[there]
    once = bool((heavy == 1).all())
    return Tally(
        rows=len(losses),
        labelled=len(known),
        weight=_exact(weight),
        labelled_weight=_exact(heavy),
        # Products of floats are rounded; the ordinary weight is 1, where nothing is. Rounding is by row, so sums agree
        # whatever the order.
        loss=_exact(known if once else heavy * known),
        loss_squares=_exact(known * known if once else heavy * known * known),
    )


def _exact(values: NDArray[np.float64]) -> Fraction:
    mantissa, exponent = exact_sum(values)
    return Fraction(mantissa) * Fraction(2) ** exponent


def _spelled(value: int | Fraction) -> int | str:
    return value if isinstance(value, int) else str(value)
