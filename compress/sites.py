"""Which linear layers of a model may be factorized, and why the others may not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from autotune.compress.lowrank import dense_weight
from autotune.core.errors import ModelError, UsageError, option_name
from autotune.core.layers import Site
from autotune.core.patterns import NamePatterns
from autotune.core.types import Workload
from autotune.devices.specs import DTYPE_BYTES

_HEADS = re.compile(
    r"(^|\.)(lm_head|embed_out|classifier|score|cls|pooler|qa_outputs|visual_projection|"
    r"text_projection|logits_proj)(\.|$)"
)
# Experts of a mixture see other tokens in every pass, so no count or statistic holds for them.
_EXPERT = re.compile(r"(^|\.)experts?(\.|$)")
_ATTENTION = re.compile(r"attn|attention|\.(q|k|v|o)_proj$", re.IGNORECASE)
_MLP = re.compile(
    r"mlp|ffn|feed_forward|intermediate|(^|\.)fc\d?$|\.(gate|up|down)_proj$|layer\.\d+\.output\.",
    re.IGNORECASE,
)
_BLOCK = re.compile(r"\.(\d+)\.")
_MIN_FEATURES = 32


@dataclass(frozen=True, kw_only=True)
class Sites:
    """The sites found, and the reason of every linear layer left out, by module name.

    `joint` are sites that receive the same input, such as q, k and v.
    """

    sites: tuple[Site, ...]
    left_out: Mapping[str, str]
    joint: tuple[Site, ...] = ()


def _group(name: str) -> str:
    if _ATTENTION.search(name):
        return "attention"
    return "mlp" if _MLP.search(name) else "other"


def _reason(
    name: str,
    weight: Tensor,
    *,
    shared: bool,
    targets: NamePatterns,
    ignore: NamePatterns,
) -> str | None:
    if shared:
        return "its weight is tied to another module's"
    if ignore.match(name):
        return "matches an ignore pattern"
    if _EXPERT.search(name):
        return "an expert of a mixture"
    if targets:
        return None if targets.match(name) else "matches no target pattern"
    if _HEADS.search(name):
        return "a head"
    if min(weight.shape) < _MIN_FEATURES:
        return f"fewer than {_MIN_FEATURES} features"
    return None


def find_sites(
    model: nn.Module, targets: Sequence[str] = (), *, ignore: Sequence[str] = ()
) -> Sites:
    """Every nn.Linear and transformers Conv1D outside embeddings and heads.

    `targets` and `ignore` are regular expressions searched in module names; a target may name a
    head. Tokens are unknown (0) until `count_tokens` has run the model.

    Raises:
        UsageError: a pattern that does not compile or takes too long, or targets that match
            nothing.
        ModelError: the model has no linear layer that may be factorized.
    """
    wanted, unwanted = NamePatterns(targets), NamePatterns(ignore)
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    sites: list[Site] = []
    left_out: dict[str, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        weight = dense_weight(module)
        reason = _reason(
            name, weight, shared=owners[id(module.weight)] > 1, targets=wanted, ignore=unwanted
        )
        if reason:
            left_out[name] = reason
            continue
        block = _BLOCK.search(name)
        sites.append(
            Site(
                name=name,
                in_features=weight.shape[1],
                out_features=weight.shape[0],
                tokens=0,
                group=_group(name),
                block=int(block.group(1)) if block else None,
                has_bias=module.bias is not None,
            )
        )
    if not sites and targets:
        raise UsageError(
            f"{option_name('method.targets')} {' '.join(targets)} matches no linear layer of the "
            "model"
        )
    if not sites:
        raise ModelError("the model has no linear layer that may be factorized")
    return Sites(sites=tuple(sites), left_out=left_out)


@dataclass(frozen=True, kw_only=True)
class Received:
    """One call of a site: the rows of its input, and what no other tensor shares with it."""

    rows: int
    identity: tuple[Any, ...]


@torch.no_grad()
def count_tokens(model: nn.Module, sites: Sites, *, inputs: Mapping[str, Tensor]) -> Sites:
    """Run the workload's shape once and note the rows M of every site, and which share an input.

    A layer that does not run, or runs more than once, is left out with that reason: its latency
    would not be that of one layer.

    Raises:
        ModelError: the model computes NaN or infinity.
    """
    calls: dict[str, list[Received]] = {site.name: [] for site in sites.sites}
    held: list[Tensor] = []  # so that no address is used twice

    def noter(name: str) -> object:
        def note(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            tensor = args[0]
            held.append(tensor)
            identity = (tensor.data_ptr(), tensor.shape, tensor._version)
            calls[name].append(Received(rows=rows_of(tensor), identity=identity))

        return note

    handles = [
        model.get_submodule(site.name).register_forward_pre_hook(noter(site.name))  # type: ignore[arg-type]
        for site in sites.sites
    ]
    try:
        outputs = model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    _check_finite(outputs)
    return with_tokens(sites, calls)


def rows_of(tensor: Tensor) -> int:
    """Rows M of a linear layer's input, (…, features)."""
    return tensor.numel() // tensor.shape[-1]


def with_tokens(sites: Sites, calls: Mapping[str, Sequence[Received]]) -> Sites:
    """The sites that one pass called once, with their tokens, and those joint by a shared input."""
    left_out = dict(sites.left_out)
    kept = []
    sharing: dict[tuple[object, ...], list[Site]] = {}
    for site in sites.sites:
        called = calls[site.name]
        if len(called) != 1:
            left_out[site.name] = f"runs {len(called)} times a pass" if called else "does not run"
            continue
        counted = replace(site, tokens=called[0].rows)
        kept.append(counted)
        key = (site.name.rpartition(".")[0], *called[0].identity)
        sharing.setdefault(key, []).append(counted)
    joint = tuple(_together(members) for members in sharing.values() if len(members) > 1)
    return Sites(sites=tuple(kept), left_out=left_out, joint=joint)


def _check_finite(outputs: Any) -> None:
    """Refuse a model that computes NaN or infinity though its weights are finite.

    Raises:
        ModelError: names the output.
    """
    named = outputs if isinstance(outputs, Mapping) else {"its output": outputs}
    for name, value in named.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            bad = int((~torch.isfinite(value)).sum())
            if bad:
                raise ModelError(
                    f"the model computes {bad} NaN or infinite values in {name} for random input; "
                    "check its configuration (such as eps and rope) and the size of its weights"
                )


def _together(members: Sequence[Site]) -> Site:
    """The joint site of one module's sites with one input: `…self_attn.q_proj+k_proj+v_proj`."""
    first = members[0]
    parent = first.name.rpartition(".")[0]
    leaves = [site.name.rpartition(".")[2] for site in members]
    return Site(
        name=f"{parent}.{'+'.join(leaves)}",
        in_features=first.in_features,
        out_features=sum(site.out_features for site in members),
        tokens=first.tokens,
        group=first.group,
        block=first.block,
        has_bias=any(site.has_bias for site in members),
        members=tuple(site.name for site in members),
        parts=tuple(site.out_features for site in members),
    )


def kv_cache_bytes(config: Any, workload: Workload, *, dtype: str) -> int:
    """Bytes of a decoder's key-value cache for the input and output tokens of the workload.

    2 · layers · key-value heads · head size · tokens · bytes of one value in `dtype` ("fp32",
    "fp16" or "bf16"). The ranks of the projections do not matter, because keys and values are
    cached and not their latents.
    """
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", 0) or 0
    layers = getattr(text, "num_hidden_layers", 0) or 0
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    size = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
    tokens = workload.tokens + workload.batch_size * workload.output_length
    return int(2 * layers * kv_heads * size * tokens * DTYPE_BYTES[dtype])
