"""The latency database: committed as measured, keyed by fingerprint, checkable.

SQLite or PostgreSQL through SQLAlchemy Core. One row per fingerprint and shape; a failed
measurement is a row with its error and gives way to a later success. Every run carries a seal
(profiler/database/seals.py), renewed in the transaction that changes its rows.
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from autotune.core.layers import LayerShape
from autotune.core.store.base import Store
from autotune.core.types import Fingerprint, canonical_json, from_mapping
from autotune.core.version import __version__
from autotune.devices.health import ClockReading
from autotune.profiler.database import seals
from autotune.profiler.database.records import (
    PERCENTS,
    Detail,
    DriftCheck,
    FailedMeasurement,
    Measurement,
    Origin,
    Row,
    RunContents,
    measured_rows,
)
from autotune.profiler.database.rows import COLUMNS, as_row, from_row
from autotune.profiler.database.schema import (
    CLOCKS,
    DRIFT,
    FINGERPRINT,
    KEY,
    MEASUREMENT,
    MIGRATIONS,
    QUANTILES,
    QUARANTINE,
    RUN,
    SAMPLES,
    SOURCE,
)

SCHEMA = len(MIGRATIONS)


def measured_here() -> Origin:
    """The origin of what this program measures."""
    return Origin(kind="measured", name="lowrank-autotune", version=__version__)


class LatencyDatabase(Store):
    """Measurements of layers; `Store` says how it is opened and what any method may raise."""

    what = "latency database"
    schema = SCHEMA

    def migrate(self, connection: sa.Connection, found: int) -> None:
        """The migrations, and then every run's seal, since they change what is sealed."""
        for migrate in MIGRATIONS[found:]:
            migrate(connection)
        for run_id in connection.execute(sa.select(RUN.c.id)).scalars().all():
            seals.seal(connection, run_id)

    def start_run(
        self, fingerprint: Fingerprint, plan: str, *, origin: Origin | None = None
    ) -> str:
        """Register a run of measurements (by this program unless `origin` says else); its id."""
        run_id = uuid.uuid4().hex
        with self.transaction() as connection:
            self._put_run(
                connection,
                fingerprint,
                run_id=run_id,
                started_at=timestamp(),
                plan=plan,
                origin=origin or measured_here(),
            )
        return run_id

    def _put_run(
        self,
        connection: sa.Connection,
        fingerprint: Fingerprint,
        *,
        run_id: str,
        started_at: str,
        plan: str,
        origin: Origin,
    ) -> None:
        record = canonical_json(fingerprint.to_json())
        known = self.dialect.insert(FINGERPRINT).values(id=fingerprint.id, record=record)
        connection.execute(known.on_conflict_do_nothing())
        if connection.execute(sa.select(RUN.c.id).where(RUN.c.id == run_id)).first():
            return
        run = RUN.insert().values(
            id=run_id,
            fingerprint_id=fingerprint.id,
            started_at=started_at,
            plan=plan,
            sha256=seals.EMPTY,
        )
        connection.execute(run)
        row = {"run_id": run_id, **vars(origin)}
        connection.execute(SOURCE.insert().values(row))
        seals.renew(connection, SOURCE, before=[], after=[row])

    def add(
        self,
        run_id: str,
        rows: Sequence[Row],
        *,
        details: Mapping[LayerShape, Detail] | None = None,
        clocks: Sequence[ClockReading] = (),
    ) -> None:
        """Store `rows` in one transaction. A measured point is kept, a failed one replaced."""
        with self.transaction() as connection:
            self._put_rows(connection, run_id, rows=rows, details=details or {}, clocks=clocks)

    def put_contents(self, fingerprint: Fingerprint, contents: RunContents) -> None:
        """Store a run of another database as it is; once more changes nothing."""
        with self.transaction() as connection:
            self._put_run(
                connection,
                fingerprint,
                run_id=contents.id,
                started_at=contents.started_at,
                plan=contents.plan,
                origin=contents.origin,
            )
            has = sa.select(CLOCKS.c.number).where(CLOCKS.c.run_id == contents.id)
            clocks = () if connection.execute(has).first() else contents.clocks
            self._put_rows(
                connection, contents.id, rows=contents.rows, details=contents.details, clocks=clocks
            )

    def _put_rows(
        self,
        connection: sa.Connection,
        run_id: str,
        *,
        rows: Sequence[Row],
        details: Mapping[LayerShape, Detail],
        clocks: Sequence[ClockReading],
    ) -> None:
        owner = sa.select(RUN.c.fingerprint_id).where(RUN.c.id == run_id).scalar_subquery()
        # A write first: it takes the lock of this fingerprint, under which all that follows is read
        # and that keeps two runs from waiting for each other.
        lock = FINGERPRINT.update().where(FINGERPRINT.c.id == owner)
        connection.execute(lock.values(record=FINGERPRINT.c.record))
        fingerprint_id = connection.execute(sa.select(owner)).scalar_one()
        _put_clocks(connection, run_id, clocks=clocks)
        if not rows:
            return
        before = _rows_like(connection, fingerprint_id, shapes=[row.shape for row in rows])
        failed = MEASUREMENT.c.error.is_not(None)
        statement = self.dialect.insert(MEASUREMENT)
        fresh = {n: statement.excluded[n] for n in (*COLUMNS, "run_id") if n not in KEY}
        upsert = statement.on_conflict_do_update(index_elements=list(KEY), set_=fresh, where=failed)
        owners = {"fingerprint_id": fingerprint_id, "run_id": run_id}
        connection.execute(upsert, [as_row(row) | owners for row in rows])
        after = _rows_like(connection, fingerprint_id, shapes=[row.shape for row in rows])
        seals.renew(connection, MEASUREMENT, before=before, after=after)
        known = {_key(row) for row in before if row["error"] is None}
        new = {_key(row) for row in after if row["error"] is None} - known
        fresh_rows = [row for row in rows if _key(as_row(row) | owners) in new]
        _put_details(connection, owners, rows=fresh_rows, details=details)

    def measurements(self, fingerprint_id: str, *, quarantined: bool = False) -> list[Measurement]:
        """What was measured under one fingerprint, sorted by shape; impossible points on demand."""
        return measured_rows(self.rows(fingerprint_id, quarantined=quarantined))

    def failures(self, fingerprint_id: str) -> list[FailedMeasurement]:
        """What could not be measured under one fingerprint, sorted by shape."""
        rows = self.rows(fingerprint_id)
        return [row for row in rows if isinstance(row, FailedMeasurement)]

    def rows(self, fingerprint_id: str, *, quarantined: bool = False) -> list[Row]:
        """All points of one fingerprint, failed ones too, sorted by shape."""
        query = sa.select(*(MEASUREMENT.c[name] for name in COLUMNS)).where(
            MEASUREMENT.c.fingerprint_id == fingerprint_id
        )
        if not quarantined:
            same = sa.and_(*(QUARANTINE.c[name] == MEASUREMENT.c[name] for name in KEY))
            query = query.where(~sa.exists().where(same))
        query = query.order_by(*(MEASUREMENT.c[name] for name in KEY))
        with self.transaction() as connection:
            return [from_row(dict(row._mapping)) for row in connection.execute(query)]

    def fingerprints(self) -> dict[str, Fingerprint]:
        """Every fingerprint of the database, by its id."""
        with self.transaction() as connection:
            rows = connection.execute(sa.select(FINGERPRINT)).all()
        return {row.id: from_mapping(Fingerprint, json.loads(row.record)) for row in rows}

    def add_check(self, fingerprint: Fingerprint, check: DriftCheck) -> None:
        """Keep that its points were timed again."""
        with self.transaction() as connection:
            row = {"fingerprint_id": fingerprint.id, **vars(check)}
            connection.execute(self.dialect.insert(DRIFT).values(row).on_conflict_do_nothing())

    def last_checks(self) -> dict[str, DriftCheck]:
        """The last check for drift of every fingerprint that had one."""
        query = sa.select(DRIFT).order_by(DRIFT.c.checked_at)
        with self.transaction() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        return {row.pop("fingerprint_id"): DriftCheck(**row) for row in rows}

    def runs(self) -> list[dict[str, Any]]:
        """Every run: id, fingerprint_id, started_at, plan, sha256, and where it is from."""
        query = sa.select(RUN, SOURCE.c.kind, SOURCE.c.name, SOURCE.c.version)
        query = query.join(SOURCE).order_by(RUN.c.started_at, RUN.c.id)
        with self.transaction() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def contents(self, run_id: str) -> RunContents:
        """A run with its fingerprint and every row that it wrote."""
        with self.transaction() as connection:
            run = connection.execute(sa.select(RUN).where(RUN.c.id == run_id)).one()
            rows, quantiles, samples, clocks, source = (
                seals.run_rows(connection, table, run_id=run_id) for table in seals.SEALED
            )
        found = {_key(row): row for row in rows}
        points = {key: from_row(row) for key, row in found.items()}
        seconds = {_key(row): tuple(json.loads(row["seconds"])) for row in samples}
        details = {
            points[_key(row)].shape: Detail(
                quantiles_s=tuple(row[f"p{percent:02d}_s"] for percent in PERCENTS),
                samples_s=seconds[_key(row)],
            )
            for row in quantiles
        }
        readings = sorted(clocks, key=lambda row: row["number"])
        skip = ("run_id", "number")
        return RunContents(
            id=run_id,
            started_at=run.started_at,
            plan=run.plan,
            origin=Origin(**{k: v for k, v in source[0].items() if k != "run_id"}),
            rows=tuple(points.values()),
            details=details,
            clocks=tuple(
                ClockReading(**{k: v for k, v in row.items() if k not in skip}) for row in readings
            ),
        )


def timestamp() -> str:
    """Now, UTC, ISO 8601 with seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def _put_details(
    connection: sa.Connection,
    owners: dict[str, str],
    *,
    rows: Sequence[Row],
    details: Mapping[LayerShape, Detail],
) -> None:
    quantiles, samples = [], []
    for row in rows:
        detail = details.get(row.shape)
        if detail is None:
            continue
        keys = {name: value for name, value in as_row(row).items() if name in KEY} | owners
        names = [f"p{percent:02d}_s" for percent in PERCENTS]
        quantiles.append({**keys, **dict(zip(names, detail.quantiles_s, strict=True))})
        samples.append({**keys, "seconds": canonical_json(list(detail.samples_s))})
    for table, found in ((QUANTILES, quantiles), (SAMPLES, samples)):
        if found:
            connection.execute(table.insert(), found)
            seals.renew(connection, table, before=[], after=found)


def _put_clocks(connection: sa.Connection, run_id: str, *, clocks: Sequence[ClockReading]) -> None:
    if not clocks:
        return
    query = sa.select(sa.func.count()).where(CLOCKS.c.run_id == run_id)
    first = connection.execute(query).scalar_one()
    rows = [{"run_id": run_id, "number": first + i, **vars(c)} for i, c in enumerate(clocks)]
    connection.execute(CLOCKS.insert(), rows)
    seals.renew(connection, CLOCKS, before=[], after=rows)


def _rows_like(
    connection: sa.Connection, fingerprint_id: str, *, shapes: Sequence[LayerShape]
) -> list[Any]:
    """What is stored of `shapes`, and perhaps of others with the same sizes."""
    query = sa.select(MEASUREMENT).where(MEASUREMENT.c.fingerprint_id == fingerprint_id)
    for name in ("tokens", "in_features", "out_features", "rank"):
        query = query.where(MEASUREMENT.c[name].in_({getattr(shape, name) for shape in shapes}))
    return [dict(row._mapping) for row in connection.execute(query)]
