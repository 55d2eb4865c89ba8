"""A pass that needs no attention mask has none where it is captured, and computes the same."""

import pytest
import torch
from torch.nn import functional

from autotune.compress.attention_masks import drop_attention_masks
from autotune.core.types import Workload


@pytest.fixture
def one_pass(tiny):
    """A model, what runs it without a mask, and its inputs."""
    _, model, task = tiny
    inputs = dict(task.example_inputs(model, Workload(batch_size=2, sequence_length=9)))
    inputs.pop("attention_mask", None)
    return model, lambda: model(**inputs)[0], inputs


@pytest.fixture
def masks(monkeypatch):
    """Of every call of PyTorch's attention, whether it had a mask."""
    found = []
    attention = functional.scaled_dot_product_attention

    def observed(*tensors, attn_mask=None, **options):
        found.append(attn_mask is not None)
        return attention(*tensors, attn_mask=attn_mask, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", observed)
    return found


def test_a_captured_pass_calls_attention_as_eager_mode_does(one_pass, masks, monkeypatch):
    model, run, _ = one_pass
    with torch.no_grad():
        expected, eager = run(), list(masks)
        drop_attention_masks(model, run)
        masks.clear()
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        found = run()
    assert masks == eager
    assert torch.equal(found, expected)


def test_a_pass_that_masks_keeps_its_masks(one_pass, masks):
    model, _, inputs = one_pass
    if "input_ids" not in inputs:
        pytest.skip("nothing can be masked")
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][0, -3:] = 0
    with torch.no_grad():
        expected = model(**inputs)[0]
        drop_attention_masks(model, lambda: model(**inputs))
        assert torch.equal(model(**inputs)[0], expected)
    assert any(masks) or not masks
