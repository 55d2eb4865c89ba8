"""What a job needs at least, by its workload and the model's config.json: too much is refused.

Every estimate is a lower bound, as a job that would fit must not be refused. What needs more than
is foreseen here ends at the limit of the job's process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.compress.companions import is_weights
from autotune.core.errors import UsageError, option_name
from autotune.core.layers import LayerShape
from autotune.core.workload import Workload
from autotune.devices.specs import DTYPE_BYTES

# Modules cost memory and time whatever their size; the largest published models have some hundred
# layers, and some hundred experts in each.
_MOST_LAYERS = 10_000
_MOST_MODULES = 1_000_000
_LAYERS = re.compile(r"(layers?|depths?|blocks?)$")
_EXPERTS = re.compile(r"experts$")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "embed_dim")
_INNER = ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "encoder_ffn_dim", "mlp_dim")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads")
_EMBEDDED = ("embedding_size", "word_embed_proj_dim", *_HIDDEN)
_POSITIONS = ("max_position_embeddings", "n_positions")
_CAUSAL = ("ForCausalLM", "LMHeadModel")
# Those with a weight for every position; to others, `max_position_embeddings` is only a number.
_WITH_TABLE = (
    *("albert", "bert", "camembert", "distilbert", "electra", "ernie", "gpt2", "gpt_bigcode"),
    *("gpt_neo", "layoutlm", "longformer", "mobilebert", "mpnet", "openai-gpt", "opt", "roberta"),
    *("xlm-roberta", "xlm-roberta-xl"),
)


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Sizes of a transformer, from its config.json; 0 where it does not name one.

    `vocabulary` counts the logits of a token, `embeddings` the numbers of the largest table of
    tokens or positions, and `cached` the keys and values that all layers keep of one token.
    """

    hidden: int
    inner: int
    heads: int
    vocabulary: int
    embeddings: int
    cached: int

    def cache_bytes(self, workload: Workload, *, dtype: str) -> int:
        """Bytes of the key-value cache at the workload's decode step; 0 where there is none."""
        if "decode" not in workload.passes:
            return 0
        tokens = workload.batch_size * workload.past_length
        return tokens * self.cached * DTYPE_BYTES[dtype]

    def activation_bytes(self, workload: Workload, *, dtype: str, scores: bool) -> int:
        """Least bytes of the tensors that are alive at once while the workload's prefill runs.

        In a feed-forward block these are its input and two inner ones; behind the last block,
        hidden state and logits; with `scores`, the attention scores of one layer.
        """
        if "prefill" not in workload.passes:
            return 0
        block = self.hidden + 2 * max(self.inner, self.hidden)
        found = workload.tokens * max(block, self.hidden + self.vocabulary)
        if scores:
            square = workload.sequence_length**2
            found = max(found, workload.batch_size * self.heads * square)
        return found * DTYPE_BYTES[dtype]


# A model of which nothing is known yet, smaller than any; a token is kept in a mask at least.
_UNKNOWN = Widths(hidden=16, inner=0, heads=1, vocabulary=0, embeddings=0, cached=2)


def check_model(folder: Path, limit_bytes: int) -> None:
    """Refuse a model that asks for more modules or weights than a job can hold.

    Raises:
        UsageError: that.
    """
    weights = sum(path.stat().st_size for path in folder.iterdir() if is_weights(path.name))
    if weights > limit_bytes:
        raise UsageError(
            f"{option_name('model')} has weights of {_size(weights)}, and a job of this server may "
            f"use {_size(limit_bytes)} of memory; choose a smaller model or a server with more"
        )
    numbers = list(_numbers(read_config(folder)))
    layers = max((n for key, n in numbers if _LAYERS.search(key)), default=1)
    experts = max((n for key, n in numbers if _EXPERTS.search(key)), default=1)
    if max(layers, experts) > _MOST_LAYERS or layers * max(experts, 1) > _MOST_MODULES:
        raise UsageError(
            f"{option_name('model')} has a config.json of {layers:,} layers with {experts:,} "
            f"experts each; at most {_MOST_LAYERS:,} layers, {_MOST_LAYERS:,} experts and "
            f"{_MOST_MODULES:,} in all are accepted"
        )
    widths = widths_of(folder)
    largest = 4 * max(widths.hidden * max(widths.hidden, widths.inner), widths.embeddings)
    if largest > limit_bytes:
        raise UsageError(
            f"{option_name('model')} has a config.json whose largest weight alone takes "
            f"{_size(largest)}, and a job of this server may use {_size(limit_bytes)} of memory"
        )


def check_workload(
    folder: Path | None, workload: Workload, *, limit_bytes: int, dtype: str
) -> None:
    """Refuse a workload whose activations do not fit into a job's memory.

    Without the model's folder, those of a very small model are taken.

    Raises:
        UsageError: that.
    """
    widths = _UNKNOWN if folder is None else widths_of(folder)
    needed = max(
        widths.activation_bytes(workload, dtype=dtype, scores=dtype == "fp32"),
        widths.cache_bytes(workload, dtype=dtype),
    )
    if needed > limit_bytes:
        raise UsageError(
            f"{option_name('workload.batch_size')} {workload.batch_size} and "
            f"{option_name('workload.sequence_length')} {workload.sequence_length} need at least "
            f"{_size(needed)} for activations or cached keys and values, and a job of this server "
            f"may use {_size(limit_bytes)} of memory; lower one of them"
        )


def check_layers(shapes: list[LayerShape], limit_bytes: int) -> None:
    """Refuse a layer that does not fit into memory with its input and output.

    Raises:
        UsageError: that.
    """
    for shape in shapes:
        rows, columns = shape.in_features, shape.out_features
        needed = (rows * columns + shape.tokens * (rows + columns)) * DTYPE_BYTES[shape.dtype]
        if needed > limit_bytes:
            raise UsageError(
                f"a layer of {rows}x{columns} on {shape.tokens} tokens takes {_size(needed)}, and "
                f"a job of this server may use {_size(limit_bytes)} of memory; give smaller "
                f"{option_name('shapes')} or {option_name('tokens')}"
            )


def read_config(folder: Path) -> Mapping[str, Any]:
    """The model's config.json; empty where it is none, which the job reports."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def widths_of(folder: Path) -> Widths:
    """The sizes of the model, those of its text part where it has several."""
    config = read_config(folder)
    text = config.get("text_config")
    part = text if isinstance(text, dict) else config
    names = config.get("architectures")
    causal = isinstance(names, list) and any(str(name).endswith(_CAUSAL) for name in names)
    return Widths(
        hidden=_first(part, _HIDDEN),
        inner=_first(part, _INNER),
        heads=_first(part, _HEADS),
        vocabulary=_first(part, ("vocab_size",)) if causal else 0,
        embeddings=_embeddings(part),
        cached=_cached(part),
    )


def _embeddings(config: Mapping[str, Any]) -> int:
    rows = _first(config, ("vocab_size",))
    if config.get("model_type") in _WITH_TABLE:
        rows = max(rows, _first(config, _POSITIONS))
    return rows * _first(config, _EMBEDDED)


def _cached(config: Mapping[str, Any]) -> int:
    """Numbers that plain attention caches of one token; 0 for models that cache less."""
    if "layer_types" in config or "kv_lora_rank" in config:
        return 0
    heads = _first(config, _HEADS)
    size = _first(config, ("head_dim",)) or _first(config, _HIDDEN) // max(heads, 1)
    layers = _first(config, ("num_hidden_layers", "n_layer"))
    return 2 * layers * (_first(config, ("num_key_value_heads",)) or heads) * size


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    for name in names:
        value = config.get(name)
        if type(value) is int and value > 0:
            return value
    return 0


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every whole number of a configuration by its key; those of a list are added up."""
    left: list[tuple[str, Any]] = [("", config)]  # however deep it is nested
    while left:
        key, value = left.pop()
        if isinstance(value, Mapping):
            left.extend(value.items())
        elif isinstance(value, list) and all(type(each) is int for each in value):
            yield key, sum(value)
        elif type(value) is int:
            yield key, value


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
