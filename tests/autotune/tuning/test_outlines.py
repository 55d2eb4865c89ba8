"""What a model computes is the same from its configuration as from the loaded model."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from autotune.compress.decode import decode_step
from autotune.compress.loading import load_model
from autotune.compress.operations import trace_operations
from autotune.core import paths
from autotune.core.errors import ModelError, UsageError
from autotune.core.outline import ModelOutline
from autotune.core.types import Workload
from autotune.tuning import outlines
from autotune.tuning.model import trace_model
from autotune.tuning.outlines import begin_outline
from autotune.tuning.outlining import outline_model
from tests.conftest import LLAMA, tiny_model

PREFILL = Workload(batch_size=3, sequence_length=16)
REQUEST = Workload(batch_size=3, sequence_length=16, output_length=8)
DECODERS = ("gpt2", "llama", "qwen2")


@pytest.fixture
def folder(request, tmp_path):
    """A saved model of a kind, or the example model."""
    if request.param == "code-llama-3m":
        return LLAMA
    tiny_model(request.param).save_pretrained(tmp_path)
    return tmp_path


def of_loaded(folder, workload):
    """Sites and operations of each phase, of the loaded model."""
    model = trace_model(load_model(str(folder)), workload)
    found = {}
    for phase in model.workload.passes:
        sites = model.choices_in(phase)
        operations = trace_operations(
            model.loaded.model,
            [site for site in sites if not site.members],
            inputs=model.example_inputs(phase),
            dtype=torch.bfloat16,
            causal=model.task.has_decode,
            call=decode_step if phase == "decode" else None,
        )
        found[phase] = (set(sites), operations)
    return model.parameters, found


@pytest.mark.parametrize(
    "folder", ["bert", "vit", "clip", *DECODERS, "code-llama-3m"], indirect=True
)
def test_the_configuration_tells_what_the_loaded_model_computes(request, folder):
    decodes = request.node.callspec.params["folder"] in (*DECODERS, "code-llama-3m")
    workload = REQUEST if decodes else PREFILL
    outline = outline_model(folder, workload, dtype="bf16")
    parameters, loaded = of_loaded(folder, workload)
    assert outline.parameters == parameters
    assert list(outline.passes) == list(loaded)
    for phase, (sites, operations) in loaded.items():
        one = outline.passes[phase]
        assert set(one.sites) == sites
        assert one.operations == operations
        assert one.summed == ()
    assert ModelOutline.from_json(json.loads(json.dumps(outline.to_json()))) == outline


def test_the_weights_are_not_needed(tmp_path):
    (tmp_path / "config.json").write_text((LLAMA / "config.json").read_text())
    assert outline_model(tmp_path, REQUEST, dtype="bf16") == outline_model(
        LLAMA, REQUEST, dtype="bf16"
    )


@pytest.fixture
def divisible(tmp_path):
    """The configuration of a model whose parts are large enough to be sites, too."""
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=101,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    ).save_pretrained(tmp_path)
    return tmp_path


def test_two_devices_have_half_of_each_layer(divisible):
    """Heads, intermediate features and vocabulary are divided; the hidden size is not."""
    whole = outline_model(divisible, REQUEST, dtype="bf16")
    half = outline_model(divisible, REQUEST, dtype="bf16", tensor_parallel=2)
    assert half.parameters == whole.parameters
    for phase, one in half.passes.items():
        sizes = {site.name: (site.in_features, site.out_features) for site in one.sites}
        before = {s.name: (s.in_features, s.out_features) for s in whole.passes[phase].sites}
        assert list(sizes) == list(before)
        for name, (k, n) in before.items():
            summed = name.endswith(("o_proj", "down_proj"))
            assert sizes[name] == ((k // 2, n) if summed else (k, n // 2)), name
        tokens = 3 * 16 if phase == "prefill" else 3
        assert one.summed == (tokens * 128,) * 4  # of two blocks, after o_proj and down_proj
    attention = next(o for o in half.passes["prefill"].operations if o.kind == "attention")
    assert (attention.heads, attention.head_dim) == (2, 32)


def test_key_heads_that_are_too_few_are_copied(divisible):
    one = outline_model(divisible, PREFILL, dtype="bf16", tensor_parallel=4).passes["prefill"]
    sizes = {site.name.rpartition(".")[2]: site.out_features for site in one.sites}
    assert (sizes["q_proj"], sizes["k_proj"]) == (32, 32)


@pytest.mark.parametrize(
    ("folder", "count", "text"),
    [
        ("llama", 3, "tensor_parallel 3 does not divide num_attention_heads 4"),
        ("bert", 2, "transformers has no plan that divides the layers of bert"),
    ],
    indirect=["folder"],
)
def test_what_cannot_be_divided_is_refused(folder, count, text):
    with pytest.raises(UsageError, match=text):
        outline_model(folder, PREFILL, dtype="bf16", tensor_parallel=count)


class TestKept:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))

    @pytest.fixture
    def questions(self, monkeypatch):
        """How often the process was asked; it is none, for time."""
        asked = []

        class Child:
            def __init__(self, *_, **__): ...

            def __enter__(self):
                return self

            def __exit__(self, *_): ...

            def close(self): ...

            def send(self, question, *, last):
                asked.append(question)

            def receive(self, _limit_s):
                given = {**asked[-1], "workload": Workload(**asked[-1]["workload"])}
                found = outline_model(Path(given.pop("folder")), given.pop("workload"), **given)
                return {"outline": found.to_json()}

        monkeypatch.setattr(outlines, "ChildProcess", Child)
        return asked

    def ask(self, folder=LLAMA, workload=PREFILL, **given):
        with begin_outline(folder, workload, dtype="bf16", **given) as coming:
            return coming.result()

    def test_an_outline_is_found_once(self, questions):
        assert self.ask() == self.ask() == outline_model(LLAMA, PREFILL, dtype="bf16")
        assert len(questions) == 1

    def test_another_question_or_content_is_another_outline(self, questions, tmp_path, monkeypatch):
        self.ask()
        self.ask(workload=dataclasses.replace(PREFILL, batch_size=4))
        self.ask(tensor_parallel=2)
        copied = tmp_path / "model"
        copied.mkdir()
        config = json.loads((LLAMA / "config.json").read_text())
        (copied / "config.json").write_text(json.dumps(config))
        self.ask(copied)
        (copied / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
        changed = self.ask(copied)
        assert len(questions) == 5
        assert changed.parameters < self.ask().parameters
        monkeypatch.setattr(outlines, "_source", lambda: "changed")
        self.ask()
        assert len(questions) == 6

    @pytest.mark.parametrize("damage", ["", "{", '{"task": "embedding"}', "[]", "\x00"])
    def test_a_damaged_one_is_found_again(self, questions, damage):
        first = self.ask()
        (path,) = paths.outlines_cache().iterdir()
        path.write_text(damage)
        assert self.ask() == first
        assert self.ask() == first
        assert len(questions) == 2

    def test_a_cache_that_cannot_be_written_is_done_without(self, questions, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "file"))
        assert self.ask().parameters > 0


def test_the_process_gives_the_outline_and_its_errors(tmp_path, monkeypatch):
    """One real process for each."""
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    with begin_outline(LLAMA, PREFILL, dtype="bf16") as coming:
        assert coming.result() == outline_model(LLAMA, PREFILL, dtype="bf16")
    (tmp_path / "config.json").write_text('{"model_type": "nosuch"}')
    with (
        pytest.raises(ModelError, match="is not a transformers configuration"),
        begin_outline(tmp_path, PREFILL, dtype="bf16") as coming,
    ):
        coming.result()
