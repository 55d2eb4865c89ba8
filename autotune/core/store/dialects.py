"""What differs between databases: SQLite files and PostgreSQL servers."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

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

_BUSY_S = 30.0
# As many as threads may ask at once; those beyond what is kept are opened anew each time.
POOL = {"pool_size": 20, "max_overflow": 45}


class Dialect(ABC):
    """One kind of database.

    Contract:
    - `engine()` connects; every transaction sees what was committed before it took its lock.
    - `version` and `set_version` keep the number of migrations done; 0 in an empty database.
      `begin_migration` lets one program at a time make the next ones.
    - `translate` turns an error of the driver into an AutotuneError that names the address.
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
    def check_place(self) -> None:
        """Refuse to go on where the database that was opened is no longer at its address.

        Raises:
            DatabaseError: it was removed or replaced.
        """

    @abstractmethod
    def check_owner(self, own_table: str) -> None:
        """Refuse a file with tables of which none is `own_table`, before anything is written.

        Raises:
            DatabaseError: another program's file.
        """

    @abstractmethod
    def hold(self, key: str, engine: sa.Engine) -> Callable[[], None] | None:
        """Reserve `key` among the programs that use the database; what releases it, or None.

        It is None while another program, or another caller here, holds it. The end of the process
        releases it too.
        """

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
        """An INSERT into `table` that has the method `on_conflict_do_update`."""

    @abstractmethod
    def now(self) -> sa.ColumnElement[float]:
        """The database's own clock in seconds since 1970, which all its clients share."""

    @abstractmethod
    def problems(self, connection: sa.Connection) -> list[str]:
        """Damage that the database's own check finds, a line each; empty if there is none."""

    @abstractmethod
    def translate(self, error: exc.DBAPIError) -> AutotuneError:
        """The driver's error as a DatabaseError or StorageError that names the address."""


class SqliteFile(Dialect):
    """A file, STRICT tables, write-ahead log; commits survive a killed process."""

    _file: tuple[int, int] | None = None

    def engine(self) -> sa.Engine:
        """Creates the folder; the file comes with the first transaction."""
        path = Path(self.address)
        make_folder(path.parent, f"give another file for the {self.what}")
        engine = sa.create_engine(f"sqlite:///{path}", **POOL)
        sa.event.listen(engine, "connect", _configure)
        sa.event.listen(engine, "connect", self._note_file)
        return engine

    def _note_file(self, _connection: sqlite3.Connection, _record: Any) -> None:
        """Which file the first connection opened; a further one may open another of that name."""
        if self._file is None:
            self._file = _identity(Path(self.address))

    def check_place(self) -> None:
        """SQLite goes on in a file that was removed, and all that it writes is lost."""
        if self._file is not None and _identity(Path(self.address)) != self._file:
            raise DatabaseError(
                f"{self.address} was removed or replaced while in use, so what is written to it "
                "would be lost; put the file back, or start again"
            )

    def check_owner(self, own_table: str) -> None:
        """By a connection that reads only: ours would change how the file is written."""
        tables = _tables(Path(self.address))
        if tables and own_table not in tables:
            shown = ", ".join(tables[:3]) + (", …" if len(tables) > 3 else "")
            raise DatabaseError(
                f"{self.address} belongs to another program: it is a SQLite file with the tables "
                f"{shown}; give another file for the {self.what}"
            )

    def hold(self, key: str, engine: sa.Engine) -> Callable[[], None] | None:
        """By a lock on a file beside the database, which stays there."""
        del engine
        path = f"{self.address}-{key}.lock"
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise StorageError(f"cannot write {path} ({error.strerror})") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        return functools.partial(os.close, file)

    def version(self, connection: sa.Connection) -> int:
        """SQLite keeps a number for its users in the header."""
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar() or 0)

    def begin_migration(self, connection: sa.Connection) -> int:
        """Take the file's write lock, which the driver itself would not take before a DDL."""
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return self.version(connection)

    def set_version(self, connection: sa.Connection, version: int) -> None:
        """Write the number to the header, within the transaction."""
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
        """StorageError for a full disk or a file that cannot be opened, else DatabaseError."""
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


def dialect_of(address: Address, what: str) -> Dialect:
    """The dialect that an address is of.

    Raises:
        UsageError: a URL of another kind of database.
    """
    if isinstance(address, Path) or "://" not in address:
        return SqliteFile(Path(address), what)
    from autotune.core.store.postgres import PostgresServer

    if address.partition("://")[0] in ("postgresql", "postgres", "postgresql+psycopg"):
        return PostgresServer(address.replace("postgres://", "postgresql://", 1), what)
    raise UsageError(f"{address}: a {what} is a SQLite file, or postgresql://user@host/name")


def _tables(path: Path) -> list[str]:
    """The names of a file's tables; none where it cannot be read, which opening it will report."""
    if not path.is_file():
        return []
    try:
        address = f"file:{quote(str(path.absolute()))}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_BUSY_S)) as found:
            rows = found.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
            return sorted(str(name) for (name,) in rows)
    except sqlite3.Error:
        return []


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at a path; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


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
