import json
import shutil

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file

from autotune.compress.loading import check_weights, load_checkpoint, load_class, load_model
from autotune.compress.locate import model_folder
from autotune.compress.positions import max_positions
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


def test_a_classifier_of_images_has_no_padding_to_miss(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config = t.ViTConfig(**sizes, num_attention_heads=4, image_size=32, patch_size=8)
    t.ViTForImageClassification(config).save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).task == "image-classification"


def test_an_encoder_alone_is_loaded_as_such(tmp_path):
    """By its type it would be T5 with a random decoder."""
    config = t.T5Config(vocab_size=99, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4)
    t.T5EncoderModel(config).save_pretrained(tmp_path)
    found = load_model(str(tmp_path))
    assert type(found.model) is t.T5EncoderModel
    assert found.task == "embedding"


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


def save_text(folder, model):
    model.eval().save_pretrained(folder)
    return folder


BERT = {"vocab_size": 101, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64}  # fmt: skip


def without(folder, beginning):
    """The checkpoint without the tensors whose names begin so."""
    path = folder / "model.safetensors"
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith(beginning)}
    save_file(tensors, path, {"format": "pt"})


def test_a_pooler_that_nobody_trained_is_left_out(tmp_path):
    """Neither counted, nor saved: who loads the result is told that it is missing, as before."""
    folder = save_text(tmp_path / "a", t.BertModel(t.BertConfig(**BERT)))
    trained = load_class("embedding", folder, dtype=None)
    assert any("pooler" in name for name, _ in trained.named_parameters())
    without(folder, "pooler.")
    model = load_class("embedding", folder, dtype=None)
    assert not any("pooler" in name for name, _ in model.named_parameters())
    assert torch.isfinite(model(torch.tensor([[1, 2]])).last_hidden_state).all()
    model.save_pretrained(tmp_path / "b")
    assert not [
        name for name in load_file(tmp_path / "b" / "model.safetensors") if "pooler" in name
    ]
    assert load_checkpoint(tmp_path / "b").task == "embedding"


def test_a_pooler_that_a_classifier_needs_is_not_made_up(tmp_path):
    folder = save_text(tmp_path, t.BertForSequenceClassification(t.BertConfig(**BERT)))
    without(folder, "bert.pooler.")
    with pytest.raises(ModelError, match=r"lacks the weights of 'bert\.pooler"):
        load_model(str(folder))


def test_a_head_without_an_architecture_is_not_lost(tmp_path):
    folder = save_text(tmp_path, t.BertForTokenClassification(t.BertConfig(**BERT)))
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"'classifier\.\w+', and its config.json names no arch"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "kind", [t.GPT2ForSequenceClassification, t.LlamaForSequenceClassification]
)
def test_a_classifier_that_cannot_see_padding_is_refused(tmp_path, kind):
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2} if "GPT2" in kind.__name__ else BERT
    config = kind.config_class(**{"vocab_size": 101, **sizes})
    config.pad_token_id = None
    folder = save_text(tmp_path, kind(config))
    with pytest.raises(ModelError, match=r"names no pad_token_id.*set pad_token_id there"):
        load_model(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 0}))
    assert load_model(str(folder)).task == "classification"


def test_a_classifier_that_does_not_run_is_refused_in_one_sentence(tmp_path, monkeypatch):
    config = t.LlamaConfig(**{"vocab_size": 101, **BERT})
    config.pad_token_id = None
    folder = save_text(tmp_path, t.LlamaForSequenceClassification(config))

    def fail(*_given, **_more):
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(t.LlamaModel, "forward", fail)
    with pytest.raises(
        ModelError, match=r"LlamaForSequenceClassification does not run on two short .*: sizes do"
    ):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        (t.BertForTokenClassification, "token-classification"),
        (t.BertForQuestionAnswering, "question-answering"),
        (t.BertForMaskedLM, "masked-lm"),
    ],
)
def test_heads_stay(tmp_path, kind, task):
    model = kind(t.BertConfig(**BERT))
    folder = save_text(tmp_path / "a", model)
    if task == "masked-lm":
        make_tokenizer(folder)
    loaded = load_model(str(folder))
    assert loaded.task == task
    assert type(loaded.model) is kind
    loaded.model.save_pretrained(tmp_path / "b")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "b"))
    assert before.keys() == after.keys()


def make_tokenizer(folder, mask="<|endoftext|>"):
    shutil.copy(LLAMA / "tokenizer.json", folder)
    text = json.loads((LLAMA / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**text, **({"mask_token": mask} if mask else {})})
    )


def test_a_masked_model_without_a_mask_token(tmp_path):
    folder = save_text(tmp_path, t.BertForMaskedLM(t.BertConfig(**BERT)))
    make_tokenizer(folder, mask=None)
    with pytest.raises(ModelError, match=r"has no mask token.*tokenizer_config\.json"):
        load_model(str(folder))
    make_tokenizer(folder, mask="<|mask|>")
    with pytest.raises(ModelError, match="mask token is 2048 and the model's embedding has 101"):
        load_model(str(folder))


@pytest.mark.parametrize("kind", ["Roberta", "MPNet", "Bert", "OPT"])
def test_the_longest_sequence_is_as_long_as_the_positions(kind):
    config = getattr(t, f"{kind}Config")(**BERT)
    model = getattr(t, f"{kind}Model")(config).eval()
    limit = max_positions(model)
    assert limit == {"Roberta": 62, "MPNet": 62, "Bert": 64, "OPT": 64}[kind]
    with torch.no_grad():
        model(input_ids=torch.full((1, limit), 5))
        with pytest.raises((RuntimeError, IndexError)):
            model(input_ids=torch.full((1, limit + 1), 5))


def test_a_sequence_of_xlnet_has_no_longest():
    """Its configuration says -1."""
    config = t.XLNetConfig(d_model=32, n_layer=1, n_head=4, d_inner=64, vocab_size=64)
    assert config.max_position_embeddings == -1
    assert max_positions(t.XLNetModel(config)) is None


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


@pytest.mark.parametrize(("load", "model"), [(load_model, str(LLAMA)), (load_checkpoint, LLAMA)])
def test_loading_shows_no_progress_of_the_library(load, model, capfd):
    t.utils.logging.enable_progress_bar()
    load(model)
    assert capfd.readouterr().err == ""
