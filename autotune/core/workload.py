"""What a latency is of, and the limits on a model: both are schemas of options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autotune.core.errors import QuantityError
from autotune.core.options import OptionError, check_options, option
from autotune.core.quantities import QUALITY, Quantity, parse_quantity

RESOURCES = (
    "latency",
    "parameters",
    "weight_bytes",
    "flops",
    "kv_cache_bytes",
    "activation_bytes",
)
PHASES = ("prefill", "decode", "request")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a latency is of: `batch_size` sequences of `sequence_length` input tokens.

    `phase`: "prefill", one pass over the input; "decode", one further token of every sequence, with
    keys and values of the input and half the output cached; "request", the prefill and
    `output_length` such steps (a step's cost grows by its past, so the step halfway is the mean).
    Unless given, it is "request" where there is an output length, else "prefill".

    Raises:
        OptionError: a size that is not a whole number in range, an unknown phase, or an output
            length that contradicts the phase.
    """

    PATH: ClassVar[str] = "workload"

    batch_size: int = option(
        8,
        flag="--batch-size",
        ge=1,
        le=1 << 24,
        common=True,
        group="Workload",
        metavar="N",
        help="Sequences in a batch.",
    )
    sequence_length: int = option(
        128,
        flag="--isl",
        ge=1,
        le=1 << 24,
        common=True,
        group="Workload",
        metavar="TOKENS",
        help="Input sequence length.",
    )
    output_length: int = option(
        0,
        flag="--osl",
        ge=0,
        le=1 << 24,
        common=True,
        group="Workload",
        metavar="TOKENS",
        help="Output sequence length of a request; 0: prefill only.",
    )
    phase: str = option(
        None,
        flag="--phase",
        choices=PHASES,
        group="Workload",
        default_text="request if --osl is set, else prefill",
        help="Which phase the latency budget covers.",
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.phase is None:
            object.__setattr__(self, "phase", "request" if self.output_length else "prefill")
        if self.phase == "request" and not self.output_length:
            raise OptionError(
                "workload.phase",
                "request needs an output length; set {workload.output_length}, "
                "such as 128, or use phase prefill",
                schema=Workload,
            )
        if self.phase == "prefill" and self.output_length:
            raise OptionError(
                "workload.output_length",
                "needs {workload.phase} decode or request",
                schema=Workload,
            )

    @property
    def tokens(self) -> int:
        """Rows M that a per-token linear layer sees in the prefill."""
        return self.batch_size * self.sequence_length

    @property
    def text(self) -> str:
        """The workload in words, for people to read."""
        sequences = f"{self.batch_size} × {self.sequence_length} tokens"
        return {
            "prefill": sequences,
            "decode": f"one decode step of {self.batch_size} after {self.past_length} tokens each",
            "request": f"{sequences} and {self.output_length} decode steps",
        }[self.phase]

    @property
    def past_length(self) -> int:
        """Cached tokens of a sequence at the decode step that is timed."""
        return self.sequence_length + self.output_length // 2

    @property
    def passes(self) -> dict[str, int]:
        """Which graphs one workload runs ("prefill", "decode"), and how often."""
        counts = {"prefill": 1, "decode": self.output_length}
        return counts if self.phase == "request" else {self.phase: 1}


class BudgetError(OptionError, QuantityError):
    """A limit of a budget does not parse."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits as written (`20ms`, `0.85x`); None is no limit. At least one is set.

    `quality` is a floor under the task's figure on held-out data: `0.99`, or `1.05x` of the dense
    model's perplexity. Without a latency limit the plan of least latency is searched that keeps it.

    Latency is of one run of the workload (of its `phase`); parameters and weight bytes are of the
    whole model, FLOPs of its factorizable layers in a prefill. KV-cache bytes are those of the
    workload's tokens; factorizing k and v projections does not shrink them, as keys and values are
    cached, not latents: such a budget is priced 0 at every site and either holds from the start or
    never. Activation bytes are the largest live input, latent and output of one factorizable layer.

    Raises:
        BudgetError: a limit that does not parse.
        OptionError: no limit at all.
    """

    PATH: ClassVar[str] = "budget"

    latency: str | None = option(
        flag="--latency-budget",
        common=True,
        group="Budgets",
        metavar="LIMIT",
        help="Latency, such as 20ms, or 0.85x of the dense model.",
    )
    quality: str | None = option(
        flag="--quality-floor",
        common=True,
        group="Budgets",
        metavar="FIGURE",
        help="Least quality on held-out data, such as a cosine of 0.99, or 1.05x of the dense "
        "perplexity; alone it asks for the least latency that keeps it.",
    )
    parameters: str | None = option(
        flag="--params-budget",
        group="Budgets",
        metavar="LIMIT",
        help="Parameters of the whole model, such as 25M or 0.8x.",
    )
    weight_bytes: str | None = option(
        flag="--memory-budget",
        group="Budgets",
        metavar="LIMIT",
        help="Bytes of the weights, such as 80MB or 0.8x.",
    )
    flops: str | None = option(
        flag="--flops-budget",
        group="Budgets",
        metavar="LIMIT",
        help="FLOPs of the factorizable layers in a prefill, such as 20G or 0.8x.",
    )
    kv_cache_bytes: str | None = option(
        flag="--kv-cache-budget",
        group="Budgets",
        metavar="LIMIT",
        help="Bytes of the KV cache, such as 2GiB; factorizing does not shrink it.",
    )
    activation_bytes: str | None = option(
        flag="--activation-budget",
        group="Budgets",
        metavar="LIMIT",
        help="Bytes of the live tensors of one layer, such as 200MB.",
    )

    def __post_init__(self) -> None:
        check_options(self)
        limits = {name: getattr(self, name) for name in (*RESOURCES, QUALITY)}
        if not any(limits.values()):
            raise OptionError(
                "",
                "no budget given; set at least one, such as {budget.latency} 0.85x",
                schema=Budget,
            )
        for name, text in limits.items():
            try:
                parse_quantity(text or "1x", name)
            except QuantityError as error:
                raise BudgetError(
                    f"budget.{name}", f"cannot be read: {error}", schema=Budget
                ) from None

    def limits(self) -> dict[str, Quantity]:
        """The limits that are set, parsed, by resource."""
        texts = {name: getattr(self, name) for name in RESOURCES}
        return {name: parse_quantity(text, name) for name, text in texts.items() if text}

    def floor(self) -> Quantity | None:
        """The quality floor, parsed."""
        return parse_quantity(self.quality, QUALITY) if self.quality else None
