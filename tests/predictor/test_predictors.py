"""The suite for every source of layer latencies."""

import pytest

from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.layers.extrapolated import ExtrapolatedLatency
from autotune.predictor.layers.imported import ImportedLatency
from autotune.predictor.layers.table import LatencyTable
from autotune.predictor.products.donors import UnseenDevice
from autotune.profiler.measure.points import measure_points
from autotune.profiler.sources.aiconfigurator import read_tables
from autotune.testing.hardware import simulated_hardware
from autotune.testing.runner import SimulatedRunner
from autotune.testing.suites.predictor import PredictorSuite
from tests.forms import form_of
from tests.predictor.layers.test_extrapolated import donors
from tests.predictor.layers.test_prediction import ROOFLINE, recorded

__all__ = ["donors"]


def shape(rank=None, tokens=128, k=512, n=512, dtype="fp32", parts=()):
    return LayerShape(
        tokens=tokens, in_features=k, out_features=n, form=form_of(rank), dtype=dtype, parts=parts
    )


class TestLatencyTable(PredictorSuite):
    """Measured, interpolated and predicted, from recorded points of a CPU."""

    rows = recorded()
    known = (
        *(row.shape for row in rows[:40:3]),
        *(shape(rank, 512, 512, 256) for rank in (None, 16, 24, 40)),
        *(shape(rank, 128, k, 640) for k in (320, 448) for rank in (None, 16, 48, 160)),
    )

    @pytest.fixture
    def make_predictor(self):
        return lambda: LatencyTable(self.rows, ROOFLINE)


class TestEmptyTable(PredictorSuite):
    """Nothing was measured: a roofline where that is allowed."""

    known = (shape(), shape(16), shape(32, parts=(256, 256)))

    @pytest.fixture
    def make_predictor(self):
        return lambda: LatencyTable([], ROOFLINE, allow_extrapolation=True)


class TestRefusingTable(PredictorSuite):
    """Few points, and no extrapolation."""

    rows = recorded()[:9]
    known = tuple(row.shape for row in rows)
    unknown = shape(16, tokens=4096, k=64, n=64)

    @pytest.fixture
    def make_predictor(self):
        return lambda: LatencyTable(self.rows, ROOFLINE)


class TestSimulatedTable(PredictorSuite):
    """Points that were measured on simulated hardware with cliffs."""

    known = tuple(
        shape(rank, 256, 1024, 1024, "bf16") for rank in (None, 64, 96, 128, 192, 256, 100, 101)
    )

    @pytest.fixture(scope="class")
    @classmethod
    def rows(cls, tmp_path_factory):
        from autotune.profiler.database.latency import LatencyDatabase

        runner = SimulatedRunner(simulated_hardware("h200-like"))
        fingerprint = runner.fingerprint("bf16")
        with LatencyDatabase(tmp_path_factory.mktemp("db") / "latency.sqlite") as database:
            sizes = [(k, n) for k in (512, 1024, 2048) for n in (512, 1024)]
            points = [
                shape(rank, 256, k, n, "bf16") for k, n in sizes for rank in range(32, 257, 32)
            ]
            assert measure_points(database, fingerprint, points=points, runner=runner) == []
            return database.measurements(fingerprint.id)

    @pytest.fixture
    def make_predictor(self, rows):
        spec = simulated_hardware("h200-like").spec
        return lambda: LatencyTable(rows, Roofline.of(spec, 1), cliff=spec.cliff("bf16"))


class TestImported(PredictorSuite):
    """Others' tables of a GPU: timed products, and predicted ones."""

    known = tuple(shape(rank, 512, 1024, n, "bf16") for n in (4096, 14336) for rank in (None, 256))
    unknown = shape(1001, 512, 1024, 4096, "bf16")
    tables = read_tables("a100-sxm")

    @pytest.fixture
    def make_predictor(self):
        return lambda: ImportedLatency(find_device("a100"), self.tables)


class TestExtrapolated(PredictorSuite):
    """A device that nobody measured."""

    known = tuple(shape(rank, 64, 1024, 4096, "bf16") for rank in (None, 128, 256))
    unknown = shape(100, 64, 1024, 4096, "bf16")

    @pytest.fixture
    def make_predictor(self, donors):
        return lambda: ExtrapolatedLatency(UnseenDevice(find_device("rtx-4090")).fit(donors))
