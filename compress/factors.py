"""Where a plan's factors come from: the store of the metric's SVD, or a factorizer on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from autotune.compress.factorizers.base import Factorizer, Layer
from autotune.compress.factorizers.output_subspace import output_bases
from autotune.compress.factorizers.truncated import (
    Factorization,
    factorize,
    factorize_together,
)
from autotune.compress.integer_forms import IntegerForms
from autotune.compress.lowrank import dense_like, dense_weight, shared_low_rank_like
from autotune.compress.metrics.base import Metric, Whitening
from autotune.compress.pivoting import pivoted_like
from autotune.compress.precisions import make_precision, require_native
from autotune.compress.precisions.base import Precision
from autotune.compress.statistics import Statistics
from autotune.compress.storage import round_trip
from autotune.compress.tasks.base import Batch, Task
from autotune.core.errors import ModelError, UsageError
from autotune.core.forms import PIVOTED, Form, Plan
from autotune.core.layers import Site, break_even_rank, chosen_sites
from autotune.core.progress import Advance, no_progress

Pair = tuple[Tensor, Tensor]


class Factors(ABC):
    """Errors of every rank, and factors of a whole plan.

    Contract (`autotune.testing.suites.factors` checks it):
    - Errors are the metric's, of its own truncated SVD: the plan is chosen by them whatever the
      factorizer. They do not increase with the rank, and vanish at full rank.
    - `plan` yields (up (N, r), down (r, K)) once for each site of `forms`, which are pairs of at
      least `least_rank`, in the dtype of the model. The same plan has the same factors.
    - Factors are neither pivoted nor rounded to a form's precision; `build_layers` does both.
    - Yielded tensors may be kept by both sides: neither writes to them. The model is left as it is.
    - One thread at a time may ask.
    """

    # Makes layers of integers; None where nothing was calibrated for them.
    integers: IntegerForms | None = None

    @abstractmethod
    def errors(self, site: Site) -> Tensor:
        """The metric's error at every rank, (min(N, K) + 1), fp64."""

    @abstractmethod
    def plan(self, forms: Mapping[Site, Form]) -> Iterator[tuple[Site, Pair]]:
        """The factors of every site in `forms`."""

    def least_rank(self, site: Site) -> int:
        """The smallest rank that factors exist for."""
        del site
        return 1


def build_layers(
    model: nn.Module, sites: Sequence[Site], *, factors: Factors, plan: Plan
) -> dict[str, nn.Module]:
    """The layers that a plan changes, by layer name: low-rank ones, and dense ones that it rounds.

    `sites` are single and joint sites; a joint site's first layer leads: it owns the shared factor.
    Weights are those that the form's precision computes with, in the model's dtype.

    Raises:
        UsageError: an unknown precision (the known ones are listed).
    """
    chosen = {site: form for site, form in chosen_sites(sites, plan) if not form.is_unchanged}
    precisions = {site: make_precision(form.precision) for site, form in chosen.items()}
    layers: dict[str, nn.Module] = {}
    for site in (site for site, form in chosen.items() if form.is_dense):
        for name in site.layers:
            layers[name] = _dense(model, name, factors=factors, precision=precisions[site])
    pairs = {site: form for site, form in chosen.items() if not form.is_dense}
    for site, (up, down) in factors.plan(pairs):
        modules = [model.get_submodule(name) for name in site.layers]
        rounded, ups = precisions[site].rounded, up.split(site.parts or [len(up)])
        made: Sequence[nn.Module]
        if precisions[site].rounds_inputs:
            integers = _integers(factors, precisions[site])
            made = integers.pair(site, precisions[site].name, ups=ups, down=down)
        elif pairs[site].structure == PIVOTED:
            made = pivoted_like(modules, ups=ups, down=down, rounded=rounded)
        else:
            made = shared_low_rank_like(modules, ups=[*map(rounded, ups)], down=rounded(down))
        layers |= zip(site.layers, made, strict=True)
    return layers


def _dense(model: nn.Module, name: str, *, factors: Factors, precision: Precision) -> nn.Module:
    """The dense layer of a name in a precision."""
    if precision.rounds_inputs:
        return _integers(factors, precision).dense(name, precision.name)
    module = model.get_submodule(name)
    return dense_like(module, precision.rounded(dense_weight(module)))


def _integers(factors: Factors, precision: Precision) -> IntegerForms:
    if factors.integers is None:
        raise UsageError(
            f"precision {precision.name} needs calibrated inputs, and these factors were made "
            "without them; allow the precision when the model is tuned"
        )
    return factors.integers


class FactorStore(Factors):
    """The metric's SVD of every site in one safetensors file, read slice by slice.

    Kept in the model's dtype to break-even rank, as large as the model, or to full rank, up to
    twice as large (`build_factor_store`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = safe_open(path, framework="pt")

    def errors(self, site: Site) -> Tensor:
        """The errors that were stored with the factors."""
        tensor: Tensor = self._file.get_tensor(f"errors:{site.name}")
        return tensor

    def plan(self, forms: Mapping[Site, Form]) -> Iterator[tuple[Site, Pair]]:
        """Slices of the stored factors, read when they are asked for."""
        for site, form in forms.items():
            held = self._file.get_slice(f"up:{site.name}")
            assert form.rank <= held.get_shape()[1], "the store was built without such ranks"
            up = held[:, : form.rank]
            down = self._file.get_slice(f"down:{site.name}")[: form.rank]
            yield site, (up, down)


class Refactored(Factors):
    """Factors by another factorizer, computed when a plan asks for them; the last plan is kept."""

    def __init__(
        self,
        store: FactorStore,
        *,
        factorizer: Factorizer,
        metric: Metric,
        model: nn.Module,
        statistics: Callable[[], Statistics],
        task: Task,
        batches: Sequence[Batch],
    ) -> None:
        self.store = store
        self.factorizer = factorizer
        self.metric = metric
        self.model = model
        self.task = task
        self.batches = batches
        self._load_statistics = statistics
        self._kept: dict[tuple[Site, int], Pair] = {}

    def errors(self, site: Site) -> Tensor:
        """Errors of the metric's own SVD, whatever the factorizer."""
        return self.store.errors(site)

    def least_rank(self, site: Site) -> int:
        """The smallest rank that the factorizer makes."""
        return self.factorizer.least_rank(site)

    def plan(self, forms: Mapping[Site, Form]) -> Iterator[tuple[Site, Pair]]:
        """The plan's factors; those of the last plan are not computed again."""
        ranks = {site: form.rank for site, form in forms.items()}
        missing = {s: rank for s, rank in ranks.items() if (s, rank) not in self._kept}
        self._kept = {key: self._kept[key] for key in ranks.items() if key in self._kept}
        if missing:
            self._factorize(missing)
        for site, rank in ranks.items():
            yield site, self._kept[site, rank]

    def _factorize(self, ranks: Mapping[Site, int]) -> None:
        statistics = self._load_statistics()
        bases: Mapping[str, Tensor] = {}
        if self.factorizer.needs_output_basis:
            by_name = {site.name: rank for site, rank in ranks.items()}
            bases = output_bases(self.model, self.task, batches=self.batches, ranks=by_name)
        for site, rank in ranks.items():
            weight = dense_weight(self.model.get_submodule(site.name))
            layer = Layer(
                site=site,
                weight=weight.double(),
                output_basis=bases.get(site.name),
                whitening=self.metric.whitening(site, statistics),
            )
            up, down = self.factorizer.factors(layer, rank)
            self._kept[site, rank] = (
                _finite(up, site, weight=weight),
                _finite(down, site, weight=weight),
            )


class Stored(Factors):
    """Another's factors as they are after storing, so that what is judged is what is handed out."""

    def __init__(self, inner: Factors, storage: str) -> None:
        self.inner = inner
        self.storage = storage

    def errors(self, site: Site) -> Tensor:
        """The inner factors' errors: rounding is not in them."""
        return self.inner.errors(site)

    def least_rank(self, site: Site) -> int:
        """The smallest rank of the inner factors."""
        return self.inner.least_rank(site)

    def plan(self, forms: Mapping[Site, Form]) -> Iterator[tuple[Site, Pair]]:
        """The inner factors, packed and unpacked.

        Raises:
            UsageError: a form in another precision than native.
        """
        for site, form in forms.items():
            require_native(site, form, storage=self.storage)
        for site, (up, down) in self.inner.plan(forms):
            yield site, round_trip(self.storage, up=up, down=down)


def _finite(factor: Tensor, site: Site, *, weight: Tensor) -> Tensor:
    result = factor.to(weight.dtype).contiguous()
    if not torch.isfinite(result).all():
        raise ModelError(f"the factors of {site.name} are not finite in {weight.dtype}")
    return result


def build_factor_store(
    model: nn.Module,
    sites: Sequence[Site],
    *,
    path: Path,
    metric: Metric,
    statistics: Statistics,
    joint: Sequence[Site] = (),
    all_ranks: bool = False,
    progress: Advance = no_progress,
) -> None:
    """Factorize every site and every joint site and write the store to `path`.

    It holds the ranks at which plain pairs save parameters, or with `all_ranks` those below the
    full one: pivoted pairs save at each of them.

    Raises:
        ModelError: a factor is not finite.
    """
    tensors: dict[str, Tensor] = {}

    def keep(site: Site, result: Factorization, *, like: Tensor) -> None:
        tensors[f"up:{site.name}"] = _finite(result.up, site, weight=like)
        tensors[f"down:{site.name}"] = _finite(result.down, site, weight=like)
        tensors[f"errors:{site.name}"] = result.errors

    by_name = {site.name: site for site in sites}
    total = len(sites) + len(joint)
    for done, site in enumerate((*sites, *joint)):
        progress(done, total)
        weights = [dense_weight(model.get_submodule(name)) for name in site.layers]
        limit = break_even_rank(site.in_features, site.out_features)
        if all_ranks:
            limit = max(limit, min(site.in_features, site.out_features) - 1)
        if site.members:
            roots = metric.shared_whitenings([by_name[name] for name in site.members], statistics)
            alone = [float(tensors[f"errors:{name}"][0]) for name in site.members]
            result = _together(
                weights, roots, alone=alone, in_loss_units=metric.in_loss_units, limit=limit
            )
        else:
            result = factorize(weights[0], metric.whitening(site, statistics), max_rank=limit)
        keep(site, result, like=weights[0])
    progress(total, total)
    save_file(tensors, path)


def _together(
    weights: Sequence[Tensor],
    roots: Sequence[Whitening],
    *,
    alone: Sequence[float],
    in_loss_units: bool,
    limit: int,
) -> Factorization:
    """The joint site's factors, its errors on the scale of its members' own.

    `alone` are the members' errors at rank 0. Errors in units of the loss add as they are; others
    are taken relative to each member's own, as `error_table` does; a member without an error, such
    as one of zeros, has no such scale and no part in the sum.
    """
    if not in_loss_units:
        roots = [
            replace(root, scale=root.scale / error if error > 0 else 0.0)
            for root, error in zip(roots, alone, strict=True)
        ]
    result = factorize_together(weights, roots, max_rank=limit)
    whole = sum(alone) if in_loss_units else float(sum(error > 0 for error in alone))
    # Pooling the input side (kfac-seq) moves the scale a little; rank 0 is the same for both.
    errors = result.errors * (whole / result.errors[0].clamp_min(1e-300))
    return replace(result, errors=errors)
