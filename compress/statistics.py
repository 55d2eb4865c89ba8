"""Streamed moments of a model's linear layers; of activations a few rows at most are stored.

Six moments, each collected only when it is asked for, accumulated in fp64:

- `gram`   (K, K) mean of x xᵀ over rows, once for sites that share an input (q/k/v, gate/up), as
- `absmean` (K,) mean of |x| and `norm4` (), mean of ‖x‖⁴ over rows;
- `grad`   (N, N) mean of g gᵀ over rows, g = gradient of the task's curvature signal;
- `left`   (N, N) mean over loss items of J Jᵀ, and
- `right`  (K, K) of Jᵀ J, where J = Σ_t g_t x_tᵀ is one sequence's gradient of the weight: unlike
  the two above they see that a sequence's tokens are correlated.

And, for what is rounded to integers, once for sites that share an input:

- `sample` (n, K) some rows, drawn from all batches alike, in fp32, with
- `low` and `high` (K,), the range of each feature.

Memory: those matrices and rows, whatever the amount of calibration data. `J` is never formed: with
the sequence's Gram of rows, J Jᵀ = Gᵀ(X Xᵀ)G costs T·N² + T²·(K + N).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from autotune.compress.tasks.base import MASK, NOTHING_JUDGED, Batch, Task
from autotune.core.errors import CalibrationError, ModelError, foreign_code, option_name
from autotune.core.layers import Site
from autotune.core.progress import Advance, no_progress

GRADIENT_MOMENTS = frozenset({"grad", "left", "right"})
SAMPLES = frozenset({"sample", "low", "high"})
INPUT_MOMENTS = frozenset({"gram", "absmean", "norm4"}) | SAMPLES
SAMPLE_ROWS = 512
# Where the model's code has no gradients.
_ADVICE = f"choose a metric without gradients ({option_name('method.metric')} activation)"


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Moments of one model on one calibration set.

    `moments` is keyed `gram:<input group>`, `grad:<site>`, `left:<site>`, `right:<site>`;
    `input_group` maps each site to the group of its input, `rows` to the rows it saw (padding not
    counted), `rows_per_item` to rows per loss item (tokens per sequence for an encoder, 1 for a
    language model).
    """

    moments: dict[str, Tensor] = field(repr=False)
    input_group: dict[str, str]
    rows: dict[str, int]
    rows_per_item: dict[str, float]

    def moment(self, kind: str, site: Site) -> Tensor:
        """The moment `kind` of `site`, fp64.

        Raises:
            KeyError: it was not collected.
        """
        owner = self.input_group[site.name] if kind in INPUT_MOMENTS else site.name
        return self.moments[f"{kind}:{owner}"]


class _Collector:
    """Hooks that add to running sums what one pass shows of each site."""

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        *,
        kinds: frozenset[str],
        rows_per_batch: int,
    ) -> None:
        self.model = model
        self.sites = sites
        self.kinds = kinds
        self.rows_per_batch = rows_per_batch
        self.samples: dict[str, list[Tensor]] = {}
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, int] = {}
        self.input_group: dict[str, str] = {}
        self._mask: Tensor | None = None
        self._pixels = False
        self._inputs: dict[tuple[int, int], tuple[str, Tensor]] = {}

    def start_batch(self, batch: Batch) -> None:
        """Forget the last pass's inputs and take the batch's mask."""
        self._mask = batch.get(MASK)
        self._pixels = "pixel_values" in batch
        self._inputs.clear()

    def _mask_of(self, name: str, values: Tensor) -> Tensor | None:
        """The batch's mask where it is one of these rows: a text's, not its picture's."""
        mask, rows = self._mask, values.numel() // values.shape[-1]
        if mask is None or mask.numel() != rows or (self._pixels and "vision" in name):
            return None
        return mask

    def _sequences(self, name: str, values: Tensor) -> Tensor:
        """(batch, rows, features) with masked rows zeroed."""
        mask = self._mask_of(name, values)
        batch = values.shape[0] if values.ndim > 2 else 1
        values = values.detach().reshape(batch, -1, values.shape[-1])
        if mask is not None:
            return values * mask.reshape(*values.shape[:2], 1).to(values.dtype)
        return values

    def _count(self, name: str, values: Tensor) -> int:
        mask = self._mask_of(name, values)
        return values.numel() // values.shape[-1] if mask is None else int(mask.sum())

    def _add(self, key: str, product: Tensor) -> None:
        if key in self.sums:
            self.sums[key] += product
        else:
            self.sums[key] = product.double()

    def _add_input(self, name: str, rows: Tensor) -> None:
        if not self.kinds & INPUT_MOMENTS:
            return
        if self.kinds & SAMPLES:
            self._add_sample(name, rows)
        rows = rows.double()
        if "gram" in self.kinds:
            self._add(f"gram:{name}", rows.T @ rows)
        if "absmean" in self.kinds:
            self._add(f"absmean:{name}", rows.abs().sum(0))
        if "norm4" in self.kinds:
            self._add(f"norm4:{name}", rows.square().sum(1).square().sum())

    def _add_sample(self, name: str, rows: Tensor) -> None:
        """Rows at equal distances, without padding; one of zeros where there is nothing else."""
        some = rows[rows.any(dim=1)]
        shown = (some if len(some) else rows[:1]).float()
        low, high = shown.amin(0), shown.amax(0)
        self.sums[f"low:{name}"] = torch.minimum(self.sums.get(f"low:{name}", low), low)
        self.sums[f"high:{name}"] = torch.maximum(self.sums.get(f"high:{name}", high), high)
        step = max(1, len(shown) // self.rows_per_batch)
        self.samples.setdefault(name, []).append(shown[::step][: self.rows_per_batch].clone())

    def _add_gradient(self, name: str, x: Tensor, *, gradient: Tensor) -> None:
        g = self._sequences(name, gradient)
        if "grad" in self.kinds:
            self._add(f"grad:{name}", g.flatten(0, 1).T @ g.flatten(0, 1))
        if "left" in self.kinds:
            weighted = torch.bmm(torch.bmm(x, x.mT), g)
            self._add(f"left:{name}", g.flatten(0, 1).T @ weighted.flatten(0, 1))
        if "right" in self.kinds:
            weighted = torch.bmm(torch.bmm(g, g.mT), x)
            self._add(f"right:{name}", x.flatten(0, 1).T @ weighted.flatten(0, 1))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            source: Tensor = args[0]
            x = self._sequences(name, source)
            self.rows[name] = self.rows.get(name, 0) + self._count(name, source)
            # Keeping the tensor for the pass makes its address a name for it.
            owner, _ = self._inputs.setdefault((source.data_ptr(), source.numel()), (name, source))
            if self.input_group.setdefault(name, owner) == name:
                self._add_input(name, x.flatten(0, 1))
            if not torch.is_grad_enabled():
                return output
            if not output.requires_grad:
                # All weights are frozen, so the first site's output starts the graph; a copy of
                # it, because models change outputs in place.
                output = output.requires_grad_(True).clone()
            output.register_hook(lambda g: self._add_gradient(name, x, gradient=g))
            return output

        return hook

    def __enter__(self) -> _Collector:
        self._handles = [
            self.model.get_submodule(site.name).register_forward_hook(self._hook(site.name))
            for site in self.sites
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._inputs.clear()


def collect_statistics(
    model: nn.Module,
    sites: Sequence[Site],
    *,
    task: Task,
    batches: Sequence[Batch],
    kinds: frozenset[str],
    seed: int = 0,
    progress: Advance = no_progress,
) -> Statistics:
    """Stream `batches` through the model once and return the moments `kinds`.

    Products are taken in the model's dtype for gradients and in fp64 for inputs.

    Raises:
        ModelError: an activation or gradient is not finite or does not reach a site (which is
            named), the output is not finite, or the model has no gradients.
        CalibrationError: the data hold nothing to judge.
    """
    generator = torch.Generator().manual_seed(seed)
    gradients = bool(kinds & GRADIENT_MOMENTS)
    items, draws = 0, 1
    with (
        foreign_code(f"no statistics can be collected from the model: <why>; {_ADVICE}"),
        _Collector(
            model, sites, kinds=kinds, rows_per_batch=-(-SAMPLE_ROWS // max(len(batches), 1))
        ) as collector,
        torch.set_grad_enabled(gradients),
    ):
        for done, batch in enumerate(batches):
            progress(done, len(batches))
            collector.start_batch(batch)
            output = task.output(model, batch)
            if not torch.isfinite(output).all():
                raise ModelError(
                    "the model's output is not finite on the calibration data; look for extreme "
                    "weights, or NaN among the values of its config.json"
                )
            items += task.items(output, batch)
            if gradients:
                signals = list(task.curvature_signals(output, batch, generator=generator))
                draws = len(signals)
                for i, signal in enumerate(signals):
                    signal.backward(retain_graph=i + 1 < draws)
        progress(len(batches), len(batches))
    if not items:
        raise CalibrationError(NOTHING_JUDGED)
    for site in sites:
        if site.name not in collector.rows:
            raise ModelError(
                f"{site.name} does not run on the calibration data; leave it dense with "
                f"{option_name('method.ignore')} '{site.name}'"
            )
    for kind, site in itertools.product(sorted(kinds & GRADIENT_MOMENTS), sites):
        if f"{kind}:{site.name}" not in collector.sums:
            raise ModelError(
                f"no gradient reaches {site.name}: the model's code is not differentiable there; "
                f"leave it dense with {option_name('method.ignore')} '{site.name}' or {_ADVICE}"
            )
    for name, rows in collector.samples.items():
        collector.sums[f"sample:{name}"] = torch.cat(rows)
    for key, total in collector.sums.items():
        kind, _, name = key.partition(":")
        if not torch.isfinite(total).all():
            what = "activations" if kind in INPUT_MOMENTS else "gradients"
            raise ModelError(
                f"{what} at {name} are not finite on the calibration data; nothing was dropped, "
                "repair the model or the data"
            )
        if kind in SAMPLES:
            continue
        per_row = {**dict.fromkeys(INPUT_MOMENTS, 1), "grad": draws}
        total /= collector.rows[name] * per_row[kind] if kind in per_row else items * draws
    return Statistics(
        moments=collector.sums,
        input_group=dict(collector.input_group),
        rows=dict(collector.rows),
        rows_per_item={name: rows / items for name, rows in collector.rows.items()},
    )


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write to one safetensors file; the maps travel in its metadata."""
    maps = {
        "input_group": statistics.input_group,
        "rows": statistics.rows,
        "rows_per_item": statistics.rows_per_item,
    }
    save_file(statistics.moments, path, {"maps": json.dumps(maps)})


def load_statistics(path: Path) -> Statistics:
    """Read the statistics that `save_statistics` wrote."""
    with safe_open(path, framework="pt") as file:
        maps = json.loads(file.metadata()["maps"])
        moments = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return Statistics(moments=moments, **maps)
