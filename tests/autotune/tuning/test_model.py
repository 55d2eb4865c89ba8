"""Whether a model can run a workload, said in words for every caller."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as t

from autotune.compress.loading import LoadedModel
from autotune.compress.tasks import TASKS
from autotune.core.errors import ModelError, UsageError
from autotune.core.option_names import spell
from autotune.core.types import Workload
from autotune.tuning.model import check_workload, trace_model
from autotune.tuning.request import TuneRequest

CODE = SimpleNamespace(
    task="causal-lm", kind=TASKS["causal-lm"], config=SimpleNamespace(max_position_embeddings=64)
)
EMBEDDING = SimpleNamespace(task="embedding", kind=TASKS["embedding"], config=SimpleNamespace())


@pytest.mark.parametrize(
    ("model", "workload", "library", "command_line"),
    [
        (
            EMBEDDING,
            Workload(output_length=4),
            "workload.output_length 4 asks for decode steps, which a model of the task embedding",
            "--osl 4 asks for decode steps",
        ),
        (
            EMBEDDING,
            Workload(phase="decode"),
            "workload.phase decode asks for decode steps, which a model of the task embedding",
            "--phase decode asks for decode steps",
        ),
        (
            CODE,
            Workload(sequence_length=63, output_length=2),
            "workload.sequence_length 63 and 2 decode steps (workload.output_length) need 65 pos",
            "--isl 63 and 2 decode steps (--osl) need 65 positions; the model has 64",
        ),
    ],
)
def test_a_workload_that_the_model_cannot_run_is_refused(model, workload, library, command_line):
    with pytest.raises(UsageError) as caught:
        check_workload(workload, model)
    assert str(caught.value).startswith(library)
    assert str(spell(caught.value, "cli", TuneRequest)).startswith(command_line)


SIZES = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}


def loaded(model, task):
    return LoadedModel(
        name="tiny",
        folder=Path("/nonexistent"),
        task=task,
        model=model.eval().requires_grad_(False),
        tokenizer=None,
        weights_sha256="0" * 64,
    )


def test_an_encoder_and_decoder_is_refused_and_its_encoder_alone_is_not():
    config = t.T5Config(vocab_size=99, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4)
    workload = Workload(batch_size=2, sequence_length=8)
    with pytest.raises(ModelError, match=r"encoder-decoder model .T5Model.* T5EncoderModel"):
        trace_model(loaded(t.T5Model(config), "embedding"), workload)
    encoder = trace_model(loaded(t.T5EncoderModel(config), "embedding"), workload)
    assert {site.tokens for site in encoder.single} == {16}


def test_a_model_of_other_inputs_is_refused_in_one_sentence():
    sizes = {name: size for name, size in SIZES.items() if name != "vocab_size"}
    config = t.CanineConfig(**sizes, num_hash_buckets=64)  # of characters, without a vocabulary
    with pytest.raises(ModelError, match=r"models of type canine take no token ids"):
        trace_model(loaded(t.CanineModel(config), "embedding"), Workload(sequence_length=8))


def test_a_model_whose_output_lacks_what_the_task_reads_is_refused_in_one_sentence():
    """As a few classes of transformers do: a hidden state where the logits should be."""
    headless = loaded(t.BertModel(t.BertConfig(**SIZES)), "causal-lm")
    with pytest.raises(
        ModelError, match=r"does not run on the inputs of the task causal-lm: .*'logits'; only"
    ):
        trace_model(headless, Workload(batch_size=2, sequence_length=8))


def test_positions_before_the_first_token_do_not_count():
    """RoBERTa's table has a row for padding and those before it, which no token uses."""
    config = t.RobertaConfig(**SIZES, max_position_embeddings=18, pad_token_id=1)
    model = loaded(t.RobertaModel(config, add_pooling_layer=False), "embedding")
    assert trace_model(model, Workload(batch_size=1, sequence_length=16)).single
    with pytest.raises(UsageError, match="need 17 positions; the model has 16"):
        trace_model(model, Workload(batch_size=1, sequence_length=17))


def test_the_cache_of_latent_attention_is_as_small_as_it_is():
    latent = {"kv_lora_rank": 32, "q_lora_rank": 48, "qk_rope_head_dim": 16, "v_head_dim": 16}
    mixture = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    config = t.DeepseekV3Config(
        **SIZES,
        **latent,
        **mixture,
        qk_nope_head_dim=16,
        num_key_value_heads=4,
        moe_intermediate_size=64,
        first_k_dense_replace=1,
    )
    model = t.DeepseekV3ForCausalLM(config)
    workload = Workload(batch_size=2, sequence_length=8, output_length=4)
    found = trace_model(loaded(model, "causal-lm"), workload).kv_cache_bytes("fp32")
    cache = model(torch.zeros(2, 12, dtype=torch.long)).past_key_values.layers[0]
    assert found == 4 * (cache.keys.numel() + cache.values.numel())
