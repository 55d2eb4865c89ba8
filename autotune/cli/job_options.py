"""Schemas of the commands, besides `tune`, that a service runs as jobs or answers itself."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.core.options import OptionError, check_options, option, same
from autotune.core.types import LARGEST_INTEGER, Address
from autotune.layers.network_options import NetworkOptions
from autotune.layers.options import PredictOptions, ProfileOptions
from autotune.tuning.options import NAMED_BACKEND, MachineOptions, check_cores
from autotune.tuning.request import TuneRequest


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Export a checkpoint to ONNX or TensorRT and compare it with the checkpoint."""

    form: str = option(
        "onnx", flag="--format", flat="form", choices=("onnx", "tensorrt"), help="File format."
    )
    dtype: str | None = option(
        flag="--dtype",
        choices=("fp32", "fp16"),
        default_text="same as the weights",
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
        le=LARGEST_INTEGER,
        metavar="N",
        default_text="same as in the tuning",
        help="TensorRT: largest batch size.",
    )
    isl: int | None = option(
        flag="--isl",
        ge=1,
        le=LARGEST_INTEGER,
        metavar="TOKENS",
        default_text="same as in the tuning",
        help="TensorRT: largest input sequence length.",
    )
    osl: int = option(
        0,
        flag="--osl",
        ge=0,
        le=LARGEST_INTEGER,
        metavar="TOKENS",
        help="TensorRT: largest output sequence length.",
    )
    tensorrt: str | None = option(
        flag="--tensorrt",
        choices=("8", "10"),
        help="TensorRT: major version; 10 also covers later versions.",
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

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises:
            OptionError: one that is TensorRT's, or half of a workload.
        """
        other = ("device", "batch_size", "isl", "osl", "tensorrt", "one_profile", "build_limit")
        given = [name for name in other if getattr(self, name)]
        if self.form == "onnx" and given:
            raise OptionError(given[0], "needs {form} tensorrt", schema=ExportOptions)
        if bool(self.batch_size) != bool(self.isl):
            raise OptionError("batch_size", "and {isl} must be set together", schema=ExportOptions)


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Check a result again: files, forms, parity, latency and quality."""


@dataclass(frozen=True, kw_only=True)
class DriftOptions:
    """Measure some points again and compare them with the latency database."""

    anchors: int = option(
        20, flag="--anchors", ge=1, le=1000, metavar="N", help="Points to measure again."
    )
    device: str = same(MachineOptions, "device")
    backend: str | None = same(MachineOptions, "backend", **NAMED_BACKEND)
    dtype: str | None = same(MachineOptions, "dtype")
    threads: int | None = same(MachineOptions, "threads")
    database: Address = same(MachineOptions, "database")

    def __post_init__(self) -> None:
        check_options(self)

    def check(self) -> None:
        """Refuse more threads than there are.

        Raises:
            OptionError: that option.
        """
        check_cores(self.threads, "threads", schema=DriftOptions)


# Every schema of a command; where two spell an option differently, the first counts.
SCHEMAS = (
    TuneRequest,
    ProfileOptions,
    PredictOptions,
    NetworkOptions,
    ExportOptions,
    DriftOptions,
)
