"""Latency predictions for many layers, from tables cached until their database changes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from autotune.layers.predict import KnownLayers
from autotune.service.latencies import Latencies
from autotune.service.prediction_records import Prediction, Question
from autotune.tuning.machine import Machine
from autotune.tuning.machines import nearest_machine
from autotune.tuning.options import MachineOptions

_KEPT = 4


class Predictions:
    """A cache of latency tables by device, backend, dtype and extrapolation.

    Not thread-safe: predictors fit as they are asked. Of the tables, the latest used are kept.
    """

    def __init__(self, latencies: Latencies, *, threads: int | None = None) -> None:
        self.latencies, self.threads = latencies, threads
        self._tables: OrderedDict[MachineOptions, tuple[Machine, KnownLayers]] = OrderedDict()
        self._stamp: Any = None

    def answer(self, question: Question) -> Prediction:
        """One estimate per shape, in the machine's dtype.

        Raises:
            UsageError, DeviceMissingError: as `find_machine`, or nothing is known of a shape.
        """
        options = MachineOptions(
            device=question.device,
            backend=question.backend,
            dtype=question.dtype,
            threads=self.threads,
            database=self.latencies.address,
            allow_extrapolation=question.allow_extrapolation,
        )
        machine, layers = self._known(options)
        found = layers.predict(question.shapes)
        return Prediction(
            device=machine.spec.name,
            backend=machine.backend.name,
            dtype=machine.dtype,
            sources=found.sources,
            estimates=found.estimates,
        )

    def _known(self, options: MachineOptions) -> tuple[Machine, KnownLayers]:
        """The table of the options, of the database as it is now."""
        stamp = self.latencies.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            self._tables.clear()
        if options not in self._tables:
            with nearest_machine(options) as machine:
                layers = KnownLayers(machine, allow_extrapolation=options.allow_extrapolation)
                self._tables[options] = machine, layers
        self._tables.move_to_end(options)
        while len(self._tables) > _KEPT:
            self._tables.popitem(last=False)
        return self._tables[options]
