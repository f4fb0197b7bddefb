"""The ledger: the append-only, hash-chained record of what happened, and the roles that its events changed.

It is the one source of truth for what exists and who is champion. SQLite (WAL, synchronous=FULL) or Postgres through
SQLAlchemy Core, in the same statements. An append is one transaction: it moves the head of the chain by
compare-and-swap, writes its events with their references, and changes roles by compare-and-swap on their epoch. So all
of it is there or none, two writers never interleave, and a decision made on an old read is refused instead of applied.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import URL, select
from sqlalchemy.exc import IntegrityError, ProgrammingError

from staytrue.errors import InvalidInput, NotFound, StaytrueError, Unavailable
from staytrue.store.chain import (
    EVENT,
    LEASE,
    REF,
    ROLE,
    HeadMovedError,
    Prepared,
    append,
    as_event,
    as_lease,
    as_ref,
    as_role,
    broken_links,
    take,
    where,
)
from staytrue.store.database import Database
from staytrue.store.durable import disk, make_directory, sync_directory
from staytrue.store.event import (
    LIVE,
    Entry,
    Event,
    Fence,
    Lease,
    Ref,
    Role,
    RoleChange,
    RoleName,
    StoredRef,
    utc,
)
from staytrue.store.migrations import LATEST, migrate_once, schema_version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Row, Select

__all__ = [
    "LIVE",
    "Entry",
    "Event",
    "Fence",
    "Lease",
    "Ledger",
    "Ref",
    "Role",
    "RoleChange",
    "RoleName",
    "StoredRef",
]

_ATTEMPTS = 100
_ID = re.compile(r"[0-9a-f-]{1,36}")
_FULL_ID = 36


class Ledger:
    """One ledger, for any number of threads and processes. `Ledger.open` is the usual way in.

    Example:
        >>> import tempfile
        >>> ledger = Ledger.open(Path(tempfile.mkdtemp()) / "ledger.db")
        >>> from datetime import UTC, datetime
        >>> now = datetime(2026, 3, 1, tzinfo=UTC)
        >>> said = "Fetched 10 rows."
        >>> entry = Entry(app="rates", key="fetch:1", at=now, kind="fetched", sentence=said, body={"rows": 10})
        >>> [event.seq for event in ledger.append([entry], recorded_at=now)]
        [1]
        >>> [event.seq for event in ledger.append([entry], recorded_at=now)]  # the same key: it happened already
        [1]
        >>> ledger.events(app="rates")[0].body, ledger.verify()
        ({'rows': 10}, [])
        >>> ledger.close()
    """

    def __init__(self, url: str | URL) -> None:
        """A ledger at a SQLAlchemy URL, its schema left as it is.

        Raises:
            InvalidInput: ST420, no such kind of database, or its driver is not installed.
        """
        self._database = Database(url)

    @classmethod
    def open(cls, path_or_url: str | Path) -> Self:
        """The ledger at the path of a SQLite file or at a database URL, made or brought to this version if need be.

        Any number of processes may do so at once. A migration that fails leaves the database as it was.

        Raises:
            InvalidInput: ST413 a newer staytrue wrote it, ST420 not a database we know.
            Unavailable: ST410 locked, ST411 disk full or failing, ST419 no answer.    Corrupt: ST412 damaged.
        """
        new_in: Path | None = None
        if isinstance(path_or_url, Path) or "://" not in path_or_url:
            path = Path(path_or_url).absolute()
            new_in = None if path.exists() else path.parent
            with disk(f"make the folder of the ledger {str(path)!r}"):
                make_directory(path.parent)
            ledger = cls(URL.create("sqlite", database=str(path)))
        else:
            ledger = cls(path_or_url)
        try:
            ledger._migrate()
            if new_in is not None:
                # SQLite does this too, but takes a refusal for well: what is acknowledged would hang on a name not kept.
                with disk(f"keep the name of the ledger in {str(new_in)!r}"):
                    sync_directory(new_in)
        except StaytrueError:
            ledger.close()
            raise
        return ledger

    def append(self, entries: Sequence[Entry], *, recorded_at: datetime, fence: Fence | None = None) -> list[Event]:
        """Appends the entries in one transaction and gives back their events, in the same order.

        An entry whose (app, timeline, key) is there already changes nothing: its stored event is given back, and
        neither its references nor its roles are applied again. No entries and no fence: no transaction.

        Args:
            fence: a controller's: all of it happens only while it has the lease, and together with its new state.

        Raises:
            InvalidInput: ST414, an empty key, a naive time, a share outside [0, 1], ...; ST401 a body that is not JSON.
            Conflict: ST415 the key is taken by a different event; ST416 a role changed after your read; ST800 the lease has
                another owner.
            Unavailable: as `open`. Whether the append happened is then unknown: append the same entries again.
        """
        recorded_at = utc("recorded_at", recorded_at)
        prepared = [Prepared.of(entry) for entry in entries]
        if not prepared and fence is None:
            return []
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(HeadMovedError), self._database.write("append to the ledger") as connection:
                return append(connection, prepared, recorded_at, fence)
        message = f"Can't append to the ledger: other writers came first {_ATTEMPTS} times in a row. Try again later."
        raise Unavailable("ST419", message, attempts=_ATTEMPTS)

    def events(
        self,
        app: str | None = None,
        timeline: str | None = None,
        *,
        kinds: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Event]:
        """The events that pass every given filter, by `seq`: `since <= at < until`, and `seq > after`."""
        columns = EVENT.c
        query = select(EVENT).order_by(columns.seq.desc() if newest_first else columns.seq).limit(limit)
        query = where(query, {columns.app: app, columns.timeline: timeline})
        if kinds is not None:
            query = query.where(columns.kind.in_(list(kinds)))
        if since is not None:
            query = query.where(columns.at >= utc("since", since))
        if until is not None:
            query = query.where(columns.at < utc("until", until))
        if after is not None:
            query = query.where(columns.seq > after)
        return [as_event(row) for row in self._all(query)]

    def event(self, id_or_prefix: str) -> Event:
        """The one event whose id begins so.

        Raises:
            NotFound: ST417.    InvalidInput: ST418, several begin so; the message lists them.
        """
        if not _ID.fullmatch(id_or_prefix):
            raise _no_event(id_or_prefix)
        exact = len(id_or_prefix) == _FULL_ID
        match = EVENT.c.id == id_or_prefix if exact else EVENT.c.id.startswith(id_or_prefix, autoescape=True)
        found = [as_event(row) for row in self._all(select(EVENT).where(match).order_by(EVENT.c.seq).limit(5))]
        if not found:
            raise _no_event(id_or_prefix)
        if len(found) > 1:
            ids = [event.id for event in found]
            message = f"Can't tell which event {id_or_prefix!r} is: {', '.join(ids)}. Give more of the id."
            raise InvalidInput("ST418", message, prefix=id_or_prefix, ids=ids)
        return found[0]

    def role(self, app: str, timeline: str, name: RoleName) -> Role | None:
        """Who has this role, with the epoch to expect when changing it; None when nobody ever had it (epoch 0)."""
        return next((role for role in self.roles(app, timeline) if role.role == name), None)

    def roles(self, app: str, timeline: str) -> list[Role]:
        """Every role that was ever given, sorted by name, in one consistent read."""
        query = where(select(ROLE), {ROLE.c.app: app, ROLE.c.timeline: timeline}).order_by(ROLE.c.role)
        return [as_role(row) for row in self._all(query)]

    def lease(self, app: str) -> Lease | None:
        """Who runs the app's loop, and what the loop remembers; None when nobody ever did."""
        row = next(iter(self._all(where(select(LEASE), {LEASE.c.app: app}))), None)
        return None if row is None else as_lease(row)

    def take(self, app: str, *, owner: str, expect_epoch: int, at: datetime) -> Lease:
        """Takes the lease of an app's loop, if it still has the epoch that was read (0: nobody ever had it).

        What the loop remembers stays. From now on writes under an older epoch are refused.

        Raises:
            Conflict: ST801, somebody else took it meanwhile.
        """
        mine = Lease(app=app, owner=owner, epoch=expect_epoch + 1, state={}, at=utc("at", at))
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(HeadMovedError), self._database.write("take the lease of a loop") as connection:
                take(connection, mine)
                break
        found = self.lease(app)
        if found is None or (found.owner, found.epoch) != (owner, mine.epoch):
            raise Unavailable("ST419", f"Can't take the lease of {app}'s loop: other writers came first. Try again.")
        return found

    def refs(
        self,
        app: str | None = None,
        kind: str | None = None,
        name: str | None = None,
        timeline: str | None = None,
    ) -> list[StoredRef]:
        """The references that pass every given filter, oldest first."""
        columns = REF.c
        filters = {columns.app: app, columns.kind: kind, columns.name: name, columns.timeline: timeline}
        return [as_ref(row) for row in self._all(where(select(REF), filters).order_by(columns.seq, columns.position))]

    def ref(self, kind: str, name: str, app: str | None = None, timeline: str | None = None) -> StoredRef | None:
        """The newest reference of that kind and name, or None. Without a timeline, replays count too."""
        columns = REF.c
        filters = {columns.app: app, columns.kind: kind, columns.name: name, columns.timeline: timeline}
        query = where(select(REF), filters).order_by(columns.seq.desc(), columns.position.desc()).limit(1)
        return next((as_ref(row) for row in self._all(query)), None)

    def apps(self) -> list[str]:
        """The apps that have events, sorted."""
        return sorted(row.app for row in self._all(select(EVENT.c.app).distinct()))

    def timelines(self, app: str) -> list[str]:
        """The timelines of an app, sorted."""
        query = select(EVENT.c.timeline).where(EVENT.c.app == app).distinct()
        return sorted(row.timeline for row in self._all(query))

    def select(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """The rows of a query on the tables of `store/chain.py`; `store/browse.py` has those that page through many."""
        return self._all(query)

    def verify(self) -> list[str]:
        """Walks the whole chain; one sentence for each thing that does not hold, none when all does.

        It finds a changed, removed or inserted event, a changed reference, and a role that no event explains.
        Limit: whoever can write the file can also write a whole new chain; a hash kept elsewhere would tell.
        """
        with self._database.read("verify the ledger") as connection:
            return list(broken_links(connection))

    def close(self) -> None:
        """Gives back every connection. The ledger may be used again; it then connects anew."""
        self._database.close()

    def _migrate(self) -> None:
        with self._database.read("read the ledger's schema version") as connection:
            if schema_version(connection) == LATEST:
                return
        for _ in range(_ATTEMPTS):
            with (
                contextlib.suppress(_RacedError),
                self._database.write("bring the ledger to this version") as connection,
            ):
                try:
                    if not migrate_once(connection):
                        return
                except (IntegrityError, ProgrammingError) as exc:
                    # Postgres: another process made the same table at this moment. Look again at what is missing.
                    raise _RacedError from exc
        message = f"Can't bring the ledger to schema version {LATEST}. Close other users of it, then try again."
        raise Unavailable("ST419", message, known=LATEST)

    def _all(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with self._database.read("read the ledger") as connection:
            return connection.execute(query).all()


class _RacedError(Exception):
    """Another process migrates at the same time."""


def _no_event(wanted: str) -> NotFound:
    message = f"No event whose id begins with {wanted[:40]!r}. `staytrue log` lists the events with their ids."
    return NotFound("ST417", message, prefix=wanted[:40])
