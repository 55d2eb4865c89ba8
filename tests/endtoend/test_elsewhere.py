"""A budget on a GPU that is not here: predicted, said so everywhere, and nothing pretended."""

import json
import shutil

import pytest
from safetensors import safe_open

from autotune.devices.detect import gpu_names
from tests.endtoend.conftest import save_wide
from tests.outcomes import assert_agrees

pytestmark = [
    pytest.mark.skipif(bool(gpu_names()), reason="there is a GPU here"),
    pytest.mark.slow,
    pytest.mark.duration(60),
]
DEVICES = {"h200": "this project's database", "a100": "aiconfigurator-core"}


@pytest.fixture(scope="module")
def wide(home):
    """One layer: its factors, which take most of the time here, are those of any."""
    return save_wide(home / "wide", layers=1)


@pytest.fixture(scope="module")
def calibrated(home, wide):
    return (
        "tune",
        "--model",
        wide,
        "--batch-size",
        32,
        "--isl",
        128,
        "--calibration-samples",
        8,
        "--trials",
        0,
        "--sensitivity-rounds",
        0,
        "--calibration",
        home / "text.txt",
        "--db",
        home / "latency.sqlite",
        "--quiet",
    )


@pytest.fixture(scope="module")
def calibrated_run(cli, calibrated, tmp_path_factory):
    """A run folder whose statistics and factors serve every device."""
    folder = tmp_path_factory.mktemp("elsewhere") / "out"
    done = cli(*calibrated, "--device", "a100", "--latency-budget", "1us", "--output", folder)
    assert done.returncode == 3
    assert "no plan needs less than" in done.stderr
    return folder


@pytest.fixture(scope="module", params=["a100", "h200"])
def predicted(request, cli, calibrated, calibrated_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predicted") / "out"
    shutil.copytree(calibrated_run, folder)
    done = cli(
        *calibrated,
        "--device",
        request.param,
        "--latency-budget",
        "0.85x",
        "--output",
        folder,
        "--format",
        "json",
    )
    record = json.loads(done.stdout)
    assert_agrees(done, record)
    return request.param, folder, record


def test_the_result_says_that_nothing_was_measured(predicted):
    device, folder, record = predicted
    assert record["measured_ratio"] is record["measured_latency_s"] is None
    assert DEVICES[device] in " ".join(record["predicted_from"])
    assert "modelled" in record["predicted_from"][-1]
    assert record["predicted_ratio"] <= 0.85
    # The interval of a prediction is wide: it decides only where all of it is within the budget.
    (phase,) = record["passes"]
    assert record["within_budget"] is (True if phase["ratio_high"] <= 0.85 else None)
    low, high = record["predicted_latency_low_s"], record["predicted_latency_high_s"]
    assert 0 < low < record["predicted_latency_s"] < high
    assert record["dtype"] == "bf16"
    assert record["artefacts"] == {}
    page = (folder / "report.html").read_text()
    assert "Nothing was measured" in page
    assert "Closed loop" not in page
    assert all(site["measured_latency_s"] is None for site in record["sites"] if "group" in site)


def test_ranks_are_those_that_the_table_knows(predicted):
    device, _, record = predicted
    step = 32 if device == "a100" else 8
    ranks = [site["rank"] for site in record["sites"] if site["rank"]]
    assert ranks and all(rank % step == 0 for rank in ranks)


def test_the_checkpoint_is_in_the_dtype_of_the_device_and_loads(predicted):
    import torch
    from transformers import AutoModelForCausalLM

    import autotune.compress.checkpoint  # noqa: F401 (registers the plug-in)

    _, folder, record = predicted
    with safe_open(folder / "model" / "model.safetensors", "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert model.dtype == torch.bfloat16
    found = sum(1 for module in model.modules() if type(module).__name__.endswith("LowRankLinear"))
    assert found >= sum(1 for site in record["sites"] if site["rank"])
    assert record["stored_bytes"]["dense"] == 2 * record["parameters"]["dense"]
    assert torch.isfinite(model(torch.arange(8)[None]).logits).all()


def test_bench_refuses_what_was_never_measured(predicted, cli):
    _, folder, _ = predicted
    done = cli("bench", folder)
    assert done.returncode == 2
    assert "was not present" in done.stderr


def test_absolute_budgets_decode_steps_and_requests(predicted, cli, calibrated, tmp_path):
    device, folder, record = predicted
    if device != "a100":
        pytest.skip("once is enough")
    shutil.copytree(folder, tmp_path / "out")
    limit_us = 1e6 * record["predicted_latency_s"] * 1.01
    done = cli(
        *calibrated,
        "--device",
        device,
        "--latency-budget",
        f"{limit_us:.0f}us",
        "--output",
        tmp_path / "out",
    )
    assert_agrees(done, json.loads((tmp_path / "out" / "result.json").read_text()))
    assert "PREDICTED" in done.stdout
    done = cli(
        *calibrated,
        "--device",
        device,
        "--latency-budget",
        "0.98x",
        "--osl",
        4,
        "--output",
        tmp_path / "out",
        "--format",
        "json",
    )
    assert_agrees(done, json.loads(done.stdout))
    passes = json.loads(done.stdout)["passes"]
    assert [one["name"] for one in passes] == ["prefill", "decode"]
    assert passes[1]["count"] == 4
    assert 0 < passes[1]["dense_latency_s"] < passes[0]["dense_latency_s"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("--device", "a100", "--backend", "onnxruntime-cpu"),
            "onnxruntime-cpu needs a CPU, and --device is a100",
        ),
        (("--device", "h200", "--dtype", "fp32"), "no fp32 points"),
        (("--device", "cpu", "--dtype", "bf16"), "not bf16"),
    ],
)
def test_what_does_not_go_together(cli, calibrated, tmp_path, options, says):
    done = cli(*calibrated, *options, "--latency-budget", "0.9x", "--output", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
