"""Tables of the latency database, and the numbered migrations that make them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import (
    REAL,
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
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

from autotune.types import LayerShape

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
    *(CheckConstraint(_FINITE.format(name), name=f"finite_{name}") for name in _TIMES),
    CheckConstraint("(error IS NULL) = (latency_s IS NOT NULL)", name="value_or_error"),
    CheckConstraint(
        "tokens > 0 AND in_features > 0 AND out_features > 0 AND rank >= 0", name="sizes"
    ),
    sqlite_strict=True,
)


def _create_all(connection: Connection) -> None:
    METADATA.create_all(connection)


def _add_kind(connection: Connection) -> None:
    """Version 2: layers that share their input too. A key cannot change in place."""
    if "kind" in {each["name"] for each in inspect(connection).get_columns("measurement")}:
        return  # made by this program's own version 1
    names = [each.name for each in MEASUREMENT.columns if each.name != "kind"]
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


# A migration takes the database from version i to i + 1, inside one transaction; the hashes of all
# runs are renewed after the last.
MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_create_all, _add_kind, _seal_by_sum)

LINEAR = "linear"


def kind_of(parts: tuple[int, ...]) -> str:
    """`linear`, or `shared:512+128+128` for layers of these widths with one input."""
    return f"shared:{'+'.join(map(str, parts))}" if parts else LINEAR


def parts_of(kind: str) -> tuple[int, ...]:
    """The widths back from `kind_of`."""
    _, _, widths = kind.partition(":")
    return tuple(int(width) for width in widths.split("+")) if widths else ()


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured point; rank 0 is the dense layer. Either times or an error.

    `ratio` is latency recovery, the median of paired rounds, with its 95 % interval.
    """

    kind: str = LINEAR
    tokens: int
    in_features: int
    out_features: int
    rank: int
    dtype: str
    latency_s: float | None
    dense_latency_s: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    rounds: int
    windows: int
    disturbed_windows: int
    converged: int
    error: str | None
    measured_at: str

    @property
    def shape(self) -> LayerShape:
        """The layer this is a measurement of."""
        return LayerShape(
            tokens=self.tokens,
            in_features=self.in_features,
            out_features=self.out_features,
            rank=self.rank or None,
            dtype=self.dtype,
            parts=parts_of(self.kind),
        )
