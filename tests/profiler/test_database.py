"""The database keeps what was measured, once, and knows when it was changed."""

import dataclasses
import re
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from autotune.errors import DatabaseError, RunFolderError, StorageError, UsageError
from autotune.profiler import database as store_module
from autotune.profiler.database import LatencyDatabase
from autotune.profiler.exchange import export_table, import_table, merge
from autotune.profiler.schema import Measurement, kind_of
from autotune.types import Fingerprint

FINGERPRINT = Fingerprint(
    device="cpu", device_name="test", backend="onnxruntime-cpu", dtype="fp32", threads=2
)


def point(rank=16, latency_s=1.2345678901234567e-3, error=None, **changes):
    fine = error is None
    values = {
        "tokens": 128, "in_features": 384, "out_features": 384, "rank": rank, "dtype": "fp32",
        "latency_s": latency_s if fine else None, "dense_latency_s": 2e-3 if fine else None,
        "ratio": 0.6 if fine else None, "ratio_low": 0.59 if fine else None,
        "ratio_high": 0.61 if fine else None, "rounds": 10, "windows": 3, "disturbed_windows": 1,
        "converged": 1, "error": error, "measured_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Measurement(**{**values, **changes})


@pytest.fixture
def database(tmp_path):
    with LatencyDatabase(tmp_path / "db" / "latency.sqlite") as store:
        yield store


def test_points_come_back_bit_equal(database):
    rows = [point(rank) for rank in (0, 16, 32)]
    database.add(database.start_run(FINGERPRINT, "test"), rows)
    assert database.measurements(FINGERPRINT.id) == rows
    assert database.fingerprints() == {FINGERPRINT.id: FINGERPRINT}
    assert database.verify() == []


def test_a_measured_point_is_kept_and_a_failed_one_replaced(database):
    first, second = (database.start_run(FINGERPRINT, "test") for _ in range(2))
    database.add(first, [point(16), point(32, error="crash"), point(48, error="crash")])
    database.add(second, [point(16, latency_s=9.0), point(32), point(48, error="again")])
    rows = {row.rank: row for row in database.measurements(FINGERPRINT.id, errors=True)}
    assert rows[16] == point(16)
    assert rows[32] == point(32)
    assert rows[48].error == "again"
    assert {row.rank for row in database.measurements(FINGERPRINT.id)} == {16, 32}
    assert database.verify() == []


def test_fingerprints_never_mix(database):
    other = dataclasses.replace(FINGERPRINT, threads=1)
    database.add(database.start_run(FINGERPRINT, "a"), [point(latency_s=1e-3)])
    database.add(database.start_run(other, "b"), [point(latency_s=2e-3)])
    assert database.measurements(FINGERPRINT.id)[0].latency_s == 1e-3
    assert database.measurements(other.id)[0].latency_s == 2e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"latency_s": float("nan")}, {"latency_s": float("inf")}, {"latency_s": 0.0},
        {"latency_s": -1e-3}, {"ratio": float("inf")}, {"tokens": 0}, {"rank": -1},
        {"error": "both"}, {"latency_s": None}, {"tokens": "many"},
    ],
)  # fmt: skip
def test_the_schema_refuses_nonsense(database, changes):
    run = database.start_run(FINGERPRINT, "test")
    with pytest.raises(DatabaseError):
        database.add(run, [point(64), dataclasses.replace(point(16), **changes)])
    assert database.measurements(FINGERPRINT.id, errors=True) == []


def test_adding_a_point_does_not_read_the_whole_run(database, monkeypatch):
    """A run of thousands of points stays linear: the seal is a sum."""
    run = database.start_run(FINGERPRINT, "test")
    database.add(run, [point(rank) for rank in range(16, 512, 16)])
    read = []
    original = store_module._rows_like

    def rows_like(*args):
        found = original(*args)
        read.extend(found)
        return found

    monkeypatch.setattr(store_module, "_run_rows", lambda *args: pytest.fail("reads the run"))
    monkeypatch.setattr(store_module, "_rows_like", rows_like)
    database.add(run, [point(600), point(608, error="crash")])
    database.add(run, [point(608), point(16, latency_s=9.0)])
    assert {row["rank"] for row in read} == {600, 608, 16}
    monkeypatch.undo()
    assert database.verify() == []


def test_a_changed_value_is_found(database):
    database.add(database.start_run(FINGERPRINT, "test"), [point(16), point(32)])
    database.close()
    with sqlite3.connect(database.path) as raw:
        raw.execute("UPDATE measurement SET latency_s = latency_s * 2 WHERE rank = 32")
    assert any("sha256" in problem for problem in database.verify())


def test_one_flipped_bit_is_found(database):
    database.add(
        database.start_run(FINGERPRINT, "test"), [point(rank) for rank in range(16, 320, 16)]
    )
    database.close()
    with sqlite3.connect(database.path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(database.path.read_bytes())
    position = data.index(b"2026-01-01T00:00:00+00:00", len(data) // 2)
    data[position + 3] ^= 1
    database.path.write_bytes(bytes(data))
    with LatencyDatabase(database.path) as again:
        assert again.verify() != []


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"x" * 4096]
)
def test_a_corrupted_file_is_refused(tmp_path, content):
    path = tmp_path / "latency.sqlite"
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match="damaged"):
        LatencyDatabase(path)
    assert path.read_bytes() == content


def test_layers_with_one_input_are_points_of_their_own(database):
    shared = "shared:128+128+128"
    rows = [point(16), point(16, kind=shared, latency_s=2e-3)]
    database.add(database.start_run(FINGERPRINT, "test"), rows)
    assert database.measurements(FINGERPRINT.id) == rows
    assert rows[1].shape.parts == (128, 128, 128)
    assert kind_of(rows[1].shape.parts) == shared
    assert rows[0].shape.parts == ()


def test_a_database_of_the_first_version_is_taken_over(database):
    """Version 1 had no `kind`: every row was a single layer."""
    rows = [point(rank) for rank in (0, 16)]
    database.add(database.start_run(FINGERPRINT, "test"), rows)
    database.close()
    with sqlite3.connect(database.path) as raw:
        (made,) = raw.execute("SELECT sql FROM sqlite_master WHERE name='measurement'").fetchone()
        old = made.replace("kind TEXT NOT NULL, ", "").replace("kind, ", "")
        old = re.sub(r"\s*kind TEXT NOT NULL,", "", old)
        raw.execute("ALTER TABLE measurement RENAME TO newer")
        raw.execute(old)
        names = [r[1] for r in raw.execute("PRAGMA table_info(measurement)")]
        assert "kind" not in names
        columns = ", ".join(names)
        raw.execute(f"INSERT INTO measurement SELECT {columns} FROM newer")
        raw.execute("DROP TABLE newer")
        raw.execute("PRAGMA user_version = 1")
    with LatencyDatabase(database.path) as again:
        assert again.measurements(FINGERPRINT.id) == rows
        assert again.verify() == []


def test_a_newer_schema_is_refused(database):
    database.close()
    with sqlite3.connect(database.path) as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(DatabaseError, match=r"version 99.*upgrade"):
        LatencyDatabase(database.path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="cannot"):
        LatencyDatabase(tmp_path / "file" / "latency.sqlite")


def test_a_full_database_loses_no_committed_row(database):
    run = database.start_run(FINGERPRINT, "test")
    database.add(run, [point(16)])
    with database._engine.connect() as connection:
        # SQLite's own limit gives the error of a full disk.
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        pages = connection.exec_driver_sql("PRAGMA max_page_count").scalar()
    full = LatencyDatabase(database.path)
    from sqlalchemy import event

    event.listen(
        full._engine, "connect",
        lambda c, _r: c.execute(f"PRAGMA max_page_count = {pages}"),
    )  # fmt: skip
    full._engine.dispose()
    with pytest.raises(StorageError, match="no space left"):
        for i in range(100):
            full.add(run, [point(32 + i, error="x" * 4000)])
    assert database.measurements(FINGERPRINT.id) == [point(16)]
    assert database.verify() == []


WRITER = """
import sys
from pathlib import Path
from autotune.profiler.database import LatencyDatabase
from tests.profiler.test_database import FINGERPRINT, point
with LatencyDatabase(Path({path!r})) as store:
    run = store.start_run(FINGERPRINT, "writer")
    for rank in range({start}, 400, {step}):
        store.add(run, [point(rank)])
        print(rank, flush=True)
"""


def start_writer(path, start=1, step=1):
    script = textwrap.dedent(WRITER).format(path=str(path), start=start, step=step)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def test_kill_9_loses_no_committed_row(database):
    for round_number in range(5):
        writer = start_writer(database.path)
        said = []
        for line in writer.stdout:
            said.append(int(line))
            if len(said) == 3 + 5 * round_number:
                writer.kill()
                break
        writer.wait()
        stored = {row.rank for row in database.measurements(FINGERPRINT.id)}
        assert set(said) <= stored
        assert database.verify() == []


def test_eight_writers_at_once(database):
    writers = [start_writer(database.path, start=1 + i, step=8) for i in range(8)]
    for writer in writers:
        writer.communicate(timeout=300)
        assert writer.returncode == 0
    rows = database.measurements(FINGERPRINT.id)
    assert [row.rank for row in rows] == list(range(1, 400))
    assert database.verify() == []


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_export_and_import_are_exact(database, tmp_path, suffix):
    rows = [point(16), point(32, error="crash, with a comma")]
    database.add(database.start_run(FINGERPRINT, "test"), rows)
    path = tmp_path / f"table{suffix}"
    assert export_table(database, path) == 2
    with LatencyDatabase(tmp_path / "other.sqlite") as other:
        assert import_table(other, path) == 2
        assert other.measurements(FINGERPRINT.id, errors=True) == rows
        assert other.fingerprints() == database.fingerprints()


def test_export_refuses_other_formats_and_import_other_tables(database, tmp_path):
    with pytest.raises(UsageError, match=r"\.csv or \.parquet"):
        export_table(database, tmp_path / "table.xlsx")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="no export"):
        import_table(database, tmp_path / "other.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UsageError, match="no readable"):
        import_table(database, tmp_path / "broken.parquet")


def test_merge_twice_is_merge_once(database, tmp_path):
    other = dataclasses.replace(FINGERPRINT, device_name="elsewhere")
    with LatencyDatabase(tmp_path / "b.sqlite") as source:
        source.add(source.start_run(other, "test"), [point(16), point(32)])
    for _ in range(2):
        merge(database, tmp_path / "b.sqlite")
    assert len(database.measurements(other.id)) == 2
    assert database.measurements(FINGERPRINT.id) == []
    assert database.verify() == []


def test_merge_refuses_a_changed_source(database, tmp_path):
    with LatencyDatabase(tmp_path / "b.sqlite") as source:
        source.add(source.start_run(FINGERPRINT, "test"), [point(16)])
    with sqlite3.connect(tmp_path / "b.sqlite") as raw:
        raw.execute("UPDATE measurement SET ratio = 0.5")
    with pytest.raises(DatabaseError, match="not merged"):
        merge(database, tmp_path / "b.sqlite")
    with pytest.raises(DatabaseError, match="does not exist"):
        merge(database, tmp_path / "missing.sqlite")
    assert database.fingerprints() == {}
