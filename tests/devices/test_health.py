"""What the doctor says of readings, and that it reads this machine."""

import dataclasses
import os

import pytest

from autotune.devices.health import CpuReading, GpuReading, read_cpu, read_gpus
from tests.outcomes import last_record

QUIET = CpuReading(name="cpu", threads=4, load=0.1, quota=None, governor="performance")
# Read on an H200 after matrix products.
GPU = GpuReading(
    name="NVIDIA H200",
    driver="580.159.04",
    sm_mhz=1980,
    sm_max_mhz=1980,
    memory_mhz=3201,
    temperature_c=41,
    power_w=320.0,
    used_bytes=500_000_000,
    processes=0,
    reasons=0x04,
)


def test_a_quiet_machine_has_nothing_to_warn_of():
    assert QUIET.warnings == []
    assert GPU.warnings == []  # a power cap is how clocks work, no fault
    assert GPU.slowdowns == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"load": 1.5}, "a load of 1.5 on 4 cores"),
        ({"quota": 1.5}, "allows 1.5; the default number of threads is 1"),
        ({"governor": "powersave"}, "powersave"),
    ],
)
def test_what_disturbs_the_processor_is_named(change, says):
    (text,) = dataclasses.replace(QUIET, **change).warnings
    assert says in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reasons": 0x44}, "hardware thermal slowdown"),
        ({"reasons": 0x80}, "power brake"),
        ({"reasons": 0x08}, "hardware slowdown"),
        ({"processes": 2}, "2 processes"),
        ({"used_bytes": 30_000_000_000}, "30.0 GB taken"),
    ],
)
def test_what_disturbs_a_gpu_is_named(change, says):
    (text,) = dataclasses.replace(GPU, **change).warnings
    assert says in text


def test_this_machine_is_read():
    cpu = read_cpu()
    assert cpu.name
    assert 1 <= cpu.threads <= (os.cpu_count() or 1)
    assert cpu.load >= 0
    for gpu in read_gpus():  # none without a driver
        assert 0 < gpu.sm_mhz <= gpu.sm_max_mhz


@pytest.mark.gpu
def test_a_gpu_is_read():
    assert read_gpus()[0].power_w > 10


def test_the_command_tells_all_of_it(cli):
    done = cli("doctor", "--format", "json")
    record = last_record(done)
    assert done.returncode == (1 if record["warnings"] else 0), done.stderr
    assert record["backends"]["onnxruntime-cpu"]["missing"] is None
    assert "torch" in record["backends"]["torch-eager"]["versions"]
    text = cli("doctor").stdout
    assert "cores available" in text
    assert "onnxruntime-cpu" in text
