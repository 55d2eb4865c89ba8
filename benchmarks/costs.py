"""What the methods cost: calibration, factorization, allocation, a training of Dobi's gates.

    python benchmarks/costs.py --model DIR [--isl 512] [--dobi-steps 10]

Calibration is compared with a plain forward and backward pass (gradients of every weight) over the
same batches, in turn, three times each. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotune.compress.calibration import load_calibration
from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.factors import FactorStore, build_factor_store
from autotune.compress.loading import load_model
from autotune.compress.metrics import make_metric
from autotune.compress.sites import count_tokens, find_sites
from autotune.compress.statistics import collect_statistics
from autotune.compress.tasks import make_task
from autotune.core.forms import DENSE, low_rank
from autotune.core.layers import break_even_rank
from autotune.core.types import Workload
from autotune.search.allocators import make_allocator
from autotune.search.allocators.base import Question
from autotune.search.evidence import Evidence
from autotune.search.exact import solve_exact
from autotune.search.losses import PlanLosses, SearchSubject
from autotune.search.problem import Option, PlanProblem


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--isl", type=int, default=512)
    parser.add_argument("--dobi-steps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(2)
    workload = Workload(batch_size=1, sequence_length=options.isl)
    loaded = load_model(options.model)
    task = make_task(loaded.task, loaded.folder)
    inputs = task.example_inputs(loaded.model, workload)
    found_sites = count_tokens(loaded.model, find_sites(loaded.model), inputs=inputs)
    sites = found_sites.sites
    plan = CalibrationPlan(
        calibration=str(Path(options.model) / "heldout.txt"), statistics_samples=8
    )
    data = load_calibration(loaded, plan, workload=workload)
    row: dict[str, Any] = {"model": loaded.name, "sites": len(sites)}
    row |= calibration(loaded.model, task, sites=sites, batches=data.statistics)
    metric = make_metric("kfac")
    found = collect_statistics(
        loaded.model, sites, task=task, batches=data.statistics, kinds=metric.moments
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "factors.safetensors"
        started = time.perf_counter()
        build_factor_store(
            loaded.model, sites, path=path, metric=metric, statistics=found, joint=found_sites.joint
        )
        row["factorize_seconds"] = time.perf_counter() - started
        subject = SearchSubject(
            model=loaded.model,
            task=task,
            sites=sites,
            factors=FactorStore(path),
            batches=data.search,
        )
        row |= dobi(Evidence(PlanLosses(subject)), options.dobi_steps)
    row |= allocation()
    for key, value in row.items():
        print(f"{key:32s} {value}")
    print(json.dumps([row]))


def calibration(model: Any, task: Any, *, sites: Any, batches: Any) -> dict[str, float]:
    """Seconds of the statistics and of a plain forward and backward, in turn."""
    metric = make_metric("kfac")
    ours, plain = [], []
    for _ in range(3):
        started = time.perf_counter()
        collect_statistics(model, sites, task=task, batches=batches, kinds=metric.moments)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        model.requires_grad_(True)
        for batch in batches:
            output = task.output(model, batch)
            total, _ = task.loss(output, output, batch=batch)
            total.backward()
            model.zero_grad()
        model.requires_grad_(False)
        plain.append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    return {
        "statistics_seconds": statistics.median(ours),
        "forward_backward_seconds": statistics.median(plain),
        "statistics_over_forward_backward": statistics.median(ratios),
    }


def allocation() -> dict[str, float]:
    """The exact solver at 224 sites, 64 ranks and two budgets, five random problems."""
    seconds, gaps = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        options = []
        for _ in range(224):
            losses = 10 ** rng.uniform(-6, -2) * np.sort(rng.exponential(size=64))[::-1]
            costs = np.sort(rng.uniform(0.1, 1.0, (64, 2)), axis=0)
            site = [
                Option(form=low_rank(8 * (i + 1)), loss=float(losses[i]), costs=tuple(costs[i]))
                for i in range(64)
            ]
            options.append((Option(form=DENSE, loss=0.0, costs=(1.1, 1.1)), *site))
        problem = PlanProblem(
            sites=tuple(f"s{i}" for i in range(224)),
            options=tuple(options),
            resources=("latency", "parameters"),
            limits=(123.0, 123.0),
        )
        started = time.perf_counter()
        gaps.append(solve_exact(problem, relative_gap=1e-3).gap)
        seconds.append(time.perf_counter() - started)
    return {
        "allocation_seconds_median": statistics.median(seconds),
        "allocation_seconds_worst": max(seconds),
        "allocation_gap_worst": max(gaps),
    }


def dobi(evidence: Evidence, steps: int) -> dict[str, float]:
    """Seconds of a training of the gates under a parameter budget of 0.8."""
    options = []
    sites = tuple(evidence.subject.sites)
    for site in sites:
        k, n = site.in_features, site.out_features
        ranks = range(16, break_even_rank(k, n), 16)
        low = [Option(form=low_rank(r), loss=0.0, costs=(float(r * (k + n)),)) for r in ranks]
        options.append((Option(form=DENSE, loss=0.0, costs=(float(k * n),)), *low))
    total = sum(site.in_features * site.out_features for site in sites)
    problem = PlanProblem(
        sites=tuple(site.name for site in sites),
        options=tuple(options),
        resources=("parameters",),
        limits=(0.8 * total,),
    )
    question = Question(
        problem=problem,
        sites=sites,
        evidence=evidence,
        latency_ratio=lambda site, form: 0.0,
    )
    started = time.perf_counter()
    make_allocator(f"dobi:steps={steps}").allocate(question)
    return {"dobi_steps": steps, "dobi_seconds": time.perf_counter() - started}


if __name__ == "__main__":
    main()
