"""Which few products are measured first: by distance, and by what they say of the others."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from autotune.predictor.learning.design import informative_design, spread_design
from tests.predictor.products.test_donors import NAMES, find_device, table

KERNEL = ConstantKernel(2.0) * Matern([1.0, 3.0], nu=1.5) + WhiteKernel(0.05)


@pytest.fixture
def points():
    return np.random.default_rng(0).uniform(0, 5, (60, 2))


def mean_variance(points, chosen):
    """Of all points, after scikit-learn's process has seen the chosen ones."""
    process = GaussianProcessRegressor(KERNEL, optimizer=None)
    process.fit(points[chosen], np.zeros(len(chosen)))
    return float((process.predict(points, return_std=True)[1] ** 2).mean())


def test_each_row_is_the_best_next_one(points):
    chosen = list(informative_design(KERNEL, points, count=5))
    assert len(set(chosen)) == 5
    for step in range(5):
        before, best = chosen[:step], chosen[step]
        others = [i for i in range(len(points)) if i not in before]
        least = min(mean_variance(points, [*before, i]) for i in others)
        assert mean_variance(points, [*before, best]) == pytest.approx(least, rel=1e-6)


def test_informed_is_better_than_spread_or_drawn(points):
    informed = mean_variance(points, informative_design(KERNEL, points, count=8))
    assert informed < mean_variance(points, spread_design(np.exp(points), 8))
    assert informed < min(
        mean_variance(points, np.random.default_rng(i).permutation(60)[:8]) for i in range(20)
    )


def test_all_that_there_are_and_no_more(points):
    assert sorted(informative_design(KERNEL, points[:6], count=10)) == list(range(6))


def test_a_spread_design_repeats_no_point_and_reaches_the_corners():
    products, _ = table(find_device(NAMES[0]))
    chosen = spread_design(products, 20, seed=3)
    assert len(set(chosen)) == 20
    assert (spread_design(products, 20, seed=3) == chosen).all()
    for column in range(3):
        assert len(set(products[chosen, column])) >= 3
