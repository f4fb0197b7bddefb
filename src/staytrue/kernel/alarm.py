"""Alarm: something is wrong for a while. Opened once, resolved once, however the figures tremble in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Alarm", "Turn", "seen"]

Turn = Literal["opened", "resolved"]


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Whether it is open, and since when what is seen says the contrary (None: it does not)."""

    is_open: bool = False
    contrary_s: float | None = None


def seen(
    alarm: Alarm, now_s: float, *, is_bad: bool | None, open_after_s: float = 0.0, close_after_s: float = 0.0
) -> tuple[Alarm, Turn | None]:
    """The alarm after one more look, and what has become of it by this look.

    Args:
        now_s: on any clock that does not go back.
        is_bad: what is seen; None: neither bad enough to open nor well enough to resolve it.
        open_after_s: it opens when it has been bad at every look for so long.
        close_after_s: it is resolved when it has been well at every look for so long.

    Example:
        >>> story = []
        >>> alarm = Alarm()
        >>> for now_s, bad in enumerate([True, False, True, True, None, False, False]):
        ...     alarm, turn = seen(alarm, now_s, is_bad=bad, open_after_s=1, close_after_s=1)
        ...     story.append(turn)
        >>> story
        [None, None, None, 'opened', None, None, 'resolved']
    """
    if is_bad is None or is_bad == alarm.is_open:
        return Alarm(is_open=alarm.is_open), None
    since_s = now_s if alarm.contrary_s is None else alarm.contrary_s
    if now_s - since_s < (open_after_s if is_bad else close_after_s):
        return Alarm(is_open=alarm.is_open, contrary_s=since_s), None
    return Alarm(is_open=is_bad), "opened" if is_bad else "resolved"
