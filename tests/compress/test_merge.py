"""The dense equivalent of a factorized checkpoint, and what goes with it."""

import json

import pytest
import torch

from autotune.compress.checkpoint import low_rank_layers, save_checkpoint
from autotune.compress.companions import copy_companions
from autotune.compress.loading import load_model
from autotune.compress.lowrank import low_rank_like, replace_modules
from autotune.compress.sites import find_sites
from autotune.core.errors import ModelError, UsageError
from autotune.core.types import Workload
from autotune.export.dense import merge
from tests.conftest import random_layers, tiny_model, tiny_task


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "qwen2", "vit", "clip"])
def test_pairs_are_multiplied_out_and_nothing_of_us_is_left(kind, tmp_path):
    model, task = tiny_model(kind), tiny_task(kind)
    layers = random_layers(model, find_sites(model).sites, 8, structures=("plain", "pivoted"))
    replace_modules(model, layers)
    save_checkpoint(model, None, folder=tmp_path / "run" / "model")
    folder = merge(tmp_path / "run")
    assert folder == tmp_path / "run" / "dense"
    config = json.loads((folder / "config.json").read_text())
    assert not {"quantization_config", "auto_map"} & set(config)
    assert sorted(p.name for p in folder.glob("*.py")) == []
    dense = type(model).from_pretrained(folder).eval()
    assert not low_rank_layers(dense)
    assert [type(m) for m in dense.modules()] == [type(m) for m in tiny_model(kind).modules()]
    inputs = task.example_inputs(model, Workload(batch_size=2, sequence_length=9))
    with torch.no_grad():
        assert torch.allclose(task.output(dense, inputs), task.output(model, inputs), atol=1e-5)
    assert load_model(str(folder)).model is not None  # and it can be tuned again


def test_what_is_there_or_dense_already_is_refused(tmp_path):
    model = tiny_model("llama")
    save_checkpoint(model, None, folder=tmp_path / "plain")
    with pytest.raises(UsageError, match="dense already"):
        merge(tmp_path / "plain", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        merge(tmp_path / "plain", tmp_path / "there")
    with pytest.raises(ModelError, match="does not exist"):
        merge(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sentence_transformers_loads_the_embedded_model(tmp_path):
    """Through the plug-in, and with the folder's own code."""
    from sentence_transformers import SentenceTransformer

    loaded = load_model(None)
    model = loaded.model
    layers = {}
    for site in find_sites(model).sites[:9]:
        weight = model.get_submodule(site.name).weight.detach()
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        module = model.get_submodule(site.name)
        layers[site.name] = low_rank_like(module, up=u[:, :128] * s[:128], down=v[:128])
    replace_modules(model, layers)
    save_checkpoint(model, loaded.tokenizer, folder=tmp_path / "saved")
    copy_companions(loaded.folder, tmp_path / "saved")
    texts = ["A low-rank layer is two products.", "Latency is measured."]
    batch = loaded.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(pooled, dim=-1)
    found = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert len(low_rank_layers(found)) == 9
    assert torch.allclose(torch.from_numpy(found.encode(texts)), expected, atol=1e-5)
