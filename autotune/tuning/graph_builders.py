"""Builders of ONNX graphs, which compare the dense one with the model before it is measured."""

from __future__ import annotations

from pathlib import Path

from autotune.compress.loading import LoadedModel
from autotune.compress.onnx_checkpoint import GRAPHS
from autotune.compress.onnx_decode import export_decode
from autotune.compress.onnx_export import export_dense
from autotune.compress.onnx_rewrite import copy_with_metadata, only_low_rank, rewrite_low_rank
from autotune.compress.onnx_trace import ADVICE, OPSET, TRACE_VERSION
from autotune.compress.precisions import check_precisions
from autotune.core.errors import ModelError, ParityError
from autotune.core.forms import Plan, plan_to_json
from autotune.export.graphs import (
    engine_opset,
    lowered,
    open_checkpoint,
    trace_graphs,
    traced_opset,
    versions,
)
from autotune.export.parity import NETWORKS, check_parity
from autotune.profiler.backends.openvino_cpu import INFERENCE_DTYPE
from autotune.tuning.builders import Builder, CheckpointBuilder
from autotune.tuning.compression import Compression

# What the dense graph is compared at: tokens of the workload, and other shapes.
_CHECKED_TOKENS = 4096
_CHECKED_TOO = ((1, 7), (3, 260))


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
        runtime: str = "",
    ) -> None:
        """Compare a dense graph with what transformers makes of `loaded`, which is in its dtype.

        In onnxruntime, or in another `runtime`; one that is not installed here compares nothing.

        Raises:
            ModelError: it does not run at some shape, or computes something else.
        """
        try:
            network = NETWORKS[runtime](graph)
        except ImportError:  # a host that tunes for a worker of a farm
            self.workspace.note(
                f"the dense graph is not compared with the model: {runtime or 'onnxruntime'} is "
                "not installed here"
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
            "trace": TRACE_VERSION,
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
            "trace": TRACE_VERSION,
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
