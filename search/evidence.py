"""What allocators may learn about a model besides losses of plans; each answer is computed once."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotune.compress.lowrank import dense_weight
from autotune.core.forms import Plan
from autotune.core.layers import Site
from autotune.search.losses import PlanLosses, SearchSubject


class Evidence:
    """Spectra, features and sensitivities of the model that `losses` judges plans of.

    `folder` is where a long training may keep its state, under a name that depends on `key` (what
    the model and its factors were made from).
    """

    def __init__(
        self,
        losses: PlanLosses,
        *,
        seed: int = 0,
        folder: Path | None = None,
        key: str = "",
    ) -> None:
        self.losses = losses
        self.seed = seed
        self.folder = folder
        self.key = key
        self._spectra: dict[tuple[str, str], Tensor] = {}

    @property
    def subject(self) -> SearchSubject:
        """The model, its sites, their factors and the search batches."""
        return self.losses.subject

    def spectrum(self, kind: str, site: Site) -> Tensor:
        """Singular values, descending, fp64: of the `weight` itself or in the `metric`."""
        key = (kind, site.name)
        if key not in self._spectra:
            if kind == "weight":
                weight = dense_weight(self.subject.model.get_submodule(site.name)).double()
                self._spectra[key] = torch.linalg.svdvals(weight)
            else:
                errors = self.subject.factors.errors(site)
                self._spectra[key] = (errors[:-1] - errors[1:]).clamp_min(0).sqrt()
        return self._spectra[key]

    @torch.no_grad()
    def features(self) -> list[Tensor]:
        """The model's final hidden states on the search batches, under the plan now applied."""
        found: list[Tensor] = []
        model, task = self.subject.model, self.subject.task
        base = getattr(model, "base_model", model)
        handle = base.register_forward_hook(lambda _m, _a, out: found.append(_first(out).detach()))
        try:
            for batch in self.subject.batches:
                task.output(model, batch)
        finally:
            handle.remove()
        return found

    @functools.cached_property
    def _dense_features(self) -> list[Tensor]:
        return self.features()

    def feature_error(self, plan: Plan) -> float:
        """Mean squared error of the final hidden states / their mean square."""
        dense = self._dense_features
        with self.subject.applied(plan):
            ours = self.features()
        wrong = sum(
            float((a - b).double().square().sum()) for a, b in zip(ours, dense, strict=True)
        )
        return wrong / max(sum(float(b.double().square().sum()) for b in dense), 1e-300)

    @functools.cached_property
    def sensitivity(self) -> dict[str, float]:
        """‖∇θ‖_F / ‖θ‖_F of every site's weight, ∇ of the task's curvature signal."""
        model = self.subject.model
        modules: dict[str, Any] = {s.name: model.get_submodule(s.name) for s in self.subject.sites}
        weights: dict[str, nn.Parameter] = {n: m.weight for n, m in modules.items()}
        with _gradients_of(weights.values()):
            self._add_gradients()
            return {
                name: float(weight.grad.double().norm() / weight.detach().double().norm())
                for name, weight in weights.items()
                if weight.grad is not None
            }

    def _add_gradients(self) -> None:
        """Backpropagate one curvature signal of every search batch."""
        model, task = self.subject.model, self.subject.task
        generator = torch.Generator().manual_seed(self.seed)
        for batch in self.subject.batches:
            with torch.enable_grad():
                output = task.output(model, batch)
                signals = list(task.curvature_signals(output, batch, generator=generator))
                signals[0].backward()

    @functools.cached_property
    def block_ranks(self) -> dict[int, int]:
        """Effective rank of every block's output: first k with Σσ_{≤k} / Σσ ≥ 0.95."""
        grams: dict[int, Tensor] = {}

        def hook(block: int) -> Callable[[nn.Module, Any, Any], None]:
            def add(_module: nn.Module, _args: Any, output: Any) -> None:
                rows = _first(output).detach().double().flatten(0, -2)
                grams[block] = grams.get(block, 0) + rows.T @ rows

            return add

        handles = [
            self.subject.model.get_submodule(name).register_forward_hook(hook(block))
            for block, name in block_modules(self.subject.sites).items()
        ]
        try:
            with torch.no_grad():
                for batch in self.subject.batches:
                    self.subject.task.output(self.subject.model, batch)
        finally:
            for handle in handles:
                handle.remove()
        return {block: _effective_rank(gram) for block, gram in grams.items()}


@contextmanager
def _gradients_of(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """`weights` collect gradients, from none; afterwards they are as they were before."""
    before = [(weight, weight.requires_grad) for weight in weights]
    try:
        for weight, _ in before:
            weight.requires_grad_(True)
            weight.grad = None
        yield
    finally:
        for weight, required in before:
            weight.requires_grad_(required)
            weight.grad = None


def _first(output: Any) -> Tensor:
    """Hidden states from whatever a module returned."""
    if isinstance(output, Tensor):
        return output
    first: Tensor = output[0]
    return first


def _effective_rank(gram: Tensor, share: float = 0.95) -> int:
    sigma = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(0)
    reached = sigma.cumsum(0) / sigma.sum().clamp_min(1e-300)
    return int((reached < share).sum()) + 1


def block_modules(sites: Sequence[Site]) -> dict[int, str]:
    """The module name of every transformer block that holds sites."""
    found: dict[int, str] = {}
    for site in sites:
        if site.block is not None:
            match = re.search(rf"\.{site.block}(?=\.)", site.name)
            assert match is not None
            found.setdefault(site.block, site.name[: match.end()])
    return found
