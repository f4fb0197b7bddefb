"""Whether single values are as usual: missing, outside the range, not among the categories, constant, rounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from staytrue.kernel.checks.case import RECENT, Case, decimals_of
from staytrue.kernel.sketch import kind_of, sketch
from staytrue.kernel.source import Breach
from staytrue.kernel.usual import ENOUGH_WINDOWS

__all__ = ["categories", "constant", "missing", "precision", "ranges"]

_FEW: Final = 10
_ENOUGH: Final = 30
_SOME: Final = 30
_RARE: Final = 1e-6
_MARGIN: Final = 0.05
_KNOWN_ROWS: Final = 1_000
_FEW_CATEGORIES: Final = 50
_MANY_DECIMALS: Final = 10
_FAR_SHARE: Final = 0.1


def missing(case: Case) -> Iterable[Breach]:
    """More nulls, NaN and infinities than the past explains, or than a person wants."""
    rows = case.now.rows
    for name in case.features:
        nulls, terms = case.now.nulls.get(name, 0), case.terms.of(name)
        share = nulls / rows
        if "missing" in terms.pinned and terms.missing is not None:
            if share > terms.missing:
                yield _missing(name, nulls, rows, f"the contract allows {terms.missing:.1%}", "refuse")
            continue
        before = [past.nulls[name] / past.rows for past in case.recent if name in past.nulls]
        if len(before) < ENOUGH_WINDOWS or rows < _FEW or not nulls:
            continue
        most = max(before)
        known = sum(past.rows for past in case.recent if name in past.nulls)
        # As many as the worst window had, and half as many more: by chance one window in a million.
        if _binomial_tail(nulls, rows, 1.5 * most + 3 / known) > _RARE:
            continue
        usual = f"it never was more than {most:.1%} in {len(before)} windows"
        yield _missing(name, nulls, rows, usual, "refuse" if share > 2 * most + _MARGIN else "warn")


def _missing(name: str, nulls: int, rows: int, usual: str, severity: Any) -> Breach:
    return Breach(
        code="ST242",
        column=name,
        sentence=f"The column {name!r} is null in {nulls} of {rows} rows; {usual}.",
        likely="a join that finds nothing, or the column is no longer filled upstream",
        severity=severity,
        facts={"nulls": nulls, "rows": rows},
    )


def _binomial_tail(hits: int, n: int, p: float) -> float:
    """At most how likely `hits` or more of `n` are when each has chance `p` (Chernoff)."""
    share = hits / n
    if share <= p:
        return 1.0
    if p <= 0:
        return 0.0
    rest = 0.0 if share == 1 else (1 - share) * math.log((1 - share) / (1 - p))
    return math.exp(-n * (share * math.log(share / p) + rest))


# -- ranges -----------------------------------------------------------------------------------------------------------


_MOST: Final = 0.5
_ABSURD: Final = 100.0  # widths of the range that a column always had


def ranges(case: Case) -> Iterable[Breach]:
    """More values outside the range than windows brought by themselves, or any outside what a person set."""
    for name in case.measured:
        bounds = case.terms.of(name).range
        if bounds is None or kind_of(case.columns[name].type) != "number":
            continue
        low, high = (-math.inf if bounds[0] is None else bounds[0], math.inf if bounds[1] is None else bounds[1])
        values = _finite(case, name)
        outside = values[(values < low) | (values > high)]
        if not len(outside):
            continue
        share = len(outside) / len(values)
        pinned = "range" in case.terms.of(name).pinned
        width = high - low
        far = float(((values < low - width / 2) | (values > high + width / 2)).mean())
        # Where most rows lie outside it is the source that changed (another unit is told by itself), and a label may go where
        # it likes: that is what a retraining is for, so it must not be locked out.
        absurd = width and float((np.abs(values - (low + high) / 2) > _ABSURD * width).mean()) > _FAR_SHARE
        some = absurd or (share <= _MOST and name != case.spec.label)
        if pinned or (width and some and far > _FAR_SHARE and len(outside) >= _FEW):
            severity = "refuse"
        elif share > 3 * _outside_before(case, name) + _FAR_SHARE:
            severity = "warn"
        else:
            continue
        yield Breach(
            code="ST920",
            column=name,
            sentence=f"{len(outside)} of {len(values)} values of {name!r} lie outside {low:.6g} to {high:.6g}: "
            f"for example {float(outside[np.abs(outside).argmax()]):.6g}.",
            likely="a placeholder for a missing value, a typing error, or rows of another kind",
            severity=severity,  # type: ignore[arg-type]
            facts={"rows": len(outside), "low": low, "high": high},
        )


def _finite(case: Case, name: str) -> NDArray[np.float64]:
    column = case.columns[name]
    values = column.values[column.valid].astype(np.float64, copy=False)
    return values[np.isfinite(values)]


def _outside_before(case: Case, name: str) -> float:
    """The largest share that one window had outside of all windows before it; one in 80 where it is too small to tell."""
    worst, low, high = 0.0, math.inf, -math.inf
    seen = [past for past in case.past if name in past.ranges]
    for at, past in enumerate(seen):
        least, most = past.ranges[name]
        if at >= max(ENOUGH_WINDOWS, len(seen) - RECENT) and (least < low or most > high):
            shape = past.shapes.get(name)
            ends = sketch(np.array([low, high]), np.ones(2, np.bool_), "number")["at"]
            share = 0.0 if shape is None else float(((shape < ends[0]) | (shape > ends[-1])).mean())
            worst = max(worst, share, 1 / 80)
        low, high = min(low, least), max(high, most)
    return worst


# -- categories -------------------------------------------------------------------------------------------------------


def categories(case: Case) -> Iterable[Breach]:
    """More texts that were never seen than usual; and why, when they are known ones in another spelling."""
    for name in case.measured:
        terms = case.terms.of(name)
        counts = case.now.categories.get(name)
        if kind_of(case.columns[name].type) != "text" or terms.categories is None or counts is None:
            continue
        known = frozenset(terms.categories)
        news = {text: n for text, n in counts.items() if text not in known}
        rows = sum(counts.values())
        if not news:
            continue
        pinned = "categories" in terms.pinned
        share = sum(news.values()) / rows
        respelled = _respelled(news, known)
        worst = max(news, key=lambda text: (news[text], text))
        if respelled and sum(news.values()) >= ENOUGH_WINDOWS and share > _MARGIN:
            yield Breach(
                code="ST922",
                column=name,
                sentence=f"{sum(news.values())} of {rows} texts of {name!r} are known ones in another spelling: "
                f"for example {worst!r}.",
                likely=respelled,
                facts={"rows": sum(news.values()), "example": worst},
            )
            continue
        usual, closed = (0.0, True) if pinned else _new_before(case, name)
        if not pinned and share <= 2 * usual + _MARGIN:
            continue
        yield Breach(
            code="ST921",
            column=name,
            sentence=f"{sum(news.values())} of {rows} texts of {name!r} were never seen before: for example {worst!r}.",
            likely="new categories, or another coding upstream",
            # Where new texts come all the time (customers, agents), many of one new text are a good customer; and a day of few
            # rows may be one customer's.
            severity="refuse" if pinned or (closed and sum(news.values()) >= _FEW and rows >= _ENOUGH) else "warn",
            facts={"rows": sum(news.values()), "categories": sorted(news)[:20]},
        )


def _new_before(case: Case, name: str) -> tuple[float, bool]:
    """The largest share of texts that one window had and none before it, and whether new texts hardly ever come.

    The first half of the windows only teaches which texts there are.
    """
    shares = []
    known: set[str] = set()
    rows = 0
    for past in case.past:
        counts = past.categories.get(name) or {}
        if counts:
            shares.append(sum(n for text, n in counts.items() if text not in known) / sum(counts.values()))
        known |= counts.keys()
        rows += sum(counts.values())
    late = shares[max(ENOUGH_WINDOWS, len(shares) // 2) :]
    closed = (
        rows >= _KNOWN_ROWS
        and len(known) <= _FEW_CATEGORIES
        and len(late) >= ENOUGH_WINDOWS
        and sum(share > 0 for share in late) <= len(late) / 5
    )
    return max(late, default=0.0), closed


def _garbled(text: str) -> Iterable[str]:
    """The text as it looks when bytes are read in the wrong encoding, or squeezed into ASCII."""
    for wrong in ("cp1252", "latin-1"):
        yield text.encode("utf-8", "surrogatepass").decode(wrong, "replace")
        yield text.encode(wrong, "replace").decode("utf-8", "replace")
    yield text.encode("ascii", "replace").decode()
    yield text.encode("ascii", "ignore").decode()


def _is_garbled(text: str) -> bool:
    """Whether a text of UTF-8 was read as another encoding: known from its own letters, without the one it should be."""
    if "\ufffd" in text:
        return True
    try:
        return text.encode("cp1252").decode("utf-8") != text
    except UnicodeError:
        return False


_SPELLINGS: Final[tuple[tuple[str, Callable[[str], Iterable[str]]], ...]] = (
    ("another letter case", lambda text: (text.upper(), text.lower(), text.title(), text.capitalize())),
    ("spaces around the text were added or lost", lambda text: (text.strip(),)),
    ("leading zeros were lost", lambda text: (text.lstrip("0") or "0",)),
    ("another encoding: bytes were read as the wrong characters", _garbled),
)


def _respelled(news: Mapping[str, int], known: frozenset[str]) -> str | None:
    """What was done to known texts to get four in five of these; None when nothing explains them."""
    rows = sum(news.values())

    def explained(texts: Iterable[str]) -> bool:
        made = set(texts)
        return 5 * sum(n for text, n in news.items() if text in made) >= 4 * rows

    for words, spell in _SPELLINGS:
        if explained(spelled for text in known for spelled in spell(text) if spelled != text):
            return words
    if explained(text for text in news if _is_garbled(text)):
        return "another encoding: bytes were read as the wrong characters"
    if explained(text for text in news if text.strip() in known):
        return "spaces around the text were added or lost"
    if explained(text for text in news if text.casefold() in {one.casefold() for one in known}):
        return "another letter case"
    longest = max(map(len, news))
    if explained(text[:longest] for text in known if len(text) > longest):
        return f"the texts were cut off after {longest} characters"
    return None


# -- constant, rounded ------------------------------------------------------------------------------------------------


def constant(case: Case) -> Iterable[Breach]:
    """A column that had several values in every window has one now."""
    now = case.now
    for name in case.features:
        peak, rows = now.peaks.get(name, 0), now.rows - now.nulls.get(name, 0)
        before = [(past.peaks[name], past.rows - past.nulls.get(name, 0)) for past in case.past if past.peaks.get(name)]
        if peak < rows or rows < _FEW or len(before) < ENOUGH_WINDOWS:
            continue
        # A quarter of the way from the worst share that was ever seen to one: are all rows the same by chance?
        most = max(there / of for there, of in before)
        if rows * math.log((1 + 3 * most) / 4) > math.log(_RARE):
            continue
        column = case.columns[name]
        present = column.values[column.valid]
        value = present[0]
        if not (present == value).all():
            continue
        yield Breach(
            code="ST927",
            column=name,
            sentence=f"The column {name!r} is {value!s} in all {rows} rows; one value never had more than {most:.0%}.",
            likely="a default stands in for values that no longer come",
            facts={"rows": rows, "most": most},
        )


def precision(case: Case) -> Iterable[Breach]:
    """A numeric column has fewer decimals than it always had."""
    for name in case.measured:
        if name not in case.now.ranges or case.now.cells.get(name, 0) < ENOUGH_WINDOWS or case.now.rows < _SOME:
            continue
        before = [
            past.decimals[name] for past in case.past if name in past.decimals and past.cells.get(name, 0) >= _FEW
        ]
        if len(before) < 2 * ENOUGH_WINDOWS:
            continue
        usual = float(np.median([_MANY_DECIMALS if one is None else one for one in before]))
        now = decimals_of(_finite(case, name))
        # A sum shows fewer decimals than its values by chance in one window of ten, so the median of windows is right.
        if now is None or now >= usual:
            continue
        yield Breach(
            code="ST928",
            column=name,
            sentence=f"The values of {name!r} have {now} decimals; they had {usual:g} before.",
            likely="the column is rounded upstream, or comes with fewer digits",
            facts={"decimals": now, "usual": usual},
        )
