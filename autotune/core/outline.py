"""What a model computes, without its weights: sites and other operations of each phase."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.core.layers import Site
from autotune.core.operation import Operation


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass of a phase: its sites (joint ones too) with their tokens, and every operation.

    Each single site is one operation of the kind "layer". `summed` are the values of each tensor
    that several devices add up, where they share the layers.
    """

    sites: tuple[Site, ...]
    operations: tuple[Operation, ...]
    summed: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelOutline:
    """A model by its configuration alone.

    `passes` by phase, in the order of the workload's; `parameters` are those of the whole model,
    also where the passes are of one of several devices.
    """

    task: str
    parameters: int
    passes: Mapping[str, Pass]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of all fields."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> ModelOutline:
        """The outline back from `to_json`.

        Raises:
            KeyError, TypeError: it is none.
        """
        passes = {
            phase: Pass(
                sites=tuple(_site(site) for site in one["sites"]),
                operations=tuple(_operation(each) for each in one["operations"]),
                summed=tuple(one["summed"]),
            )
            for phase, one in values["passes"].items()
        }
        return ModelOutline(task=values["task"], parameters=values["parameters"], passes=passes)


def _site(values: Mapping[str, Any]) -> Site:
    members, parts = tuple(values["members"]), tuple(values["parts"])
    return Site(**{**values, "members": members, "parts": parts})


def _operation(values: Mapping[str, Any]) -> Operation:
    moved = {name: tuple((n, size) for n, size in values[name]) for name in ("reads", "writes")}
    return Operation(**{**values, **moved})
