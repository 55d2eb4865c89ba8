"""Detection of the devices on this machine."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from autotune.core.errors import DeviceMissingError, UsageError, option_name
from autotune.devices.control_groups import cpu_quota
from autotune.devices.specs import DeviceSpec, find_device, known_devices
from autotune.devices.visible import VISIBLE, Gpu, physical_gpus, visible_gpus

THREADS = "AUTOTUNE_THREADS"
_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
# Instructions that decide in what precision a runtime computes, and how fast: x86, then ARM.
CPU_FEATURES = _INT8_FLAGS | {"avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_fp16"}
CPU_FEATURES |= {"asimddp", "i8mm", "bf16", "sve", "sve2"}


@dataclass(frozen=True, kw_only=True)
class PresentDevice:
    """A device on this machine: its specification, the name it reports, and which GPU it is."""

    spec: DeviceSpec
    reported_name: str
    gpu: Gpu | None = None


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


@functools.cache
def cpu_features() -> tuple[str, ...]:
    """Instructions of the processor that decide how a runtime computes, sorted.

    Empty where the system does not tell.
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return tuple(sorted(CPU_FEATURES.intersection(next(lines, "").split())))


def has_int8_products() -> bool:
    """Whether the processor has instructions that sum products of 8-bit integers in 32 bits."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return True  # ARM's, and what else there is, do not cut sums
    return not _INT8_FLAGS.isdisjoint(cpu_features())


def cpu_threads() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """The threads to use unless told otherwise: the cores, as far as control groups grant them.

    More threads than granted would be stopped together for a part of every period.
    `$AUTOTUNE_THREADS` is for machines whose work is divided up in another way.

    Raises:
        UsageError: the variable is not a number from 1 to the cores of this process.
    """
    text = os.environ.get(THREADS)
    if text:
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= cpu_threads():
            raise UsageError(
                f"{THREADS} must be 1 to {cpu_threads()}, the cores that this process may use, "
                f"got {text!r}"
            )
        return int(text)
    quota = cpu_quota()
    return cpu_threads() if quota is None else max(1, min(cpu_threads(), int(quota)))


def gpu_names() -> tuple[str, ...]:
    """The driver's names of the GPUs that CUDA shows to this process; empty without a driver."""
    return tuple(gpu.name for gpu in visible_gpus())


def no_gpu(what: str) -> str:
    """Why `what`, which needs an NVIDIA GPU, cannot run here."""
    hidden = ""
    if physical_gpus():
        hidden = f"; CUDA_VISIBLE_DEVICES={os.environ.get(VISIBLE, '')!r} hides those of this host"
    return f"{what} needs an NVIDIA GPU, and there is none here{hidden}"


def gpu_cache_bytes() -> float:
    """Bytes of the last-level cache of the GPU here, as PyTorch reports it."""
    import torch

    return float(torch.cuda.get_device_properties(0).L2_cache_size)


def device_identity(kind: str, gpu: Gpu | None = None) -> str:
    """The name under which a device of this host is locked: "cpu", or the GPU's id.

    `gpu` is by default the one that CUDA calls device 0 in this process.
    """
    if kind != "cuda":
        return kind
    found = (gpu,) if gpu else visible_gpus()
    return found[0].uuid if found else kind


def present_devices() -> list[PresentDevice]:
    """The processor, and every visible GPU whose name matches a specification."""
    found = [PresentDevice(spec=find_device("cpu"), reported_name=cpu_name())]
    for gpu in visible_gpus():
        for spec in known_devices().values():
            if spec.kind == "cuda" and spec.is_reported_as(gpu.name):
                found.append(PresentDevice(spec=spec, reported_name=gpu.name, gpu=gpu))
    return found


def require_device(name: str) -> PresentDevice:
    """The device `name` on this machine; of several GPUs of that name, the first.

    Raises:
        UsageError: no such device is known.
        DeviceMissingError: known, but not here.
    """
    spec = find_device(name)
    present = present_devices()
    for device in present:
        if device.spec.name == spec.name:
            return device
    here = ", ".join(f"{d.spec.name} ({d.reported_name})" for d in present)
    raise DeviceMissingError(
        f"device {spec.name} ({spec.title}) is not on this machine, which has {here}"
    )


def check_threads(threads: int | None) -> int:
    """`threads`, or `default_threads` when None.

    Raises:
        UsageError: below 1 or above the cores here.
    """
    if threads is None:
        return default_threads()
    available = cpu_threads()
    if not 1 <= threads <= available:
        raise UsageError(
            f"{option_name('machine.threads')} must be 1 to {available}, the cores that this "
            f"process may use, got {threads}"
        )
    return threads
