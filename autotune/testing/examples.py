"""A small model with everything that metrics, factorizers and allocators look at.

A random Llama of two blocks with grouped-query attention and tied embeddings: real code of a real
architecture that is ready in a fraction of a second, without files and without a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from autotune.compress.factors import FactorStore, build_factor_store
from autotune.compress.metrics import make_metric
from autotune.compress.sites import count_tokens, find_sites
from autotune.compress.statistics import Statistics, collect_statistics
from autotune.compress.tasks import Task, make_task
from autotune.compress.tasks.base import MASK
from autotune.core.forms import DENSE, Form, low_rank
from autotune.core.layers import Site, break_even_rank
from autotune.search.allocators.base import Question
from autotune.search.evidence import Evidence
from autotune.search.losses import PlanLosses, SearchSubject
from autotune.search.problem import Allocation, Option, PlanProblem

_VOCABULARY = 101
_STEP = 16


@dataclass(frozen=True, kw_only=True)
class ExampleModel:
    """A frozen model in evaluation mode, its task, its sites and its joint sites."""

    model: Any = field(repr=False)
    task: Task
    sites: tuple[Site, ...]
    joint: tuple[Site, ...]

    def statistics(self, moments: frozenset[str]) -> Statistics:
        """The moments of three batches of random text."""
        batches = example_batches(3)
        return collect_statistics(
            self.model, self.sites, task=self.task, batches=batches, kinds=moments
        )


def example_model(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> ExampleModel:
    """The model with the random weights of `seed`."""
    config = transformers.LlamaConfig(
        vocab_size=_VOCABULARY,
        max_position_embeddings=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model: Any = transformers.LlamaForCausalLM(config)
    model = model.to(dtype).eval()
    model.requires_grad_(False)
    found = count_tokens(model, find_sites(model), inputs=example_batches(1)[0])
    task = make_task("causal-lm", Path("/nonexistent"))
    return ExampleModel(model=model, task=task, sites=found.sites, joint=found.joint)


def example_batches(count: int, *, length: int = 24, seed: int = 0) -> list[dict[str, Tensor]]:
    """`count` batches of 4 sequences of random tokens, without padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, _VOCABULARY, (4, length), generator=generator) for _ in range(count)]
    return [{"input_ids": each, MASK: torch.ones_like(each)} for each in ids]


def example_evidence(folder: Path, *, metric: str = "kfac", seed: int = 0) -> Evidence:
    """What an allocator may learn about the example model; its factors are kept in `folder`."""
    example = example_model(seed=seed)
    chosen = make_metric(metric)
    path = folder / "factors.safetensors"
    statistics = example.statistics(chosen.moments)
    build_factor_store(
        example.model, example.sites, path=path, metric=chosen, statistics=statistics
    )
    batches = example_batches(1, seed=9)
    subject = SearchSubject(
        model=example.model,
        task=example.task,
        sites=example.sites,
        factors=FactorStore(path),
        batches=batches,
    )
    return Evidence(PlanLosses(subject))


def example_question(
    evidence: Evidence, resources: Sequence[str] = ("latency",), *, share: float = 0.7
) -> Question:
    """A problem with budgets of `share` of the dense model; ranks are all multiples of 4.

    Latency is a staircase with steps of 16 ranks and a fixed cost, so the best rank of a step is
    its last. `resources` are of "latency", "parameters" and "flops".
    """
    options, dense = [], np.zeros(len(resources))
    for site in evidence.subject.sites:
        errors = evidence.subject.factors.errors(site)
        ranks = range(4, break_even_rank(site.in_features, site.out_features), 4)
        choices = [_option(DENSE, 0.0, costs=_costs(site, DENSE, resources=resources))]
        for rank in ranks:
            form = low_rank(rank)
            choices.append(
                _option(form, float(errors[rank]), costs=_costs(site, form, resources=resources))
            )
        options.append(tuple(choices))
        dense += np.array(choices[0].costs)
    problem = PlanProblem(
        sites=tuple(site.name for site in evidence.subject.sites),
        options=tuple(options),
        resources=tuple(resources),
        limits=tuple(float(limit) for limit in share * dense),
    )
    return Question(
        problem=problem,
        sites=tuple(evidence.subject.sites),
        evidence=evidence,
        latency_ratio=lambda site, form: _latency_s(site, form) / _latency_s(site, DENSE),
    )


def plan_of(allocation: Allocation) -> dict[str, Form]:
    """The form of every site that the allocation names."""
    return dict(allocation.plan)


def forms_of(question: Question, site: Site) -> set[Form]:
    """The forms that the problem offers for a site."""
    options = question.problem.options[question.problem.sites.index(site.name)]
    return {option.form for option in options}


def costs_of(question: Question, plan: Mapping[str, Form]) -> tuple[float, tuple[float, ...]]:
    """Loss and costs of a plan, added up from the problem's options."""
    loss, costs = 0.0, np.zeros(len(question.problem.resources))
    pairs = zip(question.problem.sites, question.problem.options, strict=True)
    for name, options in pairs:
        (chosen,) = (each for each in options if each.form == plan[name])
        loss += chosen.loss
        costs += np.array(chosen.costs)
    return loss, tuple(float(cost) for cost in costs)


def _option(form: Form, loss: float, *, costs: tuple[float, ...]) -> Option:
    return Option(form=form, loss=loss, costs=costs)


def _costs(site: Site, form: Form, *, resources: Sequence[str]) -> tuple[float, ...]:
    k, n = site.in_features, site.out_features
    parameters = float(k * n if form.is_dense else form.rank * (k + n))
    known = {
        "latency": _latency_s(site, form),
        "parameters": parameters,
        "flops": 2.0 * parameters * site.tokens,
    }
    return tuple(known[name] for name in resources)


def _latency_s(site: Site, form: Form) -> float:
    k, n = site.in_features, site.out_features
    if form.is_dense:
        return 0.9e-9 * k * n
    return 1e-9 * (-(-form.rank // _STEP) * _STEP * (k + n) + 0.1 * k * n)
