"""Layers of integers, made from weights, factors and what calibration saw of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from autotune.compress.integer_layers import (
    IntegerLinear,
    IntegerLowRankLinear,
    LeadingIntegerLowRankLinear,
    SharedIntegerLowRankLinear,
    StaticQuantizer,
)
from autotune.compress.integer_weights import LAYOUTS, WeightLayout
from autotune.compress.lowrank import dense_weight
from autotune.compress.metrics.base import Metric
from autotune.compress.rounding import (
    Feedback,
    InputRounding,
    InputSample,
    RoundedWeight,
    choose_rounding,
    with_feedback,
)
from autotune.compress.statistics import Statistics
from autotune.core.forms import INT8_STATIC, Form, low_rank
from autotune.core.layers import Site

# Of how numbers are rounded: what was made by another version is made anew.
ROUNDING_VERSION = 2
# What the statistics must hold beside those of the metric.
MOMENTS = frozenset({"gram", "sample", "low", "high"})


@dataclass(kw_only=True)
class IntegerForms:
    """Makes layers of integers; what is chosen for an input is chosen once, for all that read it.

    `sites` are the single sites, of which those with one input share its rounding. A search tries
    the same forms again and again, so that layers are kept: they hold a
    byte for each weight, or half of one.
    """

    model: nn.Module
    sites: Sequence[Site]
    metric: Metric
    load_statistics: Callable[[], Statistics]
    _chosen: dict[str, InputRounding] = field(default_factory=dict)
    _feedbacks: dict[tuple[str, bool], Feedback | None] = field(default_factory=dict)
    _made: dict[tuple[str, Form], list[nn.Module]] = field(default_factory=dict)

    @cached_property
    def statistics(self) -> Statistics:
        """Of the calibration data, loaded when first needed."""
        return self.load_statistics()

    def dense(self, name: str, precision: str) -> nn.Module:
        """The dense layer of a single site, given by its name, of integers."""
        key = (name, Form(precision=precision))
        if key not in self._made:
            site = next(each for each in self.sites if each.name == name)
            self._made[key] = [self._dense(site, precision)]
        return self._made[key][0]

    def _dense(self, site: Site, precision: str) -> IntegerLinear:
        module = self.model.get_submodule(site.name)
        weight = dense_weight(module).float()
        rounding = self.input_rounding(site) if precision == INT8_STATIC else None
        made = IntegerLinear(
            weight.shape[1],
            weight.shape[0],
            precision=precision,
            bias=module.bias is not None,
            dtype=weight.dtype,
        )
        layout = LAYOUTS[precision]
        _fill(made, "weight", rounded=self._rounded(site, weight, rounding=rounding, layout=layout))
        _set_rounding(made.input_quantizer, rounding)
        _keep_bias(made, module)
        return made

    def pair(
        self, site: Site, precision: str, *, ups: Sequence[Tensor], down: Tensor
    ) -> list[nn.Module]:
        """The layers of a site or joint site with these factors, ups (N_i, r) and down (r, K).

        The factors of a rank are the same whenever they are asked for.
        """
        key = (site.name, low_rank(len(down), precision=precision))
        if key not in self._made:
            self._made[key] = self._pair(site, precision, ups=ups, down=down)
        return self._made[key]

    def _pair(
        self, site: Site, precision: str, *, ups: Sequence[Tensor], down: Tensor
    ) -> list[nn.Module]:
        ups, down, layout = [each.float() for each in ups], down.float(), LAYOUTS[precision]
        first = None
        latent = None
        if precision == INT8_STATIC:
            first = self.input_rounding(site)
            sample = self.sample(site).through(down)
            lefts = [self.left(name) for name in site.layers]
            latent = choose_rounding(ups, lefts, sample=sample)
            # The basis of the latent is free: what would be divided there is divided in the factor.
            down = down / latent.smoothing[:, None]
            ups = [up * latent.smoothing for up in ups]
            ones = torch.ones_like(latent.smoothing)
            latent = InputRounding(smoothing=ones, scale=latent.scale, zero_point=latent.zero_point)
        rounded_down = self._rounded(site, down, rounding=first, layout=layout)
        feedback = Feedback.of(self._latent_gram(site, down))
        modules = [self.model.get_submodule(name) for name in site.layers]
        layers: list[Any] = []
        for module, up in zip(modules, ups, strict=True):
            options: dict[str, Any] = {"bias": module.bias is not None, "dtype": up.dtype}
            if not layers:
                kind = IntegerLowRankLinear if len(modules) == 1 else LeadingIntegerLowRankLinear
                rank, k = down.shape
                made: Any = kind(k, len(up), rank=rank, precision=precision, **options)
                _fill(made, "weight_down", rounded=rounded_down)
                _set_rounding(made.input_quantizer, first)
                _set_rounding(made.latent_quantizer, latent)
            else:
                made = SharedIntegerLowRankLinear(layers[0], len(up), **options)
            _fill(made, "weight", rounded=with_feedback(up, feedback, layout=layout))
            _keep_bias(made, module)
            layers.append(made)
        return layers

    def input_rounding(self, site: Site) -> InputRounding:
        """The rounding of the input of a site, for all single sites that read it."""
        group = self.group(site)
        if group not in self._chosen:
            readers = [each for each in self.sites if self.group(each) == group]
            weights = [dense_weight(self.model.get_submodule(e.name)).float() for e in readers]
            lefts = [self.left(each.name) for each in readers]
            self._chosen[group] = choose_rounding(weights, lefts, sample=self.sample(site))
        return self._chosen[group]

    def group(self, site: Site) -> str:
        """The input group of a site or joint site."""
        return self.statistics.input_group[site.layers[0]]

    def sample(self, site: Site) -> InputSample:
        """What calibration saw of the input of a site."""
        group, moments = self.group(site), self.statistics.moments
        return InputSample(
            rows=moments[f"sample:{group}"],
            low=moments[f"low:{group}"],
            high=moments[f"high:{group}"],
        )

    def left(self, name: str) -> Tensor | None:
        """The metric's output root of a single site, scaled to its unit."""
        return self._lefts[name]

    @cached_property
    def _lefts(self) -> Mapping[str, Tensor | None]:
        found: dict[str, Tensor | None] = {}
        for site in self.sites:
            whitening = self.metric.whitening(site, self.statistics)
            left = whitening.left
            if left is not None:
                left = (left * whitening.scale**0.5).float()
            found[site.name] = left
        return found

    def _rounded(
        self, site: Site, weight: Tensor, *, rounding: InputRounding | None, layout: WeightLayout
    ) -> RoundedWeight:
        """A weight that reads the input of the site, rounded against the Gram of that input."""
        feedback = self._feedback(self.group(site), rounding)
        smoothed = weight if rounding is None else weight * rounding.smoothing
        return with_feedback(smoothed, feedback, layout=layout)

    def _feedback(self, group: str, rounding: InputRounding | None) -> Feedback | None:
        """That of the input of a group. The last ones are kept: a site is rounded in many forms."""
        key = (group, rounding is None)
        if key not in self._feedbacks:
            gram = self.statistics.moments[f"gram:{group}"]
            if rounding is not None:
                smoothing = rounding.smoothing.double()
                gram = gram / (smoothing[:, None] * smoothing[None])
            kept = {k: v for k, v in self._feedbacks.items() if k[0] == group}
            self._feedbacks = {**kept, key: Feedback.of(gram)}
        return self._feedbacks[key]

    def _latent_gram(self, site: Site, down: Tensor) -> Tensor:
        gram, wide = self.statistics.moments[f"gram:{self.group(site)}"], down.double()
        return wide @ gram @ wide.T


def _fill(layer: Any, name: str, *, rounded: RoundedWeight) -> None:
    """Set the codes and scales of one of a layer's weights."""
    codes = rounded.layout.pack(rounded.codes)
    setattr(layer, name, nn.Parameter(codes, requires_grad=False))
    scale = rounded.scale.float().flatten().contiguous()
    setattr(layer, f"{name}_scale", nn.Parameter(scale, requires_grad=False))


def _set_rounding(quantizer: nn.Module, rounding: InputRounding | None) -> None:
    if rounding is not None and isinstance(quantizer, StaticQuantizer):
        quantizer.scale = torch.tensor(rounding.scale, dtype=torch.float32)
        quantizer.zero_point = torch.tensor(float(rounding.zero_point))
        quantizer.smoothing = rounding.smoothing.float().clone()


def _keep_bias(layer: Any, module: Any) -> None:
    if module.bias is not None:
        layer.bias = nn.Parameter(module.bias.detach())
