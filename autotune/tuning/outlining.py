"""Finds what a model computes from its configuration, without its weights.

As a program it answers one question, JSON on stdin and on stdout, so that torch and transformers
are imported while its parent reads tables (outlines.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from autotune.compress.decode import decode_inputs, decode_step
from autotune.compress.loading import quiet_transformers
from autotune.compress.operations import trace_pass
from autotune.compress.positions import max_positions
from autotune.compress.sites import Sites, find_sites, with_tokens
from autotune.compress.skeleton import Skeleton, read_skeleton
from autotune.compress.tasks import Task, make_task
from autotune.core.child_errors import error_json
from autotune.core.childprocess import end_with_parent
from autotune.core.errors import AutotuneError
from autotune.core.outline import ModelOutline, Pass
from autotune.core.types import Workload
from autotune.profiler.backends.torch_layers import TORCH_DTYPES
from autotune.tuning.model import check_phases, check_positions


def outline_model(
    folder: Path, workload: Workload, *, dtype: str, tensor_parallel: int = 1
) -> ModelOutline:
    """Every phase of the workload as one device runs it, of the model that `config.json` describes.

    Raises:
        ModelError: the model is of no known kind, or its pass depends on data.
        UsageError: the model cannot run the workload, or be divided among so many devices.
    """
    quiet_transformers()
    wanted = TORCH_DTYPES[dtype]
    skeleton = read_skeleton(folder, dtype=wanted, tensor_parallel=tensor_parallel)
    whole = skeleton if tensor_parallel == 1 else read_skeleton(folder, dtype=wanted)
    check_phases(workload, task=skeleton.task, config=skeleton.model.config)
    check_positions(workload, max_positions(skeleton.model))
    task = make_task(skeleton.task, folder)
    workload = task.fitted(skeleton.model, workload)
    passes = {
        phase: _pass(skeleton, task, workload=workload, phase=phase) for phase in workload.passes
    }
    return ModelOutline(task=skeleton.task, parameters=whole.parameters, passes=passes)


def _inputs(skeleton: Skeleton, task: Task, *, workload: Workload, phase: str) -> dict[str, Tensor]:
    with skeleton.mode:
        if phase == "prefill":
            return task.example_inputs(skeleton.model, workload)
        past = workload.past_length
        return decode_inputs(skeleton.model, workload.batch_size, past_length=past)


def _pass(skeleton: Skeleton, task: Task, *, workload: Workload, phase: str) -> Pass:
    """One phase; sites that it does not run exactly once are other operations of it."""
    sites = find_sites(skeleton.model)
    inputs = _inputs(skeleton, task, workload=workload, phase=phase)
    call = decode_step if phase == "decode" else None
    while True:
        traced = trace_pass(
            skeleton.model,
            sites.sites,
            inputs=inputs,
            dtype=next(skeleton.model.parameters()).dtype,
            causal=task.has_decode,
            call=call,
        )
        counted = with_tokens(sites, traced.calls)
        repeated = [each for each in sites.sites if len(traced.calls[each.name]) > 1]
        if not repeated:
            return Pass(
                sites=(*counted.sites, *counted.joint),
                operations=traced.operations,
                summed=tuple(
                    site.tokens * site.out_features
                    for site in counted.sites
                    if skeleton.is_summed(site.name)
                ),
            )
        sites = Sites(sites=counted.sites, left_out=counted.left_out)


def main() -> None:
    """Answer the one question on stdin; other lines on stdout are none."""
    end_with_parent()
    question = json.loads(sys.stdin.readline())
    sys.stdout.write(json.dumps(_answer(**question)) + "\n")


def _answer(
    *, folder: str, workload: dict[str, Any], dtype: str, tensor_parallel: int
) -> dict[str, Any]:
    try:
        found = outline_model(
            Path(folder), Workload(**workload), dtype=dtype, tensor_parallel=tensor_parallel
        )
        return {"outline": found.to_json()}
    except AutotuneError as error:
        return {"error": error_json(error)}


if __name__ == "__main__":
    main()
