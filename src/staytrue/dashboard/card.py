"""Card: the model card of a release as sections for the page, and as Markdown for the auditor. Equal documents, equal text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from staytrue.dashboard.words import count, moment, number, plain_value, short

__all__ = ["Block", "markdown", "sections"]

Block: TypeAlias = tuple[Literal["text", "list", "table"], Any]
"""A sentence, several, or rows of a table of which the first has the names."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~])")


def sections(card: Mapping[str, Any]) -> list[tuple[str, list[Block]]]:
    """The parts of a card with their titles.

    Args:
        card: as `card_document` gives it.
    """
    role = card["role"] or "none: it does not answer"
    about = [
        ["what", "value"],
        ["app", card["app"]],
        ["release", card["release"]],
        ["role", role],
        ["model", card["model"] or "none, a plain service"],
        ["recipe", card["recipe"] or "-"],
        ["code", card["code"]],
        ["Python", card["env"]["python"] or "-"],
        ["environment", f"{card['env']['id']} ({count(len(card['env']['distributions']))} distributions)"],
        ["seed", plain_value(card["seed"])],
        *([f"param {name}", plain_value(value)] for name, value in sorted(card["params"].items())),
        ["made beside", ", ".join(card["parents"]) or "none: the first of its line"],
    ]
    return [
        ("What it is", [("table", about)]),
        ("What it learned from", _learned(card)),
        ("How it was let in", _trial(card["trial"])),
        ("How it does", _does(card)),
        (
            "What has to be known",
            [("list", card["limits"])] if card["limits"] else [("text", "Nothing beyond the above.")],
        ),
        (
            "Its history",
            [
                (
                    "list",
                    [f"{one['at'][:10]} {one['sentence']}" for one in card["history"]] or ["nothing was told of it"],
                )
            ],
        ),
    ]


def _learned(card: Mapping[str, Any]) -> list[Block]:
    if not card["data"]:
        return [("text", "From no data: it is a plain service.")]
    rows = [["source", "rows", "columns", "from", "up to", "table"]]
    rows += [
        [
            one["source"],
            count(one["rows"]),
            count(one["columns"]),
            moment(one["since"]),
            moment(one["until"]),
            short(one["table"]),
        ]
        for one in card["data"]
    ]
    label = f"What it predicts is {card['label']}." if card["label"] else "No source has a label."
    return [("table", rows), ("text", label)]


def _trial(trial: Mapping[str, Any] | None) -> list[Block]:
    if trial is None:
        return [("text", "Without a trial.")]
    rows = [["step", "when", "rows", "difference in loss a row", "interval", "verdict"]]
    rows += [
        [
            step["kind"].replace("_", " "),
            moment(step["at"]),
            count(step["rows"]),
            number(step["mean"]),
            f"{number(step['low'])} .. {number(step['high'])}"
            if step["low"] is not None and step["high"] is not None
            else "-",
            step["verdict"] or "-",
        ]
        for step in trial["steps"]
    ]
    blocks: list[Block] = [("text", trial["sentence"]), ("table", rows)]
    if trial["segments"]:
        parts = [["segment", "rows", "difference in loss a row"]]
        parts += [[name, count(one["rows"]), number(one["mean"])] for name, one in trial["segments"].items()]
        blocks.append(("table", parts))
    return blocks


def _does(card: Mapping[str, Any]) -> list[Block]:
    said = [f"{name.replace('_', ' ')}: {number(value)} a row" for name, value in card["scores"].items()]
    blocks: list[Block] = [("list", said)] if said else []
    if card["losses"]:
        blocks.append(("text", card["losses"]))
    return blocks or [("text", "Unknown: nothing was measured.")]


def markdown(card: Mapping[str, Any]) -> str:
    r"""The card as Markdown; what a name or a value holds stays text.

    Example:
        >>> print(_plain("<b>|x"))
        \<b\>\|x
    """
    parts = [
        f"# Model card: {_plain(card['app'])}, release {short(card['release'])}",
        f"As of {moment(card['at'], clock=True)}.",
    ]
    for title, blocks in sections(card):
        parts.append(f"## {title}")
        parts += [_written(kind, body) for kind, body in blocks]
    return "\n\n".join(parts) + "\n"


def _written(kind: str, body: Any) -> str:
    if kind == "text":
        return _plain(body)
    if kind == "list":
        return "\n".join(f"- {_plain(one)}" for one in body)
    return _table(body)


def _table(rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _plain(value: Any) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))
