"""One run's fixed parts: the request, the loaded model and where it must run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autotune.compress.decode import decode_inputs
from autotune.compress.loading import LoadedModel, load_model
from autotune.compress.sites import Sites, count_tokens, find_sites
from autotune.compress.tasks import Task, make_task
from autotune.core.errors import UsageError
from autotune.core.progress import Reporter
from autotune.core.runfolder import RunFolder
from autotune.core.types import Fingerprint, LayerShape, Site, Workload
from autotune.devices.detect import PresentDevice
from autotune.profiler.backends import Backend
from autotune.profiler.measure.points import fingerprint_of
from autotune.profiler.measure.shard import ShardRunner
from autotune.tune.request import TuneRequest
from autotune.tune.target import Target


@dataclass(frozen=True, kw_only=True)
class Context:
    """One run's fixed parts: the request, the loaded model and where it runs."""

    request: TuneRequest
    folder: RunFolder
    reporter: Reporter
    loaded: LoadedModel
    task: Task
    sites: Sites
    target: Target
    threads: int

    @property
    def device(self) -> PresentDevice:
        """Where the budget must hold."""
        return self.target.device

    @property
    def backend(self) -> Backend:
        """What runs the model there."""
        return self.target.backend

    @property
    def dtype(self) -> str:
        """Of the weights and activations there."""
        return self.target.dtype

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the device, backend and dtype; of the table of a device elsewhere."""
        if not self.target.is_here:
            return self.target.table.fingerprint
        return fingerprint_of(self.device, self.backend, self.dtype, self.threads)

    @property
    def joint(self) -> tuple[Site, ...]:
        """Layers with one input that this run may factorize together (docs/methods/joint.md)."""
        return self.sites.joint if self.request.offers_joint else ()

    @property
    def units(self) -> tuple[Site, ...]:
        """Layers and joint sites: everything that is measured, factorized and chosen from."""
        return (*self.sites.sites, *self.joint)

    def units_in(self, run: str) -> tuple[Site, ...]:
        """The units on the tokens of one pass, "prefill" or "decode" (a token a sequence)."""
        return on_pass(self.units, run, self.request.workload)

    def example_inputs(self, run: str) -> dict[str, Tensor]:
        """Random inputs of one pass of the workload."""
        workload, model = self.request.workload, self.loaded.model
        if run == "prefill":
            return self.task.example_inputs(model, workload)
        return decode_inputs(model, workload.batch_size, workload.past_length)

    @property
    def runner(self) -> ShardRunner:
        """Runs measurements in fresh processes."""
        return ShardRunner.on(self.device, self.backend, self.threads)

    @property
    def model_key(self) -> dict[str, Any]:
        """What every stage that runs the model depends on."""
        import transformers

        return {
            "weights": self.loaded.weights_sha256,
            "task": self.loaded.task,
            "sites": [site.name for site in self.sites.sites],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


def on_pass(units: tuple[Site, ...], run: str, workload: Workload) -> tuple[Site, ...]:
    """Units of the whole sequence as one pass meets them: a decode step has a token a sequence."""
    if run == "prefill":
        return units
    return tuple(replace(unit, tokens=workload.batch_size) for unit in units)


def model_shapes(model: str, workload: Workload, dtype: str) -> list[LayerShape]:
    """The dense layers of a model on a workload, single and with one input, each shape once.

    Raises:
        ModelError: missing or unreadable.
        UsageError: the workload does not suit the model.
    """
    loaded = load_model(model)
    _check_workload(workload, loaded)
    inputs = make_task(loaded.task, loaded.folder).example_inputs(loaded.model, workload)
    sites = count_tokens(loaded.model, find_sites(loaded.model), inputs)
    units = (*sites.sites, *sites.joint)
    found = (unit for run in workload.passes for unit in on_pass(units, run, workload))
    return sorted({unit.shape(None, dtype) for unit in found})


def make_context(
    request: TuneRequest, folder: RunFolder, reporter: Reporter, loaded: LoadedModel,
    target: Target, threads: int,
) -> Context:  # fmt: skip
    """Find the sites of the loaded model and count their tokens under the workload."""
    task = make_task(loaded.task, loaded.folder)
    sites = find_sites(loaded.model, request.method.targets, request.method.ignore)
    _check_workload(request.workload, loaded)
    inputs = task.example_inputs(loaded.model, request.workload)
    return Context(
        request=request, folder=folder, reporter=reporter, loaded=loaded, task=task,
        sites=count_tokens(loaded.model, sites, inputs), target=target, threads=threads,
    )  # fmt: skip


def _check_workload(workload: Workload, loaded: LoadedModel) -> None:
    if workload.phase != "prefill" and loaded.task != "causal-lm":
        raise UsageError(
            f"--phase {workload.phase} asks for decode steps, and a {loaded.task} model has none; "
            "leave it out"
        )
    # A decode step adds a token whatever the output's length.
    steps = workload.output_length or int(workload.phase == "decode")
    length = workload.sequence_length + steps
    limit = getattr(loaded.config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise UsageError(
            f"--isl {workload.sequence_length} and {steps} steps (--osl) need {length} positions, "
            f"the model has {limit}"
        )
