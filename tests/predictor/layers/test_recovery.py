"""Few points: the process against scikit-learn and brute force, the plan against its promise."""

import math

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.layers.measuring_plan import (
    first_layers,
    next_layers,
    pairs_of,
    standard_pool,
)
from autotune.predictor.layers.recovery import RecoveryProcess
from autotune.predictor.layers.table import LatencyTable
from autotune.predictor.learning.gaussian_process import Process, _left_out
from tests.predictor.layers.test_prediction import ROOFLINE, recorded

CPU = find_device("cpu")


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(0)
    x = draw.uniform(0, 4, (40, 2))
    y = np.sin(x[:, 0]) + 0.3 * x[:, 1] + draw.normal(0, 0.05, 40)
    return x, y, draw.uniform(0, 4, (9, 2))


def test_predictions_are_those_of_scikit_learn(data):
    x, y, at = data
    process = Process(x, y)
    points, targets = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    own = GaussianProcessRegressor(process._process.kernel_, optimizer=None).fit(points, targets)
    mean, deviation = own.predict((at - x.mean(0)) / x.std(0), return_std=True)
    found, half_width = process.predict(at)
    np.testing.assert_allclose(found, mean * y.std() + y.mean(), rtol=1e-5)
    np.testing.assert_allclose(half_width, process.stretch * deviation * y.std(), rtol=1e-5)
    assert process.stretch >= 1.645


def test_deviation_given_more_is_that_of_a_process_that_measured_more(data):
    x, y, at = data
    process = Process(x[:30], y[:30])
    both = (x - process.center) / process.spread
    more = GaussianProcessRegressor(process._process.kernel_, optimizer=None).fit(both, y)
    _, deviation = more.predict((at - process.center) / process.spread, return_std=True)
    found = process.deviation_given(at, x[30:])
    np.testing.assert_allclose(found, deviation * process.scale, rtol=1e-6, atol=1e-9)
    alone = process.deviation_given(at, x[:0])
    assert (found <= alone + 1e-12).all()
    assert (found < alone - 1e-6).any()


def test_groups_left_out_in_closed_form_are_groups_left_out(data):
    x, y, _ = data
    kernel = Process(x, y)._process.kernel_
    groups = np.arange(40) // 5
    standard = _left_out(np.linalg.inv(kernel(x)), y, groups=groups)
    for group in range(8):
        held = groups == group
        blind = GaussianProcessRegressor(clone(kernel), optimizer=None).fit(x[~held], y[~held])
        mean, covariance = blind.predict(x[held], return_cov=True)
        expected = np.abs(y[held] - mean) / np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(standard[held], expected, rtol=1e-4)


def test_held_out_layers_of_recorded_measurements():
    """Better than the roofline's own ratio on layers that it never saw, and mostly inside."""
    pairs = [row for row in recorded() if row.shape.rank and not row.shape.parts]
    layers = sorted({(row.shape.in_features, row.shape.out_features) for row in pairs})
    errors, plain, inside = [], [], []
    for layer in layers:
        held = [row for row in pairs if (row.shape.in_features, row.shape.out_features) == layer]
        seen = [row for row in pairs if row not in held]
        process = RecoveryProcess(ROOFLINE, [r.shape for r in seen], ratios=[r.ratio for r in seen])
        found, half_width = process.predict([row.shape for row in held])
        truth = np.array([row.ratio for row in held])
        guess = [ROOFLINE.latency_s(r.shape) / ROOFLINE.latency_s(r.shape.dense) for r in held]
        errors += list(np.abs(found / truth - 1))
        plain += list(np.abs(np.array(guess) / truth - 1))
        inside += list(np.abs(np.log(found / truth)) <= half_width)
    assert np.mean(errors) < 0.8 * np.mean(plain)
    assert np.mean(inside) > 0.75


def test_a_table_of_few_pairs_predicts_ratios_with_it():
    rows = [row for row in recorded() if not row.shape.parts]
    table = LatencyTable(rows, ROOFLINE)
    asked = LayerShape(tokens=1024, in_features=640, out_features=896, form=low_rank(160))
    found = table.estimate(asked)
    pairs = [row for row in rows if row.shape.rank]
    near = [row for row in pairs if 0.5 <= row.shape.tokens / 1024 <= 2]
    process = RecoveryProcess(ROOFLINE, [r.shape for r in near], ratios=[r.ratio for r in near])
    assert found.source == "predicted"
    assert found.ratio == pytest.approx(float(process.predict([asked])[0][0]), rel=1e-9)
    dense = table.estimate(asked.dense)
    assert found.latency_s == pytest.approx(found.ratio * dense.latency_s)
    assert found.low_s < found.latency_s < found.high_s


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "fp32"), ("h200", "bf16")])
def test_the_standard_pool_has_ranks_to_choose(device, dtype):
    spec = find_device(device)
    pool = standard_pool(spec, dtype)
    assert len(pool) > 200
    assert len(set(pool)) == len(pool)
    for dense in pool[::17]:
        pairs = pairs_of(dense, spec)
        assert pairs and all(pair.rank % spec.rank_multiple(dtype) == 0 for pair in pairs)
        assert all(pair.parameters < dense.parameters for pair in pairs)


def test_the_first_layers_are_spread():
    pool = standard_pool(CPU, "fp32")
    chosen = first_layers(pool, 13)
    assert len(set(chosen)) == 13
    assert len({dense.tokens for dense in chosen}) >= 4
    assert {dense.in_features for dense in chosen} != {dense.out_features for dense in chosen}


def test_the_next_layers_are_those_of_which_least_is_known():
    """Everything was measured at few tokens: the first one asked for has many."""
    pool = standard_pool(CPU, "fp32")
    small = [dense for dense in pool if dense.tokens == 1][::6]
    pairs = [pair for dense in small for pair in pairs_of(dense, CPU)]
    draw = np.random.default_rng(0)
    roofline = Roofline.of(CPU, 2)
    ratios = [
        roofline.latency_s(pair)
        / roofline.latency_s(pair.dense)
        * math.exp(0.1 * math.log(pair.rank) + draw.normal(0, 0.02))
        for pair in pairs
    ]
    process = RecoveryProcess(roofline, pairs, ratios=ratios)
    left = [dense for dense in pool if dense not in small]
    chosen = next_layers(process, left, spec=CPU, count=4)
    assert len(set(chosen)) == 4
    assert not set(chosen) & set(small)
    assert all(dense.tokens > 1 for dense in chosen)
    # As if the ones before were measured: the four do not stand side by side.
    asked = [pairs_of(dense, CPU)[0] for dense in chosen]
    before = process.deviation_given(asked[1:2], [])
    after = process.deviation_given(asked[1:2], asked[:1])
    assert after[0] <= before[0]
