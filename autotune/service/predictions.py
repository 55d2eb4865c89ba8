"""Latency predictions for many layers, from tables cached until their database changes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from autotune.core.layers import LayerShape
from autotune.layers.predict import KnownLayers, LayerPredictions
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.schema import QUARANTINE, RUN
from autotune.service.settings import Settings
from autotune.tuning.machine import Machine
from autotune.tuning.machines import nearest_machine
from autotune.tuning.options import MachineOptions

_KEPT = 16


class Predictions:
    """A cache of latency tables by device, backend, dtype and extrapolation. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._tables: dict[MachineOptions, tuple[Machine, KnownLayers]] = {}
        self._stamp: Any = None

    def answer(
        self,
        device: str,
        backend: str | None,
        dtype: str | None,
        shapes: Sequence[LayerShape],
        *,
        allow_extrapolation: bool = False,
    ) -> tuple[Machine, LayerPredictions]:
        """The machine, and one estimate per shape in the machine's dtype.

        Raises:
            UsageError, DeviceMissingError: as `find_machine`, or nothing is known of a shape.
        """
        options = MachineOptions(
            device=device,
            backend=backend,
            dtype=dtype,
            threads=self.settings.threads,
            database=self.settings.latency_database,
            allow_extrapolation=allow_extrapolation,
        )
        with self._lock:  # predictors fit as they are asked
            machine, layers = self._known(options)
            return machine, layers.predict(shapes)

    def _known(self, options: MachineOptions) -> tuple[Machine, KnownLayers]:
        stamp = self._database_stamp()
        if stamp != self._stamp or len(self._tables) >= _KEPT:
            self._stamp, self._tables = stamp, {}
        if options not in self._tables:
            with nearest_machine(options) as machine:
                layers = KnownLayers(machine, allow_extrapolation=options.allow_extrapolation)
                self._tables[options] = machine, layers
        return self._tables[options]

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
