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

            def weight_bytes(self, rows, columns, *, dtype):
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
    "task": """
        import torch
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
        """,
    "factors": """
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
        """,
    "judge_pool": """
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
        """,
    "hardware": """
        import random
        from autotune.testing.hardware import SimulatedHardware, simulated_hardware
        from autotune.testing.suites.hardware import HardwareSuite

        class Moody(SimulatedHardware):
            def layer_latency_s(self, shape):
                return random.random()

        class TestMoody(HardwareSuite):
            @pytest.fixture
            def make_hardware(self):
                return lambda: Moody(**vars(simulated_hardware("cpu-like")))
        """,
    "latency_source": """
        from autotune.core.layers import LayerShape
        from autotune.predictor.layers.sources import Guess, LatencySource
        from autotune.testing.suites.latency_source import LatencySourceSuite

        class Shared(LatencySource):
            def knows(self, shape):
                return True

            def price(self, shapes):
                return [Guess(latency_s=1.0 / len(shapes), half_width=0.1, source="roofline")]

        class TestShared(LatencySourceSuite):
            known = tuple(LayerShape(tokens=m, in_features=8, out_features=8) for m in (1, 2))
            unknown = (LayerShape(tokens=3, in_features=8, out_features=8),)

            @pytest.fixture
            def make_source(self):
                return Shared
        """,
    "task_runner": """
        from autotune.testing.hardware import simulated_hardware
        from autotune.testing.runner import SimulatedRunner
        from autotune.testing.suites.task_runner import TaskRunnerSuite

        class Giddy(SimulatedRunner):
            def run(self, tasks, progress=lambda fraction: None):
                for outcome in super().run(tasks, progress):
                    if outcome.error:
                        return
                    yield outcome

        class TestGiddy(TaskRunnerSuite):
            @pytest.fixture
            def runner(self):
                return Giddy(simulated_hardware("cpu-like"))
        """,
    "machine": """
        from autotune.testing.hardware import simulated_hardware
        from autotune.testing.machine import SimulatedBuilder, SimulatedMachine
        from autotune.testing.suites.machine import MachineSuite

        class Forgetful(SimulatedMachine):
            made = 0

            def __init__(self, folder):
                Forgetful.made += 1
                hardware = simulated_hardware("cpu-like", seed=self.made)
                super().__init__(hardware, folder / f"{self.made}.sqlite")

            def sources(self):
                return ["measured"]

            def compare(self, builds, inputs, *, final, advance):
                return super().compare(builds[::-1][:1], inputs, final=final, advance=advance)

        class TestForgetful(MachineSuite):
            @pytest.fixture
            def make_machine(self, tmp_path):
                return lambda: Forgetful(tmp_path)

            def builder(self, model, machine, *, workspace):
                return SimulatedBuilder(model, machine, workspace=workspace)
        """,
    "builder": """
        import itertools
        from autotune.testing.hardware import simulated_hardware
        from autotune.testing.machine import SimulatedMachine
        from autotune.testing.suites.builder import BuilderSuite
        from autotune.tuning.builders import Builder

        class Careless(Builder):
            def dense(self, phase):
                path = self.workspace.cache / "builds" / "dense"
                path.parent.mkdir(exist_ok=True)
                path.write_text(phase)
                return path

            def compressed(self, phase, compression, *, plan):
                path = self.dense(phase).with_name("-".join(plan))
                path.write_text("half a build")
                path.write_text(str(sorted(compression.layers(plan))))
                return path

        class TestCareless(BuilderSuite):
            @pytest.fixture
            def make_builder(self, model, tmp_path):
                hardware = simulated_hardware("cpu-like")
                machine = SimulatedMachine(hardware, tmp_path / "latency.sqlite")
                return lambda workspace: Careless(model, machine, workspace=workspace)
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
    "task": {
        "test_the_loss_is_a_sum",
        "test_curvature_signals_have_the_curvature_of_the_loss",
        "test_the_figure_is_monotone_in_the_mean_loss",
    },
    "factors": {
        "test_errors_fall_with_the_rank",
        "test_a_plan_has_the_factors_of_every_site",
        "test_the_same_plan_has_the_same_factors",
    },
    "judge_pool": {
        "test_every_plan_has_one_answer",
        "test_a_judge_that_dies_loses_no_plan",
        "test_a_closed_judge_answers_nothing",
    },
    "hardware": {"test_the_same_settings_are_the_same_device"},
    "latency_source": {
        "test_it_knows_what_it_can_price",
        "test_every_known_shape_has_one_price",
        "test_prices_do_not_depend_on_what_is_asked_together",
        "test_nothing_costs_nothing",
    },
    "task_runner": {"test_a_task_that_fails_costs_no_other"},
    "machine": {
        "test_its_latencies_have_one_fingerprint",
        "test_only_what_is_missing_is_measured",
        "test_networks_are_timed_with_the_dense_one_first",
        "test_only_predictions_have_sources",
    },
    "builder": {
        "test_what_is_built_is_reused",
        "test_the_key_names_the_cache_entry",
        "test_a_build_that_fails_leaves_nothing_behind",
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
    found = {
        line.split("::")[2].partition("[")[0].split()[0]
        for line in lines
        if f"test_{name}.py" in line
    }
    assert FAILS[name] <= found, report[-3000:]


@pytest.mark.slow
def test_a_suite_without_its_fixture_says_which(tmp_path):
    (tmp_path / "test_nothing.py").write_text(
        "from autotune.testing.suites.store import StoreSuite\n"
        "class TestNothing(StoreSuite):\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "give a fixture named open_store" in done.stdout
