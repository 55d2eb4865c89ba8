"""What only a SQLite file can suffer: damage, an older version, a full disk."""

import re
import sqlite3

import pytest

from autotune.core.errors import DatabaseError, StorageError
from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase
from tests.profiler.points import FINGERPRINT, point


@pytest.fixture
def database(sqlite_database):
    return sqlite_database


def test_a_changed_value_is_found(database):
    database.add(database.start_run(FINGERPRINT, "test"), [point(16), point(32)])
    database.close()
    with sqlite3.connect(database.address) as raw:
        raw.execute("UPDATE measurement SET latency_s = latency_s * 2 WHERE rank = 32")
    assert any("sha256" in problem for problem in find_problems(database))


def test_one_flipped_bit_is_found(database):
    database.add(
        database.start_run(FINGERPRINT, "test"), [point(rank) for rank in range(16, 320, 16)]
    )
    database.close()
    with sqlite3.connect(database.address) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(database.address.read_bytes())
    position = data.index(b"2026-01-01T00:00:00+00:00")
    data[position + 3] ^= 1
    database.address.write_bytes(bytes(data))
    with LatencyDatabase(database.address) as again:
        assert find_problems(again) != []


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"x" * 4096]
)
def test_a_corrupted_file_is_refused(tmp_path, content):
    path = tmp_path / "latency.sqlite"
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match="damaged"):
        LatencyDatabase(path)
    assert path.read_bytes() == content


def test_a_database_of_the_first_version_is_taken_over(database):
    """Version 1 had no `kind`: every row was a single layer."""
    rows = [point(rank) for rank in (0, 16)]
    database.add(database.start_run(FINGERPRINT, "test"), rows)
    database.close()
    with sqlite3.connect(database.address) as raw:
        (made,) = raw.execute("SELECT sql FROM sqlite_master WHERE name='measurement'").fetchone()
        old = made.replace("kind TEXT NOT NULL, ", "").replace("kind, ", "")
        old = re.sub(r"\s*kind TEXT NOT NULL,", "", old)
        for table in ("quantiles", "samples", "quarantine", "source", "clocks"):
            raw.execute(f"DROP TABLE {table}")
        raw.execute("ALTER TABLE measurement RENAME TO newer")
        raw.execute(old)
        names = [r[1] for r in raw.execute("PRAGMA table_info(measurement)")]
        assert "kind" not in names
        columns = ", ".join(names)
        raw.execute(f"INSERT INTO measurement SELECT {columns} FROM newer")
        raw.execute("DROP TABLE newer")
        raw.execute("PRAGMA user_version = 1")
    with LatencyDatabase(database.address) as again:
        assert again.measurements(FINGERPRINT.id) == rows
        assert find_problems(again) == []


def test_a_database_from_before_energy_was_counted_is_taken_over(database):
    rows = [point(rank) for rank in (0, 16)]
    database.add(database.start_run(FINGERPRINT, "test"), rows)
    database.close()
    with sqlite3.connect(database.address) as raw:
        (made,) = raw.execute("SELECT sql FROM sqlite_master WHERE name='measurement'").fetchone()
        for name in ("energy_j", "power_w"):
            made = re.sub(rf"\s*{name} REAL,", "", made)
            made = re.sub(rf"\s*CONSTRAINT finite_{name} CHECK \(.*?\), ?\n", "\n", made)
        assert "energy" not in made
        raw.execute("ALTER TABLE measurement RENAME TO newer")
        raw.execute(made)
        columns = ", ".join(r[1] for r in raw.execute("PRAGMA table_info(measurement)"))
        raw.execute(f"INSERT INTO measurement SELECT {columns} FROM newer")
        raw.execute("DROP TABLE newer")
        raw.execute("PRAGMA user_version = 5")
    with LatencyDatabase(database.address) as again:
        assert again.measurements(FINGERPRINT.id) == rows
        assert find_problems(again) == []
        counted = point(32, energy_j=0.1, power_w=300.0)
        again.add(again.start_run(FINGERPRINT, "test"), [counted])
        assert again.measurements(FINGERPRINT.id) == [*rows, counted]
        with pytest.raises(DatabaseError):
            again.add(again.start_run(FINGERPRINT, "test"), [point(64, energy_j=-1.0)])


def test_a_newer_schema_is_refused(database):
    database.close()
    with sqlite3.connect(database.address) as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(DatabaseError, match=r"version 99.*upgrade"):
        LatencyDatabase(database.address)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"cannot write.*another file for the latency database"):
        LatencyDatabase(tmp_path / "file" / "latency.sqlite")


def test_a_full_database_loses_no_committed_row(database):
    run = database.start_run(FINGERPRINT, "test")
    database.add(run, [point(16)])
    with database._engine.connect() as connection:
        # SQLite's own limit gives the error of a full disk.
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        pages = connection.exec_driver_sql("PRAGMA max_page_count").scalar()
    full = LatencyDatabase(database.address)
    from sqlalchemy import event

    event.listen(
        full._engine,
        "connect",
        lambda c, _r: c.execute(f"PRAGMA max_page_count = {pages}"),
    )
    full._engine.dispose()
    with pytest.raises(StorageError, match="no space left"):
        for i in range(100):
            full.add(run, [point(32 + i, error="x" * 4000)])
    assert database.measurements(FINGERPRINT.id) == [point(16)]
    assert find_problems(database) == []


def test_verify_names_a_changed_fingerprint_and_writes_nothing(database, cli):
    database.add(database.start_run(FINGERPRINT, "test"), [point(16, ratio=90.0)])
    database.close()
    with sqlite3.connect(database.address) as raw:
        raw.execute("UPDATE fingerprint SET record = substr(record, 2)")
    done = cli("db", "verify", "--db", database.address)
    assert done.returncode == 1
    assert "does not match its id" in done.stdout
    assert "quarantine" not in done.stdout
    assert "Traceback" not in done.stderr
    with sqlite3.connect(database.address) as raw:
        assert raw.execute("SELECT count(*) FROM quarantine").fetchone() == (0,)
