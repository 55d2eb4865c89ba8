"""Export the checkpoint of a tuning or any other to ONNX, and compare the graphs with it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.errors import UsageError, option_name, storage_errors
from autotune.core.files import partial_path, require_writable, write_whole
from autotune.core.progress import Reporter
from autotune.export.graphs import forms, open_checkpoint, trace_graphs, tuned_for, versions
from autotune.export.manifest import (
    Manifest,
    ParityRecord,
    read_manifest_json,
    require_own_export,
    write_manifest,
)

if TYPE_CHECKING:
    from autotune.compress.loading import LoadedModel

ADVICE = f"set {option_name('output')} to a writable folder"


def export_onnx(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    dtype: str | None = None,
    decode: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write `model.onnx`, with `decode` also `model_decode.onnx`, and a manifest into `output`.

    `folder` is a checkpoint or the folder of a tuning; `output` a new folder (default:
    `onnx-<dtype>` in it); `dtype` fp32 or fp16, by default fp16 for weights in fp16 and else fp32.
    Every graph is compared with the checkpoint in onnxruntime at shapes that it was not traced at.

    Returns:
        The manifest: files with their sha256, parity, versions, forms.

    Raises:
        UsageError: no checkpoint there, an unknown dtype, or no decoder where one is asked for.
        ModelError: it does not trace, or a pair is not two products in the graph.
        ParityError: a graph computes something else.
        StorageError: the disk is full; nothing half-written stays.
    """
    from autotune.export.parity import check_parity, onnx_network

    reporter = reporter or Reporter()
    if output is not None:
        new_folder(folder, output, name="")  # refused before anything is loaded
    loaded, kind = open_checkpoint(folder, dtype)
    phases = exported_phases(loaded, decode)
    target = new_folder(folder, output, name=f"onnx-{kind}")
    parity: dict[str, ParityRecord] = {}

    def build(path: Path) -> None:
        for name, graph in trace_graphs(
            loaded, phases, path=path, dtype=kind, reporter=reporter
        ).items():
            with reporter.stage(f"compare {graph.name} with the checkpoint") as advance:
                parity[graph.name] = check_parity(
                    loaded,
                    name,
                    network=onnx_network(graph),
                    dtype=kind,
                    what=graph.name,
                    progress=advance,
                )
        facts = base_manifest(loaded, folder, target=target, form="onnx", dtype=kind)
        write_manifest(path, replace(facts, parity=parity))

    write_whole(target, build, advice=ADVICE)
    return {"output": str(target), **read_manifest_json(target)}


def exported_phases(loaded: LoadedModel, decode: bool) -> tuple[str, ...]:
    """What is exported: whole sequences, and with `decode` one step of a decoder too.

    Raises:
        UsageError: the model is no decoder.
    """
    if decode and not loaded.kind.has_decode:
        raise UsageError(
            f"{option_name('decode')} cannot be used: a model of the task {loaded.task} has no "
            "decode step; leave it out"
        )
    return ("prefill", "decode") if decode else ("prefill",)


def new_folder(folder: str | Path, output: str | Path | None, *, name: str) -> Path:
    """The folder that an export is written to, which is checked before anything is computed.

    Raises:
        UsageError: it exists and is not an export, or holds files that are not the export's.
        StorageError: it cannot be written.
    """
    target = Path(output) if output else Path(folder) / name
    with storage_errors(target, ADVICE):
        if target.is_symlink() or target.exists():
            require_own_export(target)
    require_writable(partial_path(target), shown=target, advice=ADVICE)
    return target


def base_manifest(
    loaded: LoadedModel, folder: str | Path, *, target: Path, form: str, dtype: str
) -> Manifest:
    """What every export says of itself; where its checkpoint is seen from it, as both may move."""
    return Manifest(
        format=form,
        dtype=dtype,
        checkpoint=os.path.relpath(folder, target),
        weights_sha256=loaded.weights_sha256,
        device=tuned_for(loaded),
        forms=forms(loaded),
        versions=versions(),
    )
