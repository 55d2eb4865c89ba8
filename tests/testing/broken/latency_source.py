"""A latency source that breaks its contract."""

import pytest

from autotune.core.layers import LayerShape
from autotune.predictor.layers.sources import Guess, LatencySource
from autotune.testing.suites.latency_source import LatencySourceSuite


class Shared(LatencySource):
    def knows(self, shape):
        return True

    def price(self, shapes):
        return [Guess(latency_s=1.0 / len(shapes), half_width=0.1, source="roofline")]


class TestShared(LatencySourceSuite):
    known = tuple(LayerShape(tokens=m, in_features=8, out_features=8) for m in (1, 2))
    unknown = (LayerShape(tokens=3, in_features=8, out_features=8),)

    @pytest.fixture
    def make_source(self):
        return Shared
