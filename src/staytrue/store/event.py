"""What the ledger is told (entries) and what it keeps (events, references, roles), and which entries it accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

from staytrue.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from staytrue.kernel.release import Digest

__all__ = [
    "LIVE",
    "Entry",
    "Event",
    "Fence",
    "Lease",
    "Ref",
    "Role",
    "RoleChange",
    "RoleName",
    "StoredRef",
    "check_entry",
    "utc",
]

LIVE = "live"
"""The timeline of what really happened; a replay writes its own, `replay/<policy>/<id>`."""

RoleName = Literal["champion", "challenger", "previous"]


@dataclass(frozen=True, kw_only=True)
class Ref:
    """What an event makes exist or points at: `kind` and `name` say what it is, `digest` is the object with it."""

    kind: str
    name: str
    digest: Digest


@dataclass(frozen=True, kw_only=True)
class StoredRef(Ref):
    """A reference as the ledger keeps it: with the event (`seq`) that made it."""

    seq: int
    app: str
    timeline: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class RoleChange:
    """Give a role to a release (None: to nobody), provided that its epoch still is `expect_epoch` (0: never given).

    `share` of the traffic, 0 to 1.
    """

    role: RoleName
    release: str | None
    share: float
    expect_epoch: int


@dataclass(frozen=True, kw_only=True)
class Role:
    """Who has a role now. `release` is None when it was taken back: the epoch stays and counts on from there."""

    app: str
    timeline: str
    role: RoleName
    release: str | None
    share: float
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Who runs an app's loop, and what the loop remembers: one row for each app, replaced and never added to.

    `epoch` counts the owners: whoever takes the lease makes it one higher; from then on the owner before can't write.
    """

    app: str
    owner: str
    epoch: int
    state: dict[str, Any]
    at: datetime
    """When it was last written, by the writer's clock: for people, nothing is decided by it."""


@dataclass(frozen=True, kw_only=True)
class Fence:
    """A condition of an append: the app's lease still has this epoch. In the same transaction its state is replaced."""

    app: str
    epoch: int
    state: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An event to be appended. `key` makes it happen once: the same key again changes nothing.

    `at` is the clock of the timeline (aware); `body` holds the numbers seen, as JSON; `sentence` says it to a person.
    """

    app: str
    timeline: str = LIVE
    key: str
    at: datetime
    kind: str
    sentence: str
    body: Mapping[str, Any] = field(default_factory=dict)
    refs: tuple[Ref, ...] = ()
    roles: tuple[RoleChange, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Event:
    """An entry as the ledger keeps it, the `seq`-th of all. `hash` covers all of it and the hash before, `previous`."""

    seq: int
    id: str
    app: str
    timeline: str
    key: str
    at: datetime
    recorded_at: datetime
    kind: str
    sentence: str
    body: dict[str, Any]
    roles: tuple[RoleChange, ...]
    previous: str
    hash: str


_HEX64 = re.compile(r"[0-9a-f]{64}")


def check_entry(entry: Entry) -> None:
    """Nothing, when the entry may be appended.

    Raises:
        InvalidInput: ST414, the message names the field.
    """
    for name in ("app", "timeline", "key", "kind"):
        _check(_is_text(getattr(entry, name)), name, getattr(entry, name), "a text of at least one character")
    _check("\0" not in entry.sentence, "sentence", entry.sentence, "a text without NUL characters")
    _check(isinstance(entry.body, dict), "body", entry.body, "a dict")
    for ref in entry.refs:
        _check(_is_text(ref.kind) and _is_text(ref.name), "ref", ref, "a kind and a name")
        _check(_HEX64.fullmatch(ref.digest) is not None, "digest", ref.digest, "64 characters of 0-9a-f")
    for change in entry.roles:
        _check(change.role in get_args(RoleName), "role", change.role, f"one of {get_args(RoleName)}")
        _check(change.release is None or _is_text(change.release), "release", change.release, "an id or None")
        _check(0 <= change.share <= 1, "share", change.share, "a number from 0 to 1")
        _check(change.expect_epoch >= 0, "expect_epoch", change.expect_epoch, "0 or more")


def utc(name: str, value: datetime) -> datetime:
    """The same moment in UTC.

    Raises:
        InvalidInput: ST414, a datetime without a time zone.
    """
    _check(value.tzinfo is not None, name, value, "an aware datetime, best in UTC")
    return value.astimezone(UTC)


def _is_text(value: object) -> bool:
    # Postgres keeps no NUL in a text.
    return isinstance(value, str) and value != "" and "\0" not in value


def _check(fits: bool, name: str, value: object, expected: str) -> None:  # noqa: FBT001 - the condition is what is checked
    if not fits:
        got = repr(value)[:80]
        message = f"Can't append to or read the ledger: {name} is {got}, expected {expected}. Correct the call."
        raise InvalidInput("ST414", message, field=name, got=got, expected=expected)
