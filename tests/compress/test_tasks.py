"""The suite for every task, on tiny models of each kind that it serves."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers as t

from autotune.compress.loading import LoadedModel, load_model
from autotune.compress.sentence import POOLING_MODES
from autotune.compress.tasks import TASKS, detect_task, make_task
from autotune.compress.tasks.causal_lm import CausalLM
from autotune.compress.tasks.classification import Classification
from autotune.compress.tasks.distances import Choice, Independent, Score
from autotune.compress.tasks.embedding import Embedding
from autotune.compress.tasks.image_text import ImageText
from autotune.compress.tasks.token_level import MaskedLM, QuestionAnswering, TokenClassification
from autotune.core.errors import ModelError, UsageError
from autotune.core.types import Budget, Workload
from autotune.export.onnx import exported_phases
from autotune.report.card import model_card
from autotune.testing.suites.task import TaskSuite
from autotune.tuning.compression import chosen_metric
from autotune.tuning.model import check_workload
from autotune.tuning.request import TuneRequest
from tests.conftest import tiny_model
from tests.records import stored_record

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def frozen(model):
    """As the loader hands models out."""
    return model.eval().requires_grad_(False)


class TestCausalLM(TaskSuite):
    @pytest.fixture
    def task(self):
        return CausalLM()

    @pytest.fixture(params=["gpt2", "llama"])
    def model(self, request):
        return frozen(tiny_model(request.param))


class TestEmbedding(TaskSuite):
    @pytest.fixture(
        params=[("mean", 1), ("cls", 1), ("mean", 3), *((mode, 1) for mode in POOLING_MODES[1:])]
    )
    def task(self, request):
        return Embedding(*request.param)

    @pytest.fixture(params=["bert", "vit"])
    def model(self, request):
        return frozen(tiny_model(request.param))


class TestImageText(TaskSuite):
    @pytest.fixture
    def task(self):
        return ImageText()

    @pytest.fixture
    def model(self):
        return frozen(tiny_model("clip"))


class TestClassification(TaskSuite):
    @pytest.fixture(params=[Choice, Independent, Score])
    def task(self, request):
        return Classification(request.param())

    @pytest.fixture(params=["text", "image"])
    def model(self, request):
        if request.param == "text":
            config = t.BertConfig(vocab_size=101, max_position_embeddings=64, num_labels=5, **SIZES)
            model = t.BertForSequenceClassification(config)
        else:
            config = t.ViTConfig(image_size=32, patch_size=8, num_labels=5, **SIZES)
            model = t.ViTForImageClassification(config)
        for name, parameter in model.named_parameters():
            if name.startswith("classifier"):
                parameter.data.mul_(20)  # classes that differ, as a trained model's do
        return frozen(model)


CONFIG = {"vocab_size": 101, "max_position_embeddings": 64, **SIZES}


class TestTokenClassification(TaskSuite):
    @pytest.fixture(params=[Choice, Score])
    def task(self, request):
        return TokenClassification(request.param())

    @pytest.fixture
    def model(self):
        return frozen(t.BertForTokenClassification(t.BertConfig(num_labels=5, **CONFIG)))


class TestMaskedLM(TaskSuite):
    @pytest.fixture
    def task(self):
        return MaskedLM(mask_token_id=3)

    @pytest.fixture
    def model(self):
        return frozen(t.BertForMaskedLM(t.BertConfig(**CONFIG)))

    @pytest.fixture
    def batches(self, task, model):
        """Rows with different numbers of masked tokens."""
        first = dict(task.example_inputs(model, self.workload))
        first["input_ids"] = first["input_ids"].clone()
        first["input_ids"][1, 3:5] = 3
        return [first, {name: value.flip(0, -1) for name, value in first.items()}]


class TestQuestionAnswering(TaskSuite):
    @pytest.fixture
    def task(self):
        return QuestionAnswering()

    @pytest.fixture
    def model(self):
        return frozen(t.BertForQuestionAnswering(t.BertConfig(**CONFIG)))


@pytest.mark.parametrize(
    ("architectures", "kind", "expected"),
    [
        (["LlamaForCausalLM"], "llama", "causal-lm"),
        (["GPT2LMHeadModel"], "gpt2", "causal-lm"),
        (None, "llama", "causal-lm"),
        (["LlamaModel"], "llama", "embedding"),
        (None, "bert", "embedding"),
        (["BertForSequenceClassification"], "bert", "classification"),
        (["ViTForImageClassification"], "vit", "image-classification"),
        (["CLIPForImageClassification"], "clip", "image-classification"),
        (["CLIPModel"], "clip", "image-text"),
        (None, "unheard-of", "embedding"),
        (["BertForTokenClassification"], "bert", "token-classification"),
        (["BertForQuestionAnswering"], "bert", "question-answering"),
        (["RobertaForMaskedLM"], "roberta", "masked-lm"),
        (["BertModel"], "bert", "embedding"),
        (["FunnelBaseModel"], "funnel", "embedding"),
        (["DPRQuestionEncoder"], "dpr", "embedding"),
        (["NewModel"], "unheard-of", "embedding"),
    ],
)
def test_a_model_is_recognised_by_its_architectures_or_its_type(architectures, kind, expected):
    config = SimpleNamespace(architectures=architectures, model_type=kind)
    assert detect_task(config) == expected


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("BertForPreTraining", "bert"),
        ("BertForNextSentencePrediction", "bert"),
        ("BertForMultipleChoice", "bert"),
        ("T5ForConditionalGeneration", "t5"),
        ("WhisperForConditionalGeneration", "whisper"),
        ("CLIPTextModelWithProjection", "clip_text_model"),
        ("GPT2DoubleHeadsModel", "gpt2"),
        ("DeiTForImageClassificationWithTeacher", "deit"),
        ("NewForObjectDetection", "unheard-of"),
    ],
)
def test_a_head_that_no_task_judges_is_refused_by_name(architecture, kind):
    config = SimpleNamespace(architectures=[architecture], model_type=kind)
    with pytest.raises(ModelError, match=f"{architecture}, whose outputs no task judges; .*save"):
        detect_task(config)


def test_of_an_encoder_decoder_model_the_encoder_is_what_can_be_tuned(tmp_path):
    config = t.T5Config(vocab_size=99, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4)
    t.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "whole")
    with pytest.raises(ModelError, match=r"encoder alone .* save it with AutoModelForTextEncoding"):
        load_model(str(tmp_path / "whole"))
    encoder = t.AutoModelForTextEncoding.from_pretrained(tmp_path / "whole")
    encoder.save_pretrained(tmp_path / "encoder")
    assert load_model(str(tmp_path / "encoder")).task == "embedding"


def test_every_task_says_what_the_rest_needs_to_know():
    assert {name: (kind.auto_class, kind.default_metric) for name, kind in TASKS.items()} == {
        "image-text": ("AutoModel", "kfac-seq"),
        "causal-lm": ("AutoModelForCausalLM", "kfac"),
        "classification": ("AutoModelForSequenceClassification", "kfac-seq"),
        "image-classification": ("AutoModelForImageClassification", "kfac-seq"),
        "token-classification": ("AutoModelForTokenClassification", "kfac"),
        "masked-lm": ("AutoModelForMaskedLM", "kfac"),
        "question-answering": ("AutoModelForQuestionAnswering", "kfac-seq"),
        "embedding": ("AutoModel", "kfac-seq"),
    }
    assert [name for name, kind in TASKS.items() if kind.has_decode] == ["causal-lm"]
    assert [name for name, kind in TASKS.items() if kind.reads_windows] == ["causal-lm"]


def test_a_task_is_made_from_what_its_folder_says(tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert make_task("embedding", tmp_path).pooling == ("cls",)
    assert make_task("image-text", tmp_path).pooling == ("mean",)
    with pytest.raises(UsageError, match="unknown task 'x'; known are image-text, causal-lm, "):
        make_task("x", tmp_path)


def test_a_new_task_is_a_class_and_an_entry(monkeypatch):
    """Detection, loading, the default metric and the refusal of decode steps ask the class."""

    class Seq2Seq(CausalLM):
        name = "seq2seq"
        auto_class = "AutoModelForSeq2SeqLM"
        architectures = ("ForConditionalGeneration",)
        has_decode = False

    monkeypatch.setitem(TASKS, Seq2Seq.name, Seq2Seq)
    config = SimpleNamespace(architectures=["T5ForConditionalGeneration"], model_type="t5")
    assert detect_task(config) == "seq2seq"
    loaded = LoadedModel(
        name="new",
        folder=Path("/nonexistent"),
        task="seq2seq",
        model=tiny_model("llama"),
        tokenizer=None,
        weights_sha256="",
    )
    with pytest.raises(UsageError, match="a model of the task seq2seq does not have"):
        check_workload(Workload(batch_size=1, sequence_length=4, phase="decode"), loaded)
    with pytest.raises(UsageError, match="a model of the task seq2seq has no decode step"):
        exported_phases(loaded, decode=True)
    request = TuneRequest(budget=Budget(latency="0.9x"))
    assert chosen_metric(request, "seq2seq") == "kfac"
    assert "AutoModelForSeq2SeqLM" in model_card(replace(stored_record(), task="seq2seq"))
