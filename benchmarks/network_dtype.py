"""How well bf16 in PyTorch stands for bf16 in OpenVINO.

    python benchmarks/network_dtype.py [MODEL …]

The relative squared error of the model's output on search data, by how it was run: OpenVINO told to
compute in bf16, `running_in("bf16")` (what plans are judged by), and a copy of the model in bf16.
The reference is PyTorch in fp32; OpenVINO in fp32 is there to show that the graph is right. Without
models the embedded one is taken. The last line is one JSON list.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from autotune.compress.calibration import load_calibration
from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.inference import running_in
from autotune.compress.loading import load_model
from autotune.compress.onnx_export import export_dense
from autotune.compress.onnx_rewrite import copy_with_metadata
from autotune.compress.sites import find_sites
from autotune.compress.tasks import make_task
from autotune.core.types import Workload
from autotune.profiler.backends.openvino_cpu import INFERENCE_DTYPE, open_model

_WORKLOAD = Workload(batch_size=2, sequence_length=64)
_PLAN = CalibrationPlan(statistics_samples=4, search_samples=16, heldout_samples=8, seed=0)


def main() -> None:
    """One row a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[None], help="folders or hub ids")
    torch.set_num_threads(1)
    rows = [_row(model) for model in parser.parse_args().models]
    print(json.dumps(rows))


@torch.no_grad()
def _row(name: str | None) -> dict[str, Any]:
    loaded = load_model(name)
    task = make_task(loaded.task, loaded.folder)
    data = load_calibration(loaded, _PLAN, workload=_WORKLOAD)
    halved = copy.deepcopy(loaded.model).bfloat16()
    errors: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        graphs = _graphs(loaded, task, folder=Path(folder))
        for batch in data.search:
            right = task.output(loaded.model, batch)
            found = {way: run(batch) for way, run in graphs.items()}
            with running_in("bf16"):
                found["running_in"] = task.output(loaded.model, batch).float()
            found["copy"] = task.output(halved, batch).float()
            mask = batch.get("attention_mask", torch.ones(right.shape[:2])).bool()
            for way, output in found.items():
                wrong = (output - right)[mask].double().square().sum()
                errors[way].append(float(wrong / right[mask].double().square().sum()))
    row = {way: sum(values) / len(values) for way, values in errors.items()}
    print(loaded.name, {way: f"{value:.1e}" for way, value in row.items()})
    return {"model": loaded.name, **row}


def _graphs(loaded: Any, task: Any, *, folder: Path) -> dict[str, Any]:
    """What runs the exported graph in OpenVINO, by dtype."""
    names = [site.name for site in find_sites(loaded.model).sites]
    graph = folder / "model.onnx"
    export_dense(loaded.model, task, sites=names, workload=_WORKLOAD, path=graph)

    def opened(dtype: str) -> Any:
        copied = folder / dtype / "model.onnx"
        copied.parent.mkdir()
        copy_with_metadata(graph, copied, metadata={INFERENCE_DTYPE: dtype})
        run, inputs = open_model(copied, 1), _inputs(copied)
        return lambda batch: torch.from_numpy(
            next(iter(run({name: batch[name].numpy() for name in inputs}).values()))
        )

    return {f"OpenVINO {dtype}": opened(dtype) for dtype in ("fp32", "bf16")}


def _inputs(graph: Path) -> list[str]:
    import onnx

    return [one.name for one in onnx.load(graph, load_external_data=False).graph.input]


if __name__ == "__main__":
    main()
