"""A task that breaks its contract."""

import pytest

from autotune.compress.tasks.causal_lm import CausalLM
from autotune.testing.examples import example_model
from autotune.testing.suites.task import TaskSuite


class Mean(CausalLM):
    def loss(self, output, reference, *, batch):
        summed, count = super().loss(output, reference, batch=batch)
        return summed / count, count

    def figure(self, mean_loss):
        return round(mean_loss)


class TestMean(TaskSuite):
    @pytest.fixture
    def task(self):
        return Mean()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return example_model().model
