"""Rounding to integers: exact grids, and errors no larger than those of simpler ways."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune.compress.integer_weights import WeightLayout
from autotune.compress.rounding import (
    Feedback,
    InputRounding,
    InputSample,
    choose_rounding,
    nearest,
    weight_scales,
    with_feedback,
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sample_of(rows):
    return InputSample(rows=rows, low=rows.amin(0), high=rows.amax(0))


def outliers(n=400, k=96):
    """Inputs of which a few features are a hundred times as large, as those of transformers are."""
    sizes = torch.ones(k)
    sizes[::17] = 100.0
    return drawn(n, k) * sizes


def output_error(weight, rounding, rows):
    found = rounding.apply(rows) @ nearest(weight * rounding.smoothing).values().T
    return float((found - rows @ weight.T).square().sum() / (rows @ weight.T).square().sum())


@given(st.integers(0, 2**31), st.floats(1e-6, 1e6))
def test_values_lie_within_half_a_step_of_the_weight(seed, size):
    weight = drawn(12, 20, seed=seed) * size
    rounded = nearest(weight)
    assert (rounded.codes == rounded.codes.round()).all()
    assert rounded.codes.abs().max() == 127
    assert ((rounded.values() - weight).abs() <= rounded.scale * 0.5001).all()


BLOCKS = WeightLayout(block=32)
HALF = WeightLayout(bits=4, block=32)


@pytest.mark.parametrize("layout", [BLOCKS, HALF])
@pytest.mark.parametrize("columns", [64, 70])
def test_each_block_has_steps_of_its_own(layout, columns):
    """A block a thousand times as large costs the others nothing."""
    weight = drawn(6, columns)
    weight[:, 32:64] *= 1000
    rounded = nearest(weight, layout=layout)
    assert rounded.scale.shape == (6, layout.blocks(columns))
    apart = (rounded.values() - weight)[:, :32].norm() / weight[:, :32].norm()
    assert apart < (0.12 if layout is HALF else 0.01)
    assert nearest(weight).values()[:, :32].abs().max() == 0


def test_codes_of_4_bits_are_all_used():
    """The largest value of a block is its lowest code, whichever its sign, or a little cut."""
    codes = nearest(drawn(200, 32), layout=HALF).codes
    assert set(codes.unique().tolist()) == set(range(-8, 8))


def test_steps_of_4_bits_weigh_what_the_inputs_see():
    """Where one feature is all that counts, its value is met better than by even weights."""
    weight, importance = drawn(500, 32, seed=8), torch.full((32,), 1e-6)
    importance[3] = 1.0

    def error(seen):
        scale = weight_scales(weight, layout=HALF, importance=seen)
        found = (weight / scale).round().clamp(-8, 7) * scale
        return float((found - weight)[:, 3].square().sum())

    assert error(importance) < 0.5 * error(torch.ones(32))


def test_feedback_serves_blocks_too():
    mixing = drawn(64, 64, seed=1) * torch.logspace(0, -2, 64)[:, None]
    rows, weight = drawn(2000, 64) @ mixing, drawn(48, 64, seed=2)
    exact = rows @ weight.T
    fed = with_feedback(weight, Feedback.of(rows.T @ rows / len(rows)), layout=HALF)
    plain = nearest(weight, layout=HALF)
    assert fed.codes.min() >= -8 and fed.codes.max() <= 7
    assert (rows @ fed.values().T - exact).norm() < 0.7 * (rows @ plain.values().T - exact).norm()


def test_a_row_of_zeros_stays_zero():
    weight = drawn(4, 8)
    weight[2] = 0
    for rounded in (nearest(weight), with_feedback(weight, Feedback.of(torch.eye(8)))):
        assert torch.equal(rounded.values()[2], torch.zeros(8))
        assert rounded.values().isfinite().all()


def test_feedback_has_less_error_where_inputs_are_correlated():
    mixing = drawn(64, 64, seed=1) * torch.logspace(0, -2, 64)[:, None]
    rows, weight = drawn(2000, 64) @ mixing, drawn(48, 64, seed=2)
    gram = rows.T @ rows / len(rows)

    def error(rounded):
        wrong = (rounded.values() - weight).double()
        return float(torch.trace(wrong @ gram.double() @ wrong.T))

    fed = with_feedback(weight, Feedback.of(gram))
    assert torch.equal(fed.scale[:, 0], weight.abs().amax(1) / 127)
    assert error(fed) < 0.5 * error(nearest(weight))


def test_feedback_changes_nothing_where_inputs_are_independent():
    weight = drawn(16, 24)
    assert torch.equal(
        with_feedback(weight, Feedback.of(torch.eye(24))).codes, nearest(weight).codes
    )


@pytest.mark.parametrize("gram", [torch.zeros(24, 24), torch.ones(24, 24)])
def test_feedback_survives_inputs_that_never_varied(gram):
    rounded = with_feedback(drawn(16, 24), Feedback.of(gram))
    assert rounded.codes.isfinite().all()
    assert rounded.codes.abs().max() <= 127


def test_the_blocks_of_feedback_are_one_after_the_other():
    """More columns than one block: the later ones make good what the first did."""
    rows = drawn(3000, 200) @ (drawn(200, 200, seed=5) * 0.1 + torch.eye(200))
    gram, weight = rows.T @ rows / len(rows), drawn(8, 200, seed=3)
    fed, plain = with_feedback(weight, Feedback.of(gram)), nearest(weight)
    exact = rows @ weight.T
    assert (rows @ fed.values().T - exact).norm() < 0.95 * (rows @ plain.values().T - exact).norm()


def test_smoothing_is_chosen_where_features_differ_in_size():
    rows, weight = outliers(), drawn(48, 96, seed=4)
    plain = choose_rounding([weight], [None], sample=sample_of(drawn(400, 96)))
    found = choose_rounding([weight], [None], sample=sample_of(rows))
    unsmoothed = InputRounding(
        smoothing=torch.ones(96), scale=float(rows.max() - rows.min()) / 255, zero_point=128
    )
    assert output_error(weight, found, rows) < 0.2 * output_error(weight, unsmoothed, rows)
    assert found.smoothing.max() > 10 * found.smoothing.min()
    assert output_error(weight, plain, drawn(400, 96)) < 2e-4


def test_zero_is_a_step_of_every_range():
    """Padding and what a ReLU leaves out stay exactly zero."""
    for rows in (drawn(50, 8) + 9, drawn(50, 8) - 9, drawn(50, 8).relu()):
        rounding = choose_rounding([drawn(4, 8)], [None], sample=sample_of(rows))
        assert torch.equal(rounding.apply(torch.zeros(3, 8)), torch.zeros(3, 8))
        assert 0 <= rounding.zero_point <= 255


def test_an_input_that_was_always_zero_has_a_rounding():
    rounding = choose_rounding([drawn(4, 8)], [None], sample=sample_of(torch.zeros(5, 8)))
    assert rounding.apply(drawn(3, 8)).isfinite().all()


def test_what_the_metric_does_not_see_decides_nothing():
    """Output 0 is all that counts: the choice is the one for its row alone."""
    rows, weight = outliers(), drawn(2, 96, seed=6) * torch.tensor([[1.0], [1000.0]])
    left = torch.diag(torch.tensor([1.0, 0.0]))
    both = choose_rounding([weight], [left], sample=sample_of(rows))
    alone = choose_rounding([weight * torch.tensor([[1.0], [0.0]])], [None], sample=sample_of(rows))
    error, least = (output_error(weight[:1], each, rows) for each in (both, alone))
    assert error < 3 * least
