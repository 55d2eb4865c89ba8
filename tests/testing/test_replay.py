"""Recorded points as the truth."""

import dataclasses

import pytest

from autotune.core.errors import UsageError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape, Site
from autotune.profiler.measure.tasks import layer_task
from autotune.profiler.measure.timing import TimingPolicy
from autotune.profiler.sources.shipped import shipped_tables
from autotune.testing.disturbance import CALM
from autotune.testing.hardware import simulated_hardware
from autotune.testing.replay import RecordedHardware
from autotune.testing.runner import SimulatedRunner
from tests.conftest import DATA
from tests.forms import form_of


@pytest.fixture(scope="module")
def cpu():
    return RecordedHardware.from_export(DATA / "recorded_cpu.csv")


@pytest.fixture(scope="module")
def gpu():
    return RecordedHardware.shipped("h200-sxm", "bf16")


def h200(rank=None, tokens=2048, k=4096, n=4096):
    return LayerShape(
        tokens=tokens, in_features=k, out_features=n, form=form_of(rank), dtype="bf16"
    )


def test_what_was_recorded_is_the_truth(gpu):
    rows = shipped_tables("h200-sxm", "bf16")[0][1]
    assert len(gpu.shapes) == len({row.shape for row in rows}) > 10_000
    dense = {row.shape: row.latency_s for row in rows if row.shape == row.shape.dense}
    for row in rows[::97]:
        seconds = gpu.layer_latency_s(row.shape)
        expected = dense.get(row.shape.dense)
        assert seconds == pytest.approx(
            expected * row.ratio if expected else row.latency_s, rel=1e-9
        )


def test_a_runner_measures_what_was_recorded(cpu):
    shape = next(shape for shape in cpu.shapes if shape.rank)
    runner = SimulatedRunner(cpu, CALM)
    (found,) = runner.run([layer_task(shape.dense, (shape.form,), policy=TimingPolicy())])
    truth = cpu.layer_latency_s(shape) / cpu.layer_latency_s(shape.dense)
    assert found.timing.ratios[1] == pytest.approx(truth)


def test_between_recorded_ranks_the_truth_lies_between(gpu):
    """704 and 896 were recorded at 2048 tokens of 4096 x 4096, and 1129 to 1161 around a cliff."""
    low, between, high = (gpu.layer_latency_s(h200(rank)) for rank in (704, 800, 896))
    assert low < between < 1.1 * high
    assert gpu.layer_latency_s(h200(1151)) > 5 * gpu.layer_latency_s(h200(1152))
    # Not recorded, beside recorded neighbours that are: on the slow side of the cliff.
    assert gpu.layer_latency_s(h200(1155)) > 5 * gpu.layer_latency_s(h200(1160))


def test_points_left_out_are_near_what_was_recorded(gpu):
    """Interpolation is a truth of the same kind: held-out points come out near the recorded."""
    rows = shipped_tables("h200-sxm", "bf16")[0][1]
    dense = [row for row in rows if row.shape.is_dense and not row.shape.parts]
    held = dense[::50]
    rest = RecordedHardware(gpu.settings, [row for row in dense if row not in held])
    errors = sorted(abs(rest.layer_latency_s(row.shape) / row.latency_s - 1) for row in held)
    assert errors[len(errors) // 2] < 0.15


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_unrecorded_layers_have_a_latency_too(name, request):
    hardware = request.getfixturevalue(name)
    dtype = hardware.settings.default_dtype
    for tokens, k, n, rank in ((3, 100, 7000, None), (640, 768, 3072, 96), (1, 64, 64, 7)):
        shape = LayerShape(
            tokens=tokens, in_features=k, out_features=n, form=form_of(rank), dtype=dtype
        )
        ours = hardware.layer_latency_s(shape)
        assert 0.2 < ours / hardware.settings.layer_latency_s(shape) < 5
        shared = dataclasses.replace(shape, parts=(n // 2, n - n // 2))
        assert 0.2 < hardware.layer_latency_s(shared) / ours < 5


def test_networks_are_made_of_recorded_layers(cpu):
    dense = sorted({shape.dense for shape in cpu.shapes})[-1]
    sites = [
        Site(
            name=f"b.{i}",
            in_features=dense.in_features,
            out_features=dense.out_features,
            tokens=dense.tokens,
            block=i,
        )
        for i in range(6)
    ]
    linear = 6 * cpu.layer_latency_s(dense)
    network = cpu.network_latency_s(sites, {})
    assert 0.8 * linear < network < 2 * linear
    plan = {site.name: low_rank(16) for site in sites}
    ratio = cpu.network_latency_s(sites, plan) / network
    layer = cpu.layer_latency_s(dense.with_form(low_rank(16))) / cpu.layer_latency_s(dense)
    assert layer < ratio < 1


def test_a_recording_is_identified_by_its_points(cpu):
    rows = shipped_tables("h200-sxm", "fp16")[0][1]
    base = simulated_hardware("h200-like")
    one, two = RecordedHardware(base, rows), RecordedHardware(base, list(reversed(rows)))
    assert one.identity == two.identity != RecordedHardware(base, rows[:-1]).identity
    assert cpu.identity != cpu.settings.identity


def test_nothing_recorded_is_refused():
    with pytest.raises(UsageError, match="no recorded point has a latency"):
        RecordedHardware(simulated_hardware("cpu-like"), [])
    with pytest.raises(UsageError, match="ships no points of l40s in bf16"):
        RecordedHardware.shipped("l40s")
