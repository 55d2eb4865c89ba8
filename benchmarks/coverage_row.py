"""One row of the coverage table: build a class, tune it, load the result, compare its graphs."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from coverage_models import Entry, tiny_config
from safetensors.torch import save_file

import autotune
from autotune.compress.loading import LoadedModel, load_checkpoint
from autotune.compress.tasks import make_task
from autotune.core.errors import AutotuneError, BudgetInfeasibleError, memory_refusal
from autotune.core.types import Budget, Workload
from autotune.export.parity import check_parity, onnx_network

DATA = Path(__file__).parents[1] / "tests" / "data" / "code-llama-3m"
BATCH_SIZE, LENGTH = 2, 32
SHAPES = ((1, 7), (3, 40))
EAGER = "torch-eager"


def work(entry: Entry) -> dict[str, Any]:
    """The row's figures; the current folder is scratch.

    Raises:
        Exception: what the command would call an unexpected error.
    """
    try:
        return _work(entry)
    except Exception as error:
        refusal = memory_refusal(error)  # as the command says it
        if refusal is None:
            raise
        return {"outcome": "refused", "note": str(refusal)}


def _work(entry: Entry) -> dict[str, Any]:
    folder, kind = build(entry), entry.kind
    calibration = calibration_file(folder, kind)
    notes: list[str] = []
    graph = True
    attempts: list[dict[str, Any]] = [{"output_length": 2}] if kind == "decoder" else []
    attempts.append({})
    for attempt in attempts:
        try:
            found = reached(folder, calibration, **attempt)
            break
        except AutotuneError as error:
            text = str(error)
            if "decode steps" in text and attempt:
                notes.append(f"no decode step: {_short(text)}")
                continue
            notes = [_short(text)]
            if EAGER not in text:
                return {"outcome": "refused", "note": notes[0]}
            try:
                found, graph = reached(folder, calibration, backend=EAGER), False
            except AutotuneError as second:
                return {"outcome": "refused", "note": f"{notes[0]}; there: {_short(str(second))}"}
            break
    row: dict[str, Any] = {"outcome": "passes" if graph else "no graph", "note": "; ".join(notes)}
    return {**row, **compared(found, graph)}


def warm_up() -> None:
    """Import and initialise what every row uses, with one thread."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    module = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.onnx.export(module, dynamo=True, verbose=False)


def _short(text: str) -> str:
    return text if len(text) < 400 else f"{text[:400]} …"


def build(entry: Entry) -> Path:
    """The folder of a tiny random model of the class, with a tokenizer where it reads text."""
    torch.manual_seed(0)
    model = getattr(transformers, entry.name)(tiny_config(entry.model_type)).eval()
    with torch.no_grad():  # a router of zeros, say, leaves it to chance which expert a token gets
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(std=0.02)
    folder = Path("model")
    model.save_pretrained(folder)
    if entry.kind not in ("image", "two towers"):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(DATA / file, folder / file)
    return folder


def calibration_file(folder: Path, kind: str) -> Path:
    """A short text, or tensors of random images or pairs."""
    if kind not in ("image", "two towers"):
        path = Path("text.txt")
        path.write_text((DATA / "heldout.txt").read_text()[:40_000])
        return path
    config: Any = transformers.AutoConfig.from_pretrained(folder)
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None) or 224
    height, width = size if isinstance(size, list | tuple) else (size, size)
    tensors = {"pixel_values": torch.randn(24, getattr(vision, "num_channels", 3), height, width)}
    if kind == "two towers":
        length = min(16, getattr(config.text_config, "max_position_embeddings", 16))
        ids = torch.randint(3, config.text_config.vocab_size, (24, length))
        tensors |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    path = Path("tensors.safetensors")
    save_file(tensors, path)
    return path


def reached(folder: Path, calibration: Path, **attempt: Any) -> Path:
    """The run folder of a tuning; experts stay dense, and may be nearly all of a mixture."""
    try:
        return tuned(folder, calibration, parameters="0.9x", **attempt)
    except BudgetInfeasibleError as error:
        reachable = math.ceil(error.reachable["parameters"] * 1.0005)
        return tuned(folder, calibration, parameters=str(reachable), **attempt)


def tuned(
    folder: Path,
    calibration: Path,
    *,
    parameters: str,
    output_length: int = 0,
    backend: str | None = None,
) -> Path:
    """The run folder of a short tuning."""
    output = Path(f"out-{parameters}-{output_length}-{backend}")
    workload = Workload(batch_size=BATCH_SIZE, sequence_length=LENGTH, output_length=output_length)
    autotune.tune(
        folder,
        budget=Budget(parameters=parameters),
        workload=workload,
        calibration=str(calibration),
        calibration_samples=16,
        trials=0,
        rounds=1,
        sensitivity_rounds=0,
        measure_seconds=0.1,
        threads=1,
        backend=backend,
        output=output,
    )
    return output


def compared(found: Path, graph: bool) -> dict[str, float]:
    """The worst error of every graph; without graphs, the reloaded checkpoint runs."""
    loaded = load_checkpoint(found, torch.float32)
    if not graph:
        _runs(loaded)
        return {}
    figures = {}
    for phase, name in (("prefill", "model.onnx"), ("decode", "model_decode.onnx")):
        if (found / name).is_file():
            network = onnx_network(found / name)
            record = check_parity(
                loaded, phase, network=network, dtype="fp32", what=name, shapes=SHAPES
            )
            figures[phase] = record.worst
    if "prefill" not in figures:
        raise RuntimeError("the tuning handed out no graph")
    return figures


@torch.no_grad()
def _runs(loaded: LoadedModel) -> None:
    task = make_task(loaded.task, loaded.folder)
    workload = Workload(batch_size=BATCH_SIZE, sequence_length=LENGTH)
    output = task.plain(loaded.model, task.example_inputs(loaded.model, workload))
    if not torch.isfinite(output).all():
        raise RuntimeError("the reloaded checkpoint does not compute finite values")
