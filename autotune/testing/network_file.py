"""A network that only exists as a description: what a simulated builder writes instead of a model.

`SimulatedRunner` reads it where a real backend would open a checkpoint or a graph.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.core.errors import ModelError
from autotune.core.forms import Plan, plan_from_json, plan_to_json
from autotune.core.layers import Site
from autotune.core.types import from_mapping

_TYPE = "autotune.simulated-network"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SimulatedNetwork:
    """A network of `sites` under `plan`, in one phase; `sites` are on the tokens of that phase."""

    sites: tuple[Site, ...]
    plan: Plan
    phase: str = "prefill"
    dtype: str = "fp32"

    def to_json(self) -> dict[str, Any]:
        """The description as plain JSON."""
        return {
            "type": _TYPE,
            "version": _VERSION,
            "phase": self.phase,
            "dtype": self.dtype,
            "plan": plan_to_json(self.plan),
            "sites": [dataclasses.asdict(site) for site in self.sites],
        }

    def write(self, path: Path) -> None:
        """Write the description to `path`."""
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> SimulatedNetwork:
        """Read what `write` wrote.

        Raises:
            ModelError: the file is missing, or is no description of a simulated network.
        """
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise ModelError(f"{path}: no such file") from error
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} is no simulated network: {error}") from error
        if not isinstance(values, dict) or values.get("type") != _TYPE:
            raise ModelError(f"{path} is no simulated network: it lacks type {_TYPE!r}")
        if values["version"] != _VERSION:
            raise ModelError(f"{path} has version {values['version']}, this reads {_VERSION}")
        return SimulatedNetwork(
            sites=tuple(_site(site) for site in values["sites"]),
            plan=plan_from_json(values["plan"]),
            phase=values["phase"],
            dtype=values["dtype"],
        )


def _site(values: dict[str, Any]) -> Site:
    lists = {key: tuple(values[key]) for key in ("members", "parts")}
    return from_mapping(Site, {**values, **lists})
