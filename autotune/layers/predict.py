"""Latencies of single layers on a machine, from what is known without measuring."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.tuning.machine import Machine


@dataclass(frozen=True, kw_only=True)
class LayerPredictions:
    """Estimates of `shapes`, in the machine's dtype and in their order, and their sources."""

    shapes: tuple[LayerShape, ...]
    estimates: tuple[Estimate, ...]
    sources: tuple[str, ...]


class KnownLayers:
    """What is known of layers on a machine, ready to be asked; nothing is measured.

    Raises:
        UsageError: nothing is known of a device that is not here.
    """

    def __init__(self, machine: Machine, *, allow_extrapolation: bool = False) -> None:
        self._dtype = machine.dtype
        self._predictor, self._sources = machine.known_layers(
            allow_extrapolation=allow_extrapolation
        )

    def predict(self, shapes: Sequence[LayerShape]) -> LayerPredictions:
        """The latency of every shape with its interval and source.

        Raises:
            MeasurementError: nothing near a shape was measured, and extrapolation is not allowed.
        """
        typed = tuple(dataclasses.replace(shape, dtype=self._dtype) for shape in shapes)
        self._predictor.prepare(typed)
        return LayerPredictions(
            shapes=typed,
            estimates=tuple(self._predictor.estimate(shape) for shape in typed),
            sources=tuple(self._sources),
        )
