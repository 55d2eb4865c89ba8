"""The model classes of the coverage table, and how each of them is built tiny and random.

Listed are the classes of transformers whose body reads text, images, or a text and an image: one of
every type of model in its mappings of causal and masked language models, image classifiers, two
towers, and text models of an encoder and a decoder. Wrappers around other bodies (speech, and
images in front of a language model) are left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import transformers
from transformers.models.auto import configuration_auto, modeling_auto

VOCABULARY = 2048  # of the tokenizer of tests/data/code-llama-3m
IMAGE = 32  # pixels
# What makes a configuration small, where it has a field of that name.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embed_dim"), 64),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2
    ),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_inner", "d_ff"), 128),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "ffn_hidden_size"), 128),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 64),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "context_length"), 512),
    **dict.fromkeys(("max_seq_len", "max_sequence_length"), 512),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "d_kv", "d_head"), 16),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    "num_experts_per_tok": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 16),
    "rotary_dim": 16,
    "initializer_range": 0.1,  # for these widths; with the usual 0.02 deep ones compute zeros
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "sliding_window": 16,
    "vocab_size": VOCABULARY,
    "image_size": IMAGE,
    "patch_size": 8,
    "projection_dim": 32,
}
# Where the names above do not shrink a configuration, or leave a contradiction.
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "bailing_hybrid": {"num_hidden_layers": 2},
    "dots3_note_text": {"num_key_value_heads": 4},
    "esmc": {"num_key_value_heads": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY},
    "gemma4_text": {"vocab_size_per_layer_input": VOCABULARY},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 32},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "perceiver": {"num_latents": 16, "d_latents": 64, "d_model": 64, "num_blocks": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [32, 32],
        "attn_layers": ["local", "lsh"],
        "attention_head_size": 16,
        "feed_forward_size": 128,
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE},
    },
    "align": {"vision_config": {"image_size": IMAGE, "hidden_dim": 64, "width_coefficient": 0.1}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"],
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "hc_lowrank": 16,
    },
    "zamba": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
    },
    "zamba2": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
    },
    "convnext": {"hidden_sizes": [32, 64], "depths": [1, 1], "num_stages": 2, "patch_size": 4},
    "convnextv2": {"hidden_sizes": [32, 64], "depths": [1, 1], "num_stages": 2, "patch_size": 4},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "xlstm": {"hidden_size": 128},
    "zaya": {"num_experts_per_tok": 1},
    "cvt": {"embed_dim": [32, 64, 64], "depth": [1, 2, 3], "num_heads": [1, 2, 2]},
    "donut-swin": {
        "patch_size": 2,
        "embed_dim": 32,
        "depths": [1, 1],
        "num_heads": [2, 4],
        "window_size": 4,
    },
    "hiera": {"image_size": [32, 32], "depths": [1, 1, 1, 1], "embed_dim": 32},
    "levit": {"image_size": 64, "patch_size": 16},
    "pvt": {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [32, 64, 64, 64],
        "num_attention_heads": [1, 2, 2, 2],
    },
    "pvt_v2": {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [32, 64, 64, 64],
        "num_attention_heads": [1, 2, 2, 2],
    },
    "segformer": {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [32, 64, 64, 64],
        "num_attention_heads": [1, 2, 2, 2],
    },
    "swin": {
        "embed_dim": 32,
        "patch_size": 2,
        "depths": [1, 1],
        "num_heads": [2, 4],
        "window_size": 4,
    },
    "swinv2": {
        "embed_dim": 32,
        "patch_size": 2,
        "depths": [1, 1],
        "num_heads": [2, 4],
        "window_size": 4,
    },
}
_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
_TEXT |= {"num_attention_heads": 4, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
_VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
_VISION |= {"num_attention_heads": 4, "image_size": IMAGE, "patch_size": 8}
_KINDS: dict[str, Mapping[str, Any]] = {
    "encoder": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "text encoder": modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    "image": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "two towers": modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "encoder-decoder": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "decoder": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}
# Types that are wrappers, though their configurations do not say so.
_WRAPPERS: tuple[str, ...] = (
    "musicgen_melody",
    "t5gemma",
    "t5gemma2",
    "dinat",
    "gemma4_assistant",
    "gemma4_unified_assistant",
)
_WRAPPERS += ("encoder-decoder", "timm_wrapper", "trocr", "git", "fuyu", "musicgen", "whisper")
_OTHER_INPUTS = ("vision_config", "audio_config", "encoder_config", "speech_config", "vq_config")


class Entry(NamedTuple):
    """A row of the table: a class, the type of model in its configuration, and its kind of body."""

    name: str
    model_type: str
    kind: str


def model_classes() -> Iterator[Entry]:
    """Every row, sorted by kind and type."""
    bodies: set[str] = set()
    names: set[str] = set()
    for kind, mapping in _KINDS.items():
        for model_type, found in sorted(mapping.items()):
            name = found if isinstance(found, str) else found[0]
            if kind in ("encoder", "two towers"):
                name = modeling_auto.MODEL_MAPPING_NAMES.get(model_type, name)
                name = name if isinstance(name, str) else name[0]
            if model_type in bodies or name in names or not _has_body(model_type, kind):
                continue
            bodies.add(model_type)
            names.add(name)
            yield Entry(name, model_type, kind)


def _has_body(model_type: str, kind: str) -> bool:
    """Whether the type is a body of its own, not a wrapper around others."""
    if model_type in _WRAPPERS or model_type not in configuration_auto.CONFIG_MAPPING_NAMES:
        return False
    parts = set(config_class(model_type).sub_configs)
    if kind == "two towers":
        return True
    speech = modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES
    return model_type not in speech and not parts & set(_OTHER_INPUTS)


def config_class(model_type: str) -> Any:
    """The configuration's class."""
    return getattr(transformers, configuration_auto.CONFIG_MAPPING_NAMES[model_type])


def tiny_config(model_type: str) -> Any:
    """A small configuration of the type."""
    kind = config_class(model_type)
    given = OVERRIDES.get(model_type, {})
    if {"text_config", "vision_config"} <= set(kind.sub_configs):
        parts = {"text_config": _part(kind, "text_config", sizes=_TEXT)}
        parts["vision_config"] = _part(kind, "vision_config", sizes=_VISION)
        return kind(**{**parts, **_fields(kind, {"projection_dim": 32}), **given})
    if "text_config" in kind.sub_configs:
        return kind(text_config=tiny_config_of(kind.sub_configs["text_config"], {}), **given)
    return tiny_config_of(kind, given)


def tiny_config_of(kind: Any, given: Mapping[str, Any]) -> Any:
    """A small configuration of a class, with `given` fields."""
    fields = {**_fields(kind, SMALL), **_ends(kind)}
    if "kv_lora_rank" in fields:  # every head has keys and values of its own, of what is shared
        fields |= _fields(kind, {"num_key_value_heads": 4})
    fields |= given
    config = kind(**fields)
    layer_types = getattr(config, "layer_types", None)
    known = inspect.signature(kind).parameters
    if layer_types and "layer_types" in known and "layer_types" not in given:
        # One layer of every type there is.
        types = list(dict.fromkeys(kind(**{**fields, **_many(kind)}).layer_types))
        fields |= {"layer_types": types, **{n: len(types) for n in _LAYERS if n in fields}}
        config = kind(**fields)
    return config


_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def _many(kind: Any) -> dict[str, Any]:
    """So many layers that every type of layer is among them."""
    return _fields(kind, dict.fromkeys(_LAYERS, 24))


def _part(kind: Any, name: str, *, sizes: Mapping[str, Any]) -> dict[str, Any]:
    part = kind.sub_configs[name]
    return {**_fields(part, sizes), **(_ends(part) if name == "text_config" else {})}


def _fields(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    known = {
        name: parameter
        for name, parameter in inspect.signature(kind).parameters.items()
        if not isinstance(parameter.default, list | tuple | dict)
    }
    names = {getattr(kind, "attribute_map", {}).get(name, name): v for name, v in values.items()}
    return {name: value for name, value in names.items() if name in known}


def _ends(kind: Any) -> dict[str, Any]:
    """Token ids within the small vocabulary."""
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "decoder_start_token_id": 1}
    ends |= {"cls_token_id": 0, "sep_token_id": 0, "mask_token_id": 3}
    return _fields(kind, ends)
