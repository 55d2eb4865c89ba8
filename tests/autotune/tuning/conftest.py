"""A small model as a tuning has it: traced, factorized, in a run folder."""

from pathlib import Path

import pytest

from autotune.compress.factors import FactorStore, build_factor_store
from autotune.compress.loading import LoadedModel
from autotune.compress.metrics import make_metric
from autotune.compress.statistics import Statistics
from autotune.core.progress import Reporter
from autotune.core.runfolder import RunFolder
from autotune.core.types import Workload
from autotune.core.workload import Budget
from autotune.search.allocators import make_allocator
from autotune.search.evidence import Evidence
from autotune.search.losses import PlanLosses, SearchSubject
from autotune.testing.examples import example_batches
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedBuilder, SimulatedMachine
from autotune.tuning.compression import Compression
from autotune.tuning.model import trace_model
from autotune.tuning.planner import Planner, count_totals
from autotune.tuning.workspace import Workspace
from tests.conftest import tiny_model

WORKLOAD = Workload(batch_size=2, sequence_length=8, output_length=4, phase="request")
Q = "model.layers.0.self_attn.q_proj"


def traced(kind="llama", workload=WORKLOAD, folder="/nonexistent", seed=0, weights_sha256="0" * 64):
    """A tiny decoder with its sites and joint sites."""
    loaded = LoadedModel(
        name="tiny",
        folder=Path(folder),
        task="causal-lm",
        model=tiny_model(kind, seed).requires_grad_(False),
        tokenizer=None,
        weights_sha256=weights_sha256,
    )
    return trace_model(loaded, workload)


@pytest.fixture(scope="module")
def model():
    return traced()


@pytest.fixture(scope="module")
def factors(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("factors") / "factors.safetensors"
    build_factor_store(
        model.loaded.model,
        model.single,
        path=path,
        metric=make_metric("weight"),
        statistics=Statistics(moments={}, input_group={}, rows={}, rows_per_item={}),
        joint=model.joint,
    )
    return FactorStore(path)


@pytest.fixture(scope="module")
def compression(model, factors):
    return Compression(model=model, factors=factors, key=model.key, metric="weight", storage="fp32")


@pytest.fixture
def workspace(tmp_path):
    with RunFolder(tmp_path / "out") as folder:
        yield Workspace(folder=folder, reporter=Reporter())


@pytest.fixture
def planner(model, compression, workspace, tmp_path):
    """Of a real small model, on a simulated machine."""
    subject = SearchSubject(
        model=model.loaded.model,
        task=model.task,
        sites=model.single,
        joint=model.joint,
        factors=compression.factors,
        batches=example_batches(2),
    )
    hardware = simulated_hardware("cpu-like")
    with SimulatedMachine(hardware, tmp_path / "latency.sqlite") as machine:
        network = machine.network(SimulatedBuilder(model, machine, workspace=workspace))
        yield Planner(
            model=model,
            errors=compression.error_table(8),
            network=network,
            totals=count_totals(model, network),
            budget=Budget(parameters="0.8x").limits(),
            allocator=make_allocator("exact"),
            evidence=Evidence(PlanLosses(subject)),
            storage="fp32",
            margin=0.01,
        )
