"""Spans of time as people write them: `90s`, `30m`, `12h`, `7d`, `2w`."""

from __future__ import annotations

import re
from datetime import timedelta

from staytrue.errors import InvalidInput

__all__ = ["duration", "spell"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def duration(text: object, *, what: str = "a duration") -> timedelta:
    """The span that `text` names; a timedelta is given back as it is.

    Args:
        text: a number and a unit of s, m, h, d, w (`"7d"`), or a timedelta. Never negative.
        what: what the span is for, named in the error.

    Raises:
        InvalidInput: ST103, anything else.

    Example:
        >>> duration("36h")
        datetime.timedelta(days=1, seconds=43200)
    """
    if isinstance(text, timedelta) and text >= timedelta(0):
        return text
    found = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise InvalidInput(
            "ST103",
            f"Can't read {what}: got {text!r}, expected a number and one of s, m, h, d, w, such as '12h' or '7d'.",
            what=what,
            got=repr(text),
        )
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])


def spell(span: timedelta) -> str:
    """The span in its largest whole unit: the inverse of `duration`.

    Example:
        >>> spell(duration("48h"))
        '2d'
    """
    seconds = span.total_seconds()
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{seconds:g}s"
