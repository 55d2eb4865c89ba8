"""A device that nobody measured: layers as sums, from donors, corrected by a few points."""

import dataclasses

import numpy as np
import pytest

from autotune.core.errors import MeasurementError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.layers.extrapolated import ExtrapolatedLatency, donors_of
from autotune.predictor.layers.own_points import OwnPoints
from autotune.predictor.learning.gaussian_process import Process, shared_kernel
from autotune.predictor.products.donors import UnseenDevice
from tests.predictor.products.test_donors import Donor, mape, table
from tests.profiler.points import point

SPEC = find_device("rtx-4090")


@pytest.fixture(scope="module")
def donors():
    found = []
    for i, name in enumerate(("a100-sxm", "h100-sxm", "l40s", "b200-sxm")):
        products, seconds = table(find_device(name), seed=i)
        spec = find_device(name)
        found.append(Donor(spec=spec, family=spec.family, products=products, seconds=seconds))
    return found


def own_points(count):
    """Dense layers of a world whose kernels are 1.6 times slower than the donors' say."""
    products, seconds = table(SPEC, factor=1.6, seed=9)
    rows = np.random.default_rng(0).permutation(len(seconds))[:count]
    return [
        point(
            rank=0,
            tokens=int(products[i][0]),
            in_features=int(products[i][1]),
            out_features=int(products[i][2]),
            dtype="bf16",
            latency_s=float(seconds[i]),
        )
        for i in rows
    ]


def test_a_pair_is_the_sum_of_its_products(donors):
    known = ExtrapolatedLatency(UnseenDevice(SPEC, "bf16").fit(donors))
    dense = LayerShape(tokens=64, in_features=1024, out_features=4096, dtype="bf16")
    pair = known.estimate(dense.with_form(low_rank(256)))
    down = known.estimate(dataclasses.replace(dense, out_features=256))
    up = known.estimate(dataclasses.replace(dense, in_features=256))
    assert pair.latency_s == pytest.approx(down.latency_s + up.latency_s)
    assert pair.ratio == pytest.approx(pair.latency_s / known.estimate(dense).latency_s)
    assert {pair.source, down.source} == {"extrapolated"}
    assert pair.low_s < pair.latency_s < pair.high_s
    with pytest.raises(MeasurementError, match="native precision"):
        known.estimate(dense.with_form(low_rank(256, precision="int8-static")))
    with pytest.raises(MeasurementError, match="multiples of 32"):
        known.estimate(dense.with_form(low_rank(100)))


def test_own_points_correct_it_the_more_the_better(donors):
    truth = own_points(75)
    shapes = [row.shape for row in truth]
    seconds = np.array([row.latency_s for row in truth])

    def error(count):
        known = ExtrapolatedLatency(UnseenDevice(SPEC, "bf16").fit(donors), own=truth[:count])
        assert count == (known.adaptation.points if known.adaptation else 0)
        found = np.array([estimate.latency_s for estimate in known.estimates(shapes)])
        return mape(seconds[40:], found[40:])

    assert error(0) > 0.3
    assert error(6) < 0.8 * error(0)
    assert error(40) < 0.1 < error(6)


def test_donors_are_never_the_device_itself_nor_its_kin_when_blind():
    h100 = find_device("h100-sxm")
    assert "h100-sxm" not in {donor.spec.name for donor in donors_of(h100, "bf16")}
    blind = donors_of(h100, "bf16", blind=True)
    assert {"a100-sxm", "b200-sxm", "l40s"} <= {donor.spec.name for donor in blind}
    assert not {"h100-sxm", "h200-sxm"} & {donor.spec.name for donor in blind}
    assert len({donor.family for donor in blind}) < len(blind)


def test_a_shared_kernel_finds_the_scales_that_several_processes_have_in_common():
    draw = np.random.default_rng(0)
    samples = []
    for _ in range(4):
        x = draw.uniform(0, 10, (80, 2))
        phase = draw.uniform(0, 6)
        samples.append((x, np.sin(1.5 * x[:, 0] + phase) + draw.normal(0, 0.02, 80)))
    kernel = shared_kernel(samples)
    fast, idle = kernel.k1.k1.k2.length_scale
    assert idle > 10 * fast  # nothing depends on the second column
    x = draw.uniform(0, 10, (25, 2))
    y, at = np.sin(1.5 * x[:, 0]), draw.uniform(0, 10, (400, 2))
    truth = np.sin(1.5 * at[:, 0])
    given = np.abs(Process(x, y, kernel=kernel).predict(at)[0] - truth).mean()
    fitted = np.abs(Process(x[:, ::-1], y).predict(at)[0] - truth).mean()
    assert given < 0.1 < fitted


def test_its_intervals_are_of_other_boards(donors):
    """The text read "of this machine with this software" for a GPU that is not here."""
    device = UnseenDevice(SPEC, "bf16").fit(donors)
    alone = ExtrapolatedLatency(device)
    own = [point(rank=0, tokens=64, in_features=512, out_features=512, dtype="bf16")]
    corrected = OwnPoints(alone, own, roofline=Roofline.of(SPEC, 1), known=alone.adaptation)
    assert alone.interval == corrected.interval == "transfer"
