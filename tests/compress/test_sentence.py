"""What sentence-transformers' files say is what the library itself computes."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional

from autotune.compress.calibration import load_calibration
from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.companions import SENTENCE_SETTINGS, is_companion
from autotune.compress.loading import load_model
from autotune.compress.sentence import POOLING_MODES, read_sentence_model
from autotune.compress.tasks import make_task
from autotune.compress.tasks.base import MASK
from autotune.core.errors import ModelError
from autotune.core.types import Workload
from tests.conftest import LLAMA

library = pytest.importorskip("sentence_transformers")
TRANSFORMER = "sentence_transformers.models.Transformer"
POOLING = "sentence_transformers.models.Pooling"


def put(path, **values):
    path.write_text(json.dumps(values))


def make_folder(folder, pooling, *, modules=(), kind="bert"):
    """A tiny model with a tokenizer, pooled as `pooling` says, with further modules behind."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "vocab_size": 2048, "max_position_embeddings": 128}
    torch.manual_seed(0)
    if kind == "bert":
        transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(folder)
    else:
        config = transformers.LlamaConfig(**sizes, pad_token_id=0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    shutil.copy(LLAMA / "tokenizer.json", folder)
    tokenizer = json.loads((LLAMA / "tokenizer_config.json").read_text())
    tokenizer |= {"pad_token": "<|endoftext|>", "model_max_length": 64}
    put(folder / "tokenizer_config.json", **tokenizer)
    (folder / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": 64, **pooling}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    kinds = [(TRANSFORMER, ""), (POOLING, "1_Pooling"), *modules]
    listed = [{"idx": i, "name": str(i), "path": p, "type": k} for i, (k, p) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


def library_embeddings(folder, texts, **options):
    model = library.SentenceTransformer(str(folder), device="cpu")
    return functional.normalize(torch.tensor(model.encode(texts, **options)), dim=-1)


def our_embeddings(folder, texts):
    """Embeddings of texts as calibration tokenizes, pads and pools them."""
    loaded = load_model(str(folder))
    task = make_task(loaded.task, loaded.folder)
    (folder.parent / "text.txt").write_text("\n".join(texts))
    plan = CalibrationPlan(calibration=str(folder.parent / "text.txt"))
    data = load_calibration(loaded, plan, workload=Workload(batch_size=1, sequence_length=64))
    found = {}
    for batch in (*data.statistics, *data.search, *data.heldout):
        with torch.no_grad():
            embedded = task.embed(task.output(loaded.model, batch), batch)
        rows = zip(batch["input_ids"], batch[MASK], embedded, strict=True)
        found |= {tuple(ids[mask.bool()].tolist()): vector for ids, mask, vector in rows}
    return loaded, found


TEXTS = [f"def function_{i}(x): return x + {i} * " + "y + " * i for i in range(12)]


def assert_same_embeddings(folder, *, prompt="", cut=64):
    loaded, ours = our_embeddings(folder, TEXTS)
    theirs = library_embeddings(folder, TEXTS)
    used = [prompt + text for text in TEXTS]
    ids = loaded.tokenizer(used, truncation=True, max_length=cut)["input_ids"]
    assert len(ours) == len(TEXTS)
    for row, expected in zip(ids, theirs, strict=True):
        torch.testing.assert_close(ours[tuple(row)], expected, rtol=1e-4, atol=1e-5)


FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@pytest.mark.parametrize("mode", POOLING_MODES)
@pytest.mark.parametrize("form", ["flags", "named"])
def test_every_mode_is_read_in_both_forms_and_pools_as_the_library(tmp_path, mode, form):
    pooling = {FLAGS[mode]: True} if form == "flags" else {"pooling_mode": mode}
    folder = make_folder(tmp_path / "model", pooling)
    assert read_sentence_model(folder).pooling == (mode,)
    assert_same_embeddings(folder)


def test_modes_are_concatenated(tmp_path):
    folder = make_folder(tmp_path / "model", {FLAGS["cls"]: True, FLAGS["mean_sqrt_len_tokens"]: 1})
    assert read_sentence_model(folder).pooling == ("cls", "mean_sqrt_len_tokens")
    assert_same_embeddings(folder)
    put(folder / "1_Pooling" / "config.json", word_embedding_dimension=64,
        pooling_mode=["weightedmean", "max"])  # fmt: skip
    assert read_sentence_model(folder).pooling == ("weightedmean", "max")
    assert_same_embeddings(folder)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", POOLING_MODES)
def test_a_decoder_that_pools_is_an_embedding_model_padded_on_its_side(tmp_path, mode, side):
    folder = make_folder(tmp_path / "model", {"pooling_mode": mode}, kind="llama")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    put(folder / "tokenizer_config.json", **tokenizer, padding_side=side)
    loaded = load_model(str(folder))
    assert loaded.task == "embedding"
    assert type(loaded.model).__name__ == "LlamaModel"
    assert_same_embeddings(folder)


def test_prompt_length_and_case_are_those_of_the_folder(tmp_path):
    folder = make_folder(tmp_path / "model", {"pooling_mode": "mean"})
    put(folder / "config_sentence_transformers.json",
        prompts={"query": "search for: ", "other": "x"}, default_prompt_name="query")  # fmt: skip
    put(folder / "sentence_bert_config.json", max_seq_length=20, do_lower_case=False)
    assert_same_embeddings(folder, prompt="search for: ", cut=20)
    put(folder / "config_sentence_transformers.json",
        prompts={"query": "search for: "}, default_prompt_name=None)  # fmt: skip
    assert_same_embeddings(folder, cut=20)


@pytest.mark.parametrize("name", SENTENCE_SETTINGS)
def test_settings_have_a_name_by_the_kind_of_model(name, tmp_path):
    """The library reads them under any of these names, so they belong to the model."""
    folder = make_folder(tmp_path / "model", {"pooling_mode": "mean"})
    put(folder / name, max_seq_length=20, do_lower_case=False)
    assert read_sentence_model(folder).max_tokens == 20
    assert is_companion(name)
    (folder / name).write_text("[]")
    with pytest.raises(ModelError, match=name):
        load_model(str(folder))


def test_a_prompt_that_is_not_pooled(tmp_path):
    folder = make_folder(tmp_path / "model", {"pooling_mode": "mean", "include_prompt": False})
    put(folder / "config_sentence_transformers.json",
        prompts={"query": "search for: "}, default_prompt_name="query")  # fmt: skip
    assert make_task("embedding", folder).prompt_tokens > 1
    assert_same_embeddings(folder, prompt="search for: ")


def test_dense_layers_behind_the_pooling_belong_to_the_embedding(tmp_path):
    modules = [
        ("sentence_transformers.models.Dense", "2_Dense"),
        ("sentence_transformers.models.Normalize", "3_Normalize"),
    ]
    folder = make_folder(tmp_path / "model", {"pooling_mode": "mean"}, modules=modules)
    head = folder / "2_Dense"
    head.mkdir()
    put(head / "config.json", in_features=64, out_features=8, bias=True,
        activation_function="torch.nn.modules.activation.Tanh")  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    tensors = {"linear.weight": torch.randn(8, 64, generator=draw), "linear.bias": torch.ones(8)}
    save_file(tensors, head / "model.safetensors")
    before = make_task("embedding", folder).setup
    assert_same_embeddings(folder)
    save_file({**tensors, "linear.bias": torch.zeros(8)}, head / "model.safetensors")
    assert make_task("embedding", folder).setup != before
    put(head / "config.json", in_features=64, out_features=8, activation_function="os.system")
    with pytest.raises(ModelError, match="has the activation system; supported are Identity"):
        make_task("embedding", folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("1_Pooling/config.json", '{"pooling_mode": "median"}', "pools by 'median'.*supported are"),
        ("1_Pooling/config.json", "[]", "must hold a JSON object"),
        ("1_Pooling/config.json", "{", "is not valid JSON"),
        ("modules.json", "null", "must hold a JSON list of modules"),
        (
            "modules.json",
            '[{"path": "../../x"}, {"path": 5}, 7]',
            "must hold a JSON list of modules",
        ),
        ("modules.json", '[{"type": "a.Pooling", "path": "../x"}]', "no folder beside it"),
        ("modules.json", '[{"type": "a.Transformer"}, {"type": "a.SpladePooling"}]', "SpladePool"),
        ("modules.json", '[{"type": "a.CLIPModel"}, {"type": "a.Pooling"}]', "module CLIPModel"),
        ("sentence_bert_config.json", '{"max_seq_length": "x"}', "max_seq_length"),
        (
            "config_sentence_transformers.json",
            '{"default_prompt_name": "q", "prompts": {}}',
            "default prompt 'q'",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(tmp_path, name, text, message):
    folder = make_folder(tmp_path / "model", {"pooling_mode": "mean"})
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        load_model(str(folder))


def test_a_cross_encoder_of_the_library_is_a_classifier(tmp_path):
    folder = make_folder(tmp_path / "model", {"pooling_mode": "mean"})
    (folder / "modules.json").write_text(json.dumps([{"type": TRANSFORMER, "path": ""}]))
    assert read_sentence_model(folder) is None
