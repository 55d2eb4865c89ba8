"""Tests of the contract of `autotune.profiler.measure.tasks.TaskRunner`."""

from __future__ import annotations

import contextlib

import pytest

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.profiler.measure.tasks import Subject, TaskRunner, TimingTask, layer_task
from autotune.profiler.measure.timing import TimingPolicy


class TaskRunnerSuite:
    """Give the fixture `runner`; `dtype` is one that its backend runs."""

    dtype = "fp32"
    policy = TimingPolicy(max_seconds=0.3)

    @pytest.fixture
    def runner(self) -> TaskRunner:
        """The runner under test, which a subclass provides."""
        raise NotImplementedError("give a fixture named runner")

    def task(self, tokens: int = 16) -> TimingTask:
        """A small layer against its pair."""
        dense = LayerShape(tokens=tokens, in_features=64, out_features=96, dtype=self.dtype)
        return layer_task(dense, [low_rank(8)], policy=self.policy)

    def broken(self) -> TimingTask:
        """A network whose file does not exist."""
        subject = Subject(network="/nonexistent/network", inputs="/nonexistent/inputs")
        return TimingTask(subjects=(subject,), policy=self.policy)

    def test_every_task_has_one_outcome(self, runner: TaskRunner) -> None:
        """Exactly one outcome a task with its index; the first subject is the reference."""
        found = list(runner.run([self.task(16 * (i + 1)) for i in range(4)]))
        assert sorted(outcome.index for outcome in found) == list(range(4))
        for outcome in found:
            assert outcome.error is None
            assert outcome.timing is not None
            assert outcome.timing.ratios[0] == 1.0
            assert len(outcome.timing.latencies_s) == 2
            assert all(seconds > 0 for seconds in outcome.timing.latencies_s)

    def test_a_task_that_fails_costs_no_other(self, runner: TaskRunner) -> None:
        """A failure is an outcome with the error, not a death; the others are timed."""
        tasks = [self.task(), self.broken(), self.task(32)]
        found = {outcome.index: outcome for outcome in runner.run(tasks)}
        assert sorted(found) == [0, 1, 2]
        assert found[1].error
        assert found[1].timing is None
        assert not found[1].died
        assert found[0].error is None
        assert found[2].error is None

    def test_no_tasks_no_outcomes(self, runner: TaskRunner) -> None:
        """Nothing to time is done at once."""
        assert list(runner.run([])) == []

    def test_progress_is_a_share_of_the_tasks_time(self, runner: TaskRunner) -> None:
        """What is reported lies between 0 and 1; a runner may report nothing."""
        heard: list[float] = []
        list(runner.run([self.task()], heard.append))
        assert all(0.0 <= share <= 1.0 for share in heard)

    def test_leaving_early_frees_the_device(self, runner: TaskRunner) -> None:
        """To close the iterator ends what runs; the runner may be used again."""
        outcomes = runner.run([self.task(16 * (i + 1)) for i in range(8)])
        with contextlib.closing(outcomes):  # type: ignore[type-var]
            next(outcomes)
        assert [outcome.error for outcome in runner.run([self.task()])] == [None]
