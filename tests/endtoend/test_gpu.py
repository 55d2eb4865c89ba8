"""The whole run on the GPU that is here: measured with CUDA graphs, in bf16."""

import logging
import shutil

import pytest

from autotune.devices.detect import present_devices
from tests.outcomes import assert_finished

pytestmark = pytest.mark.gpu
_LOG = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def gpu():
    return next(device.spec.name for device in present_devices() if device.spec.kind == "cuda")


@pytest.fixture(scope="module")
def options(home, wide, gpu):
    return (
        "tune",
        "--model",
        wide,
        "--device",
        gpu,
        "--isl",
        256,
        "--calibration-samples",
        8,
        "--trials",
        0,
        "--sensitivity-rounds",
        0,
        "--measure-seconds",
        4,
        "--calibration",
        home / "text.txt",
        "--db",
        home / "latency.sqlite",
        "--quiet",
        "--format",
        "json",
    )


def test_a_prefill_budget_is_measured(cli, options, gpu, tmp_path):
    done = cli(
        *options, "--batch-size", 16, "--latency-budget", "0.9x", "--output", tmp_path / "out"
    )
    record = assert_finished(done)
    _LOG.warning(
        "prefill %s", {key: record[key] for key in record if "ratio" in key or "latency" in key}
    )
    assert record["device"]["device"] == gpu
    assert (record["backend"], record["dtype"]) == ("torch-cudagraph", "bf16")
    assert record["predicted_from"] == []
    assert 0 < record["measured_ratio_low"] <= record["measured_ratio"] < 1
    done = cli("bench", tmp_path / "out", "--format", "json")
    assert_finished(done)
    _LOG.warning("bench %s", done.stdout)


def test_a_request_is_measured_pass_by_pass(cli, options, tmp_path):
    """A step of a model so small is all launches: the prefill must carry the budget."""
    done = cli(
        *options,
        "--batch-size",
        16,
        "--osl",
        4,
        "--latency-budget",
        "0.97x",
        "--output",
        tmp_path / "out",
    )
    record = assert_finished(done)
    _LOG.warning("request %s", record["passes"])
    assert [one["name"] for one in record["passes"]] == ["prefill", "decode"]
    assert 0 < record["measured_ratio_low"] <= record["measured_ratio"] < 1


@pytest.mark.parametrize("past", [0, 64])
def test_a_captured_pass_runs_the_kernels_of_eager_mode(wide, tmp_path, past):
    """transformers 5.17 makes a mask while a graph is captured, and attention takes longer."""
    import torch
    from safetensors.torch import save_file

    from autotune.compress.checkpoint import load_for_timing
    from autotune.compress.decode import decode_inputs
    from autotune.compress.loading import load_class
    from autotune.profiler.backends.torch_cudagraph import captured

    folder = shutil.copytree(wide, tmp_path / "model")
    model = load_class("causal-lm", folder, dtype=None)
    inputs = {"input_ids": torch.ones(4, 64, dtype=torch.long)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if past:
        inputs = decode_inputs(model, 4, past_length=past)
    save_file(inputs, tmp_path / "inputs.safetensors")
    (folder / "task.json").write_text('{"task": "causal-lm", "dtype": "bf16"}')
    checkpoint = load_for_timing(folder, tmp_path / "inputs.safetensors", device="cuda")

    def one_pass():
        with torch.no_grad():
            checkpoint.run()

    assert kernels(captured(one_pass)) == kernels(one_pass)


def kernels(run):
    """The names of the kernels of one call, but for what only moves memory to set it up."""
    import torch

    for _ in range(3):
        run()
    torch.cuda.synchronize()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True
    ) as profile:
        run()
        torch.cuda.synchronize()
    names = {event.key for event in profile.key_averages() if event.self_device_time_total > 0}
    return {name for name in names if not name.startswith(("Memset", "Memcpy"))}
