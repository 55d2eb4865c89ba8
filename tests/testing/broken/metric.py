"""A metric that breaks its contract."""

import pytest
import torch

from autotune.compress.metrics.base import Metric, Whitening
from autotune.testing.suites.metric import MetricSuite


class Singular(Metric):
    name = "singular"

    def whitening(self, site, statistics):
        right = torch.rand(site.in_features, site.in_features)
        right[0] = 0
        return Whitening(left=None, right=right, scale=1.0)


class TestSingular(MetricSuite):
    @pytest.fixture
    def metric(self):
        return Singular()
