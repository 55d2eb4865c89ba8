"""Predicted loss of forms of integers: rank and rounding together, on rows of calibration data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autotune.compress.factors import Factors, build_layers
from autotune.compress.integer_forms import IntegerForms
from autotune.core.forms import Form, low_rank
from autotune.core.layers import Site
from autotune.core.progress import Advance
from autotune.devices.alignment import coarse_grid

# Ranks of a site at which rounding is tried; what it adds changes smoothly between them.
_TRIED = 4


@dataclass(frozen=True, kw_only=True)
class IntegerErrors:
    """Errors of a model's sites as integers, in the units of the metric's own errors.

    error(form) = error of the rank on all calibration data + what rounding adds to it on the
    sampled rows, where weights, inputs and latents are rounded as they will be.
    """

    model: nn.Module
    factors: Factors
    forms: IntegerForms

    def table(
        self, sites: Sequence[Site], forms: Mapping[str, Sequence[Form]], *, progress: Advance
    ) -> dict[str, dict[Form, float]]:
        """The errors of `forms` of each site; all of them of integers."""
        found: dict[str, dict[Form, float]] = {}
        for done, site in enumerate(sites):
            progress(done, len(sites))
            wanted = forms[site.name]
            found[site.name] = {form: self.error(site, form) for form in wanted if form.is_dense}
            for precision in sorted({form.precision for form in wanted}):
                pairs = [f for f in wanted if f.precision == precision and not f.is_dense]
                found[site.name] |= self._pairs(site, pairs)
        progress(len(sites), len(sites))
        return found

    def _pairs(self, site: Site, forms: Sequence[Form]) -> dict[Form, float]:
        if not forms:
            return {}
        errors = self.factors.errors(site)
        if not site.members:
            errors = errors / self._unit(site.name)
        tried = coarse_grid(sorted(forms), _TRIED)
        added = []
        for form in tried:
            native = low_rank(form.rank)
            more = self.error(site, form) - self.error(site, native)
            added.append(math.log(max(more, 1e-12 * float(errors[0]), 1e-300)))
        ranks = np.log([form.rank for form in tried])
        return {
            form: float(errors[form.rank]) + math.exp(np.interp(math.log(form.rank), ranks, added))
            for form in forms
        }

    @torch.no_grad()
    def error(self, site: Site, form: Form) -> float:
        """The metric's error of one form on the sampled rows: mean ‖leftᵀ(ŷ − y)‖²."""
        layers = build_layers(self.model, [site], factors=self.factors, plan={site.name: form})
        x = self.forms.sample(site).rows
        total = 0.0
        for name, layer in layers.items():
            exact = self.model.get_submodule(name)
            wrong = (layer(x) - exact(x)).float()
            left = self.forms.left(name)
            error = float((wrong if left is None else wrong @ left).square().sum()) / len(x)
            total += error / self._unit(name)
        return total

    def _unit(self, name: str) -> float:
        """What errors of a layer are divided by: its own at rank 0, without units of the loss."""
        if self.forms.metric.in_loss_units:
            return 1.0
        site = next(each for each in self.forms.sites if each.name == name)
        return max(float(self.factors.errors(site)[0]), 1e-300)
