"""Two measurements on one device never overlap, and a killed one holds nobody up."""

import subprocess
import sys
import textwrap
import time

from autotune.devices import visible
from autotune.devices.detect import device_identity
from autotune.devices.lock import device_lock, lock_file
from autotune.devices.visible import Gpu

HOLDER = """
import sys, time
from autotune.devices.lock import device_lock
with device_lock("cpu"):
    print("in", flush=True)
    sys.stdin.readline()
    print("out", flush=True)
"""


def holder():
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_second_waits_for_the_first_and_says_so():
    first = holder()
    assert first.stdout.readline() == "in\n"
    second = holder()
    # What it says comes before it waits; it cannot be in while the first is.
    assert "waiting for another measurement" in second.stderr.readline()
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.stdout.readline() == "out\n"
    assert second.stdout.readline() == "in\n"
    for process in (first, second):
        process.communicate("\n", timeout=30)


def test_a_killed_holder_holds_nobody_up():
    first = holder()
    assert first.stdout.readline() == "in\n"
    first.kill()
    first.communicate()
    started = time.monotonic()
    with device_lock("cpu"):
        assert time.monotonic() - started < 20


def test_each_device_has_a_lock_of_its_own():
    first, second = (Gpu(index=i, uuid=f"GPU-{i}", name="NVIDIA H200") for i in range(2))
    names = [device_identity("cpu"), *(device_identity("cuda", gpu) for gpu in (first, second))]
    assert len({lock_file(name) for name in names}) == 3
    with device_lock(names[0]), device_lock(names[1]), device_lock(names[2]):
        pass


def test_the_gpu_that_is_locked_is_the_one_that_cuda_shows(monkeypatch):
    gpus = tuple(Gpu(index=i, uuid=f"GPU-{i}", name="NVIDIA H200") for i in range(2))
    monkeypatch.setattr(visible, "physical_gpus", lambda: gpus)
    for setting, identity in (("1", "GPU-1"), ("GPU-0", "GPU-0"), ("", "cuda")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
        assert device_identity("cuda") == identity


def test_a_user_without_a_name_may_measure_and_another_users_lock_counts(tmp_path, monkeypatch):
    """A container's user has no name, and a lock file is not always one's own to write."""
    monkeypatch.setenv("AUTOTUNE_LOCKS", str(tmp_path))
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    lock_file("cpu").touch()
    lock_file("cpu").chmod(0o444)
    first = holder()
    assert first.stdout.readline() == "in\n"
    second = holder()
    assert "waiting" in second.stderr.readline()
    for process in (first, second):
        process.communicate("\n", timeout=30)
