"""The database under the ledger: SQLite set up so that a commit survives a power cut; a driver's errors as ours."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import weakref
from typing import TYPE_CHECKING

from sqlalchemy import URL, create_engine, make_url
from sqlalchemy import event as hooks
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from staytrue.errors import Corrupt, InvalidInput, StaytrueError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

__all__ = ["Database"]

_BUSY_TIMEOUT_S = 30.0


class Database:
    """Transactions on a SQLAlchemy URL; a driver's error leaves as ours.

    Raises:
        InvalidInput: ST420, no such kind of database, or its driver is not installed.
    """

    def __init__(self, url: str | URL) -> None:
        try:
            self.url = make_url(url)
            if _is_sqlite(self.url):
                query = {"timeout": f"{_BUSY_TIMEOUT_S}", **self.url.query}
                self.url = self.url.set(query=query)
            self._engine: Engine = create_engine(self.url)
        except (ArgumentError, ImportError) as exc:
            shown = url.render_as_string() if isinstance(url, URL) else url
            hint = "Give a path, or a postgresql+psycopg:// URL with psycopg installed."
            message = f"Can't open the ledger {shown!r}: {exc}. {hint}"
            raise InvalidInput("ST420", message, url=shown) from exc
        if _is_sqlite(self.url):
            hooks.listen(self._engine, "connect", _prepare_sqlite)
            hooks.listen(self._engine, "begin", _begin_sqlite)
        self._writer: Engine = self._engine.execution_options(writes=True)
        # Who forgets to close gets his connections closed all the same: from 3.13 on Python warns of those left open.
        weakref.finalize(self, self._engine.dispose)

    @contextlib.contextmanager
    def read(self, doing: str) -> Iterator[Connection]:
        """A transaction that sees one state of the database throughout.

        Raises:
            Unavailable: ST410 locked, ST411 disk full or failing, ST419 no answer.    Corrupt: ST412 damaged.
        """
        with _ours(doing, self.url), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self, doing: str) -> Iterator[Connection]:
        """A transaction that writes; committed, and on disk, when the block ends without an error. Raises as `read`."""
        with _ours(doing, self.url), self._writer.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Gives back every connection; the next transaction connects anew."""
        self._engine.dispose()


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Transactions are begun by us (`_begin_sqlite`), not by the driver at the first write: too late for one order.
    connection.isolation_level = None
    for pragma in ("synchronous=FULL", "fullfsync=1", "checkpoint_fullfsync=1"):
        connection.execute(f"PRAGMA {pragma}")
    # SQLite's own wait does not cover this one switch, which two processes may make at once in a new file.
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as exc:
            if _primary(exc) not in _SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its place at once: a read that turns into a write later can be refused for no fault of its own.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


_SQLITE_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_SQLITE_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
_SQLITE_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


def _primary(exc: BaseException | None) -> int:
    """SQLite's result code without its detail bits; 0 for an error of anything else."""
    return int(getattr(exc, "sqlite_errorcode", 0)) & 0xFF


@contextlib.contextmanager
def _ours(doing: str, url: URL) -> Iterator[None]:
    """Turns what SQLAlchemy and its drivers raise into our errors."""
    try:
        yield
    except SQLAlchemyError as exc:
        cause = exc.orig if isinstance(exc, DBAPIError) else exc
        raise _translated(doing, url, cause) from exc
    except sqlite3.Error as exc:
        # From the connect hook: SQLAlchemy passes those on as they are.
        raise _translated(doing, url, exc) from exc


def _translated(doing: str, url: URL, cause: BaseException | None) -> StaytrueError:
    code = _primary(cause)
    where = url.database if _is_sqlite(url) else url.render_as_string()  # without the password
    said = f"Can't {doing} at {where}: {cause}."
    facts = {"doing": doing, "url": where, "reason": str(cause)}
    if code in _SQLITE_BUSY:
        hint = "Another process did not let go of it in time. Wait for it or end it, then try again."
        return Unavailable("ST410", f"{said} {hint}", **facts)
    if code in _SQLITE_DISK:
        hint = "Free some space, check the disk and the rights on the store, then try again."
        return Unavailable("ST411", f"{said} {hint}", **facts)
    if code in _SQLITE_DAMAGED:
        hint = "The file is damaged or no ledger. Stop, keep it, and restore it from a copy."
        return Corrupt("ST412", f"{said} {hint}", **facts)
    return Unavailable("ST419", f"{said} Check that the database answers, then try again.", **facts)
