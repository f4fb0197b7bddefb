"""Actions: what a person asks for on a page. Each is an order to the loop, or the function of the verb of the same name.

What only writes an event is done at once. What has to ask releases (a revert, a refresh, windows of data) takes seconds, and is
done by a process of its own (`dashboard/errand.py`). Either way there is a note of it, `Asked`, from the first moment on: the
page that is shown next tells what was asked, and later what came of it.
"""

from __future__ import annotations

import getpass
import json
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, get_args

from staytrue.errors import InvalidInput, StaytrueError
from staytrue.kernel.release import AXES, Digest
from staytrue.loop.lease import alive
from staytrue.loop.orders import What, ask, challenger, needless, will
from staytrue.loop.undo import meant, undo_roles
from staytrue.store.store import Store

__all__ = ["ACTIONS", "Action", "Asked", "Notes", "act", "user"]

Action = Literal["pause", "resume", "promote", "approve", "reject", "revert", "refresh", "undo", "release", "drop"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)
State = Literal["under way", "done", "refused"]

_KEPT: Final = 100
_LONGEST: Final = 500
_ID: Final = re.compile(r"[0-9a-z]{20,40}")
_ORDERS: Final[Mapping[str, What]] = {
    "pause": "pause",
    "resume": "resume",
    "promote": "promote",
    "approve": "promote",  # who promotes a challenger that waits for a person has approved it
    "reject": "reject",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What somebody asked for on a page, and what came of it.

    Attributes:
        form: what the form said, in short texts; `app`, `why` and `back` aside.
        sentence: what will happen, did, or why not.
        code: of the error, where it was refused.
    """

    id: str
    app: str
    what: Action
    by: str
    at: str
    why: str | None
    form: Mapping[str, str]
    state: State
    sentence: str
    code: str | None = None

    def document(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)

    def done(self, sentence: str) -> Asked:
        """The same, done."""
        return replace(self, state="done", sentence=sentence)

    def refused(self, exc: StaytrueError) -> Asked:
        """The same, refused."""
        return replace(self, state="refused", sentence=exc.message, code=exc.code)


@dataclass(frozen=True)
class Notes:
    """The notes of what was asked, as files of the store's work folder; of the oldest ones nothing is kept."""

    folder: Path

    def write(self, asked: Asked) -> None:
        """Keep it, in place of what was known before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{asked.id}.new"
        temporary.write_text(json.dumps(asked.document()))
        temporary.replace(self.folder / f"{asked.id}.json")

    def read(self, id_: str) -> Asked | None:
        """The note with this id; None for none, or what is no id."""
        if not _ID.fullmatch(id_):
            return None
        try:
            return Asked(**json.loads((self.folder / f"{id_}.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def tidy(self) -> None:
        """Drop the oldest ones. What a process that is gone was doing has broken off."""
        files = sorted(self.folder.glob("*.json"))
        for file in files[:-_KEPT]:
            file.unlink(missing_ok=True)
        for file in files[-_KEPT:]:
            asked = self.read(file.stem)
            if asked is not None and asked.state == "under way":
                self.write(replace(asked, state="refused", code="ST1019", sentence=_BROKE_OFF))


_BROKE_OFF: Final = (
    "It broke off before its end. What was decided until then stands in the log; ask again for the rest."
)


def act(store: Store, what: str, sent: Mapping[str, str], *, by: str) -> Asked:
    """What becomes of a form: done, refused, or `under way`, to be done by an errand.

    Raises:
        InvalidInput: ST1020, no such action.    NotFound, InvalidInput: ST471, ST472, no such app.
    """
    if what not in ACTIONS:
        raise InvalidInput(
            "ST1020", f"There is no action {what[:40]!r}: expected {', '.join(ACTIONS)}.", expected=list(ACTIONS)
        )
    app = store.app(sent.get("app") or None)
    now = datetime.now(UTC)
    form = {name[:40]: text[:_LONGEST] for name, text in sent.items() if name not in {"app", "why", "back", "csrf"}}
    asked = Asked(
        # In the order of time, so that the oldest ones are found by their names.
        id=f"{int(now.timestamp() * 1000):012x}{secrets.token_hex(8)}",
        app=app,
        what=what,
        by=by,
        at=now.isoformat(),
        why=sent.get("why", "").strip()[:_LONGEST] or None,
        form=form,
        state="under way",
        sentence="",
    )
    try:
        return _done(store, asked, now)
    except StaytrueError as exc:
        return asked.refused(exc)


def _done(store: Store, asked: Asked, now: datetime) -> Asked:
    if asked.what in _ORDERS:
        return _ordered(store, asked, now)
    if asked.what == "undo":
        found = meant(store, asked.app, asked.form.get("event") or None)
        if found.about == "champion":
            return asked.done(undo_roles(store, asked.app, found, by=asked.by, why=asked.why).sentence)
        return replace(asked, sentence="The decision about the rows is being taken back.")
    if asked.what == "revert":
        axes = [axis for axis in AXES if asked.form.get(axis)]
        if not axes:
            raise InvalidInput("ST135", "Say what to revert: code, data or model.", expected=list(AXES))
        to = asked.form.get("to") or "the release before"
        return replace(asked, sentence=f"A release with {', '.join(axes)} of {to[:8]} is being made.")
    if asked.what == "refresh":
        return replace(asked, sentence="The sources are being asked, and the champion's code is trained on what came.")
    if not asked.form.get("held"):
        raise InvalidInput("ST1021", f"Say which window in quarantine to {asked.what}.", expected="held")
    into = "let into the table as it is" if asked.what == "release" else "dropped"
    return replace(asked, sentence=f"The window {asked.form['held'][:8]} is being {into}.")


def _ordered(store: Store, asked: Asked, now: datetime) -> Asked:
    order, app = _ORDERS[asked.what], asked.app
    why_not = needless(store.ledger, app, order)
    if why_not is not None:
        return asked.done(why_not)
    release: Digest | None = None
    if order in {"promote", "reject"}:
        wanted = asked.form.get("release")
        release = challenger(store.ledger, app, store.release(wanted).id if wanted else None)
    ask(store.ledger, app, order, by=asked.by, now=now, release=release, why=asked.why, key=asked.id)
    sentence = will(app, order, release)
    if not alive(store.root, app):
        sentence += f" No controller of {app} is alive: the order is kept, and acted on as soon as one is."
    return asked.done(sentence)


def user() -> str:
    """The person at this machine, as the log names who asked without a token."""
    with suppress(KeyError, OSError, ImportError):  # a user without a name, as in many containers
        return getpass.getuser()
    return "somebody"
