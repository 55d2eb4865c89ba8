"""What a latency database promises, whichever kind it is of."""

import dataclasses

import pytest
import sqlalchemy as sa

from autotune.core.errors import DatabaseError
from autotune.core.forms import DENSE, Form, low_rank
from autotune.core.types import Fingerprint
from autotune.profiler.database import latency as store_module
from autotune.profiler.database import seals
from autotune.profiler.database.audit import find_problems, find_suspects, quarantine
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.records import Origin
from autotune.profiler.database.rows import as_row
from autotune.profiler.database.schema import CLOCKS as CLOCKS_TABLE
from autotune.profiler.database.schema import MEASUREMENT, QUANTILES, SAMPLES, SOURCE
from tests.profiler.points import CLOCKS, DETAIL, FINGERPRINT, point


def test_points_come_back_bit_equal(database):
    rows = [point(rank) for rank in (0, 16, 32)]
    database.add(database.start_run(FINGERPRINT, "test"), rows)
    assert database.measurements(FINGERPRINT.id) == rows
    assert database.fingerprints() == {FINGERPRINT.id: FINGERPRINT}
    assert find_problems(database) == []


def test_a_measured_point_is_kept_and_a_failed_one_replaced(database):
    first, second = (database.start_run(FINGERPRINT, "test") for _ in range(2))
    database.add(first, [point(16), point(32, error="crash"), point(48, error="crash")])
    database.add(second, [point(16, latency_s=9.0), point(32), point(48, error="again")])
    rows = {row.shape.rank: row for row in database.rows(FINGERPRINT.id)}
    assert rows[16] == point(16)
    assert rows[32] == point(32)
    assert rows[48].error == "again"
    assert {row.shape.rank for row in database.measurements(FINGERPRINT.id)} == {16, 32}
    assert find_problems(database) == []


def test_fingerprints_never_mix(database):
    other = dataclasses.replace(FINGERPRINT, threads=1)
    database.add(database.start_run(FINGERPRINT, "a"), [point(latency_s=1e-3)])
    database.add(database.start_run(other, "b"), [point(latency_s=2e-3)])
    assert database.measurements(FINGERPRINT.id)[0].latency_s == 1e-3
    assert database.measurements(other.id)[0].latency_s == 2e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"latency_s": float("nan")},
        {"latency_s": float("inf")},
        {"latency_s": 0.0},
        {"latency_s": -1e-3},
        {"ratio": float("inf")},
        {"tokens": 0},
        {"rank": -1},
        {"error": "both"},
        {"latency_s": None},
        {"tokens": "many"},
    ],
)
def test_the_schema_refuses_nonsense(database, changes):
    run = database.start_run(FINGERPRINT, "test")
    owners = {"fingerprint_id": FINGERPRINT.id, "run_id": run}
    rows = [as_row(point(64)) | owners, as_row(point(16)) | owners | changes]
    with pytest.raises(DatabaseError), database.transaction() as connection:
        connection.execute(MEASUREMENT.insert(), rows)
    assert database.rows(FINGERPRINT.id) == []
    with pytest.raises(DatabaseError):
        database.add(run, [point(64), point(16, latency_s=float("nan"))])
    assert database.rows(FINGERPRINT.id) == []


def test_adding_a_point_does_not_read_the_whole_run(database, monkeypatch):
    """A run of thousands of points stays linear: the seal is a sum."""
    run = database.start_run(FINGERPRINT, "test")
    database.add(run, [point(rank) for rank in range(16, 512, 16)])
    read = []
    original = store_module._rows_like

    def rows_like(*args, **more):
        found = original(*args, **more)
        read.extend(found)
        return found

    monkeypatch.setattr(seals, "run_rows", lambda *_, **__: pytest.fail("reads the run"))
    monkeypatch.setattr(store_module, "_rows_like", rows_like)
    database.add(run, [point(600), point(608, error="crash")])
    database.add(run, [point(608), point(16, latency_s=9.0)])
    assert {row["rank"] for row in read} == {600, 608, 16}
    monkeypatch.undo()
    assert find_problems(database) == []


def test_layers_with_one_input_are_points_of_their_own(database):
    rows = [point(16), point(16, parts=(128, 128, 128), latency_s=2e-3)]
    database.add(database.start_run(FINGERPRINT, "test"), rows)
    assert database.measurements(FINGERPRINT.id) == rows


def test_forms_of_one_rank_are_points_of_their_own(database):
    """The rank's column stays; structure and precision stand in the kind."""
    forms = [
        low_rank(16),
        low_rank(16, precision="int8-static"),
        low_rank(16, "pivoted"),
        low_rank(16, "pivoted", precision="int8-static"),
        DENSE,
        Form(precision="int8-static"),
    ]
    rows = [point(form=form, latency_s=1e-3 * (i + 1)) for i, form in enumerate(forms)]
    database.add(database.start_run(FINGERPRINT, "test"), rows, details={rows[2].shape: DETAIL})
    found = {row.shape.form: row for row in database.measurements(FINGERPRINT.id)}
    assert found == dict(zip(forms, rows, strict=True))
    with database.transaction() as connection:
        kinds = sa.select(MEASUREMENT.c.rank, MEASUREMENT.c.kind).order_by(*MEASUREMENT.c)
        stored = sorted(tuple(row) for row in connection.execute(kinds))
    assert stored == [
        (0, "linear"),
        (0, "linear:int8-static"),
        (16, "linear"),
        (16, "linear:int8-static"),
        (16, "linear:pivoted"),
        (16, "linear:pivoted:int8-static"),
    ]
    database.add(database.start_run(FINGERPRINT, "again"), [point(form=forms[2], latency_s=9.0)])
    assert max(row.latency_s for row in database.measurements(FINGERPRINT.id)) < 1.0
    assert find_problems(database) == []


def test_samples_clocks_and_origin_come_back(database):
    origin = Origin(kind="package", name="somebody's", version="1.2")
    run = database.start_run(FINGERPRINT, "16 points", origin=origin)
    database.add(run, [point(16), point(32)], details={point(16).shape: DETAIL}, clocks=CLOCKS)
    database.add(run, [point(48)], details={point(48).shape: DETAIL}, clocks=CLOCKS[:1])
    contents = database.contents(run)
    assert contents.details == {point(16).shape: DETAIL, point(48).shape: DETAIL}
    assert contents.clocks == (*CLOCKS, CLOCKS[0])
    assert contents.origin == origin
    assert sorted(row.shape.rank for row in contents.rows) == [16, 32, 48]
    (listed,) = database.runs()
    assert (listed["kind"], listed["name"], listed["version"]) == tuple(vars(origin).values())
    assert find_problems(database) == []


def test_details_belong_to_the_measurement_that_is_kept(database):
    first, second = (database.start_run(FINGERPRINT, "test") for _ in range(2))
    other = dataclasses.replace(DETAIL, samples_s=(9.0,))
    database.add(first, [point(16), point(32, error="crash")], details={point(16).shape: DETAIL})
    database.add(second, [point(16), point(32)], details={point(r).shape: other for r in (16, 32)})
    assert database.contents(first).details == {point(16).shape: DETAIL}
    assert database.contents(second).details == {point(32).shape: other}
    assert find_problems(database) == []


@pytest.mark.parametrize(
    ("table", "change"),
    [
        (MEASUREMENT, {"ratio": 0.5}),
        (QUANTILES, {"p50_s": 1.0}),
        (SAMPLES, {"seconds": "[]"}),
        (CLOCKS_TABLE, {"sm_mhz": 1}),
        (SOURCE, {"version": "other"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_change_in_any_table_is_found(database, table, change):
    run = database.start_run(FINGERPRINT, "test")
    database.add(run, [point(16)], details={point(16).shape: DETAIL}, clocks=CLOCKS)
    assert find_problems(database) == []
    with database.transaction() as connection:
        connection.execute(table.update().values(change))
    assert any("sha256" in problem for problem in find_problems(database))


def test_a_row_taken_away_is_found(database):
    database.add(database.start_run(FINGERPRINT, "test"), [point(16), point(32)])
    with database.transaction() as connection:
        connection.execute(sa.delete(MEASUREMENT).where(MEASUREMENT.c.rank == 32))
    assert any("sha256" in problem for problem in find_problems(database))


def test_impossible_points_go_into_quarantine_and_stay(database):
    """No GPU beats its peak rate: 4096 x 4096 on 2048 tokens takes an H200 at least 70 us."""
    gpu = Fingerprint(
        device="h200-sxm",
        device_name="NVIDIA H200",
        backend="torch-cudagraph",
        dtype="bf16",
        threads=1,
    )
    sizes = {"tokens": 2048, "in_features": 4096, "out_features": 4096, "dtype": "bf16"}
    good = point(0, 87e-6, dense_latency_s=87e-6, ratio=1.0, **sizes)
    wrong = point(1024, 20e-6, dense_latency_s=87e-6, ratio=20 / 87, **sizes)
    torn = point(512, 40e-6, dense_latency_s=87e-6, ratio=9.0, **sizes)
    database.add(database.start_run(gpu, "test"), [good, wrong, torn])
    found = find_suspects(database)
    assert {suspect.row.shape.rank for suspect in found} == {512, 1024}
    assert "peak rates" in next(s.reason for s in found if s.row.shape.rank == 1024)
    for _ in range(2):
        quarantine(database, found)
    assert database.measurements(gpu.id) == [good]
    assert len(database.measurements(gpu.id, quarantined=True)) == 3
    assert find_suspects(database) == []
    assert find_problems(database) == []


def test_a_second_program_sees_what_the_first_wrote(database):
    run = database.start_run(FINGERPRINT, "test")
    with LatencyDatabase(database.address) as other:
        other.add(run, [point(16)])
    assert database.measurements(FINGERPRINT.id) == [point(16)]
    assert database.runs()[0]["sha256"] != seals.EMPTY


def test_a_server_from_before_energy_was_counted_is_taken_over(postgres_database):
    rows = [point(0), point(16)]
    postgres_database.add(postgres_database.start_run(FINGERPRINT, "test"), rows)
    with postgres_database.transaction() as connection:
        for name in ("energy_j", "power_w"):
            connection.exec_driver_sql(f"ALTER TABLE measurement DROP COLUMN {name}")
        postgres_database.dialect.set_version(connection, 5)
    with LatencyDatabase(postgres_database.address) as again:
        assert again.measurements(FINGERPRINT.id) == rows
        assert find_problems(again) == []
        counted = point(32, energy_j=0.1, power_w=300.0)
        again.add(again.start_run(FINGERPRINT, "test"), [counted])
        assert again.measurements(FINGERPRINT.id) == [*rows, counted]
        with pytest.raises(DatabaseError):
            again.add(again.start_run(FINGERPRINT, "test"), [point(64, power_w=-1.0)])
