"""A predictor whose answers are kept, for whoever asks for few shapes many times."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.core.errors import NotPricedError
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.predictor.base import LatencyPredictor


class Remembered(LatencyPredictor):
    """Another predictor, which is asked once for each shape."""

    def __init__(self, predictor: LatencyPredictor) -> None:
        self.interval = predictor.interval
        self._inner = predictor
        self._found: dict[LayerShape, Estimate | NotPricedError] = {}

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Ask for those that were not asked for before."""
        new = [shape for shape in dict.fromkeys(shapes) if shape not in self._found]
        if new:
            self._found |= zip(new, self._inner.answers(new), strict=True)

    def estimate(self, shape: LayerShape) -> Estimate:
        """As the other estimates it."""
        if (known := self._found.get(shape)) is None:
            self.prepare([shape])
        found = known or self._found[shape]
        if isinstance(found, Estimate):
            return found
        raise found
