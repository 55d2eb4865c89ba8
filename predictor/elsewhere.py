"""What is known of a device that is not here: this project's database of it, or others' tables."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from autotune.devices.roofline import Roofline
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec
from autotune.errors import UsageError
from autotune.predictor.attention import AttentionLatency
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.imported import ImportedLatency
from autotune.predictor.rest import MemoryModel
from autotune.predictor.table import LatencyTable
from autotune.profiler.imported import MULTIPLE, fingerprint_of_table, imported_devices, read_tables
from autotune.profiler.shipped import shipped_devices, shipped_tables
from autotune.types import Fingerprint


@dataclass(frozen=True, kw_only=True)
class DeviceTable:
    """Latencies of layers on a device elsewhere.

    `sources` say whose measurements they are; `rank_multiple` is the finest they know; `fuses`:
    they are of a stack that runs neighbouring memory operations as one kernel.
    """

    spec: DeviceSpec
    fingerprint: Fingerprint
    predictor: LatencyPredictor
    memory: MemoryModel
    sources: tuple[str, ...]
    rank_multiple: int
    fuses: bool

    @functools.cached_property
    def attention(self) -> AttentionLatency:
        """Attention on the device, learned when first asked for."""
        return AttentionLatency(self.spec, self.fingerprint.dtype)


def device_table(spec: DeviceSpec, dtype: str, backend: str) -> DeviceTable:
    """The table of `spec`: measured with this profiler where there is one, else by others.

    Raises:
        UsageError: nothing is known in this dtype.
    """
    if spec.name in shipped_devices():
        return _shipped(spec, dtype, backend)
    if spec.name in imported_devices():
        return _imported(spec, dtype)
    known = ", ".join(sorted({*shipped_devices(), *imported_devices()}))
    raise UsageError(f"nothing is known of {spec.name}; there are tables of {known}")


def _shipped(spec: DeviceSpec, dtype: str, backend: str) -> DeviceTable:
    """Of `backend` where it was measured, else the largest."""
    tables = shipped_tables(spec.name, dtype)
    if not tables:
        raise UsageError(f"the database of {spec.name} has no {dtype} points; give bf16 or fp16")
    fingerprint, rows = next((t for t in tables if t[0].backend == backend), tables[0])
    table = LatencyTable(rows, Roofline.of(spec, 1), cliff=spec.cliff(dtype))
    versions = ", ".join(f"{name} {version}" for name, version in fingerprint.versions.items())
    dense = [row for row in rows if row.rank == 0 and row.latency_s and not row.shape.parts]
    return DeviceTable(
        spec=spec,
        fingerprint=fingerprint,
        predictor=table,
        memory=MemoryModel.learned(
            spec, np.array([row.shape.parameters * DTYPE_BYTES[dtype] for row in dense], float),
            np.array([row.latency_s for row in dense], float),
        ),
        sources=(
            f"this project's database of {fingerprint.device_name}: {fingerprint.backend}, "
            f"{versions}",
        ),
        rank_multiple=spec.rank_multiple(dtype),
        fuses=fingerprint.backend in ("torch-compile", "tensorrt"),
    )  # fmt: skip


def _imported(spec: DeviceSpec, dtype: str) -> DeviceTable:
    tables = read_tables(spec.name, dtype)
    rows = np.concatenate([table.rows.to_numpy(dtype=np.float64) for table in tables])
    sources = tuple(table.source for table in tables)
    first = fingerprint_of_table(tables[0])
    return DeviceTable(
        spec=spec,
        fingerprint=Fingerprint(
            device=spec.name, device_name=spec.title, backend="imported", dtype=dtype, threads=1,
            versions=dict(first.versions), settings={"sources": "; ".join(sources)},
        ),
        predictor=ImportedLatency(spec, tables),
        memory=MemoryModel.learned(spec, rows[:, 1] * rows[:, 2] * DTYPE_BYTES[dtype], rows[:, 3]),
        sources=sources,
        rank_multiple=MULTIPLE,
        fuses=True,
    )  # fmt: skip
