"""What every source of layer latencies promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from autotune.core.errors import NotPricedError
from autotune.core.layer_columns import LayerColumns
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate, Interval
from autotune.predictor.columns import EstimateColumns


class LatencyPredictor(ABC):
    """Seconds of a layer on one fingerprint.

    Contract (`autotune.testing.suites.predictor` checks it):
    - `estimate` returns 0 < low ≤ latency ≤ high (nominal 90 % interval) and names its source.
      `ratio` is latency / latency of the dense layer, as the same predictor estimates it.
    - Asked twice, it answers the same; the order of shapes, and whether they were announced to
      `prepare`, change nothing but the order of sums.
    - A shape that it knows nothing about raises, each time, unless extrapolation was allowed at
      construction: then the source is `roofline`.
    - `answer_columns` says of many layers what `answers` says of each.
    - What it learns it keeps, without a lock: one thread at a time may use it.

    `interval` states what the intervals hold: measurements of the same machine with the same
    software ("table"), or of another board and other software too ("transfer").
    """

    interval: Interval = "table"

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Hear what will be asked; one that learns together what it can is faster so.

        Shapes that it knows nothing about are passed over.
        """
        del shapes

    def answers(self, shapes: Sequence[LayerShape]) -> list[Estimate | NotPricedError]:
        """Many at once: the estimate of each shape, or why it has none."""
        self.prepare(shapes)
        return [self._answer(shape) for shape in shapes]

    def answer_columns(self, layers: LayerColumns) -> EstimateColumns:
        """The estimates of many layers as columns; `ColumnPredictor` computes them so."""
        return EstimateColumns.of(self.answers(layers.shapes()))

    def _answer(self, shape: LayerShape) -> Estimate | NotPricedError:
        try:
            return self.estimate(shape)
        except NotPricedError as error:
            return error

    @abstractmethod
    def estimate(self, shape: LayerShape) -> Estimate:
        """Seconds of `shape`.

        Raises:
            MeasurementError: nothing measured is near enough.
        """


class ColumnPredictor(LatencyPredictor):
    """A predictor that computes whole columns; single layers are columns of one row.

    What was asked layer by layer, or announced, is kept.
    """

    def __init__(self) -> None:
        self._kept: dict[LayerShape, Estimate] = {}

    @abstractmethod
    def answer_columns(self, layers: LayerColumns) -> EstimateColumns:
        """The estimates of many layers, which are not kept."""

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Answer all of them together."""
        self.answers(shapes)

    def answers(self, shapes: Sequence[LayerShape]) -> list[Estimate | NotPricedError]:
        """Many at once: the estimate of each shape, or why it has none."""
        missing = [shape for shape in dict.fromkeys(shapes) if shape not in self._kept]
        refused: dict[LayerShape, NotPricedError] = {}
        if missing:
            found = self.answer_columns(LayerColumns.of(missing)).answers()
            for shape, answer in zip(missing, found, strict=True):
                if isinstance(answer, Estimate):
                    self._kept[shape] = answer
                else:
                    refused[shape] = answer
        return [refused[shape] if shape in refused else self._kept[shape] for shape in shapes]

    def estimate(self, shape: LayerShape) -> Estimate:
        """Seconds and ratio of `shape`.

        Raises:
            MeasurementError: it has no price.
        """
        (found,) = self.answers([shape])
        if not isinstance(found, Estimate):
            raise found
        return found
