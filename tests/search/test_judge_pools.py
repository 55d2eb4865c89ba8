"""The suite for pools of judges: processes on this machine, and judges in this very process."""

import pytest

from autotune.search.evaluator import Evaluators
from autotune.search.judges import JudgePool
from autotune.testing.suites.judge_pool import JudgePoolSuite
from tests.search.test_evaluator import world

__all__ = ["world"]


class WorldSuite(JudgePoolSuite):
    """Plans of a tiny model, judged here for comparison."""

    @pytest.fixture
    def plans(self, world):
        return world[1]

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, world):
        _, plans, plan_losses = world
        alone = plan_losses()
        return [alone.losses(plan) for plan in plans]


@pytest.mark.slow
@pytest.mark.duration(60)
class TestEvaluators(WorldSuite):
    @pytest.fixture
    def make_pool(self, world):
        return lambda: Evaluators(world[0], 2, threads=1)


class HereJudge:
    def __init__(self, answer):
        self.answer, self.closed = answer, False

    def ask(self, plan):
        return None if self.closed else self.answer(plan)

    def close(self):
        self.closed = True


class HerePool(JudgePool):
    """Judges that are objects of this process: nothing but the pool itself is under test."""

    def __init__(self, places, answer):
        super().__init__(places)
        self.answer = answer

    def hire(self):
        return HereJudge(self.answer)


class TestJudgesInThisProcess(WorldSuite):
    @pytest.fixture(params=[1, 2, 5])
    def make_pool(self, request, plans, expected):
        def losses(plan):
            return expected[plans.index(plan)]

        return lambda: HerePool(request.param, losses)
