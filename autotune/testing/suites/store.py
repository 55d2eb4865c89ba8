"""Tests of the contract of `autotune.core.store.base.Store`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from autotune.core.errors import AutotuneError, DatabaseError
from autotune.core.store.base import Store

_TABLE = "conformance_suite"
_THREADS = 8


class StoreSuite:
    """Give the fixture `open_store`: every call opens the same, at first empty database.

    The suite makes a table of its own in it.
    """

    @pytest.fixture
    def open_store(self) -> Callable[[], Store]:
        """A function that opens the database under test."""
        raise NotImplementedError("give a fixture named open_store")

    @pytest.fixture
    def store(self, open_store: Callable[[], Store]) -> Iterator[Store]:
        """The database, with an empty table of the suite."""
        with open_store() as store:
            with store.transaction() as connection:
                connection.exec_driver_sql(f"CREATE TABLE {_TABLE} (value INTEGER UNIQUE)")
            yield store

    def test_opening_makes_the_present_version(self, open_store: Callable[[], Store]) -> None:
        """An empty database is taken to `schema`; to open it again changes nothing."""
        for _ in range(2):
            with open_store() as store:
                assert store.what
                with store.transaction() as connection:
                    assert store.dialect.version(connection) == store.schema

    def test_many_may_open_it_at_once(self, open_store: Callable[[], Store]) -> None:
        """Of those that open an empty database at the same time, one makes the tables."""
        with ThreadPoolExecutor(_THREADS) as pool:
            stores = list(pool.map(lambda _: open_store(), range(_THREADS)))
        for store in stores:
            with store.transaction() as connection:
                assert store.dialect.version(connection) == store.schema
            store.close()

    def test_a_newer_version_is_refused(self, open_store: Callable[[], Store]) -> None:
        """A database of a newer schema raises `DatabaseError` that says to upgrade."""
        with open_store() as store:
            with store.transaction() as connection:
                store.dialect.set_version(connection, store.schema + 1)
        with pytest.raises(DatabaseError, match="upgrade"):
            open_store()

    def test_a_transaction_is_seen_by_others(
        self, store: Store, open_store: Callable[[], Store]
    ) -> None:
        """What was committed is seen by everybody who looks afterwards."""
        _add(store, 1)
        with open_store() as other:
            assert _values(other) == [1]

    def test_an_error_takes_the_transaction_back(self, store: Store) -> None:
        """An exception leaves nothing of the transaction, and reaches the caller unchanged."""
        with pytest.raises(ZeroDivisionError):
            with store.transaction() as connection:
                connection.execute(_insert(2))
                _ = 1 / 0
        assert _values(store) == []

    def test_a_refused_row_is_one_of_our_errors(self, store: Store) -> None:
        """Errors of the driver become `AutotuneError`s that name the database; nothing is kept."""
        _add(store, 3)
        with _translated(store):
            with store.transaction() as connection:
                connection.execute(_insert(4))
                connection.execute(_insert(3))
        assert _values(store) == [3]

    def test_a_statement_that_fails_is_one_of_our_errors(self, store: Store) -> None:
        """So do errors of a statement."""
        with _translated(store):
            with store.transaction() as connection:
                connection.exec_driver_sql("SELECT value FROM no_such_table")

    def test_threads_may_share_it(self, store: Store) -> None:
        """Transactions of several threads at the same time: each is kept whole, none is lost."""
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda value: _add(store, value), range(40)))
        assert _values(store) == list(range(40))

    def test_closing_is_not_final(self, store: Store) -> None:
        """`close` may be called twice; whoever uses the store afterwards connects again."""
        _add(store, 5)
        store.close()
        store.close()
        assert _values(store) == [5]

    def test_its_clock_goes_on(self, store: Store) -> None:
        """`dialect.now()` is the database's clock in seconds since 1970, and does not go back."""
        with store.transaction() as connection:
            first, second = (
                float(connection.execute(sa.select(store.dialect.now())).scalar_one())
                for _ in range(2)
            )
        assert 1.7e9 < first <= second


def _insert(value: int) -> sa.TextClause:
    return sa.text(f"INSERT INTO {_TABLE} VALUES ({int(value)})")  # noqa: S608


def _add(store: Store, value: int) -> None:
    with store.transaction() as connection:
        connection.execute(_insert(value))


def _values(store: Store) -> list[int]:
    with store.transaction() as connection:
        rows = connection.exec_driver_sql(f"SELECT value FROM {_TABLE} ORDER BY value")  # noqa: S608
        return [int(row[0]) for row in rows]


@contextmanager
def _translated(store: Store) -> Iterator[None]:
    with pytest.raises(AutotuneError) as caught:
        yield
    assert store.dialect.shown in str(caught.value)
