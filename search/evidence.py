"""What allocators may learn about a model; each answer is computed once."""

from __future__ import annotations

import functools
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotune.compress.factors import Factors, build_layers
from autotune.compress.lowrank import dense_weight, replaced
from autotune.compress.tasks.base import Batch, Task
from autotune.core.types import Site, digest
from autotune.search.judges import JudgePool, Losses, Ranks

Progress = Callable[[int, int], None]


class Evidence:
    """A model with its factors, and the batches that allocation may look at (never held-out).

    `folder` is where a long training may keep its state, under a name that depends on `key` (what
    the model and its factors were made from).
    """

    def __init__(
        self, model: nn.Module, task: Task, sites: Sequence[Site], factors: Factors,
        batches: Sequence[Batch], seed: int = 0, folder: Path | None = None, key: str = "",
        joint: Sequence[Site] = (), evaluators: JudgePool | None = None,
        progress: Progress = lambda done, total: None,
    ) -> None:  # fmt: skip
        self.model = model
        self.task = task
        self.sites = tuple(sites)
        self.joint = tuple(joint)
        self.factors = factors
        self.batches = tuple(batches)
        self.seed = seed
        self.folder = folder
        self.key = key
        self.evaluators = evaluators
        self.progress = progress
        self._losses = self._recall()
        self._alone = threading.Lock()
        self._spectra: dict[tuple[str, str], Tensor] = {}

    @property
    def units(self) -> tuple[Site, ...]:
        """Layers, and joint sites that a plan may factorize together."""
        return (*self.sites, *self.joint)

    @contextmanager
    def applied(self, ranks: Ranks) -> Iterator[None]:
        """The model with `ranks` factorized, dense again afterwards."""
        with replaced(self.model, build_layers(self.model, self.units, self.factors, ranks)):
            yield

    @functools.cached_property
    def _references(self) -> list[Tensor | None]:
        return self.task.references(self.model, self.batches)

    def true_loss(self, ranks: Ranks) -> float:
        """Mean loss of the compressed model on the search batches; kept in `folder` as it comes."""
        sums, counts = zip(*self.losses(ranks), strict=True)
        return float(sum(sums) / max(sum(counts), 1))

    def losses(self, ranks: Ranks) -> Losses:
        """(sum, count) of every search batch."""
        plan = _name(ranks)
        if plan not in self._losses:
            self.judge([ranks])
        return self._losses[plan]

    @property
    def places(self) -> int:
        """How many plans can be judged at the same time."""
        return max(1, self.evaluators.places) if self.evaluators else 1

    def judge(
        self, plans: Sequence[Ranks], progress: Progress = lambda done, total: None, least: int = 2
    ) -> None:
        """Find the losses of all `plans`, by the evaluators where there are any.

        Fewer than `least` are judged here, with all threads.
        """
        missing = {plan: r for r in plans if (plan := _name(r)) not in self._losses}
        names, total = list(missing), len(missing)
        done = 0
        progress(done, total)
        if self.evaluators is not None and total >= least:
            for index, losses in self.evaluators.losses(list(missing.values())):
                self._note(names[index], losses)
                done += 1
                progress(done, total)
        for name, ranks in missing.items():
            if name not in self._losses:
                self._note(name, self._judge_here(ranks))
                done += 1
                progress(done, total)

    def _judge_here(self, ranks: Ranks) -> Losses:
        with self._alone:  # the model is another one while a plan is applied
            references = self._references
            with self.applied(ranks):
                found = self.task.losses(self.model, self.batches, references)
        return [list(pair) for pair in found]

    def surely_better(self, ranks: Ranks, other: Ranks) -> bool:
        """Whether the loss is lower by more than the standard error of the batches' differences.

        A search that takes the least of many noisy losses otherwise takes its luck along.
        """
        pairs = np.array(self.losses(ranks)), np.array(self.losses(other))
        weights = pairs[0][:, 1] / pairs[0][:, 1].sum()
        gains = (pairs[1][:, 0] - pairs[0][:, 0]) / np.maximum(pairs[0][:, 1], 1)
        gain = float(weights @ gains)
        spread = float(np.sqrt(weights**2 @ (gains - gain) ** 2))
        n = len(gains)
        return gain > spread * math.sqrt(n / max(n - 1, 1))

    def _note(self, plan: str, losses: Losses) -> None:
        self._losses[plan] = losses
        if self._journal:
            # The line break in front ends a line that a kill has torn.
            with self._journal.open("a") as file:
                file.write("\n" + json.dumps({"plan": plan, "losses": losses}) + "\n")

    @property
    def _journal(self) -> Path | None:
        return self.folder / f"losses-{self.key[:16]}.jsonl" if self.folder else None

    def _recall(self) -> dict[str, Losses]:
        """What an earlier run evaluated; a line torn by a kill is evaluated again."""
        found: dict[str, Losses] = {}
        if self._journal and self._journal.is_file():
            for line in self._journal.read_text().splitlines():
                try:
                    entry = json.loads(line)
                    found[entry["plan"]] = [[float(s), int(n)] for s, n in entry["losses"]]
                except (ValueError, KeyError, TypeError):
                    continue
        return found

    def spectrum(self, kind: str, site: Site) -> Tensor:
        """Singular values, descending, fp64: of the `weight` itself or in the `metric`."""
        key = (kind, site.name)
        if key not in self._spectra:
            if kind == "weight":
                weight = dense_weight(self.model.get_submodule(site.name)).double()
                self._spectra[key] = torch.linalg.svdvals(weight)
            else:
                errors = self.factors.errors(site)
                self._spectra[key] = (errors[:-1] - errors[1:]).clamp_min(0).sqrt()
        return self._spectra[key]

    @torch.no_grad()
    def features(self) -> list[Tensor]:
        """The model's final hidden states on the search batches, as it stands."""
        found: list[Tensor] = []
        base = getattr(self.model, "base_model", self.model)
        handle = base.register_forward_hook(lambda _m, _a, out: found.append(_first(out).detach()))
        try:
            for batch in self.batches:
                self.task.output(self.model, batch)
        finally:
            handle.remove()
        return found

    @functools.cached_property
    def _dense_features(self) -> list[Tensor]:
        return self.features()

    def feature_error(self, ranks: Ranks) -> float:
        """Mean squared error of the final hidden states / their mean square."""
        dense = self._dense_features
        with self.applied(ranks):
            ours = self.features()
        wrong = sum(
            float((a - b).double().square().sum()) for a, b in zip(ours, dense, strict=True)
        )
        return wrong / max(sum(float(b.double().square().sum()) for b in dense), 1e-300)

    @functools.cached_property
    def sensitivity(self) -> dict[str, float]:
        """‖∇θ‖_F / ‖θ‖_F of every site's weight, ∇ of the task's curvature signal."""
        modules: dict[str, Any] = {s.name: self.model.get_submodule(s.name) for s in self.sites}
        weights: dict[str, nn.Parameter] = {n: m.weight for n, m in modules.items()}
        generator = torch.Generator().manual_seed(self.seed)
        before = {name: weight.requires_grad for name, weight in weights.items()}
        try:
            for weight in weights.values():
                weight.requires_grad_(True)
                weight.grad = None
            for batch in self.batches:
                with torch.enable_grad():
                    output = self.task.output(self.model, batch)
                    signals = list(self.task.curvature_signals(output, batch, generator))
                    signals[0].backward()
            return {
                name: float(weight.grad.double().norm() / weight.detach().double().norm())
                for name, weight in weights.items()
                if weight.grad is not None
            }
        finally:
            for name, weight in weights.items():
                weight.requires_grad_(before[name])
                weight.grad = None

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
            self.model.get_submodule(name).register_forward_hook(hook(block))
            for block, name in block_modules(self.sites).items()
        ]
        try:
            with torch.no_grad():
                for batch in self.batches:
                    self.task.output(self.model, batch)
        finally:
            for handle in handles:
                handle.remove()
        return {block: _effective_rank(gram) for block, gram in grams.items()}


def _name(ranks: Ranks) -> str:
    return digest({name: rank for name, rank in ranks.items() if rank is not None})[:32]


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
