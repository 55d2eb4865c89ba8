"""Recorded latencies as the truth, so that tests do not rest on a simulated formula alone.

Where a point was recorded, its seconds are the truth. Between points, the simulated hardware is
corrected by what recordings nearby deviate from it: along the rank where the same layer was
recorded at ranks on either side, else by inverse distance over the nearest recorded layers.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import UsageError
from autotune.core.layers import LayerShape
from autotune.core.types import digest
from autotune.profiler.database.exchange import read_table
from autotune.profiler.database.records import Measurement, measured_rows
from autotune.profiler.sources.shipped import shipped_tables
from autotune.testing.hardware import Hardware, SimulatedHardware, simulated_hardware
from autotune.testing.kernels import Kernel
from autotune.testing.shapes import is_dense, rank_of

_NEAREST = 6
Array = NDArray[np.float64]
# Structures and precisions of pairs are apart from each other.
_Group = tuple[bool, bool, str, float]
_Staircase = tuple[LayerShape, str, float]


class RecordedHardware(Hardware):
    """Layers as recorded, on hardware that says how a network differs from their sum.

    `rows` are measured points of one fingerprint. A recorded pair is its ratio times its dense
    layer, since the two were timed in turn.

    Raises:
        UsageError: there is no row.
    """

    def __init__(self, base: SimulatedHardware, rows: Sequence[Measurement]) -> None:
        self.settings = base
        self._recorded = _recorded_seconds(rows)
        if not self._recorded:
            raise UsageError("no recorded point has a latency; give rows of an export")

    @staticmethod
    def from_export(path: Path, preset: str = "cpu-like") -> RecordedHardware:
        """The fingerprint with most points of a file that `autotune db export` wrote.

        Raises:
            UsageError: an unreadable file, or an unknown preset.
        """
        tables = (measured_rows(rows) for _, rows in read_table(path))
        rows = max(tables, key=len)
        return RecordedHardware(simulated_hardware(preset, name="recorded-cpu"), rows)

    @staticmethod
    def shipped(device: str = "h200-sxm", dtype: str = "bf16") -> RecordedHardware:
        """The largest table that the package ships of `device`.

        Raises:
            UsageError: nothing is shipped of the device in this dtype.
        """
        tables = shipped_tables(device, dtype)
        if not tables:
            raise UsageError(f"the package ships no points of {device} in {dtype}")
        base = simulated_hardware("h200-like", name=f"recorded-{device}")
        return RecordedHardware(base, tables[0][1])

    @property
    def shapes(self) -> tuple[LayerShape, ...]:
        """The layers that were recorded, sorted by shape."""
        return tuple(sorted(self._recorded, key=_sort_key))

    @functools.cached_property
    def identity(self) -> str:
        """A short hash of the recording and of the hardware that it corrects."""
        points = [[str(_sort_key(shape)), self._recorded[shape]] for shape in self.shapes]
        return digest([self.settings.identity, points])[:16]

    def kernels(self, shape: LayerShape) -> tuple[Kernel, ...]:
        """Those of the simulated hardware, scaled to what was recorded."""
        kernels = self.settings.kernels(shape)
        factor = math.exp(self._deviation(shape))
        return tuple(kernel.scaled(factor) for kernel in kernels)

    def layer_latency_s(self, shape: LayerShape) -> float:
        """As recorded, or as the recordings nearby make it."""
        if shape in self._recorded:
            return self._recorded[shape]
        return self.settings.layer_latency_s(shape) * math.exp(self._deviation(shape))

    def _deviation(self, shape: LayerShape) -> float:
        """log(truth / simulated) of one layer."""
        if shape in self._recorded:
            return math.log(self._recorded[shape] / self.settings.layer_latency_s(shape))
        along = self._along_rank(shape)
        return self._nearby(shape) if along is None else along

    def _along_rank(self, shape: LayerShape) -> float | None:
        """Linear over log rank between two recorded ranks of the same layer and alignment."""
        rank = rank_of(shape)
        entries = self._by_layer.get(self._staircase(shape), [])
        ranks = [each for each, _ in entries]
        at = bisect.bisect(ranks, rank)
        if not rank or at in (0, len(ranks)):
            return None
        (low, left), (high, right) = entries[at - 1], entries[at]
        weight = math.log(rank / low) / math.log(high / low)
        return (1.0 - weight) * left + weight * right

    def _nearby(self, shape: LayerShape) -> float:
        """Inverse-distance weights over the nearest recorded layers of the same kind."""
        group = self._groups.get(self._group(shape))
        if group is None:
            # No layer of this kind: the hardware's typical deviation.
            return self._median
        points, deviations = group
        distances = np.linalg.norm(points - _coordinates(shape), axis=1)
        nearest = np.argsort(distances, kind="stable")[:_NEAREST]
        weights = 1.0 / (distances[nearest] ** 2 + 1e-9)
        return float(weights @ deviations[nearest] / weights.sum())

    def _side(self, shape: LayerShape) -> float:
        """How far the rank is aligned: recordings do not mix across cliffs."""
        multiple = self.settings.cliff_multiple
        return math.gcd(rank_of(shape), multiple) if rank_of(shape) else multiple

    def _staircase(self, shape: LayerShape) -> _Staircase:
        return shape.dense, shape.form.suffix, self._side(shape)

    def _group(self, shape: LayerShape) -> _Group:
        return is_dense(shape), bool(shape.parts), shape.form.suffix, self._side(shape)

    @functools.cached_property
    def _deviations(self) -> dict[LayerShape, float]:
        return {shape: self._deviation(shape) for shape in self._recorded}

    @functools.cached_property
    def _median(self) -> float:
        return float(np.median(list(self._deviations.values())))

    @functools.cached_property
    def _by_layer(self) -> dict[_Staircase, list[tuple[int, float]]]:
        found: dict[_Staircase, list[tuple[int, float]]] = defaultdict(list)
        for shape, deviation in self._deviations.items():
            if not is_dense(shape):
                found[self._staircase(shape)].append((rank_of(shape), deviation))
        return {key: sorted(entries) for key, entries in found.items()}

    @functools.cached_property
    def _groups(self) -> dict[_Group, tuple[Array, Array]]:
        members: dict[_Group, list[LayerShape]] = defaultdict(list)
        for shape in self.shapes:
            members[self._group(shape)].append(shape)
        return {
            group: (
                np.array([_coordinates(shape) for shape in shapes]),
                np.array([self._deviations[shape] for shape in shapes]),
            )
            for group, shapes in members.items()
        }


def _recorded_seconds(rows: Sequence[Measurement]) -> dict[LayerShape, float]:
    found = {row.shape: row.latency_s for row in rows if is_dense(row.shape)}
    for row in rows:
        if not is_dense(row.shape):
            dense_s = found.get(row.shape.dense)
            found[row.shape] = dense_s * row.ratio if dense_s else row.latency_s
    return found


def _coordinates(shape: LayerShape) -> Array:
    rank = rank_of(shape) or 1
    sizes = (shape.tokens, shape.in_features, shape.out_features, rank)
    return np.log(np.array(sizes, dtype=np.float64))


def _sort_key(shape: LayerShape) -> tuple[object, ...]:
    sizes = (shape.tokens, shape.in_features, shape.out_features, rank_of(shape))
    return (shape.dtype, shape.parts, *sizes)
