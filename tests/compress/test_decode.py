"""The decode graph: parity with torch at shapes never traced, and generation token for token."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from autotune.compress.checkpoint import TimedCheckpoint
from autotune.compress.decode import decode_inputs, decode_step
from autotune.compress.lowrank import replaced
from autotune.compress.onnx_decode import export_decode
from autotune.compress.onnx_rewrite import rewrite_low_rank
from autotune.compress.sites import count_tokens, find_sites
from autotune.core.types import Workload
from tests.conftest import random_layers, tiny_model, tiny_task


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def decoder(request, tmp_path_factory):
    model, task = tiny_model(request.param), tiny_task(request.param)
    model.requires_grad_(False)
    inputs = task.example_inputs(model, Workload(sequence_length=8))
    sites = count_tokens(model, find_sites(model), inputs=inputs).sites
    path = tmp_path_factory.mktemp(request.param) / "decode.onnx"
    export_decode(model, [site.name for site in sites], path=path)
    return model, sites, path


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def prefill(model, ids, mask):
    """Logits, and the cache as the graph's inputs."""
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        found = model(ids, attention_mask=mask, position_ids=positions, use_cache=True)
    feeds = {}
    for i, layer in enumerate(found.past_key_values.layers):
        feeds |= {f"past_key_values.{i}.key": layer.keys.numpy()}
        feeds |= {f"past_key_values.{i}.value": layer.values.numpy()}
    return found.logits, feeds


@pytest.mark.parametrize(("batch", "length", "padded"), [(1, 2, 0), (3, 8, 3), (2, 31, 5)])
def test_one_more_token_is_the_same_as_torch_finds(decoder, batch, length, padded):
    model, _, path = decoder
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(0, 101, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, :padded] = 0  # on the left, as generation pads
    whole, _ = prefill(model, ids, mask)
    _, feeds = prefill(model, ids[:, :-1], mask[:, :-1])
    feeds |= {"input_ids": ids[:, -1:].numpy(), "attention_mask": mask.numpy()}
    logits, *present = session_of(path).run(None, feeds)
    assert np.abs(logits[:, 0] - whole[:, -1].numpy()).max() < 2e-5
    assert all(tensor.shape[2] == length for tensor in present)


def test_greedy_generation_goes_token_for_token(decoder):
    model, _, path = decoder
    ids = torch.randint(0, 101, (2, 6), generator=torch.Generator().manual_seed(0))
    wanted = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=12,
        min_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )[:, 6:]
    session = session_of(path)
    logits, feeds = prefill(model, ids, torch.ones_like(ids))
    step = logits[:, -1].argmax(-1, keepdim=True).numpy()
    steps = [step]
    for done in range(1, 12):
        feeds |= {"input_ids": step, "attention_mask": np.ones((2, 6 + done), dtype=np.int64)}
        logits, *present = session.run(None, feeds)
        names = [value.name for value in session.get_inputs()[2:]]
        feeds = dict(zip(names, present, strict=True))
        step = logits[:, -1].argmax(-1, keepdims=True)
        steps.append(step)
    assert np.array_equal(np.concatenate(steps, axis=1), wanted.numpy())


def test_a_plan_rewrites_it_like_the_graph_of_whole_sequences(decoder, tmp_path):
    model, sites, path = decoder
    layers = random_layers(model, sites, 16)
    rewrite_low_rank(path, layers, path=tmp_path / "low.onnx", metadata={})
    onnx.checker.check_model(onnx.load(tmp_path / "low.onnx"), full_check=True)
    ids = torch.randint(0, 101, (3, 9), generator=torch.Generator().manual_seed(1))
    with replaced(model, layers):
        whole, _ = prefill(model, ids, torch.ones_like(ids))
        _, feeds = prefill(model, ids[:, :-1], torch.ones_like(ids[:, :-1]))
    feeds |= {"input_ids": ids[:, -1:].numpy(), "attention_mask": np.ones((3, 9), dtype=np.int64)}
    logits, *_ = session_of(tmp_path / "low.onnx").run(None, feeds)
    assert np.abs(logits[:, 0] - whole[:, -1].numpy()).max() < 5e-5


def test_its_inputs_say_what_they_are(decoder):
    model, _, path = decoder
    graph = onnx.load(path).graph
    found = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    assert found["input_ids"] == ["batch", 1]
    assert found["attention_mask"] == ["batch", "total_length"]
    heads, size = found["past_key_values.0.key"][1::2]
    assert found["past_key_values.0.key"] == ["batch", heads, "past_length", size]
    assert set(decode_inputs(model, 1, past_length=1)) == set(found)
    outputs = [value.name for value in graph.output]
    assert outputs[0] == "logits"
    assert [name.replace("present", "past_key_values") for name in outputs[1:]] == list(found)[2:]


def test_a_timed_checkpoint_decodes_where_past_keys_are_given(monkeypatch):
    """What torch-eager times in a decode pass: inputs come from a file, in any order."""
    model = tiny_model("llama")
    inputs = decode_inputs(model, 2, past_length=7)
    wanted = decode_step(model, inputs)
    seen = []

    def spy(model, inputs):
        seen.append(decode_step(model, inputs))

    monkeypatch.setattr("autotune.compress.checkpoint.decode_step", spy)
    TimedCheckpoint(model, dict(sorted(inputs.items()))).run()
    assert all(torch.equal(a, b) for a, b in zip(seen[0], wanted, strict=True))
    assert wanted[1].shape[2] == 8
