"""transformers' quantization plug-in `lowrank`, which loads factorized models.

`config.json` lists every factorized layer with its rank and dense shape. This module and those it
imports of ours are also joined to the code that travels in a checkpoint (remote_code.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from autotune.compress.integer_layers import (
    QUANTIZERS,
    IntegerLinear,
    IntegerLowRankLinear,
    LeadingIntegerLowRankLinear,
    SharedIntegerLowRankLinear,
)
from autotune.compress.lowrank import (
    LeadingLowRankLinear,
    LowRankLinear,
    SharedLowRankLinear,
    dense_weight,
    replace_modules,
)
from autotune.compress.pivoted_layers import (
    LeadingPivotedLinear,
    PivotedInLinear,
    PivotedOutLinear,
    narrow_side,
)
from autotune.compress.storage import StoredLowRank
from autotune.compress.storage_layouts import STORAGES
from autotune.core.errors import ModelError, UsageError
from autotune.core.forms import NATIVE, PIVOTED, PLAIN, Form, parse_form

FORMAT_VERSION = 1
METHOD = "lowrank"
_SIZES = ("rank", "in_features", "out_features")
# Scales of integers stay in fp32 when a model is loaded in half precision.
_FP32 = frozenset({"weight_scale", "weight_down_scale", "input_quantizer", "latent_quantizer"})


class LowRankConfig(QuantizationConfigMixin):
    """`layers`: module name → {rank, form, in_features, out_features, bias}.

    Where they apply, also storage (fp32 if absent) and leader (whose down factor it shares).
    Checkpoints from before there were forms have none: their layers are plain pairs of the rank.
    """

    def __init__(
        self,
        layers: Mapping[str, Mapping[str, Any]],
        format_version: int = FORMAT_VERSION,
        *,
        quant_method: str = METHOD,
        **unknown: object,
    ) -> None:
        if unknown:
            raise ModelError(f"lowrank config: unknown key {sorted(unknown)[0]!r}")
        if not isinstance(format_version, int) or format_version > FORMAT_VERSION:
            raise ModelError(
                f"the checkpoint has lowrank format {format_version!r}, this program knows up to "
                f"{FORMAT_VERSION}; upgrade lowrank-autotune"
            )
        for name, layer in layers.items():
            wrong = [key for key in _SIZES if not isinstance(layer.get(key), int)]
            if wrong:
                raise ModelError(f"lowrank config: {name} needs a whole number as {wrong[0]!r}")
            _check_form(name, layer)
        self.quant_method = quant_method  # type: ignore[assignment]
        self.format_version = format_version
        self.layers = {name: dict(layer) for name, layer in layers.items()}


def _check_form(name: str, layer: Mapping[str, Any]) -> None:
    rank = layer["rank"]
    form = layer.get("form", f"rank={rank}")
    try:
        parsed = parse_form(form)
        native = parsed.precision == NATIVE and not parsed.is_dense
        rounded = parsed.precision in QUANTIZERS and parsed.structure == PLAIN
        known = parsed.rank == rank and (native or rounded)
    except (UsageError, AttributeError):
        known = False
    if not known:
        raise ModelError(
            f"lowrank config: {name} has rank {rank} and the form {form!r}; this program loads "
            f"pairs of the same rank in native precision, and layers in {' or '.join(QUANTIZERS)}; "
            "upgrade lowrank-autotune"
        )


class LowRankQuantizer(HfQuantizer):
    """Puts empty low-rank layers where the config says, for transformers to fill."""

    requires_calibration = False
    quantization_config: LowRankConfig
    # Of the parameters of ours, as the config has them.
    _shapes: Mapping[str, tuple[int, ...]] = {}

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> None:
        layers = _named_in(model, self.quantization_config.layers)
        self.quantization_config.layers = layers
        leaders = {layer["leader"] for layer in layers.values() if "leader" in layer}
        empty: dict[str, nn.Module] = {}
        # Leaders first: their followers refer to them.
        for name in sorted(layers, key=lambda name: "leader" in layers[name]):
            layer, module = layers[name], model.get_submodule(name)
            n, k = dense_weight(module).shape
            if (layer["in_features"], layer["out_features"]) != (k, n):
                raise ModelError(
                    f"{name} is {layer['in_features']}x{layer['out_features']} in the low-rank "
                    f"configuration and {k}x{n} in the model"
                )
            empty[name] = _empty(layer, module, others=empty, leads=name in leaders)
        self._shapes = {
            f"{name}.{part}": tuple(tensor.shape)
            for name, module in empty.items()
            for part, tensor in module.named_parameters()
        }
        replace_modules(model, empty)
        strict: Any = getattr(model, "_keep_in_fp32_modules_strict", None)
        model._keep_in_fp32_modules_strict = {*(strict or ()), *_FP32}  # type: ignore[assignment]

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:
        for name, shape in self._shapes.items():
            # Not every version of transformers compares shapes where there is a quantizer.
            found = tuple(model.get_parameter(name).shape)
            if found != shape:
                raise ModelError(
                    f"size mismatch for {name}: {found} stored, {shape} in the configuration"
                )
        for name, module in list(model.named_modules()):
            if isinstance(module, PivotedInLinear | PivotedOutLinear):
                _check_order(name, module)
            if isinstance(module, StoredLowRank):
                replace_modules(model, {name: module.widen(model.dtype)})  # type: ignore[arg-type]
        # What is in memory is whole precision again, and so it would be saved.
        for layer in self.quantization_config.layers.values():
            layer.pop("storage", None)
        # A class of transformers' own does not save the code that the map would point to.
        if getattr(model, "_auto_class", None) is None and hasattr(model.config, "auto_map"):
            del model.config.auto_map
        return model

    # What to save instead of the model's own tensors (transformers asks a quantizer first).
    weights: dict[str, torch.Tensor] | None = None

    def get_state_dict_and_metadata(self, model: nn.Module) -> Any:
        """The tensors to save, and nothing to note beside them."""
        return self.weights, {}

    def is_serializable(self) -> bool:
        """A loaded model may be saved again, as it is."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Factors are ordinary parameters, so training works; integers have no gradient."""
        layers = self.quantization_config.layers.values()
        return not any(_form_of(layer).precision != NATIVE for layer in layers)


def _form_of(layer: Mapping[str, Any]) -> Form:
    """The form of a config entry; checkpoints from before there were forms name the rank alone."""
    return parse_form(layer.get("form", f"rank={layer['rank']}"))


def _check_order(name: str, layer: PivotedInLinear | PivotedOutLinear) -> None:
    """Refuse what would select inputs or outputs that the layer does not have."""
    for key, order in layer.named_buffers():
        whole = torch.arange(len(order), device=order.device)
        if not torch.equal(order.sort().values, whole):
            raise ModelError(f"{name}.{key} of the checkpoint is no order of {len(order)} features")


def _named_in(model: Any, layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The entries under the names that the layers have in this model.

    A body without its head, or a head on a body, names them without or with the body's name. Heads
    that the class does not have are left out.

    Raises:
        ModelError: the class that was saved has no such layer.
    """
    prefix = f"{model.base_model_prefix}."
    present = {name for name, _ in model.named_modules()}

    def local(name: str) -> str | None:
        names = (name, name.removeprefix(prefix), prefix + name)
        return next((one for one in names if one in present), None)

    found: dict[str, dict[str, Any]] = {}
    for name, layer in layers.items():
        own = local(name)
        if own is None:
            if type(model).__name__ in (model.config.architectures or [type(model).__name__]):
                raise ModelError(f"lowrank config names {name!r}, which the model lacks")
            continue
        found[own] = dict(layer)
        if "leader" in layer:
            found[own]["leader"] = local(layer["leader"]) or layer["leader"]
    return found


def _empty(
    layer: Mapping[str, Any], module: Any, *, others: Mapping[str, nn.Module], leads: bool
) -> nn.Module:
    """The module of a config entry, on meta, for the loader to fill."""
    k, n, rank = layer["in_features"], layer["out_features"], layer["rank"]
    bias, dtype = module.bias is not None, module.weight.dtype
    options: dict[str, Any] = {"bias": bias, "device": "meta", "dtype": dtype}
    storage, form = layer.get("storage", "fp32"), _form_of(layer)
    pivoted, rounded = form.structure == PIVOTED, form.precision != NATIVE
    if storage not in STORAGES:
        raise ModelError(f"unknown storage {storage!r} in lowrank config; upgrade lowrank-autotune")
    if "leader" in layer:
        leader = others.get(layer["leader"])
        if not isinstance(leader, LeadingLowRankLinear) or leader.rank != rank:
            raise ModelError(f"lowrank config: no leader {layer['leader']!r} of rank {rank}")
        follower = SharedIntegerLowRankLinear if rounded else SharedLowRankLinear
        return follower(leader, n, **options)
    if rounded:
        options["precision"] = form.precision
        if form.is_dense:
            return IntegerLinear(k, n, **options)
        pair = LeadingIntegerLowRankLinear if leads else IntegerLowRankLinear
        return pair(k, n, rank=rank, **options)
    if leads:
        leading = LeadingPivotedLinear if pivoted else LeadingLowRankLinear
        return leading(k, n, rank=rank, **options)
    if storage == "fp32":
        alone = narrow_side(k, n) if pivoted else LowRankLinear
        return alone(k, n, rank=rank, **options)
    return StoredLowRank(storage, in_features=k, out_features=n, rank=rank, bias=bias, dtype=dtype)


def register() -> None:
    """Tell transformers of the plug-in; this package's own goes before a checkpoint's copy."""
    if METHOD in AUTO_QUANTIZER_MAPPING and not __name__.startswith("autotune."):
        return
    AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = LowRankConfig
    AUTO_QUANTIZER_MAPPING[METHOD] = LowRankQuantizer


register()
