"""Export to TensorRT: an engine for the GPU that is here, and a kit to build it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.errors import EngineError
from autotune.core.files import write_whole
from autotune.core.progress import Reporter
from autotune.core.types import Workload
from autotune.export.graphs import (
    engine_opset,
    lowered,
    open_checkpoint,
    require_tensorrt_forms,
    signed,
    trace_graphs,
    traced_opset,
)
from autotune.export.manifest import (
    EngineParity,
    EngineRecord,
    ParityRecord,
    read_manifest_json,
    write_manifest,
)
from autotune.export.onnx import ADVICE, base_manifest, exported_phases, new_folder
from autotune.results.result import RESULT, read_result

if TYPE_CHECKING:
    from autotune.compress.loading import LoadedModel


def export_tensorrt(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    dtype: str | None = None,
    decode: bool = False,
    workload: Workload | None = None,
    here: bool = False,
    tensorrt: int | None = None,
    one_profile: bool = False,
    limit_s: float | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write a folder for each pass, with ONNX, build task and build script; with the engine too.

    The engine is built where a GPU and TensorRT are, and what prevents it is told; `here` demands
    it. Shapes up to `workload`'s (that of the tuning, else 1 × 128) are admitted, and one token
    a sequence has a profile of its own unless `one_profile`. `tensorrt`: the major version that the
    ONNX is for, 8 or 10 (and later); that of what is installed, else 10.

    Returns:
        The manifest; `engines` is empty where none was built, and `kit_because` says why.

    Raises:
        UsageError, ModelError, ParityError, StorageError: as `export_onnx`; UsageError too where
            layers are in a precision that TensorRT does not read.
        EngineError: the engine was demanded and cannot be built.
    """
    from autotune.compress.integer_layers import has_integer_layers
    from autotune.profiler.engines.builder import missing_parts, write_kit

    reporter = reporter or Reporter()
    if output is not None:
        new_folder(folder, output, name="")  # refused before anything is loaded
    loaded, kind = open_checkpoint(folder, dtype)
    require_tensorrt_forms(loaded)
    integers = has_integer_layers(loaded.model)
    lacks = missing_parts()
    if here and lacks:
        raise EngineError(lacks)
    phases = exported_phases(loaded, decode)
    shape = workload or _workload(loaded)
    target = new_folder(folder, output, name=f"tensorrt-{kind}")
    opset = engine_opset(tensorrt)

    def build(path: Path) -> None:
        path.mkdir()
        parity: dict[str, ParityRecord] = {}
        engines: dict[str, EngineRecord] = {}
        because = lacks
        for phase in phases:
            place = path / phase
            graphs = trace_graphs(
                loaded,
                (phase,),
                path=place,
                dtype=kind,
                reporter=reporter,
                opset=traced_opset(opset),
            )
            graph = lowered(signed(graphs[phase]) if integers else graphs[phase], opset)
            task = {
                "dtype": kind,
                "integers": integers,
                "profiles": profiles(loaded, phase, workload=shape)[: 1 if one_profile else None],
            }
            write_kit(place, graph, task=task)
            parity[f"{phase}/{graph.name}"] = _compare(
                loaded, phase, graph=graph, kind=kind, reporter=reporter
            )
            if lacks:
                continue
            try:
                built = _engine(place, graph, task=task, limit_s=limit_s, reporter=reporter)
            except EngineError as error:
                if here:
                    raise
                because = str(error)
                continue
            checked = compare_engine(
                loaded,
                phase,
                place=place,
                graph=graph,
                kind=kind,
                workload=shape,
                reporter=reporter,
            )
            engines[phase] = EngineRecord.of(built, checked)
        base = base_manifest(loaded, folder, target=target, form="tensorrt", dtype=kind)
        write_manifest(
            path,
            replace(
                base,
                parity=parity,
                engines=engines,
                kit_because=because,
                opset=opset,
                workload=shape,
            ),
        )

    write_whole(target, build, advice=ADVICE)
    return {"output": str(target), **read_manifest_json(target)}


def _workload(loaded: LoadedModel) -> Workload:
    """The workload of the tuning that made the checkpoint, else one sequence of 128 tokens."""
    folder = loaded.folder.parent
    if (folder / RESULT).is_file():
        return read_result(folder).workload
    return Workload(batch_size=1, sequence_length=128)


def profiles(loaded: LoadedModel, phase: str, *, workload: Workload) -> list[dict[str, Any]]:
    """Least, usual and most shapes of every input: whole sequences, then one token a sequence."""
    batch, length = workload.batch_size, workload.sequence_length

    def shapes(rows: int, columns: int) -> dict[str, list[int]]:
        found = example_inputs(loaded, phase, batch=rows, length=columns)
        return {name: list(tensor.shape) for name, tensor in found.items()}

    def between(columns_least: int, columns: int) -> dict[str, Any]:
        least, most = shapes(1, columns_least), shapes(batch, columns)
        return {name: [least[name], most[name], most[name]] for name in most}

    if phase == "decode":
        return [between(1, length + (workload.output_length or 1))]
    whole = between(1, length)
    one = between(1, 1)
    return [whole] if one == whole else [whole, one]  # pictures have no length


def example_inputs(loaded: LoadedModel, phase: str, *, batch: int, length: int) -> dict[str, Any]:
    """Random inputs of one pass."""
    from autotune.compress.decode import decode_inputs
    from autotune.compress.onnx_export import typed_inputs
    from autotune.compress.tasks import make_task

    if phase == "decode":
        return decode_inputs(loaded.model, batch, past_length=length)
    task = make_task(loaded.task, loaded.folder)
    workload = Workload(batch_size=batch, sequence_length=length)
    return typed_inputs(loaded.model, task.example_inputs(loaded.model, workload))


def _compare(
    loaded: LoadedModel, phase: str, *, graph: Path, kind: str, reporter: Reporter
) -> ParityRecord:
    from autotune.export.parity import check_parity, onnx_network

    with reporter.stage(f"compare {graph.name} with the checkpoint") as advance:
        return check_parity(
            loaded,
            phase,
            network=onnx_network(graph),
            dtype=kind,
            what=graph.name,
            progress=advance,
        )


def _engine(
    place: Path, graph: Path, *, task: Mapping[str, Any], limit_s: float | None, reporter: Reporter
) -> dict[str, Any]:
    from autotune.devices.detect import device_identity
    from autotune.devices.lock import device_lock
    from autotune.profiler.engines.builder import ENGINE, LIMIT_S, build_engine

    limit = limit_s or LIMIT_S
    with reporter.stage("build the engine") as advance, device_lock(device_identity("cuda")):

        def tell(phase: str, seconds: float) -> None:
            del phase
            advance(int(seconds), int(limit))

        return build_engine(graph, task, output=place / ENGINE, limit_s=limit, tell=tell)


def compare_engine(
    loaded: LoadedModel,
    phase: str,
    *,
    place: Path,
    graph: Path,
    kind: str,
    workload: Workload,
    reporter: Reporter,
) -> EngineParity:
    """The engine against onnxruntime on the same graph, one row (M = 1) included; and its pace."""
    import statistics

    from autotune.devices.detect import device_identity
    from autotune.devices.lock import device_lock
    from autotune.export.parity import check_parity, onnx_network
    from autotune.profiler.engines.builder import ENGINE
    from autotune.profiler.engines.engine_process import EngineProcess

    batch, length = workload.batch_size, workload.sequence_length
    shapes = tuple(dict.fromkeys([(1, 1), (1, min(7, length)), (batch, 1), (batch, length)]))
    with reporter.stage("compare the engine with the graph") as advance:
        with EngineProcess() as engines, device_lock(device_identity("cuda")):

            def network(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
                return engines.outputs(engines.load(place / ENGINE, feeds))

            found = check_parity(
                loaded,
                phase,
                network=network,
                dtype=kind,
                what=f"the engine of {phase}",
                shapes=shapes,
                progress=advance,
                reference=onnx_network(graph),
            )
            feeds = {
                k: v.numpy()
                for k, v in example_inputs(loaded, phase, batch=batch, length=length).items()
            }
            number = engines.load(place / ENGINE, feeds)
            latency_s = statistics.median(engines.seconds(number) for _ in range(50))
    return EngineParity(tolerance=found.tolerance, cases=found.cases, latency_s=latency_s)
