"""FLAR: the smallest aligned rank that meets a criterion, layer by layer (docs/methods/flar.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from autotune.compress.lowrank import dense_weight
from autotune.core.forms import DENSE, Form, Plan, low_rank
from autotune.core.layers import Site
from autotune.search.allocators.base import Allocator, Question
from autotune.search.problem import Allocation


def smallest_meeting(ranks: list[int], meets: Callable[[int], bool], *, whole_grid: bool) -> Form:
    """The form of the smallest of ascending `ranks` that meets the criterion, dense if none does.

    Bisection assumes that whatever is above a good rank is good; the whole grid assumes nothing.
    """
    if whole_grid:
        return next((low_rank(rank) for rank in ranks if meets(rank)), DENSE)
    low, high = 0, len(ranks)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(ranks[middle]) else (middle + 1, high)
    return low_rank(ranks[low]) if low < len(ranks) else DENSE


class Flar(Allocator):
    """Fast: 1 − cosine of the weights ≤ τ. Precise: MSE of the final features ≤ τ, layer by layer.

    τ is bisected until the budgets hold (the paper fixes it). A layer whose low-rank form the
    latency table calls slower than dense stays dense.
    """

    name = "flar"

    def __init__(
        self, criterion: Literal["fast", "precise"] = "fast", whole_grid: bool = False
    ) -> None:
        self.criterion = criterion
        self.whole_grid = whole_grid
        self._errors: dict[tuple[str, int], float] = {}
        self._curves: dict[str, torch.Tensor] = {}

    def allocate(self, question: Question) -> Allocation:
        """Bisect τ over its whole range, in logarithm."""

        def plan_of(t: float) -> Plan:
            # 1 − cosine and the feature MSE live between 1e-8 and about 1.
            threshold = 10.0 ** (1.0 - 9.0 * t)
            return {
                site.name: self._form(question, site, threshold=threshold)
                for site in question.sites
            }

        return question.largest_fitting(plan_of, solver=self.name)

    def _form(self, question: Question, site: Site, *, threshold: float) -> Form:
        fast = [
            rank
            for rank in question.ranks(site)
            if question.latency_ratio(site, low_rank(rank)) <= 1.0
        ]
        return smallest_meeting(
            fast,
            lambda rank: self.error(question, site, rank=rank) <= threshold,
            whole_grid=self.whole_grid,
        )

    def error(self, question: Question, site: Site, *, rank: int) -> float:
        """The criterion's error of one layer at `rank`, all others dense."""
        if self.criterion == "precise":
            key = (site.name, rank)
            if key not in self._errors:
                self._errors[key] = question.evidence.feature_error({site.name: low_rank(rank)})
            return self._errors[key]
        if site.name not in self._curves:
            self._curves[site.name] = weight_cosines(question, site)
        return 1.0 - float(self._curves[site.name][rank - 1])


def weight_cosines(question: Question, site: Site) -> torch.Tensor:
    """cos(W, Ŵ_r) for every r up to the largest candidate, from one set of nested factors.

    ⟨W, Ŵ_r⟩ sums uᵢᵀ W dᵢ over i ≤ r and ‖Ŵ_r‖² sums (UᵀU)∘(DDᵀ) over i, j ≤ r.
    """
    subject = question.evidence.subject
    weight = dense_weight(subject.model.get_submodule(site.name)).double()
    ranks = question.ranks(site)
    if not ranks:
        return weight.new_zeros(0)
    ((_, (up, down)),) = subject.factors.plan({site: low_rank(ranks[-1])})
    up, down = up.double(), down.double()
    inner = ((weight @ down.T) * up).sum(0).cumsum(0)
    gram = (up.T @ up) * (down @ down.T)
    norms = gram.cumsum(0).cumsum(1).diagonal()
    cosines: torch.Tensor = inner / (norms.clamp_min(1e-300).sqrt() * weight.norm())
    return cosines
