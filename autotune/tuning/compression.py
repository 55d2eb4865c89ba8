"""The compression of one model: factors of every site, and models with a plan applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autotune.compress.calibration import CalibrationData
from autotune.compress.factorizers import make_factorizer
from autotune.compress.factors import (
    Factors,
    FactorStore,
    Refactored,
    Stored,
    build_factor_store,
    build_layers,
)
from autotune.compress.integer_forms import MOMENTS, ROUNDING_VERSION, IntegerForms
from autotune.compress.lowrank import replaced
from autotune.compress.metrics import make_metric
from autotune.compress.metrics.base import Metric
from autotune.compress.statistics import (
    Statistics,
    collect_statistics,
    load_statistics,
    save_statistics,
)
from autotune.compress.tasks import task_class
from autotune.core.errors import CalibrationError, option_name
from autotune.core.forms import NATIVE, PLAIN, Form, Plan, parse_form, plan_to_json
from autotune.core.layers import Site
from autotune.core.progress import no_progress
from autotune.core.types import digest
from autotune.devices.alignment import saving_forms
from autotune.search.tables import ErrorTable
from autotune.tuning.integer_errors import IntegerErrors
from autotune.tuning.model import TracedModel
from autotune.tuning.request import TuneRequest
from autotune.tuning.workspace import Workspace


def _always(site: Site, precision: str) -> bool:
    del site, precision
    return True


def chosen_metric(request: TuneRequest, task: str) -> str:
    """The metric asked for, or the default of the task."""
    return request.method.metric or task_class(task).default_metric


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Factors of every site in one metric, by one factorizer, in one storage.

    `key` identifies what the factors were made from: weights, calibration data, metric, factorizer
    and storage. Whatever is built from a plan depends on it.
    """

    model: TracedModel
    factors: Factors
    key: Mapping[str, Any]
    metric: str
    storage: str

    def error_table(
        self,
        rank_multiple: int,
        *,
        workspace: Workspace | None = None,
        offers_pairs: Callable[[Site, str], bool] = _always,
    ) -> ErrorTable:
        """Predicted loss increase by site or joint site and candidate form.

        `offers_pairs` says of a site and a precision of integers whether pairs are candidates.

        Errors of a metric that is not in units of the loss are taken relative to the site's own
        output, otherwise the layers with the largest activations would decide alone; those of
        joint sites are stored that way.

        Raises:
            CalibrationError: every error is 0.
        """
        in_loss_units = make_metric(self.metric).in_loss_units
        if not any(float(self.factors.errors(site)[0]) for site in self.model.choices):
            raise CalibrationError(
                f"by the metric {self.metric} it makes no difference to leave any layer out, so "
                "there is nothing to choose ranks by; give other calibration data or another "
                f"{option_name('method.metric')}"
            )
        table: dict[str, dict[Form, float]] = {}
        for site in self.model.choices:
            errors, least = self.factors.errors(site), self.factors.least_rank(site)
            if not in_loss_units and not site.members:
                errors = errors / errors[0].clamp_min(1e-300)
            forms = saving_forms(
                rank_multiple,
                in_features=site.in_features,
                out_features=site.out_features,
                structures=self.model.structures,
            )
            table[site.name] = {f: float(errors[f.rank]) for f in forms if f.rank >= least}
        rounded = self._rounded_errors(rank_multiple, workspace, offers_pairs=offers_pairs)
        for name, more in rounded.items():
            table[name] |= more
        return table

    def _rounded_errors(
        self,
        rank_multiple: int,
        workspace: Workspace | None,
        *,
        offers_pairs: Callable[[Site, str], bool],
    ) -> dict[str, dict[Form, float]]:
        """Those of forms of integers, computed once for a run folder."""
        integers = self.factors.integers
        if integers is None:
            return {}
        forms = {
            site.name: [
                form
                for form in saving_forms(
                    rank_multiple,
                    in_features=site.in_features,
                    out_features=site.out_features,
                    structures=(),
                    precisions=self.model.precisions,
                )
                if form.is_dense or offers_pairs(site, form.precision)
            ]
            for site in self.model.choices
        }

        def compute() -> dict[str, dict[str, float]]:
            errors = IntegerErrors(
                model=self.model.loaded.model, factors=self.factors, forms=integers
            )
            stage = workspace.stage("round to integers") if workspace else nullcontext(no_progress)
            with stage as advance:
                found = errors.table(self.model.choices, forms, progress=advance)
            return {name: {str(f): e for f, e in each.items()} for name, each in found.items()}

        key = {**self.key, "forms": {n: list(map(str, each)) for n, each in forms.items()}}
        found = workspace.value("int8-errors", key, compute=compute) if workspace else compute()
        return {n: {parse_form(f): e for f, e in each.items()} for n, each in found.items()}

    def layers(self, plan: Plan) -> dict[str, nn.Module]:
        """The layers that a plan changes, by layer name."""
        return build_layers(
            self.model.loaded.model, self.model.choices, factors=self.factors, plan=plan
        )

    @contextmanager
    def applied(self, plan: Plan) -> Iterator[nn.Module]:
        """The model with the plan applied; it is dense again afterwards."""
        model = self.model.loaded.model
        with replaced(model, self.layers(plan)):
            yield model

    def plan_key(self, plan: Plan) -> dict[str, Any]:
        """The cache key of whatever is built from this plan."""
        changed = {name: form for name, form in plan.items() if not form.is_unchanged}
        return {**self.key, "plan": plan_to_json(changed)}

    @property
    def search_key(self) -> str:
        """Identifies the factors in names of files that a search keeps."""
        return digest(dict(self.key))


def compress(
    model: TracedModel, request: TuneRequest, *, data: CalibrationData, workspace: Workspace
) -> Compression:
    """Collect statistics and factorize every site, reusing what the run folder holds.

    Raises:
        ModelError: a factor is not finite.
    """
    name = chosen_metric(request, model.loaded.task)
    metric = make_metric(name)
    stages = _Stages(model=model, data=data, workspace=workspace, metric=metric, seed=request.seed)
    key: dict[str, Any] = {
        **stages.statistics_key,
        "metric": metric.name,
        "parameters": vars(metric),
        "joint": [site.name for site in model.joint],
    }
    if model.structures != (PLAIN,):
        key |= {"ranks": "all"}
    store = stages.factor_store(key)
    factors: Factors = store
    factorizer = make_factorizer(request.method.factorizer)
    if factorizer.name != "svd":
        key |= {"factorizer": factorizer.name, "factorizer_parameters": vars(factorizer)}
        factors = Refactored(
            store,
            factorizer=factorizer,
            metric=metric,
            model=model.loaded.model,
            statistics=stages.statistics,
            task=model.task,
            batches=data.statistics,
        )
    if set(model.precisions) != {NATIVE}:
        key |= {"int8": ROUNDING_VERSION}
        factors.integers = IntegerForms(
            model=model.loaded.model,
            sites=model.single,
            metric=metric,
            load_statistics=stages.statistics,
        )
    storage = request.method.storage
    if storage != "fp32":
        key |= {"storage": storage}
        factors = Stored(factors, storage)
    return Compression(model=model, factors=factors, key=key, metric=name, storage=storage)


@dataclass(frozen=True, kw_only=True)
class _Stages:
    """Statistics and factors of one metric, each computed once for a run folder."""

    model: TracedModel
    data: CalibrationData
    workspace: Workspace
    metric: Metric
    seed: int

    @property
    def moments(self) -> frozenset[str]:
        """Those of the metric, and what rounding to integers needs where that is offered."""
        rounds = set(self.model.precisions) != {NATIVE}
        return self.metric.moments | (MOMENTS if rounds else frozenset())

    @property
    def statistics_key(self) -> dict[str, Any]:
        return {
            **self.model.key,
            "calibration": self.data.sha256,
            "moments": sorted(self.moments),
            "seed": self.seed,
        }

    def statistics(self) -> Statistics:
        """Loaded anew by each caller, for they are large."""
        file = self.workspace.file(
            "statistics", self.statistics_key, suffix=".safetensors", build=self._collect
        )
        return load_statistics(file)

    def _collect(self, path: Path) -> None:
        with self.workspace.stage("collect statistics") as advance:
            statistics = collect_statistics(
                self.model.loaded.model,
                self.model.single,
                task=self.model.task,
                batches=self.data.statistics,
                kinds=self.moments,
                seed=self.seed,
                progress=advance,
            )
        save_statistics(statistics, path)

    def factor_store(self, key: Mapping[str, Any]) -> FactorStore:
        return FactorStore(
            self.workspace.file("factors", key, suffix=".safetensors", build=self._factorize)
        )

    def _factorize(self, path: Path) -> None:
        with self.workspace.stage("factorize") as advance:
            build_factor_store(
                self.model.loaded.model,
                self.model.single,
                path=path,
                metric=self.metric,
                statistics=self.statistics(),
                joint=self.model.joint,
                all_ranks=self.model.structures != (PLAIN,),
                progress=advance,
            )
