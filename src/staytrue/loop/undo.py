"""Undo: take back what the loop decided by itself: who answers, or which rows are kept out of the table.

A decision is an event. Its undoing is another one, which happens once (its key names the event) and only while the decision
holds (the champion's epoch is the one that it made): two people at once, or a command that is given again after a kill, change
nothing twice. What is undone can be undone too: that is the decision again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from staytrue.errors import Conflict, InvalidInput, NotFound, Refused
from staytrue.kernel.release import Digest, describe_axes
from staytrue.loop.context import Context
from staytrue.loop.data import hold_again
from staytrue.loop.data import release as let_in
from staytrue.loop.quarantine import DATA, HeldWindow, quarantine
from staytrue.store import tables
from staytrue.store.ledger import LIVE, Entry, Event, RoleChange
from staytrue.store.store import Store

__all__ = [
    "UNDONE",
    "Decision",
    "Undone",
    "decided",
    "foretold",
    "last_decided",
    "meant",
    "undo_data",
    "undo_roles",
    "undone_by",
]

UNDONE: Final = "undone"
_ROLES: Final = ("promoted", "rolled_back", "deployed", UNDONE)
_DATA: Final = ("quarantined", UNDONE)
_SHORT: Final = 18
"""Digits of an event's id that tell it from others of the same minute."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the loop decided, or a person's undoing of it.

    Attributes:
        about: `champion`: who answers; `data`: which rows are in the table.
        release, before: of a champion: who answers because of it, and who did before.
        windows: of data: those that it is about.
        done: it was undone before; the event that did.
    """

    event: Event
    about: Literal["champion", "data"]
    release: Digest | None = None
    before: Digest | None = None
    windows: tuple[HeldWindow, ...] = ()
    done: Event | None = None

    @property
    def is_undoing(self) -> bool:
        """Whether it is the undoing of another one, so that undoing it is the decision again."""
        return self.event.kind == UNDONE

    @property
    def source(self) -> str:
        """Of data: the source."""
        return str(self.event.body["source"])

    @property
    def to_do(self) -> tuple[HeldWindow, ...]:
        """Of data: the windows that undoing it changes."""
        wanted = "released" if self.is_undoing else "held"
        return tuple(one for one in self.windows if one.state == wanted)

    @property
    def told(self) -> str:
        """What it was and when, as a sentence."""
        what = "The undoing" if self.is_undoing else "The last decision of the loop"
        return f"{what}: {self.event.at:%Y-%m-%d %H:%M} UTC, {self.event.kind.replace('_', ' ')}: {self.event.sentence}"

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        event = self.event
        return {
            "event": event.id,
            "kind": event.kind,
            "at": event.at.isoformat(),
            "sentence": event.sentence,
            "about": self.about,
            "release": self.release,
            "before": self.before,
            "windows": [one.id for one in self.windows],
        }


@dataclass(frozen=True, kw_only=True)
class Undone:
    """What came of it. `new`: it was not undone before."""

    sentence: str
    new: bool
    event: str
    kept_out: tuple[str, ...] = ()
    """Why windows stay in quarantine: no table can hold them."""

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"sentence": self.sentence, "new": self.new, "event": self.event, "kept_out": list(self.kept_out)}


# ---------------------------------------------------------------- which one


def last_decided(store: Store, app: str) -> Decision:
    """The last decision of the loop that holds, or that was undone and nothing was decided since.

    Raises:
        NotFound: ST980, there is none.
    """
    found = max((one for one in (_of_roles(store, app), _of_data(store, app)) if one), key=_seq, default=None)
    if found is None:
        raise NotFound(
            "ST980",
            f"There is nothing to undo: no decision of {app}'s loop holds that changed who answers or what is learned from. What "
            "people did is changed by `staytrue revert`; `staytrue log` tells of all.",
            app=app,
        )
    return found


def decided(store: Store, app: str, event: Event) -> Decision:
    """That event as a decision that may be undone.

    Raises:
        InvalidInput: ST981, it is no decision of the loop.    Conflict: ST982, another one has overtaken it.
    """
    found = None
    if event.app == app and event.timeline == LIVE and event.kind in _ROLES:
        found = _role_decision(store, event)
    elif event.app == app and event.timeline == DATA and event.kind in _DATA:
        found = _data_decision(store, app, event)
    if found is None:
        raise InvalidInput(
            "ST981",
            f"Event {event.id[:_SHORT]} ({event.kind}) is no decision of {app}'s loop that can be undone: {event.sentence} "
            "What can be are releases promoted, rolled back or deployed by the loop, and windows that it put into quarantine.",
            event=event.id,
            kind=event.kind,
        )
    if found.done is None and not _holds(store, app, found):
        raise Conflict(
            "ST982",
            f"{found.told} It does not hold any more: {_overtaken(store, app, found)}. `staytrue log` tells of all; "
            "`staytrue revert` takes any release back.",
            event=event.id,
        )
    return found


def meant(store: Store, app: str, which: str | None) -> Decision:
    """The decision of the event `which` (its id, or the beginning of it); None: the last one.

    Given twice, after a kill or by two people, the last one does not turn into its opposite: an undoing is not undone unless it
    is named.

    Raises:
        NotFound: ST980.    InvalidInput: ST981.    Conflict: ST982. And as `Ledger.event`.
    """
    if which:
        return decided(store, app, store.ledger.event(which))
    found = last_decided(store, app)
    return undone_by(store, app, found) if found.is_undoing else found


def undone_by(store: Store, app: str, undoing: Decision) -> Decision:
    """The decision that an undoing is of."""
    return decided(store, app, store.ledger.event(str(undoing.event.body["undone"])))


def _seq(one: Decision) -> int:
    return one.event.seq


def _of_roles(store: Store, app: str) -> Decision | None:
    """The decision that made the champion what it is; None when a person did."""
    for event in store.ledger.events(app, LIVE, kinds=_ROLES, newest_first=True):
        found = _role_decision(store, event)
        if found is not None and _holds(store, app, found):
            return found
        if _champion_change(event) is not None:
            return None
    return None


def _of_data(store: Store, app: str) -> Decision | None:
    for event in store.ledger.events(app, DATA, kinds=_DATA, newest_first=True):
        found = _data_decision(store, app, event)
        if found is not None and (found.is_undoing or found.to_do) and found.done is None:
            return found
    return None


def _role_decision(store: Store, event: Event) -> Decision | None:
    change, body = _champion_change(event), event.body
    evidence = body.get("evidence", {})
    # What a controller or a replay says has a policy; what it did since a person said so names him.
    by_itself = event.kind == UNDONE or ("policy" in body and "by" not in evidence)
    previous = next((one.release for one in event.roles if one.role == "previous"), None)
    before = body.get("from") or evidence.get("from") or previous
    if change is None or not by_itself or not before or not change.release:
        return None
    return Decision(
        event=event,
        about="champion",
        release=Digest(change.release),
        before=Digest(before),
        done=_undoing(store, event),
    )


def _data_decision(store: Store, app: str, event: Event) -> Decision:
    source = str(event.body["source"])
    ref = store.ledger.ref("source", source, app=app)
    table = tables.load(store.objects, ref.digest) if ref else None
    known = quarantine(store.objects, store.ledger, app, source, table)
    ids = set(event.body["windows"]) if event.kind == UNDONE else {one.id for one in known if one.at == event.at}
    windows = tuple(one for one in known if one.id in ids)
    return Decision(event=event, about="data", windows=windows, done=_undoing(store, event))


def _undoing(store: Store, event: Event) -> Event | None:
    """The event that has undone it."""
    later = store.ledger.events(event.app, event.timeline, kinds=[UNDONE], after=event.seq)
    return next((one for one in later if one.body["undone"] == event.id), None)


def _champion_change(event: Event) -> RoleChange | None:
    return next((one for one in event.roles if one.role == "champion"), None)


def _holds(store: Store, app: str, found: Decision) -> bool:
    if found.about == "data":
        return bool(found.to_do)
    change, role = _champion_change(found.event), store.ledger.role(app, LIVE, "champion")
    return change is not None and role is not None and role.epoch == change.expect_epoch + 1


def _overtaken(store: Store, app: str, found: Decision) -> str:
    if found.about == "data":
        return "something else was decided about these windows, or the source gave other rows since"
    role = store.ledger.role(app, LIVE, "champion")
    return f"release {str(role.release)[:8] if role else 'none'} was made champion since"


# ---------------------------------------------------------------- what would happen


def foretold(store: Store, app: str, found: Decision) -> tuple[str, ...]:
    """What undoing it would do, in sentences."""
    return tuple(_foretold(store, app, found))


def _foretold(store: Store, app: str, found: Decision) -> Iterator[str]:
    yield found.told
    if found.about == "data":
        rows = sum(one.rows for one in found.to_do)
        many = f"{len(found.to_do)} windows of {found.source} ({rows:,} rows)"
        if found.is_undoing:
            yield f"{many} go back into quarantine, and out of the table: no retraining learns from them."
        else:
            yield f"{many} are let into the table as they came, and the next retraining learns from them."
        return
    old, new = (store.release_document(one) for one in (found.before, found.release) if one)
    roles = {role.role: role.release for role in store.ledger.roles(app, LIVE)}
    warm = roles.get("previous") == found.before
    how = "it is warm" if warm else f"its worker starts first, and {str(found.release)[:8]} answers until it is there"
    yield f"Release {str(found.before)[:8]} answers again, without a trial: {how}."
    differs = describe_axes(new, old)
    yield "From the champion it differs in " + "; ".join(differs) + "." if differs else "It is made of the same."
    if roles.get("challenger"):
        yield f"The trial of challenger {str(roles['challenger'])[:8]} ends: it was held against the champion of now."
    until = "there is other code" if new.is_service else "there are new labelled rows"
    yield f"The loop does not try {str(found.release)[:8]} again before {until}."


# ---------------------------------------------------------------- doing it


def undo_roles(store: Store, app: str, found: Decision, *, by: str, why: str | None) -> Undone:
    """The champion before answers again: one event with its role changes, if the decision still holds.

    Raises:
        Conflict: ST982, somebody else was first.
    """
    if found.done is not None:
        return _before(found)
    roles = {role.role: role for role in store.ledger.roles(app, LIVE)}
    change = _champion_change(found.event)
    now = datetime.now(UTC)
    changes = [
        RoleChange(
            role="champion", release=found.before, share=1.0, expect_epoch=change.expect_epoch + 1 if change else 0
        ),
        RoleChange(
            role="previous",
            release=found.release,
            share=0.0,
            expect_epoch=roles["previous"].epoch if "previous" in roles else 0,
        ),
    ]
    challenger = roles.get("challenger")
    if challenger is not None and challenger.release == found.before:
        changes.append(RoleChange(role="challenger", release=None, share=0.0, expect_epoch=challenger.epoch))
    event, kind = found.event, found.event.kind.replace("_", " ")
    again = (
        f"its undoing of {found.event.at:%Y-%m-%d %H:%M} is taken back" if found.is_undoing else f"{kind} taken back"
    )
    sentence = f"Release {str(found.before)[:8]} is champion again: {by} undid what the loop decided, {again}"
    entry = Entry(
        app=app,
        key=f"{UNDONE}:{event.seq}",
        at=now,
        kind=UNDONE,
        sentence=f"{sentence}: {why}" if why else f"{sentence}.",
        body={"release": found.before, "from": found.release, **_body(found, by, why)},
        roles=tuple(changes),
    )
    return _written(store, entry, found)


def undo_data(ctx: Context, found: Decision, *, by: str, why: str | None) -> Undone:
    """The windows are let in as they came (or held again). The event comes first; cut off in between, the same goes on.

    Raises:
        Conflict: ST982, somebody else was first; ST934, ST624, as `data.release`.
    """
    spec = ctx.app.sources[found.source].spec
    if found.done is not None:
        done = _before(found)
    else:
        what = "put back into quarantine" if found.is_undoing else "let in as they came"
        many = len(found.to_do)
        sentence = f"{by} undid what the loop decided: {many} window{'s' * (many > 1)} of {found.source} {what}"
        entry = Entry(
            app=ctx.app.name,
            timeline=DATA,
            key=f"{UNDONE}:{found.event.seq}",
            at=datetime.now(UTC),
            kind=UNDONE,
            sentence=f"{sentence}: {why}" if why else f"{sentence}.",
            body={"source": found.source, "windows": [one.id for one in found.to_do], **_body(found, by, why)},
        )
        done = _written(ctx.store, entry, found)
    kept_out = []
    for one in found.to_do:
        try:
            (hold_again if found.is_undoing else let_in)(ctx, spec, one.id, by=by, because=why)
        except Refused as exc:
            kept_out.append(str(exc))
    return Undone(sentence=done.sentence, new=done.new, event=done.event, kept_out=tuple(kept_out))


def _body(found: Decision, by: str, why: str | None) -> Mapping[str, Any]:
    return {"undone": found.event.id, "kind": found.event.kind, "by": by, "why": why}


def _before(found: Decision) -> Undone:
    event = found.done or found.event
    said = f"Nothing was changed, it was undone before: {event.sentence}"
    return Undone(sentence=said, new=False, event=event.id)


def _written(store: Store, entry: Entry, found: Decision) -> Undone:
    try:
        (event,) = store.ledger.append([entry], recorded_at=entry.at)
    except Conflict as exc:
        if exc.code not in {"ST415", "ST416"}:
            raise
        raise Conflict(
            "ST982",
            f"Can't undo {found.event.id[:_SHORT]} ({found.event.kind}): somebody else was first. Look with `staytrue log`, "
            "then again.",
            event=found.event.id,
        ) from exc
    return Undone(sentence=event.sentence, new=event.recorded_at == entry.at, event=event.id)
