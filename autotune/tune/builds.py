"""Models of a run as its backend runs them: checkpoint folders, ONNX graphs, graphs for engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.compress.onnx_checkpoint import GRAPHS
from autotune.compress.onnx_decode import export_decode
from autotune.compress.onnx_export import export_dense
from autotune.compress.onnx_trace import OPSET
from autotune.export.graphs import (
    engine_opset,
    lowered,
    open_checkpoint,
    trace_graphs,
    traced_opset,
    versions,
)
from autotune.tune.context import Context


def dense_artefact(context: Context, run: str = "prefill") -> Path:
    """The dense model as the backend runs it in a pass: a checkpoint folder, or an ONNX file."""
    if context.backend.runs == "checkpoint":
        return checkpoint_artefact(context, "dense", {}, context.model_key)
    if is_typed(context):
        return typed_graph(context, run, "dense", {}, context.model_key)
    import onnx

    inputs = {**context.model_key, "opset": OPSET, "onnx": onnx.__version__}
    model, sites = context.loaded.model, [site.name for site in context.sites.sites]

    def build(path: Path) -> None:
        path.mkdir()
        with context.reporter.stage(f"export the dense model, {run}") as advance:
            if run == "decode":
                export_decode(model, sites, path / GRAPHS[run], advance)
            else:
                workload = context.request.workload
                export_dense(model, context.task, sites, workload, path / GRAPHS[run], advance)

    name = "dense" if run == "prefill" else f"dense-{run}"
    return context.folder.stage(name, inputs, "", build)[0] / GRAPHS[run]


def is_typed(context: Context) -> bool:
    """Whether graphs are in the device's own dtype; in fp32 the model in memory serves as it is."""
    return context.backend.runs == "engine" or context.dtype != "fp32"


def checkpoint_artefact(
    context: Context, name: str, plan: Mapping[str, str], key: Mapping[str, Any]
) -> Path:
    """The model as it stands in memory, saved as a folder that torch-eager times."""
    from autotune.compress.checkpoint import save_checkpoint
    from autotune.core.types import canonical_json

    def build(path: Path) -> None:
        save_checkpoint(context.loaded.model, None, path, dtype=context.dtype)
        facts = {"task": context.loaded.task, "dtype": context.dtype}
        (path / "task.json").write_text(canonical_json(facts))

    inputs = {**key, "plan": dict(plan), "dtype": context.dtype}
    return context.folder.stage(name, inputs, "", build)[0]


def artefact_key(context: Context, artefact: Path) -> str:
    """The cache entry that holds the artefact; its name carries the hash of its inputs."""
    return artefact.relative_to(context.folder.cache).parts[0]


def typed_graph(
    context: Context, run: str, name: str, plan: Mapping[str, str], key: Mapping[str, Any]
) -> Path:
    """The model as it stands in memory, as the graph of one pass in the device's dtype."""
    checkpoint = checkpoint_artefact(context, name, plan, key)
    opset = engine_opset() if context.backend.runs == "engine" else OPSET

    def build(path: Path) -> None:
        loaded, dtype = open_checkpoint(checkpoint, context.dtype)
        graphs = trace_graphs(loaded, (run,), path, dtype, context.reporter, traced_opset(opset))
        lowered(graphs[run], opset)

    saved = artefact_key(context, checkpoint)
    inputs = {"checkpoint": saved, "run": run, "opset": opset, "versions": versions()}
    return context.folder.stage(f"{name}-graph", inputs, "", build)[0] / GRAPHS[run]
