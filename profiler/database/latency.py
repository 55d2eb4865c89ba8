"""The latency database: committed as measured, keyed by fingerprint, checkable.

SQLite or PostgreSQL through SQLAlchemy Core. One row per fingerprint and shape; a failed
measurement is a row with its error and gives way to a later success, and one that did not settle to
one that did or is narrower. Every run carries a seal
(profiler/database/seals.py), renewed in the transaction that changes its rows.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from autotune.core.layers import LayerShape
from autotune.core.store.base import Store
from autotune.core.types import Fingerprint, canonical_json, from_mapping
from autotune.core.version import __version__
from autotune.devices.health import ClockReading
from autotune.profiler.database import seals
from autotune.profiler.database.details import (
    DETAILS,
    drop,
    lock_fingerprint,
    put_clocks,
    put_details,
    row_key,
)
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
    timestamp,
)
from autotune.profiler.database.rows import COLUMNS, SCHEMA, as_row, from_row
from autotune.profiler.database.schema import (
    CLOCKS,
    DRIFT,
    FINGERPRINT,
    KEY,
    MEASUREMENT,
    MIGRATIONS,
    QUARANTINE,
    RUN,
    SOURCE,
)


def measured_here() -> Origin:
    """The origin of what this program measures."""
    return Origin(kind="measured", name="lowrank-autotune", version=__version__)


class LatencyDatabase(Store):
    """Measurements of layers; `Store` says how it is opened and what any method may raise."""

    what = "latency database"
    schema = SCHEMA
    own_table = FINGERPRINT.name

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
        remeasured: Collection[LayerShape] = (),
    ) -> None:
        """Store `rows` in one transaction, each in place of a worse one of the same shape.

        Any success is better than a failure, and a settled timing than one that did not settle; of
        two that did not, the narrower one stays. A settled timing stays, except that a settled one
        of a `remeasured` shape replaces it. Of two unsettled ones of such a shape and of one run,
        the later stays.
        """
        with self.transaction() as connection:
            self._put_rows(
                connection,
                run_id,
                rows=rows,
                details=details or {},
                clocks=clocks,
                remeasured=remeasured,
            )

    def put_contents(self, *runs: tuple[Fingerprint, RunContents]) -> None:
        """Store whole runs as they are, all of them or none; once more changes nothing."""
        with self.transaction() as connection:
            for fingerprint, run in runs:
                self._put_run(
                    connection,
                    fingerprint,
                    run_id=run.id,
                    started_at=run.started_at,
                    plan=run.plan,
                    origin=run.origin,
                )
                has = sa.select(CLOCKS.c.number).where(CLOCKS.c.run_id == run.id)
                clocks = () if connection.execute(has).first() else run.clocks
                self._put_rows(
                    connection, run.id, rows=run.rows, details=run.details, clocks=clocks
                )

    def _put_rows(
        self,
        connection: sa.Connection,
        run_id: str,
        *,
        rows: Sequence[Row],
        details: Mapping[LayerShape, Detail],
        clocks: Sequence[ClockReading],
        remeasured: Collection[LayerShape] = (),
    ) -> None:
        owner = sa.select(RUN.c.fingerprint_id).where(RUN.c.id == run_id).scalar_subquery()
        lock_fingerprint(connection, owner)
        fingerprint_id = connection.execute(sa.select(owner)).scalar_one()
        put_clocks(connection, run_id, clocks=clocks)
        if not rows:
            return
        before = _rows_like(connection, fingerprint_id, shapes=[row.shape for row in rows])
        owners = {"fingerprint_id": fingerprint_id, "run_id": run_id}
        for again in (False, True):
            some = [as_row(row) | owners for row in rows if (row.shape in remeasured) == again]
            if some:
                connection.execute(self._upserts[again], some)
        after = _rows_like(connection, fingerprint_id, shapes=[row.shape for row in rows])
        seals.renew(connection, MEASUREMENT, before=before, after=after)
        old = {row_key(row): row for row in before}
        changed = {row_key(row) for row in after if old.get(row_key(row)) != row}
        replaced = [row for row in before if row_key(row) in changed]
        drop(connection, replaced, tables=(*DETAILS, QUARANTINE))
        fresh_rows = [row for row in rows if row_key(as_row(row) | owners) in changed]
        put_details(connection, owners, rows=fresh_rows, details=details)

    @cached_property
    def _upserts(self) -> tuple[Any, Any]:
        """To insert measurements, or put them in place of worse ones: at first, and again.

        See `add`. Built once: to build a statement takes as long as to execute it.
        """
        return self._upsert(again=False), self._upsert(again=True)

    def _upsert(self, *, again: bool) -> Any:
        statement = self.dialect.insert(MEASUREMENT)
        old, new = MEASUREMENT.c, statement.excluded
        narrower = new.ratio_high / new.ratio_low < old.ratio_high / old.ratio_low
        better = [sa.and_(old.converged == 0, sa.or_(new.converged == 1, narrower))]
        if again:
            same_run = new.run_id == old.run_id
            better += [new.converged == 1, sa.and_(same_run, new.converged == old.converged)]
        return statement.on_conflict_do_update(
            index_elements=list(KEY),
            set_={name: new[name] for name in (*COLUMNS, "run_id") if name not in KEY},
            where=sa.or_(old.error.is_not(None), sa.and_(new.error.is_(None), sa.or_(*better))),
        )

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
        found = {row_key(row): row for row in rows}
        points = {key: from_row(row) for key, row in found.items()}
        seconds = {row_key(row): tuple(json.loads(row["seconds"])) for row in samples}
        details = {
            points[row_key(row)].shape: Detail(
                quantiles_s=tuple(row[f"p{percent:02d}_s"] for percent in PERCENTS),
                samples_s=seconds[row_key(row)],
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


def _rows_like(
    connection: sa.Connection, fingerprint_id: str, *, shapes: Sequence[LayerShape]
) -> list[Any]:
    """What is stored of `shapes`, and perhaps of others with the same sizes."""
    query = sa.select(MEASUREMENT).where(MEASUREMENT.c.fingerprint_id == fingerprint_id)
    for name in ("tokens", "in_features", "out_features", "rank"):
        query = query.where(MEASUREMENT.c[name].in_({getattr(shape, name) for shape in shapes}))
    return [dict(row._mapping) for row in connection.execute(query)]
