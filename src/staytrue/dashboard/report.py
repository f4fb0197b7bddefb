"""Report: a check as Markdown, for a pull request, a job's summary or a terminal. Equal documents give equal text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["report"]

_SIGNS = {"passed": "✅", "failed": "❌", "skipped": "⏭️"}
_FILES = 20
_CELL = 300


def report(document: Mapping[str, Any]) -> str:
    """The Markdown of a check, as `staytrue check --json` prints it.

    Example:
        >>> step = {"name": "tests", "status": "passed", "sentence": "`pytest` passed.", "seconds": 1.0, "numbers": {}}
        >>> about = {"app": "shop", "what": "the work tree", "against": None, "code": "ab" * 32, "release": None}
        >>> verdict = {"verdict": "passed", "sentence": "The work tree passed.", "remembered": False}
        >>> print(report({**about, **verdict, "steps": [step]}).splitlines()[0])
        ## ✅ shop: the work tree passed its check
    """
    passed = document["verdict"] == "passed"
    steps = {step["name"]: step for step in document["steps"]}
    sign, word = (_SIGNS["passed"], "passed") if passed else (_SIGNS["failed"], "failed")
    blocks = [
        f"## {sign} {_plain(document['app'])}: {_plain(document['what'])} {word} its check".replace(" : ", " "),
        _plain(document["sentence"]),
        _table(
            ["", "step", "what came of it", "s"],
            [
                [_SIGNS[step["status"]], step["name"], step["sentence"], f"{step['seconds']:.1f}"]
                for step in document["steps"]
            ],
            right=(3,),
        ),
        *_said(document["steps"]),
        *_backtest(steps.get("backtest")),
        *_requests(steps.get("requests")),
        *_files(steps.get("identity")),
        _footer(document),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _said(steps: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for step in steps:
        tail = str(step["numbers"].get("tail") or "").strip("\n")
        if tail.strip():
            yield f"### {step['name'].capitalize()}: the end of what was printed"
            yield _fenced(tail)


def _backtest(step: Mapping[str, Any] | None) -> Iterable[str]:
    numbers = step["numbers"] if step else {}
    if "champion_loss" not in numbers:
        return
    evidence = numbers["evidence"]
    yield "### Backtest"
    yield _table(
        ["", "loss a row"],
        [
            ["old", _number(numbers["champion_loss"])],
            ["new", _number(numbers["challenger_loss"])],
            ["new - old", f"{_number(evidence.get('mean'))} ({_bounds(evidence)})"],
        ],
        right=(1,),
    )
    segments = [
        [name, _number(found.get("mean")), _bounds(found), f"{found.get('rows', 0):,}"]
        for name, found in evidence.get("segments", {}).items()
        if isinstance(found, Mapping)
    ]
    if segments:
        yield _table(["segment", "new - old", "interval", "rows"], segments, right=(1, 3))
    yield f"On {numbers['rows']:,} held-out rows; verdict: **{_plain(numbers['verdict'])}**."


def _requests(step: Mapping[str, Any] | None) -> Iterable[str]:
    numbers = step["numbers"] if step else {}
    if "rows" not in numbers:
        return
    yield "### Logged requests, asked of both"
    rows = [[what, f"{numbers[name]:,}"] for name, what in _COUNTS.items()]
    rows += [[f"by how much, {name}", _number(value)] for name, value in numbers["by"].items()]
    if numbers["mean"]:
        rows.append(["mean answer, old -> new", " -> ".join(_number(value) for value in numbers["mean"])])
    yield _table(["", "requests"], rows, right=(1,))
    if numbers["most"]:
        yield "Those that differ most:"
        yield _table(
            ["old", "new", "request"],
            [[_shown(one["old"]), _shown(one["new"]), _row(one["request"])] for one in numbers["most"]],
            right=(0, 1),
        )
    if numbers["failures"]:
        yield "Those that fail now:"
        yield _table(["why", "request"], [[one["error"], _row(one["request"])] for one in numbers["failures"]])


_COUNTS = {
    "rows": "asked",
    "differ": "answered otherwise",
    "failing": "fail now, and did not before",
    "mended": "failed before, and do not now",
    "failing_in_both": "fail in both",
}


def _files(step: Mapping[str, Any] | None) -> Iterable[str]:
    files = (step["numbers"] if step else {}).get("files", {})
    named = [f"{word} `{_code(path)}`" for word in ("added", "removed", "changed") for path in files.get(word, [])]
    if named:
        more = f"\n- and {len(named) - _FILES} more" if len(named) > _FILES else ""
        yield "### Files"
        yield "\n".join(f"- {one}" for one in named[:_FILES]) + more


def _footer(document: Mapping[str, Any]) -> str:
    parts = [f"code `{document['code'][:12]}`"]
    if document["release"]:
        parts.append(f"release `{document['release'][:12]}`")
    parts.append(f"against {_plain(document['against'])}" if document["against"] else "against nothing")
    if document["remembered"]:
        parts.append("found by an earlier check of the same code (`--again` runs it anew)")
    return f"<sub>staytrue check: {', '.join(parts)}</sub>"


# ---------------------------------------------------------------- Markdown


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[int] = ()) -> str:
    lines = [columns, ["---:" if place in right else "---" for place in range(len(columns))]]
    lines += [[_cell(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: Any) -> str:
    shown = _plain(text)
    return shown if len(shown) <= _CELL else f"{shown[:_CELL]}..."


def _plain(text: Any) -> str:
    """Text of a user's on one line: nothing in it is a table, a tag, a link or a person."""
    line = " ".join(str(text).split())
    for special, harmless in _HARMLESS.items():
        line = line.replace(special, harmless)
    return line


# What a cell, or a comment on a pull request, would take for more than text. A zero-width space keeps a name from being called.
_HARMLESS = {"&": "&amp;", "<": "&lt;", "|": "&#124;", "[": "&#91;", "@": "@\u200b"}


def _code(text: str) -> str:
    return text.replace("`", "'").replace("\n", " ")


def _fenced(text: str) -> str:
    ticks = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, ticks + 1)
    return f"{fence}text\n{_printable(text)}\n{fence}"


def _printable(text: str) -> str:
    """Without colours and other orders to a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]", "", text)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "unknown"


def _bounds(found: Mapping[str, Any]) -> str:
    low, high = found.get("lo"), found.get("hi")
    if low is None or high is None:
        return "no interval yet"
    return f"{_number(low)} .. {_number(high)}"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _row(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in row.items())
