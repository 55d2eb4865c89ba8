"""Kriging against scikit-learn and brute force; the product regressor's contract."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.layers.flar import FlarForest, flar_recovery
from autotune.predictor.learning.kriging import Kernel, Kriging, SliceKriging
from autotune.predictor.products.features import physical_features, roofline_s
from autotune.predictor.products.regressor import ProductRegressor

SPEC = find_device("h200")
ROOFLINE = Roofline.of(SPEC, 1)
DRAW = np.random.default_rng(0)
POINTS = DRAW.normal(size=(40, 3))
VALUES = np.sin(POINTS).sum(1)


@pytest.mark.parametrize("rough", [False, True])
def test_kriging_is_a_gaussian_process(rough):
    """scikit-learn's with the same kernel, centred by the same mean."""
    ours = Kriging(POINTS, VALUES, kernels=[Kernel(noise=0.01, rough=rough)])
    kernel = Matern(1.0, nu=0.5 if rough else 1.5)
    theirs = GaussianProcessRegressor(kernel, alpha=0.01, optimizer=None)
    theirs.fit(POINTS, VALUES - VALUES.mean())
    asked = DRAW.normal(size=(20, 3))
    assert np.allclose(ours.values(asked)[:, 0], theirs.predict(asked) + VALUES.mean(), atol=1e-4)


def test_left_out_values_are_those_of_a_fit_without_the_point():
    kernels = [Kernel(noise=0.01), Kernel(noise=0.02, rough=True)]
    whole = Kriging(POINTS, VALUES, kernels=kernels)
    for i in range(len(VALUES)):
        rest = np.arange(len(VALUES)) != i
        for column, kernel in enumerate(kernels):
            matern = Matern(1.0, nu=0.5 if kernel.rough else 1.5)
            part = GaussianProcessRegressor(matern, alpha=kernel.noise, optimizer=None)
            # The mean is not refitted in the closed form, so it is taken from the whole here too.
            part.fit(POINTS[rest], VALUES[rest] - whole.mean)
            value = part.predict(POINTS[i : i + 1])[0] + whole.mean
            assert whole.left_out[i, column] == pytest.approx(value, abs=1e-7)


def test_between_slices_it_is_linear_in_log_tokens():
    tokens = np.repeat([16.0, 64.0], 20)
    values = np.concatenate([np.full(20, 1.0), np.full(20, 3.0)])
    slices = SliceKriging(tokens, kernels=[Kernel(noise=1e-6)])
    slices.fit(POINTS, values)
    asked = np.array([16.0, 32.0, 64.0, 1.0, 999.0])
    assert slices.values(asked, POINTS[:5])[:, 0] == pytest.approx([1.0, 2.0, 3.0, 1.0, 3.0])


def test_slices_are_restored_from_what_was_fitted():
    tokens = np.repeat([16.0, 64.0, 128.0], [18, 20, 2])
    kernels = [Kernel(noise=0.01), Kernel(noise=0.02, rough=True)]
    slices = SliceKriging(tokens, kernels=kernels)
    slices.fit(POINTS, VALUES)
    again = SliceKriging(tokens, kernels=kernels)
    again.restore(POINTS, slices.fitted)
    asked = np.array([16.0, 32.0, 64.0, 1.0, 999.0])
    assert (again.values(asked, POINTS[:5]) == slices.values(asked, POINTS[:5])).all()


def test_the_roofline_is_the_layers_own_plus_the_launch():
    products = np.array([[16, 4096, 1024], [2048, 64, 8192]], dtype=float)
    for (m, k, n), seconds in zip(
        products, roofline_s(products, ROOFLINE, dtype="bf16"), strict=True
    ):
        layer = LayerShape(tokens=int(m), in_features=int(k), out_features=int(n), dtype="bf16")
        assert seconds == pytest.approx(ROOFLINE.latency_s(layer) + 2e-6, rel=1e-12)


TOKENS = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 2048.0, 4096.0]


def table(noise=0.0, seed=0):
    """A device whose kernels reach three quarters, less on small outputs, with noise."""
    draw = np.random.default_rng(seed)
    sizes = np.array([64, 128, 256, 512, 1024, 2048, 4096, 8192], dtype=float)
    m, k, n = (v.ravel() for v in np.meshgrid(TOKENS, sizes, sizes))
    products = np.column_stack([m, k, n])
    reached = 0.75 * n / (n + 300)
    return products, roofline_s(products, ROOFLINE, dtype="bf16") / reached * np.exp(
        noise * draw.normal(size=len(m))
    )


@pytest.fixture(scope="module")
def held():
    products, seconds = table(noise=0.03)
    groups, index = np.unique(products[:, 1:], axis=0, return_inverse=True)
    test = (np.random.default_rng(1).permutation(len(groups)) < 12)[index.ravel()]
    regressor = ProductRegressor(SPEC, trees=200, stacked_trees=100)
    return regressor.fit(products[~test], seconds[~test]), products, seconds, test


def test_unseen_shapes_are_near_and_their_intervals_honest(held):
    regressor, products, seconds, test = held
    predicted = regressor.predict(products[test])
    off = np.abs(predicted / seconds[test] - 1)
    plain = np.abs(roofline_s(products[test], ROOFLINE, dtype="bf16") / seconds[test] - 1)
    assert off.mean() < 0.06 < 0.3 < plain.mean()
    low, high = regressor.predict_interval(products[test])
    covered = np.mean((low <= seconds[test]) & (seconds[test] <= high))
    assert covered > 0.75
    assert (high / low).max() < 2.0


def test_between_the_numbers_of_tokens_intervals_are_wider():
    """Every other M has kernels of half the speed, which its neighbours do not tell."""
    products, seconds = table(noise=0.01)
    odd = np.isin(products[:, 0], [1.0, 16.0, 256.0, 2048.0])
    regressor = ProductRegressor(SPEC, trees=0, stacked_trees=60)
    regressor.fit(products, np.where(odd, 2.0, 1.0) * seconds)
    asked = np.array([[128.0, 1024.0, 1024.0], [256.0, 1024.0, 1024.0]])
    between, known = regressor.interval_factors(asked)
    assert between > 1.3 > known > 1.0


def test_a_fit_is_kept_as_data(held):
    regressor, products, _, test = held
    again = clone(regressor).restore(products[~test], regressor.fitted)
    assert (again.predict(products) == regressor.predict(products)).all()
    assert (again.interval_factors(products) == regressor.interval_factors(products)).all()


def test_the_estimator_keeps_scikit_learns_contract(held):
    regressor, products, seconds, test = held
    twin = clone(regressor)
    assert twin.get_params() == regressor.get_params()
    with pytest.raises(NotFittedError):
        twin.predict(products)
    twin.fit(products[~test], seconds[~test])
    # Bit-equal: nothing is pickled, every load fits anew.
    assert (twin.predict(products) == regressor.predict(products)).all()
    assert regressor.score(products[test], seconds[test]) > 0.9
    several, alone = regressor.predict(products[[5, 5, 7]]), regressor.predict(products[[5]])
    assert several[0] == several[1] == pytest.approx(alone[0], rel=1e-9)


@pytest.mark.parametrize("wrong", [[[1.0, 2.0]], [[1.0, 0.0, 2.0]], [[1.0, np.nan, 2.0]]])
def test_what_is_no_product_is_refused(wrong):
    with pytest.raises(ValueError, match=r"rows \(M, K, N\)|NaN"):
        ProductRegressor(SPEC).fit(np.array(wrong * 2), np.ones(2))
    with pytest.raises(ValueError, match="above zero"):
        ProductRegressor(SPEC).fit(np.ones((2, 3)), np.array([1.0, -1.0]))


def test_features_are_finite_and_see_alignment():
    products = np.array([[1, 1, 1], [8192, 65536, 65536], [16, 1001, 512], [16, 1000, 512]], float)
    features = physical_features(products, ROOFLINE, dtype="bf16")
    assert np.isfinite(features).all()
    assert not np.allclose(features[2], features[3], rtol=0.01)


def test_flars_forest_and_its_recovery():
    products, seconds = table()
    forest = FlarForest(trees=5).fit(products, seconds)
    assert (forest.predict(products) > 0).all()
    assert clone(forest).get_params() == {"trees": 5, "random_state": 0}
    one, pair, dense = np.array([1.0]), np.array([1.5]), np.array([3.0])
    assert flar_recovery(pair, dense, rank_one_s=one) == pytest.approx(0.25)
    assert flar_recovery(one, dense, rank_one_s=one) == 0.0
    assert flar_recovery(dense, dense, rank_one_s=one) == 1.0
