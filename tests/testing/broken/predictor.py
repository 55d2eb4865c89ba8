"""A predictor that breaks its contract."""

import pytest

from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.predictor.base import LatencyPredictor
from autotune.testing.shapes import at_rank
from autotune.testing.suites.predictor import PredictorSuite


class Moody(LatencyPredictor):
    asked = 0

    def estimate(self, shape):
        self.asked += 1
        seconds = float(self.asked)
        return Estimate(latency_s=seconds, low_s=1.0, high_s=9.0, ratio=1.0, source="roofline")


class TestMoody(PredictorSuite):
    known = tuple(
        at_rank(LayerShape(tokens=1, in_features=8, out_features=8), rank) for rank in (0, 2)
    )
    unknown = LayerShape(tokens=2, in_features=8, out_features=8)

    @pytest.fixture
    def make_predictor(self):
        return Moody
