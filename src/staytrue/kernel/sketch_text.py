"""What texts are made of, without knowing their language: characters by class, as counts that add up.

Split off `sketch.py`, whose sketch of a text column has these counts beside lengths and categories. Every count is a
whole number and every text counts once in each histogram, so merging is addition and a test may take the histograms as
draws of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASSES", "EIGHTHS", "characters", "eighths", "merged_characters"]

CLASSES: Final = ("letters", "digits", "spaces", "punctuation", "non_ascii", "upper")
"""Classes of characters: the first five hold each character once (what ASCII has beside letters, digits and spaces is
punctuation); `upper` counts those of the letters A-Z that are capitals."""

EIGHTHS: Final = 9
"""Bins of a share: none at all, then up to 1/8, up to 2/8, ... up to 8/8."""

# Bounds memory: a batch of texts takes about 6 bytes a character.
_BATCH: Final = 1 << 20


def characters(by_text: Mapping[str, int]) -> dict[str, Any]:
    """Counts over texts: how many texts, how many characters of each class, and how many texts have which share of it.

    Args:
        by_text: how often each text came.

    Returns:
        `texts`: how many; `sums`: characters by class; `shares`: by class (9,) texts by share of the class in eighths.

    Example:
        >>> made = characters({"ab 1": 2, "": 1})
        >>> made["texts"], made["sums"]["letters"], made["shares"]["digits"]
        (3, 4, [1, 0, 2, 0, 0, 0, 0, 0, 0])
    """
    sums = np.zeros(len(CLASSES), np.int64)
    shares = np.zeros((len(CLASSES), EIGHTHS), np.int64)
    for per_text, bins, times in _batches(by_text):
        sums += per_text @ times
        shares += [np.bincount(row, weights=times, minlength=EIGHTHS).astype(np.int64) for row in bins]
    return {
        "texts": sum(by_text.values()),
        "sums": dict(zip(CLASSES, sums.tolist(), strict=True)),
        "shares": dict(zip(CLASSES, shares.tolist(), strict=True)),
    }


def eighths(by_text: Mapping[str, int]) -> NDArray[np.int64]:
    """(6, 9): texts by class and by share of it in eighths, as `characters` counts them.

    Example:
        >>> eighths({"ab": 3})[0].tolist()
        [0, 0, 0, 0, 0, 0, 0, 0, 3]
    """
    return np.array(list(characters(by_text)["shares"].values()), np.int64)


def merged_characters(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all the texts that these are counts of; at least one.

    Example:
        >>> one = characters({"a": 1})
        >>> merged_characters([one, one]) == characters({"a": 2})
        True
    """
    return {
        "texts": sum(part["texts"] for part in parts),
        "sums": {name: sum(part["sums"][name] for part in parts) for name in CLASSES},
        "shares": {
            name: [sum(column) for column in zip(*(part["shares"][name] for part in parts), strict=True)]
            for name in CLASSES
        },
    }


def _classes() -> NDArray[np.uint8]:
    """(129,) the class of each ASCII character, and of all others in the last place."""
    place = {**dict.fromkeys("0123456789", 1), **dict.fromkeys("\t\n\v\f\r ", 2)}
    ascii_ = [0 if chr(code).isalpha() else place.get(chr(code), 3) for code in range(128)]
    return np.array([*ascii_, 4], np.uint8)


_CLASS_OF: Final = _classes()


def _batches(by_text: Mapping[str, int]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Texts batch by batch: (6, n) characters by class, (6, n) shares in eighths, (n,) how often each text came."""
    batch: list[str] = []
    size = 0
    for text in by_text:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield _counted(batch, by_text)
            batch, size = [], 0
    if batch:
        yield _counted(batch, by_text)


def _counted(
    texts: list[str], by_text: Mapping[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    times = np.fromiter((by_text[text] for text in texts), np.int64, len(texts))
    per_text = np.zeros((len(CLASSES), len(texts)), np.int64)
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    if len(codes):
        # An empty text has no first character, and `reduceat` would give it its neighbour's.
        there = np.flatnonzero(lengths)
        starts = (np.cumsum(lengths) - lengths)[there]
        of_class = _CLASS_OF.take(np.minimum(codes, 128))
        masks = [*(of_class == place for place in range(5)), (codes >= 65) & (codes <= 90)]
        for row, mask in zip(per_text, masks, strict=True):
            row[there] = np.add.reduceat(mask, starts, dtype=np.int64)
    bins = -(-(EIGHTHS - 1) * per_text // np.maximum(lengths, 1))
    return per_text, bins, times
