"""The dialect of PostgreSQL servers, whose databases many machines share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql

from autotune.core.errors import (
    AutotuneError,
    DatabaseError,
    DatabaseUnreachableError,
    StorageError,
    UsageError,
)
from autotune.core.store.dialects import POOL, Dialect

_MIGRATION_LOCK = 0x6175746F


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
            return sa.create_engine(url, pool_pre_ping=True, **POOL)
        except exc.ArgumentError as error:
            raise UsageError(f"{self.address}: {error}") from error
        except ImportError as error:
            raise UsageError(
                f"{self.address} needs psycopg: pip install 'lowrank-autotune[postgres]'"
            ) from error

    def check_place(self) -> None:
        """The server keeps its files where they are."""

    def check_owner(self, own_table: str) -> None:
        """Nothing to refuse: the database of a server is shared by several programs."""
        del own_table

    def hold(self, key: str, engine: sa.Engine) -> Callable[[], None] | None:
        """By an advisory lock of a connection of its own."""
        number = int(hashlib.sha256(key.encode()).hexdigest()[:15], 16)
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        taken = sa.select(sa.func.pg_try_advisory_lock(number))
        if connection.execute(taken).scalar():

            def release() -> None:
                connection.invalidate()  # the lock ends with the connection, not in the pool
                connection.close()

            return release
        connection.close()
        return None

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
