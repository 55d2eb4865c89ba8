"""A metric, an allocator, a backend and its builder of another distribution."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from autotune.compress.metrics import make_metric
from autotune.core.errors import ModelError, UsageError
from autotune.core.forms import low_rank
from autotune.profiler.backends import make_backend
from autotune.results.result import read_result
from autotune.search.allocators import make_allocator
from autotune.testing.suites.allocator import AllocatorSuite
from autotune.testing.suites.backend import BackendSuite
from autotune.testing.suites.metric import MetricSuite
from autotune.tuning.builders import BUILDERS, make_builder
from autotune.tuning.machines import find_machine
from autotune.tuning.options import MachineOptions
from tests.autotune.tuning.test_builders import DOWN, Q, machine_of, outputs
from tests.conftest import LLAMA
from tests.damage import save_model
from tests.outcomes import assert_finished

BACKEND = "exported-program"
pytestmark = [pytest.mark.usefixtures("third"), pytest.mark.duration(60)]


class TestDepthWeighted(MetricSuite):
    @pytest.fixture
    def metric(self, third):
        return make_metric("depth-weighted:emphasis=2,end=last")


class TestTapered(AllocatorSuite):
    @pytest.fixture
    def make_allocator(self, third):
        return lambda: make_allocator("tapered:taper=0.75")


class TestExportedProgram(BackendSuite):
    @pytest.fixture
    def backend(self, third):
        return make_backend(BACKEND, "cpu")


@pytest.mark.parametrize(
    ("make", "spec", "said"),
    [
        (make_metric, "depth-weighted:emphasis=11", "at least 0 and at most 10, got '11'"),
        (make_metric, "depth-weighted:end=middle", "one of first, last, got 'middle'"),
        (
            make_allocator,
            "tapered:taper=steep",
            "a finite number, at least 0 and at most 1, got 'steep'",
        ),
        (make_allocator, "tapered:slope=1", "unknown option 'slope'; known are taper"),
    ],
)
def test_options_have_types_and_bounds(make, spec, said):
    with pytest.raises(UsageError, match=said):
        make(spec)


def test_the_machine_of_its_backend_is_this_host(private_database):
    options = MachineOptions(device="cpu", backend=BACKEND, database=private_database)
    with find_machine(options) as machine:
        assert machine.verified
        assert (machine.backend.name, machine.dtype) == (BACKEND, "fp32")
        assert machine.fingerprint.backend == BACKEND
    with pytest.raises(UsageError, match=f"backend {BACKEND} runs fp32, not bf16"):
        find_machine(MachineOptions(device="cpu", backend=BACKEND, dtype="bf16"))


# Of torch.export.save, where weights share their storage.
@pytest.mark.filterwarnings("ignore:No complete tensor found in the group:UserWarning")
def test_its_builder_makes_what_its_backend_runs(model, compression, workspace):
    machine = machine_of(BACKEND, "fp32")
    builder = make_builder(model, machine, workspace=workspace)
    assert BUILDERS.distribution(BACKEND) == "third-party"
    assert type(builder).__module__ == "third_party.builder"
    plan = {Q: low_rank(8), DOWN: low_rank(24)}
    inputs = load_file(builder.inputs("prefill"))
    build = builder.compressed("prefill", compression, plan=plan)
    assert build == builder.compressed("prefill", compression, plan=plan)
    with compression.applied(plan) as applied:
        wanted = outputs(applied, inputs, "prefill")
    found = torch.export.load(build).module()(**inputs)
    assert torch.allclose(found, wanted, atol=1e-5)
    machine.backend.network(build, builder.inputs("prefill"), threads=1)()
    with pytest.raises(ModelError, match="no decode steps"):
        builder.dense("decode")


def tuned(tmp_path, *more):
    """A short tuning of a tiny model for a parameter budget, in a process of its own."""
    save_model(tmp_path / "tiny", width=128)
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "autotune",
                "--model",
                tmp_path / "tiny",
                "--params-budget",
                "0.95x",
            ),
            *("--batch-size", "1", "--isl", "32", "--calibration", LLAMA / "heldout.txt"),
            *("--calibration-samples", "4", "--effort", "quick", "--targets", "mlp"),
            *("-o", tmp_path / "out", "--format", "json", *more),
        ],
        env=dict(os.environ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert_finished(done, tmp_path / "out")
    return read_result(tmp_path / "out")


@pytest.mark.slow
def test_metric_and_allocator_tune(tmp_path):
    """The device is predicted: nothing is timed."""
    parts = ("--metric", "depth-weighted:emphasis=2,end=last", "--allocator", "tapered:taper=0.75")
    record = tuned(tmp_path, "--device", "h200", *parts)
    assert (record.solver.metric, record.solver.allocator) == (parts[1], parts[3])
    assert record.solver.name == "tapered"
    assert any(not form.is_dense for form in record.plan.values())


@pytest.mark.slow
def test_backend_and_builder_tune(tmp_path):
    record = tuned(tmp_path, "--device", "cpu", "--backend", BACKEND, "--threads", "1")
    assert record.backend == record.device.backend == BACKEND
    assert record.measured is not None
    assert list((tmp_path / "out" / ".cache").glob("program-compressed*.pt2"))
    assert any(not form.is_dense for form in record.plan.values())
