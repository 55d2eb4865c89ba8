"""Which pairs are measured before a plan is made."""

from __future__ import annotations

from autotune.core.forms import DENSE
from autotune.core.layers import LayerShape
from autotune.devices.specs import DeviceSpec
from autotune.predictor.network.model import NetworkModel
from autotune.profiler.measure.points import plan_forms
from autotune.tuning.model import TracedModel


def planned_layers(
    network: NetworkModel, model: TracedModel, *, spec: DeviceSpec, points: int
) -> set[LayerShape]:
    """The dense layer and `points` ranks of every site in all phases, in what `network` prices."""
    found: set[LayerShape] = set()
    for phase in network.phases:
        for site in phase.sites:
            shape = site.shape(DENSE, network.dtype)
            forms = plan_forms(
                spec,
                shape,
                points=points,
                structures=model.structures,
                precisions=[p for p in model.precisions if network.prices_pairs(site, p)],
            )
            found |= {shape, *map(shape.with_form, forms)}
    return found
