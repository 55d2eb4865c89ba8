"""Save and load factorized models through transformers' quantization plug-in `lowrank`.

`config.json` lists every factorized layer with its rank and dense shape; importing this module
registers the plug-in, after which `AutoModel….from_pretrained` loads such a folder.
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
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from autotune.compress.decode import PAST, POSITIONS, decode_step, step_positions
from autotune.compress.loading import load_class
from autotune.compress.lowrank import (
    LeadingLowRankLinear,
    LowRankLinear,
    SharedLowRankLinear,
    dense_weight,
    replace_modules,
)
from autotune.compress.precision import STORAGES
from autotune.compress.storage import StoredLowRank
from autotune.compress.tasks.base import MASK
from autotune.devices.specs import TORCH_NAMES
from autotune.errors import ModelError

FORMAT_VERSION = 1
METHOD = "lowrank"


@register_quantization_config(METHOD)
class LowRankConfig(QuantizationConfigMixin):
    """`layers`: module name → {rank, in_features, out_features, bias}.

    Where they apply, also storage (fp32 if absent) and leader (whose down factor it shares).
    """

    def __init__(
        self, layers: Mapping[str, Mapping[str, Any]], format_version: int = FORMAT_VERSION,
        quant_method: str = METHOD, **unknown: object,
    ) -> None:  # fmt: skip
        if unknown:
            raise ModelError(f"lowrank config: unknown key {sorted(unknown)[0]!r}")
        if not isinstance(format_version, int) or format_version > FORMAT_VERSION:
            raise ModelError(
                f"the checkpoint has lowrank format {format_version!r}, this program knows up to "
                f"{FORMAT_VERSION}; upgrade lowrank-autotune"
            )
        self.quant_method = quant_method  # type: ignore[assignment]
        self.format_version = format_version
        self.layers = {name: dict(layer) for name, layer in layers.items()}


@register_quantizer(METHOD)
class LowRankQuantizer(HfQuantizer):
    """Puts empty low-rank layers where the config says, for transformers to fill."""

    requires_calibration = False
    quantization_config: LowRankConfig

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> None:
        layers = self.quantization_config.layers
        leaders = {layer["leader"] for layer in layers.values() if "leader" in layer}
        empty: dict[str, nn.Module] = {}
        # Leaders first: their followers refer to them.
        for name in sorted(layers, key=lambda name: "leader" in layers[name]):
            layer = layers[name]
            try:
                module = model.get_submodule(name)
            except AttributeError as error:
                raise ModelError(f"lowrank config names {name!r}, which the model lacks") from error
            n, k = dense_weight(module).shape
            if (layer["in_features"], layer["out_features"]) != (k, n):
                raise ModelError(
                    f"lowrank config says {name} is {layer['in_features']}x"
                    f"{layer['out_features']}, the model says {k}x{n}"
                )
            empty[name] = _empty(layer, module, empty, leads=name in leaders)
        replace_modules(model, empty)

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:
        for name, module in list(model.named_modules()):
            if isinstance(module, StoredLowRank):
                replace_modules(model, {name: module.widen(model.dtype)})  # type: ignore[arg-type]
        # What is in memory is whole precision again, and so it would be saved.
        for layer in self.quantization_config.layers.values():
            layer.pop("storage", None)
        return model

    # What to save instead of the model's own tensors (transformers asks a quantizer first).
    weights: dict[str, torch.Tensor] | None = None

    def get_state_dict_and_metadata(self, model: nn.Module) -> Any:
        """The tensors to save, and nothing to note beside them."""
        return self.weights, {}

    def is_serializable(self) -> bool:
        """Saved again as it is."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Both factors are ordinary parameters."""
        return True


def _empty(
    layer: Mapping[str, Any], module: Any, others: Mapping[str, nn.Module], *, leads: bool
) -> nn.Module:
    """The module of a config entry, on meta, for the loader to fill."""
    k, n, rank = layer["in_features"], layer["out_features"], layer["rank"]
    bias, dtype = module.bias is not None, module.weight.dtype
    storage = layer.get("storage", "fp32")
    if storage not in STORAGES:
        raise ModelError(f"unknown storage {storage!r} in lowrank config; upgrade lowrank-autotune")
    if "leader" in layer:
        leader = others.get(layer["leader"])
        if not isinstance(leader, LeadingLowRankLinear) or leader.rank != rank:
            raise ModelError(f"lowrank config: no leader {layer['leader']!r} of rank {rank}")
        return SharedLowRankLinear(leader, n, bias, "meta", dtype)
    if leads:
        return LeadingLowRankLinear(k, n, rank, bias, "meta", dtype)
    if storage == "fp32":
        return LowRankLinear(k, n, rank, bias, "meta", dtype)
    return StoredLowRank(storage, k, n, rank, bias, dtype)


def low_rank_layers(model: nn.Module) -> dict[str, LowRankLinear]:
    """The factorized layers of a model, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LowRankLinear)}


def save_checkpoint(
    model: Any, tokenizer: Any | None, folder: Path, storage: str = "fp32", dtype: str = "fp32"
) -> None:
    """Write config, safetensors weights in `dtype` and tokenizer to `folder`.

    Factors are packed as `storage` says; fp32 leaves them in `dtype` too.
    """
    found = low_rank_layers(model)
    names = {id(layer): name for name, layer in found.items()}
    layers: dict[str, dict[str, Any]] = {}
    for name, layer in found.items():
        layers[name] = {
            "rank": layer.rank,
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
        }
        if isinstance(layer, SharedLowRankLinear):
            layers[name]["leader"] = names[id(layer.leader)]
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
            model.hf_quantizer = LowRankQuantizer(model.config.quantization_config)
        kind = getattr(torch, TORCH_NAMES[dtype])
        if kind == model.dtype:
            model.save_pretrained(folder)
        else:
            weights = _cast(model, kind)
            if layers:
                model.hf_quantizer.weights = weights
            model.save_pretrained(folder, state_dict=weights)
            _name_dtype(folder, kind)
    finally:
        replace_modules(model, computing)
        model.config = before
        model.hf_quantizer = None
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


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

    def run(self) -> None:
        """One pass, or one decode step where past keys are given; the output is dropped."""
        if any(name.startswith(PAST) for name in self.inputs):
            decode_step(self.model, self.inputs)
        else:
            self.model(**self.inputs)


def load_for_timing(folder: Path, inputs: Path, device: str) -> TimedCheckpoint:
    """Open a checkpoint folder and a file of inputs (task and dtype are in `task.json` there)."""
    facts = json.loads((folder / "task.json").read_text())
    dtype = getattr(torch, TORCH_NAMES[facts["dtype"]])
    model = load_class(facts["task"], folder, dtype).to(device)
    feeds = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None)
        for name, tensor in load_file(inputs).items()
    }
    return TimedCheckpoint(model, _without_mask(feeds))


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
