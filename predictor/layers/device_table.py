"""What is known of a device that is not here: this project's database or third-party tables."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from autotune.core.errors import UsageError, option_name
from autotune.core.garbage import collection_paused
from autotune.core.types import Address, Fingerprint
from autotune.devices.roofline import Roofline
from autotune.devices.specs import DTYPE_BYTES, HALF_PRECISION, DeviceSpec
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.edges import Edges, WithinEdges, edges_of
from autotune.predictor.layers.table import LatencyTable
from autotune.predictor.layers.transfer import Transfer, TransferredLatency
from autotune.predictor.network.added_up import FUSING, NetworkPrices
from autotune.predictor.network.rest import MemoryModel
from autotune.profiler.database.peek import may_hold
from autotune.profiler.database.records import Measurement
from autotune.profiler.sources.aiconfigurator import (
    MULTIPLE,
    PACKAGE,
    ImportedTable,
    fingerprint_of_table,
    imported_devices,
    read_tables,
)
from autotune.profiler.sources.shipped import shipped_devices, shipped_tables

if TYPE_CHECKING:
    from autotune.predictor.network.attention import AttentionLatency
    from autotune.predictor.products.adaptation import Adaptation

Tables = list[tuple[Fingerprint, list[Measurement]]]
# A table of fewer points leaves most shapes to a guess.
_FEW = 500


@dataclass(frozen=True, kw_only=True)
class DeviceTable:
    """Latencies of layers on a device elsewhere.

    `sources` say whose measurements they are, which were made in `timed_dtype`; `rank_multiple` is
    the finest they know; `fuses`: they are of a stack that runs neighbouring memory operations as
    one kernel.
    """

    spec: DeviceSpec
    fingerprint: Fingerprint
    timed_dtype: str
    predictor: LatencyPredictor
    memory: MemoryModel
    sources: tuple[str, ...]
    rank_multiple: int
    fuses: bool

    def prices(self, dtype: str) -> NetworkPrices:
        """Prices of every operation of a network in `dtype`."""
        return NetworkPrices(
            dtype=dtype,
            layers=self.predictor,
            memory=self.memory,
            attention=self.attention,
            fuses=self.fuses,
        )

    @functools.cached_property
    def attention(self) -> AttentionLatency:
        """Attention on the device, learned when first asked for."""
        from autotune.predictor.network.attention import AttentionLatency

        return AttentionLatency(self.spec, self.timed_dtype)


@collection_paused()
def device_table(
    spec: DeviceSpec,
    dtype: str,
    *,
    backend: str,
    any_backend: bool = True,
    database: Address | None = None,
    extrapolate: bool = False,
) -> DeviceTable:
    """The table of `spec`: measured with this profiler where there is one, else by others.

    The user's own `database` comes first where it holds more than a few points, or nothing else is
    known; few points correct what else is known. With `extrapolate` a GPU without a table is
    predicted from its sheet and other devices' tables. Measurements of another backend serve where
    `any_backend`; others' tables are of serving stacks, and serve for every backend.

    Raises:
        UsageError: nothing is known in this dtype, or of this backend.
    """
    measured = functools.partial(_measured, spec, backend=backend, any_backend=any_backend)
    own = own_tables(spec, database, dtype=dtype)
    extrapolate = extrapolate and spec.kind == "cuda" and bool(imported_devices())
    others = extrapolate or spec.name in (*shipped_devices(), *imported_devices())
    if own and (len(own[0][1]) >= _FEW or not others):
        return measured(own, whose="the database")
    if spec.name in shipped_devices():
        tables = shipped_tables(spec.name, dtype)
        if not tables:
            lacks = f"the database of {spec.name} has no {dtype} points"
            raise UsageError(f"{lacks}; give bf16 or fp16")
        return _with_own(_for_others(measured(tables, whose="this project's database")), own)
    if spec.name in imported_devices():
        return _with_own(_for_others(_imported(spec, dtype)), own)
    if extrapolate:
        return _extrapolated(spec, dtype, own=own)
    known = ", ".join(sorted({*shipped_devices(), *imported_devices()}))
    raise UsageError(f"no latency tables for {spec.name} in {dtype}; tables exist for {known}")


def _for_others(table: DeviceTable) -> DeviceTable:
    """The same table with intervals of what will be measured on another board."""
    transfer = Transfer.of(table.spec.name)
    return replace(table, predictor=TransferredLatency(table.predictor, transfer))


def _with_own(table: DeviceTable, own: Tables, *, known: Adaptation | None = None) -> DeviceTable:
    """The same table corrected by what the user's database holds of the device, if anything."""
    if not own:
        return table
    from autotune.predictor.layers.own_points import OwnPoints

    fingerprint, rows = next((t for t in own if t[0].backend == table.fingerprint.backend), own[0])
    predictor = OwnPoints(table.predictor, rows, roofline=Roofline.of(table.spec, 1), known=known)
    points = f"{predictor.points} points of the database ({fingerprint.backend})"
    return replace(
        table,
        predictor=predictor,
        sources=(*table.sources, f"{points}: {predictor.changes()}"),
    )


def own_tables(spec: DeviceSpec, database: Address | None, *, dtype: str | None = None) -> Tables:
    """What the user's database holds of `spec`, measured by this profiler; most points first."""
    if database is None or not may_hold(database, spec.name):
        return []
    from autotune.profiler.database.latency import LatencyDatabase

    with LatencyDatabase(database) as store:
        found = [
            (fingerprint, store.measurements(key))
            for key, fingerprint in store.fingerprints().items()
            if fingerprint.device == spec.name
            and dtype in (None, fingerprint.dtype)
            # Third-party products in it are read from their package, where stacks are kept apart.
            and not fingerprint.backend.startswith("imported")
        ]
    return sorted((table for table in found if table[1]), key=lambda table: -len(table[1]))


def _measured(
    spec: DeviceSpec,
    tables: Tables,
    *,
    backend: str,
    any_backend: bool,
    whose: str,
) -> DeviceTable:
    """Of `backend` where it was measured, else the largest where that serves too."""
    found = next((table for table in tables if table[0].backend == backend), None)
    if found is None and not any_backend:
        known = ", ".join(sorted({table[0].backend for table in tables}))
        raise UsageError(
            f"{option_name('machine.backend')}: {whose} of {spec.name} has no {tables[0][0].dtype} "
            f"points of {backend}; it has {known}"
        )
    fingerprint, rows = found or tables[0]
    dtype = fingerprint.dtype
    roofline = Roofline.of(spec, 1)
    table = LatencyTable(rows, roofline, cliff=spec.cliff(dtype), is_elsewhere=True)
    versions = ", ".join(f"{name} {version}" for name, version in fingerprint.versions.items())
    return DeviceTable(
        spec=spec,
        fingerprint=fingerprint,
        timed_dtype=dtype,
        predictor=WithinEdges(table, edges_of(rows, roofline, dtype=dtype), roofline=roofline),
        memory=MemoryModel.of_points(spec, rows),
        sources=(f"{whose} of {fingerprint.device_name}: {fingerprint.backend}, {versions}",),
        rank_multiple=spec.rank_multiple(dtype),
        fuses=fingerprint.backend in FUSING,
    )


def _imported(spec: DeviceSpec, dtype: str) -> DeviceTable:
    # Brings pandas along, which a table of this profiler does without.
    from autotune.predictor.layers.imported import ImportedLatency

    tables, timed = _tables_of_others(spec, dtype)
    rows = np.concatenate([table.rows.to_numpy(dtype=np.float64) for table in tables])
    roofline, predictor = Roofline.of(spec, 1), ImportedLatency(spec, tables)
    same_rate = "" if timed == dtype else f", in {timed}, which runs at the rate of {dtype}"
    sources = tuple(table.source + same_rate for table in tables)
    first = fingerprint_of_table(tables[0])
    return DeviceTable(
        spec=spec,
        fingerprint=Fingerprint(
            device=spec.name,
            device_name=spec.title,
            backend="imported",
            dtype=dtype,
            threads=1,
            versions=dict(first.versions),
            settings={"sources": "; ".join(sources)},
        ),
        timed_dtype=timed,
        predictor=WithinEdges(
            predictor,
            Edges.of(predictor.products, predictor.seconds, roofline=roofline, dtype=dtype),
            roofline=roofline,
        ),
        memory=MemoryModel.learned(
            spec, rows[:, 1] * rows[:, 2] * DTYPE_BYTES[dtype], seconds=rows[:, 3]
        ),
        sources=sources,
        rank_multiple=MULTIPLE,
        fuses=True,
    )


def _tables_of_others(spec: DeviceSpec, dtype: str) -> tuple[list[ImportedTable], str]:
    """Tables in a dtype, or in the other half precision where that runs at the same rate."""
    rates = spec.peak_flops
    try:
        return read_tables(spec.name, dtype), dtype
    except UsageError:
        for twin in HALF_PRECISION:
            if dtype in HALF_PRECISION and dtype != twin and rates.get(dtype) == rates.get(twin):
                return read_tables(spec.name, twin), twin
        raise


def _extrapolated(spec: DeviceSpec, dtype: str, *, own: Tables) -> DeviceTable:
    from autotune.predictor.layers.extrapolated import (
        ExtrapolatedLatency,
        donor_specs,
        unseen_device,
    )

    if dtype not in HALF_PRECISION:
        raise UsageError(
            f"{spec.name} can be extrapolated in {' or '.join(HALF_PRECISION)} only, not {dtype}"
        )
    if dtype not in spec.peak_flops:
        rates = ", ".join(spec.peak_flops)
        raise UsageError(f"the sheet of {spec.name} gives no rate in {dtype}; it has {rates}")
    donors = donor_specs(spec, dtype)
    predictor = ExtrapolatedLatency(unseen_device(spec, dtype), own=own[0][1] if own else ())
    names = ", ".join(donor.name for donor in donors)
    found = DeviceTable(
        spec=spec,
        fingerprint=Fingerprint(
            device=spec.name,
            device_name=spec.title,
            backend="extrapolated",
            dtype=dtype,
            threads=1,
            versions={PACKAGE: version(PACKAGE)},
            settings={"donors": names},
        ),
        timed_dtype=dtype,
        predictor=predictor,
        memory=MemoryModel.of_sheet(spec),
        sources=(
            f"EXTRAPOLATED, without measurements of {spec.title}: from its specification sheet and "
            f"tables of {names} ({PACKAGE} {version(PACKAGE)})",
        ),
        rank_multiple=MULTIPLE,
        fuses=True,
    )
    return _with_own(found, own, known=predictor.adaptation)
