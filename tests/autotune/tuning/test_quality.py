"""Whole tunings of tiny models on a simulated machine: what is judged, kept and refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.core.errors import CalibrationError, ModelError, UsageError
from autotune.core.types import Budget, Workload
from autotune.results.result import read_result
from autotune.testing.hardware import simulated_hardware
from autotune.testing.machine import SimulatedBuilder, SimulatedMachine
from autotune.tuning import opening
from autotune.tuning.options import SearchOptions
from autotune.tuning.request import TuneRequest
from tests.conftest import LLAMA

SIZES = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Tune a folder to a share of its parameters; the result as it is read from its folder."""
    monkeypatch.setattr(opening, "make_builder", SimulatedBuilder)
    (tmp_path / "text.txt").write_text((LLAMA / "heldout.txt").read_text()[:30_000])

    def tuned(folder, *, budget="0.9x", length=16, calibration=None, **more):
        request = TuneRequest(
            model=str(folder),
            output=tmp_path / "out",
            budget=Budget(parameters=budget),
            workload=Workload(batch_size=2, sequence_length=length),
            calibration=CalibrationPlan(
                calibration=str(calibration or tmp_path / "text.txt"),
                statistics_samples=16,
                search_samples=8,
                heldout_samples=16,
            ),
            search=SearchOptions(trials=0, rounds=1, sensitivity_rounds=0),
            **more,
        )
        board = simulated_hardware("cpu-like")
        machine = SimulatedMachine(board, tmp_path / "latency.sqlite", measure_seconds=0.2)
        result = opening.tune(request, machine=machine)
        assert read_result(tmp_path / "out") == result.record
        return result.record

    return tuned


def make_model(folder, model):
    """A random model with the tokenizer of code-llama-3m."""
    model.eval().save_pretrained(folder)
    shutil.copy(LLAMA / "tokenizer.json", folder)
    values = json.loads((LLAMA / "tokenizer_config.json").read_text())
    values["mask_token"] = "<|endoftext|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("kind", "more", "task", "metric"),
    [
        (t.BertForTokenClassification, {"num_labels": 3}, "token-classification",
         "exp(-KL to dense)"),
        (t.BertForQuestionAnswering, {}, "question-answering", "exp(-KL to dense)"),
        (t.BertForMaskedLM, {}, "masked-lm", "exp(KL to dense)"),
        (t.BertForSequenceClassification, {"num_labels": 1}, "classification", "R2 to dense"),
        (t.BertForSequenceClassification,
         {"num_labels": 5, "problem_type": "multi_label_classification"}, "classification",
         "exp(-KL to dense)"),
    ],
)  # fmt: skip
def test_heads_are_judged_and_come_out(run, tmp_path, kind, more, task, metric):
    torch.manual_seed(0)
    model = kind(t.BertConfig(**SIZES, **more))
    with torch.no_grad():  # answers that differ, as a trained model's do
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim == 2 else 1.0)
    folder = make_model(tmp_path / "model", model)
    record = run(folder, allow_quality_loss=True)
    assert record.task == task
    assert record.quality.metric == metric
    assert record.quality.dense == pytest.approx(1.0, abs=1e-4)
    assert record.quality.compressed != pytest.approx(1.0, abs=1e-5)
    assert sum(site.error for site in record.sites) > 0
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert config["architectures"] == [kind.__name__]
    before, after = (load_file(p / "model.safetensors") for p in (folder, tmp_path / "out/model"))
    heads = [name for name in before if name.startswith(("classifier", "qa_outputs", "cls"))]
    assert heads
    assert all(torch.equal(before[name], after[name]) for name in heads if name in after)
    loaded = kind.from_pretrained(folder)
    assert {type(loaded).__name__} == {kind.__name__}


def llama(**more):
    torch.manual_seed(0)
    return t.LlamaForCausalLM(t.LlamaConfig(**SIZES, **more))


def test_a_perplexity_that_overflows_is_shown_as_the_loss(run, tmp_path):
    """The dense loss is thousands of nats; result.json holds it, and no infinity."""
    model = llama(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.mul_(1e5)
    record = run(make_model(tmp_path / "model", model))
    assert record.quality.metric == "loss"
    assert record.quality.dense > 700
    assert not record.quality.higher_is_better
    assert record.quality.protocol.startswith("mean loss in nats, as perplexity overflows; ")


@pytest.mark.parametrize("length", [1, 2])
def test_a_workload_of_one_token(run, tmp_path, length):
    record = run(make_model(tmp_path / "model", llama()), length=length)
    assert record.quality.dense > 1.5
    assert "windows of 2 tokens" in record.quality.protocol


def test_a_lost_quality_is_written_and_allowed_on_request(run, tmp_path):
    """The trained model at half of its parameters: far more than twice its perplexity."""
    lost = run(LLAMA, budget="0.5x")
    assert lost.quality_verdict == "lost"
    assert lost.exit_code == 1
    out = tmp_path / "out"
    for place in (out / "report.html", out / "model" / "README.md"):
        assert "The quality is lost (perplexity" in place.read_text()
    allowed = run(LLAMA, budget="0.5x", allow_quality_loss=True)
    assert (allowed.quality_verdict, allowed.exit_code) == ("lost", allowed.verdict.exit_code)
    assert replace(allowed, allow_quality_loss=False).exit_code == 1


def weights_times(folder, factor):
    path = folder / "model.safetensors"
    tensors = {
        name: tensor if "norm" in name else tensor * factor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda f: weights_times(f, 0.0), CalibrationError, "the same for every held-out input"),
        (lambda f: weights_times(f, 1e36), (ModelError, CalibrationError), "held-out"),
        (lambda f: put(f, rms_norm_eps=float("nan")), ModelError, "holds NaN in rms_norm_eps"),
        (lambda f: put(f, max_position_embeddings=8), UsageError, "need 16 positions; .* has 8"),
    ],
)
def test_what_could_not_be_judged_is_refused_before_anything_is_measured(
    run, tmp_path, change, error, says
):
    folder = make_model(tmp_path / "model", llama())
    change(folder)
    with pytest.raises(error, match=says):
        run(folder)
    assert not (tmp_path / "out" / "result.json").exists()
    assert not (tmp_path / "latency.sqlite").exists() or not list((tmp_path / "out").glob("model"))


def test_inputs_that_the_model_refuses_end_in_a_sentence(run, tmp_path):
    """GPT-2 looks types of tokens up among its tokens."""
    torch.manual_seed(0)
    config = t.GPT2Config(vocab_size=2048, n_embd=64, n_layer=2, n_head=4, n_positions=128)
    folder = make_model(tmp_path / "model", t.GPT2LMHeadModel(config))
    ids = torch.randint(0, 2048, (40, 16))
    save_file({"input_ids": ids, "token_type_ids": ids + 2048}, tmp_path / "data.safetensors")
    with pytest.raises(CalibrationError, match=r"does not run on the held-out data: .*; give"):
        run(folder, calibration=tmp_path / "data.safetensors")


def put(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_another_pooling_is_judged_anew(run, tmp_path):
    """The same run folder and weights: nothing of the earlier pooling is used again."""
    torch.manual_seed(0)
    folder = make_model(tmp_path / "model", t.BertModel(t.BertConfig(**SIZES)))
    (folder / "1_Pooling").mkdir()
    found = []
    for mode in ("mean", "lasttoken"):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
        found.append(run(folder))
    assert found[0].quality.compressed != found[1].quality.compressed
