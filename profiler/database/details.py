"""What is written and removed together with a measurement, and the seals that go with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from autotune.core.layers import LayerShape
from autotune.core.types import canonical_json
from autotune.devices.health import ClockReading
from autotune.profiler.database import seals
from autotune.profiler.database.records import PERCENTS, Detail, Row
from autotune.profiler.database.rows import as_row
from autotune.profiler.database.schema import CLOCKS, FINGERPRINT, KEY, QUANTILES, SAMPLES

DETAILS = (QUANTILES, SAMPLES)


def row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a stored row is of."""
    return tuple(row[name] for name in KEY)


def lock_fingerprint(connection: sa.Connection, fingerprint_id: Any) -> None:
    """Take the lock of a fingerprint (an id, or a query for one) by a write that changes nothing.

    All that is read later in the transaction is read under it, and it keeps two runs from waiting
    for each other.
    """
    lock = FINGERPRINT.update().where(FINGERPRINT.c.id == fingerprint_id)
    connection.execute(lock.values(record=FINGERPRINT.c.record))


def put_details(
    connection: sa.Connection,
    owners: dict[str, str],
    *,
    rows: Sequence[Row],
    details: Mapping[LayerShape, Detail],
) -> None:
    """Store quantiles and samples of those of `rows` that have some."""
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


def put_clocks(connection: sa.Connection, run_id: str, *, clocks: Sequence[ClockReading]) -> None:
    """Add readings of the clocks to a run."""
    if not clocks:
        return
    query = sa.select(sa.func.count()).where(CLOCKS.c.run_id == run_id)
    first = connection.execute(query).scalar_one()
    rows = [{"run_id": run_id, "number": first + i, **vars(c)} for i, c in enumerate(clocks)]
    connection.execute(CLOCKS.insert(), rows)
    seals.renew(connection, CLOCKS, before=[], after=rows)


def drop(
    connection: sa.Connection, rows: Sequence[Mapping[str, Any]], *, tables: Sequence[sa.Table]
) -> None:
    """Remove what `tables` hold of the stored `rows`, and take it out of its runs' seals."""
    if not rows:  # most often; to build the statements takes longer than all else
        return
    keys = [{f"key_{name}": row[name] for name in KEY} for row in rows]
    for table in tables:
        same = sa.and_(*(table.c[name] == sa.bindparam(f"key_{name}") for name in KEY))
        query = table.select().where(same)
        gone = [dict(row._mapping) for key in keys for row in connection.execute(query, key)]
        if gone:
            connection.execute(table.delete().where(same), keys)
            if table in seals.SEALED:
                seals.renew(connection, table, before=gone, after=[])
