"""Migrations: the ledger's tables as they came to be, forwards only: what stands here is never edited, only added to.

The SQL is what SQLite and Postgres both understand; each migration is one transaction that also records its number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Column, Integer, MetaData, Table, func, insert, inspect, select

from staytrue.errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["GENESIS", "LATEST", "MIGRATIONS", "migrate_once", "schema_version"]

GENESIS = "0" * 64
"""What the first event names as the hash before it."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    # 1: events with their references, the head of their chain, and the roles that they change.
    (
        """CREATE TABLE event (
            seq BIGINT NOT NULL PRIMARY KEY, id TEXT NOT NULL UNIQUE,
            app TEXT NOT NULL, timeline TEXT NOT NULL, key TEXT NOT NULL CHECK (key <> ''),
            at BIGINT NOT NULL, recorded_at BIGINT NOT NULL, kind TEXT NOT NULL, sentence TEXT NOT NULL,
            body TEXT NOT NULL, roles TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL,
            UNIQUE (app, timeline, key))""",
        "CREATE INDEX event_by_kind ON event (app, timeline, kind, seq)",
        """CREATE TABLE ref (
            seq BIGINT NOT NULL, position BIGINT NOT NULL, app TEXT NOT NULL, timeline TEXT NOT NULL,
            kind TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, at BIGINT NOT NULL,
            PRIMARY KEY (seq, position))""",
        "CREATE INDEX ref_by_name ON ref (app, kind, name, seq)",
        """CREATE TABLE role (
            app TEXT NOT NULL, timeline TEXT NOT NULL,
            role TEXT NOT NULL CHECK (role IN ('champion', 'challenger', 'previous')),
            release TEXT, share DOUBLE PRECISION NOT NULL CHECK (share >= 0 AND share <= 1),
            epoch BIGINT NOT NULL CHECK (epoch > 0),
            PRIMARY KEY (app, timeline, role))""",
        # One row: whoever appends changes it by compare-and-swap, which puts all writers in one order.
        "CREATE TABLE head (id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1), seq BIGINT NOT NULL, hash TEXT NOT NULL)",
        f"INSERT INTO head (id, seq, hash) VALUES (1, 0, '{GENESIS}')",  # noqa: S608 - a constant of ours
    ),
    # 2: who runs an app's loop, and what the loop remembers.
    (
        """CREATE TABLE lease (
            app TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL CHECK (owner <> ''),
            epoch BIGINT NOT NULL CHECK (epoch > 0), state TEXT NOT NULL, at BIGINT NOT NULL)""",
    ),
)

LATEST = len(MIGRATIONS)
"""The schema version that this release of staytrue writes."""

_schema_version = Table("schema_version", MetaData(), Column("version", Integer, primary_key=True, autoincrement=False))


def schema_version(connection: Connection) -> int:
    """How many migrations the database has seen; 0 when it is new.

    Raises:
        InvalidInput: ST413, the database was written by a newer staytrue.
    """
    if not inspect(connection).has_table("schema_version"):
        return 0
    version = connection.execute(select(func.max(_schema_version.c.version))).scalar() or 0
    if version > LATEST:
        message = (
            f"Can't open this ledger: its schema is version {version}, this staytrue knows versions up to {LATEST}. "
            "A newer staytrue wrote it: install that one (`pip install --upgrade staytrue`)."
        )
        raise InvalidInput("ST413", message, version=version, known=LATEST)
    return int(version)


def migrate_once(connection: Connection) -> bool:
    """Applies the first migration that the database lacks, in the caller's transaction; False when it lacks none."""
    version = schema_version(connection)
    if version == LATEST:
        return False
    if version == 0:
        _schema_version.create(connection)
    for statement in MIGRATIONS[version]:
        connection.exec_driver_sql(statement)
    connection.execute(insert(_schema_version).values(version=version + 1))
    return True
