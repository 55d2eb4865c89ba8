"""`autotune export DIR`: export a checkpoint to ONNX or TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from autotune.cli.main import emit


@click.command("export", epilog="Example: autotune export out --format onnx --dtype fp16")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["onnx", "tensorrt"]), default="onnx", show_default=True,
)  # fmt: skip
@click.option("--dtype", type=click.Choice(["fp32", "fp16"]), help="Default: as the weights are.")
@click.option("--decode", is_flag=True, help="Also the decode step with past keys and values.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="New folder (default: in DIR)."
)
@click.option(
    "--device", type=click.Choice(["here"]), help="tensorrt: demand the engine for this GPU."
)
@click.option("--batch-size", type=int, help="tensorrt: most sequences (default: as it was tuned).")
@click.option("--isl", type=int, help="tensorrt: most input tokens.")
@click.option("--osl", type=int, default=0, help="tensorrt: most output tokens.")
@click.option("--tensorrt", type=click.Choice(["8", "10"]), help="Major version (10: and later).")
@click.option(
    "--one-profile", is_flag=True, help="tensorrt: none by itself for one token; builds sooner."
)
@click.option("--build-limit", type=float, help="tensorrt: seconds (default: 1800).")
@click.option("--json", "as_json", is_flag=True, help="The last line is one JSON document.")
def command(folder: Path, form: str, as_json: bool, **options: Any) -> int:
    """Export a checkpoint, or what a run made, and compare it with the checkpoint.

    Where TensorRT or the GPU is missing, `--format tensorrt` writes a kit that builds the engine
    elsewhere; `--device here` makes that an error (exit code 4).
    """
    from autotune.cli.reporting import make_reporter

    record = _export(folder, form, options, make_reporter())
    emit("json" if as_json else "text", record, _lines(record))
    return 0


def _export(folder: Path, form: str, options: dict[str, Any], reporter: Any) -> dict[str, Any]:
    from autotune.core.errors import UsageError
    from autotune.core.types import Workload
    from autotune.export.onnx import export_onnx
    from autotune.export.tensorrt import export_tensorrt

    common = {key: options[key] for key in ("dtype", "decode")} | {"reporter": reporter}
    batch, length = options["batch_size"], options["isl"]
    if form == "onnx":
        other = ("device", "batch_size", "isl", "osl", "tensorrt", "one_profile", "build_limit")
        given = [key for key in other if options[key]]
        if given:
            raise UsageError(f"--{given[0].replace('_', '-')} goes with --format tensorrt only")
        return export_onnx(folder, options["output"], **common)
    if bool(batch) != bool(length):
        raise UsageError("give --batch-size and --isl together")
    workload = None
    if batch:
        workload = Workload(batch_size=batch, sequence_length=length, output_length=options["osl"])
    return export_tensorrt(
        folder, options["output"], **common, workload=workload, here=bool(options["device"]),
        tensorrt=int(options["tensorrt"]) if options["tensorrt"] else None,
        one_profile=options["one_profile"], limit_s=options["build_limit"],
    )  # fmt: skip


def _lines(record: dict[str, Any]) -> list[str]:
    from autotune.core.quantities import format_seconds

    lines = []
    for name, found in record["parity"].items():
        worst = max(case["error"] for case in found["cases"])
        lines.append(
            f"{name}: differs from the checkpoint by at most {worst:.1e} (tolerance "
            f"{found['tolerance']:.0e}) at {len(found['cases'])} shapes"
        )
    for name, engine in record.get("engines", {}).items():
        worst = max(case["error"] for case in engine["cases"])
        lines.append(
            f"engine for {name}: TensorRT {engine['tensorrt']}, "
            f"{format_seconds(engine['latency_s'])}, differs from the graph by at most "
            f"{worst:.1e}, tensors {engine['output_types']}"
        )
    if record.get("kit_because"):
        lines.append(
            f"no engine was built ({record['kit_because']}); to build it on another machine, run "
            "`python build_engine.py build.json` in a copy of the folder"
        )
    return [*lines, f"written     {record['output']}/"]
