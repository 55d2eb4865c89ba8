"""A precision that breaks its contract."""

import pytest
import torch

from autotune.compress.precisions.base import Precision
from autotune.testing.suites.precision import PrecisionSuite


class Dithered(Precision):
    name = "Dithered"

    def weight_bytes(self, rows, columns, *, dtype):
        return rows * columns / 2

    def rounded(self, weight):
        scale = weight.abs().amax(1, keepdim=True) / 7
        return ((weight / scale + torch.rand_like(weight)).floor() * scale).float()


class TestDithered(PrecisionSuite):
    @pytest.fixture
    def precision(self):
        return Dithered()
