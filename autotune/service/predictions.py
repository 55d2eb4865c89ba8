"""Predictions for many layers at once, from tables that are kept until their database changes."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.layers.predict import layer_predictor
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.schema import MEASUREMENT, RUN
from autotune.service.settings import Settings
from autotune.tune.target import Target, find_target

if TYPE_CHECKING:
    from autotune.predictor.base import LatencyPredictor

_KEPT = 16


class Predictions:
    """Tables by device, backend, dtype and whether they may extrapolate. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._tables: dict[Any, tuple[LatencyPredictor, list[str]]] = {}
        self._stamp: Any = None

    def answer(
        self, device: str, backend: str | None, dtype: str | None, shapes: Sequence[LayerShape],
        guess: bool = False,
    ) -> tuple[Target, list[str], list[Estimate]]:  # fmt: skip
        """The target, what its table goes by, and one estimate a shape (in the target's dtype).

        Raises:
            UsageError, DeviceMissingError: as `find_target`, or nothing is known of a shape.
        """
        address = self.settings.latency_database
        target = find_target(device, backend, dtype, database=address, extrapolate=guess)
        typed = [dataclasses.replace(shape, dtype=target.dtype) for shape in shapes]
        with self._lock:  # predictors fit as they are asked
            table, sources = self._table(target, guess)
            table.prepare(typed)
            return target, sources, [table.estimate(shape) for shape in typed]

    def _table(self, target: Target, guess: bool) -> tuple[LatencyPredictor, list[str]]:
        stamp = self._database_stamp()
        if stamp != self._stamp:
            self._stamp, self._tables = stamp, {}
        key = (target.spec.name, target.backend.name, target.dtype, guess)
        if key not in self._tables:
            if len(self._tables) >= _KEPT:
                self._tables.clear()
            self._tables[key] = layer_predictor(
                target, self.settings.threads, self.settings.latency_database, guess
            )
        return self._tables[key]

    def _database_stamp(self) -> tuple[int, ...]:
        """Changes whenever rows are added."""
        counts = (sa.select(sa.func.count()).select_from(table) for table in (RUN, MEASUREMENT))
        with LatencyDatabase(self.settings.latency_database) as store:
            with store.transaction() as connection:
                return tuple(connection.execute(query).scalar_one() for query in counts)
