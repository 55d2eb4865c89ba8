"""Precisions: bytes and layers of native ones are as before; others are checked against builds."""

import pytest
import torch

from autotune.compress.factors import Factors, build_layers
from autotune.compress.integer_weights import LAYOUTS
from autotune.compress.lowrank import dense_like, dense_weight
from autotune.compress.precisions import PRECISIONS, check_precisions, make_precision
from autotune.compress.sites import find_sites
from autotune.core.errors import UsageError
from autotune.core.forms import DENSE, Form, low_rank
from autotune.core.layers import LayerShape, Site
from autotune.devices.specs import DTYPE_BYTES
from autotune.search.tables import site_bytes
from autotune.testing.suites.precision import PrecisionSuite
from tests.conftest import tiny_model

SITE = Site(name="one", in_features=48, out_features=72, tokens=3)
JOINT = Site(
    name="all", in_features=48, out_features=72, tokens=3, members=("a", "b"), parts=(32, 40)
)


class TestOwn(PrecisionSuite):
    @pytest.fixture(params=["native", *sorted(LAYOUTS)])
    def precision(self, request):
        return make_precision(request.param)


@pytest.mark.parametrize("form", [DENSE, low_rank(8), low_rank(16, "pivoted")], ids=str)
@pytest.mark.parametrize("site", [SITE, JOINT], ids=lambda site: site.name)
@pytest.mark.parametrize("dtype", DTYPE_BYTES)
def test_native_bytes_are_the_parameters_in_the_dtype(site, form, dtype):
    shape = site.shape(form, dtype)
    assert sum(n * k for n, k in shape.matrices) == shape.parameters
    wanted = float(shape.parameters * DTYPE_BYTES[dtype])
    assert site_bytes(site, form, dtype=dtype, storage="fp32") == wanted


def test_a_joint_sites_pair_is_one_down_and_an_up_for_each_layer():
    assert JOINT.shape(low_rank(8)).matrices == ((8, 48), (32, 8), (40, 8))
    assert JOINT.shape().matrices == ((32, 48), (40, 48))


class RandomFactors(Factors):
    """Factors of ones and threes, so that nothing but rounding changes them."""

    def errors(self, site):
        raise NotImplementedError

    def plan(self, forms):
        for site, form in forms.items():
            yield site, (torch.ones(site.out_features, form.rank), torch.full((form.rank, 64), 3.0))


def test_native_layers_hold_the_factors_as_they_are():
    model = tiny_model("llama")
    sites = find_sites(model).sites
    layers = build_layers(model, sites, factors=RandomFactors(), plan={sites[0].name: low_rank(4)})
    assert list(layers) == [sites[0].name]
    assert torch.equal(layers[sites[0].name].weight, torch.ones(sites[0].out_features, 4))
    assert torch.equal(layers[sites[0].name].weight_down, torch.full((4, 64), 3.0))


@pytest.mark.parametrize("form", [Form(precision="int3"), low_rank(4, precision="int3")], ids=str)
def test_an_unknown_precision_is_refused_with_the_known_ones(form):
    model = tiny_model("llama")
    sites = find_sites(model).sites
    known = f"unknown precision 'int3'; known are {', '.join(PRECISIONS)}"
    with pytest.raises(UsageError, match=known):
        build_layers(model, sites, factors=RandomFactors(), plan={sites[0].name: form})
    with pytest.raises(UsageError, match=known):
        site_bytes(SITE, form, dtype="fp32", storage="fp32")
    with pytest.raises(UsageError, match=known):
        check_precisions({SITE.name: form}, "torch-eager")


def test_packed_factors_are_plain_and_native():
    with pytest.raises(UsageError, match="only plain factors in native precision"):
        site_bytes(SITE, low_rank(4, precision="int3"), dtype="fp32", storage="remap8")
    with pytest.raises(UsageError, match="only plain factors in native precision"):
        site_bytes(SITE, low_rank(4, "pivoted"), dtype="fp32", storage="fp16")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_dense_layer_with_another_weight_leaves_the_model_as_it_was(kind):
    model = tiny_model(kind)
    module = model.get_submodule(find_sites(model).sites[0].name)
    before = dense_weight(module).clone()
    copied = dense_like(module, torch.zeros_like(before))
    assert type(copied) is type(module)
    assert copied.bias is module.bias
    x = torch.randn(2, before.shape[1])
    assert torch.equal(dense_weight(module), before)
    bias = 0 if copied.bias is None else copied.bias
    assert torch.equal(copied(x), torch.zeros(2, len(before)) + bias)


def test_bits_per_weight():
    shape = LayerShape(tokens=1, in_features=64, out_features=32, dtype="bf16")
    assert make_precision("native").bits_per_weight(shape) == 16
