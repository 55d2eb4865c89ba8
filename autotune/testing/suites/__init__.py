"""Conformance suites: one class of tests for every abstract class of this package.

Subclass a suite as `class TestMine(BackendSuite)`, give the one fixture that it names, and pytest
runs the contract against your implementation. The docstring of each test is the sentence of the
contract that it checks. The suites need pytest: `pip install 'lowrank-autotune[test]'`.
"""

from __future__ import annotations

import pytest

# The suite, as "module.Class" of this package, of every abstract class.
SUITES = {
    "autotune.compress.factorizers.base.Factorizer": "factorizer.FactorizerSuite",
    "autotune.compress.factors.Factors": "factors.FactorsSuite",
    "autotune.compress.metrics.base.Metric": "metric.MetricSuite",
    "autotune.compress.tasks.base.Task": "task.TaskSuite",
    "autotune.compress.precisions.base.Precision": "precision.PrecisionSuite",
    "autotune.core.store.base.Store": "store.StoreSuite",
    "autotune.farm.base.Executor": "executor.ExecutorSuite",
    "autotune.predictor.base.LatencyPredictor": "predictor.PredictorSuite",
    "autotune.predictor.layers.sources.LatencySource": "latency_source.LatencySourceSuite",
    "autotune.profiler.backends.base.Backend": "backend.BackendSuite",
    "autotune.profiler.measure.tasks.TaskRunner": "task_runner.TaskRunnerSuite",
    "autotune.search.allocators.base.Allocator": "allocator.AllocatorSuite",
    "autotune.search.judges.JudgePool": "judge_pool.JudgePoolSuite",
    "autotune.testing.hardware.Hardware": "hardware.HardwareSuite",
    "autotune.tuning.builders.Builder": "builder.BuilderSuite",
    "autotune.tuning.machine.Machine": "machine.MachineSuite",
}
# Abstract classes and protocols without a suite of their own, with the reason.
WITHOUT_SUITE = {
    "autotune.compress.tasks.labelled.LabelledTask": (
        "a half-finished Task: TaskSuite runs those that complete it"
    ),
    "autotune.compress.tasks.distances.Distance": (
        "private to tasks: TaskSuite runs every task with the distances that it has"
    ),
    "autotune.tuning.graph_builders._Checked": (
        "what the ONNX builders share: BuilderSuite runs each of them"
    ),
    "autotune.compress.onnx_lower._Lowering": "a function's signature, private to its module",
    "autotune.core.store.dialects.Dialect": (
        "private to Store: StoreSuite runs every kind of database on every dialect"
    ),
    "autotune.predictor.base.ColumnPredictor": (
        "a half-finished LatencyPredictor: PredictorSuite runs those that complete it"
    ),
    "autotune.predictor.products.sums.ProductSums": (
        "a half-finished LatencyPredictor: PredictorSuite runs both that complete it"
    ),
    "autotune.profiler.backends.base.NetworkLoader": (
        "a function's signature: the one that there is opens checkpoints for the torch backends"
    ),
    "autotune.profiler.backends.base.OpenNetwork": (
        "a function's signature: BuilderSuite and MachineSuite call the functions that have it"
    ),
    "autotune.search.judges.Judge": "JudgePoolSuite checks the judges that the pool hires",
    "autotune.search.judges.PlanJudge": "the part of PlanLosses that sensitivity probing calls",
    "autotune.tuning.measuring.SiteProfiler": (
        "a function's signature: MachineSuite checks the site latencies that come of it"
    ),
}
# Plain assertions then show what they compared, as they do in test modules.
pytest.register_assert_rewrite(
    *sorted({f"{__name__}.{suite.rpartition('.')[0]}" for suite in SUITES.values()})
)
