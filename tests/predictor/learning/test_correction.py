"""Corrections from a few points: what helps on points that were left out, and nothing else."""

import numpy as np
import pytest

from autotune.predictor.learning.correction import Points, choose_correction


def points(count, seed=0):
    draw = np.random.default_rng(seed)
    return Points(
        features=draw.uniform(0, 1, size=(count, 2)),
        regime=draw.integers(0, 3, size=count),
        group=np.arange(count),
    )


def noise(count, size, seed=1):
    return size * np.random.default_rng(seed).normal(size=count)


def test_noise_alone_is_not_corrected():
    known = points(12)
    found = choose_correction(known, noise(12, 0.1) - noise(12, 0.1).mean())
    assert found.name in ("nothing", "one factor")
    assert np.abs(found.shift(known)).max() < 1e-3
    assert found.error_after == pytest.approx(found.error_before, rel=0.1)


def test_layers_that_contradict_one_another_are_not_corrected():
    known = points(12)
    spread = np.where(np.arange(12) == 0, 3.0, -0.02)
    assert choose_correction(known, spread).name == "nothing"


def test_one_factor_is_found_from_five_points():
    known, asked = points(5), points(100, seed=3)
    found = choose_correction(known, 0.2 + noise(5, 0.01))
    assert found.name == "one factor"
    assert found.shift(asked) == pytest.approx(0.2 * 5 / 7, abs=0.01)
    assert found.error_after < 0.5 * found.error_before
    assert found.half_width is None, "five errors tell no quantile"


def test_regimes_have_their_own_factors():
    known, asked = points(24), points(90, seed=3)
    truth = np.array([0.3, -0.3, 0.05])
    found = choose_correction(known, truth[known.regime] + noise(24, 0.02))
    assert found.name == "a factor for each range of tokens"
    assert np.abs(found.shift(asked) - truth[asked.regime]).mean() < 0.08
    assert 0 < found.half_width < 0.2


def test_a_surface_is_learned_from_a_hundred_points():
    def truth(where):
        return 0.5 * np.sin(6 * where.features[:, 0])

    known, asked = points(100), points(200, seed=3)
    found = choose_correction(known, truth(known) + noise(100, 0.01))
    assert found.name == "a smooth surface"
    assert np.abs(found.shift(asked) - truth(asked)).mean() < 0.05


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 25, 60])
def test_it_is_hardly_ever_worse_than_nothing(count):
    """Whatever the truth is: nothing, one factor, or a surface."""
    asked, worse = points(300, seed=9), []
    for seed in range(20):
        known = points(count, seed=seed)
        for truth in (
            lambda where: np.zeros(len(where.regime)),
            lambda where: np.full(len(where.regime), 0.1),
            lambda where: 0.2 * np.sin(6 * where.features[:, 0]),
        ):
            found = choose_correction(known, truth(known) + noise(count, 0.03, seed=seed))
            errors = np.abs(truth(asked) - found.shift(asked)).mean()
            worse.append(errors - np.abs(truth(asked)).mean())
    assert np.mean(worse) <= 0
    assert max(worse) < 0.06


def test_a_single_group_counts_for_a_third():
    one = Points(
        features=np.zeros((1, 2)), regime=np.zeros(1, dtype=int), group=np.zeros(1, dtype=int)
    )
    found = choose_correction(one, np.array([0.3]))
    assert found.shift(one) == pytest.approx([0.1])
