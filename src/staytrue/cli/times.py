"""Moments as they are typed: `2016-07-01`, `2016-07-01T12:00+02:00`. Without a zone, UTC is meant."""

from __future__ import annotations

from datetime import UTC, datetime

from staytrue.errors import InvalidInput

__all__ = ["moment"]


def moment(text: str | None) -> datetime | None:
    """The aware UTC moment, or None for None.

    Raises:
        InvalidInput: ST130, not a moment.

    Example:
        >>> moment("2016-07-01T02:00+02:00").isoformat()
        '2016-07-01T00:00:00+00:00'
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            "ST130",
            f"Can't read the moment {text!r}: expected something like 2016-07-01 or 2016-07-01T12:00.",
            got=text,
        ) from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
