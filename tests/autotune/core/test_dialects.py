"""Facts about single kinds of databases that the suite for all of them does not try."""

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from autotune.core.errors import DatabaseError, DatabaseUnreachableError
from autotune.core.store import dialects
from autotune.profiler.database.latency import LatencyDatabase
from autotune.service.jobs import JobDatabase
from tests.autotune.service.conftest import jobs

__all__ = ["jobs"]


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

    @pytest.mark.parametrize("kind", [JobDatabase, LatencyDatabase])
    @pytest.mark.parametrize("version", [0, 1])
    def test_another_programs_file_stays_as_it_is(self, kind, version, tmp_path):
        path = tmp_path / "history.sqlite"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE page (address TEXT)")
            connection.execute(f"PRAGMA user_version={version}")
        kept = path.read_bytes()
        with pytest.raises(DatabaseError, match=r"belongs to another program: .* tables page;"):
            kind(path)
        assert path.read_bytes() == kept
        assert list(tmp_path.iterdir()) == [path]

    def test_each_kind_refuses_the_other(self, tmp_path):
        JobDatabase(tmp_path / "jobs.sqlite").close()
        with pytest.raises(DatabaseError, match="give another file for the latency database"):
            LatencyDatabase(tmp_path / "jobs.sqlite")

    @pytest.mark.parametrize("change", ["removed", "replaced", "folder removed"])
    def test_a_file_that_is_gone_is_an_error_and_no_silence(self, tmp_path, change):
        """SQLite goes on in the file that it has open, and all of that is lost."""
        path = tmp_path / "data" / "jobs.sqlite"
        with JobDatabase(path) as store:
            store.submit("tune", {"budget": {}}, device="cpu")
            kept = path.read_bytes()
            if change == "folder removed":
                shutil.rmtree(path.parent)
            else:
                path.unlink()
            if change == "replaced":
                path.write_bytes(kept)
            for write in (
                lambda: store.submit("tune", {"budget": {}}, device="cpu"),
                store.counts,
                lambda: store.claim("a"),
            ):
                with pytest.raises(DatabaseError, match="was removed or replaced while in use"):
                    write()

    def test_a_file_that_is_removed_within_a_transaction(self, tmp_path):
        path = tmp_path / "jobs.sqlite"
        with JobDatabase(path) as store, pytest.raises(DatabaseError, match="removed or replaced"):
            with store.transaction():
                path.unlink()

    def test_a_file_that_was_moved_and_put_back(self, tmp_path):
        path = tmp_path / "jobs.sqlite"
        with JobDatabase(path) as store:
            path.rename(tmp_path / "aside")
            with pytest.raises(DatabaseError):
                store.counts()
            (tmp_path / "aside").rename(path)
            assert store.counts()["queued"] == 0


def test_a_key_is_reserved_by_one_at_a_time(jobs):
    """Whatever the database: the second waits, and goes on when the first is done."""
    order = []

    def second():
        with jobs.reserve("key", limit_s=60.0):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with jobs.reserve("key", limit_s=60.0):
            waiting = pool.submit(second)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            with jobs.reserve("other", limit_s=60.0):
                order.append("first")
        waiting.result(timeout=60)
    assert order == ["first", "second"]


def test_a_key_that_is_never_free_is_not_waited_for_for_ever(jobs):
    with jobs.reserve("key", limit_s=60.0), jobs.reserve("key", limit_s=0.2):
        pass
    with jobs.reserve("key", limit_s=0.0):
        pass
