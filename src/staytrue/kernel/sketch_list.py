"""Which items lists hold and where: counts by item and by place in the list.

Split off `sketch.py`, which keeps them within its limit of categories. A ranking that shows fewer items than before, or
the same ones always first, is seen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

__all__ = ["PLACES", "items_by_place"]

PLACES: Final = (1, 2, 4, 8)
"""Where a bucket of places begins: first, 2-3, 4-7, 8 and after."""


def items_by_place(values: Iterable[Any]) -> dict[str, Counter[str]]:
    """How often each item came in each bucket of places; an item is known by its text.

    Only whole numbers and texts are items: vectors of floats, nested lists and nulls in a list are left out, and so is
    a text in place of a list.

    Returns:
        A counter for each of `PLACES`, named by the place where the bucket begins.

    Example:
        >>> items_by_place([np.array([7, 9]), ["a"]])["1"] == {"7": 1, "a": 1}
        True
    """
    made: dict[str, Counter[Any]] = {str(place): Counter() for place in PLACES}
    ends = [*(place - 1 for place in PLACES[1:]), None]
    for value in values:
        if isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
            continue
        items = value.tolist() if isinstance(value, np.ndarray) else list(value)
        for (_, counter), place, end in zip(made.items(), PLACES, ends, strict=True):
            if len(items) < place:
                break
            counter.update(item for item in items[place - 1 : end] if isinstance(item, int | str | np.integer))
    return {place: _by_text(counter) for place, counter in made.items()}


def _by_text(counter: Counter[Any]) -> Counter[str]:
    texts: Counter[str] = Counter()
    for item, n in counter.items():
        texts[item if isinstance(item, str) else str(int(item))] += n
    return texts
