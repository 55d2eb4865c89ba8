"""Builders: how a model, dense or with a plan applied, becomes what a backend runs.

A backend names its builder (`Backend.builder_for`). Every build lies in the run folder's cache, in
an entry whose name carries the hash of everything it was made from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from autotune.compress.precisions import check_precisions
from autotune.core.forms import Plan
from autotune.core.registry import Registry
from autotune.core.types import Workload, canonical_json
from autotune.tuning.compression import Compression
from autotune.tuning.machine import Machine
from autotune.tuning.model import TracedModel
from autotune.tuning.workspace import Workspace

_GRAPHS = "autotune.tuning.graph_builders"
BUILDERS = Registry(
    "builder",
    "autotune.builders",
    own={
        "checkpoint": "autotune.tuning.builders:CheckpointBuilder",
        "onnx": f"{_GRAPHS}:OnnxBuilder",
        "openvino-onnx": f"{_GRAPHS}:OpenVinoBuilder",
        "typed-onnx": f"{_GRAPHS}:TypedOnnxBuilder",
        "engine-onnx": f"{_GRAPHS}:EngineOnnxBuilder",
    },
)


class Builder(ABC):
    """Builds one model for one machine.

    Contract (`autotune.testing.suites.builder` checks it):
    - `dense` and `compressed` return what the backend opens in a phase; built once, then reused.
    - A compressed build applies the plan itself and leaves the model dense: no build is made of
      "the model as it stands in memory".
    - A build that fails leaves nothing behind.
    """

    def __init__(self, model: TracedModel, machine: Machine, *, workspace: Workspace) -> None:
        self.model = model
        self.machine = machine
        self.workspace = workspace

    @abstractmethod
    def dense(self, phase: str) -> Path:
        """The dense model as the backend runs it in `phase`.

        Raises:
            ModelError: the model cannot be exported.
        """

    @abstractmethod
    def compressed(self, phase: str, compression: Compression, *, plan: Plan) -> Path:
        """The model with `plan` applied, as the backend runs it in `phase`.

        Raises:
            UsageError: the plan has a precision that the backend lacks.
            ModelError: the model cannot be exported.
        """

    def inputs(self, phase: str, workload: Workload | None = None) -> Path:
        """Random inputs of one phase, as a safetensors file of named tensors.

        `workload` stands for the model's own where it is given.
        """
        model = self.model if workload is None else replace(self.model, workload=workload)
        key = {**model.key, "workload": model.shape_key(phase)}
        return self.workspace.file(
            "inputs",
            key,
            suffix=".safetensors",
            build=lambda path: save_file(model.example_inputs(phase), path),
        )

    def key(self, build: Path) -> str:
        """The name of the cache entry that holds a build, which carries the hash of its inputs."""
        return build.relative_to(self.workspace.cache).parts[0]


def make_builder(model: TracedModel, machine: Machine, *, workspace: Workspace) -> Builder:
    """The builder that the machine's backend needs in its dtype.

    Raises:
        UsageError: no builder of that name is known.
    """
    name = machine.backend.builder_for(machine.dtype)
    kind: type[Builder] = BUILDERS.load(name)
    return kind(model, machine, workspace=workspace)


class CheckpointBuilder(Builder):
    """A transformers checkpoint in the machine's dtype, for the torch backends."""

    def dense(self, phase: str) -> Path:
        """The same folder serves every phase."""
        del phase
        return self._save("dense", self.model.key, applied=nullcontext())

    def compressed(self, phase: str, compression: Compression, *, plan: Plan) -> Path:
        """The same folder serves every phase."""
        del phase
        check_precisions(plan, self.machine.backend.name)
        return self._save(
            "compressed", compression.plan_key(plan), applied=compression.applied(plan)
        )

    def _save(
        self,
        name: str,
        key: Mapping[str, Any],
        *,
        applied: AbstractContextManager[nn.Module | None],
    ) -> Path:
        from autotune.compress.checkpoint import save_checkpoint

        dtype, loaded = self.machine.dtype, self.model.loaded

        def build(path: Path) -> None:
            with applied:
                save_checkpoint(loaded.model, None, folder=path, dtype=dtype)
            (path / "task.json").write_text(canonical_json({"task": loaded.task, "dtype": dtype}))

        return self.workspace.file(name, {**key, "dtype": dtype}, suffix="", build=build)
