"""Choosing a machine: this host, one that is known by tables, or none."""

import dataclasses

import pytest

from autotune.core.errors import DatabaseError, DeviceMissingError, MeasurementError, UsageError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.devices import detect
from autotune.devices.roofline import Roofline
from autotune.devices.visible import Gpu
from autotune.predictor.layers.extrapolated import donors_of
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.sources.shipped import shipped_tables
from autotune.tuning.machines import check_machine, find_machine, local_machine, nearest_machine
from autotune.tuning.measuring import MeasuringMachine
from autotune.tuning.options import MachineOptions
from autotune.tuning.predicted import PredictedMachine
from tests.profiler.points import point

SHAPE = LayerShape(tokens=128, in_features=384, out_features=384)


def options(device, **given):
    return MachineOptions(device=device, **given)


def machine(device, **given):
    return find_machine(options(device, **given))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(detect, "visible_gpus", tuple)


def test_the_processor_is_here():
    with machine("cpu") as here:
        assert isinstance(here, MeasuringMachine)
        assert here.verified
        assert (here.backend.name, here.dtype) == ("onnxruntime-cpu", "fp32")
        assert here.rank_multiple == here.spec.rank_multiple("fp32")
        assert here.sources() == []


@pytest.mark.parametrize(("device", "step"), [("a100", 32), ("h200", 8)])
def test_a_gpu_elsewhere_is_known_by_its_table(no_gpu, device, step):
    elsewhere = machine(device)
    assert isinstance(elsewhere, PredictedMachine)
    assert not elsewhere.verified
    assert (elsewhere.backend.name, elsewhere.dtype) == ("torch-cudagraph", "bf16")
    assert elsewhere.rank_multiple == step
    assert elsewhere.fingerprint == elsewhere.table.fingerprint
    assert elsewhere.fingerprint.device == elsewhere.spec.name
    assert elsewhere.table.sources
    assert elsewhere.sources()[:-1] == list(elsewhere.table.sources)
    with pytest.raises(DeviceMissingError, match="not on this machine"):
        local_machine(options(device))


def test_the_backend_that_was_measured_is_taken(no_gpu):
    assert machine("h200", backend="torch-eager").fingerprint.backend == "torch-eager"
    assert machine("h200").fingerprint.backend == "torch-cudagraph"


@pytest.mark.parametrize("backend", ["torch-compile", "tensorrt"])
def test_a_backend_that_was_not_measured_is_refused(no_gpu, backend):
    has = "it has torch-cudagraph" if backend == "tensorrt" else "torch-cudagraph, torch-eager"
    with pytest.raises(UsageError, match=rf"machine\.backend.* of {backend}; .*{has}"):
        _ = machine("h200", backend=backend).fingerprint


def test_half_precision_is_answered_from_the_other_at_the_same_rate(no_gpu):
    table = machine("a100", dtype="fp16").table
    assert (table.fingerprint.dtype, table.timed_dtype) == ("fp16", "bf16")
    assert all("in bf16, which runs at the rate of fp16" in source for source in table.sources)
    with pytest.raises(UsageError, match=r"machine\.dtype.*no fp32 table.*bf16"):
        _ = machine("a100", dtype="fp32").table


def test_a_gpu_that_nobody_measured(no_gpu):
    with pytest.raises(DeviceMissingError, match=r"db merge.*machine.allow_extrapolation"):
        machine("t4")


@pytest.mark.slow
def test_one_that_nobody_measured_is_extrapolated_when_asked_to(no_gpu, monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    all_donors, read = donors_of, []

    def few(spec, dtype):
        """Enough for what is asked here, in seconds."""
        read.append(dtype)
        return [
            dataclasses.replace(d, products=d.products[::40], seconds=d.seconds[::40])
            for d in all_donors(spec, dtype)
        ]

    monkeypatch.setattr("autotune.predictor.layers.extrapolated.donors_of", few)
    elsewhere = machine("t4", allow_extrapolation=True)
    assert not elsewhere.verified
    assert elsewhere.dtype == "fp16"  # Turing has no bf16
    assert elsewhere.rank_multiple == 32
    assert "EXTRAPOLATED, without measurements of NVIDIA T4" in elsewhere.sources()[0]
    layer = LayerShape(tokens=512, in_features=4096, out_features=4096, dtype="fp16")
    dense = elsewhere.table.predictor.estimate(layer)
    assert dense.source == "extrapolated"
    assert dense.high_s / dense.low_s > 1.3
    assert dense.low_s < 8 * Roofline.of(elsewhere.spec, 1).latency_s(layer)
    again = machine("t4", allow_extrapolation=True).table.predictor.estimate(layer)
    assert again == dense
    assert len(read) == 1, "the fit is kept: tables of donors are read once"
    with pytest.raises(UsageError, match="no rate in bf16"):
        machine("t4", dtype="bf16", allow_extrapolation=True).prepare()


@pytest.mark.parametrize("extrapolate", [False, True])
def test_a_table_is_never_extrapolated_past(no_gpu, extrapolate):
    assert "aiconfigurator" in machine("a100", allow_extrapolation=extrapolate).sources()[0]


def test_a_database_of_ones_own_is_a_table(no_gpu, tmp_path):
    """Recorded on an H200, replayed as another GPU's."""
    path = tmp_path / "theirs.sqlite"
    fingerprint, rows = shipped_tables("h200-sxm", "fp16")[0]
    with LatencyDatabase(path) as database:
        run = database.start_run(dataclasses.replace(fingerprint, device="rtx-4090"), "full")
        database.add(run, rows)
    with pytest.raises(DeviceMissingError):
        machine("rtx-4090", dtype="fp16")
    elsewhere = machine("rtx-4090", dtype="fp16", database=path)
    assert not elsewhere.verified
    assert elsewhere.sources()[0].startswith("the database of NVIDIA H200")
    row = next(row for row in rows if row.shape.rank and row.converged)
    found = elsewhere.table.predictor.estimate(row.shape)
    assert found.source == "measured"
    assert found.latency_s == pytest.approx(row.latency_s, rel=0.01)
    with LatencyDatabase(tmp_path / "few.sqlite") as database:
        database.add(database.start_run(fingerprint, "a few"), rows[:3])
    few = machine("h200", dtype="fp16", database=tmp_path / "few.sqlite")
    assert few.sources()[0].startswith("this project's database")
    with pytest.raises(UsageError, match="no latency tables for rtx-4090 in bf16"):
        machine("rtx-4090", database=path).prepare()
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(DeviceMissingError):
        machine("rtx-4090", database=tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


def test_a_device_that_is_here_is_never_guessed(monkeypatch):
    """Its backend lacks a part: that is said, instead of taking another's table."""
    gpu = Gpu(index=0, uuid="GPU-0", name="NVIDIA H200")
    monkeypatch.setattr(detect, "visible_gpus", lambda: (gpu,))
    monkeypatch.setattr(
        "autotune.profiler.backends.base.Backend.missing", lambda self: "install this"
    )
    for choose in (find_machine, check_machine):
        with pytest.raises(DeviceMissingError, match="install this"):
            choose(options("h200"))


@pytest.mark.parametrize("choose", [find_machine, check_machine])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"device": "a100", "backend": "onnxruntime-cpu"}, "needs a CPU, and .* is a100$"),
        ({"device": "cpu", "backend": "onnxruntime-cuda"}, "needs an NVIDIA GPU, and .* is cpu$"),
        ({"device": "a100", "backend": "magic"}, "unknown backend"),
        ({"device": "cpu", "dtype": "bf16"}, "not bf16"),
        ({"device": "h20"}, "did you mean"),
    ],
)
def test_what_does_not_go_together(no_gpu, given, says, choose):
    with pytest.raises(UsageError, match=says):
        choose(options(**given))


class TestCheck:
    """What `check_machine` refuses before anything heavy is loaded; a farm is not asked."""

    def test_what_can_be_used_passes(self, no_gpu):
        check_machine(options("cpu"))
        check_machine(options("a100"))

    def test_a_device_that_nothing_is_known_of(self, no_gpu):
        with pytest.raises(DeviceMissingError, match="db merge"):
            check_machine(options("t4"))

    def test_the_device_of_a_farm_need_not_be_here(self, no_gpu):
        check_machine(options("t4", farm="10.0.0.1:6380"))

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"farm": "farm:6380"}, "IP:PORT"),
            ({"farm": "8.8.8.8:6380"}, "private"),
            ({"farm": "10.0.0.1:6380", "device": "h20"}, "did you mean"),
            ({"farm": "10.0.0.1:6380", "device": "a100", "backend": "onnxruntime-cpu"}, "a CPU"),
            ({"farm": "10.0.0.1:6380", "dtype": "bf16"}, "not bf16"),
        ],
    )
    def test_a_farm_that_cannot_be_used(self, given, says):
        with pytest.raises(UsageError, match=says):
            check_machine(MachineOptions(**given))

    def test_nothing_is_written(self, tmp_path):
        check_machine(options("cpu", database=tmp_path / "latency.sqlite"))
        assert list(tmp_path.iterdir()) == []


class TestHere:
    """A machine that measures: its fingerprint, its database, the layers it measures."""

    def test_latencies_belong_to_its_fingerprint(self):
        with local_machine(options("cpu", threads=1)) as here:
            assert here.threads == here.fingerprint.threads == 1
            assert (here.fingerprint.device, here.fingerprint.backend) == ("cpu", "onnxruntime-cpu")
            assert here.fingerprint.dtype == here.dtype
            assert here.device_name == here.fingerprint.device_name
            assert here.fingerprint.versions == here.backend.versions()

    def test_more_threads_than_cores_are_refused(self):
        with pytest.raises(UsageError, match="4096"):
            local_machine(options("cpu", threads=4096))

    def test_the_nearest_machine_is_this_one(self):
        with nearest_machine(options("cpu")) as here:
            assert here.verified

    def test_a_database_that_cannot_be_opened_fails_before_anything_long(self, tmp_path):
        (tmp_path / "text").write_text("no database")
        with local_machine(options("cpu", database=tmp_path / "text")) as here:
            with pytest.raises(DatabaseError, match="no latency database"):
                here.prepare()

    def test_what_the_database_holds_is_known(self, tmp_path):
        path = tmp_path / "latency.sqlite"
        with local_machine(options("cpu", threads=1, database=path)) as here:
            with pytest.raises(MeasurementError):
                here.known_layers(allow_extrapolation=False)[0].estimate(SHAPE)
            guess = here.known_layers(allow_extrapolation=True)[0].estimate(SHAPE)
            assert guess.source == "roofline"
            run = here.database.start_run(here.fingerprint, "test")
            here.database.add(run, [point(0, ratio=1.0, latency_s=2e-3), point(16)])
            known, sources = here.known_layers(allow_extrapolation=False)
            assert known.estimate(SHAPE.with_form(low_rank(16))).source == "measured"
            (source,) = sources
            assert here.fingerprint.id in source
            assert str(path) in source


class TestElsewhere:
    """A machine that is known by tables: it answers from them and times nothing."""

    def test_layers_are_those_of_the_table(self, no_gpu, workspace):
        elsewhere = machine("h200")
        known, sources = elsewhere.known_layers(allow_extrapolation=False)
        assert known is elsewhere.table.predictor
        assert sources == list(elsewhere.table.sources)
        measured = elsewhere.measure_layers([SHAPE], workspace, stage="measure layers")
        assert measured is elsewhere.table.predictor

    def test_its_factors_are_those_of_the_tables(self, no_gpu):
        elsewhere = machine("a100")
        assert elsewhere.structures(("plain", "pivoted")) == ("plain",)
        with pytest.raises(UsageError, match=r"pivoted factors is not known on .*A100"):
            elsewhere.structures(("pivoted",))

    def test_its_sources_name_the_model_of_the_rest(self, no_gpu):
        elsewhere = machine("h200")
        *_, rest = elsewhere.sources()
        assert rest.startswith("rest of the network modelled")
        assert elsewhere.table.attention.source in rest

    def test_it_bears_the_name_of_its_sheet(self, no_gpu):
        assert machine("a100").device_name == machine("a100").spec.title
