"""PGSVD: one relative error ε for every layer, the ranks follow (eq. 7; docs/methods/pgsvd.md)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from autotune.core.errors import BudgetInfeasibleError, UsageError
from autotune.core.forms import Plan
from autotune.core.layers import Site
from autotune.core.patterns import NamePatterns, SearchTime, check_pattern
from autotune.search.allocators.base import Allocator, Question
from autotune.search.evidence import Evidence
from autotune.search.problem import Allocation

_RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)
_MOST_GROUPS = 4  # each multiplies the plans that are tried by the number of ratios


def rank_of_error(sigma: Tensor, epsilon: float) -> int:
    """min{r : √(Σ_{i>r} σ_i²) ≤ ε·√(Σ σ_i²)} (eq. 7), at least 1."""
    tail = torch.cat([sigma.square().flip(0).cumsum(0).flip(0), sigma.new_zeros(1)]).sqrt()
    return max(1, int((tail > epsilon * tail[0]).sum()))


def _group(site: Site, patterns: NamePatterns) -> int:
    """The number of the first pattern that names the site, from 1; 0 where none does."""
    found = patterns.first(site.name)
    return 0 if found is None else found + 1


class Pgsvd(Allocator):
    """Bisect ε until the budgets hold.

    `profile`: whose spectrum gives the error, "weight" (the paper) or "metric" (idea 3, the
    activation error with that metric). `alpha`: weigh layers by their sensitivity, ε_l = ε·α_l^-½
    (idea 2: the stationary point of Σ α_l ε_l² under one price). `groups`: regular expressions of
    layer names, one ε each (the towers of a vision-language model), whose ratios are searched on a
    grid for the least loss of the error table; one text may join several by "+".

    Raises:
        UsageError: more groups than four, or one that is no regular expression.
    """

    name = "pgsvd"

    def __init__(
        self,
        profile: Literal["weight", "metric"] = "weight",
        alpha: bool = False,
        *,
        groups: str | Sequence[str] = (),
    ) -> None:
        self.profile = profile
        self.alpha = alpha
        named = groups.split("+") if isinstance(groups, str) else groups
        self.groups = tuple(pattern for pattern in named if pattern)
        if len(self.groups) > _MOST_GROUPS:
            raise UsageError(f"at most {_MOST_GROUPS} groups, got {len(self.groups)}")
        limit = SearchTime()
        for pattern in self.groups:
            check_pattern(pattern, limit)

    def allocate(self, question: Question) -> Allocation:
        """The best over the groups' ratios; one bisection without groups."""
        weights = self._weights(question.evidence, question.sites)
        patterns = NamePatterns(self.groups)
        groups = [_group(site, patterns) for site in question.sites]
        found: list[Allocation] = []
        failure: BudgetInfeasibleError | None = None
        for ratios in itertools.product(*[_RATIOS] * len(self.groups)):
            try:
                found.append(
                    self._bisect(question, weights=weights, groups=groups, ratios=(1.0, *ratios))
                )
            except BudgetInfeasibleError as error:
                failure = error
        if not found:
            assert failure is not None
            raise failure
        return min(found, key=lambda allocation: allocation.loss)

    def _bisect(
        self,
        question: Question,
        *,
        weights: Mapping[str, float],
        groups: Sequence[int],
        ratios: Sequence[float],
    ) -> Allocation:
        def plan_of(t: float) -> Plan:
            plan = {}
            for site, group in zip(question.sites, groups, strict=True):
                epsilon = (1.0 - t) * weights[site.name] * ratios[group]
                sigma = question.evidence.spectrum(self.profile, site)
                plan[site.name] = question.floor(site, rank_of_error(sigma, min(epsilon, 1.0)))
            return plan

        return question.largest_fitting(plan_of, solver=self.name)

    def _weights(self, evidence: Evidence, sites: Sequence[Site]) -> dict[str, float]:
        if not self.alpha:
            return {site.name: 1.0 for site in sites}
        alphas = {site.name: max(evidence.sensitivity[site.name], 1e-12) for site in sites}
        mean = sum(alphas.values()) / len(alphas)
        return {name: (mean / value) ** 0.5 for name, value in alphas.items()}
