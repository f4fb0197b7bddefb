"""Inquiry: what the loop asks by itself when harm is done: what is to blame, and may its repair be tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from staytrue.errors import InvalidInput, NotFound, Refused
from staytrue.kernel.incidents import ENDS
from staytrue.kernel.release import Digest
from staytrue.loop.blame import Asked, blame, rising_since
from staytrue.loop.comparison import NEW_ROWS
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps
from staytrue.loop.orders import ask, orders
from staytrue.loop.repairing import repaired, set_guilty_parts_apart
from staytrue.store.ledger import Event
from staytrue.store.store import Store

__all__ = ["good_before", "harm_told", "inquire", "repairs_under_way", "rows_to_wait_for"]

BY = "the loop"


def harm_told(events: list[Event], release: Digest) -> Event | None:
    """The newest of these events that says that something is wrong with this release, if it is the newest word on it.

    A harm alarm; or a retraining that was decided on for what the champion loses, and that would have gained nothing: what is
    wrong is then something that a retraining does not mend.
    """
    for event in reversed(events):
        if event.kind == "alarm" and event.body.get("alarm") == "harm":
            return event if event.body.get("state") != "resolved" and event.body.get("release") == release else None
        if event.kind == "rejected" and event.body.get("release") is None:
            return event
        if event.kind in ENDS:
            return None
    return None


def repairs_under_way(store: Store, app: str, challenger: Digest | None) -> bool:
    """Whether the release on trial is a repair that was ordered here."""
    ours = [order for order in orders(store.ledger, app) if order.what == "try" and order.by == BY]
    return any(order.release == challenger for order in ours)


def good_before(store: Store, bad: Digest) -> Digest:
    """The release to hold a bad one against: the nearest one before it with other code or settings, else the one before it.

    A champion that was trained again and again under the same code has ancestors that share its mistake.
    """
    release = store.release_document(bad)
    first = release.parents[0] if release.parents else bad
    here = first
    while here != bad:
        before = store.release_document(here)
        if (before.code, dict(before.params)) != (release.code, dict(release.params)) and not before.is_service:
            return here
        if not before.parents:
            break
        here = before.parents[0]
    return first


def inquire(
    ctx: Context,
    champion: Digest,
    *,
    alarm: int,
    trainings: int,
    now: datetime,
    wall: datetime,
    say: Callable[[str], None],
) -> Steps[Mapping[str, Any] | None]:
    """The report on a champion that does harm; its repair, if there is one, is ordered like a person's.

    Returns:
        None where nothing could be asked: too few rows, or nothing to compare with.

    Args:
        alarm: the event that said so: a repair is ordered once for each.
        now: by the clock of the ticks, for the log.    wall: by the wall's.
    """
    asked = Asked(
        good=good_before(ctx.store, champion),
        bad=champion,
        trainings=trainings,
        since=rising_since(ctx.store, ctx.app.name, champion),
    )
    try:
        report = yield from blame(ctx.store, asked, home=ctx.home, say=say, now=now)
        say(report["sentence"])
        if report["outcome"] != "changes":
            return report
        made = yield from repaired(ctx.store, asked, report, home=ctx.home)
    except (Refused, InvalidInput, NotFound) as exc:
        say(f"What is to blame could not be found out: {exc}")
        return None
    set_guilty_parts_apart(made.ctx, report, by=BY)
    kept = ctx.store.objects.put_document(made.release.document())
    ask(
        ctx.store.ledger,
        ctx.app.name,
        "try",
        by=BY,
        now=wall,
        release=kept,
        kind="repaired",
        why=made.why,
        refs=made.refs,
        key=f"repair:{kept}:{alarm}",  # found again after a crash, it is ordered once
    )
    return report


def rows_to_wait_for(report: Mapping[str, Any] | None, rows: int) -> int | None:
    """How many labelled rows there should be before it is asked again; None: the answer stands.

    Where the release before would lose clearly less in the mean, but not surely, a few days more may tell.

    Args:
        rows: that there are now.
    """
    if report is None:
        return rows + NEW_ROWS
    loss = report["loss"]
    unsure = (
        report["outcome"] == "nobody" and loss["good"] is not None and loss["bad"] - loss["good"] > report["smallest"]
    )
    return rows + max(NEW_ROWS, loss["rows"] // 2) if unsure else None
