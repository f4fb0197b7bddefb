"""Account: what there is to say of a single answer, in sentences, made from the facts that `loop/why.py` found.

The one place with these words: the command line and every page show the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final

__all__ = ["account", "shown"]

Facts = Mapping[str, Any]
_LONGEST: Final = 60
_LISTED: Final = 5
_DIFFERING: Final = 6
_ID: Final = 8


def account(facts: Facts) -> dict[str, list[str]]:
    """Section -> its sentences, of the sections `asked`, `release`, `training`, `moved`, `instead`.

    Args:
        facts: the document of `staytrue why`, described in docs/documents.md; what is not known is None.

    Example:
        >>> asked = {"id": "01a21519", "at": "2026-03-01T12:00:00+00:00", "arm": "champion", "release": "ab" * 32,
        ...          "row": {"size": 2.0}, "answer": 9.5, "label": None, "flags": None, "others": [], "other_count": 0}
        >>> account({"asked": asked, "release": None, "training": None, "moved": None, "instead": None})["asked"][1]
        'asked: size 2'
    """
    said = {"asked": _asked(facts["asked"])}
    for name, told in (("release", _release), ("training", _training), ("moved", _moved), ("instead", _instead)):
        said[name] = told(facts[name], facts["asked"]) if facts[name] is not None else []
    return said


def shown(value: Any) -> str:
    """A value of a row, a label or an answer as people read it: short.

    Example:
        >>> shown(2.0), shown(None), shown("porto"), shown([1, 2]), shown("2026-03-01T00:00:00+00:00")
        ('2', 'null', 'porto', '[1, 2]', '2026-03-01')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime | date):
        value = value.isoformat()
    if isinstance(value, str):
        text = value.removesuffix("T00:00:00+00:00").removesuffix("T00:00:00")
        text = text if text.isprintable() and text == text.strip() and text else repr(text)
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{name}: {shown(one)}" for name, one in value.items()) + "}"
    elif isinstance(value, Sequence):
        text = "[" + ", ".join(map(shown, value)) + "]"
    else:
        text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


# -- what was asked and answered --------------------------------------------------------------------------------------


def _asked(asked: Facts) -> list[str]:
    when = asked["at"][:19].replace("T", " ")
    by = f"release {asked['release'][:_ID]} as {asked['arm']}"
    nobody = ", which nobody was given" if asked["arm"] == "shadow" else ""
    said = [f"{asked['id']}: {when} UTC, answered {shown(asked['answer'])} by {by}{nobody}"]
    said.append("asked: " + (", ".join(f"{name} {shown(value)}" for name, value in asked["row"].items()) or "nothing"))
    if asked["flags"]:
        said.append(f"flagged when it was asked: {asked['flags']}")
    said += _label(asked)
    if asked["others"]:
        some = [f"{one['at'][:16].replace('T', ' ')} {one['arm']} {one['id']}" for one in asked["others"][:_LISTED]]
        more = f" and {asked['other_count'] - len(some):,} more" if asked["other_count"] > len(some) else ""
        said.append(f"asked about in the same words too: {'; '.join(some)}{more}")
    return said


def _label(asked: Facts) -> list[str]:
    if asked["label"] is None:
        return ["no label is known yet"]
    said = f"the label is {shown(asked['label'])}"
    if asked.get("loss") is None:
        why = asked.get("loss_error")
        return [f"{said}; its loss is unknown{f': {why}' if why else ''}"]
    said += f": a loss of {asked['loss']:.4g} ({asked['metric']})"
    standing = asked.get("standing")
    if not standing or not standing["rows"]:
        return [f"{said}; no other labelled row of this release is known to hold it against"]
    same = f", {_percent(standing['as_much'])} as much" if standing["as_much"] >= 0.05 else ""
    return [
        f"{said}. Of the {standing['rows']:,} nearest labelled rows of this release {_percent(standing['more'])} lost more{same}"
    ]


def _percent(share: float) -> str:
    exact = 100 * share
    return f"{exact:.0f} %" if exact == 0 or exact >= 10 or exact == round(exact) else f"{exact:.2g} %"


# -- who answered -----------------------------------------------------------------------------------------------------


def _release(release: Facts, _: Facts) -> list[str]:
    commit = f" of commit {release['commit'][:12]}" if release["commit"] else ""
    what = f"code {release['code'][:_ID]}{commit}"
    if release["service"]:
        said = [f"release {release['id'][:_ID]}: a plain service, {what}, no model"]
    else:
        said = [f"release {release['id'][:_ID]}: model {release['model'][:_ID]}, {what}"]
    for one in release["data"]:
        if one.get("error"):
            said.append(f"learned from {one['source']}: {one['error']}")
            continue
        span = f", {one['since'][:10]} .. {one['until'][:10]}" if one["since"] else ""
        age = one["age_s"]
        old = f"; they ended {_span(age)} before it was asked" if age is not None and age >= 0 else ""
        said.append(f"learned from {one['rows']:,} rows of {one['source']}{span}{old}")
    env = release["env"]
    params = ", ".join(f"{name} {shown(value)}" for name, value in release["params"].items())
    python = f"Python {env['python']}, {env['distributions']} distributions" if env else "environment unknown"
    said.append(f"{python}; {f'params {params}' if params else 'no params'}, seed {release['seed']}")
    before = release["before"]
    if before is None:
        said.append("no release is known before it")
    else:
        differs = "; ".join(before["differs"]) or "nothing that it is made of"
        said.append(f"differs from {before['release'][:_ID]} before it: {differs}")
    return said


def _span(seconds: float) -> str:
    gap = timedelta(seconds=seconds)
    if gap >= timedelta(days=2):
        return f"{gap.days:,} days"
    hours = seconds / 3600
    return f"{hours:.0f} hours" if hours >= 2 else f"{seconds / 60:.0f} minutes"


# -- what it learned from ---------------------------------------------------------------------------------------------


def _training(training: Facts, _: Facts) -> list[str]:
    if training.get("error"):
        return [f"its training rows can't be looked at: {training['error']}"]
    said = [one["sentence"] for one in training["unlike"]] or [
        "nothing in the row is unlike training, column by column"
    ]
    said += _looked(training)
    for one in training["nearest"]:
        differs = [
            f"{d['column']} {shown(d['value'])} (asked {shown(d['asked'])})" for d in one["differs"][:_DIFFERING]
        ]
        more = len(one["differs"]) - len(differs)
        but = (
            f"but for {', '.join(differs)}{f' and {more} more' if more > 0 else ''}"
            if differs
            else "the same in every column"
        )
        when = f"{shown(one['time'])} " if one["time"] is not None else ""
        name = f"{shown(one['key'])}, " if one["key"] is not None else ""
        said.append(
            f"near: {when}{name}{training['label']} {shown(one['label'])}, distance {one['distance']:.3g}: {but}"
        )
    return said


def _looked(training: Facts) -> list[str]:
    said = []
    if training["gone"]:
        said.append(
            f"{training['gone']:,} of the {training['parts']:,} parts that it learned from are no longer kept"
            + ("" if training["looked"] else ": no row of them can be shown")
        )
    if training["damaged"]:
        said.append(f"{training['damaged']:,} parts are damaged: `staytrue verify`")
    left = training["parts"] - training["looked"] - training["gone"] - training["damaged"]
    if left > 0:
        said.append(
            f"only the newest {training['looked']:,} parts ({training['rows']:,} rows) were looked at, of {training['parts']:,}"
        )
    if training["looked"] and not training["rows"]:
        said.append("no row with a label is among them")
    return said


# -- what moved the answer --------------------------------------------------------------------------------------------


def _moved(moved: Facts, asked: Facts) -> list[str]:
    said = _again(moved)
    if moved.get("why_not"):
        return [*said, f"what moved the answer is unknown: {moved['why_not']}"]
    if moved.get("error"):
        return said
    said.append(
        f"each column's value was replaced by that of {moved['draws']:,} {moved['drawn_from']} (seed {moved['seed']}), "
        "one column at a time; columns that matter only together do not show"
    )
    if moved["in_company"] is not None:
        said.append(
            f"among these rows it answers {shown(moved['in_company'])} to the same row: it looks at rows around a row, and so "
            "what follows tells of these too"
        )
    said += [_effect(one, moved, asked) for one in moved["effects"]]
    said.append(_rest(moved))
    if moved["failing"]:
        said.append(f"it had no answer to {moved['failing']:,} of these rows: {moved['failure']}")
    if moved["left_out"]:
        said.append(f"{moved['left_out']:,} more columns were left out: too many to ask about each")
    return [one for one in said if one]


def _again(moved: Facts) -> list[str]:
    """What it answers to the same row now."""
    if moved.get("error"):
        return [f"it can't be asked again: {moved['error']}"]
    said = {
        "same": "asked again now, it answers the same",
        "other": f"asked again now, it answers {shown(moved['answer'])}: its libraries, or what it reads beside the row, changed",
        "failed": f"asked again now, it has no answer: {moved['answer_error']}",
    }
    return [said[moved["again"]], *(f"it is not deterministic: {one}" for one in moved["unsteady"])]


def _rest(moved: Facts) -> str:
    """The columns that are not told one by one."""
    others = moved["columns"] - len(moved["effects"])
    if not moved["effects"]:
        return f"none of its {moved['columns']:,} columns moved the answer"
    less = others - moved["still"]
    told = [
        f"{less:,} more columns moved it less" if less else "",
        f"{moved['still']:,} moved nothing" if moved["still"] else "",
    ]
    return ", ".join(filter(None, told))


def _effect(one: Facts, moved: Facts, asked: Facts) -> str:
    counted = f"{one['changed']:,} of {one['draws']:,} draws gave another answer"
    head = f"{one['column']} {shown(asked['row'].get(one['column']))}"
    if one["size"] is None:
        return f"{head}: {counted}"
    what = "the answer" if moved["class"] is None else f"the probability of {moved['class']}"
    if one["direction"] == "either":
        return (
            f"{head} moves {what} by {one['size']:.3g} on average, up or down by what stands in its place ({counted})"
        )
    return f"{head} {one['direction']} {what} by {abs(one['mean']):.3g} on average ({counted})"


# -- what others would have said --------------------------------------------------------------------------------------


def _instead(instead: Facts, asked: Facts) -> list[str]:
    said = []
    before, champion = instead["before"], instead["champion"]
    if before is None:
        said.append("no champion was there before it to ask")
    else:
        today = " (champion again today)" if champion and champion["release"] == before["release"] else ""
        said.append(_other(f"{before['release'][:_ID]}, champion before it{today},", before, asked))
    if champion is None:
        said.append("nobody is champion today")
    elif champion["release"] == asked["release"]:
        said.append("it is today's champion itself")
    elif before is None or champion["release"] != before["release"]:
        said.append(_other(f"{champion['release'][:_ID]}, today's champion,", champion, asked))
    return said


def _other(who: str, one: Facts, asked: Facts) -> str:
    if one.get("error"):
        return f"{who} has no answer to this row: {one['error']}"
    if one["same"]:
        return f"{who} answers the same"
    gap = one["difference"]
    how = f", {abs(gap):.4g} {'more' if gap > 0 else 'less'}" if gap is not None and math.isfinite(gap) else ""
    lost = f", and would have lost {one['loss']:.4g}" if one.get("loss") is not None else ""
    return f"{who} answers {shown(one['answer'])} in place of {shown(asked['answer'])}{how}{lost}"
