"""The dtype that a network is run in, chosen before the forms of its layers."""

import dataclasses
from types import SimpleNamespace

import onnx
import pytest

import autotune
from autotune.core.errors import ModelError, UsageError
from autotune.core.forms import DENSE
from autotune.predictor.network.model import NetworkModel
from autotune.profiler.backends import make_backend
from autotune.profiler.backends.openvino_cpu import inference_dtype
from autotune.results.checks import CheckKind
from autotune.results.measured import Measured, MeasuredPass
from autotune.results.result import read_result
from autotune.tuning.corrections import corrected
from autotune.tuning.dtypes import DtypeSearch, NetworkDtype, undominated
from tests.autotune.tuning.small import small_home, tune_small
from tests.predictor.network.test_network import PLAN, prefill


def dtype(name, ratio=None, **values):
    """A dtype whose dense network takes `ratio` (give or take 2 %) of the model's own."""
    dense = None
    if ratio is not None:
        timed = MeasuredPass(
            name="prefill",
            count=1,
            latency_s=ratio,
            dense_latency_s=1.0,
            ratio=ratio,
            ratio_low=ratio * 0.98,
            ratio_high=ratio * 1.02,
        )
        dense = Measured(passes=(timed,))
    return NetworkDtype(machine=None, builder=None, own=name, dense=dense, **values)


class FixedMachine:
    """Has one latency model, in bf16."""

    dtype = "bf16"

    def __init__(self, network):
        self._network = network

    def network(self, builder, *, all_pairs=False):
        return self._network


def test_a_faster_dtype_without_loss_leaves_no_other():
    fast = dtype("bf16", 0.4)
    assert undominated([dtype("fp32"), fast]) == [fast]


def test_a_dtype_that_loses_something_is_weighed_against_the_models_own():
    both = [dtype("fp32"), dtype("bf16", 0.4, loss=0.1, lossless=False)]
    assert undominated(both) == both


@pytest.mark.parametrize("ratio", [1.01, 1.5])
def test_a_dtype_that_is_not_faster_is_dropped_only_if_that_is_sure(ratio):
    both = [dtype("fp32"), dtype("bf16", ratio)]
    assert undominated(both) == (both if ratio < 1.02 else both[:1])


class Trying(DtypeSearch):
    """Dtypes that are known, some of which do not work."""

    def _in_dtype(self, name):
        if name == "fp16":
            raise ModelError("it overflows")
        return dtype(name)


def trying(notes):
    unused = dict.fromkeys(("request", "machine", "builder", "compression", "data"))
    return Trying(**unused, workspace=SimpleNamespace(note=notes.append))


def test_a_dtype_that_does_not_work_is_left_out():
    notes = []
    (found,) = trying(notes)._in_dtypes(("fp32", "fp16"))
    assert found.own == "fp32"
    assert notes == ["the network is not run in fp16: it overflows"]


def test_the_only_dtype_that_was_asked_for_has_to_work():
    with pytest.raises(ModelError, match="it overflows"):
        trying([])._in_dtypes(("fp16",))


@pytest.fixture
def halved():
    """The same network, which takes half the time in bf16 before any plan."""
    phase = dataclasses.replace(prefill(), name="prefill")
    machine = FixedMachine(NetworkModel(phases=(phase,)))
    found = dataclasses.replace(dtype("fp32", 0.5), machine=machine)
    return found.network()


def test_ratios_refer_to_the_models_own_dtype(halved):
    plain = NetworkModel(phases=(prefill(),))
    assert halved.dense_latency_s == pytest.approx(2 * plain.dense_latency_s)
    assert halved.predict({}).ratio == pytest.approx(0.5)
    found, alone = halved.predict(PLAN), plain.predict(PLAN)
    assert found.latency_s == pytest.approx(alone.latency_s)
    assert found.ratio == pytest.approx(alone.ratio / 2)
    assert halved.rest_s == pytest.approx(plain.rest_s)
    sites = sum(halved.site_latency_s(s, PLAN.get(s.name, DENSE)) for s in halved.sites)
    assert halved.rest_s + sites == pytest.approx(found.latency_s)


def test_the_interval_holds_the_error_of_the_dtypes_ratio(halved):
    (low, high) = halved.phases[0].ratio_interval({})
    assert (low, high) == pytest.approx((0.49, 0.51))


def test_a_dense_plan_teaches_nothing_of_savings(halved):
    phase = halved.phases[0]
    slower = MeasuredPass(
        name="prefill",
        count=1,
        latency_s=0.6,
        dense_latency_s=1.0,
        ratio=0.6,
        ratio_low=0.59,
        ratio_high=0.61,
    )
    assert corrected(phase, {}, measured=slower) == 1.0
    assert corrected(phase, PLAN, measured=slower) < 1.0
    ratio = phase.predict(PLAN).ratio
    half = dataclasses.replace(slower, ratio=ratio, ratio_low=ratio, ratio_high=ratio)
    assert corrected(phase, PLAN, measured=half) == pytest.approx(1.0)


def test_weights_are_counted_in_the_dtype_they_are_stored_in(halved):
    assert halved.weight_dtype == "fp32"
    assert NetworkModel(phases=(prefill(),)).weight_dtype == "fp32"


def test_a_machine_refuses_a_dtype_that_its_backend_lacks(tmp_path):
    from autotune.tuning.machines import local_machine
    from autotune.tuning.options import MachineOptions

    options = MachineOptions(backend="onnxruntime-cpu", database=tmp_path / "db.sqlite", threads=1)
    with local_machine(options) as machine:
        assert machine.network_dtypes(("native", "bf16"), all_of_them=False) == ("fp32",)
        with pytest.raises(UsageError, match="onnxruntime-cpu does not run networks in bf16"):
            machine.network_dtypes(("bf16",), all_of_them=True)
        with pytest.raises(UsageError, match=r"networks run in fp32 on .*, not in bf16"):
            machine.in_dtype("bf16")


needs_bf16 = pytest.mark.skipif(
    "bf16" not in make_backend("openvino-cpu").inference_dtypes("fp32"),
    reason="OpenVINO has no bf16 on this processor",
)


@needs_bf16
def test_layers_of_another_dtype_are_kept_apart(tmp_path):
    from autotune.tuning.machines import local_machine
    from autotune.tuning.options import MachineOptions

    options = MachineOptions(backend="openvino-cpu", database=tmp_path / "db.sqlite", threads=1)
    with local_machine(options) as machine:
        other = machine.in_dtype("bf16")
        assert (machine.dtype, other.dtype) == ("fp32", "bf16")
        assert machine.fingerprint.id != other.fingerprint.id
        assert machine.fingerprint == dataclasses.replace(other.fingerprint, dtype="fp32")
        assert other.database is machine.database


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A tiny model that is run in bf16, within a limit that any plan holds."""
    home = small_home(tmp_path_factory.mktemp("bf16"))
    return tune_small(
        home,
        "out",
        backend="openvino-cpu",
        precision="bf16",
        latency_budget="1s",
        allow_quality_loss=True,
    )


@needs_bf16
@pytest.mark.slow
@pytest.mark.duration(60)
class TestWhatIsHandedOut:
    def test_the_record_tells_both_dtypes(self, tuned):
        record = tuned.record
        assert (record.dtype, record.runtime_dtype, record.device.dtype) == ("fp32", "bf16", "bf16")
        assert record.runtime_options == {"INFERENCE_PRECISION_HINT": "bf16"}
        assert read_result(tuned.folder) == record

    def test_the_reference_stays_in_the_models_own(self, tuned):
        (build,) = tuned.record.builds.values()
        assert inference_dtype(tuned.folder / build.dense) == "fp32"
        assert inference_dtype(tuned.folder / build.compressed) == "bf16"
        assert inference_dtype(tuned.folder / "model.onnx") == "bf16"

    def test_the_weights_stay_in_fp32(self, tuned):
        graph = onnx.load(tuned.folder / "model.onnx", load_external_data=False)
        types = {each.data_type for each in graph.graph.initializer}
        assert onnx.TensorProto.FLOAT in types and onnx.TensorProto.BFLOAT16 not in types
        assert tuned.record.stored_bytes.dense == 4 * tuned.record.parameters.dense

    def test_everything_is_verified_in_it(self, tuned):
        checked = autotune.verify(tuned.folder)
        wrong = [each for each in checked.checks if not each.holds]
        assert not [each for each in wrong if each.kind is not CheckKind.LATENCY]
        parity = {each.subject: each for each in checked.checks if each.kind is CheckKind.PARITY}
        assert set(parity) == {"model.onnx", "model.onnx in OpenVINO"}
        # Run in bf16 it differs by more than fp32 ever would.
        assert parity["model.onnx in OpenVINO"].facts.worst > 10 * parity["model.onnx"].facts.worst

    def test_the_card_says_how_to_open_it(self, tuned):
        card = (tuned.folder / "model" / "README.md").read_text()
        assert '"INFERENCE_PRECISION_HINT": "bf16"' in card
        assert "openvino-cpu, bf16, batch" in card
