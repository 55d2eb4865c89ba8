"""The model of a tuning: loaded, with its sites and the tokens each of them sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autotune.compress.decode import cached, decode_inputs
from autotune.compress.loading import LoadedModel, load_model
from autotune.compress.positions import max_positions, stated_positions
from autotune.compress.sites import Sites, count_tokens, find_sites, kv_cache_bytes
from autotune.compress.tasks import Task, make_task, task_class
from autotune.core.errors import ModelError, UsageError, foreign_code, option_name
from autotune.core.forms import DENSE, NATIVE, PLAIN, Form
from autotune.core.layers import LayerShape, Site
from autotune.core.types import Workload
from autotune.devices.specs import DTYPE_BYTES


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """A loaded model, its task, and its sites with their tokens under the workload.

    `joint` are the joint sites that plans may use: layers with one input, which may share a down
    factor (docs/methods/joint.md). `structures` and `precisions` are those that forms may have.
    """

    loaded: LoadedModel
    task: Task
    workload: Workload
    sites: Sites
    joint: tuple[Site, ...]
    structures: tuple[str, ...] = (PLAIN,)
    precisions: tuple[str, ...] = (NATIVE,)

    @property
    def single(self) -> tuple[Site, ...]:
        """The sites, each a layer by itself."""
        return self.sites.sites

    @property
    def choices(self) -> tuple[Site, ...]:
        """Sites and joint sites: everything that a plan may give a form."""
        return (*self.sites.sites, *self.joint)

    def choices_in(self, phase: str) -> tuple[Site, ...]:
        """The sites and joint sites with the tokens they see in `phase`."""
        return in_phase(self.choices, phase, workload=self.workload)

    def dense_shapes(self, phase: str, dtype: str) -> list[LayerShape]:
        """The distinct dense shapes of one phase, sorted."""
        return sorted({site.shape(DENSE, dtype) for site in self.choices_in(phase)})

    def example_inputs(self, phase: str) -> dict[str, Tensor]:
        """Random inputs of one phase of the workload."""
        if phase == "prefill":
            return self.task.example_inputs(self.loaded.model, self.workload)
        return decode_inputs(
            self.loaded.model, self.workload.batch_size, past_length=self.workload.past_length
        )

    @property
    def parameters(self) -> int:
        """Parameters of the dense model."""
        return sum(p.numel() for p in self.loaded.model.parameters())

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of the dense model's parameters in `dtype`."""
        return self.parameters * DTYPE_BYTES[dtype]

    def kv_cache_bytes(self, dtype: str) -> int:
        """Bytes of keys and values in `dtype` for the workload's tokens; 0 without a decoder."""
        if not self.task.has_decode:
            return 0
        try:
            cache = cached(self.loaded.model, torch.zeros(1, 2, dtype=torch.long))
        except ModelError:  # a cache of states: as many bytes as keys and values at most
            return kv_cache_bytes(self.loaded.config, self.workload, dtype=dtype)
        tokens = self.workload.tokens + self.workload.batch_size * self.workload.output_length
        values = sum(tensor.numel() for tensor in cache.values()) // 2  # of one token
        return values * tokens * DTYPE_BYTES[dtype]

    def shape_key(self, phase: str) -> dict[str, Any]:
        """What the shapes of one phase depend on, for cache keys."""
        if phase == "prefill":
            names = ("batch_size", "sequence_length")
        else:
            names = ("batch_size", "past_length")
        return {name: getattr(self.workload, name) for name in names}

    @property
    def key(self) -> dict[str, Any]:
        """What every cached result of running this model depends on."""
        import transformers

        return {
            "weights": self.loaded.weights_sha256,
            "task": self.loaded.task,
            **({"judged": dict(self.task.setup)} if self.task.setup else {}),
            "sites": [site.name for site in self.sites.sites],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


def trace_model(
    loaded: LoadedModel,
    workload: Workload,
    *,
    targets: Sequence[str] = (),
    ignore: Sequence[str] = (),
    joint: bool = True,
    structures: tuple[str, ...] = (PLAIN,),
    precisions: tuple[str, ...] = (NATIVE,),
) -> TracedModel:
    """Find the sites of a loaded model and count their tokens under `workload`.

    `targets` and `ignore` are regular expressions of module names; without `joint` no joint sites
    are offered. `structures` and `precisions` are those that forms may have.

    Raises:
        UsageError: the model has no decode phase, or too few positions for the workload; a pattern
            that matches nothing or is not a regular expression.
    """
    check_workload(workload, loaded)
    check_positions(workload, max_positions(loaded.model))
    task = make_task(loaded.task, loaded.folder)
    workload = task.fitted(loaded.model, workload)
    sites = find_sites(loaded.model, tuple(targets), ignore=tuple(ignore))
    with foreign_code(_not_run(loaded)):
        inputs = task.example_inputs(loaded.model, workload)
        sites = count_tokens(loaded.model, sites, inputs=inputs)
        one = replace(workload, batch_size=1)  # has its output what the task reads?
        task.output(loaded.model, task.example_inputs(loaded.model, one))
    if "decode" in workload.passes:
        decode_inputs(loaded.model, 1, past_length=1)
    return TracedModel(
        loaded=loaded,
        task=task,
        workload=workload,
        sites=sites,
        joint=sites.joint if joint else (),
        structures=structures,
        precisions=precisions,
    )


def dense_layers(model: TracedModel, precision: str, *, dtype: str) -> list[LayerShape]:
    """The dense layers of all phases in a precision."""
    return [
        site.shape(Form(precision=precision), dtype)
        for phase in model.workload.passes
        for site in model.choices_in(phase)
    ]


def _not_run(loaded: LoadedModel) -> str:
    """What to report of a model that does not run on what its task feeds it."""
    name = type(loaded.model).__name__
    if loaded.config.is_encoder_decoder:
        return (
            f"{loaded.name} is an encoder-decoder model ({name}), which is not supported: save its "
            "encoder as a model of its own (such as T5EncoderModel) and tune that"
        )
    return (
        f"{loaded.name} ({name}) does not run on the inputs of the task {loaded.task}: <why>; only "
        "models of text, images or both can be tuned"
    )


def in_phase(sites: tuple[Site, ...], phase: str, *, workload: Workload) -> tuple[Site, ...]:
    """The sites with the tokens of one phase: a decode step has one token per sequence."""
    if phase == "prefill":
        return sites
    return tuple(replace(site, tokens=workload.batch_size) for site in sites)


def model_shapes(model: str, workload: Workload, *, dtype: str) -> list[LayerShape]:
    """The distinct dense layers, single and joint, of a model under a workload, sorted.

    Raises:
        ModelError: the model is missing or unreadable.
        UsageError: the workload does not suit the model.
    """
    traced = trace_model(load_model(model), workload)
    return sorted({s for phase in workload.passes for s in traced.dense_shapes(phase, dtype)})


def check_workload(workload: Workload, loaded: LoadedModel) -> None:
    """Check that the model can run the workload.

    Raises:
        UsageError: it has no decode phase, or too few positions.
    """
    check_phases(workload, task=loaded.task, config=loaded.config)


def check_phases(workload: Workload, *, task: str, config: Any) -> None:
    """Check that a model of a task can run the workload, by its configuration.

    Raises:
        UsageError: it has no decode phase, or too few positions.
    """
    if workload.phase != "prefill" and not task_class(task).has_decode:
        lacks = f"asks for decode steps, which a model of the task {task} does not have"
        if workload.output_length:
            osl = f"{option_name('workload.output_length')} {workload.output_length}"
            raise UsageError(f"{osl} {lacks}; leave it out")
        phase = f"{option_name('workload.phase')} {workload.phase}"
        raise UsageError(f"{phase} {lacks}; use phase prefill")
    check_positions(workload, stated_positions(config))


def check_positions(workload: Workload, limit: int | None) -> None:
    """Check that the workload fits into the model's positions.

    Raises:
        UsageError: it has too few of them.
    """
    # A decode step adds a token whatever the length of the output.
    steps = workload.output_length or int(workload.phase == "decode")
    length = workload.sequence_length + steps
    if limit is not None and length > limit:
        raise UsageError(
            f"{option_name('workload.sequence_length')} {workload.sequence_length} and {steps} "
            f"decode steps ({option_name('workload.output_length')}) need {length} positions; the "
            f"model has {limit}"
        )
