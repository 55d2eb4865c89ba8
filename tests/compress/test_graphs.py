"""Graphs of models that trace wrongly by themselves: each is right, or refused in one sentence."""

from functools import partial

import onnx
import pytest
import torch
import transformers as t
from transformers.models.qwen3_next import modeling_qwen3_next

from autotune.compress.checkpoint import save_checkpoint
from autotune.compress.decode import decode_inputs
from autotune.compress.loading import load_checkpoint
from autotune.compress.onnx_broadcast import expand_operands
from autotune.compress.onnx_checkpoint import export_checkpoint
from autotune.compress.sites import find_sites
from autotune.core.errors import ModelError, ParityError
from autotune.export.parity import check_parity, onnx_network

pytestmark = pytest.mark.duration(80)

SIZES = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
GROUPED = {**SIZES, **ENDS, "num_key_value_heads": 2}
LATENT = {"kv_lora_rank": 32, "q_lora_rank": 48, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16}
MIXTURE = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
CLASSES = {
    # Rotary models outside causal language models: one row of cosines for all sequences.
    "modernbert": lambda: t.ModernBertModel(
        t.ModernBertConfig(**SIZES, **ENDS, cls_token_id=0, sep_token_id=0, local_attention=16)
    ),
    "qwen2 classifier": lambda: t.Qwen2ForSequenceClassification(t.Qwen2Config(**GROUPED)),
    # A mask without a dimension of queries.
    "layoutlm": lambda: t.LayoutLMModel(t.LayoutLMConfig(**SIZES)),
    # Positions from a table: padding on the left shifts them.
    "opt": lambda: t.OPTForCausalLM(
        t.OPTConfig(**SIZES, **ENDS, ffn_dim=64, word_embed_proj_dim=64)
    ),
    "gpt2": lambda: t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=99, n_embd=64, n_layer=1, n_head=4, n_positions=128, **ENDS)
    ),
    # Positions that start behind the padding's row.
    "roberta decoder": lambda: t.RobertaForCausalLM(
        t.RobertaConfig(**SIZES, **ENDS, is_decoder=True)
    ),
    # Keys and values of other sizes than heads and hidden size say.
    "latent attention": lambda: t.DeepseekV3ForCausalLM(
        t.DeepseekV3Config(
            **{**GROUPED, "num_key_value_heads": 4}, **LATENT, **MIXTURE, v_head_dim=16,
            n_routed_experts=4, n_group=1, topk_group=1, first_k_dense_replace=1,
        )
    ),
    # One head of keys and values for all queries.
    "falcon": lambda: t.FalconForCausalLM(
        t.FalconConfig(
            vocab_size=99, hidden_size=64, num_hidden_layers=1, num_attention_heads=4,
            alibi=False, **ENDS,
        )
    ),
    "mixture": lambda: t.MixtralForCausalLM(
        t.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2)
    ),
}  # fmt: skip
SOME = ("qwen2 classifier", "layoutlm", "roberta decoder")  # in the fast tier
SHAPES = ((2, 7), (3, 40))


def checkpoint(model, path):
    torch.manual_seed(0)
    save_checkpoint(model().eval(), None, folder=path)
    return load_checkpoint(path)


def graph_of(loaded, phase, path):
    path.mkdir(exist_ok=True)
    return export_checkpoint(loaded, phase, folder=path, metadata={})


@pytest.mark.parametrize("name", SOME)
def test_a_graph_is_what_transformers_computes(name, tmp_path):
    assert_right(name, "prefill", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CLASSES if name not in SOME])
def test_so_is_every_other_one(name, tmp_path):
    assert_right(name, "prefill", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gpt2", "opt", "roberta decoder", "latent attention", "falcon", "mixture"]
)
def test_a_decode_step_continues_a_real_pass(name, tmp_path):
    assert_right(name, "decode", tmp_path)


def assert_right(name, phase, path):
    loaded = checkpoint(CLASSES[name], path / "model")
    network = onnx_network(graph_of(loaded, phase, path / "graph"))
    found = check_parity(
        loaded, phase, network=network, dtype="fp32", what="the graph", shapes=SHAPES
    )
    assert [(case.batch_size, case.length) for case in found.cases] == [*SHAPES]


REFUSED = {
    "a free length that is fixed": (
        lambda: t.MambaForCausalLM(
            t.MambaConfig(vocab_size=99, hidden_size=64, num_hidden_layers=1, state_size=8)
        ),
        r"would take one sequence only: .* fixes it at 8 in attention_mask; tune it without a",
    ),
    "control flow that depends on data": (
        lambda: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED, rope_parameters=DYNAMIC)),
        r"cannot be exported to ONNX: Could not guard on data-dependent expression",
    ),
}


@pytest.mark.parametrize("name", [*REFUSED])
def test_what_has_no_right_graph_is_refused_in_one_line(name, tmp_path, capfd):
    model, words = REFUSED[name]
    loaded = checkpoint(model, tmp_path / "model")
    capfd.readouterr()
    with pytest.raises(ModelError, match=words) as caught:
        graph_of(loaded, "prefill", tmp_path / "graph")
    assert len(str(caught.value).splitlines()) == 1
    printed = capfd.readouterr()
    assert "def forward" not in printed.out + printed.err


@pytest.mark.slow
def test_a_loop_over_chunks_that_was_unrolled_is_found(tmp_path, monkeypatch):
    """Of the gated delta rule, here with chunks of 8 tokens: the trace sees one."""
    rule = modeling_qwen3_next.torch_chunk_gated_delta_rule
    short = partial(rule, chunk_size=8)
    monkeypatch.setattr(modeling_qwen3_next, "torch_chunk_gated_delta_rule", short)
    linear = {"linear_num_value_heads": 2, "linear_num_key_heads": 2}
    linear |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
    config = t.Qwen3NextConfig(
        **{**GROUPED, "num_hidden_layers": 2},
        **linear,
        head_dim=32,
        num_experts=0,
        layer_types=["linear_attention", "full_attention"],
    )
    loaded = checkpoint(lambda: t.Qwen3NextForCausalLM(config), tmp_path / "model")
    network = onnx_network(graph_of(loaded, "prefill", tmp_path / "graph"))
    check_parity(loaded, "prefill", network=network, dtype="fp32", what="it", shapes=[(1, 8)])
    with pytest.raises(ParityError, match=r"it differs from the checkpoint by .* length 9"):
        check_parity(loaded, "prefill", network=network, dtype="fp32", what="it", shapes=[(1, 9)])


@pytest.mark.slow
def test_a_batch_of_one_that_the_code_squeezes_is_found(tmp_path):
    sizes = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64}
    sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = t.MBartConfig(vocab_size=99, encoder_ffn_dim=64, decoder_ffn_dim=64, **sizes, **ENDS)
    loaded = checkpoint(lambda: t.MBartModel(config), tmp_path / "model")
    network = onnx_network(graph_of(loaded, "prefill", tmp_path / "graph"))
    check_parity(loaded, "prefill", network=network, dtype="fp32", what="it", shapes=SHAPES)
    with pytest.raises(ParityError, match=r"does not run at \[1, 7\]"):
        check_parity(loaded, "prefill", network=network, dtype="fp32", what="it", shapes=[(1, 7)])


def test_caches_of_anything_but_keys_and_values_are_refused():
    config = t.Lfm2Config(**GROUPED, layer_types=["conv"], block_multiple_of=32)
    with pytest.raises(ModelError, match="decode steps are only supported where every layer"):
        decode_inputs(t.Lfm2ForCausalLM(config).eval(), 1, past_length=4)


def test_past_keys_have_the_shapes_of_a_real_cache():
    model = CLASSES["latent attention"]().eval()
    found = {
        name: tuple(value.shape) for name, value in decode_inputs(model, 3, past_length=5).items()
    }
    cache = model(torch.zeros(3, 5, dtype=torch.long)).past_key_values.layers[0]
    assert found["past_key_values.0.key"] == tuple(cache.keys.shape)
    assert found["past_key_values.0.value"] == tuple(cache.values.shape)


def test_experts_stay_dense():
    """In classes whose experts are modules; most hold them in one parameter."""

    class Mixture(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(2))
            self.shared_experts = torch.nn.Linear(64, 64)

    found = find_sites(Mixture())
    assert [site.name for site in found.sites] == ["shared_experts"]
    assert found.left_out["experts.1"] == "an expert of a mixture"


def test_one_expansion_serves_all_layers():
    rotary = [
        onnx.helper.make_node("RotaryEmbedding", [f"x{i}", "cos", "sin"], [f"y{i}"])
        for i in range(2)
    ]
    graph = onnx.helper.make_graph(rotary, "two layers", [], [])
    model = onnx.helper.make_model(graph)
    expand_operands(model)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Expand") == 2  # cosines and sines
    assert [list(n.input[1:]) for n in model.graph.node if n.op_type == "RotaryEmbedding"] == [
        ["cos.expanded", "sin.expanded"]
    ] * 2
