"""Drawing: what all pictures of the pages share. SVG as text, with classes that `static/page.css` colours: no style, no script.

A picture is drawn twice, wide and narrow, since text does not shrink well; the stylesheet shows one of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import Final

__all__ = ["Scale", "TimeScale", "days", "link", "n", "picture", "round_numbers", "text", "tooltip"]

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NO_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_STEPS: Final = (1, 2, 3, 7, 14)


def text(value: object) -> str:
    """As text of XML: escaped, and without what XML can't hold.

    Example:
        >>> text('<a href="x">')
        '&lt;a href=&quot;x&quot;&gt;'
    """
    return escape(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True)


def n(value: float) -> str:
    """A coordinate.

    Example:
        >>> n(12.0), n(3.14159)
        ('12', '3.1')
    """
    return f"{value:.1f}".removesuffix(".0")


def picture(
    body: Iterable[str], *, width: float, height: float, name: str, style: str = "", fixed: bool = False
) -> str:
    """A whole picture; `name` says what it shows to who can't see it. `fixed`: it is never drawn larger."""
    drawn = "".join(body)
    # An image has no parts: what holds links is a group of them.
    role = "group" if "<a " in drawn else "img"
    size = f' width="{n(width)}" height="{n(height)}"' if fixed else ""
    head = f'<svg class="picture {style}"{size} viewBox="0 0 {n(width)} {n(height)}" role="{role}" aria-label="{text(name)}">'
    return f"{head}{drawn}</svg>"


def tooltip(words: object) -> str:
    """What is said to whoever points at it."""
    return f"<title>{text(words)}</title>"


def link(href: str, body: str, *, name: str = "", style: str = "", by_key: bool = True) -> str:
    """A part of a picture that leads somewhere.

    Args:
        name: where `body` has neither text nor a tooltip that says it.
        by_key: whether the tab key stops at it. Not where there are many, and all of them stand in a list beside.
    """
    named = f' class="{style}"' if style else ""
    stop = "" if by_key else ' tabindex="-1"'
    label = f' aria-label="{text(name)}"' if name else ""
    return f'<a href="{text(href)}"{label}{named}{stop}>{body}</a>'


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From a number to a place: `low` is at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place, at most at the ends."""
        span = self.high - self.low or 1.0
        share = min(max((value - self.low) / span, 0.0), 1.0)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True, kw_only=True)
class TimeScale:
    """From a moment to a place."""

    since: datetime
    until: datetime
    start: float
    end: float

    def __call__(self, at: datetime) -> float:
        """The place, at most at the ends."""
        span = max(self.until - self.since, timedelta(seconds=1))
        share = min(max((at - self.since) / span, 0.0), 1.0)
        return self.start + share * (self.end - self.start)


def round_numbers(values: Sequence[float], *, lines: int = 4) -> tuple[float, ...]:
    """Round numbers from below the least to above the greatest value; from 0, unless that would leave most of it empty.

    Example:
        >>> round_numbers([3.0, 17.0])
        (0.0, 5.0, 10.0, 15.0, 20.0)
    """
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if 0 < low < high * 0.6:
        low = 0.0
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / lines
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= raw * 0.999)
    begin, end = math.floor(low / step), math.ceil(high / step)
    return tuple(float(f"{k * step:.12g}") for k in range(begin, end + 1))


def days(since: datetime, until: datetime, *, most: int) -> list[tuple[datetime, str]]:
    """Moments with a name for a time axis: days, or first days of months, no more than `most`."""
    span = max((until - since) / timedelta(days=1), 0.01)
    if span > 10 * most:
        return _months(since, until, most)
    midnight = since.replace(hour=0, minute=0, second=0, microsecond=0)
    step = next((k for k in _STEPS if span / k <= most), 14)
    found = [midnight + timedelta(days=k * step) for k in range(int(span // step) + 2)]
    return [(at, f"{at.day} {_MONTHS[at.month - 1]}") for at in found if since <= at <= until]


def _months(since: datetime, until: datetime, most: int) -> list[tuple[datetime, str]]:
    first, last = since.year * 12 + since.month, until.year * 12 + until.month - 1
    step = next((k for k in (1, 2, 3, 6, 12, 24, 60, 120) if (last - first) / k <= most), 1200)
    found: list[tuple[datetime, str]] = []
    for month in range(first, last + 1):
        if month % step == 0:
            at = since.replace(year=month // 12, month=month % 12 + 1, day=1, hour=0, minute=0, second=0, microsecond=0)
            name = _MONTHS[at.month - 1]
            found.append((at, f"{name} {at.year}" if at.month == 1 or not found else name))
    return found
