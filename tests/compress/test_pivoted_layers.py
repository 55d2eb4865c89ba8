"""Pivoted layers compute what plain pairs do, and hold fewer numbers."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autotune.compress.lowrank import low_rank_like, shared_low_rank_like
from autotune.compress.pivoted_layers import PivotedInLinear, PivotedOutLinear, narrow_side
from autotune.compress.pivoting import pivoted_like
from autotune.core.forms import parse_form

torch.manual_seed(0)


def dense(k, n, *, bias=True):
    return nn.Linear(k, n, bias=bias).double()


def factors(n, k, rank):
    return torch.randn(n, rank).double(), torch.randn(rank, k).double()


def numbers(layers):
    return sum(
        p.numel() for layer in layers for name, p in layer.named_parameters() if "weight" in name
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("k", "n", "kind"), [(8, 20, PivotedInLinear), (20, 8, PivotedOutLinear)])
def test_a_layer_computes_what_its_pair_does(k, n, kind, bias):
    module, (up, down) = dense(k, n, bias=bias), factors(n, k, 5)
    (layer,) = pivoted_like([module], ups=[up], down=down)
    assert type(layer) is kind
    assert layer.form == parse_form("rank=5:pivoted")
    assert numbers([layer]) == 5 * (k + n - 5)
    x = torch.randn(2, 3, k).double()
    torch.testing.assert_close(layer(x), low_rank_like(module, up=up, down=down)(x))


def test_a_module_that_keeps_its_weight_the_other_way_round():
    module = Conv1D(20, 8).double()
    up, down = factors(20, 8, 5)
    (layer,) = pivoted_like([module], ups=[up], down=down)
    x = torch.randn(3, 8).double()
    torch.testing.assert_close(layer(x), low_rank_like(module, up=up, down=down)(x))


def test_layers_that_share_a_latent():
    modules = [dense(16, 12), dense(16, 4), dense(16, 4)]
    ups, (_, down) = [factors(len(m.weight), 16, 6)[0] for m in modules], factors(1, 16, 6)
    layers = pivoted_like(modules, ups=ups, down=down)
    assert {str(layer.form) for layer in layers} == {"rank=6:pivoted"}
    assert numbers(layers) == 6 * (16 + 20 - 6)
    x = torch.randn(3, 16).double()
    plain = shared_low_rank_like(modules, ups=ups, down=down)
    for layer, pair in zip(layers, plain, strict=True):
        torch.testing.assert_close(layer(x), pair(x))


def test_a_layer_may_be_rounded_after_it_was_pivoted():
    """The identity stays exact, and what is stored is what was rounded."""
    up, down = factors(20, 8, 5)
    (layer,) = pivoted_like([dense(8, 20)], ups=[up], down=down, rounded=torch.round)
    assert torch.equal(layer.weight, layer.weight.round())
    assert torch.equal(layer.weight_down, layer.weight_down.round())


def test_a_copy_and_a_state_dict_hold_the_order():
    (layer,) = pivoted_like([dense(8, 20)], ups=[factors(20, 8, 5)[0]], down=factors(20, 8, 5)[1])
    x = torch.randn(3, 8).double()
    empty = PivotedInLinear(8, 20, rank=5, dtype=torch.float64)
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("side", ["in", "out"])
def test_both_factors_can_be_trained(side):
    k, n = (8, 20) if side == "in" else (20, 8)
    up, down = factors(n, k, 5)
    (layer,) = pivoted_like([dense(k, n)], ups=[up], down=down)
    layer(torch.randn(3, k).double()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_the_identity_is_where_fewer_values_move():
    assert narrow_side(64, 256) is narrow_side(64, 64) is PivotedInLinear
    assert narrow_side(256, 64) is PivotedOutLinear
