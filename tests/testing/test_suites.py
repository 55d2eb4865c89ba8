"""A suite fails an implementation that breaks its contract."""

import subprocess
import sys
import textwrap

import pytest

BROKEN = {
    "backend": """
        from autotune.profiler.backends.base import TimedLayer
        from autotune.testing.backend import SimulatedBackend
        from autotune.testing.hardware import simulated_hardware
        from autotune.testing.suites.backend import BackendSuite

        class Careless(SimulatedBackend):
            def layer(self, shape, threads):
                return TimedLayer(run=super().layer(shape, threads).run, copies=99)

        class TestCareless(BackendSuite):
            @pytest.fixture
            def backend(self):
                return Careless(simulated_hardware("cpu-like"))
        """,
    "predictor": """
        from autotune.core.layers import LayerShape
        from autotune.core.types import Estimate
        from autotune.predictor.base import LatencyPredictor
        from autotune.testing.shapes import at_rank
        from autotune.testing.suites.predictor import PredictorSuite

        class Moody(LatencyPredictor):
            asked = 0

            def estimate(self, shape):
                self.asked += 1
                seconds = float(self.asked)
                return Estimate(
                    latency_s=seconds, low_s=1.0, high_s=9.0, ratio=1.0, source="roofline"
                )

        class TestMoody(PredictorSuite):
            known = tuple(
                at_rank(LayerShape(tokens=1, in_features=8, out_features=8), rank)
                for rank in (0, 2)
            )
            unknown = LayerShape(tokens=2, in_features=8, out_features=8)

            @pytest.fixture
            def make_predictor(self):
                return Moody
        """,
    "allocator": """
        from autotune.search.allocators.exact import Exact
        from autotune.testing.suites.allocator import AllocatorSuite

        class Greedy(Exact):
            def allocate(self, question):
                question.evidence.subject.model.requires_grad_(True)
                everything = {site.name: question.at_keep_ratio(site, 2) for site in question.sites}
                return question.allocation(everything, solver="greedy")

        class TestGreedy(AllocatorSuite):
            @pytest.fixture
            def make_allocator(self):
                return Greedy
        """,
    "metric": """
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
        """,
    "factorizer": """
        import torch
        from autotune.compress.factorizers.base import Factorizer
        from autotune.testing.suites.factorizer import FactorizerSuite

        class Careless(Factorizer):
            name = "careless"

            def factors(self, layer, rank):
                n, k = layer.weight.shape
                return layer.weight[:, :rank], torch.rand(rank, k, dtype=torch.float64)

        class TestCareless(FactorizerSuite):
            @pytest.fixture
            def factorizer(self):
                return Careless()
        """,
    "precision": """
        import torch
        from autotune.compress.precisions.base import Precision
        from autotune.testing.suites.precision import PrecisionSuite

        class Dithered(Precision):
            name = "Dithered"

            def weight_bytes(self, rows, columns, dtype):
                return rows * columns / 2

            def rounded(self, weight):
                scale = weight.abs().amax(1, keepdim=True) / 7
                return ((weight / scale + torch.rand_like(weight)).floor() * scale).float()

        class TestDithered(PrecisionSuite):
            @pytest.fixture
            def precision(self):
                return Dithered()
        """,
    "store": """
        from contextlib import contextmanager
        from autotune.core.store.base import Store
        from autotune.testing.suites.store import StoreSuite

        class Leaky(Store):
            what = "leaky database"
            schema = 1

            def migrate(self, connection, found):
                connection.exec_driver_sql("CREATE TABLE leaky (value INTEGER)")

            @contextmanager
            def transaction(self):
                with self._engine.connect() as connection:
                    try:
                        yield connection
                    finally:
                        connection.commit()

        class TestLeaky(StoreSuite):
            @pytest.fixture
            def open_store(self, tmp_path):
                return lambda: Leaky(tmp_path / "leaky.sqlite")
        """,
    "executor": """
        import dataclasses
        from autotune.farm.local import LocalExecutor
        from autotune.profiler.measure.tasks import Outcome
        from autotune.testing.suites.executor import ExecutorSuite

        class Forgetful(LocalExecutor):
            def run(self, shard):
                for i, _ in enumerate(shard.tasks[1:]):
                    yield Outcome(index=i, error="ValueError: lost")

        class TestForgetful(ExecutorSuite):
            @pytest.fixture
            def executor(self):
                return Forgetful()
        """,
}
FAILS = {
    "backend": {"test_copies_are_those_that_a_call_runs"},
    "predictor": {
        "test_an_unknown_shape_is_refused",
        "test_asked_twice_it_answers_the_same",
        "test_order_and_preparation_change_nothing",
    },
    "allocator": {"test_every_budget_holds", "test_the_model_is_left_as_it_was"},
    "metric": {
        "test_roots_are_lower_triangular_and_fp64",
        "test_full_rank_is_exact_and_errors_fall",
        "test_the_same_statistics_give_the_same_roots",
        "test_sites_with_one_input_share_the_right_root",
    },
    "factorizer": {
        "test_full_rank_is_exact",
        "test_it_is_deterministic",
        "test_the_layer_is_left_as_it_was",
    },
    "precision": {
        "test_forms_spell_its_name",
        "test_rounding_keeps_shape_dtype_and_weight",
        "test_rounding_twice_changes_nothing_more",
    },
    "store": {
        "test_an_error_takes_the_transaction_back",
        "test_a_refused_row_is_one_of_our_errors",
        "test_a_statement_that_fails_is_one_of_our_errors",
    },
    "executor": {
        "test_every_task_has_one_outcome",
        "test_a_task_that_fails_costs_no_other",
        "test_a_device_that_is_not_reached_is_refused_at_once",
    },
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """All broken implementations under their suites, in one run."""
    folder = tmp_path_factory.mktemp("broken")
    for name, text in BROKEN.items():
        (folder / f"test_{name}.py").write_text("import pytest\n" + textwrap.dedent(text))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-rfE",
        "--tb=line",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stdout
    return done.stdout


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_contract_is_found(name, report):
    lines = [line for line in report.splitlines() if line.startswith("FAILED")]
    found = {line.split("::")[2].partition("[")[0].split()[0] for line in lines if name in line}
    assert FAILS[name] <= found, report[-3000:]


def test_a_suite_without_its_fixture_says_which(tmp_path):
    (tmp_path / "test_nothing.py").write_text(
        "from autotune.testing.suites.store import StoreSuite\n"
        "class TestNothing(StoreSuite):\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "give a fixture named open_store" in done.stdout
