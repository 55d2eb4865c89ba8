import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from autotune.compress.loading import check_weights, load_model
from autotune.compress.locate import model_folder
from autotune.compress.tasks import detect_task
from autotune.core.errors import ModelError
from tests.conftest import LLAMA, tiny_model


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(LLAMA, tmp_path / "model", ignore=shutil.ignore_patterns("heldout.txt"))
    return tmp_path / "model"


def test_the_task_is_recognised():
    assert load_model(str(LLAMA)).task == "causal-lm"
    assert load_model(None).task == "embedding"
    assert detect_task(tiny_model("gpt2").config) == "causal-lm"
    assert detect_task(tiny_model("vit").config) == "embedding"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_tensor_is_named(copy, value):
    path = copy / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[5]
    tensors[name].view(-1)[7] = value
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=f"{name}.*1 NaN or infinite value;"):
        load_model(str(copy))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c"])
def test_a_missing_model(name):
    with pytest.raises(ModelError, match="does not exist"):
        model_folder(name)


def test_a_hub_id_that_cannot_be_reached(monkeypatch):
    with pytest.raises(ModelError, match="the hub did not give it"):
        model_folder("some-org/some-model")


def test_a_folder_without_config_or_weights(tmp_path, copy):
    with pytest.raises(ModelError, match=r"no config\.json"):
        model_folder(str(tmp_path))
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="only safetensors weights are read"):
        load_model(str(copy))


def test_truncated_weights(copy):
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"no(t a)? readable safetensors"):
        load_model(str(copy))


def test_a_missing_tensor_is_not_made_up(copy):
    tensors = load_file(copy / "model.safetensors")
    name = next(n for n in tensors if "mlp" in n)
    del tensors[name]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="would make them random"):
        load_model(str(copy))


def test_an_unknown_architecture_or_a_quantized_model(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    with pytest.raises(ModelError, match="quantized or already factorized"):
        load_model(str(copy))
    (copy / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(ModelError, match="not a transformers configuration"):
        load_model(str(copy))


def test_the_hash_sees_every_weight(copy):
    before = check_weights(copy)
    tensors = load_file(copy / "model.safetensors")
    tensors[sorted(tensors)[-1]].view(-1)[0] += 1
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert check_weights(copy) != before


def test_parameters_are_frozen_and_in_fp32():
    model = load_model(str(LLAMA)).model
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
