"""Latency predictions for many layers, from tables cached until their database changes."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from autotune.core.types import Estimate, LayerShape
from autotune.layers.predict import layer_predictor
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.schema import QUARANTINE, RUN
from autotune.service.settings import Settings
from autotune.tune.target import Target, find_target

if TYPE_CHECKING:
    from autotune.predictor.base import LatencyPredictor

_KEPT = 16


class Predictions:
    """A cache of latency tables by device, backend, dtype and extrapolation. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._tables: dict[Any, tuple[LatencyPredictor, list[str]]] = {}
        self._stamp: Any = None

    def answer(
        self,
        device: str,
        backend: str | None,
        dtype: str | None,
        shapes: Sequence[LayerShape],
        guess: bool = False,
    ) -> tuple[Target, list[str], list[Estimate]]:
        """Predict the latency of `shapes`, which are taken in the dtype of the target.

        Returns the target, the sources of its table, and one estimate per shape.

        Raises:
            UsageError: the device, backend or dtype is unknown or they do not go together, or a
                shape lies outside of all that is known.
            DeviceMissingError: the device is not here and no table of it is known.
        """
        address = self.settings.latency_database
        target = find_target(device, backend, dtype, database=address, extrapolate=guess)
        typed = [dataclasses.replace(shape, dtype=target.dtype) for shape in shapes]
        with self._lock:  # predictors are fitted when they are first asked
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

    def _database_stamp(self) -> object:
        """A value that changes with every point that is added, replaced or put into quarantine.

        Each run carries a seal of its rows that is renewed with them, so the seals stand for all
        points. Only a quarantine leaves them as they are.
        """
        with LatencyDatabase(self.settings.latency_database) as store:
            with store.transaction() as connection:
                seals = connection.execute(sa.select(RUN.c.id, RUN.c.sha256)).all()
                count = sa.select(sa.func.count()).select_from(QUARANTINE)
                return frozenset(map(tuple, seals)), connection.execute(count).scalar_one()
