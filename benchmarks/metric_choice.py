"""Which metric keeps a model better at equal parameters, ranks chosen exactly for each.

    python benchmarks/metric_choice.py [--model DIR] [--keep 0.7,0.6] [--isl 128] [--calibration F]

Prints a table; the last line is one JSON document, a list of rows.
"""

from __future__ import annotations

import argparse
import json

import torch

from autotune.compress.calibration import load_calibration
from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.factorizers.truncated import factorize
from autotune.compress.loading import load_model
from autotune.compress.lowrank import dense_weight, low_rank_like, replaced
from autotune.compress.metrics import make_metric
from autotune.compress.sites import count_tokens, find_sites
from autotune.compress.statistics import collect_statistics
from autotune.compress.tasks import make_task
from autotune.core.forms import DENSE, low_rank
from autotune.core.layers import break_even_rank
from autotune.core.types import Workload
from autotune.search.exact import solve_exact
from autotune.search.problem import Option, PlanProblem

METRICS = ("weight", "activation", "kfac", "kfac-seq")


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--keep", default="0.7,0.6")
    parser.add_argument("--isl", type=int, default=128)
    parser.add_argument("--calibration")
    options = parser.parse_args()
    torch.set_num_threads(2)
    workload = Workload(batch_size=8, sequence_length=options.isl)
    loaded = load_model(options.model)
    task = make_task(loaded.task, loaded.folder)
    inputs = task.example_inputs(loaded.model, Workload(batch_size=1, sequence_length=8))
    sites = count_tokens(loaded.model, find_sites(loaded.model), inputs).sites
    data = load_calibration(loaded, CalibrationPlan(calibration=options.calibration), workload)
    references = task.references(loaded.model, data.heldout)
    dense = task.figure(task.mean_loss(loaded.model, data.heldout, references))
    total = sum(site.in_features * site.out_features for site in sites)
    rows = []
    for name in METRICS:
        metric = make_metric(name)
        statistics = collect_statistics(loaded.model, sites, task, data.statistics, metric.moments)
        found = {}
        for site in sites:
            limit = break_even_rank(site.in_features, site.out_features)
            weight = dense_weight(loaded.model.get_submodule(site.name))
            found[site.name] = factorize(weight, metric.whitening(site, statistics), limit)
        for keep in map(float, options.keep.split(",")):
            choices = []
            for site in sites:
                limit = break_even_rank(site.in_features, site.out_features)
                errors = found[site.name].errors
                width = site.in_features + site.out_features
                ranks = range(16, limit + 1, 16)
                low = [
                    Option(form=low_rank(r), loss=float(errors[r]), costs=(r * width,))
                    for r in ranks
                ]
                size = site.in_features * site.out_features
                choices.append((*low, Option(form=DENSE, loss=0.0, costs=(size,))))
            problem = PlanProblem(
                sites=tuple(s.name for s in sites),
                options=tuple(choices),
                resources=("parameters",),
                limits=(keep * total,),
            )
            plan = solve_exact(problem).plan
            layers = {
                n: low_rank_like(loaded.model.get_submodule(n), *found[n].factors(form.rank))
                for n, form in plan.items()
                if not form.is_dense
            }
            with replaced(loaded.model, layers):
                figure = task.figure(task.mean_loss(loaded.model, data.heldout, references))
            row = {"metric": name, "keep_ratio": keep, task.metric: figure, "dense": dense}
            rows.append(row)
            print(f"{name:12s} keep {keep:.2f}  {task.metric} {figure:.4f} (dense {dense:.4f})")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
