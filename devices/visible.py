"""Which GPUs this process sees, as physical devices.

CUDA numbers the GPUs that `CUDA_VISIBLE_DEVICES` names from 0, while the driver's library (NVML)
and other processes always number all of them. Whatever is read from the driver, or locked, must be
of the GPU that CUDA runs on. The rules are those of PyTorch (torch.cuda._parse_visible_devices) and
of the CUDA programming guide, "CUDA environment variables".

CUDA counts the fastest GPU first unless `CUDA_DEVICE_ORDER` is `PCI_BUS_ID`, the order of the
driver. The two differ only on hosts with GPUs of several kinds; measuring processes set the latter.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A physical GPU: its number and id at the driver, its name, and its MIG instances' ids.

    `selector` is the value of `CUDA_VISIBLE_DEVICES` that shows it alone, or one of its instances.
    """

    index: int
    uuid: str
    name: str
    mig_uuids: tuple[str, ...] = ()
    selector: str = ""


def visible_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows to this process, in its order; empty without a driver."""
    return select_visible(physical_gpus(), os.environ.get(VISIBLE))


def select_visible(gpus: Sequence[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """Those of the host's `gpus` that a value of `CUDA_VISIBLE_DEVICES` shows, in its order.

    The value lists numbers, or ids or their beginnings ("GPU-8932f937", "MIG-…"). The list ends at
    the first entry that names no GPU, or several; one that is named twice hides them all.
    """
    if setting is None:
        return tuple(replace(gpu, selector=gpu.uuid) for gpu in gpus)
    found: list[Gpu] = []
    for entry in setting.split(","):
        gpu = _find(gpus, entry.strip())
        if gpu is None:
            break
        if gpu.selector in {other.selector for other in found}:
            return ()
        found.append(gpu)
    return tuple(found)


def _find(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    """The GPU that one entry names, with the selector of what it names."""
    if entry.isdecimal():
        index = int(entry)
        return replace(gpus[index], selector=gpus[index].uuid) if index < len(gpus) else None
    matches = []
    for gpu in gpus:
        ids = gpu.mig_uuids if entry.startswith("MIG-") else (gpu.uuid,)
        matches += [replace(gpu, selector=each) for each in ids if each.startswith(entry)]
    # The driver does not take a bare prefix, even of a single GPU (seen on an H100).
    is_bare = entry in ("", "GPU", "GPU-", "MIG", "MIG-")
    return matches[0] if len(matches) == 1 and not is_bare else None


@functools.cache
def physical_gpus() -> tuple[Gpu, ...]:
    """All GPUs of the host in the order of the driver; empty without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_read(i) for i in range(pynvml.nvmlDeviceGetCount()))
    finally:
        pynvml.nvmlShutdown()


def _read(index: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        mig_uuids=_mig_uuids(handle),
    )


def _mig_uuids(handle: Any) -> tuple[str, ...]:
    """Ids of a GPU's MIG instances; empty where it has none or cannot have any."""
    import pynvml

    found = []
    try:
        for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            found.append(pynvml.nvmlDeviceGetUUID(instance))
    except pynvml.NVMLError:  # no such instance, or no such function for this GPU
        pass
    return tuple(found)
