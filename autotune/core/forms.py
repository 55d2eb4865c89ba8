"""Forms: what one layer may be, and plans that give every layer one.

A form has one text spelling, which CSV, JSON and the command line share: `dense`, `rank=256`,
`rank=256:pivoted`, `dense:int8-static`, `rank=256:pivoted:int8-static`. Plain structure and native
precision are not written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autotune.core.errors import UsageError

PLAIN = "plain"
NATIVE = "native"
PIVOTED = "pivoted"
STRUCTURES = (PLAIN, PIVOTED)
# Integer weights, and inputs rounded in a range that was calibrated or that they have at each call.
INT8_STATIC = "int8-static"
INT8_DYNAMIC = "int8-dynamic"
# Integer weights with a scale for each block of inputs, for products of few tokens.
INT8_WEIGHT_ONLY = "int8-weight-only"
INT4_WEIGHT_ONLY = "int4-weight-only"
# Inputs of a row that share a scale in these (llama.cpp's and onnxruntime's own number).
WEIGHT_BLOCK = 32
_PRECISION = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_RANK = re.compile(r"rank=([1-9][0-9]{0,6})")


@dataclass(frozen=True, kw_only=True, order=True, slots=True)
class Form:
    """How one layer is stored and computed: dense or of a rank, in a structure and a precision.

    `rank` 0 is the dense layer. `structure` is how the two factors are laid out (`plain`: U and V;
    `pivoted`: one of them holds an identity); a dense layer has the plain one. `precision` is that
    of the weights and of the product; `native` is the model's own dtype.

    Raises:
        UsageError: a negative rank, an unknown structure, a structure for a dense layer, or a
            precision that is no name.
    """

    rank: int = 0
    structure: str = PLAIN
    precision: str = NATIVE

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise UsageError(f"rank {self.rank} must be at least 1 (0 stands for dense)")
        if self.structure not in STRUCTURES:
            known = ", ".join(STRUCTURES)
            raise UsageError(f"unknown structure {self.structure!r}; known are {known}")
        if not self.rank and self.structure != PLAIN:
            raise UsageError(f"a dense layer has no {self.structure} structure; give it a rank")
        if not _PRECISION.fullmatch(self.precision):
            raise UsageError(f"{self.precision!r} is not the name of a precision")

    @property
    def is_dense(self) -> bool:
        """Whether the layer is not factorized (in whatever precision)."""
        return self.rank == 0

    @property
    def is_unchanged(self) -> bool:
        """Whether this is the layer as the model has it."""
        return not self.rank and self.precision == NATIVE

    @property
    def rank_or_none(self) -> int | None:
        """The rank, None where dense: the values that were stored before there were forms."""
        return self.rank or None

    @property
    def suffix(self) -> str:
        """`:structure:precision`, without what is plain or native."""
        structure = "" if self.structure == PLAIN else f":{self.structure}"
        precision = "" if self.precision == NATIVE else f":{self.precision}"
        return structure + precision

    def __str__(self) -> str:
        """The one text spelling, which `parse_form` reads."""
        return (f"rank={self.rank}" if self.rank else "dense") + self.suffix


DENSE = Form()
# Site or joint site by name → its form. A site without an entry is dense, or covered by the joint
# site it belongs to.
Plan = Mapping[str, Form]


def low_rank(rank: int, structure: str = PLAIN, *, precision: str = NATIVE) -> Form:
    """The form of a pair of factors of `rank`."""
    return Form(rank=rank, structure=structure, precision=precision)


def pivots_inputs(in_features: int, out_features: int, *, shared: bool = False) -> bool:
    """Whether the latent of a pivoted pair selects inputs; else it is part of the outputs.

    The identity lies where a permutation moves fewer values. A latent that several layers share
    can only select their inputs.
    """
    return shared or in_features <= out_features


def parse_form(text: str) -> Form:
    """The form that `text` spells, such as `dense`, `rank=256` or `rank=256:pivoted:int8-static`.

    Raises:
        UsageError: another spelling.
    """
    head, *parts = text.strip().split(":")
    match = _RANK.fullmatch(head)
    if head != "dense" and match is None:
        raise UsageError(
            f"{text!r} is not a form; write dense or rank=R, then :structure and :precision where "
            "they are not plain and native, as in rank=256:pivoted:int8-static"
        )
    structure = parts.pop(0) if parts and parts[0] in STRUCTURES else PLAIN
    precision = parts.pop(0) if parts else NATIVE
    if parts:
        raise UsageError(f"{text!r} has {parts[0]!r} after its precision; a form ends there")
    return Form(rank=int(match[1]) if match else 0, structure=structure, precision=precision)


def plan_to_json(plan: Plan) -> dict[str, str]:
    """Names and spellings, for JSON."""
    return {name: str(form) for name, form in plan.items()}


def plan_from_json(values: Mapping[str, str]) -> dict[str, Form]:
    """The plan back from `plan_to_json`."""
    return {name: parse_form(text) for name, text in values.items()}
