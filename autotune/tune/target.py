"""Where a budget must hold: a device that is here, or one that is known by a table only."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autotune.core.errors import DeviceMissingError, UsageError
from autotune.core.types import Address
from autotune.devices.detect import PresentDevice, require_device
from autotune.devices.specs import DeviceSpec, find_device
from autotune.profiler.backends import Backend, make_backend, require_backend

if TYPE_CHECKING:
    from autotune.predictor.layers.device_table import DeviceTable

DEFAULT_BACKENDS = {"cpu": "onnxruntime-cpu", "cuda": "torch-cudagraph"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device with the backend and dtype that a model runs in there.

    `is_here`: latencies are measured; else they are predicted from `table`, and nothing that is
    promised of them is verified. A table may come from the user's `database`, or be extrapolated.
    """

    device: PresentDevice
    backend: Backend
    dtype: str
    is_here: bool
    database: Address | None = None
    extrapolate: bool = False

    @property
    def spec(self) -> DeviceSpec:
        """The device's specification."""
        return self.device.spec

    @functools.cached_property
    def table(self) -> DeviceTable:
        """What is known of a device elsewhere.

        Raises:
            UsageError: nothing in this dtype.
        """
        from autotune.predictor.layers.device_table import device_table

        return device_table(
            self.spec, self.dtype, self.backend.name, database=self.database,
            extrapolate=self.extrapolate,
        )  # fmt: skip

    @property
    def rank_multiple(self) -> int:
        """Aligned ranks are multiples of this; tables of others know coarser ones only."""
        own = self.spec.rank_multiple(self.dtype)
        return own if self.is_here else max(own, self.table.rank_multiple)


def target_here(device: str, backend: str | None = None, dtype: str | None = None) -> Target:
    """The device `device` on this machine, with its usual backend and dtype unless given.

    Raises:
        UsageError: an unknown device or backend, or one that does not go with the other.
        DeviceMissingError: the device is not here, or its backend is not installed.
    """
    present = require_device(device)
    kind = present.spec.kind
    require_backend(backend or DEFAULT_BACKENDS[kind], kind)
    return runs_on(present, backend, dtype)


def runs_on(device: PresentDevice, backend: str | None, dtype: str | None) -> Target:
    """A device that is here, or that a worker has, with its usual backend and dtype unless given.

    Raises:
        UsageError: they do not go together.
    """
    spec = device.spec
    found = make_backend(backend or DEFAULT_BACKENDS[spec.kind], spec.kind)
    if spec.kind not in found.device_kinds:
        raise UsageError(f"backend {found.name} runs on {'/'.join(found.device_kinds)} only")
    return Target(device=device, backend=found, dtype=_dtype(found, dtype, spec), is_here=True)


def find_target(
    device: str, backend: str | None = None, dtype: str | None = None, *,
    database: Address | None = None, extrapolate: bool = False,
) -> Target:  # fmt: skip
    """The device `device`, here or elsewhere, with its usual backend and dtype unless given.

    A device elsewhere is known by a table of it: in `database`, in this package or of others; with
    `extrapolate` by its specification sheet.

    Raises:
        UsageError: an unknown device or backend, or one that does not go with the other.
        DeviceMissingError: the device is not here and nothing is known of it, or it is here and its
            backend is not installed.
    """
    spec = find_device(device)
    try:
        require_device(device)
    except DeviceMissingError as error:
        if not _has_table(spec, database) and not (extrapolate and spec.kind == "cuda"):
            raise DeviceMissingError(f"{error}; {_advice(spec)}") from None
    else:
        # A device that is here is measured; a part that its backend lacks is no reason to guess.
        return target_here(device, backend, dtype)
    found = runs_on(PresentDevice(spec=spec, reported_name=spec.title), backend, dtype)
    return replace(found, is_here=False, database=database, extrapolate=extrapolate)


def _has_table(spec: DeviceSpec, database: Address | None) -> bool:
    from autotune.predictor.layers.device_table import own_tables
    from autotune.profiler.sources.aiconfigurator import imported_devices
    from autotune.profiler.sources.shipped import shipped_devices

    return spec.name in (*shipped_devices(), *imported_devices()) or bool(
        own_tables(spec, database)
    )


def _advice(spec: DeviceSpec) -> str:
    profile = "run `autotune profile` there and `autotune db merge` its database here"
    if spec.kind != "cuda":
        return profile
    return f"{profile}, or let --allow-extrapolation predict it from its sheet and other devices"


def _dtype(backend: Backend, dtype: str | None, spec: DeviceSpec) -> str:
    usual = spec.default_dtype if spec.default_dtype in backend.dtypes else backend.dtypes[0]
    chosen = dtype or usual
    if chosen not in backend.dtypes:
        raise UsageError(f"backend {backend.name} runs {'/'.join(backend.dtypes)}, not {chosen}")
    return chosen
