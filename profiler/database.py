"""The latency database: committed as measured, keyed by fingerprint, checkable.

SQLite (STRICT, WAL) through SQLAlchemy Core. One row per fingerprint and shape; a failed
measurement is a row with its error and gives way to a later success. Every run carries a seal, the
sum of its rows' sha256, renewed in the transaction that changes them.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects.sqlite import insert

from autotune.errors import AutotuneError, DatabaseError, RunFolderError, StorageError
from autotune.profiler.schema import FINGERPRINT, MEASUREMENT, MIGRATIONS, RUN, Measurement
from autotune.types import Fingerprint, canonical_json, from_mapping

SCHEMA = len(MIGRATIONS)
_COLUMNS = [field.name for field in dataclasses.fields(Measurement)]
_KEY = [column.name for column in MEASUREMENT.primary_key]


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("busy_timeout=30000", "foreign_keys=ON", "journal_mode=WAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class LatencyDatabase:
    """One database file. Use as a context manager.

    Raises (any method):
        DatabaseError: not a database, damaged, or written by a newer version.
        StorageError: the disk is full.
        RunFolderError: the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = sa.create_engine(f"sqlite:///{path}")
        sa.event.listen(self._engine, "connect", _configure)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot create {path.parent}: {error.strerror}") from error
        self._migrate()

    def __enter__(self) -> LatencyDatabase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except AutotuneError:
            raise
        except exc.IntegrityError as error:
            raise DatabaseError(f"{self.path} refuses the row: {error.orig}") from error
        except exc.DatabaseError as error:
            raise self._translate(error) from error

    def _translate(self, error: exc.DatabaseError) -> AutotuneError:
        text = str(error.orig)
        if "full" in text:
            return StorageError(
                f"no space left while writing {self.path}; free some space and run the same "
                "command again, it continues where it stopped"
            )
        if "readonly" in text or "unable to open" in text:
            return RunFolderError(f"cannot write {self.path} ({text}); give another file with --db")
        return DatabaseError(
            f"{self.path} is damaged or no latency database ({text}); move it away, or restore "
            "it with `autotune db import` from an export"
        )

    def _migrate(self) -> None:
        with self._transaction() as connection:
            version = int(connection.exec_driver_sql("PRAGMA user_version").scalar() or 0)
            if version > SCHEMA:
                raise DatabaseError(
                    f"{self.path} has schema version {version}, this program knows up to "
                    f"{SCHEMA}; upgrade lowrank-autotune or give another file with --db"
                )
            if version == SCHEMA:
                return
            for migrate in MIGRATIONS[version:]:
                migrate(connection)
            for run_id in connection.execute(sa.select(RUN.c.id)).scalars().all():
                _seal(connection, run_id)
            connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA}")

    def start_run(self, fingerprint: Fingerprint, plan: str) -> str:
        """Register a run of measurements and return its id."""
        run_id = uuid.uuid4().hex
        with self._transaction() as connection:
            _put_fingerprint(connection, fingerprint)
            connection.execute(
                RUN.insert().values(
                    id=run_id, fingerprint_id=fingerprint.id, started_at=timestamp(), plan=plan,
                    sha256=_hash_rows([]),
                )
            )  # fmt: skip
        return run_id

    def add(self, run_id: str, rows: Sequence[Measurement]) -> None:
        """Store `rows` in one transaction. A measured point is kept, a failed one replaced."""
        with self._transaction() as connection:
            # A write first: it takes the lock under which all that follows is read.
            connection.execute(RUN.update().where(RUN.c.id == run_id).values(id=run_id))
            fingerprint_id = connection.execute(
                sa.select(RUN.c.fingerprint_id).where(RUN.c.id == run_id)
            ).scalar_one()
            before = _rows_like(connection, fingerprint_id, rows)
            _put_rows(connection, {"fingerprint_id": fingerprint_id, "run_id": run_id}, rows)
            after = _rows_like(connection, fingerprint_id, rows)
            _reseal(connection, before, after)

    def measurements(self, fingerprint_id: str, *, errors: bool = False) -> list[Measurement]:
        """All points of one fingerprint, sorted by shape; failed ones only when asked for."""
        query = sa.select(*(MEASUREMENT.c[name] for name in _COLUMNS)).where(
            MEASUREMENT.c.fingerprint_id == fingerprint_id
        )
        if not errors:
            query = query.where(MEASUREMENT.c.error.is_(None))
        query = query.order_by(*(MEASUREMENT.c[name] for name in _KEY))
        with self._transaction() as connection:
            return [Measurement(**row._mapping) for row in connection.execute(query)]

    def fingerprints(self) -> dict[str, Fingerprint]:
        """Every fingerprint by id."""
        with self._transaction() as connection:
            rows = connection.execute(sa.select(FINGERPRINT)).all()
        return {row.id: from_mapping(Fingerprint, json.loads(row.record)) for row in rows}

    def runs(self) -> list[dict[str, Any]]:
        """Every run: id, fingerprint_id, started_at, plan, sha256."""
        with self._transaction() as connection:
            query = sa.select(RUN).order_by(RUN.c.started_at)
            return [dict(row._mapping) for row in connection.execute(query)]

    def verify(self) -> list[str]:
        """Problems found: SQLite's own check, every run's hash, every fingerprint's id."""
        with self._transaction() as connection:
            problems = [
                str(row[0])
                for row in connection.exec_driver_sql("PRAGMA integrity_check")
                if row[0] != "ok"
            ]
            for row in connection.execute(sa.select(RUN)):
                if _hash_rows(_run_rows(connection, row.id)) != row.sha256:
                    problems.append(f"run {row.id}: its rows do not match their sha256")
            for row in connection.execute(sa.select(FINGERPRINT)):
                try:
                    intact = from_mapping(Fingerprint, json.loads(row.record)).id == row.id
                except (ValueError, TypeError):
                    intact = False
                if not intact:
                    problems.append(f"fingerprint {row.id}: its record does not match its id")
        return problems


def timestamp() -> str:
    """Now, UTC, ISO 8601 with seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _put_fingerprint(connection: sa.Connection, fingerprint: Fingerprint) -> None:
    record = canonical_json(fingerprint.to_json())
    statement = insert(FINGERPRINT).values(id=fingerprint.id, record=record)
    connection.execute(statement.on_conflict_do_nothing())


def _put_rows(
    connection: sa.Connection, owners: dict[str, str], rows: Sequence[Measurement]
) -> None:
    """Insert rows, over failed ones only."""
    if not rows:
        return
    failed = MEASUREMENT.c.error.is_not(None)
    statement = insert(MEASUREMENT)
    fresh = {name: statement.excluded[name] for name in (*_COLUMNS, "run_id") if name not in _KEY}
    statement = statement.on_conflict_do_update(index_elements=_KEY, set_=fresh, where=failed)
    connection.execute(statement, [vars(row) | owners for row in rows])


def _rows_like(
    connection: sa.Connection, fingerprint_id: str, rows: Sequence[Measurement]
) -> list[Any]:
    """What is stored under the keys of `rows`, and perhaps of others with the same sizes."""
    query = sa.select(MEASUREMENT).where(MEASUREMENT.c.fingerprint_id == fingerprint_id)
    for name in ("tokens", "in_features", "out_features", "rank"):
        query = query.where(MEASUREMENT.c[name].in_({getattr(row, name) for row in rows}))
    return [dict(row._mapping) for row in connection.execute(query)]


def _run_rows(connection: sa.Connection, run_id: str) -> list[Any]:
    query = sa.select(MEASUREMENT).where(MEASUREMENT.c.run_id == run_id)
    return [dict(row._mapping) for row in connection.execute(query)]


def _digest(rows: Sequence[Any]) -> int:
    """Sum of the rows' sha256, in any order: a row more or less costs one hash, not all."""
    digests = (hashlib.sha256(canonical_json(row).encode()).digest() for row in rows)
    return sum(int.from_bytes(digest) for digest in digests)


def _hash_rows(rows: Sequence[Any]) -> str:
    return _seal_text(_digest(rows))


def _seal_text(total: int) -> str:
    return f"{total % (1 << 256):064x}"


def _seal(connection: sa.Connection, run_id: str) -> None:
    sha256 = _hash_rows(_run_rows(connection, run_id))
    connection.execute(RUN.update().where(RUN.c.id == run_id).values(sha256=sha256))


def _reseal(connection: sa.Connection, before: Sequence[Any], after: Sequence[Any]) -> None:
    """Take `before` out of the seals of their runs and put `after` into those of theirs."""
    for run_id in {row["run_id"] for row in (*before, *after)}:
        old = connection.execute(sa.select(RUN.c.sha256).where(RUN.c.id == run_id)).scalar_one()
        gone, new = ([r for r in rows if r["run_id"] == run_id] for rows in (before, after))
        seal = _seal_text(int(old, 16) + _digest(new) - _digest(gone))
        if seal != old:
            connection.execute(RUN.update().where(RUN.c.id == run_id).values(sha256=seal))
