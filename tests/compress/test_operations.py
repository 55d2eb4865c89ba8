"""A trace counts what a pass does, without computing it."""

import pytest
import torch
from torch import nn

from autotune.compress.decode import decode_inputs, decode_step
from autotune.compress.operations import trace_operations
from autotune.compress.sites import find_sites
from autotune.core.layers import Site
from autotune.core.operation import Operation, fuse
from autotune.core.types import Workload
from tests.conftest import TINY, tiny_model, tiny_task

WORKLOAD = Workload(batch_size=3, sequence_length=16)


def trace(kind, dtype=torch.float32, workload=WORKLOAD):
    model = tiny_model(kind)
    sites = find_sites(model).sites
    inputs = tiny_task(kind).example_inputs(model, workload)
    return model, sites, trace_operations(model, sites, inputs=inputs, dtype=dtype)


@pytest.mark.parametrize("kind", TINY)
def test_every_layer_and_every_attention_is_seen_once(kind):
    model, sites, found = trace(kind)
    kinds = [operation.kind for operation in found]
    assert kinds.count("layer") == len(sites)
    assert kinds.count("attention") == 2
    attention = next(o for o in found if o.kind == "attention")
    assert (attention.batch, attention.heads, attention.head_dim) == (3, 4, 16)
    assert attention.queries == attention.keys
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_nothing_is_computed_and_the_model_stays_as_it_was():
    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    inputs = tiny_task("llama").example_inputs(model, WORKLOAD)
    found = trace_operations(model, find_sites(model).sites, inputs=inputs, dtype=torch.bfloat16)
    assert found == trace_operations(
        model, find_sites(model).sites, inputs=inputs, dtype=torch.bfloat16
    )
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


class Small(nn.Module):
    """y = gelu(x W) + x W, and a head."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 64, bias=False)
        self.head = nn.Linear(64, 96, bias=False)

    def forward(self, x):
        y = self.layer(x)
        return self.head(nn.functional.gelu(y) + y)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_and_shapes_by_hand(dtype, size):
    sites = (Site(name="layer", in_features=64, out_features=64, tokens=5),)
    found = trace_operations(Small(), sites, inputs={"x": torch.zeros(5, 64)}, dtype=dtype)
    assert [o.kind for o in found] == ["layer", "memory", "memory", "product"]
    layer, gelu, add, head = found
    values = 5 * 64
    assert layer.moved_bytes == gelu.moved_bytes == 2 * values * size
    assert add.moved_bytes == 3 * values * size
    assert head.moved_bytes == (values + 64 * 96 + 5 * 96) * size
    assert (head.queries, head.head_dim, head.keys, head.batch) == (5, 64, 96, 1)
    # The activation reads y once and writes the sum once.
    fused = fuse(found)
    assert [o.kind for o in fused] == ["layer", "memory", "product"]
    assert fused[1].moved_bytes == 2 * values * size


def test_a_decode_step_has_one_query_a_sequence():
    model = tiny_model("llama")
    sites = find_sites(model).sites
    inputs = decode_inputs(model, 3, past_length=20)
    found = trace_operations(
        model, sites, inputs=inputs, dtype=torch.float32, causal=True, call=decode_step
    )
    attention = [o for o in found if o.kind == "attention"]
    assert len(attention) == 2
    for one in attention:
        assert (one.batch, one.heads, one.kv_heads) == (3, 4, 2)
        assert (one.queries, one.keys, one.causal) == (1, 21, False)


def test_a_prompt_as_long_as_heads_share_a_key_is_a_prompt():
    """Two heads a key and two tokens: nothing of it is a decode step."""
    model = tiny_model("llama")
    inputs = tiny_task("llama").example_inputs(model, Workload(batch_size=3, sequence_length=2))
    found = trace_operations(
        model, find_sites(model).sites, inputs=inputs, dtype=torch.float32, causal=True
    )
    attention = [o for o in found if o.kind == "attention"]
    assert all((o.heads, o.queries, o.keys, o.causal) == (4, 2, 2, True) for o in attention)


def test_causal_attention_is_marked():
    model = tiny_model("llama")
    inputs = tiny_task("llama").example_inputs(model, WORKLOAD)
    sites = find_sites(model).sites
    found = trace_operations(model, sites, inputs=inputs, dtype=torch.float32, causal=True)
    assert all(o.causal for o in found if o.kind == "attention")


def test_a_fused_run_keeps_what_is_read_later():
    """x -> a -> b, then a product of b, then c of a: the run writes a and b, and reads x only."""
    found = fuse(
        [
            Operation(kind="memory", reads=((0, 10),), writes=((1, 20),)),
            Operation(kind="memory", reads=((1, 20),), writes=((2, 30),)),
            Operation(kind="product", reads=((2, 30),), writes=((3, 40),)),
            Operation(kind="memory", reads=((1, 20), (3, 40)), writes=((4, 50),)),
        ]
    )
    assert [o.kind for o in found] == ["memory", "product", "memory"]
    assert found[0].reads == ((0, 10),)
    assert found[0].writes == ((1, 20), (2, 30))
    assert found[2].reads == ((1, 20), (3, 40))
    assert found[2].writes == ((4, 50),)
