"""Schemas of the commands, besides `tune`, that a service runs as jobs or answers itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.core.forms import Form, parse_form
from autotune.core.layers import LayerShape
from autotune.core.options import Entry, OptionError, check_options, entries, option, same
from autotune.core.types import Address
from autotune.core.workload import Workload
from autotune.tuning.options import MachineOptions, check_cores
from autotune.tuning.request import TuneRequest

if TYPE_CHECKING:
    from autotune.profiler.backends.base import Backend

_SIZE = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """A linear layer on `tokens` rows: dense, factorized at rank `rank`, or in a `form`."""

    tokens: int = option(
        flag="--tokens", required=True, ge=1, le=_SIZE, metavar="M", help="Rows of the input, M."
    )
    in_features: int = option(required=True, ge=1, le=_SIZE, help="Columns of the input, K.")
    out_features: int = option(required=True, ge=1, le=_SIZE, help="Columns of the output, N.")
    rank: int | None = option(
        flag="--rank",
        ge=1,
        le=_SIZE,
        metavar="R",
        default_text="dense only",
        help="Rank of the factors.",
    )
    form: str | None = option(
        flag="--form",
        metavar="FORM",
        help="Form, such as rank=96; other structures and precisions need a backend that has them.",
    )

    def __post_init__(self) -> None:
        check_options(self)

    def layer(self) -> LayerShape:
        """The layer in the requested form; `form` takes precedence over `rank`."""
        return LayerShape(
            tokens=self.tokens,
            in_features=self.in_features,
            out_features=self.out_features,
            form=parse_form(self.form) if self.form else Form(rank=self.rank or 0),
        )


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Predict the latency of a layer."""

    tokens: int = same(LayerOptions, "tokens")
    shape: str = option(
        flag="--shape",
        required=True,
        metavar="KxN",
        help="IN_FEATURESxOUT_FEATURES of a layer.",
    )
    ranks: tuple[int, ...] = same(LayerOptions, "rank", default=(), flat="ranks")
    forms: tuple[str, ...] = same(LayerOptions, "form", default=(), flat="forms")
    device: str = same(MachineOptions, "device")
    backend: str | None = same(MachineOptions, "backend")
    dtype: str | None = same(MachineOptions, "dtype")
    threads: int | None = same(MachineOptions, "threads")
    database: Address = same(MachineOptions, "database")
    allow_extrapolation: bool = same(MachineOptions, "allow_extrapolation")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """Measure dense and low-rank layers and store the results in the database."""

    tokens: tuple[int, ...] = same(LayerOptions, "tokens", default=(), required=False)
    shapes: tuple[str, ...] = same(
        PredictOptions, "shape", default=(), required=False, flat="shapes"
    )
    plan: str | None = option(
        flag="--plan",
        choices=("quick", "full"),
        help="Profile the standard layers: quick (about 100 points, 2 minutes) or full.",
    )
    model: str | None = option(
        flag="--for", flat="model", metavar="FOLDER|ID", help="Profile the layers of this model."
    )
    batch_size: int = same(Workload, "batch_size", note="With --for only: ")
    isl: int = same(Workload, "sequence_length", note="With --for only: ")
    osl: int = same(Workload, "output_length", note="With --for only: ")
    ranks: tuple[int, ...] = same(
        LayerOptions, "rank", default=(), flat="ranks", default_text="the aligned grid"
    )
    forms: tuple[str, ...] = same(LayerOptions, "form", default=(), flat="forms")
    device: str = same(MachineOptions, "device")
    backend: str | None = same(MachineOptions, "backend")
    dtype: str | None = same(MachineOptions, "dtype")
    threads: int | None = same(MachineOptions, "threads")
    remeasure: bool = same(MachineOptions, "remeasure")
    farm: str | None = same(MachineOptions, "farm")
    database: Address = same(MachineOptions, "database")

    def __post_init__(self) -> None:
        check_options(self)

    def check(self) -> None:
        """Refuse what is no layer and no form, layers not given once, and a workload of no model.

        Raises:
            UsageError: one that cannot be used, under its name.
        """
        from autotune.cli.forms import chosen_forms
        from autotune.cli.options import parse_shape

        ways = (self.model, self.plan, self.tokens and self.shapes)
        if sum(map(bool, ways)) != 1:
            rule = "give {tokens} and {shapes}, or {model}, or {plan} quick"
            raise OptionError("", rule, schema=ProfileOptions)
        given = [each.path for each in entries(ProfileOptions) if self._is_of_a_model(each)]
        if given and not self.model:
            raise OptionError(given[0], "needs {model}", schema=ProfileOptions)
        for shape in self.shapes:
            parse_shape(shape, max(self.tokens, default=1))
        chosen_forms(self.ranks, self.forms)

    def _is_of_a_model(self, entry: Entry) -> bool:
        """Whether an option of the model's workload was set to another value than its default."""
        name = entry.name
        return name in ("batch_size", "isl", "osl") and getattr(self, name) != entry.default


def check_forms(forms: Iterable[Form], backend: Backend, *, schema: type) -> None:
    """Refuse forms of layers that the backend cannot run.

    Raises:
        OptionError: one that it has no implementation of.
    """
    for form in forms:
        if not backend.implements(form):
            rule = (
                f"{form}: {backend.name} has no implementation of it; measure plain pairs in "
                "native precision, such as rank=96, or choose another {backend}"
            )
            raise OptionError("forms", rule, schema=schema)


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
        le=_SIZE,
        metavar="N",
        default_text="same as in the tuning",
        help="TensorRT: largest batch size.",
    )
    isl: int | None = option(
        flag="--isl",
        ge=1,
        le=_SIZE,
        metavar="TOKENS",
        default_text="same as in the tuning",
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
    backend: str | None = same(MachineOptions, "backend")
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
SCHEMAS = (TuneRequest, ProfileOptions, PredictOptions, ExportOptions, DriftOptions)
