"""Output: what a program printed, as lines that are safe to show: a terminal's orders are not text."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["readable"]

_ORDERS: Final = re.compile(
    r"\x1b\[[0-?]{0,100}[ -/]{0,20}[@-~]"  # colours, moves of the cursor
    r"|\x1b[\]PX^_][^\x07\x1b\n]{0,2000}(?:\x07|\x1b\\)?"  # titles, links
    r"|\x1b[ -/]{0,20}[0-~]?"
    r"|\x9b[0-?]{0,100}[ -/]{0,20}[@-~]"
)
_UNSEEN: Final = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Categories of what turns the direction of text round, moves a cursor or is nothing: none of it is shown."""


def readable(text: str, *, lines: int = 200, width: int = 500) -> str:
    r"""The last lines of what was printed, without a terminal's orders, and no line longer than `width`.

    Of a line that a progress bar wrote over and over the last state stays.

    Example:
        >>> readable("\x1b[31mred\x1b[0m\nstep 1\rstep 2\r\n\x00\u202edone")
        'red\nstep 2\ndone'
        >>> readable("a\nb\nc", lines=2), readable("abcdef", width=4)
        ('b\nc', 'abcd...')
    """
    said = _ORDERS.sub("", text).removesuffix("\n").split("\n")[-lines:]
    return "\n".join(_line(one, width) for one in said)


def _line(text: str, width: int) -> str:
    states = [state for state in text.split("\r") if state]
    last = states[-1] if states else ""
    last = last[: 4 * width]
    if not last.isprintable():
        last = "".join(one for one in last if one == "\t" or unicodedata.category(one) not in _UNSEEN)
    return last if len(last) <= width else f"{last[:width]}..."
