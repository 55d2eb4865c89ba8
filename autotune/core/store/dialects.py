"""What differs between databases: SQLite files and PostgreSQL servers."""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

from autotune.core.errors import (
    AutotuneError,
    DatabaseError,
    DatabaseUnreachableError,
    StorageError,
    UsageError,
)
from autotune.core.files import make_folder
from autotune.core.types import Address

_MIGRATION_LOCK = 0x6175746F
_BUSY_S = 30.0
# As many as threads may ask at once; those beyond what is kept are opened anew each time.
_POOL = {"pool_size": 20, "max_overflow": 45}


class Dialect(ABC):
    """One kind of database.

    Contract:
    - `engine()` connects; every transaction sees what was committed before it took its lock.
    - `version` and `set_version` keep the number of migrations done; 0 in an empty database.
      `begin_migration` lets one program at a time make the next ones.
    - `translate` turns an error of the driver into one of ours, which names the address.
    """

    def __init__(self, address: Address, what: str) -> None:
        self.address = address
        self.what = what

    @property
    def shown(self) -> str:
        """The address as messages may show it."""
        return str(self.address)

    @abstractmethod
    def engine(self) -> sa.Engine:
        """A new SQLAlchemy engine for the address."""

    @abstractmethod
    def version(self, connection: sa.Connection) -> int:
        """How many migrations the database has had."""

    @abstractmethod
    def begin_migration(self, connection: sa.Connection) -> int:
        """Wait until no other program migrates; migrations done then."""

    @abstractmethod
    def set_version(self, connection: sa.Connection, version: int) -> None:
        """Note that migrations up to `version` are done."""

    @abstractmethod
    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An insert that knows `on_conflict_do_update`."""

    @abstractmethod
    def now(self) -> sa.ColumnElement[float]:
        """The database's own clock in seconds since 1970, which all its clients share."""

    @abstractmethod
    def problems(self, connection: sa.Connection) -> list[str]:
        """What the database's own check finds."""

    @abstractmethod
    def translate(self, error: exc.DBAPIError) -> AutotuneError:
        """The error as one of ours."""


class SqliteFile(Dialect):
    """A file, STRICT tables, write-ahead log; commits survive a killed process."""

    def engine(self) -> sa.Engine:
        """Creates the folder; the file comes with the first transaction."""
        path = Path(self.address)
        make_folder(path.parent, f"give another file for the {self.what}")
        engine = sa.create_engine(f"sqlite:///{path}", **_POOL)
        sa.event.listen(engine, "connect", _configure)
        return engine

    def version(self, connection: sa.Connection) -> int:
        """SQLite keeps a number for its users in the header."""
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar() or 0)

    def begin_migration(self, connection: sa.Connection) -> int:
        """Take the file's write lock, which the driver itself would not take before a DDL."""
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return self.version(connection)

    def set_version(self, connection: sa.Connection, version: int) -> None:
        """In the header, within the transaction."""
        connection.exec_driver_sql(f"PRAGMA user_version={version}")

    def insert(self, table: sa.Table) -> sqlite.Insert:
        """An INSERT that knows SQLite's `ON CONFLICT` clauses."""
        return sqlite.insert(table)

    def now(self) -> sa.ColumnElement[float]:
        """Seconds since 1970 by the clock of the database, from the Julian day."""
        return sa.literal_column("(julianday('now') - 2440587.5) * 86400.0", sa.Double())

    def problems(self, connection: sa.Connection) -> list[str]:
        """Pages, indexes and references that do not fit together."""
        lines = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
        lost = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        lines += [f"{row[0]}: a row refers to one of {row[2]} that is not there" for row in lost]
        return [line for line in lines if line != "ok"]

    def translate(self, error: exc.DBAPIError) -> AutotuneError:
        """A full disk, a file that cannot be opened, a refused row, or damage."""
        text = str(error.orig)
        if isinstance(error, exc.IntegrityError):
            return DatabaseError(f"{self.address} refuses the row: {text}")
        if "locked" in text:
            return DatabaseUnreachableError(f"{self.address} was busy for too long ({text})")
        if "full" in text:
            return StorageError(
                f"no space left while writing {self.address}; free some space and run the same "
                "command again, it continues where it stopped"
            )
        if "readonly" in text or "unable to open" in text:
            return StorageError(
                f"cannot write {self.address} ({text}); give another file for the {self.what}"
            )
        return DatabaseError(
            f"{self.address} is damaged or no {self.what} ({text}); move it away, or restore it "
            "from a backup or with `autotune db import` from an export"
        )


class PostgresServer(Dialect):
    """A database of a PostgreSQL server, shared by many machines; needs psycopg."""

    def engine(self) -> sa.Engine:
        """Connects when first used.

        Raises:
            UsageError: the address cannot be read, or psycopg is not installed.
        """
        try:
            url = sa.make_url(str(self.address)).set(drivername="postgresql+psycopg")
            # A server that was restarted has closed connections that the pool still holds.
            return sa.create_engine(url, pool_pre_ping=True, **_POOL)
        except exc.ArgumentError as error:
            raise UsageError(f"{self.address}: {error}") from error
        except ImportError as error:
            raise UsageError(
                f"{self.address} needs psycopg: pip install 'lowrank-autotune[postgres]'"
            ) from error

    def version(self, connection: sa.Connection) -> int:
        """In a table of one row, under a lock that lasts as long as the transaction."""
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        made = f"CREATE TABLE IF NOT EXISTS {self._versions} (number INTEGER)"
        connection.exec_driver_sql(made)
        found = connection.exec_driver_sql(f"SELECT max(number) FROM {self._versions}").scalar()  # noqa: S608
        return int(found or 0)

    def begin_migration(self, connection: sa.Connection) -> int:
        """The version; reading it took the lock already."""
        return self.version(connection)

    def set_version(self, connection: sa.Connection, version: int) -> None:
        """Replace the only row of the table of versions."""
        connection.exec_driver_sql(f"DELETE FROM {self._versions}")  # noqa: S608
        insert = sa.text(f"INSERT INTO {self._versions} VALUES (:number)")  # noqa: S608
        connection.execute(insert, {"number": version})

    @property
    def _versions(self) -> str:
        """The first kind of database that there was keeps the name it has."""
        first = self.what == "latency database"
        return "schema_version" if first else f"{self.what.replace(' ', '_')}_version"

    def insert(self, table: sa.Table) -> postgresql.Insert:
        """An INSERT that knows PostgreSQL's `ON CONFLICT` clauses."""
        return postgresql.insert(table)

    def now(self) -> sa.ColumnElement[float]:
        """The wall clock, not the start of the transaction."""
        return sa.literal_column("extract(epoch from clock_timestamp())::float8", sa.Double())

    def problems(self, connection: sa.Connection) -> list[str]:
        """The server checks its pages and references itself."""
        del connection
        return []

    def translate(self, error: exc.DBAPIError) -> AutotuneError:
        """A full disk, a server that is not there, or a refused row."""
        text = str(error.orig).strip()
        if "No space left" in text or "could not extend file" in text:
            return StorageError(f"no space left on the server of {self.shown} ({text})")
        if isinstance(error, exc.OperationalError) or error.connection_invalidated:
            return DatabaseUnreachableError(
                f"{self.shown} does not answer ({text}); check its address and that it runs"
            )
        return DatabaseError(f"{self.shown} refuses the row: {text}")

    @property
    def shown(self) -> str:
        """The address without a password."""
        return sa.make_url(str(self.address)).render_as_string(hide_password=True)


def dialect_of(address: Address, what: str) -> Dialect:
    """The dialect that an address is of.

    Raises:
        UsageError: a URL of another kind of database.
    """
    if isinstance(address, Path) or "://" not in address:
        return SqliteFile(Path(address), what)
    if address.partition("://")[0] in ("postgresql", "postgres", "postgresql+psycopg"):
        return PostgresServer(address.replace("postgres://", "postgresql://", 1), what)
    raise UsageError(f"{address}: a {what} is a SQLite file, or postgresql://user@host/name")


def _configure(connection: sqlite3.Connection, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={round(_BUSY_S * 1000)}")
    cursor.execute("PRAGMA foreign_keys=ON")
    _write_ahead(cursor)
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch the file to the write-ahead log.

    SQLite does not wait (`busy_timeout`) for a program that is writing a file of the old mode: of
    two that held a lock and wait for the other's neither would go on. So the waiting is done here.
    """
    until_s = time.monotonic() + _BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until_s:
                raise
            time.sleep(0.02)
