"""What a few points change: the best of nothing, a factor and processes, on layers left out."""

import numpy as np
import pytest

from autotune.predictor.learning.gaussian_process import shared_kernel
from autotune.predictor.products.adaptation import (
    NOTHING,
    ONE_FACTOR,
    PROCESSES,
    Adaptation,
    Bases,
)

WIDTH = 0.4


def surface(features):
    return 0.4 * np.sin(3 * features[:, 0])


@pytest.fixture(scope="module")
def kernels():
    draw = np.random.default_rng(5)
    samples = []
    for _ in range(3):
        x = draw.uniform(0, 1, (60, 2))
        samples.append((x, surface(x + draw.uniform(0, 1, (1, 2)))))
    return shared_kernel(samples), shared_kernel(samples)


def bases(count, seed):
    features = np.random.default_rng(seed).uniform(0, 1, (count, 2))
    donated = features.sum(axis=1)
    return Bases(features=features, limit=donated - 0.3, donated=donated, group=np.arange(count))


def adapted(known, truth, kernels):
    return Adaptation(known, truth, kernels=kernels, half_width=WIDTH)


def noise(count, seed=3):
    return 0.05 * np.random.default_rng(seed).normal(size=count)


def test_donors_that_are_right_stay_as_they_are(kernels):
    known = bases(8, 1)
    off = noise(8) - noise(8).mean()
    found = adapted(known, known.donated + off, kernels)
    assert found.name in (NOTHING, ONE_FACTOR)
    logs, widths = found.predict(known)
    assert logs == pytest.approx(known.donated, abs=1e-6) and set(widths) == {WIDTH}


def test_one_odd_layer_changes_nothing(kernels):
    known = bases(9, 1)
    found = adapted(known, known.donated + np.where(np.arange(9) == 0, 3.0, -0.02), kernels)
    assert found.name == NOTHING
    assert found.predict(known)[0].tolist() == known.donated.tolist()


@pytest.mark.parametrize("layers", [5, 1])
def test_a_few_points_of_a_slower_device_give_one_factor(kernels, layers):
    known = bases(5, 1)
    known = Bases(**{**vars(known), "group": np.arange(5) % layers})
    found = adapted(known, known.donated + 0.4, kernels)
    assert found.name == ONE_FACTOR
    asked = bases(20, 2)
    factor = 0.4 * layers / (layers + 2)
    assert found.predict(asked)[0] - asked.donated == pytest.approx(factor)
    assert (found.error_after < found.error_before) == (layers > 1)


def test_many_points_give_a_surface_with_widths_of_its_own(kernels):
    known, asked = bases(40, 1), bases(200, 2)
    found = adapted(known, known.donated + surface(known.features) + 0.2, kernels)
    assert found.name == PROCESSES
    logs, widths = found.predict(asked)
    errors = np.abs(logs - asked.donated - surface(asked.features) - 0.2)
    assert errors.mean() < 0.05 < found.error_before
    assert np.mean(errors <= widths) > 0.8
    assert np.median(widths) < WIDTH
