"""Words: numbers, times and ids as a page writes them. Every number has its unit, and what is not known is a dash."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from markupsafe import Markup, escape

__all__ = [
    "FILTERS",
    "ago",
    "breakable",
    "count",
    "cut",
    "number",
    "percent",
    "plural",
    "said",
    "short",
    "size",
    "span",
    "url_part",
]

_NONE: Final = "-"
_BYTES: Final = 1024


def number(value: Any) -> str:
    """A measured number with four digits.

    Example:
        >>> number(12.34567), number(1234567.0), number(None), number(float("nan"))
        ('12.35', '1,234,567', '-', '-')
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        return _NONE if value is None or isinstance(value, float) else str(value)
    value = value or 0  # not -0
    return f"{value:,.0f}" if abs(value) >= 10_000 or isinstance(value, int) else f"{value:,.4g}"


def count(value: Any) -> str:
    """A whole number.

    Example:
        >>> count(15402), count(None)
        ('15,402', '-')
    """
    return f"{value:,}" if isinstance(value, int) else _NONE


def plural(n: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    Example:
        >>> plural(1, "row"), plural(2048, "row")
        ('1 row', '2,048 rows')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def percent(share: Any) -> str:
    """A share.

    Example:
        >>> percent(0.0123), percent(0.5), percent(None)
        ('1.2 %', '50 %', '-')
    """
    if not isinstance(share, int | float):
        return _NONE
    hundredths = 100 * share
    return f"{hundredths:.1f} %" if 0 < abs(hundredths) < 10 else f"{hundredths:.0f} %"


def size(n: Any) -> str:
    """Bytes.

    Example:
        >>> size(999), size(5_000_000), size(None)
        ('999 B', '4.8 MiB', '-')
    """
    if not isinstance(n, int | float):
        return _NONE
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < _BYTES:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _BYTES
    return f"{value:.1f} TiB"


def short(id_: Any) -> str:
    """The beginning of an id, as sentences write it."""
    return str(id_)[:8] if id_ else _NONE


def cut(text: Any, most: int = 160) -> str:
    """A text of at most so many characters.

    Example:
        >>> cut("abcdef", 4)
        'abc…'
    """
    said = str(text)
    return said if len(said) <= most else f"{said[: most - 1].rstrip()}…"


def moment(text: Any, *, clock: bool = False) -> str:
    """A time in UTC: the day, and the clock where it matters or is not midnight.

    Example:
        >>> moment("2026-03-01T00:00:00+00:00"), moment("2026-03-01T14:05:00+00:00", clock=True)
        ('2026-03-01', '2026-03-01 14:05 UTC')
    """
    at = _read(text)
    if at is None:
        return _NONE
    return f"{at:%Y-%m-%d %H:%M} UTC" if clock or at.hour or at.minute else f"{at:%Y-%m-%d}"


def clock(text: Any) -> str:
    """The time of the day, where it is not midnight.

    Example:
        >>> clock("2026-03-01T14:05:09+00:00"), clock("2026-03-01T00:00:00+00:00")
        ('14:05', '')
    """
    at = _read(text)
    return f"{at:%H:%M}" if at is not None and (at.hour or at.minute) else ""


def ago(text: Any, now: datetime) -> str:
    """How long since.

    Example:
        >>> from datetime import UTC
        >>> ago("2026-03-01T00:00:00+00:00", datetime(2026, 3, 3, 12, tzinfo=UTC))
        '2 days ago'
    """
    at = _read(text)
    if at is None:
        return _NONE
    passed = now - at
    if passed < timedelta(0):
        return moment(text, clock=True)
    return "just now" if passed < timedelta(seconds=10) else f"{span(passed)} ago"


def span(passed: timedelta | float) -> str:
    """A length of time with one unit.

    Example:
        >>> span(90.0), span(3600 * 30.0), span(0.25)
        ('90 seconds', '30 hours', '0.25 seconds')
    """
    seconds = passed.total_seconds() if isinstance(passed, timedelta) else float(passed)
    for name, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * length:
            return plural(int(seconds // length), name)
    return f"{seconds:.3g} seconds"


def plain_value(value: Any) -> str:
    """A value of a body, as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float) or value is None:
        return number(value) if not isinstance(value, bool) else str(value).lower()
    return json.dumps(value, ensure_ascii=False, default=str)


def said(sentence: Any) -> Markup:
    """A sentence of ours, with its commands set apart. What it quotes stays text.

    Example:
        >>> said("ask `staytrue log` about <b>")
        Markup('ask <code>staytrue log</code> about &lt;b&gt;')
    """
    parts = str(sentence).split("`")
    if len(parts) % 2 == 0:
        return escape(sentence)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts)
    )


def breakable(name: Any) -> Markup:
    """A name that may go on in the next line after each `=`, `_`, `.` or `/`, and not within a word.

    Example:
        >>> breakable("segment=a_b")
        Markup('segment=<wbr>a_<wbr>b')
    """
    return Markup("<wbr>").join(re.findall(r"[^=_./]*[=_./]+|[^=_./]+", str(name)))


def url_part(text: Any) -> str:
    """A name as one part of a path, whatever stands in it.

    Example:
        >>> url_part("a/b <c>")
        'a%2Fb%20%3Cc%3E'
    """
    return quote(str(text), safe="", errors="replace")


def _read(text: Any) -> datetime | None:
    if isinstance(text, datetime):
        return text
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


FILTERS: Final[Mapping[str, Any]] = {
    "number": number,
    "count": count,
    "percent": percent,
    "size": size,
    "short": short,
    "cut": cut,
    "moment": moment,
    "clock": clock,
    "day": lambda text: moment(text)[:10],
    "span": span,
    "plain": plain_value,
    "part": url_part,
    "breakable": breakable,
    "said": said,
}
