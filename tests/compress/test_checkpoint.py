"""What was saved can be loaded, bit-equal, or fails loudly; never at random."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from autotune.compress.checkpoint import low_rank_layers, save_checkpoint
from autotune.compress.lowrank import low_rank_like, replace_modules, shared_low_rank_like
from autotune.compress.pivoting import pivoted_like
from autotune.compress.sites import find_sites
from autotune.core.errors import ModelError
from autotune.core.types import Workload


@pytest.fixture
def saved(tiny, tmp_path):
    """A factorized tiny model on disk, with its own output on some input."""
    _, model, task = tiny
    layers = {}
    for i, site in enumerate(find_sites(model).sites):
        if i % 3 == 2:
            continue  # some stay dense
        up, down = torch.randn(site.out_features, 8 + i), torch.randn(8 + i, site.in_features)
        like = shared_low_rank_like if i % 3 else pivoted_like
        module = model.get_submodule(site.name)
        (layers[site.name],) = like([module], ups=[up * 0.1], down=down * 0.1)
    replace_modules(model, layers)
    save_checkpoint(model, None, folder=tmp_path / "saved")
    inputs = task.example_inputs(model, Workload(batch_size=2, sequence_length=9))
    with torch.no_grad():
        return tmp_path / "saved", type(model), task, inputs, task.output(model, inputs), layers


def test_round_trip_is_bit_equal(saved, tmp_path):
    folder, kind, task, inputs, expected, layers = saved
    model = kind.from_pretrained(folder)
    assert set(low_rank_layers(model)) == set(layers)
    with torch.no_grad():
        assert torch.equal(task.output(model, inputs), expected)
    save_checkpoint(model, None, folder=tmp_path / "again")
    with torch.no_grad():
        again = kind.from_pretrained(tmp_path / "again")
        assert torch.equal(task.output(again, inputs), expected)


def test_an_order_that_is_none_is_refused(saved):
    """A file that was damaged or edited would select features that the layer does not have."""
    folder, kind, *_ = saved
    tensors = load_file(folder / "model.safetensors")
    name = next(each for each in tensors if each.endswith("weight_order"))
    tensors[name][0] = tensors[name][1]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{name}.*is no order of"):
        kind.from_pretrained(folder)


def test_the_dense_model_is_left_as_it_was(tiny, tmp_path):
    _, model, _ = tiny
    before = model.config.to_dict()
    save_checkpoint(model, None, folder=tmp_path / "dense")
    assert model.config.to_dict() == before
    assert "quantization_config" not in json.loads((tmp_path / "dense/config.json").read_text())


@pytest.mark.parametrize(
    "tiny", ["bert", pytest.param("gpt2", marks=pytest.mark.slow)], indirect=True
)
def test_stock_transformers_fails_loudly(saved):
    folder, kind, *_ = saved
    code = (
        f"from transformers import {kind.__name__} as M\n"
        f"M.from_pretrained({str(folder)!r})\nprint('LOADED')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "LOADED" not in done.stdout
    assert "mismatch" in done.stderr.splitlines()[-1], done.stderr


def edit_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config["quantization_config"])
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda q: q.update(format_version=99), "format 99"),
        (lambda q: q.update(surprise=1), "unknown key 'surprise'"),
        (
            lambda q: q["layers"].update(nope={"rank": 1, "in_features": 1, "out_features": 1}),
            "lacks",
        ),
        (
            lambda q: next(iter(q["layers"].values())).update(in_features=7),
            "in the low-rank configuration",
        ),
    ],
)
def test_a_changed_config_is_refused(saved, change, says):
    folder, kind, *_ = saved
    edit_config(folder, change)
    with pytest.raises(Exception, match=says):
        kind.from_pretrained(folder)


def test_wrong_ranks_are_a_size_mismatch(saved):
    folder, kind, *_ = saved
    edit_config(folder, lambda q: next(iter(q["layers"].values())).update(rank=3, form="rank=3"))
    with pytest.raises(Exception, match="mismatch"):
        kind.from_pretrained(folder)


@pytest.mark.parametrize("tiny", ["bert"], indirect=True)
def test_another_structure_is_a_size_mismatch(saved):
    folder, kind, *_, layers = saved
    name, layer = next((n, each) for n, each in layers.items() if not each.form.suffix)
    form = f"rank={layer.rank}:pivoted"
    edit_config(folder, lambda q: q["layers"][name].update(form=form))
    with pytest.raises(Exception, match="mismatch"):
        kind.from_pretrained(folder)


@pytest.mark.parametrize("tiny", ["bert"], indirect=True)
@pytest.mark.parametrize("form", ["rank=3", "dense", "rank=3:pivoted", "rank=8:int8", "x", 8])
def test_forms_that_no_layer_takes_are_refused(saved, form):
    folder, kind, *_ = saved
    edit_config(folder, lambda q: next(iter(q["layers"].values())).update(form=form))
    with pytest.raises(Exception, match="loads pairs of the same rank"):
        kind.from_pretrained(folder)


@pytest.mark.parametrize("tiny", ["bert"], indirect=True)
def test_a_config_says_every_layers_form_and_older_ones_need_not(saved):
    folder, kind, task, inputs, expected, layers = saved
    entries = json.loads((folder / "config.json").read_text())["quantization_config"]["layers"]
    assert {n: e["form"] for n, e in entries.items()} == {
        name: str(layer.form) for name, layer in layers.items()
    }
    plain = {name for name, layer in layers.items() if not layer.form.suffix}
    edit_config(folder, lambda q: [q["layers"][name].pop("form") for name in plain])
    with torch.no_grad():
        assert torch.equal(task.output(kind.from_pretrained(folder), inputs), expected)


@pytest.mark.parametrize("tiny", ["llama"], indirect=True)
def test_body_and_other_heads_take_the_layers_they_have(saved):
    folder, kind, _, inputs, *_ = saved
    whole = kind.from_pretrained(folder)
    with torch.no_grad():
        expected = whole.model(**inputs).last_hidden_state
        body = AutoModel.from_pretrained(folder)
        assert set(low_rank_layers(body)) == {
            name.removeprefix("model.") for name in low_rank_layers(whole)
        }
        assert torch.equal(body(**inputs).last_hidden_state, expected)
        judge = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
        assert torch.equal(judge.model(**inputs).last_hidden_state, expected)


@pytest.mark.parametrize("tiny", ["bert"], indirect=True)
def test_a_body_becomes_a_classifier(saved):
    folder, _, task, inputs, expected, layers = saved
    judge = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert set(low_rank_layers(judge)) == {f"bert.{name}" for name in layers}
    with torch.no_grad():
        assert torch.equal(task.output(judge.bert, inputs), expected)


@pytest.mark.parametrize("tiny", ["llama"], indirect=True)
def test_generation_with_a_cache_is_that_of_the_model_that_was_saved(saved, tiny):
    folder, kind, _, inputs, *_ = saved
    _, model, _ = tiny
    wanted = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    cached = kind.from_pretrained(folder).generate(**inputs, **wanted)
    assert torch.equal(cached, model.generate(**inputs, **wanted, use_cache=False))


@pytest.mark.parametrize("tiny", ["gpt2", "llama"], indirect=True)
def test_training_goes_on_in_both_factors_and_is_saved(saved, tmp_path):
    folder, kind, task, inputs, _, layers = saved
    model = kind.from_pretrained(folder).train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    found = low_rank_layers(model)
    assert set(found) == set(layers)
    for layer in found.values():
        for factor in (layer.weight, layer.weight_down):
            assert factor.grad is not None
            assert float(factor.grad.abs().max()) > 0
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.eval()
    with torch.no_grad():
        expected = task.output(model, inputs)
        save_checkpoint(model, None, folder=tmp_path / "ours")
        model.save_pretrained(tmp_path / "theirs")
        for name in ("ours", "theirs"):
            assert torch.equal(task.output(kind.from_pretrained(tmp_path / name), inputs), expected)


@pytest.mark.parametrize("tiny", ["llama"], indirect=True)
def test_shards_load_as_one(tiny, saved, tmp_path):
    _, model, task = tiny
    *_, inputs, expected, _ = saved
    save_checkpoint(model, None, folder=tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    loaded = type(model).from_pretrained(tmp_path / "shards")
    with torch.no_grad():
        assert torch.equal(task.output(loaded, inputs), expected)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


@pytest.mark.parametrize("tiny", ["bert"], indirect=True)
def test_a_factor_that_looks_like_the_dense_weight_is_refused(tiny, tmp_path):
    _, model, _ = tiny
    name = "encoder.layer.0.attention.self.query"
    up, down = torch.randn(64, 64), torch.randn(64, 64)
    replace_modules(model, {name: low_rank_like(model.get_submodule(name), up=up, down=down)})
    with pytest.raises(ModelError, match="could be taken for the dense weight"):
        save_checkpoint(model, None, folder=tmp_path / "saved")
