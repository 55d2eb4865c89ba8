"""The known devices: which are on this machine, and what the others are predicted from."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.devices.detect import present_devices
from autotune.devices.specs import DeviceSpec, known_devices
from autotune.profiler.sources.aiconfigurator import imported_devices
from autotune.profiler.sources.shipped import shipped_devices


@dataclass(frozen=True, kw_only=True)
class KnownDevice:
    """A device with a sheet.

    `here` is what it calls itself on this machine, `predicted_from` whose table of it comes with
    the installation; None where it is not here, or there is no table.
    """

    spec: DeviceSpec
    here: str | None
    predicted_from: str | None


def table_owners() -> dict[str, str]:
    """Who measured the tables of devices that come with the installation, by device."""
    return {
        **dict.fromkeys(imported_devices(), "third-party measurements"),
        **dict.fromkeys(shipped_devices(), "this project's database"),
    }


def list_devices() -> list[KnownDevice]:
    """Every known device, in the order of the sheets."""
    here = {device.spec.name: device.reported_name for device in present_devices()}
    owners = table_owners()
    return [
        KnownDevice(spec=spec, here=here.get(spec.name), predicted_from=owners.get(spec.name))
        for spec in known_devices().values()
    ]
