"""Tables of the latency database, and the numbered migrations that make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    REAL,
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    Table,
    Text,
    column,
    inspect,
    literal,
    select,
    table,
)
from sqlalchemy.types import TypeEngine

from autotune.profiler.database.records import PERCENTS
from autotune.profiler.database.rows import LINEAR, OPTIONAL, SCHEMA

METADATA = MetaData()
_REAL: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")

FINGERPRINT = Table(
    "fingerprint",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("record", Text, nullable=False),
    sqlite_strict=True,
)

RUN = Table(
    "run",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("fingerprint_id", Text, ForeignKey("fingerprint.id"), nullable=False),
    Column("started_at", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    sqlite_strict=True,
)

_FINITE = "{0} IS NULL OR ({0} > 0 AND {0} < 1e6)"
_TIMES = ("latency_s", "dense_latency_s", "ratio", "ratio_low", "ratio_high")
_CHECKED = (*_TIMES, *OPTIONAL)

MEASUREMENT = Table(
    "measurement",
    METADATA,
    Column("fingerprint_id", Text, ForeignKey("fingerprint.id"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("dtype", Text, primary_key=True),
    Column("tokens", Integer, primary_key=True),
    Column("in_features", Integer, primary_key=True),
    Column("out_features", Integer, primary_key=True),
    Column("rank", Integer, primary_key=True, autoincrement=False),
    Column("run_id", Text, ForeignKey("run.id"), nullable=False, index=True),
    *(Column(name, _REAL) for name in _TIMES),
    Column("rounds", Integer, nullable=False),
    Column("windows", Integer, nullable=False),
    Column("disturbed_windows", Integer, nullable=False),
    Column("converged", Integer, nullable=False),
    Column("error", Text),
    Column("measured_at", Text, nullable=False),
    *(Column(name, _REAL) for name in OPTIONAL),
    *(CheckConstraint(_FINITE.format(name), name=f"finite_{name}") for name in _CHECKED),
    CheckConstraint("(error IS NULL) = (latency_s IS NOT NULL)", name="value_or_error"),
    CheckConstraint(
        "tokens > 0 AND in_features > 0 AND out_features > 0 AND rank >= 0", name="sizes"
    ),
    sqlite_strict=True,
)

# What a measurement is of; the key of every table about it.
KEY = tuple(column.name for column in MEASUREMENT.primary_key)


def _about_a_measurement(name: str, *columns: Column[Any]) -> Table:
    """A table with one row, or none, for every measurement."""
    keys = [
        Column(each.name, each.type, primary_key=True, autoincrement=False)
        for each in MEASUREMENT.primary_key
    ]
    return Table(
        name,
        METADATA,
        *keys,
        *columns,
        ForeignKeyConstraint(KEY, [f"measurement.{column}" for column in KEY]),
        sqlite_strict=True,
    )


def _run_id() -> Column[str]:
    return Column("run_id", Text, ForeignKey("run.id"), nullable=False, index=True)


QUANTILES = _about_a_measurement(
    "quantiles",
    _run_id(),
    *(Column(f"p{percent:02d}_s", _REAL, nullable=False) for percent in PERCENTS),
)
# Seconds of single calls, in the order in which they were taken: a JSON list.
SAMPLES = _about_a_measurement("samples", _run_id(), Column("seconds", Text, nullable=False))
# What `db verify` found impossible: kept, and left out of every table of latencies.
QUARANTINE = _about_a_measurement(
    "quarantine", Column("reason", Text, nullable=False), Column("found_at", Text, nullable=False)
)
SOURCE = Table(
    "source",
    METADATA,
    Column("run_id", Text, ForeignKey("run.id"), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    sqlite_strict=True,
)
# When points were timed again, and whether they still held: about the machine, not about a run.
DRIFT = Table(
    "drift_check",
    METADATA,
    Column("fingerprint_id", Text, ForeignKey("fingerprint.id"), primary_key=True),
    Column("checked_at", Text, primary_key=True),
    *(Column(name, Integer, nullable=False) for name in ("anchors", "moved", "failed")),
    *(Column(name, _REAL, nullable=False) for name in ("ratio_change", "latency_change")),
    sqlite_strict=True,
)
CLOCKS = Table(
    "clocks",
    METADATA,
    Column("run_id", Text, ForeignKey("run.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("moment", Text, nullable=False),
    Column("read_at", Text, nullable=False),
    *(Column(name, Integer, nullable=False) for name in ("sm_mhz", "memory_mhz", "temperature_c")),
    Column("power_w", _REAL, nullable=False),
    Column("reasons", Integer, nullable=False),
    sqlite_strict=True,
)


def _create_all(connection: Connection) -> None:
    METADATA.create_all(connection)


def _add_kind(connection: Connection) -> None:
    """Version 2: layers that share their input too. A key cannot change in place."""
    if "kind" in {each["name"] for each in inspect(connection).get_columns("measurement")}:
        return  # made by this program's own version 1
    later = ("kind", *OPTIONAL)
    names = [each.name for each in MEASUREMENT.columns if each.name not in later]
    connection.exec_driver_sql("ALTER TABLE measurement RENAME TO measurement_1")
    connection.exec_driver_sql("DROP INDEX IF EXISTS ix_measurement_run_id")
    MEASUREMENT.create(connection)
    old = table("measurement_1", *(column(name) for name in names))
    rows = select(*(old.c[name] for name in names), literal(LINEAR))
    connection.execute(MEASUREMENT.insert().from_select([*names, "kind"], rows))
    connection.exec_driver_sql("DROP TABLE measurement_1")


def _seal_by_sum(connection: Connection) -> None:
    """Version 3: a run's seal is the sum of its rows' hashes; renewing them all is the change."""
    del connection


def _add_details(connection: Connection) -> None:
    """Version 4: quantiles, samples, clocks, sources and quarantine, in tables of their own."""
    METADATA.create_all(connection)
    runs = select(RUN.c.id, literal("unknown"), RUN.c.plan, literal(""))
    missing = runs.where(RUN.c.id.not_in(select(SOURCE.c.run_id)))
    connection.execute(SOURCE.insert().from_select(["run_id", "kind", "name", "version"], missing))


def _add_drift(connection: Connection) -> None:
    """Version 5: checks for drift."""
    DRIFT.create(connection, checkfirst=True)


def _add_energy(connection: Connection) -> None:
    """Version 6: energy and power of a measurement, where they were counted."""
    known = {each["name"] for each in inspect(connection).get_columns("measurement")}
    kind = _REAL.compile(connection.dialect)
    for name in OPTIONAL:
        if name not in known:  # made by this program's own version 1, or by a later one
            rule = f"CONSTRAINT finite_{name} CHECK ({_FINITE.format(name)})"
            connection.exec_driver_sql(f"ALTER TABLE measurement ADD COLUMN {name} {kind} {rule}")


# A migration takes the database from version i to i + 1, inside one transaction; the hashes of all
# runs are renewed after the last.
MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    _create_all,
    _add_kind,
    _seal_by_sum,
    _add_details,
    _add_drift,
    _add_energy,
)
assert len(MIGRATIONS) == SCHEMA, "SCHEMA is in exported files: raise it with a migration"
