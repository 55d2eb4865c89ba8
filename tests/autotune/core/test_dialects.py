"""Facts about single kinds of databases that the suite for all of them does not try."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from autotune.core.errors import DatabaseUnreachableError
from autotune.core.store import dialects
from autotune.service.jobs import JobDatabase


class TestSqliteFile:
    @pytest.fixture
    def writer(self, tmp_path):
        """Another program that has begun to write an empty file, without a write-ahead log."""
        path = tmp_path / "jobs.sqlite"
        connect = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        with closing(connect) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    def test_waits_for_one_that_writes_before_the_write_ahead_log(self, writer, tmp_path):
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(JobDatabase, tmp_path / "jobs.sqlite")
            with pytest.raises(TimeoutError):
                opening.result(timeout=0.5)
            writer.execute("ROLLBACK")
            with opening.result(timeout=30) as store, store.transaction() as connection:
                assert store.dialect.version(connection) == store.schema
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"

    def test_does_not_wait_for_ever(self, writer, tmp_path, monkeypatch):
        monkeypatch.setattr(dialects, "_BUSY_S", 0.2)
        with pytest.raises(DatabaseUnreachableError, match="busy for too long"):
            JobDatabase(tmp_path / "jobs.sqlite")
        assert writer.in_transaction
