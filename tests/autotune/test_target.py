"""Where a budget must hold: here, elsewhere, or nowhere."""

import pytest

from autotune.devices import detect
from autotune.errors import DeviceMissingError, UsageError
from autotune.target import find_target, target_here


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(detect, "gpu_names", tuple)


def test_the_processor_is_here():
    target = find_target("cpu")
    assert target.is_here
    assert (target.backend.name, target.dtype) == ("onnxruntime-cpu", "fp32")
    assert target.rank_multiple == target.spec.rank_multiple("fp32")


@pytest.mark.parametrize(("device", "step"), [("a100", 32), ("h200", 8)])
def test_a_gpu_elsewhere_is_known_by_its_table(no_gpu, device, step):
    target = find_target(device)
    assert not target.is_here
    assert (target.backend.name, target.dtype) == ("torch-cudagraph", "bf16")
    assert target.rank_multiple == step
    assert target.table.fingerprint.device == target.spec.name
    assert target.table.sources
    with pytest.raises(DeviceMissingError, match="not on this machine"):
        target_here(device)


def test_the_backend_that_was_measured_is_taken(no_gpu):
    assert find_target("h200", "torch-eager").table.fingerprint.backend == "torch-eager"
    assert find_target("h200", "torch-compile").table.fingerprint.backend == "torch-cudagraph"


def test_a_gpu_that_nobody_measured(no_gpu):
    with pytest.raises(DeviceMissingError, match="not on this machine"):
        find_target("t4")


def test_a_device_that_is_here_is_never_guessed(monkeypatch):
    """Its backend lacks a part: that is said, instead of taking another's table."""
    monkeypatch.setattr(detect, "gpu_names", lambda: ("NVIDIA H200",))
    monkeypatch.setattr(
        "autotune.profiler.backends.base.Backend.missing", lambda self: "install this"
    )
    with pytest.raises(DeviceMissingError, match="install this"):
        find_target("h200")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a100", "onnxruntime-cpu"), "runs on cpu only"),
        (("a100", "magic"), "unknown backend"),
        (("cpu", None, "bf16"), "not bf16"),
        (("h20",), "did you mean"),
    ],
)
def test_what_does_not_go_together(no_gpu, arguments, says):
    with pytest.raises(UsageError, match=says):
        find_target(*arguments)
