"""Figures that mean something: what they see, and data by which nothing could be seen."""

import math

import pytest
import torch
import transformers as t
from torch import nn

from autotune.compress.quality import dense_loss, judged
from autotune.compress.statistics import collect_statistics
from autotune.compress.tasks.base import MASK
from autotune.compress.tasks.causal_lm import CausalLM
from autotune.compress.tasks.classification import Classification
from autotune.compress.tasks.distances import Choice, Independent, Score, label_distance
from autotune.compress.tasks.embedding import Embedding
from autotune.compress.tasks.image_text import ImageText
from autotune.compress.tasks.token_level import MaskedLM, QuestionAnswering, TokenClassification
from autotune.core.errors import CalibrationError, ModelError
from tests.conftest import tiny_model

DRAW = torch.Generator().manual_seed(0)
SIZES = {"vocab_size": 101, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
         "num_attention_heads": 2, "max_position_embeddings": 64}  # fmt: skip


def text(*lengths, rows=4):
    """Batches of random tokens."""
    ids = [torch.randint(0, 100, (rows, length), generator=DRAW) for length in lengths]
    return [{"input_ids": each, MASK: torch.ones_like(each)} for each in ids]


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (t.BertConfig(num_labels=1), Score),
        (t.BertConfig(num_labels=1, problem_type="regression"), Score),
        (t.BertConfig(num_labels=3, problem_type="regression"), Score),
        (t.BertConfig(num_labels=5, problem_type="multi_label_classification"), Independent),
        (t.BertConfig(num_labels=1, problem_type="multi_label_classification"), Independent),
        (t.BertConfig(num_labels=3, problem_type="single_label_classification"), Choice),
        (t.BertConfig(num_labels=2), Choice),
    ],
)
def test_the_distance_follows_the_labels(config, kind, tmp_path):
    assert type(label_distance(config)) is kind
    config.save_pretrained(tmp_path)
    assert type(Classification.of_folder(tmp_path).distance) is kind
    assert type(TokenClassification.of_folder(tmp_path).distance) is kind


def figure_of(task, *, ours, dense):
    loss, count = task.loss(ours, dense, batch={})
    return task.figure(float(loss) / count / task.scale([dense], [{}]))


@pytest.mark.parametrize("size", [0.01, 5.0])
@pytest.mark.parametrize("offset", [0.0, -40.0])
def test_scores_of_a_reranker_are_related_to_their_spread(size, offset):
    task, dense = Classification(Score()), torch.randn(64, 1, generator=DRAW) * size + offset
    assert figure_of(task, ours=dense, dense=dense) == pytest.approx(1.0)
    shuffled = dense[torch.randperm(64, generator=DRAW)]
    assert figure_of(task, ours=shuffled, dense=dense) < 0.0
    assert figure_of(task, ours=dense.mean().expand_as(dense), dense=dense) == pytest.approx(
        0.0, abs=1e-3
    )
    nearly = dense + 0.1 * size * torch.randn(64, 1, generator=DRAW)
    assert 0.97 < figure_of(task, ours=nearly, dense=dense) < 1.0
    (signal, *_) = task.curvature_signals(dense.requires_grad_(), {}, generator=DRAW)
    assert torch.autograd.grad(signal, dense)[0].any()


def test_independent_labels_are_seen_when_all_are_raised():
    """A softmax sees nothing of it."""
    dense = torch.randn(64, 5, generator=DRAW) * 2 - 3
    assert figure_of(Classification(Choice()), ours=dense + 6, dense=dense) == pytest.approx(
        1.0, abs=1e-5
    )
    assert figure_of(Classification(Independent()), ours=dense + 6, dense=dense) < 0.01
    extreme = 1e4 * dense
    assert figure_of(Classification(Independent()), ours=extreme, dense=extreme) == pytest.approx(
        1.0
    )


def constant(model):
    """The same model with a head, or a last layer, that gives one output for any input."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" not in name:
                parameter.zero_()
            else:
                parameter.fill_(0.5)
    return model.eval()


@pytest.mark.parametrize(
    ("task", "model"),
    [
        (CausalLM(), t.LlamaForCausalLM(t.LlamaConfig(**SIZES))),
        (Embedding(), t.BertModel(t.BertConfig(**SIZES))),
        (Embedding("cls"), t.BertModel(t.BertConfig(**SIZES))),
        (Classification(), t.BertForSequenceClassification(t.BertConfig(**SIZES))),
        (Classification(Score()), t.BertForSequenceClassification(t.BertConfig(**SIZES))),
        (TokenClassification(), t.BertForTokenClassification(t.BertConfig(**SIZES))),
        (MaskedLM(3), t.BertForMaskedLM(t.BertConfig(**SIZES))),
        (QuestionAnswering(), t.BertForQuestionAnswering(t.BertConfig(**SIZES))),
    ],
)
def test_a_constant_output_is_an_error(task, model):
    batches = text(7, 9, 9)
    for batch in batches:
        batch["input_ids"][:, 2] = 3
        batch[MASK][0, -2:] = 0
    assert math.isfinite(dense_loss(task, model.eval(), batches=batches))
    with pytest.raises(CalibrationError, match="the same for every held-out input"):
        dense_loss(task, constant(model), batches=batches)


def test_one_constant_tower_is_an_error():
    model, task = tiny_model("clip"), ImageText()
    pixels = torch.randn(4, 3, 32, 32, generator=DRAW)
    batches = [{**batch, "pixel_values": pixels} for batch in text(7)]
    assert dense_loss(task, model, batches=batches) == pytest.approx(0.0, abs=1e-5)
    constant(model.text_model)
    with pytest.raises(CalibrationError, match="the same for every held-out input"):
        dense_loss(task, model, batches=batches)


@pytest.mark.parametrize(
    ("task", "model"),
    [(CausalLM(), tiny_model("llama")), (MaskedLM(3), t.BertForMaskedLM(t.BertConfig(**SIZES)))],
)
def test_data_without_anything_to_judge_are_an_error(task, model):
    model.requires_grad_(False)
    batches = text(1 if task.reads_windows else 6)
    for batch in batches:
        batch["input_ids"][batch["input_ids"] == 3] = 4
    with pytest.raises(CalibrationError, match="hold no token that the model is judged by"):
        dense_loss(task, model.eval(), batches=batches)
    if task.masks_tokens:
        with pytest.raises(CalibrationError, match="hold no token"):
            collect_statistics(model, [], task=task, batches=batches, kinds=frozenset({"gram"}))


def test_an_output_that_is_not_finite_is_an_error_before_anything_long():
    model = tiny_model("llama")
    model.model.norm.variance_epsilon = math.nan
    with pytest.raises(ModelError, match=r"not finite on the held-out data; look for extreme"):
        dense_loss(CausalLM(), model, batches=text(8))
    with pytest.raises(ModelError, match=r"not finite on the calibration data; look for extreme"):
        collect_statistics(model, [], task=CausalLM(), batches=text(8), kinds=frozenset({"grad"}))


def test_a_compressed_model_that_is_not_finite_is_an_error():
    model, batches = tiny_model("bert"), text(8)
    references = Embedding().references(model, batches)
    nn.init.constant_(model.encoder.layer[0].output.dense.weight, math.inf)
    with pytest.raises(ModelError, match="the compressed model's output is not finite"):
        judged(Embedding(), model, batches=batches, references=references)


def test_convolutions_are_pooled_over_the_picture_not_over_channels():
    config = t.ConvNextV2Config(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32)
    model = t.ConvNextV2Model(config).eval()
    pixels = torch.randn(2, 3, 32, 32, generator=DRAW)
    with torch.no_grad():
        output = Embedding().output(model, {"pixel_values": pixels})
    embedded = Embedding().embed(output, {"pixel_values": pixels})
    assert embedded.shape == (2, 16)
    expected = nn.functional.normalize(output.mean((2, 3)), dim=-1)
    torch.testing.assert_close(embedded, expected)


class Given(Classification):
    """Its outputs are the inputs."""

    def output(self, model, batch):
        del model
        return batch["scores"]


def scores(*batches):
    return [{"scores": torch.tensor(batch)[:, None]} for batch in batches]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (scores([1.0, 1.0], [1.0]), "the same for every held-out input"),
        (scores([1.0], [1.0], [1.0]), "the same for every held-out input"),
        (scores([1.0]), "a single item of the held-out data is judged.*give more held-out data"),
    ],
)
@pytest.mark.parametrize("distance", [Choice(), Score()])
def test_a_batch_of_one_item_does_not_hide_a_constant_output(distance, batches, message):
    with pytest.raises(CalibrationError, match=message):
        dense_loss(Given(distance), nn.Identity(), batches=batches)


def test_items_of_different_batches_differ():
    assert dense_loss(Given(Score()), nn.Identity(), batches=scores([1.0], [2.0])) == 0.0


@pytest.mark.parametrize("dense", [scores([2.0]), scores([2.0, 2.0], [2.0])])
def test_scores_without_a_spread_are_an_error(dense):
    references = [batch["scores"] for batch in dense]
    with pytest.raises(CalibrationError, match=r"all held-out data the same score.*give more"):
        judged(Given(Score()), nn.Identity(), batches=dense, references=references)


def test_neighbours_are_the_others_of_the_largest_cosine():
    """A rotation keeps all, chance a quarter, and two points that change places nearly all."""
    task = Embedding()
    dense = nn.functional.normalize(torch.randn(40, 6, generator=DRAW), dim=-1)
    turned = dense @ torch.linalg.qr(torch.randn(6, 6, generator=DRAW)).Q
    assert task.neighbour_overlap([turned[:25], turned[25:]], [dense]) == 1.0
    others = nn.functional.normalize(torch.randn(40, 6, generator=DRAW), dim=-1)
    by_chance = task.neighbour_overlap([others], [dense])
    assert by_chance == pytest.approx(10 / 39, abs=0.1)
    line = torch.arange(12.0)
    on_a_line = torch.stack([line.div(20).cos(), line.div(20).sin()], -1)
    swapped = on_a_line[[1, 0, *range(2, 12)]]
    shared = task.neighbour_overlap([swapped], [on_a_line])
    assert 0.9 < shared < 1


def test_too_few_inputs_have_no_ten_neighbours():
    dense = nn.functional.normalize(torch.randn(10, 6, generator=DRAW), dim=-1)
    assert Embedding().neighbour_overlap([dense], [dense]) is None


def test_only_embeddings_have_neighbours():
    found = {}
    for name, task in (("bert", Embedding()), ("llama", CausalLM())):
        model, batches = tiny_model(name), text(8, 8, 8)
        references = task.references(model, batches)
        found[name] = judged(task, model, batches=batches, references=references)
    assert found["bert"].neighbour_overlap == 1.0
    assert found["bert"].loss == pytest.approx(0, abs=1e-6)
    assert found["llama"].neighbour_overlap is None
