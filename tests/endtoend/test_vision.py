"""A vision model: calibrated on tensors, tuned and exported like any other."""

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from autotune.compress.checkpoint import low_rank_layers
from autotune.compress.loading import load_class
from tests.conftest import tiny_model
from tests.outcomes import assert_finished

pytestmark = pytest.mark.duration(40)


@pytest.mark.slow
def test_a_vision_transformer_is_tuned(cli, tmp_path):
    tiny_model("vit").save_pretrained(tmp_path / "vit")
    save_file({"pixel_values": torch.randn(64, 3, 32, 32)}, tmp_path / "images.safetensors")
    done = cli(
        "--model",
        tmp_path / "vit",
        "--params-budget",
        "0.8x",
        "--batch-size",
        4,
        "--calibration",
        tmp_path / "images.safetensors",
        "--trials",
        1,
        "--rounds",
        1,
        "--output",
        tmp_path / "out",
        "--format",
        "json",
    )
    record = assert_finished(done)
    assert record["task"] == "embedding"
    assert record["parameters"]["compressed"] <= 0.8 * record["parameters"]["dense"]
    images = load_file(tmp_path / "images.safetensors")["pixel_values"][:3]
    model = load_class("embedding", tmp_path / "out" / "model", dtype=torch.float32)
    assert low_rank_layers(model)
    with torch.no_grad():
        expected = model(pixel_values=images).last_hidden_state
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    (got,) = session.run(None, {"pixel_values": images.numpy()})
    assert float((torch.from_numpy(got) - expected).abs().max()) < 1e-4


@pytest.mark.slow
def test_two_towers_are_tuned(cli, tmp_path):
    """A CLIP architecture: text and image in, both embeddings out, ε of PGSVD for each tower."""
    tiny_model("clip").save_pretrained(tmp_path / "clip")
    generator = torch.Generator().manual_seed(0)
    pairs = {
        "input_ids": torch.randint(3, 101, (64, 17), generator=generator),
        "attention_mask": torch.ones(64, 17, dtype=torch.long),
        "pixel_values": torch.randn(64, 3, 32, 32, generator=generator),
    }
    pairs["attention_mask"][::2, 9:] = 0
    save_file(pairs, tmp_path / "pairs.safetensors")
    done = cli(
        "--model",
        tmp_path / "clip",
        "--params-budget",
        "0.85x",
        "--batch-size",
        4,
        "--calibration",
        tmp_path / "pairs.safetensors",
        "--trials",
        1,
        "--rounds",
        1,
        "--output",
        tmp_path / "out",
        "--format",
        "json",
    )
    record = assert_finished(done)
    assert record["task"] == "image-text"
    assert record["workload"]["sequence_length"] == 64, "positions of its text"
    assert "inputs have 64 tokens, the most that the model takes, instead of 128" in done.stderr
    assert record["quality"]["metric"] == "cosine"
    assert record["parameters"]["compressed"] <= 0.85 * record["parameters"]["dense"]
    chosen = [site["name"] for site in record["sites"] if site["rank"]]
    assert {name.split("_model")[0] for name in chosen} == {"text", "vision"}
    reasons = {site["name"]: site["reason"] for site in record["sites"] if not site.get("layers")}
    assert reasons["text_projection"] == reasons["visual_projection"] == "a head"
    model = load_class("image-text", tmp_path / "out" / "model", dtype=torch.float32)
    few = {name: tensor[:3] for name, tensor in pairs.items()}
    with torch.no_grad():
        found = model(**few)
    expected = torch.stack([found.text_embeds, found.image_embeds], dim=1)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    (got,) = session.run(None, {name: tensor.numpy() for name, tensor in few.items()})
    assert float((torch.from_numpy(got) - expected).abs().max()) < 1e-4


def test_text_is_refused_without_a_tokenizer(cli, tmp_path):
    tiny_model("vit").save_pretrained(tmp_path / "vit")
    done = cli("--model", tmp_path / "vit", "--latency-budget", "0.9x", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert ".safetensors file of its input tensors, pixel_values" in done.stderr
    assert "set --calibration to a .safetensors file" in done.stderr
