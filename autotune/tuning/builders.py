"""Builders: how a model, dense or with a plan applied, becomes what a backend runs.

A backend names its builder (`Backend.builder_for`). Every build lies in the run folder's cache, in
an entry whose name carries the hash of everything it was made from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from autotune.compress.loading import LoadedModel
from autotune.compress.onnx_checkpoint import GRAPHS
from autotune.compress.onnx_decode import export_decode
from autotune.compress.onnx_export import export_dense
from autotune.compress.onnx_rewrite import copy_with_metadata, only_low_rank, rewrite_low_rank
from autotune.compress.onnx_trace import ADVICE, OPSET
from autotune.compress.precisions import check_precisions
from autotune.core.errors import ModelError, ParityError
from autotune.core.forms import Plan, plan_to_json
from autotune.core.registry import Registry
from autotune.core.types import canonical_json
from autotune.export.graphs import (
    engine_opset,
    lowered,
    open_checkpoint,
    trace_graphs,
    traced_opset,
    versions,
)
from autotune.export.parity import check_parity, onnx_network, openvino_network
from autotune.profiler.backends.openvino_cpu import INFERENCE_DTYPE
from autotune.tuning.compression import Compression
from autotune.tuning.machine import Machine
from autotune.tuning.model import TracedModel
from autotune.tuning.workspace import Workspace

# What the dense graph is compared at: tokens of the workload, and other shapes.
_CHECKED_TOKENS = 4096
_CHECKED_TOO = ((1, 7), (3, 260))
_NETWORKS = {"onnxruntime": onnx_network, "OpenVINO": openvino_network}
_HERE = "autotune.tuning.builders"
BUILDERS = Registry(
    "builder",
    "autotune.builders",
    own={
        "checkpoint": f"{_HERE}:CheckpointBuilder",
        "onnx": f"{_HERE}:OnnxBuilder",
        "openvino-onnx": f"{_HERE}:OpenVinoBuilder",
        "typed-onnx": f"{_HERE}:TypedOnnxBuilder",
        "engine-onnx": f"{_HERE}:EngineOnnxBuilder",
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

    def inputs(self, phase: str) -> Path:
        """Random inputs of one phase, as a safetensors file of named tensors."""
        key = {**self.model.key, "workload": self.model.shape_key(phase)}
        return self.workspace.file(
            "inputs",
            key,
            suffix=".safetensors",
            build=lambda path: save_file(self._inputs(phase), path),
        )

    def _inputs(self, phase: str) -> Any:
        return self.model.example_inputs(phase)

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


class _Checked(Builder):
    """A builder of graphs, which compares the dense one with the model before it is measured."""

    def checked(self, phase: str) -> list[tuple[int, int]]:
        """(batch, length) of the comparison: the workload's own, a short single one, and 3 long.

        260 tokens are more than what was traced and than the chunks and windows of most models; the
        code of some drops the dimension of a batch of one.
        Of a large batch only so many sequences are compared as have 4,096 tokens together.
        """
        workload = self.model.workload
        length = workload.past_length if phase == "decode" else workload.sequence_length
        batch = min(workload.batch_size, max(1, _CHECKED_TOKENS // length))
        return [(batch, length), *_CHECKED_TOO]

    def check(
        self,
        graph: Path,
        phase: str,
        *,
        loaded: LoadedModel,
        dtype: str,
        runtime: str | None = None,
    ) -> None:
        """Compare a dense graph with what transformers makes of `loaded`, which is in its dtype.

        In onnxruntime, or in another `runtime`; one that is not installed here compares nothing.

        Raises:
            ModelError: it does not run at some shape, or computes something else.
        """
        name = runtime or "onnxruntime"
        try:
            network = _NETWORKS[name](graph)
        except ImportError:  # a host that tunes for a worker of a farm
            self.workspace.note(
                f"the dense graph is not compared with the model: {name} is not installed here"
            )
            return
        where = f" in {runtime}" if runtime else ""
        label = f"compare the dense graph with the model{where}, {phase}"
        with self.workspace.stage(label) as advance:
            try:
                check_parity(
                    loaded,
                    phase,
                    network=network,
                    dtype=dtype,
                    what=f"the exported graph{where}",
                    shapes=self.checked(phase),
                    progress=advance,
                )
            except ParityError as error:
                raise ModelError(f"the model has no right ONNX graph: {error}; {ADVICE}") from error


class OnnxBuilder(_Checked):
    """ONNX graphs in fp32: the dense model is traced once, plans rewrite its graph."""

    def dense(self, phase: str) -> Path:
        """`model.onnx`, or `model_decode.onnx` of one decode step."""
        import onnx

        loaded, sites = self.model.loaded, [site.name for site in self.model.single]

        def build(path: Path) -> None:
            path.mkdir()
            graph = path / GRAPHS[phase]
            with self.workspace.stage(f"export the dense model, {phase}") as advance:
                if phase == "decode":
                    export_decode(loaded.model, sites, path=graph, progress=advance)
                else:
                    export_dense(
                        loaded.model,
                        self.model.task,
                        sites=sites,
                        workload=self.model.workload,
                        path=graph,
                        progress=advance,
                    )
            self.check(graph, phase, loaded=loaded, dtype="fp32")

        key = {
            **self.model.key,
            "opset": OPSET,
            "onnx": onnx.__version__,
            "checked": self.checked(phase),
        }
        name = "dense" if phase == "prefill" else f"dense-{phase}"
        return self.workspace.file(name, key, suffix="", build=build) / GRAPHS[phase]

    def compressed(self, phase: str, compression: Compression, *, plan: Plan) -> Path:
        """The dense graph with a pair of products in the place of every factorized layer."""
        check_precisions(plan, self.machine.backend.name)
        dense = self.dense(phase)

        def build(path: Path) -> None:
            layers = compression.layers(plan)
            metadata = {
                "autotune.ranks": {n: each.rank for n, each in only_low_rank(layers).items()},
                "autotune.plan": plan_to_json(plan),
                "autotune.device": self.machine.device_name,
                "autotune.backend": self.machine.backend.name,
            }
            path.mkdir()
            rewrite_low_rank(dense, layers, path=path / GRAPHS[phase], metadata=metadata)

        key = {**compression.plan_key(plan), "dense": self.key(dense)}
        return self.workspace.file("compressed", key, suffix="", build=build) / GRAPHS[phase]


class OpenVinoBuilder(OnnxBuilder):
    """The same graphs, which name the dtype that OpenVINO shall run them in."""

    def dense(self, phase: str) -> Path:
        """A copy of the traced graph, compared with the model in OpenVINO too."""
        traced, dtype = super().dense(phase), self.machine.dtype

        def build(path: Path) -> None:
            path.mkdir()
            graph = path / GRAPHS[phase]
            copy_with_metadata(traced, graph, metadata={INFERENCE_DTYPE: dtype})
            self.check(graph, phase, loaded=self.model.loaded, dtype=dtype, runtime="OpenVINO")

        key = {
            "traced": self.key(traced),
            "checked": self.checked(phase),
            "dtype": dtype,
            "openvino": self.machine.fingerprint.versions.get("openvino", ""),
        }
        return self.workspace.file("dense-openvino", key, suffix="", build=build) / GRAPHS[phase]


class TypedOnnxBuilder(CheckpointBuilder, _Checked):
    """ONNX graphs in the machine's own dtype, traced from a checkpoint of the model."""

    def graph_opset(self) -> int:
        """The opset of the graphs."""
        return OPSET

    def dense(self, phase: str) -> Path:
        """Traced from the dense checkpoint."""
        return self._graph("dense", phase, checkpoint=super().dense(phase))

    def compressed(self, phase: str, compression: Compression, *, plan: Plan) -> Path:
        """Traced from the compressed checkpoint."""
        return self._graph(
            "compressed", phase, checkpoint=super().compressed(phase, compression, plan=plan)
        )

    def _graph(self, name: str, phase: str, *, checkpoint: Path) -> Path:
        opset = self.graph_opset()

        def build(path: Path) -> None:
            loaded, dtype = open_checkpoint(checkpoint, self.machine.dtype)
            reporter = self.workspace.reporter
            graphs = trace_graphs(
                loaded,
                (phase,),
                path=path,
                dtype=dtype,
                reporter=reporter,
                opset=traced_opset(opset),
            )
            lowered(graphs[phase], opset)
            if name == "dense":
                self.check(graphs[phase], phase, loaded=loaded, dtype=dtype)

        key = {
            "checkpoint": self.key(checkpoint),
            "checked": self.checked(phase),
            "run": phase,
            "opset": opset,
            "versions": versions(),
        }
        return self.workspace.file(f"{name}-graph", key, suffix="", build=build) / GRAPHS[phase]


class EngineOnnxBuilder(TypedOnnxBuilder):
    """The same at the opset of the TensorRT that builds engines on the machine."""

    def graph_opset(self) -> int:
        """What that TensorRT's parser reads."""
        version = self.machine.fingerprint.versions.get("tensorrt", "")
        if not version:
            return engine_opset()
        return engine_opset(8 if int(version.partition(".")[0]) < 10 else 10)
