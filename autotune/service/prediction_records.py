"""What is asked of a process that predicts, and what it answers; both travel as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.core.forms import parse_form
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate


@dataclass(frozen=True, kw_only=True)
class Question:
    """Layers, and the device on which their latency is asked for."""

    device: str
    shapes: tuple[LayerShape, ...]
    backend: str | None = None
    dtype: str | None = None
    allow_extrapolation: bool = False

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, for the pipe to the other process."""
        shapes = [{**dataclasses.asdict(one), "form": str(one.form)} for one in self.shapes]
        return {**dataclasses.asdict(self), "shapes": shapes}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Question:
        """The question in a JSON object that `to_json` made."""
        shapes = tuple(
            LayerShape(**{**one, "form": parse_form(one["form"]), "parts": tuple(one["parts"])})
            for one in values["shapes"]
        )
        return Question(**{**values, "shapes": shapes})


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One estimate for each shape, in order, and where they come from."""

    device: str
    backend: str
    dtype: str
    sources: tuple[str, ...]
    estimates: tuple[Estimate, ...]

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, for the pipe to the other process."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Prediction:
        """The prediction in a JSON object that `to_json` made."""
        estimates = tuple(Estimate(**one) for one in values["estimates"])
        return Prediction(**{**values, "sources": tuple(values["sources"]), "estimates": estimates})
