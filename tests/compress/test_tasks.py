"""The suite for every task, on tiny models of each kind that it serves."""

import pytest
import transformers as t

from autotune.compress.tasks.causal_lm import CausalLM
from autotune.compress.tasks.classification import Classification
from autotune.compress.tasks.embedding import Embedding
from autotune.compress.tasks.image_text import ImageText
from autotune.testing.suites.task import TaskSuite
from tests.conftest import tiny_model

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
    @pytest.fixture(params=[("mean", 1), ("cls", 1), ("mean", 3)])
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
    @pytest.fixture
    def task(self):
        return Classification()

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
