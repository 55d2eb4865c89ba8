"""ONNX graphs of checkpoints, with what they say of themselves, at the opset asked for."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core.errors import UsageError, option_name
from autotune.core.forms import INT8_STATIC, NATIVE, Form, plan_to_json
from autotune.core.progress import Reporter
from autotune.core.version import __version__
from autotune.results.result import RESULT, read_result

if TYPE_CHECKING:
    from autotune.compress.loading import LoadedModel
    from autotune.results.record import TuneRecord


# By TensorRT's major version; it stands for later ones too.
OPSETS = {8: 17, 10: 18}
_MODERN = 10
_TENSORRT = (NATIVE, INT8_STATIC)
# What the exporter writes at least.
_TRACED_OPSET = 18


def engine_opset(tensorrt: int | None = None) -> int:
    """Of a major version of TensorRT, else of what is installed, else of a modern one."""
    return OPSETS[tensorrt or _major()]


def _major() -> int:
    from autotune.profiler.engines.python import tensorrt_version

    version = tensorrt_version()
    return 8 if version is not None and int(version.split(".")[0]) < _MODERN else _MODERN


def lowered(graph: Path, opset: int) -> Path:
    """`graph`, rewritten in place where the exporter's opset is newer than `opset`."""
    if opset < _TRACED_OPSET:
        import onnx

        from autotune.compress.onnx_export import save_onnx
        from autotune.compress.onnx_lower import lower

        model = onnx.load(graph)
        lower(model)
        save_onnx(model, graph)
    return graph


def signed(graph: Path) -> Path:
    """`graph` with layers of integers, rewritten in place as TensorRT reads them."""
    import onnx

    from autotune.compress.onnx_export import save_onnx
    from autotune.compress.onnx_symmetric import make_symmetric

    model = onnx.load(graph)
    make_symmetric(model)
    save_onnx(model, graph)
    return graph


def require_tensorrt_forms(loaded: LoadedModel) -> None:
    """Check that every layer has a form that TensorRT reads.

    Raises:
        UsageError: names the precisions that it does not.
    """
    found = sorted({form.precision for form in forms(loaded).values()} - set(_TENSORRT))
    if found:
        raise UsageError(
            f"{loaded.folder} has layers in {', '.join(found)}, which TensorRT does not read; "
            f"tune with {option_name('precision')} {','.join(_TENSORRT)}"
        )


def traced_opset(opset: int) -> int:
    """What to trace at, to be `lowered` to `opset`."""
    return max(opset, _TRACED_OPSET)


def open_checkpoint(folder: str | Path, dtype: str | None) -> tuple[LoadedModel, str]:
    """The model in the dtype of the export, and its name.

    Raises:
        UsageError: an unknown dtype.
        ModelError: no checkpoint there.
    """
    import torch

    from autotune.compress.integer_layers import has_integer_layers
    from autotune.compress.loading import checkpoint_dtype, load_checkpoint
    from autotune.devices.specs import TORCH_NAMES

    if dtype not in (None, "fp32", "fp16"):
        raise UsageError(f"dtype {dtype!r}: exports are fp32 or fp16")
    kind = dtype or ("fp16" if checkpoint_dtype(Path(folder)) == "float16" else "fp32")
    loaded = load_checkpoint(Path(folder), getattr(torch, TORCH_NAMES[kind]))
    if kind != "fp32" and has_integer_layers(loaded.model):
        raise UsageError(
            f"{option_name('dtype')} {kind} cannot be used: {folder} has layers of integers, "
            "around which graphs are fp32; leave it out"
        )
    return loaded, kind


def trace_graphs(
    loaded: LoadedModel,
    phases: tuple[str, ...],
    *,
    path: Path,
    dtype: str,
    reporter: Reporter,
    opset: int | None = None,
) -> dict[str, Path]:
    """The ONNX graph of every pass, in the new folder `path`."""
    from autotune.compress.onnx_checkpoint import export_checkpoint
    from autotune.compress.onnx_trace import OPSET

    path.mkdir(exist_ok=True)
    plan = forms(loaded)
    metadata = {
        "autotune.version": __version__,
        "autotune.ranks": {name: form.rank for name, form in plan.items()},
        "autotune.forms": plan_to_json(plan),
        "autotune.dtype": dtype,
        "autotune.weights_sha256": loaded.weights_sha256,
        "autotune.device": tuned_for(loaded),
        "autotune.versions": versions(),
        **(_inference_dtype(loaded) if dtype == "fp32" else {}),
    }
    graphs = {}
    for phase in phases:
        with reporter.stage(f"export {phase}") as advance:
            graphs[phase] = export_checkpoint(
                loaded,
                phase,
                folder=path,
                metadata=metadata,
                progress=advance,
                opset=opset or OPSET,
            )
    return graphs


def forms(loaded: LoadedModel) -> dict[str, Form]:
    """The form of every factorized layer, by name."""
    from autotune.compress.checkpoint import compressed_layers

    return {name: layer.form for name, layer in compressed_layers(loaded.model).items()}


def tuned_for(loaded: LoadedModel) -> str:
    """Name of the device that the checkpoint was tuned for; empty where no tuning made it."""
    record = _record(loaded)
    return record.device.device_name if record else ""


def _inference_dtype(loaded: LoadedModel) -> dict[str, str]:
    """The dtype that a tuning had the runtime told to run the network in, where there is one."""
    from autotune.profiler.backends.openvino_cpu import INFERENCE_DTYPE

    record = _record(loaded)
    return {INFERENCE_DTYPE: record.runtime_dtype} if record and record.runtime_dtype else {}


def _record(loaded: LoadedModel) -> TuneRecord | None:
    """The result of the tuning that made the checkpoint; None where no tuning made it."""
    folder = loaded.folder.parent
    return read_result(folder) if (folder / RESULT).is_file() else None


def versions() -> dict[str, str]:
    """Of the packages that trace and check."""
    names = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
    return {name: importlib.metadata.version(name) for name in names}
