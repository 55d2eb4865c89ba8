"""Which files hold a model's weights, and which of a hub model are brought."""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autotune.compress.companions import copy_companions, is_checkpoint_file, is_companion
from autotune.compress.loading import check_weights, load_class, load_model
from autotune.compress.locate import model_folder, weight_files
from autotune.core.errors import ModelError
from tests.conftest import tiny_model

INDEX = "model.safetensors.index.json"


@pytest.fixture
def saved(tmp_path):
    """Save a tiny Llama, whole or in shards."""

    def save(name, **more):
        tiny_model("llama").save_pretrained(tmp_path / name, **more)
        return tmp_path / name

    return save


@pytest.mark.parametrize("size", ["50GB", "20KB"])
def test_the_files_are_those_that_transformers_loads(saved, size):
    from transformers.modeling_utils import _get_resolved_checkpoint_files

    folder = saved("model", max_shard_size=size)
    loaded, _ = _get_resolved_checkpoint_files(
        str(folder), variant=None, gguf_file=None, use_safetensors=True, user_agent=None,
        is_remote_code=False,
    )  # fmt: skip
    assert [str(path) for path in weight_files(folder)] == sorted(loaded)
    assert (len(loaded) > 1) == (size == "20KB")


def test_an_index_that_names_the_single_file_is_no_contradiction(saved):
    folder = saved("model")
    weight_map = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert weight_files(folder) == [folder / "model.safetensors"]


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({"weight_map": {}}, "weight_map is empty"),
        ({"weight_map": {"w": "model-00001-of-00001.safetensors"}}, "both model.safetensors and"),
        ({"weight_map": {"w": 5}}, "no weight_map"),
        ({"weight_map": ["w"]}, "no weight_map"),
        ({"weight_map": {"w": "../model.safetensors"}}, "no weight file of that folder"),
        ({"weight_map": {"w": "pytorch_model.bin"}}, "no weight file of that folder"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
        (None, "no weight_map"),
    ],
)
def test_an_index_beside_the_single_file_or_a_damaged_one(saved, index, says):
    folder = saved("model")
    shutil.copyfile(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=says):
        check_weights(folder)


def test_an_index_that_is_no_json(saved):
    folder = saved("model", max_shard_size="20KB")
    (folder / INDEX).write_text("[1, 2")
    with pytest.raises(ModelError, match="not valid JSON"):
        weight_files(folder)


@pytest.mark.parametrize("size", ["50GB", "20KB"])
def test_a_shard_that_nothing_names(saved, size):
    folder = saved("model", max_shard_size=size)
    shutil.copyfile(weight_files(folder)[0], folder / "model-00099-of-00099.safetensors")
    with pytest.raises(ModelError, match=r"has model-00099-of-00099\.safetensors beside"):
        weight_files(folder)


def test_a_shard_that_is_missing(saved):
    folder = saved("model", max_shard_size="20KB")
    weight_files(folder)[-1].unlink()
    with pytest.raises(ModelError, match="lacks model-0"):
        weight_files(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("transformers_weights", "other.safetensors"), ("configuration_files", ["config.4.0.0.json"])],
)
def test_a_configuration_that_leads_elsewhere(saved, key, value):
    folder = saved("model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    shutil.copyfile(folder / "model.safetensors", folder / "other.safetensors")
    with pytest.raises(ModelError, match=f"config.json sets {key}"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "shard-00000-model-00001-of-00001.safetensors"]
)
def test_files_that_would_change_or_replace_the_weights(saved, name):
    folder = saved("model")
    shutil.copyfile(folder / "model.safetensors", folder / name)
    with pytest.raises(ModelError, match=name):
        load_model(str(folder))


def test_weights_in_extra_files_of_a_class_are_hashed_and_checked(saved, monkeypatch):
    import transformers

    folder = saved("model")
    before = check_weights(folder)
    monkeypatch.setattr(transformers.LlamaConfig, "extra_files", ("head.safetensors",))
    assert check_weights(folder) == before
    save_file({"head": torch.ones(3)}, folder / "head.safetensors")
    assert check_weights(folder) != before
    save_file({"head": torch.full((3,), torch.nan)}, folder / "head.safetensors")
    with pytest.raises(ModelError, match=r"'head' in head\.safetensors holds 3 NaN"):
        check_weights(folder)


@pytest.mark.parametrize("value", ["kernels-community/x", "flash_attention_2", "eager", 5])
def test_the_attention_that_a_file_names_is_not_used(saved, value):
    folder = saved("model")
    config = json.loads((folder / "config.json").read_text())
    for key in ("attn_implementation", "_attn_implementation"):
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        model = load_class("causal-lm", folder, dtype=torch.float32)
        assert model.config._attn_implementation == "sdpa"


def test_code_in_a_folder_is_neither_run_nor_asked_about(saved):
    folder = saved("model")
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "ours", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        load_model(str(folder))
    assert not (folder / "ran").exists()


HUB = {
    "brought": [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "tokenizer.model", "chat_template.jinja", "additional_chat_templates/tool.jinja",
        "qwen.tiktoken", "spiece.model", "vocab.txt", "merges.txt", "modules.json",
        "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json",
        "2_Dense/config.json", "2_Dense/model.safetensors", "preprocessor_config.json",
        "video_preprocessor_config.json", "README.md", "LICENSE", "NOTICE.txt",
    ],
    "left": [
        "consolidated.safetensors", "adapter_config.json",
        "adapter_model.safetensors", "onnx/config.json", "onnx/model.onnx", "pytorch_model.bin",
        "model.fp16.safetensors", "2_Dense/pytorch_model.bin", "trainer_state.json",
        "original/tokenizer.model", "evil.py",
    ],
}  # fmt: skip
# The dense model's card is read, and not copied.
COMPANIONS = [name for name in HUB["brought"] if name != "README.md"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one repository; brings what the patterns name into a snapshot."""
    repository, snapshot = tmp_path / "repository", tmp_path / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
    texts = {
        "modules.json": json.dumps(modules),
        INDEX: json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}),
    }

    def download(name, *, allow_patterns, ignore_patterns=(), revision=None):
        assert name == "org/model"
        assert revision in (None, "a" * 40)
        for path in repository.rglob("*"):
            file = path.relative_to(repository).as_posix()
            wanted = any(fnmatch(file, pattern) for pattern in allow_patterns)
            if path.is_file() and wanted and not any(fnmatch(file, p) for p in ignore_patterns):
                (snapshot / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, snapshot / file)
        return str(snapshot)

    def publish(*weights):
        for name in (*HUB["brought"], *HUB["left"], *weights):
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (repository / name).write_text(texts.get(name, name))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return publish


@pytest.mark.parametrize(
    ("published", "brought"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        ([INDEX, *SHARDS], [INDEX, *SHARDS]),
        (["model.safetensors", INDEX, *SHARDS], ["model.safetensors"]),
        ([INDEX, *SHARDS, "model-00001-of-00003.safetensors"], [INDEX, *SHARDS]),
    ],
)
def test_a_download_brings_what_the_result_needs_and_nothing_else(hub, published, brought):
    hub(*published)
    folder = model_folder("org/model")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*HUB["brought"], *brought}
    assert [path.name for path in weight_files_of(folder)] == [n for n in brought if n != INDEX]


def weight_files_of(folder: Path) -> list[Path]:
    """The weights, of a configuration that is only text here."""
    (folder / "config.json").write_text("{}")
    return weight_files(folder)


def test_names_that_belong_to_a_model():
    assert all(is_companion(name) for name in COMPANIONS)
    assert not any(is_companion(name) for name in HUB["left"])
    assert all(is_checkpoint_file(name) for name in (*COMPANIONS, "README.md", INDEX, *SHARDS))
    for name in ("../config.json", "1_Pooling/../config.json", ".jinja", "a/b.jinja", "x\n.model"):
        assert not is_companion(name)


def test_companions_are_copied_where_they_are_lacking(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "folder"
    for name in (*COMPANIONS, *HUB["left"]):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("source")
    (source / "modules.json").write_text('[{"path": "1_Pooling"}, {"path": "2_Dense"}]')
    folder.mkdir()
    (folder / "tokenizer.json").write_text("saved")
    copy_companions(source, folder)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*COMPANIONS} - {"config.json", "generation_config.json"}
    assert (folder / "tokenizer.json").read_text() == "saved"


@pytest.mark.parametrize("text", ["{}", "null", "[1]", '[{"path": 5}]', "[1, 2", "5"])
def test_modules_that_are_none(tmp_path, text):
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(ModelError, match=r"modules\.json is not a list"):
        copy_companions(tmp_path, tmp_path)
