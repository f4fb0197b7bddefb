"""The chain: how an append becomes the rows of one transaction, and how the rows are checked against each other."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    MetaData,
    Row,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    insert,
    select,
    update,
)

from staytrue.errors import Conflict, Corrupt
from staytrue.kernel.canonical_json import canonical_json
from staytrue.store.event import Event, Lease, Ref, Role, RoleChange, StoredRef, check_entry, utc
from staytrue.store.migrations import GENESIS
from staytrue.store.objects import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Dialect, Select

    from staytrue.store.event import Entry, Fence

__all__ = [
    "EVENT",
    "LEASE",
    "REF",
    "ROLE",
    "HeadMovedError",
    "Prepared",
    "append",
    "as_event",
    "as_lease",
    "as_ref",
    "as_role",
    "broken_links",
    "take",
    "where",
]

_PAGE = 1000
_TEXTS = frozenset({"id", "app", "timeline", "key", "kind", "sentence", "previous", "hash"})


class _Microseconds(TypeDecorator[datetime]):
    """An aware UTC datetime as whole microseconds since 1970: exact, and sorts the same in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        del dialect
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: object, dialect: Dialect) -> datetime:
        del dialect
        # A damaged file may hold anything here.
        if not isinstance(value, int) or abs(value) > _LAST_MICROSECOND:
            message = (
                f"Can't read a time in the ledger: got {value!r:.40}. Run `staytrue verify`, and restore from a copy."
            )
            raise Corrupt("ST412", message, got=repr(value)[:40])
        return _EPOCH + timedelta(microseconds=value)


_LAST_MICROSECOND = 60_000_000_000_000_000  # about 1,900 years to either side: within what datetime holds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_tables = MetaData()
EVENT = Table(
    "event",
    _tables,
    Column("seq", BigInteger),
    *(Column(name, Text) for name in ("id", "app", "timeline", "key")),
    Column("at", _Microseconds),
    Column("recorded_at", _Microseconds),
    *(Column(name, Text) for name in ("kind", "sentence", "body", "roles", "previous", "hash")),
)
REF = Table(
    "ref",
    _tables,
    *(Column(name, BigInteger) for name in ("seq", "position")),
    *(Column(name, Text) for name in ("app", "timeline", "kind", "name", "digest")),
    Column("at", _Microseconds),
)
ROLE = Table(
    "role",
    _tables,
    *(Column(name, Text) for name in ("app", "timeline", "role", "release")),
    Column("share", Double),
    Column("epoch", BigInteger),
)
LEASE = Table(
    "lease",
    _tables,
    *(Column(name, Text) for name in ("app", "owner")),
    Column("epoch", BigInteger),
    Column("state", Text),
    Column("at", _Microseconds),
)
_head = Table("head", _tables, *(Column(name, BigInteger) for name in ("id", "seq")), Column("hash", Text))

# Statements are made once: SQLAlchemy takes five times as long to make one and find what it compiled to as to run it
# (benchmarks/loop.py).
_HEAD = select(_head)
_SWAP = (
    update(_head)
    .where(_head.c.seq == bindparam("of_seq"), _head.c.hash == bindparam("of_hash"))
    .values(seq=bindparam("seq"), hash=bindparam("hash"))
)
_KNOWN = select(EVENT).where(
    EVENT.c.app == bindparam("app"),
    EVENT.c.timeline == bindparam("timeline"),
    EVENT.c.key.in_(bindparam("keys", expanding=True)),
)
_PASS = (
    update(LEASE)
    .where(LEASE.c.app == bindparam("of_app"), LEASE.c.epoch == bindparam("of_epoch"))
    .values(state=bindparam("state"), at=bindparam("at"))
)
_ROLE_OF = select(ROLE).where(
    ROLE.c.app == bindparam("of_app"), ROLE.c.timeline == bindparam("of_timeline"), ROLE.c.role == bindparam("of_role")
)
_MOVE = (
    update(ROLE)
    .where(
        ROLE.c.app == bindparam("of_app"),
        ROLE.c.timeline == bindparam("of_timeline"),
        ROLE.c.role == bindparam("of_role"),
        ROLE.c.epoch == bindparam("of_epoch"),
    )
    .values(release=bindparam("release"), share=bindparam("share"), epoch=bindparam("epoch"))
)
_ADD_EVENT, _ADD_REF, _ADD_ROLE = insert(EVENT), insert(REF), insert(ROLE)


class HeadMovedError(Exception):
    """Another writer appended after our read of the head."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An entry, checked, with its body as the text that is stored and hashed."""

    entry: Entry
    at: datetime
    body: str

    @classmethod
    def of(cls, entry: Entry) -> Prepared:
        """The entry, ready to append. Raises InvalidInput: ST414 a field, ST401 a body that is not JSON."""
        check_entry(entry)
        # Through text once: keys that are numbers become texts before, not after, they are sorted for the hash.
        body = canonical_json(json.loads(canonical_json(entry.body))).decode()
        return cls(entry=entry, at=utc("at", entry.at), body=body)

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes it happen only once."""
        return self.entry.app, self.entry.timeline, self.entry.key


def append(
    connection: Connection, prepared: list[Prepared], recorded_at: datetime, fence: Fence | None = None
) -> list[Event]:
    """Appends in the caller's transaction; gives back the events in the order of the entries.

    Raises:
        HeadMovedError: another writer came first; roll back and try again.
        Conflict: ST415 a key is taken by a different event, ST416 a role changed after the caller's read, ST800 the lease
            has another owner.
    """
    if fence is not None:
        _pass(connection, fence, recorded_at)
    # The head is read before the keys: when it is still the same at the swap below, no key was added in between.
    head = connection.execute(_HEAD).one()
    known = _stored(connection, prepared)
    seq, previous, fresh = head.seq, head.hash, []
    for item in prepared:
        if item.identity in known:
            _same(item, known[item.identity])
            continue
        seq += 1
        event = _chained(item, seq, previous, recorded_at)
        previous = event.hash
        known[item.identity] = event
        fresh.append((item, event))
    if fresh:
        swap = {"of_seq": head.seq, "of_hash": head.hash, "seq": seq, "hash": previous}
        if connection.execute(_SWAP, swap).rowcount != 1:
            raise HeadMovedError
        _insert(connection, fresh)
    return [known[item.identity] for item in prepared]


def take(connection: Connection, lease: Lease) -> None:
    """Makes this the lease of its app, if the one there has the epoch before.

    Raises:
        Conflict: ST801, it has not: somebody else took it.
    """
    values = {"owner": lease.owner, "epoch": lease.epoch, "at": lease.at}
    there = connection.execute(select(LEASE.c.epoch).where(LEASE.c.app == lease.app)).scalar()
    if (there or 0) != lease.epoch - 1:
        message = f"Can't run the loop of {lease.app}: another controller took it (epoch {there}, expected {lease.epoch - 1})."
        raise Conflict("ST801", message, app=lease.app, epoch=there or 0)
    if there is None:
        state = canonical_json(lease.state).decode()
        connection.execute(insert(LEASE).values(app=lease.app, state=state, **values))
    elif (
        connection.execute(
            update(LEASE).where(LEASE.c.app == lease.app, LEASE.c.epoch == there).values(**values)
        ).rowcount
        != 1
    ):
        raise HeadMovedError


def _pass(connection: Connection, fence: Fence, at: datetime) -> None:
    """Replaces the state of a lease that still has the fence's epoch."""
    state = canonical_json(fence.state).decode()
    ours = {"of_app": fence.app, "of_epoch": fence.epoch, "state": state, "at": at}
    if connection.execute(_PASS, ours).rowcount != 1:
        message = f"This controller does not run the loop of {fence.app} any more: another one took over. Nothing was written."
        raise Conflict("ST800", message, app=fence.app, epoch=fence.epoch)


def _stored(connection: Connection, prepared: list[Prepared]) -> dict[tuple[str, str, str], Event]:
    """The events that are there already under the keys of these entries."""
    keys: dict[tuple[str, str], list[str]] = {}
    for item in prepared:
        keys.setdefault((item.entry.app, item.entry.timeline), []).append(item.entry.key)
    found = {}
    for (app, timeline), names in keys.items():
        for start in range(0, len(names), _PAGE):
            wanted = {"app": app, "timeline": timeline, "keys": names[start : start + _PAGE]}
            for row in connection.execute(_KNOWN, wanted):
                found[row.app, row.timeline, row.key] = as_event(row)
    return found


def _same(item: Prepared, event: Event) -> None:
    if item.entry.kind == event.kind and json.loads(item.body) == event.body:
        return
    entry = item.entry
    message = (
        f"Can't append {entry.kind!r} to {entry.app} ({entry.timeline}) under the key {entry.key!r}: event {event.id} "
        f"({event.kind!r}: {event.sentence}) has it, with another content. "
        "Use a key made of all that the event depends on."
    )
    raise Conflict("ST415", message, app=entry.app, timeline=entry.timeline, key=entry.key, event=event.id)


def _chained(item: Prepared, seq: int, previous: str, recorded_at: datetime) -> Event:
    entry = item.entry
    fields: dict[str, Any] = {
        "seq": seq,
        "id": _uuid7(recorded_at),
        "app": entry.app,
        "timeline": entry.timeline,
        "key": entry.key,
        "at": item.at,
        "recorded_at": recorded_at,
        "kind": entry.kind,
        "sentence": entry.sentence,
        "body": json.loads(item.body),
        "roles": entry.roles,
        "previous": previous,
    }
    return Event(**fields, hash=_hash(fields, entry.refs))


def _hash(fields: Mapping[str, Any], refs: Sequence[Ref]) -> str:
    """BLAKE3 of the hash before and of the event with all that it made."""
    document = {
        **fields,
        "at": fields["at"].isoformat(),
        "recorded_at": fields["recorded_at"].isoformat(),
        "roles": [asdict(change) for change in fields["roles"]],
        "refs": [[ref.kind, ref.name, ref.digest] for ref in refs],
    }
    return digest(fields["previous"].encode() + canonical_json(document))


def _insert(connection: Connection, fresh: list[tuple[Prepared, Event]]) -> None:
    events, refs = [], []
    for item, event in fresh:
        roles = canonical_json([asdict(change) for change in event.roles]).decode()
        events.append({**vars(event), "body": item.body, "roles": roles})
        shared = {"seq": event.seq, "app": event.app, "timeline": event.timeline, "at": event.at}
        for position, ref in enumerate(item.entry.refs):
            refs.append({**shared, "position": position, "kind": ref.kind, "name": ref.name, "digest": ref.digest})
    connection.execute(_ADD_EVENT, events)
    if refs:
        connection.execute(_ADD_REF, refs)
    for _, event in fresh:
        for change in event.roles:
            _change_role(connection, event, change)


def _change_role(connection: Connection, event: Event, change: RoleChange) -> None:
    of = {"of_app": event.app, "of_timeline": event.timeline, "of_role": change.role}
    now = connection.execute(_ROLE_OF, of).one_or_none()
    epoch = now.epoch if now else 0
    if epoch != change.expect_epoch:
        raise _role_moved(event, change, epoch, now.release if now else None)
    values = {"release": change.release, "share": change.share, "epoch": epoch + 1}
    if now is None:
        connection.execute(_ADD_ROLE, {"app": event.app, "timeline": event.timeline, "role": change.role, **values})
    elif connection.execute(_MOVE, {**of, "of_epoch": epoch, **values}).rowcount != 1:
        raise HeadMovedError


def _role_moved(event: Event, change: RoleChange, epoch: int, release: str | None) -> Conflict:
    wanted = (
        f"make release {change.release[:12]} {change.role}" if change.release else f"take the role {change.role} back"
    )
    if epoch == 0:
        happened = "nobody ever had that role"
    elif release is None:
        happened = "the role was taken back after your read"
    else:
        happened = f"release {release[:12]} became {change.role} after your read"
    message = (
        f"Can't {wanted} in {event.app} ({event.timeline}): {happened} "
        f"(epoch {epoch}, expected {change.expect_epoch}). Look with `staytrue status`, then try again."
    )
    facts = {"app": event.app, "timeline": event.timeline, "role": change.role, "release": release}
    return Conflict("ST416", message, **facts, epoch=epoch, expect_epoch=change.expect_epoch)


def broken_links(connection: Connection) -> Iterator[str]:
    """A sentence for each thing in the whole ledger that does not hold."""
    roles: dict[tuple[str, str, str], Role] = {}
    seq, previous = 0, GENESIS
    while page := connection.execute(select(EVENT).where(EVENT.c.seq > seq).order_by(EVENT.c.seq).limit(_PAGE)).all():
        refs = _refs_by_event(connection, seq, page[-1].seq)
        for row in page:
            if row.seq != seq + 1:
                yield f"Events {seq + 1} to {row.seq - 1} are missing."
            elif row.previous != previous:
                yield f"Event {row.seq} ({row.id}) does not follow event {seq}: one of the two was changed."
            yield from _broken_event(row, refs.pop(row.seq, []), roles)
            seq, previous = row.seq, row.hash
        yield from (f"References of event {stray} stand without it." for stray in sorted(refs))
    yield from _broken_ends(connection, seq, previous, roles)


def _refs_by_event(connection: Connection, after: int, until: int) -> dict[int, list[Ref]]:
    found: dict[int, list[Ref]] = {}
    query = select(REF).where(REF.c.seq > after, REF.c.seq <= until).order_by(REF.c.seq, REF.c.position)
    for row in connection.execute(query):
        found.setdefault(row.seq, []).append(as_ref(row))
    return found


def _broken_event(row: Row[Any], refs: Sequence[Ref], roles: dict[tuple[str, str, str], Role]) -> Iterator[str]:
    try:
        event = as_event(row)
    except Corrupt:
        yield f"Event {row.seq} ({row.id}) can't be read: its content was changed."
        return
    if _hash({name: value for name, value in vars(event).items() if name != "hash"}, refs) != event.hash:
        yield f"Event {row.seq} ({row.id}) does not match its hash: it or its references were changed."
        return
    for change in event.roles:
        roles[event.app, event.timeline, change.role] = Role(
            app=event.app,
            timeline=event.timeline,
            role=change.role,
            release=change.release,
            share=change.share,
            epoch=change.expect_epoch + 1,
        )


def _broken_ends(
    connection: Connection, seq: int, previous: str, roles: dict[tuple[str, str, str], Role]
) -> Iterator[str]:
    head = connection.execute(select(_head)).one_or_none()
    if head is None or (head.seq, head.hash) != (seq, previous):
        expected = "no head" if head is None else f"its head says {head.seq}"
        yield f"The chain ends at event {seq}, but {expected}: the last events were removed or changed."
    strays = connection.execute(select(REF.c.seq).where(REF.c.seq > seq).distinct().order_by(REF.c.seq)).scalars()
    yield from (f"References of event {stray} stand without it." for stray in strays)
    stored = {(row.app, row.timeline, row.role): as_role(row) for row in connection.execute(select(ROLE))}
    for place in sorted(stored.keys() | roles.keys(), key=str):
        if stored.get(place) != roles.get(place):
            yield f"The role {place[2]} of {place[0]} ({place[1]}) is not what the events made it: somebody changed it."


def as_event(row: Row[Any]) -> Event:
    """The event in a row of EVENT.

    Raises:
        Corrupt: ST412, the row is not one that we wrote.
    """
    fields = _fields(EVENT, row)
    try:
        fields["body"] = json.loads(row.body)
        fields["roles"] = tuple(RoleChange(**change) for change in json.loads(row.roles))
        texts = all(isinstance(value, str) for name, value in fields.items() if name in _TEXTS)
    except (TypeError, ValueError):
        texts = False
    if not texts:
        message = f"Can't read event {row.seq} of the ledger. Run `staytrue verify`, and restore the file from a copy."
        raise Corrupt("ST412", message, seq=row.seq)
    return Event(**fields)


def as_ref(row: Row[Any]) -> StoredRef:
    """The reference in a row of REF."""
    fields = _fields(REF, row)
    del fields["position"]
    return StoredRef(**fields)


def as_role(row: Row[Any]) -> Role:
    """The role in a row of ROLE."""
    return Role(**_fields(ROLE, row))


def as_lease(row: Row[Any]) -> Lease:
    """The lease in a row of LEASE.

    Raises:
        Corrupt: ST412, its state is not one that we wrote.
    """
    fields = _fields(LEASE, row)
    try:
        state = json.loads(row.state)
    except (TypeError, ValueError):
        state = None
    if not isinstance(state, dict):
        message = f"Can't read what the loop of {row.app} remembers. Run `staytrue verify`."
        raise Corrupt("ST412", message, app=row.app)
    return Lease(**{**fields, "state": state})


def _fields(table: Table, row: Row[Any]) -> dict[str, Any]:
    return dict(zip(table.columns.keys(), row, strict=True))


def where(query: Select[Any], filters: Mapping[Column[Any], str | None]) -> Select[Any]:
    """The query with every filter that is given; None is not given."""
    return query.where(*(column == value for column, value in filters.items() if value is not None))


def _uuid7(at: datetime) -> str:
    """A UUID that sorts by time (RFC 9562, version 7). The standard library makes them from Python 3.14 on."""
    milliseconds = (at - _EPOCH) // timedelta(milliseconds=1)
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | (random >> 64 & 0xFFF) << 64 | 0b10 << 62
    return str(uuid.UUID(int=value | random & (1 << 62) - 1))
