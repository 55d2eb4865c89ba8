"""What may disturb a measurement here: clocks, heat, other users of the device, cores taken."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autotune.devices.control_groups import cpu_quota
from autotune.devices.detect import cpu_name, cpu_threads
from autotune.devices.visible import physical_gpus, visible_gpus
from autotune.devices.waiting import waited_s

# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h) that slow a kernel below what the clocks
# promise; its other bits tell how the clocks were asked to be (idle, power cap, set by a user).
SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
# A core's worth of other work on a small machine moves every second window.
_BUSY_SHARE = 0.25
_SHARED_BYTES = 1e9


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """One NVIDIA GPU as its driver describes it now."""

    name: str
    driver: str
    sm_mhz: int
    sm_max_mhz: int
    memory_mhz: int
    temperature_c: int
    power_w: float
    used_bytes: int
    processes: int
    reasons: int

    @property
    def slowdowns(self) -> tuple[str, ...]:
        """Why its kernels run slower than its clocks promise, if they do."""
        return slowdowns(self.reasons)

    @property
    def warnings(self) -> list[str]:
        """What would disturb a measurement."""
        found = [f"{self.name} is slowed: {text}" for text in self.slowdowns]
        if self.processes or self.used_bytes > _SHARED_BYTES:
            found.append(
                f"{self.name} is in use: {self.processes} processes, "
                f"{self.used_bytes / 1e9:.1f} GB taken"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class ClockReading:
    """Clocks of a GPU "before" or "after" a measurement; `reasons` as the driver's bits."""

    moment: str
    read_at: str
    sm_mhz: int
    memory_mhz: int
    temperature_c: int
    power_w: float
    reasons: int


@dataclass(frozen=True, kw_only=True)
class CpuReading:
    """The processor, the part of it that this process may use, and who else is on it.

    `load` is the number of runnable threads over the last minute, `quota` the cores that a control
    group grants (None: all), `governor` the kernel's clock policy (None: unknown).
    """

    name: str
    threads: int
    load: float
    quota: float | None
    governor: str | None

    @property
    def warnings(self) -> list[str]:
        """What would disturb a measurement."""
        found = []
        if self.load > _BUSY_SHARE * self.threads:
            found.append(
                f"other work: a load of {self.load:.1f} on {self.threads} cores; measurements "
                "take longer and their intervals are wider"
            )
        if self.quota is not None and self.quota < self.threads:
            found.append(
                f"{self.threads} cores are visible, but the control group allows {self.quota:g}; "
                f"the default number of threads is {max(1, int(self.quota))}"
            )
        if self.governor == "powersave":
            found.append("the clock policy is powersave: the first calls run at low clocks")
        return found


def read_cpu() -> CpuReading:
    """Read the processor's state: cores, load, quota and frequency governor."""
    return CpuReading(
        name=cpu_name(),
        threads=cpu_threads(),
        load=os.getloadavg()[0],
        quota=cpu_quota(),
        governor=_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
    )


def disturbances(kind: str, cpu: CpuReading) -> list[str]:
    """What would disturb a measurement on this host's device of `kind` ("cpu" or "cuda")."""
    if kind == "cpu":
        return cpu.warnings
    return [text for gpu in read_gpus() for text in gpu.warnings]


def read_gpus() -> tuple[GpuReading, ...]:
    """Every GPU that CUDA shows to this process, as it is now; empty without a driver."""
    gpus = visible_gpus()
    if not gpus:
        return ()
    with _driver():
        return tuple(_read_gpu(gpu.index) for gpu in gpus)


def driver_version() -> str:
    """The version of the NVIDIA driver; empty without one."""
    if not physical_gpus():
        return ""
    import pynvml

    with _driver():
        return str(pynvml.nvmlSystemGetDriverVersion())


@contextmanager
def _driver() -> Iterator[None]:
    """The driver's library (NVML) while it is used."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


class Watch:
    """Observes a device while it is measured; by default one that reports nothing of itself."""

    def waited_s(self) -> float:
        """Seconds, counted up, for which the measuring process had to wait for the device."""
        return 0.0

    def slowed(self) -> str | None:
        """Why the device is slowed at the moment; None while it is not."""
        return None

    def energy_j(self) -> float | None:
        """Joules that the device has taken, counted up; None where it does not count them."""
        return None

    def read(self, moment: str) -> tuple[ClockReading, ...]:
        """The clocks now, one reading or none; `moment` is "before" or "after"."""
        del moment
        return ()


class _CpuWatch(Watch):
    """The cores of this host, which other processes may have."""

    def waited_s(self) -> float:
        return waited_s()


class _GpuWatch(Watch):
    """One GPU, by its index at the driver."""

    def __init__(self, index: int) -> None:
        self._index = index

    def slowed(self) -> str | None:
        import pynvml

        gpu = pynvml.nvmlDeviceGetHandleByIndex(self._index)
        reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
        return ", ".join(slowdowns(reasons)) or None

    def energy_j(self) -> float | None:
        import pynvml

        gpu = pynvml.nvmlDeviceGetHandleByIndex(self._index)
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) / 1e3
        except pynvml.NVMLError:  # older than Volta, or a part of a GPU
            return None

    def read(self, moment: str) -> tuple[ClockReading, ...]:
        gpu = _read_gpu(self._index)
        return (
            ClockReading(
                moment=moment,
                sm_mhz=gpu.sm_mhz,
                memory_mhz=gpu.memory_mhz,
                temperature_c=gpu.temperature_c,
                power_w=gpu.power_w,
                reasons=gpu.reasons,
                read_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            ),
        )


@contextmanager
def watch(kind: str) -> Iterator[Watch]:
    """Observe the device of `kind` that this process measures on: for CUDA, its device 0."""
    if kind == "cpu":
        yield _CpuWatch()
        return
    gpus = visible_gpus() if kind == "cuda" else ()
    if not gpus:
        yield Watch()
        return
    with _driver():
        yield _GpuWatch(gpus[0].index)


def slowdowns(reasons: int) -> tuple[str, ...]:
    """Those reasons of the driver's that make kernels slower than the clocks promise."""
    return tuple(text for bit, text in SLOWDOWNS.items() if reasons & bit)


def _read_gpu(index: int) -> GpuReading:
    import pynvml

    gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
    return GpuReading(
        name=pynvml.nvmlDeviceGetName(gpu),
        driver=pynvml.nvmlSystemGetDriverVersion(),
        sm_mhz=pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
        sm_max_mhz=pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),
        memory_mhz=pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
        temperature_c=pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
        power_w=pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
        used_bytes=pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
        processes=len(pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)),
        reasons=pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu),
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
