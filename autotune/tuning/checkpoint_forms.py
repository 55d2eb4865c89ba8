"""Whether the layers of a checkpoint have the forms that a result names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from autotune.compress.integer_layers import IntegerLinear
from autotune.compress.lowrank import LowRankLinear, dense_weight
from autotune.compress.precisions import make_precision
from autotune.core.forms import DENSE, NATIVE, Form
from autotune.devices.specs import TORCH_NAMES
from autotune.results.checks import Finding, FormFacts
from autotune.results.record import TuneRecord

if TYPE_CHECKING:
    from torch import Tensor, nn

# Rounding steps of the dtype by which a weight may differ from its own rounding.
_STEPS = 4


def compare_forms(model: nn.Module, record: TuneRecord) -> Finding:
    """Compare the form of every layer with the plan: rank, structure and precision.

    Raises:
        UsageError: the plan names a precision that is not known here.
    """
    expected = {name: site.form for site in record.changed for name in site.layers}
    found = checkpoint_forms(model, expected, dtype=record.dtype)
    for name in sorted({*expected, *found}):
        wanted, has = expected.get(name, DENSE), found.get(name, DENSE)
        if wanted != has:
            return Finding(
                reason=f"the forms in the checkpoint differ from the plan of the result: the first "
                f"is {name}, which is {has} and should be {wanted}"
            )
    return Finding(facts=FormFacts(layers=len(found)))


def checkpoint_forms(
    model: nn.Module, expected: Mapping[str, Form], *, dtype: str
) -> dict[str, Form]:
    """The form of every layer that is factorized, or expected to be changed, by name.

    Layers of integers are of their own kind. Other precisions are rounded weights in the model's
    dtype, and the checkpoint does not name them: a layer has the expected one if its weights are
    their own rounding, else the native one.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LowRankLinear | IntegerLinear) or name in expected
    }
    found = {}
    for name, module in layers.items():
        form = module.form if isinstance(module, LowRankLinear | IntegerLinear) else DENSE
        wanted = expected.get(name, DENSE).precision
        if NATIVE == form.precision != wanted and _is_rounded(
            _weights(module), wanted, dtype=dtype
        ):
            form = Form(rank=form.rank, structure=form.structure, precision=wanted)
        found[name] = form
    return found


def _weights(module: nn.Module) -> list[Tensor]:
    if isinstance(module, LowRankLinear):
        return [module.weight.detach(), module.weight_down.detach()]
    return [dense_weight(module)]


def _is_rounded(weights: Iterable[Tensor], precision: str, *, dtype: str) -> bool:
    """Whether rounding to the precision leaves the weights as they are, up to the last digits."""
    rounded = make_precision(precision).rounded
    kind = torch.finfo(getattr(torch, TORCH_NAMES[dtype]))
    rtol, atol = _STEPS * kind.eps, _STEPS * kind.eps * kind.smallest_normal
    return all(torch.allclose(rounded(one), one, rtol=rtol, atol=atol) for one in weights)
