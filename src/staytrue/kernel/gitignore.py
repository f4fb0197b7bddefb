"""Which files a `.gitignore` leaves out: the patterns that people write, read as git reads them.

Our own matcher, since an app's folder need not be a git repository and git need not be installed. Only text and names
go in, so it is a pure decision; walking the folder is the store's work (`store/code.py`).

Limit: `a//b` and runs of three or more stars are read in their plain sense, where git has rules of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Rule", "ignored", "rules"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of a `.gitignore`: `pattern` matches whole paths relative to the app's folder."""

    pattern: re.Pattern[str]
    keeps: bool
    only_folders: bool


def rules(text: str, folder: str = "") -> tuple[Rule, ...]:
    r"""The rules of a `.gitignore` that lies in `folder` ("" is the app's folder itself), in the order of its lines.

    Blank lines and comments give no rule, nor does a pattern that git could match with nothing (an unclosed `[`).

    Example:
        >>> found = rules("*.csv\n!small.csv\n/out/\n")
        >>> [ignored(path, found) for path in ("a/big.csv", "a/small.csv", "out")]
        [True, False, False]
        >>> ignored("out", found, is_folder=True)
        True
    """
    # Not splitlines(): git ends a line at a newline only, and a form feed may stand in a name.
    found = (_rule(line.removesuffix("\r"), folder) for line in text.removeprefix("\ufeff").split("\n"))
    return tuple(rule for rule in found if rule is not None)


def ignored(path: str, found: Iterable[Rule], *, is_folder: bool = False) -> bool:
    """Whether `path` (relative to the app's folder, `/` between names) is left out: the last rule that matches says.

    Rules of the outermost folder come first. A file in an ignored folder is ignored whatever its own rules say: the
    caller doesn't descend into one.
    """
    verdict = False
    for rule in found:
        if rule.keeps == verdict and (is_folder or not rule.only_folders) and rule.pattern.fullmatch(path):
            verdict = not rule.keeps
    return verdict


def _rule(line: str, folder: str) -> Rule | None:
    text = _without_trailing_spaces(line)
    if not text or text.startswith("#"):
        return None
    keeps = text.startswith("!")
    text = text.removeprefix("!")
    only_folders = text.endswith("/")
    text = text.rstrip("/") if only_folders else text
    if not text:
        return None
    # A slash at the front or in the middle ties the pattern to its own folder; without one it holds at any depth.
    anchored = "/" in text
    body = _regex(text.removeprefix("/"))
    if body is None:
        return None
    prefix = re.escape(folder + "/") if folder else ""
    depth = "" if anchored else "(?:.*/)?"
    return Rule(pattern=re.compile(prefix + depth + body, re.DOTALL), keeps=keeps, only_folders=only_folders)


def _without_trailing_spaces(line: str) -> str:
    stripped = line.rstrip(" ")
    escaped = (len(stripped) - len(stripped.rstrip("\\"))) % 2 == 1
    return stripped + " " if escaped and stripped != line else stripped


def _regex(glob: str) -> str | None:
    """`glob` as a regular expression over a path; None when git would match nothing with it."""
    parts: list[str] = []
    at = 0
    while at < len(glob):
        rest = glob[at:]
        if rest.startswith("**/") and (at == 0 or glob[at - 1] == "/"):
            parts.append("(?:.*/)?")
            at += 3
        elif rest == "**" and (at == 0 or glob[at - 1] == "/"):
            parts.append(".+")
            at += 2
        elif rest[0] == "*":
            parts.append("[^/]*")
            at += len(rest) - len(rest.lstrip("*"))
        elif rest[0] == "?":
            parts.append("[^/]")
            at += 1
        elif rest[0] == "[":
            end = _class_end(rest)
            if end is None:
                return None
            parts.append("(?!/)" + _class(rest[1:end]))
            at += end + 1
        elif rest[0] == "\\":
            if len(rest) == 1:
                return None
            parts.append(re.escape(rest[1]))
            at += 2
        else:
            parts.append(re.escape(rest[0]))
            at += 1
    return "".join(parts)


def _class_end(text: str) -> int | None:
    """The position of the `]` that closes the class `text` opens with; a `]` right after `[` or `[!` is a member."""
    at = 2 if text[1:2] in ("!", "^") else 1
    at += text[at : at + 1] == "]"
    while at < len(text) and text[at] != "]":
        at += 2 if text[at] == "\\" else 1
    return at if at < len(text) else None


def _class(members: str) -> str:
    """A class of characters as a regular expression; git takes a backwards range (`b-a`) as its first character."""
    negated = members[:1] in ("!", "^")
    spans = re.findall(r"\\?(.)(?:-\\?(.))?", members[1:] if negated else members, re.DOTALL)
    written = [re.escape(low) + (f"-{re.escape(high)}" if low <= high else "") for low, high in spans]
    return f"[{'^' if negated else ''}{''.join(written)}]"
