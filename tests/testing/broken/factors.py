"""A factors that breaks its contract."""

import pytest
import torch

from autotune.compress.factors import Factors
from autotune.testing.suites.factors import FactorsSuite


class Random(Factors):
    def errors(self, site):
        return torch.rand(min(site.in_features, site.out_features) + 1)

    def plan(self, forms):
        for site, form in list(forms.items())[:1]:
            down = torch.rand(form.rank, site.in_features)
            yield site, (torch.rand(site.out_features, form.rank), down)


class TestRandom(FactorsSuite):
    @pytest.fixture
    def factors(self):
        return Random()
