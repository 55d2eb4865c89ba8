"""`autotune export FOLDER`: export a checkpoint to ONNX or TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune.cli.job_options import ExportOptions
from autotune.cli.main import emit
from autotune.cli.options import file_format_option, split_formats
from autotune.cli.schema import schema_options, values
from autotune.core.options import OptionError

if TYPE_CHECKING:
    from autotune.export.manifest import Manifest


@click.command("export", epilog="Example: autotune export out --format onnx --dtype fp16")
@click.argument("folder", type=click.Path(path_type=Path))
@file_format_option
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="New folder  [default: inside FOLDER]"
)
@schema_options(ExportOptions, leave_out=lambda entry: entry.name == "form")
def command(folder: Path, formats: tuple[str, ...], **options: Any) -> int:
    """Export a checkpoint or the result of a tuning, and compare the export with the checkpoint.

    Where TensorRT or the GPU is missing, `--format tensorrt` writes a kit that builds the engine
    elsewhere; `--device here`, or the name of the GPU, makes that an error (exit code 4).
    """
    from autotune.cli.reporting import make_reporter
    from autotune.export.manifest import open_manifest

    form, output_format = split_formats(formats)
    chosen = values(ExportOptions, {**options, "form": form})
    chosen.check()
    written = _export(folder, chosen, output=options["output"], reporter=make_reporter())
    lines = _lines(open_manifest(Path(written["output"])))
    emit(output_format, written, lines=[*lines, f"written     {written['output']}/"])
    return 0


def _export(
    folder: Path, options: ExportOptions, *, output: Path | None, reporter: Any
) -> dict[str, Any]:
    from autotune.core.types import Workload
    from autotune.export.onnx import export_onnx
    from autotune.export.tensorrt import export_tensorrt

    common: dict[str, Any] = {
        "dtype": options.dtype,
        "decode": options.decode,
        "reporter": reporter,
    }
    if options.form == "onnx":
        return export_onnx(folder, output, **common)
    workload = None
    if options.batch_size and options.isl:
        workload = Workload(
            batch_size=options.batch_size, sequence_length=options.isl, output_length=options.osl
        )
    return export_tensorrt(
        folder,
        output,
        **common,
        workload=workload,
        here=_demands_engine(options.device),
        tensorrt=int(options.tensorrt) if options.tensorrt else None,
        one_profile=options.one_profile,
        limit_s=options.build_limit,
    )


def _demands_engine(device: str | None) -> bool:
    """Whether the engine must be built here.

    Raises:
        UsageError: an unknown device, or one that TensorRT does not run on.
        DeviceMissingError: a GPU that is not on this machine.
    """
    if device in (None, "here"):
        return device is not None
    from autotune.core.option_names import about
    from autotune.devices.detect import require_device
    from autotune.devices.specs import find_device

    with about("device"):
        spec = find_device(str(device))
    if spec.kind != "cuda":
        raise OptionError("device", "must be `here` or a GPU", value=device, schema=ExportOptions)
    require_device(str(device))  # an engine runs on the kind of GPU that it was built on
    return True


def _lines(manifest: Manifest) -> list[str]:
    from autotune.core.quantities import format_seconds

    lines = []
    for name, found in manifest.parity.items():
        lines.append(
            f"{name}: differs from the checkpoint by at most {found.worst:.1e} (tolerance "
            f"{found.tolerance:.0e}) at {len(found.cases)} shapes"
        )
    for name, engine in manifest.engines.items():
        lines.append(
            f"engine for {name}: TensorRT {engine.tensorrt}, "
            f"{format_seconds(engine.latency_s)}, differs from the graph by at most "
            f"{engine.worst:.1e}, tensors {dict(engine.output_types)}"
        )
    if manifest.kit_because:
        lines.append(
            f"no engine was built ({manifest.kit_because}); to build it on another machine, run "
            "`python build_engine.py build.json` in a copy of the folder"
        )
    return lines
