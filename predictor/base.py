"""What every source of layer latencies promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from autotune.core.layers import LayerShape
from autotune.core.types import Estimate


class LatencyPredictor(ABC):
    """Seconds of a layer on one fingerprint.

    Contract: `estimate` returns low ≤ latency ≤ high (nominal 90 % interval) and names its source;
    asked twice, it answers the same. A shape it knows nothing about raises, unless extrapolation
    was allowed at construction, and then says `roofline`.
    """

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Hear what will be asked; one that learns together what it can is faster so."""
        del shapes

    @abstractmethod
    def estimate(self, shape: LayerShape) -> Estimate:
        """Seconds of `shape`.

        Raises:
            MeasurementError: nothing measured is near enough.
        """
