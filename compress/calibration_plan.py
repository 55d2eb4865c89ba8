"""What to calibrate on; light, so that a request can be checked before anything heavy loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autotune.core.options import check_options, option


@dataclass(frozen=True, kw_only=True)
class CalibrationPlan:
    """Calibration files and sizes. Sizes are in sequences; None lets the task choose.

    `calibration` and `evaluation` are text files (one document per line) or .safetensors files of
    input tensors; without `evaluation` the held-out part is cut from `calibration`. `seed` is that
    of the request unless it is given.

    Raises:
        OptionError: a size below 1, or a value of another type.
    """

    PATH: ClassVar[str] = "calibration"

    calibration: str | None = option(
        flag="--calibration",
        common=True,
        group="Calibration",
        metavar="FILE",
        default_text="the text that ships with the package",
        help="Calibration data: text, one document per line, or .safetensors input tensors.",
    )
    evaluation: str | None = option(
        flag="--evaluation",
        group="Calibration",
        metavar="FILE",
        default_text="cut from the calibration data",
        help="Held-out data for the quality figure, in the same formats.",
    )
    statistics_samples: int | None = option(
        flag="--calibration-samples",
        ge=1,
        group="Calibration",
        metavar="SEQUENCES",
        by_effort=(8192, None, 262_144),
        default_text="chosen by the task; quick: 8,192 tokens, thorough: 262,144 tokens",
        help="Sequences that the calibration statistics are collected from.",
    )
    search_samples: int | None = option(ge=1, help="Sequences that plans are judged on.")
    heldout_samples: int | None = option(ge=1, help="Sequences of the quality figure.")
    seed: int | None = option(ge=0, help="Seed of the choice of sequences.")

    def __post_init__(self) -> None:
        check_options(self)
