"""What a result gained, and what to do with it: the last lines that a tuning prints."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from autotune.compress.companions import BACKEND_IR, BACKEND_ONNX
from autotune.compress.tasks import task_class
from autotune.core.quantities import format_seconds
from autotune.results.record import TuneRecord
from autotune.results.verdict import Verdict

_USUAL = "onnxruntime-cpu"
_BLANK = " " * 12
_NOTHING = "nothing: the dense model itself is handed out"


def gain_lines(record: TuneRecord) -> list[str]:
    """How much faster it is than the dense model, here and where people usually run it.

    Nothing is said of a prediction, or of a plan that is not surely faster.
    """
    measured = record.measured
    if measured is not None and record.is_dense:
        return [f"gained      {_NOTHING}"]
    if measured is None or measured.ratio_high >= 1.0:
        return []
    after = format_seconds(measured.latency_s)
    where = f"{record.backend}, {record.dtype}"
    dense = {where: record.dense_latency_s}
    if record.backend != _USUAL and _USUAL in record.dense_latencies_s:
        dense |= {f"{_USUAL}, {record.dtype}": record.dense_latencies_s[_USUAL]}
    texts = [
        f"{before_s / measured.latency_s:.2f} times as fast as the dense model in {name} "
        f"({format_seconds(before_s)} before, {after} now)"
        for name, before_s in dense.items()
    ]
    return [f"gained      {texts[0]}", *(f"{_BLANK}{text}" for text in texts[1:])]


def next_lines(record: TuneRecord, folder: Path) -> list[str]:
    """What can be done next, as commands and code that can be copied."""
    given = shlex.quote(str(folder))
    steps = [f"read {given}/report.html", f"load it: {_loaded(record, folder / 'model')}"]
    if record.measured is not None:
        steps.append(f"measure it again: autotune bench {given}")
    if record.front:
        steps.append(f"take another point: autotune pick {given} --latency-budget …")
    elif record.verdict is Verdict.MET and record.measured is not None:
        steps.append(
            "ask for more speed or more quality: the same command with another limit goes on from "
            "what was measured"
        )
    return [f"next        {steps[0]}", *(f"{_BLANK}{step}" for step in steps[1:])]


def _loaded(record: TuneRecord, checkpoint: Path) -> str:
    """The call that opens the checkpoint, in the runtime that it was tuned for where it can."""
    text = json.dumps(str(checkpoint))
    if record.backend == "openvino-cpu" and (checkpoint / BACKEND_IR).is_file():
        options = record.runtime_options
        given = f", model_kwargs={{'ov_config': {options}}}" if options else ""
        return f'SentenceTransformer({text}, backend="openvino"{given})'
    if (checkpoint / BACKEND_ONNX).is_file():
        return f'SentenceTransformer({text}, backend="onnx")'
    return f"import autotune, then {task_class(record.task).auto_class}.from_pretrained({text})"
