"""A look into a database says no only where opening it would find nothing."""

import sqlite3

import pytest

from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.peek import may_hold
from tests.profiler.points import FINGERPRINT, point


def test_only_devices_that_are_there_may_be_held(tmp_path):
    path = tmp_path / "a folder #1" / "latency.sqlite"
    assert not may_hold(path, "cpu")
    assert not path.parent.exists()
    with LatencyDatabase(path) as database:
        assert not may_hold(path, "cpu")
        database.add(database.start_run(FINGERPRINT, "test"), [point(16)])
        assert may_hold(path, "cpu")
        assert not may_hold(path, "h200-sxm")
    assert may_hold(path, "cpu")


@pytest.mark.parametrize(
    "change", ["PRAGMA user_version = 99", "PRAGMA user_version = 3", "DROP TABLE fingerprint"]
)
def test_what_is_to_be_migrated_or_refused_is_left_to_the_store(tmp_path, change):
    path = tmp_path / "latency.sqlite"
    LatencyDatabase(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute(change)
    raw.close()
    assert may_hold(path, "h200-sxm")


def test_servers_and_other_files_are_left_to_the_store(tmp_path):
    assert may_hold("postgresql://nobody@localhost/none", "h200-sxm")
    (tmp_path / "text.sqlite").write_text("no database at all, but long enough to be one" * 9)
    assert may_hold(tmp_path / "text.sqlite", "h200-sxm")
