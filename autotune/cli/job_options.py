"""Schemas of the commands, besides `tune`, that a service runs as jobs."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.core.options import check_options, option, same
from autotune.core.workload import Workload
from autotune.tuning.options import MachineOptions
from autotune.tuning.request import TuneRequest

_SIZE = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """Measure layers into the latency database."""

    tokens: tuple[int, ...] = option((), flag="--tokens", ge=1, le=_SIZE, help="Rows M.")
    shapes: tuple[str, ...] = option(
        (),
        flag="--shape",
        flat="shapes",
        metavar="KxN",
        help="IN_FEATURESxOUT_FEATURES of a layer.",
    )
    plan: str | None = option(
        flag="--plan",
        choices=("quick", "full"),
        help="Profile the standard layers: quick (about 100 points, 2 minutes) or full.",
    )
    model: str | None = option(
        flag="--for", flat="model", metavar="FOLDER|ID", help="Profile the layers of this model."
    )
    batch_size: int = same(Workload, "batch_size", note="With --for: ")
    isl: int = same(Workload, "sequence_length", note="With --for: ")
    osl: int = same(Workload, "output_length", note="With --for: ")
    ranks: tuple[int, ...] = option(
        (),
        flag="--rank",
        flat="ranks",
        ge=1,
        le=_SIZE,
        default_text="the aligned grid",
        help="Rank to measure.",
    )
    forms: tuple[str, ...] = option(
        (),
        flag="--form",
        flat="forms",
        metavar="FORM",
        help="Form to measure, such as rank=96 or rank=96:pivoted:int8-static.",
    )
    device: str = same(MachineOptions, "device")
    backend: str | None = same(MachineOptions, "backend")
    dtype: str | None = same(MachineOptions, "dtype")
    threads: int | None = same(MachineOptions, "threads")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Export a checkpoint to ONNX or TensorRT and compare it with the checkpoint."""

    form: str = option(
        "onnx", flag="--format", flat="form", choices=("onnx", "tensorrt"), help="File format."
    )
    dtype: str | None = option(
        flag="--dtype",
        choices=("fp32", "fp16"),
        default_text="as the weights are",
        help="Number format of the exported file.",
    )
    decode: bool = option(
        False, flag="--decode", help="Also export the decode step with past keys and values."
    )
    device: str | None = option(
        flag="--device",
        metavar="here|NAME",
        help="TensorRT: build the engine for this GPU, which must be on this machine, or fail.",
    )
    batch_size: int | None = option(
        flag="--batch-size",
        ge=1,
        le=_SIZE,
        default_text="as it was tuned",
        help="TensorRT: largest batch size.",
    )
    isl: int | None = option(
        flag="--isl",
        ge=1,
        le=_SIZE,
        metavar="TOKENS",
        default_text="as it was tuned",
        help="TensorRT: largest input sequence length.",
    )
    osl: int = option(
        0,
        flag="--osl",
        ge=0,
        le=_SIZE,
        metavar="TOKENS",
        help="TensorRT: largest output sequence length.",
    )
    tensorrt: str | None = option(
        flag="--tensorrt", choices=("8", "10"), help="TensorRT: major version; 10 stands for later."
    )
    one_profile: bool = option(
        False,
        flag="--one-profile",
        help="TensorRT: no separate profile for single tokens (faster build).",
    )
    build_limit: float | None = option(
        flag="--build-limit",
        ge=0,
        metavar="SECONDS",
        default_text="1800",
        help="TensorRT: time limit of a build.",
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Check a result again: files, ranks, parity, latency and quality."""


@dataclass(frozen=True, kw_only=True)
class DriftOptions:
    """Measure some points again and compare them with the latency database."""

    anchors: int = option(20, flag="--anchors", ge=1, le=1000, help="Points to measure again.")
    device: str = same(MachineOptions, "device")
    backend: str | None = same(MachineOptions, "backend")
    dtype: str | None = same(MachineOptions, "dtype")
    threads: int | None = same(MachineOptions, "threads")

    def __post_init__(self) -> None:
        check_options(self)


# Every schema of a command; where two spell an option differently, the first counts.
SCHEMAS = (TuneRequest, ProfileOptions, ExportOptions, DriftOptions)
