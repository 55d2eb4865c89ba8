"""Devices that were never or hardly measured, from others."""

import copy

import numpy as np
import pytest

from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.products.donors import Donor, UnseenDevice
from autotune.predictor.products.features import roofline_s

NAMES = ("a100-sxm", "h100-sxm", "l40s", "b200-sxm")


def table(spec, factor=1.0, seed=0):
    """What every kernel of this world reaches: three quarters, less on small outputs."""
    sizes = np.array([64, 256, 1024, 4096, 8192], dtype=float)
    m, k, n = (v.ravel() for v in np.meshgrid([1.0, 64.0, 1024.0], sizes, sizes))
    products = np.column_stack([m, k, n])
    noise = np.exp(0.02 * np.random.default_rng(seed).normal(size=len(m)))
    return products, factor * roofline_s(products, Roofline.of(spec, 1), dtype="bf16") * (
        n + 300
    ) / n / 0.75 * noise


@pytest.fixture(scope="module")
def unseen():
    donors = []
    for i, name in enumerate(NAMES[1:]):
        products, seconds = table(find_device(name), seed=i)
        donors.append(
            Donor(spec=find_device(name), family=name, products=products, seconds=seconds)
        )
    return UnseenDevice(find_device("a100-sxm")).fit(donors)


def mape(truth, guess):
    return float(np.abs(guess / truth - 1).mean())


def test_efficiency_transfers_where_seconds_do_not(unseen):
    spec = find_device("a100-sxm")
    products, seconds = table(spec, seed=9)
    other, elsewhere = table(find_device("h100-sxm"), seed=1)
    assert (other == products).all()
    assert mape(seconds, elsewhere) > 0.2  # a neighbour's seconds say little
    assert mape(seconds, unseen.predict(products)) < 0.75 * mape(seconds, elsewhere)
    low, high = unseen.predict_interval(products)
    assert np.mean((low <= seconds) & (seconds <= high)) > 0.85


def test_a_few_measurements_correct_what_donors_get_wrong(unseen):
    spec = find_device("a100-sxm")
    products, seconds = table(spec, factor=1.6, seed=9)  # a world of slower kernels
    before = mape(seconds, unseen.predict(products))
    assert before > 0.3
    chosen = unseen.design(products, 25)
    rest = np.setdiff1d(np.arange(len(seconds)), chosen)
    own = copy.deepcopy(unseen)  # other tests share the one without measurements
    own.adapt(products[chosen], seconds[chosen])
    assert mape(seconds[rest], own.predict(products[rest])) < 0.1
    low, high = own.predict_interval(products[rest])
    assert np.mean((low <= seconds[rest]) & (seconds[rest] <= high)) > 0.75
