"""Which physical GPU CUDA's device 0 is, whatever CUDA_VISIBLE_DEVICES says.

The rules are tested on records of GPUs, and the reading of them, and of a GPU's clocks, with a
stand-in for the driver's library, since several GPUs and MIG instances are rarely at hand. With a
real driver the last test compares them with what PyTorch sees.
"""

import os
import subprocess
import sys

import pynvml
import pytest

from autotune.devices import health, visible
from autotune.devices.visible import Gpu, physical_gpus, select_visible, visible_gpus

GPUS = (
    Gpu(index=0, uuid="GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", name="NVIDIA T4"),
    Gpu(index=1, uuid="GPU-8e41a0cf-0000-4106-c12f-20bd9faed9f6", name="NVIDIA H200"),
    Gpu(
        index=2,
        uuid="GPU-aa000000-0000-4106-c12f-20bd9faed9f6",
        name="NVIDIA H100",
        mig_uuids=("MIG-1c1", "MIG-2d2"),
    ),
)


@pytest.mark.parametrize(
    ("setting", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("0,1,2", [0, 1, 2]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("1,7,0", [1]),  # the list ends at the first entry that names none
        ("-1", []),
        ("0,-1,1", [0]),
        ("none", []),
        ("0,0", []),  # one that is named twice hides them all
        ("GPU-aa,GPU-89", [2, 0]),
        ("GPU-8", []),  # begins two ids
        ("GPU-zz", []),
        ("MIG-2", [2]),
        ("MIG-1c1,MIG-2d2", [2, 2]),
        ("MIG-", []),
    ],
)
def test_what_cuda_shows(setting, indices):
    assert [gpu.index for gpu in select_visible(GPUS, setting)] == indices


@pytest.mark.parametrize("setting", ["GPU-", "GPU", "MIG-"])
def test_a_prefix_alone_names_no_gpu(setting):
    only = Gpu(index=0, uuid="GPU-89", name="NVIDIA H100", mig_uuids=("MIG-1c1",))
    assert select_visible([only], setting) == ()


def test_a_selector_shows_the_same_again():
    for setting in (None, "1", "GPU-aa", "MIG-2"):
        for gpu in select_visible(GPUS, setting):
            assert select_visible(GPUS, gpu.selector) == (gpu,)


class Driver:
    """A stand-in for pynvml: two GPUs, the second of which is slowed and has one MIG instance."""

    NVML_CLOCK_SM = NVML_CLOCK_MEM = NVML_TEMPERATURE_GPU = 0
    NVMLError = pynvml.NVMLError

    def __getattr__(self, name):
        return lambda *arguments: {
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetUUID": lambda handle: f"MIG-{handle}" if handle > 9 else f"GPU-{handle}",
            "nvmlDeviceGetName": lambda handle: f"NVIDIA {handle}",
            "nvmlDeviceGetMaxMigDeviceCount": lambda handle: 7 * handle,
            "nvmlDeviceGetMigDeviceHandleByIndex": self.instance,
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x40 * handle,
            "nvmlDeviceGetClockInfo": lambda handle, kind: 1000 + handle,
            "nvmlDeviceGetMaxClockInfo": lambda handle, kind: 2000,
            "nvmlDeviceGetTemperature": lambda handle, kind: 40,
            "nvmlDeviceGetPowerUsage": lambda handle: 1000,
            "nvmlDeviceGetMemoryInfo": lambda handle: type("Memory", (), {"used": 0}),
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: [],
        }.get(name, lambda: None)(*arguments)

    @staticmethod
    def instance(handle, number):
        if number:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return 10 * handle


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Driver())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    physical_gpus.cache_clear()
    yield
    physical_gpus.cache_clear()


def test_the_driver_is_read(driver):
    assert [gpu.uuid for gpu in physical_gpus()] == ["GPU-0", "GPU-1"]
    assert [gpu.mig_uuids for gpu in physical_gpus()] == [(), ("MIG-10",)]
    assert health.driver_version() == "580.1"


@pytest.mark.parametrize(
    ("setting", "name", "slowed"),
    [
        ("0,1", "NVIDIA 0", None),
        ("1", "NVIDIA 1", "hardware thermal slowdown"),
        ("GPU-1,GPU-0", "NVIDIA 1", "hardware thermal slowdown"),
        ("MIG-10", "NVIDIA 1", "hardware thermal slowdown"),
    ],
)
def test_clocks_and_slowdowns_are_of_the_gpu_that_is_measured(
    driver, monkeypatch, setting, name, slowed
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert health.read_gpus()[0].name == name
    with health.watch("cuda") as device:
        assert device.slowed() == slowed
        [reading] = device.read("before")
    assert reading.sm_mhz == 1000 + int(name[-1])


def test_no_gpu_is_shown(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert health.read_gpus() == ()
    with health.watch("cuda") as device:
        assert device.read("before") == ()


@pytest.mark.gpu
@pytest.mark.parametrize("setting", [None, "0", "-1", "GPU-", "9", "last"])
def test_torch_sees_the_same(monkeypatch, setting):
    if setting == "last":
        setting = physical_gpus()[-1].uuid[:20]
    environment = {**os.environ, **visible.ORDER}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if setting is not None:
        environment["CUDA_VISIBLE_DEVICES"] = setting
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    code = (
        "import torch\n"
        "try:\n    torch.cuda.init()\n"  # torch may count a GPU that the driver does not show
        "except RuntimeError:\n    raise SystemExit\n"
        "for i in range(torch.cuda.device_count()):\n"
        "    print(f'GPU-{torch.cuda.get_device_properties(i).uuid}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [gpu.uuid for gpu in visible_gpus()]
