"""Dobi-SVD: truncation positions learned by gradient (Dobi-SVD, §3.1; docs/methods/dobi.md)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autotune.compress.gates import GatedLinear
from autotune.compress.lowrank import replaced
from autotune.core.checksums import Checksums
from autotune.core.files import write_whole
from autotune.core.forms import DENSE, Plan, low_rank
from autotune.core.layers import Site, break_even_rank
from autotune.core.plugin_options import Bounds
from autotune.core.types import digest
from autotune.search.allocators.base import Allocator, Question
from autotune.search.problem import Allocation


class Dobi(Allocator):
    """Train every layer's k on task loss + λ·|R(k) − R_target|, then scale all k's to the budgets.

    R is the first budget's resource, interpolated between candidate ranks. Only the k's are
    trained (Adam). State is saved every `save_every` steps, so that a killed training goes on.
    """

    name = "dobi"

    def __init__(
        self,
        *,
        steps: Annotated[int, Bounds(ge=1, le=10_000)] = 40,
        learning_rate: Annotated[float, Bounds(ge=1e-6, le=1)] = 0.03,
        penalty: Annotated[float, Bounds(ge=0, le=1e6)] = 20.0,
        form: Literal["loewner", "taylor"] = "loewner",
        save_every: Annotated[int, Bounds(ge=1, le=10_000)] = 5,
    ) -> None:
        self.steps = steps
        self.learning_rate = learning_rate
        self.penalty = penalty
        self.form = form
        self.save_every = save_every
        self._trained: dict[str, float] = {}

    def allocate(self, question: Question) -> Allocation:
        """Train once, then bisect one factor on the learned ranks."""
        question.problem.require_feasible()
        if not self._trained:
            self._trained = self.train(question)

        def plan_of(t: float) -> Plan:
            scale = 2.0 * t
            return {
                site.name: question.floor(
                    site,
                    scale
                    * self._trained[site.name]
                    * break_even_rank(site.in_features, site.out_features),
                )
                for site in question.sites
            }

        return question.largest_fitting(plan_of, solver=self.name)

    def train(self, question: Question) -> dict[str, float]:
        """Learned k / break-even rank by site."""
        evidence, problem = question.evidence, question.problem
        model, task = evidence.subject.model, evidence.subject.task
        curves = {site: cost_curve(question, site) for site in question.sites}
        dense = sum(float(cost[-1]) for _, cost in curves.values())
        target = problem.limits[0] / dense
        gates = {
            site.name: GatedLinear(
                model.get_submodule(site.name),
                break_even_rank(site.in_features, site.out_features),
                start=min(max(target, 0.1), 1.0),
                form=self.form,
            )
            for site in question.sites
        }
        shares = {name: gated.share for name, gated in gates.items()}
        optimizer = torch.optim.Adam(shares.values(), lr=self.learning_rate)
        state = self._state_file(question)
        done = 0
        if state and state.exists():
            problem_found = Checksums().damage(state)
            if problem_found:
                evidence.losses.note(f"{state} {problem_found}; the training begins again")
            else:
                done = load_state(state, shares, optimizer=optimizer)
        samples = _samples(evidence.subject.batches)
        references = task.references(model, samples)
        turns = itertools.cycle(zip(samples, references, strict=True))
        chosen = itertools.islice(turns, done, self.steps)
        with replaced(model, gates), torch.enable_grad():
            for step, (batch, reference) in enumerate(chosen, start=done + 1):
                optimizer.zero_grad()
                costs = [
                    interpolate(gates[site.name].rank, curves[site]) for site in question.sites
                ]
                ratio = torch.stack(costs).sum() / dense
                output = task.output(model, batch)
                wanted = output if reference is None else reference
                total, count = task.loss(output, wanted, batch=batch)
                (total / count + self.penalty * (ratio - target).abs()).backward()
                optimizer.step()
                for share in shares.values():
                    share.data.clamp_(0.02, 1.0)
                if state and step % self.save_every == 0:
                    save_state(state, shares, optimizer=optimizer, step=step)
                question.progress(step, self.steps)
        return {name: float(share.detach()) for name, share in shares.items()}

    def _state_file(self, question: Question) -> Path | None:
        evidence = question.evidence
        if evidence.folder is None:
            return None
        settings = [self.steps, self.learning_rate, self.penalty, self.form, evidence.seed]
        problem = dataclasses.asdict(question.problem)
        return (
            evidence.folder / f"dobi-{digest([evidence.key, settings, problem])[:16]}.safetensors"
        )


def _samples(batches: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [
        {name: value[i : i + 1] for name, value in batch.items()}
        for batch in batches
        for i in range(next(iter(batch.values())).shape[0])
    ]


def cost_curve(question: Question, site: Site) -> tuple[Tensor, Tensor]:
    """(ranks, costs of the first resource), ascending, dense at the break-even rank."""
    costs_of = {option.form: option.costs[0] for option in question.options(site)}
    known = [(float(rank), costs_of[low_rank(rank)]) for rank in question.ranks(site)]
    dense = costs_of[DENSE]
    points = [
        (0.0, 0.0),
        *known,
        (float(break_even_rank(site.in_features, site.out_features)), dense),
    ]
    ranks, costs = zip(*points, strict=True)
    return torch.tensor(ranks), torch.tensor(costs, dtype=torch.float64)


def interpolate(rank: Tensor, curve: tuple[Tensor, Tensor]) -> Tensor:
    """Piecewise linear cost at a real rank of a curve (ranks, costs), differentiable in it."""
    ranks, costs = curve
    right = int(torch.searchsorted(ranks, rank.detach()).clamp(1, len(ranks) - 1))
    slope = (costs[right] - costs[right - 1]) / (ranks[right] - ranks[right - 1])
    return costs[right - 1] + slope * (rank - ranks[right - 1])


def save_state(
    path: Path, shares: Mapping[str, Tensor], *, optimizer: torch.optim.Adam, step: int
) -> None:
    """Write the k's, Adam's moments and the step; whole or not at all."""
    tensors = {"step": torch.tensor(step)}
    for name, share in shares.items():
        tensors[f"share:{name}"] = share.detach().clone()
        for key, value in optimizer.state[share].items():
            tensors[f"{key}:{name}"] = value.detach().clone()

    def build(part: Path) -> None:
        save_file(tensors, part)
        Checksums().write(path, written=part)

    write_whole(path, build)


def load_state(path: Path, shares: Mapping[str, Tensor], *, optimizer: torch.optim.Adam) -> int:
    """Read what `save_state` wrote into the parameters and the optimizer; the step."""
    tensors = load_file(path)
    for name, share in shares.items():
        with torch.no_grad():
            share.copy_(tensors[f"share:{name}"])
        keys = ("step", "exp_avg", "exp_avg_sq")
        optimizer.state[share] = {key: tensors[f"{key}:{name}"] for key in keys}
    return int(tensors["step"])
