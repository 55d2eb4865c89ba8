"""Detection of the devices on this machine."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from autotune.core.errors import DeviceMissingError, UsageError
from autotune.devices.specs import DeviceSpec, find_device


@dataclass(frozen=True, kw_only=True)
class PresentDevice:
    """A device on this machine: its specification and the name it reports itself."""

    spec: DeviceSpec
    reported_name: str


@functools.cache
def cpu_name() -> str:
    """The model name of the processor, from /proc/cpuinfo where there is one."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_threads() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def gpu_names() -> tuple[str, ...]:
    """The names of the GPUs that the NVIDIA driver reports; empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def gpu_cache_bytes() -> float:
    """The last-level cache of the GPU here, as its driver tells PyTorch."""
    import torch

    return float(torch.cuda.get_device_properties(0).L2_cache_size)


def _matches(spec: DeviceSpec, reported: str) -> bool:
    return bool(re.fullmatch(spec.driver_name, reported.removeprefix("NVIDIA ")))


def present_devices() -> list[PresentDevice]:
    """The processor, and every GPU whose name a specification matches."""
    from autotune.devices.specs import known_devices

    found = [PresentDevice(spec=find_device("cpu"), reported_name=cpu_name())]
    for reported in gpu_names():
        for spec in known_devices().values():
            if spec.kind == "cuda" and _matches(spec, reported):
                found.append(PresentDevice(spec=spec, reported_name=reported))
    return found


def require_device(name: str) -> PresentDevice:
    """The device `name` on this machine.

    Raises:
        UsageError: no such device is known.
        DeviceMissingError: known, but not here.
    """
    spec = find_device(name)
    for device in present_devices():
        if device.spec.name == spec.name:
            return device
    here = ", ".join(f"{d.spec.name} ({d.reported_name})" for d in present_devices())
    raise DeviceMissingError(
        f"device {spec.name} ({spec.title}) is not on this machine and no database of it is "
        f"loaded; here: {here}"
    )


def check_threads(threads: int | None) -> int:
    """`threads`, or all cores when None.

    Raises:
        UsageError: below 1 or above the cores here.
    """
    available = cpu_threads()
    if threads is None:
        return available
    if not 1 <= threads <= available:
        raise UsageError(f"--threads {threads}: this process may use 1 to {available}")
    return threads
