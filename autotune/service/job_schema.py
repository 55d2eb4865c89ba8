"""Tables of the job database, and the numbered migrations that create them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    inspect,
)

StateName = Literal["queued", "running", "succeeded", "failed", "cancelled"]
STATES: tuple[StateName, ...] = get_args(StateName)
QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = STATES
ENDED = (SUCCEEDED, FAILED, CANCELLED)

METADATA = MetaData()

JOB = Table(
    "job",
    METADATA,
    Column("id", Text, primary_key=True),  # sorts by age
    Column("kind", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("owner", Text, nullable=False),  # the API key's id, empty without keys
    Column("idempotency_key", Text),
    Column("device", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("not_before", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("attempt", Integer, nullable=False),
    Column("runner", Text),
    Column("heartbeat_at", Double),
    Column("cancel_requested", Integer, nullable=False),
    Column("stage", Text, nullable=False),
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("exit_code", Integer),
    Column("error", Text),
    Column("result", Text),
    Column("revision", Integer, nullable=False),  # rises with every change
    Column("events", Integer, nullable=False),
    Column("busy_since", Double),  # when its folder or device was first found in use
    UniqueConstraint("owner", "idempotency_key"),
    CheckConstraint(f"state IN {STATES}", name="state"),
    CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="failure_is_stated"),
    Index("ix_job_state", "state", "id"),
    Index("ix_job_owner", "owner", "started_at"),
)

EVENT = Table(
    "event",
    METADATA,
    Column("job_id", Text, ForeignKey("job.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("text", Text, nullable=False),
)

API_KEY = Table(
    "api_key",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
)

SESSION = Table(
    "session",
    METADATA,
    Column("sha256", Text, primary_key=True),
    Column("key_id", Text, ForeignKey("api_key.id"), nullable=False),
    Column("expires_at", Double, nullable=False),
)


def _create_all(connection: Connection) -> None:
    METADATA.create_all(connection)


def _add_sessions(connection: Connection) -> None:
    SESSION.create(connection, checkfirst=True)


def _add_busy_since(connection: Connection) -> None:
    if "busy_since" not in {each["name"] for each in inspect(connection).get_columns("job")}:
        connection.exec_driver_sql("ALTER TABLE job ADD COLUMN busy_since DOUBLE PRECISION")


def _index_owners(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE INDEX IF NOT EXISTS ix_job_owner ON job (owner, started_at)")


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    _create_all,
    _add_sessions,
    _add_busy_since,
    _index_owners,
)
