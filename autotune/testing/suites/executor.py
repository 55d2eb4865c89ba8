"""Tests of the contract of `autotune.farm.base.Executor`."""

from __future__ import annotations

import contextlib
import dataclasses
import time

import pytest

from autotune.core.errors import DeviceMissingError, UsageError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.farm.base import Executor, Shard
from autotune.profiler.measure.tasks import TimingTask, layer_task
from autotune.profiler.measure.timing import TimingPolicy

# What a refusal may take; to wait for a device takes longer.
_AT_ONCE_S = 60.0


class ExecutorSuite:
    """Give the fixture `executor`: it reaches a `device` that runs `backend` in `dtype`.

    `absent` is a known device that it does not reach, `bad_dtype` one that the backend refuses.
    """

    device = "cpu"
    backend = "onnxruntime-cpu"
    dtype = "fp32"
    bad_dtype = "bf16"
    absent = "h200-sxm"
    threads = 1
    policy = TimingPolicy(max_seconds=0.3)

    @pytest.fixture
    def executor(self) -> Executor:
        """The executor under test, which a subclass provides."""
        raise NotImplementedError("give a fixture named executor")

    def task(self, tokens: int = 16, dtype: str | None = None) -> TimingTask:
        """A small layer against its pair."""
        dense = LayerShape(
            tokens=tokens, in_features=64, out_features=96, dtype=dtype or self.dtype
        )
        return layer_task(dense, [low_rank(8)], policy=self.policy)

    def shard(self, *tasks: TimingTask) -> Shard:
        """Tasks for the suite's device."""
        return Shard(device=self.device, backend=self.backend, threads=self.threads, tasks=tasks)

    def test_devices_are_named_and_counted(self, executor: Executor) -> None:
        """Each kind of device is listed once, with how many there are."""
        found = executor.devices()
        assert len({each.name for each in found}) == len(found)
        assert all(each.count >= 1 and each.reported_name for each in found)
        assert executor.require(self.device).name == self.device

    def test_every_task_has_one_outcome(self, executor: Executor) -> None:
        """`run` yields exactly one outcome for every task; `index` is its place in the shard."""
        tasks = [self.task(16 * (i + 1)) for i in range(10)]
        found = list(executor.run(self.shard(*tasks)))
        assert sorted(outcome.index for outcome in found) == list(range(10))
        for outcome in found:
            assert outcome.error is None
            assert outcome.timing is not None
            assert outcome.timing.ratios[0] == 1.0
            assert len(outcome.timing.latencies_s) == 2

    def test_no_tasks_no_outcomes(self, executor: Executor) -> None:
        """An empty shard is done at once."""
        assert list(executor.run(self.shard())) == []

    def test_a_task_that_fails_costs_no_other(self, executor: Executor) -> None:
        """A failing task is an outcome with the error, and the others are timed."""
        tasks = (self.task(), self.task(dtype=self.bad_dtype), self.task(32))
        found = {outcome.index: outcome for outcome in executor.run(self.shard(*tasks))}
        assert found[1].error
        assert not found[1].died
        assert found[0].error is None
        assert found[2].error is None

    def test_a_device_that_is_not_reached_is_refused_at_once(self, executor: Executor) -> None:
        """`run` itself raises, not its first outcome, and names the device."""
        shard = dataclasses.replace(self.shard(self.task()), device=self.absent)
        started = time.monotonic()
        with pytest.raises(DeviceMissingError, match=self.absent):
            executor.run(shard)
        assert time.monotonic() - started < _AT_ONCE_S

    def test_an_unknown_device_is_a_users_mistake(self, executor: Executor) -> None:
        """`require` of a device that nobody knows raises `UsageError`."""
        with pytest.raises(UsageError, match="abacus"):
            executor.require("abacus")

    def test_the_fingerprint_is_the_same_each_time(self, executor: Executor) -> None:
        """Measurements of one device, backend, dtype and number of threads share a fingerprint."""
        first, second = (
            executor.fingerprint(self.device, self.backend, dtype=self.dtype, threads=self.threads)
            for _ in range(2)
        )
        assert first == second
        assert (first.device, first.backend) == (self.device, self.backend)
        assert first.dtype == self.dtype

    def test_abilities_are_some_of_what_is_asked_for(self, executor: Executor) -> None:
        """Forms that were named, and the dtypes, the own one first; the same each time."""
        asked = ["dense", "rank=1", "dense:int8-static"]
        first, second = (
            executor.abilities(self.device, self.backend, dtype=self.dtype, forms=asked)
            for _ in range(2)
        )
        assert first == second
        assert set(first.forms) <= set(asked)
        assert {"dense", "rank=1"} <= set(first.forms)
        assert first.dtypes[0] == self.dtype

    def test_leaving_early_frees_the_device(self, executor: Executor) -> None:
        """To close the iterator ends what runs: the next shard does not wait for the rest."""
        outcomes = executor.run(self.shard(*(self.task(16 * (i + 1)) for i in range(40))))
        with contextlib.closing(outcomes):  # type: ignore[type-var]
            next(outcomes)
        assert [each.error for each in executor.run(self.shard(self.task()))] == [None]
