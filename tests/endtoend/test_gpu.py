"""The whole run on the GPU that is here: measured with CUDA graphs, in bf16."""

import logging

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
