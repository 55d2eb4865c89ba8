"""Points that somebody wants to forget: chosen, counted and removed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from autotune.core.types import Fingerprint
from autotune.profiler.database.details import DETAILS, drop, lock_fingerprint, row_key
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.records import Measurement, Row
from autotune.profiler.database.rows import as_row
from autotune.profiler.database.schema import MEASUREMENT, QUARANTINE


@dataclass(frozen=True, kw_only=True)
class Forgettable:
    """Which points are meant; what is None or empty does not narrow the choice.

    `fingerprint` is the beginning of an id. `sizes` are (input, output) features of layers, in all
    their forms, and `tokens` the rows of their input. With `not_converged`, timings that settled
    are not meant.
    """

    device: str | None = None
    fingerprint: str = ""
    not_converged: bool = False
    sizes: Collection[tuple[int, int]] = ()
    tokens: Collection[int] = ()

    def covers(self, fingerprint: Fingerprint) -> bool:
        """Whether points of the fingerprint are meant."""
        same_device = self.device is None or fingerprint.device == self.device
        return same_device and fingerprint.id.startswith(self.fingerprint)

    def covers_row(self, row: Row) -> bool:
        """Whether this point, of such a fingerprint, is meant."""
        if self.not_converged and isinstance(row, Measurement) and row.converged:
            return False
        shape = row.shape
        same_size = not self.sizes or (shape.in_features, shape.out_features) in self.sizes
        return same_size and (not self.tokens or shape.tokens in self.tokens)


def find_forgettable(database: LatencyDatabase, chosen: Forgettable) -> dict[str, list[Row]]:
    """The points that are meant by the id of their fingerprint, those in quarantine too."""
    found = {
        key: [row for row in database.rows(key, quarantined=True) if chosen.covers_row(row)]
        for key, fingerprint in database.fingerprints().items()
        if chosen.covers(fingerprint)
    }
    return {key: rows for key, rows in found.items() if rows}


def forget(database: LatencyDatabase, found: Mapping[str, Sequence[Row]]) -> int:
    """Remove points with their samples, as they are stored now; returns how many there were."""
    count = 0
    with database.transaction() as connection:
        for key in sorted(found):
            lock_fingerprint(connection, key)
            wanted = {row_key({**as_row(row), "fingerprint_id": key}) for row in found[key]}
            query = sa.select(MEASUREMENT).where(MEASUREMENT.c.fingerprint_id == key)
            rows = [dict(row._mapping) for row in connection.execute(query)]
            gone = [row for row in rows if row_key(row) in wanted]
            drop(connection, gone, tables=(*DETAILS, QUARANTINE, MEASUREMENT))
            count += len(gone)
    return count
