"""A network that is run in another dtype than that of its weights."""

import pytest
import torch
from torch import nn

from autotune.compress.inference import WEIGHTS, running_in
from autotune.compress.integer_layers import DynamicQuantizer, IntegerLinear
from autotune.core.forms import INT8_DYNAMIC, INT8_STATIC


@pytest.fixture
def x():
    return torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


def test_products_are_rounded(x):
    layer = nn.Linear(64, 32)
    expected = layer.bfloat16()(x.bfloat16())
    layer = layer.float()
    with running_in("bf16"):
        found = layer(x)
    assert torch.equal(found, expected)
    assert layer.weight.dtype == torch.float32


def test_the_own_dtype_changes_nothing(x):
    layer = nn.Linear(64, 32)
    with running_in(WEIGHTS):
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("precision", [INT8_STATIC, INT8_DYNAMIC])
def test_integer_products_stay_exact(x, precision):
    """Sums of products of integers are exact; only what comes out is rounded to bf16."""
    layer = IntegerLinear(64, 32, precision=precision, bias=False)
    generator = torch.Generator().manual_seed(1)
    layer.weight.copy_(torch.randint(-127, 128, layer.weight.shape, generator=generator))
    layer.weight_scale.fill_(0.01)
    quantizer = layer.input_quantizer
    if precision == INT8_STATIC:
        quantizer.scale.fill_(0.03)
        quantizer.zero_point.fill_(128)
        quantizer.smoothing.fill_(1.0)
    exact = layer(x)
    with running_in("bf16"):
        assert torch.equal(layer(x), exact.bfloat16())


def test_codes_of_rounded_inputs_are_exact(x):
    """An input in bf16 is rounded to 8 bits as the same numbers in fp32 are."""
    quantizer = DynamicQuantizer(64)
    half = x.bfloat16()
    expected = quantizer(half.float())
    with running_in("bf16"):
        assert torch.equal(quantizer(half), expected)
