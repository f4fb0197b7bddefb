"""What will happen, before anybody confirms it, by the functions of the verbs. Nothing is asked, run or written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from staytrue.errors import InvalidInput, StaytrueError
from staytrue.kernel.release import AXES, Axis, describe_axes
from staytrue.loop import undo
from staytrue.loop.lease import alive
from staytrue.loop.orders import challenger, needless, will
from staytrue.loop.outlook import foretold
from staytrue.loop.quarantine import quarantine
from staytrue.loop.revert import before, planned
from staytrue.store.ledger import LIVE
from staytrue.store.store import Store

__all__ = ["WHAT", "confirm_document"]

WHAT: Final = ("revert", "promote", "reject", "approve", "pause", "resume", "refresh", "undo", "release", "drop")
_ORDERS: Final = {"promote": "promote", "approve": "promote", "reject": "reject", "pause": "pause", "resume": "resume"}
_TITLES: Final = {
    "revert": "Take back",
    "promote": "Promote",
    "reject": "Reject",
    "approve": "Approve",
    "pause": "Pause the loop",
    "resume": "Let the loop go on",
    "refresh": "Train on the newest rows",
    "undo": "Undo a decision",
    "release": "Let this window in",
    "drop": "Drop this window",
}


def confirm_document(store: Store, app: str, what: str, query: Mapping[str, str]) -> dict[str, Any]:
    """What the action would do, in sentences, and the form that asks for it.

    Raises:
        InvalidInput: ST1002, no such action. And whatever says that it can't be done.
    """
    if what not in WHAT:
        raise InvalidInput(
            "ST1002", f"There is no action {what[:40]!r}: expected {', '.join(WHAT)}.", expected=list(WHAT)
        )
    form: dict[str, str] = {"app": app}
    sentences: list[str]
    command = f"staytrue {what}"
    if what == "revert":
        sentences, more, command = _revert(store, app, query)
        form |= more
    elif what in _ORDERS:
        sentences, more = _order(store, app, what, query)
        form |= more
        command = f"staytrue {_ORDERS[what]}" + (f" {more['release'][:8]}" if "release" in more else "")
    elif what == "undo":
        found = undo.meant(store, app, query.get("event") or None)
        sentences = list(undo.foretold(store, app, found))
        if found.done is not None:
            sentences = [found.told, f"It was undone before, nothing would be changed: {found.done.sentence}"]
        form |= {"event": found.event.id}
    elif what == "refresh":
        sentences = [
            "The sources are asked for the newest rows, and the champion's code is trained on them.",
            "What comes of it goes through the same trial as any other release; the champion answers meanwhile.",
        ]
    else:
        sentences, more = _window(store, app, what, query)
        form |= more
        command = f"staytrue data {more.get('source', '')} --{what} {more['held'][:8]}"
    if not alive(store.root, app) and what in _ORDERS:
        sentences.append("No controller is alive: the order is kept, and acted on as soon as `staytrue up` runs.")
    return {
        "app": app,
        "what": what,
        "title": _title(what, form),
        "sentences": sentences,
        "form": form,
        "action": f"/actions/{what}",
        "command": command,
        "axes": [axis for axis in AXES if form.get(axis)],
    }


def _title(what: str, form: Mapping[str, str]) -> str:
    axes = [axis for axis in AXES if form.get(axis)]
    if what == "revert" and axes:
        to = form["to"][:8]
        return f"Go back to release {to}" if len(axes) == len(AXES) else f"Take {' and '.join(axes)} back to {to}"
    named = form.get("release", "")[:8]
    return f"{_TITLES[what]} {named}" if named else _TITLES[what]


def _order(store: Store, app: str, what: str, query: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    order: Any = _ORDERS[what]
    why_not = needless(store.ledger, app, order)
    if why_not is not None:
        return [why_not], {}
    if order not in {"promote", "reject"}:
        return [will(app, order, None)], {}
    wanted = query.get("release")
    found = challenger(store.ledger, app, store.release(wanted).id if wanted else None)
    role = store.ledger.role(app, LIVE, "champion")
    sentences = [will(app, order, found)]
    if role and role.release:
        try:
            differs = describe_axes(store.release(role.release).release, store.release(found).release)
            sentences.append(f"From the champion {role.release[:8]} it differs in {'; '.join(differs) or 'nothing'}.")
        except StaytrueError:
            pass
    return sentences, {"release": found}


def _revert(store: Store, app: str, query: Mapping[str, str]) -> tuple[list[str], dict[str, str], str]:
    chosen: list[Axis] = [axis for axis in AXES if query.get(axis)] or list(AXES)
    to = store.release(query["to"]) if query.get("to") else before(store, app)
    plan = planned(store, app, to, chosen)
    sentences, is_all = foretold(store, app, plan)
    flags = " ".join(f"--{axis}" for axis in plan.axes)
    command = f"staytrue revert {flags} {to.id[:8]} --dry-run"
    if not is_all:
        sentences.append(f"`{command}` asks both releases first, and says which of these it will be.")
    return sentences, {"to": to.id, **dict.fromkeys(plan.axes, "1")}, command


def _window(store: Store, app: str, what: str, query: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    held, source = query.get("held", ""), query.get("source", "")
    known = quarantine(store.objects, store.ledger, app, source, None) if held and source else []
    one = next((one for one in known if one.id == held), None)
    if one is None:
        raise InvalidInput(
            "ST1002", f"Say which window to {what}: open it from the page Data.", expected="held, source"
        )
    named = f"The window {_spell(one.since)} .. {_spell(one.until)} of {source}, {one.rows:,} rows"
    refused = f"{named}, was refused: {one.worst.code} {one.worst.sentence}"
    likely = f" Likely: {one.worst.likely}." if one.worst.likely else ""
    will_be = (
        "Its rows come into the table as they are, and the next training learns from them. They are not refused again."
        if what == "release"
        else "Its rows never come into the table, and the source is not asked for this window again. They are kept, apart."
    )
    return [will_be, refused + likely], {"held": held, "source": source}


def _spell(at: datetime) -> str:
    return f"{at:%Y-%m-%d}" if at.hour == at.minute == 0 else f"{at:%Y-%m-%d %H:%M}"
