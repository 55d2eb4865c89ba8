"""Where a budget must hold: here, elsewhere, or nowhere."""

import dataclasses

import pytest
from autotune.tuning.target import find_target, target_here

from autotune.core.errors import DeviceMissingError, UsageError
from autotune.core.layers import LayerShape
from autotune.devices import detect
from autotune.devices.roofline import Roofline
from autotune.devices.visible import Gpu
from autotune.predictor.layers.extrapolated import donors_of
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.sources.shipped import shipped_tables


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(detect, "visible_gpus", tuple)


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
    with pytest.raises(DeviceMissingError, match=r"db merge.*--allow-extrapolation"):
        find_target("t4")


def test_one_that_nobody_measured_is_extrapolated_when_asked_to(no_gpu, monkeypatch):
    all_donors = donors_of

    def few(spec, dtype):
        """Enough for what is asked here, in seconds."""
        return [
            dataclasses.replace(d, products=d.products[::40], seconds=d.seconds[::40])
            for d in all_donors(spec, dtype)
        ]

    monkeypatch.setattr("autotune.predictor.layers.device_table.donors_of", few)
    target = find_target("t4", extrapolate=True)
    assert not target.is_here
    assert target.dtype == "fp16"  # Turing has no bf16
    assert target.rank_multiple == 32
    assert "EXTRAPOLATED, nobody measured NVIDIA T4" in target.table.sources[0]
    layer = LayerShape(tokens=512, in_features=4096, out_features=4096, dtype="fp16")
    dense = target.table.predictor.estimate(layer)
    assert dense.source == "extrapolated"
    assert dense.high_s / dense.low_s > 1.3
    assert dense.low_s < 8 * Roofline.of(target.spec, 1).latency_s(layer)
    with pytest.raises(UsageError, match="no rate in bf16"):
        _ = find_target("t4", dtype="bf16", extrapolate=True).table


@pytest.mark.parametrize("extrapolate", [False, True])
def test_a_table_is_never_extrapolated_past(no_gpu, extrapolate):
    table = find_target("a100", extrapolate=extrapolate).table
    assert "aiconfigurator" in table.sources[0]


def test_a_database_of_ones_own_is_a_table(no_gpu, tmp_path):
    """Recorded on an H200, replayed as another GPU's."""
    path = tmp_path / "theirs.sqlite"
    fingerprint, rows = shipped_tables("h200-sxm", "fp16")[0]
    with LatencyDatabase(path) as database:
        run = database.start_run(dataclasses.replace(fingerprint, device="rtx-4090"), "full")
        database.add(run, rows)
    with pytest.raises(DeviceMissingError):
        find_target("rtx-4090", dtype="fp16")
    target = find_target("rtx-4090", dtype="fp16", database=path)
    assert not target.is_here
    assert target.table.sources[0].startswith("the database of NVIDIA H200")
    row = next(row for row in rows if row.rank)
    found = target.table.predictor.estimate(row.shape)
    assert found.source == "measured"
    assert found.latency_s == pytest.approx(row.latency_s, rel=0.01)
    with LatencyDatabase(tmp_path / "few.sqlite") as database:
        database.add(database.start_run(fingerprint, "a few"), rows[:3])
    few = find_target("h200", dtype="fp16", database=tmp_path / "few.sqlite")
    assert few.table.sources[0].startswith("this project's database")
    with pytest.raises(UsageError, match="nothing is known of rtx-4090 in bf16"):
        _ = find_target("rtx-4090", database=path).table
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(DeviceMissingError):
        find_target("rtx-4090", database=tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


def test_a_device_that_is_here_is_never_guessed(monkeypatch):
    """Its backend lacks a part: that is said, instead of taking another's table."""
    gpu = Gpu(index=0, uuid="GPU-0", name="NVIDIA H200")
    monkeypatch.setattr(detect, "visible_gpus", lambda: (gpu,))
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
