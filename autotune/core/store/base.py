"""What every database of ours has in common: an address, transactions, numbered migrations."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import sqlalchemy as sa
from sqlalchemy import exc

from autotune.core.errors import DatabaseError, StorageError
from autotune.core.store.dialects import Dialect, dialect_of
from autotune.core.types import Address

_LOG = logging.getLogger(__name__)
_LOOK_S = 0.1


class Store(ABC):
    """One database, at a path (SQLite) or a URL (PostgreSQL). Use as a context manager.

    `what` names it in messages; where several kinds live on one PostgreSQL server, their versions
    are kept under `what` too. `schema` is the version that this program writes. `own_table` is one
    that every version has: a file with other tables alone is another program's and stays as it is.

    Contract (`autotune.testing.suites.store` checks it):
    - To open a database migrates it to `schema`. Any number of programs may open an empty one at
      the same time: one of them makes the tables, the others wait.
    - A transaction is kept whole or not at all. Whatever begins after its end sees it.
    - An exception takes the transaction back and reaches the caller: errors of the driver as one of
      ours that names the address, all others unchanged.
    - Threads may share a store; each transaction has a connection of its own. Processes may not
      share one across a fork.
    - `close` may be called twice, and is not final: whoever uses the store afterwards connects
      again.

    Raises (any method):
        DatabaseError: not such a database, damaged, unreachable, or written by a newer version.
        StorageError: the disk is full, or the file cannot be opened or written.
    """

    what: str
    schema: int
    own_table: str = ""

    def __init__(self, address: Address) -> None:
        self.dialect: Dialect = dialect_of(address, self.what)
        self.address = address
        if self.own_table:
            self.dialect.check_owner(self.own_table)
        self._engine = self.dialect.engine()
        try:
            self._bring_up_to_date()
        except BaseException:
            self.close()
            raise

    def _bring_up_to_date(self) -> None:
        with self.transaction() as connection:
            found = self.dialect.version(connection)
            if found < self.schema:  # another program may migrate it at this moment
                found = self.dialect.begin_migration(connection)
            if found > self.schema:
                raise DatabaseError(
                    f"{self.dialect.shown} has schema version {found}, this program knows up to "
                    f"{self.schema}; upgrade lowrank-autotune or give another {self.what}"
                )
            if found < self.schema:
                self.migrate(connection, found)
                self.dialect.set_version(connection, self.schema)

    @abstractmethod
    def migrate(self, connection: sa.Connection, found: int) -> None:
        """Take the tables from version `found` to `schema`; 0 is an empty database."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections to the database."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction, committed at the end.

        Raises:
            DatabaseError: the database was removed or replaced, is damaged, or refuses a row.
            DatabaseUnreachableError: it was busy for too long, or its server does not answer.
            StorageError: the file cannot be written.
        """
        self.dialect.check_place()
        try:
            with self._engine.begin() as connection:
                yield connection
        except exc.DBAPIError as error:
            raise self.dialect.translate(error) from error
        self.dialect.check_place()

    @contextmanager
    def reserve(self, key: str, *, limit_s: float) -> Iterator[None]:
        """Be the only user of `key` among the programs that use this database.

        Waits for the one that has it. After `limit_s` it goes on without: to have a key keeps
        others from doing the same work, and is needed for nothing else.
        """
        until_s = time.monotonic() + limit_s
        release, told = None, False
        try:
            while (release := self.dialect.hold(key, self._engine)) is None:
                if time.monotonic() >= until_s:
                    break
                if not told:
                    told = True
                    _LOG.warning("waiting for another program that uses %s", self.dialect.shown)
                time.sleep(_LOOK_S)
        except (exc.DBAPIError, StorageError):
            pass  # the transaction that follows has the sentence, if it fails as well
        try:
            yield
        finally:
            if release is not None:
                release()
