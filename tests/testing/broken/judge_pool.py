"""A judge pool that breaks its contract."""

import pytest

from autotune.core.forms import low_rank
from autotune.search.judges import JudgePool
from autotune.testing.suites.judge_pool import JudgePoolSuite

PLANS = [{"mlp": low_rank(rank)} for rank in (8, 16, 24, 32)]


class Immortal:
    def ask(self, plan):
        return [[float(plan["mlp"].rank), 2.0]]

    def close(self):
        pass


class Forgetful(JudgePool):
    def hire(self):
        return Immortal()

    def losses(self, plans):
        yield from super().losses(plans[1:])


class TestForgetful(JudgePoolSuite):
    @pytest.fixture
    def plans(self):
        return PLANS

    @pytest.fixture
    def expected(self):
        return [Immortal().ask(plan) for plan in PLANS]

    @pytest.fixture
    def make_pool(self):
        return lambda: Forgetful(2)
