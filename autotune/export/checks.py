"""Checks of one export folder: hashes, parity of its graphs, and its engines."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from autotune.core.files import file_sha256
from autotune.core.progress import Reporter
from autotune.export.manifest import Manifest, open_manifest
from autotune.results.checks import (
    Check,
    CheckKind,
    EngineFacts,
    Finding,
    ParityFacts,
    run_check,
)


def check_export(folder: Path, reporter: Reporter) -> list[Check]:
    """Compare an export's files with its manifest, and its graphs and engines with its checkpoint.

    Raises:
        UsageError: the folder has no manifest, or one that cannot be read.
    """
    manifest, export = open_manifest(folder), folder.name
    checks = [
        run_check(
            partial(check_hash, folder / name, expected),
            CheckKind.HASH,
            subject=f"{export}/{name}",
            export=export,
        )
        for name, expected in manifest.files.items()
    ]
    checks += [
        run_check(
            partial(_graph_parity, folder, name, manifest=manifest, reporter=reporter),
            CheckKind.PARITY,
            subject=f"{export}/{name}",
            export=export,
            phase=phase_of(name),
        )
        for name in manifest.parity
    ]
    checks += [
        run_check(
            partial(_engine, folder, phase, manifest=manifest, reporter=reporter),
            CheckKind.ENGINE,
            subject=f"{export}/{phase}",
            export=export,
            phase=phase,
        )
        for phase in manifest.engines
    ]
    return checks


def check_hash(path: Path, expected: str) -> Finding:
    """Compare the sha256 of a file with the one that was recorded."""
    if not path.is_file():
        return Finding(reason=f"{path} is missing")
    if file_sha256(path) != expected:
        return Finding(reason=f"{path} has been changed since it was written (sha256 differs)")
    return Finding()


def phase_of(graph: str) -> str:
    """The phase that a graph computes, by its file name; empty for another name."""
    from autotune.compress.onnx_checkpoint import GRAPHS

    return {name: phase for phase, name in GRAPHS.items()}.get(Path(graph).name, "")


def _graph_parity(folder: Path, name: str, *, manifest: Manifest, reporter: Reporter) -> Finding:
    from autotune.export.graphs import open_checkpoint
    from autotune.export.parity import check_parity, onnx_network

    graph, phase = folder / name, phase_of(name)
    if not phase:
        return Finding(reason=f"{name} is not the name of a graph")
    loaded, dtype = open_checkpoint(folder / manifest.checkpoint, manifest.dtype)
    if loaded.weights_sha256 != manifest.weights_sha256:
        return Finding(
            reason=f"the weights of {manifest.checkpoint} have been changed since the export"
        )
    with reporter.stage(f"compare {graph.name} with the checkpoint") as advance:
        network = onnx_network(graph)
        found = check_parity(
            loaded, phase, network=network, dtype=dtype, what=graph.name, progress=advance
        )
    return Finding(facts=ParityFacts(worst=found.worst))


def _engine(folder: Path, phase: str, *, manifest: Manifest, reporter: Reporter) -> Finding:
    """Load the engine in the TensorRT and on the GPU of this machine; compare it with its graph."""
    from autotune.compress.onnx_checkpoint import GRAPHS
    from autotune.core.types import Workload
    from autotune.export.graphs import open_checkpoint
    from autotune.export.tensorrt import compare_engine

    loaded, dtype = open_checkpoint(folder / manifest.checkpoint, manifest.dtype)
    place, workload = folder / phase, manifest.workload or Workload()
    found = compare_engine(
        loaded,
        phase,
        place=place,
        graph=place / GRAPHS[phase],
        kind=dtype,
        workload=workload,
        reporter=reporter,
    )
    return Finding(facts=EngineFacts(worst=found.worst, latency_s=found.latency_s))
