"""Seals: the sum of the sha256 of everything that belongs to a run.

A sum, so that a row more or less costs one hash and the order of rows does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from autotune.core.types import canonical_json
from autotune.profiler.database.schema import CLOCKS, MEASUREMENT, QUANTILES, RUN, SAMPLES, SOURCE

EMPTY = f"{0:064x}"
# Built once: to build a statement takes as long as to execute it.
_READ = sa.select(RUN.c.sha256).where(RUN.c.id == sa.bindparam("run"))
_WRITE = RUN.update().where(RUN.c.id == sa.bindparam("run")).values(sha256=sa.bindparam("seal"))
# What a seal covers. (A quarantine is a judgement, not a measurement, and may change.)
SEALED = (MEASUREMENT, QUANTILES, SAMPLES, CLOCKS, SOURCE)
Row = dict[str, Any]


def run_rows(connection: sa.Connection, table: sa.Table, *, run_id: str) -> list[Row]:
    """The rows of `table` that belong to a run."""
    query = sa.select(table).where(table.c.run_id == run_id)
    return [dict(row._mapping) for row in connection.execute(query)]


def true_seal(connection: sa.Connection, run_id: str) -> str:
    """The seal that the rows of a run have now."""
    rows = ((table, row) for table in SEALED for row in run_rows(connection, table, run_id=run_id))
    return _text(_digest(rows))


def seal(connection: sa.Connection, run_id: str) -> None:
    """Seal a run as it is."""
    sha256 = true_seal(connection, run_id)
    connection.execute(RUN.update().where(RUN.c.id == run_id).values(sha256=sha256))


def renew(
    connection: sa.Connection, table: sa.Table, *, before: Sequence[Row], after: Sequence[Row]
) -> None:
    """Take `before` out of the seals of their runs and put `after` into those of theirs."""
    for run_id in {row["run_id"] for row in (*before, *after)}:
        old = connection.execute(_READ, {"run": run_id}).scalar_one()
        gone, new = (
            _digest((table, row) for row in rows if row["run_id"] == run_id)
            for rows in (before, after)
        )
        sha256 = _text(int(old, 16) + new - gone)
        if sha256 != old:
            connection.execute(_WRITE, {"run": run_id, "seal": sha256})


def _digest(rows: Iterable[tuple[sa.Table, Row]]) -> int:
    total = 0
    for table, row in rows:
        # Measurements go without their table's name, as they did before there were others.
        text = canonical_json(row if table is MEASUREMENT else {**row, "": table.name})
        total += int.from_bytes(hashlib.sha256(text.encode()).digest())
    return total


def _text(total: int) -> str:
    return f"{total % (1 << 256):064x}"
