"""What is asked of a whole model on a device, of which only the configuration is known."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.core.options import OptionError, check_options, entries, option, same
from autotune.core.types import Address
from autotune.core.workload import Workload
from autotune.layers.options import PredictOptions
from autotune.tuning.options import NAMED_BACKEND, MachineOptions

_OF_A_MODEL = "With --model only: "


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Predict what low rank and other precisions could bring to a model."""

    model: str | None = option(
        None,
        flag="--model",
        metavar="FOLDER|ID|FILE",
        help="Predict for a model: a folder, a hub id, or a config.json. No weights are read.",
    )
    batch_size: int = same(Workload, "batch_size", note=_OF_A_MODEL)
    isl: int = same(Workload, "sequence_length", note=_OF_A_MODEL)
    osl: int = same(Workload, "output_length", note=_OF_A_MODEL)
    tensor_parallel: int = option(
        1,
        flag="--tensor-parallel",
        ge=1,
        le=1024,
        metavar="COUNT",
        help=f"{_OF_A_MODEL}Devices that share each layer.",
    )
    device: str = same(MachineOptions, "device")
    backend: str | None = same(MachineOptions, "backend", **NAMED_BACKEND)
    dtype: str | None = same(MachineOptions, "dtype")
    threads: int | None = same(MachineOptions, "threads")
    database: Address = same(MachineOptions, "database")
    allow_extrapolation: bool = same(MachineOptions, "allow_extrapolation")

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def workload(self) -> Workload:
        """What the latencies are of."""
        return Workload(
            batch_size=self.batch_size, sequence_length=self.isl, output_length=self.osl
        )

    def named_model(self) -> str:
        """The model.

        Raises:
            OptionError: none is given.
        """
        if self.model is None:
            rule = "is missing: a folder, a hub id, or a config.json"
            raise OptionError("model", rule, schema=NetworkOptions)
        return self.model


def only_of_models(name: str) -> bool:
    """Whether an option by its flat name is one of models, and none of layers."""
    return name not in {each.option.flat for each in entries(PredictOptions)}


def check_no_model(options: NetworkOptions) -> None:
    """Refuse options of a model where a layer is asked for.

    Raises:
        OptionError: one of them has another value than its default.
    """
    for each in entries(NetworkOptions):
        if only_of_models(each.name) and getattr(options, each.name) != each.default:
            raise OptionError(each.path, "needs {model}", schema=NetworkOptions)


def check_no_layer(options: PredictOptions) -> None:
    """Refuse a layer where a model is asked for.

    Raises:
        OptionError: tokens, a shape, ranks or forms are given.
    """
    for name in ("tokens", "shape", "ranks", "forms"):
        if getattr(options, name):
            rule = "is of one layer; a model has its own: leave it out, or the model"
            raise OptionError(name, rule, schema=PredictOptions)
