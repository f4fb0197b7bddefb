"""Orders: what people ask of the loop. Each is an event; the controller acts on it once, whenever it lives.

Nothing happens here but that the order is written down: so it survives a controller that is not there, and who asked for
what, and why, stays in the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast, get_args
from uuid import uuid4

from staytrue.errors import Conflict, NotFound
from staytrue.kernel.release import Digest
from staytrue.store.ledger import LIVE, Entry, Event, Ledger, Ref

__all__ = ["ORDERS", "Order", "What", "ask", "challenger", "is_paused", "needless", "orders", "paused", "will"]

ORDERS = "orders"
"""The timeline of orders."""

What = Literal["pause", "resume", "promote", "reject", "retrain", "deploy", "try"]
_KIND = "asked"
_LONGEST_WHY = 500


@dataclass(frozen=True, kw_only=True)
class Order:
    """What somebody asked for; `seq` is its place in the ledger."""

    seq: int
    what: What
    by: str
    at: datetime
    release: Digest | None = None
    code: Digest | None = None
    kind: str | None = None
    """Of a release to try: as what it is told of, such as `reverted`."""
    why: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "seq": self.seq,
            "what": self.what,
            "by": self.by,
            "at": self.at.isoformat(),
            "release": self.release,
            "code": self.code,
            "kind": self.kind,
            "why": self.why,
        }


def ask(
    ledger: Ledger,
    app: str,
    what: What,
    *,
    by: str,
    now: datetime,
    release: Digest | None = None,
    code: Digest | None = None,
    kind: str | None = None,
    why: str | None = None,
    key: str | None = None,
    refs: tuple[Ref, ...] = (),
) -> Order:
    """Write the order down, durably.

    Args:
        by: who asks.    why: the reason, for the log; of one line in the end, and of at most 500 characters.
        release: which challenger (promote, reject), or whom to bring into a trial (try).    code: which code (deploy).
        kind: of a release to try: as what it is told of.    refs: what keeps that release.
        key: makes it happen once, when it has to be asked for again after a failure; random when left out.
    """
    reason = _one_line(why) or None
    who = _one_line(by) or "somebody"
    meant = f" {release[:8]}" if release else f" code {code[:8]}" if code else ""
    said: dict[str, Any] = {"what": what, "by": who, "release": release, "code": code, "kind": kind, "why": reason}
    entry = Entry(
        app=app,
        timeline=ORDERS,
        key=key or uuid4().hex,
        at=now,
        kind=_KIND,
        sentence=f"{who} asked to {what}{meant}" + (f": {reason}" if reason else "."),
        body={name: value for name, value in said.items() if value is not None},
        refs=refs,
    )
    (event,) = ledger.append([entry], recorded_at=now)
    return _order(event)


def will(app: str, what: What, release: Digest | None = None) -> str:
    """What comes of an order, in a sentence, as far as it is known beforehand.

    Example:
        >>> will("rates", "resume")
        'The loop of rates goes on with what has come since.'
    """
    who = f"Challenger {release[:8]}" if release else "The challenger"
    said = {
        "pause": f"The loop of {app} begins nothing new until `staytrue resume`. The champion goes on answering, and what makes "
        "errors is still stopped.",
        "resume": f"The loop of {app} goes on with what has come since.",
        "promote": f"{who} becomes champion. The old one stays warm, and rollback stays armed.",
        "reject": f"{who} is taken off trial, and the champion stays.",
    }
    return said.get(what, f"The loop of {app} was asked to {what}.")


def needless(ledger: Ledger, app: str, what: What) -> str | None:
    """Why pausing or resuming would change nothing; None where it would change something."""
    if what == "pause" and paused(ledger, app):
        return f"The loop of {app} is paused already."
    if what == "resume" and not paused(ledger, app):
        return f"The loop of {app} is not paused."
    return None


def orders(ledger: Ledger, app: str, *, after: int = 0) -> list[Order]:
    """The orders after the event `after`, oldest first; what another version asks for and we don't know is left out."""
    return [_order(event) for event in ledger.events(app, ORDERS, kinds=[_KIND], after=after) if _is_known(event)]


def is_paused(events: Iterable[Event]) -> bool:
    """Whether the newest order among the events that pauses or resumes is a pause."""
    asked = [event.body["what"] for event in events if event.timeline == ORDERS and _is_known(event)]
    return next((what for what in reversed(asked) if what in ("pause", "resume")), None) == "pause"


def paused(ledger: Ledger, app: str) -> bool:
    """Whether people paused the app's loop."""
    return is_paused(ledger.events(app, ORDERS, kinds=[_KIND]))


def challenger(ledger: Ledger, app: str, wanted: Digest | None) -> Digest:
    """The challenger, provided that it is the one wanted (None: whichever it is).

    Raises:
        NotFound: ST853, nobody is on trial.    Conflict: ST854, another release is.
    """
    roles = {role.role: role.release for role in ledger.roles(app, LIVE)}
    found = roles.get("challenger")
    if wanted is not None and wanted == roles.get("champion"):
        raise Conflict("ST854", f"Release {wanted[:8]} is champion already.", release=wanted, challenger=found)
    if found is None:
        raise NotFound(
            "ST853",
            f"{app} has no challenger on trial. `staytrue status` tells what is under way; `staytrue revert` takes an older "
            "release back.",
            app=app,
        )
    if wanted is not None and wanted != found:
        raise Conflict(
            "ST854",
            f"Release {wanted[:8]} is not on trial: the challenger is {found[:8]}. Look at it with `staytrue show {found[:8]}`, "
            "then say so again.",
            release=wanted,
            challenger=found,
        )
    return Digest(found)


def _is_known(event: Event) -> bool:
    return event.body.get("what") in get_args(What)


def _order(event: Event) -> Order:
    body = event.body
    return Order(
        seq=event.seq,
        what=cast("What", body["what"]),
        by=str(body.get("by", "somebody")),
        at=event.at,
        release=Digest(body["release"]) if body.get("release") else None,
        code=Digest(body["code"]) if body.get("code") else None,
        kind=body.get("kind"),
        why=body.get("why"),
    )


def _one_line(text: str | None) -> str:
    """Without what a terminal would act on, or no file could hold."""
    shown = "".join(c if c.isprintable() else " " for c in (text or "")[: 2 * _LONGEST_WHY])
    return " ".join(shown.split())[:_LONGEST_WHY]
