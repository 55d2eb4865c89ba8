"""Latency predictions for many layers, from tables cached until their database changes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from autotune.core.layers import LayerShape
from autotune.layers.predict import KnownLayers, LayerPredictions
from autotune.service.latencies import Latencies
from autotune.service.settings import Settings
from autotune.tuning.machine import Machine
from autotune.tuning.machines import nearest_machine
from autotune.tuning.options import MachineOptions

_KEPT = 16


class Predictions:
    """A cache of latency tables by device, backend, dtype and extrapolation. Thread-safe."""

    def __init__(self, settings: Settings, latencies: Latencies) -> None:
        self.settings, self.latencies = settings, latencies
        self._lock = threading.Lock()
        self._tables: dict[MachineOptions, tuple[Machine, KnownLayers]] = {}
        self._stamp: Any = None

    def answer(
        self,
        device: str,
        backend: str | None,
        *,
        dtype: str | None,
        shapes: Sequence[LayerShape],
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
        stamp = self.latencies.stamp()  # before the lock: nobody waits for another's database
        with self._lock:  # predictors fit as they are asked
            machine, layers = self._known(options, stamp)
            return machine, layers.predict(shapes)

    def _known(self, options: MachineOptions, stamp: object) -> tuple[Machine, KnownLayers]:
        """The table of the options; one that was made at `stamp` or later."""
        full = options not in self._tables and len(self._tables) >= _KEPT
        if stamp != self._stamp or full:
            self._stamp, self._tables = stamp, {}
        if options not in self._tables:
            with nearest_machine(options) as machine:
                layers = KnownLayers(machine, allow_extrapolation=options.allow_extrapolation)
                self._tables[options] = machine, layers
        return self._tables[options]
