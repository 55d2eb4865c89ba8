"""Save factorized models, and load them to be timed.

`model/` holds config, safetensors weights, tokenizer and the code that loads it where this package
is not installed (remote_code.py).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from autotune.compress.attention_masks import drop_attention_masks
from autotune.compress.decode import PAST, decode_step, step_positions
from autotune.compress.integer_layers import IntegerLinear
from autotune.compress.loading import load_class
from autotune.compress.lowrank import LowRankLinear, SharedLowRankLinear, replace_modules
from autotune.compress.plugin import LowRankConfig, LowRankQuantizer
from autotune.compress.positions import POSITIONS
from autotune.compress.remote_code import AUTO_MAP_FILE, auto_classes, remote_code
from autotune.compress.storage import StoredLowRank
from autotune.compress.tasks.base import MASK
from autotune.core.errors import ModelError
from autotune.devices.specs import TORCH_NAMES


def low_rank_layers(model: nn.Module) -> dict[str, LowRankLinear]:
    """The factorized layers of a model, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LowRankLinear)}


def compressed_layers(model: nn.Module) -> dict[str, LowRankLinear | IntegerLinear]:
    """The layers of a model that are factorized or of integers, by name."""
    kinds = (LowRankLinear, IntegerLinear)
    return {n: m for n, m in model.named_modules() if isinstance(m, kinds)}


def save_checkpoint(
    model: Any,
    tokenizer: Any | None,
    *,
    folder: Path,
    storage: str = "fp32",
    dtype: str = "fp32",
    max_shard_size: str | int = "50GB",
) -> None:
    """Write config, safetensors weights in `dtype`, tokenizer and the code that loads them.

    Factors are packed as `storage` says; fp32 leaves them in `dtype` too.

    Raises:
        ModelError: a factor of the dense weight's shape, which a reader without the plug-in would
            take for it.
    """
    found = low_rank_layers(model)
    layers = _entries(compressed_layers(model))
    before = copy.copy(model.config)
    computing: dict[str, nn.Module] = {}
    try:
        if storage != "fp32":
            stored = {name: StoredLowRank.of(layer, storage) for name, layer in found.items()}
            computing = replace_modules(model, stored)
            for entry in layers.values():
                entry["storage"] = storage
        if layers:
            model.config.quantization_config = LowRankConfig(layers)
            model.config.auto_map = auto_classes(type(model.config))
            model.hf_quantizer = LowRankQuantizer(model.config.quantization_config)
        kind = getattr(torch, TORCH_NAMES[dtype])
        weights = None
        if kind != model.dtype:
            weights = _cast(model, kind)
            if layers:
                model.hf_quantizer.weights = weights
        # Tensors under the names that the modules have: transformers renames older names of its own
        # classes when it loads, and not those of a checkpoint's code.
        model.save_pretrained(
            folder, state_dict=weights, max_shard_size=max_shard_size, save_original_format=False
        )
        if kind != model.dtype:
            _name_dtype(folder, kind)
        if layers:
            (folder / AUTO_MAP_FILE).write_text(remote_code(type(before)))
    finally:
        replace_modules(model, computing)
        model.config = before
        model.hf_quantizer = None
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _entries(
    layers: Mapping[str, LowRankLinear | IntegerLinear],
) -> dict[str, dict[str, Any]]:
    """The entry of every layer in config.json."""
    names = {id(layer): name for name, layer in layers.items()}
    entries: dict[str, dict[str, Any]] = {}
    for name, layer in layers.items():
        rank = layer.form.rank
        if rank >= layer.in_features:
            raise ModelError(
                f"{name} has rank {rank}, no less than its {layer.in_features} inputs: the "
                "factor could be taken for the dense weight; leave it dense"
            )
        entries[name] = {
            "rank": rank,
            "form": str(layer.form),
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
        }
        if isinstance(layer, SharedLowRankLinear):
            entries[name]["leader"] = names[id(layer.leader)]
    return entries


def _cast(model: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The model's tensors, those that it computes with in `dtype`; packed factors stay packed."""
    own = next(model.parameters()).dtype
    return {k: t.to(dtype) if t.dtype == own else t for k, t in model.state_dict().items()}


def _name_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Say in config.json what the weights are in: transformers names what it computes in here."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True)
class TimedCheckpoint:
    """A loaded checkpoint and its inputs, for the torch backends: `run()` is one pass."""

    model: Any
    inputs: Mapping[str, torch.Tensor]

    def run(self) -> Any:
        """The output of one pass, or of one decode step where past keys are given."""
        if any(name.startswith(PAST) for name in self.inputs):
            return decode_step(self.model, self.inputs)
        return self.model(**self.inputs)


def load_for_timing(folder: Path, inputs: Path, *, device: str) -> TimedCheckpoint:
    """Open a checkpoint folder and a file of inputs (task and dtype are in `task.json` there)."""
    facts = json.loads((folder / "task.json").read_text())
    dtype = getattr(torch, TORCH_NAMES[facts["dtype"]])
    model = load_class(facts["task"], folder, dtype=dtype).to(device)
    feeds = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None)
        for name, tensor in load_file(inputs).items()
    }
    checkpoint = TimedCheckpoint(model, _without_mask(feeds))
    drop_attention_masks(model, checkpoint.run)
    return checkpoint


def _without_mask(feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same inputs without a mask that hides nothing.

    Transformers looks at its values in every pass to find that out, which no CUDA graph can.
    """
    mask = feeds.get(MASK)
    if mask is None or not mask.all():
        return feeds
    rest = {name: tensor for name, tensor in feeds.items() if name != MASK}
    if any(name.startswith(PAST) for name in rest):
        rest[POSITIONS] = step_positions(mask, rest["input_ids"])
    return rest
