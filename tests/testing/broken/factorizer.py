"""A factorizer that breaks its contract."""

import pytest
import torch

from autotune.compress.factorizers.base import Factorizer
from autotune.testing.suites.factorizer import FactorizerSuite


class Careless(Factorizer):
    name = "careless"

    def factors(self, layer, rank):
        k = layer.weight.shape[1]
        return layer.weight[:, :rank], torch.rand(rank, k, dtype=torch.float64)


class TestCareless(FactorizerSuite):
    @pytest.fixture
    def factorizer(self):
        return Careless()
