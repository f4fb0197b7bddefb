"""What is wrong with what a model learned from, in words: it is old, unlike today's rows, or biased.

Outdated and missing segments are read off sketches, so no row is read. Whether labels contradict the champion's experience
needs its losses on the rows that it learned from: sums by segment, as `kernel/segments.py` keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput
from staytrue.kernel.segments import Estimate, Figure, SegmentSums, figures
from staytrue.kernel.sketch import Sketch, quantile

__all__ = ["Finding", "Unlike", "contradicted", "outdated", "skewed", "underrepresented", "unlike"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Severity = Literal["note", "warning"]
Kind = Literal["age", "unlike", "missing_segment", "rare_segment", "contradicted_labels", "positive_rate"]

HARDLY: Final = 0.02
"""The share of its training rows of which a model is said to have seen hardly any."""
_FEWEST_TRAINED: Final = 200
_FEWEST_RECENT: Final = 100
_WORTH_A_WORD: Final = 0.1
_SEGMENT: Final = 0.02
_TIMES: Final = 5.0
_APART: Final = 1.5
_SURE: Final = 3.0
"""Standard errors: many columns are looked at, and rows of one day are alike."""
_CELLS: Final = 40


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to know about what a model learned from.

    Fields:
        kind: of thing. about: a column, `column=value`, or the source's time. severity: `warning` when it may cost
            something, `note` when it is good to know. sentence: for a person. numbers: what it rests on, as JSON.
    """

    kind: Kind
    about: str
    severity: Severity
    sentence: str
    numbers: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        told = {name: getattr(self, name) for name in ("kind", "about", "severity", "sentence")}
        return told | {"numbers": dict(self.numbers)}


# ---------------------------------------------------------------------------------------------- outdated


def outdated(
    trained: Mapping[str, Sketch],
    recent: Mapping[str, Sketch],
    *,
    time: str | None,
    now: datetime,
    columns: Collection[str] | None = None,
    lately: str = "the newest rows",
) -> list[Finding]:
    """How old the rows are that a model learned from, and which columns of the newest rows are unlike them.

    Age alone is a note: an old model may be right. It is a warning beside a column that moved.

    Args:
        trained, recent: sketches by column, of the rows learned from and of the newest ones.
        time: the source's time column; None: nothing is said of age. now: aware.
        columns: to be compared; None: all but the time. lately: names the newest rows in sentences.

    Raises:
        InvalidInput: ST957, `now` has no time zone; ST221, a column changed its kind.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> day, all_ = 86_400_000_000, np.ones(400, bool)
        >>> at = sketch(np.arange(400) * day, all_, "time")
        >>> low, high = (sketch(np.arange(400.0) + start, all_, "number") for start in (1000, 1200))
        >>> found = outdated({"at": at, "size": low}, {"size": high}, time="at", now=datetime(1971, 6, 1, tzinfo=UTC))
        >>> for one in found:
        ...     print(one.sentence)
        learned from 400 rows with a median age of 316 days, the newest 117 days old
        48% of the newest rows have a value of size that training hardly saw (2%): above 1,400
    """
    if now.tzinfo is None:
        raise InvalidInput(
            "ST957", f"Can't tell the age of rows at {now}: it has no time zone; give UTC.", now=str(now)
        )
    names = [name for name in trained if name in recent and name != time] if columns is None else list(columns)
    moved = [_moved(name, found, lately) for name, found in _compared(trained, recent, names)]
    moved.sort(key=lambda one: -one.numbers["share"])
    age = _age(trained.get(time), now, severity="warning" if moved else "note") if time else None
    return [age, *moved] if age else moved


def _compared(
    trained: Mapping[str, Sketch], recent: Mapping[str, Sketch], names: Iterable[str]
) -> Iterator[tuple[str, Unlike]]:
    for name in names:
        found = unlike(trained[name], recent[name]) if name in trained and name in recent else None
        if found and found.is_worth_a_word:
            yield name, found


def _moved(name: str, found: Unlike, lately: str) -> Finding:
    return Finding(
        kind="unlike",
        about=name,
        severity="warning",
        sentence=f"{found.share:.0%} of {lately} have a value of {name} that training hardly saw ({found.trained_share:.0%}): "
        f"{found.where}",
        numbers={
            "share": _six(found.share),
            "trained_share": _six(found.trained_share),
            "rows": found.rows,
            "trained_rows": found.trained_rows,
        },
    )


def _age(sketch: Sketch | None, now: datetime, *, severity: Severity) -> Finding | None:
    median, newest = (quantile(sketch, q) for q in (0.5, 1)) if sketch and sketch["is"] == "time" else (None, None)
    if sketch is None or median is None or newest is None:
        return None
    ages = [(now - datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=at)) / _DAY for at in (median, newest)]
    rows = sketch["count"] - sketch["nulls"]
    return Finding(
        kind="age",
        about="time",
        severity=severity,
        sentence=f"learned from {rows:,} rows with a median age of {ages[0]:,.0f} days, the newest {ages[1]:,.0f} days old",
        numbers={"rows": rows, "median_age_days": round(ages[0], 1), "newest_age_days": round(ages[1], 1)},
    )


_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Unlike:
    """The part of a column of which training hardly saw anything: how much of the newest rows lies there, and where.

    Fields:
        share: of the newest rows; trained_share: of those learned from; expected: what would be there by chance if nothing
            had moved. rows, trained_rows: what the shares are of.
    """

    share: float
    trained_share: float
    expected: float
    rows: int
    trained_rows: int
    where: str

    @property
    def is_worth_a_word(self) -> bool:
        """Whether it is a tenth of the rows, and surely more than twice what chance would put there."""
        n, p = self.rows, self.share
        # Wilson's lower bound.
        low = (p + _SURE**2 / (2 * n) - _SURE * math.sqrt(p * (1 - p) / n + (_SURE / (2 * n)) ** 2)) / (
            1 + _SURE**2 / n
        )
        return p >= _WORTH_A_WORD and low > 2 * self.expected


def unlike(trained: Sketch, recent: Sketch) -> Unlike | None:
    """How many of the newest rows lie where training hardly saw any: in its emptiest cells, 2 % of its rows together.

    Which cells these are is read off training alone, so nothing is chosen by what it is judged by. Of texts and truths a cell
    is a value; of numbers a fortieth of the way from its .005 to its .995 quantile (as fine as the sketch: 1 %). What a
    column of many rare texts would show of new ones if nothing had moved is counted as expected (Good and Turing).

    Args:
        trained, recent: of one column.

    Returns:
        None for times (they move by themselves), lists, more than 1,000 texts, below 200 rows of training or 100 newest ones.

    Raises:
        InvalidInput: ST221, sketches of different kinds.

    Source:
        The cells are the complement of Hyndman's highest density region (American Statistician 50, 1996); Good,
        Biometrika 40 (1953).

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> old, new = (sketch(np.array(list(text), object), np.ones(300, bool), "text") for text in ("a" * 300, "ab" * 150))
        >>> found = unlike(old, new)
        >>> found.share, found.trained_share, found.where
        (0.5, 0.0, 'b (50%)')
    """
    kinds = {trained["is"], recent["is"]} - {"null"}
    if len(kinds) > 1:
        raise InvalidInput(
            "ST221", f"Can't compare sketches of {' and '.join(sorted(kinds))}; expected one kind.", kinds=sorted(kinds)
        )
    if trained["count"] < _FEWEST_TRAINED or recent["count"] < _FEWEST_RECENT or not kinds & {"number", "text", "bool"}:
        return None
    if "number" in kinds:
        return _unlike_numbers(trained, recent)
    if trained.get("other") or recent.get("other"):
        return None
    return _unlike_names(_names(trained), _names(recent))


def _names(s: Sketch) -> dict[str, int]:
    if s["is"] == "bool":
        counts = {"true": s["true"], "false": s["count"] - s["nulls"] - s["true"]}
    else:
        counts = {name[1:]: n for name, n in s.get("categories", {}).items()}
    return {name: n for name, n in (counts | {_MISSING: s["nulls"]}).items() if n}


_MISSING: Final = "(missing)"


def _unlike_names(trained: Mapping[str, int], recent: Mapping[str, int]) -> Unlike:
    total, now = sum(trained.values()), sum(recent.values())
    names = sorted({*trained, *recent}, key=lambda name: (trained.get(name, 0), name))
    hardly, seen = set[str](), 0
    for name in names:
        seen += trained.get(name, 0)
        if seen > HARDLY * total:
            break
        hardly.add(name)
    there = sorted(((n, name) for name, n in recent.items() if name in hardly), key=lambda one: (-one[0], one[1]))
    trained_share = sum(trained.get(name, 0) for name in hardly) / total
    return Unlike(
        share=sum(n for n, _ in there) / now,
        trained_share=trained_share,
        expected=trained_share + sum(n == 1 for n in trained.values()) / total,
        rows=now,
        trained_rows=total,
        where=", ".join(f"{_cut(name)} ({n / now:.0%})" for n, name in there[:3]),
    )


def _cut(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"


def _unlike_numbers(trained: Sketch, recent: Sketch) -> Unlike | None:
    """Cells are 40 equal steps over the middle 99 % of training, and what lies below and above.

    Steps are equal on the scale of asinh(x / typical x): like x itself up to what is typical, like its logarithm beyond. So a
    price of ordinarily 0.05 that was 1 on a few days has steps enough around 0.05.
    """
    (values, counts), (now_values, now_counts) = (_buckets(s) for s in (trained, recent))
    if not len(values) or not len(now_values):
        return None
    typical = _typical(values, counts)
    values, now_values = np.arcsinh(values / typical), np.arcsinh(now_values / typical)
    order = np.cumsum(counts)
    low, high = (float(values[np.searchsorted(order, q * order[-1])]) for q in (0.005, 0.995))
    cells, now_cells = (_cells(at, n, low, high) for at, n in ((values, counts), (now_values, now_counts)))
    missing, now_missing = (s["nulls"] + s.get("nan", 0) + s.get("infinite", 0) for s in (trained, recent))
    total, now = int(cells.sum()) + missing, int(now_cells.sum()) + now_missing
    hardly = _emptiest(cells, HARDLY * total)
    seen, there = int(cells[hardly].sum()), int(now_cells[hardly].sum())
    where = [_where(now_cells, hardly, low, high, typical)] if there else []
    if seen + missing <= HARDLY * total:  # training hardly saw nulls either
        seen, there = seen + missing, there + now_missing
        where = [*([f"missing ({now_missing / now:.0%})"] if now_missing else []), *where]
    trained_share = seen / total
    return Unlike(
        share=there / now,
        trained_share=trained_share,
        expected=max(trained_share, HARDLY / 2) + int((cells == 1).sum()) / total,
        rows=now,
        trained_rows=total,
        where=", ".join(where) or "nowhere",
    )


def _buckets(s: Sketch) -> tuple[Floats, Ints]:
    """Ascending values, the middles of the sketch's buckets, and how many rows are at each."""
    places, counts = (np.array(s.get(name, []), np.int64) for name in ("at", "n"))
    size = np.abs(places)
    below, above = (np.maximum(edge << 46, 0).view(np.float64) for edge in (size - 1, size))
    middle = np.where(np.isfinite(above), below / 2 + above / 2, below)
    return np.where(places == 0, 0.0, np.copysign(middle, places)), counts


def _typical(values: Floats, counts: Ints) -> float:
    """The median of the sizes of what is not 0."""
    sizes, n = np.abs(values[values != 0]), np.cumsum(counts[values != 0][np.argsort(np.abs(values[values != 0]))])
    return float(np.sort(sizes)[np.searchsorted(n, n[-1] / 2)]) if len(sizes) else 1.0


def _cells(values: Floats, counts: Ints, low: float, high: float) -> Ints:
    """How many rows are below `low`, in each step from there to `high`, and above."""
    width = high / _CELLS - low / _CELLS
    steps = (
        np.clip((values - low) / width, 0, _CELLS - 1).astype(np.int64)
        if width > 0
        else np.zeros(len(values), np.int64)
    )
    at = np.where(values < low, 0, np.where(values > high, _CELLS + 1, steps + 1))
    return np.bincount(at, counts, _CELLS + 2).astype(np.int64)


def _emptiest(cells: Ints, upto: float) -> NDArray[np.bool_]:
    """The cells with least in their width, at most `upto` rows together: the two open ones, then those with fewest rows."""
    density = cells.copy()
    density[[0, -1]] = -1
    order = np.argsort(density, kind="stable")
    hardly = np.zeros(len(cells), np.bool_)
    hardly[order[np.cumsum(cells[order]) <= upto]] = True
    return hardly


def _where(now_cells: Ints, hardly: NDArray[np.bool_], low: float, high: float, typical: float) -> str:
    """The run of such cells in which most of the newest rows lie."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hardly, [False]]).astype(np.int8)))
    start, stop = max(edges.reshape(-1, 2).tolist(), key=lambda run: int(now_cells[run[0] : run[1]].sum()))
    first, last = (_short(typical * math.sinh(low + (high - low) * (cell - 1) / _CELLS)) for cell in (start, stop))
    if stop == len(hardly):
        return f"above {first}"
    return f"below {last}" if start == 0 else f"{first} to {last}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


# ---------------------------------------------------------------------------------------------- biased


def underrepresented(
    trained: Mapping[str, Sketch],
    recent: Mapping[str, Sketch],
    *,
    columns: Iterable[str],
    lately: str = "the newest rows",
) -> list[Finding]:
    """Segments that make up a part of the newest rows and were missing in training, or at most a fifth as frequent there.

    Args:
        trained, recent: sketches by column. columns: the segments; one that is no text and no truth is left out, or has more
            than 1,000 values.

    Example:
        >>> from staytrue.kernel.sketch import sketch
        >>> old, new = (sketch(np.array(list(text), object), np.ones(300, bool), "text") for text in ("a" * 300, "ab" * 150))
        >>> underrepresented({"city": old}, {"city": new}, columns=["city"])[0].sentence
        'city=b is 50% of the newest rows, and training had none'
    """
    found = []
    for column in columns:
        old, new = trained.get(column), recent.get(column)
        if old is None or new is None or {old["is"], new["is"]} - {"text", "bool", "null"}:
            continue
        if old["count"] < _FEWEST_TRAINED or new["count"] < _FEWEST_RECENT or old.get("other") or new.get("other"):
            continue
        before, now = _names(old), _names(new)
        for name, n in sorted(now.items(), key=lambda one: (-one[1], one[0])):
            finding = _rare(f"{column}={name}", (before.get(name, 0), old["count"]), (n, new["count"]), lately)
            if finding is not None:
                found.append(finding)
    return found


def _rare(about: str, before: tuple[int, int], now: tuple[int, int], lately: str) -> Finding | None:
    share, trained_share = now[0] / now[1], before[0] / before[1]
    low = share - _SURE * math.sqrt(share * (1 - share) / now[1])
    if share < _SEGMENT or low <= _TIMES * trained_share:
        return None
    had = f"only {trained_share:.1%} of training ({before[0]:,} rows)" if before[0] else "training had none"
    return Finding(
        kind="rare_segment" if before[0] else "missing_segment",
        about=about,
        severity="warning",
        sentence=f"{about} is {share:.0%} of {lately}, and {had}",
        numbers={
            "share": _six(share), "rows": now[0], "trained_share": _six(trained_share), "trained_rows": before[0],
        },
    )  # fmt: skip


def contradicted(trained: SegmentSums, since: SegmentSums) -> list[Finding]:
    """Segments whose labels in training contradict what the champion has lived through since.

    A model loses less on rows that it learned from than on new ones. Where it loses surely more, half as much again, and
    elsewhere it does not, the labels there say something else than the world does: a wrong unit, a wrong join, flipped marks.

    Args:
        trained: the champion's losses on its training rows. since: on rows that came later.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> city, day = np.tile(["faro", "porto"], 600), np.arange(1200) // 40
        >>> empty = SegmentSums.fresh("city", ["faro", "porto"], scale=100)
        >>> from staytrue.kernel.segments import fold_segments
        >>> since = fold_segments(empty, day, city, losses=rng.exponential(1, 1200))
        >>> flipped = rng.exponential(np.where(city == "faro", 4, 1), 1200)
        >>> [one.about for one in contradicted(fold_segments(empty, day, city, losses=flipped), since)]
        ['city=faro']
    """
    found = []
    for name, old, new in _both(trained, since, "loss"):
        elsewhere = [pair for other, *pair in _both(trained, since, "loss") if other != name]
        ratio = (
            _mean(one[0] for one in elsewhere) / (_mean(one[1] for one in elsewhere) or math.inf) if elsewhere else 1.0
        )
        if old.lo > new.hi and old.value > _APART * max(ratio, 1.0) * new.value:
            about = f"{trained.column}={name}"
            found.append(
                Finding(
                    kind="contradicted_labels",
                    about=about,
                    severity="warning",
                    sentence=f"labels of {about} in training contradict what came since: the champion loses {old.value:.3g} a "
                    f"row on the {old.of:,} it learned from, {new.value:.3g} on {new.of:,} later ones",
                    numbers={"trained": old.document(), "since": new.document(), "elsewhere": _six(ratio)},
                )
            )
    return found


def skewed(trained: SegmentSums, since: SegmentSums) -> list[Finding]:
    """Segments whose share of positive labels in training is surely another than since, by half as much again or more.

    Args:
        trained, since: with labels of 0 and 1.

    Example:
        >>> empty = SegmentSums.fresh("city", ["faro"], scale=1)
        >>> skewed(empty, empty)
        []
    """
    found = []
    for name, old, new in _both(trained, since, "positive_rate"):
        low, high = sorted((old.value, new.value))
        if (old.lo > new.hi or new.lo > old.hi) and high > _APART * low:
            about = f"{trained.column}={name}"
            found.append(
                Finding(
                    kind="positive_rate",
                    about=about,
                    severity="warning",
                    sentence=f"{old.value:.1%} of the labels of {about} in training are positive, {new.value:.1%} since",
                    numbers={"trained": old.document(), "since": new.document()},
                )
            )
    return found


def _both(trained: SegmentSums, since: SegmentSums, figure: Figure) -> list[tuple[str, Estimate, Estimate]]:
    before, after = figures(trained), figures(since)
    pairs = [(name, before[name][figure], after[name][figure]) for name in before if name in after]
    return [(name, old, new) for name, old, new in pairs if math.isfinite(old.lo) and math.isfinite(new.lo)]


def _mean(estimates: Iterable[Estimate]) -> float:
    known = list(estimates)
    return sum(one.value * one.of for one in known) / sum(one.of for one in known)


def _six(value: float) -> float:
    return round(float(value), 6)
