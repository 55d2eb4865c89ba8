"""Users of one host share the lock of a device, whatever their umask, and none can spoil it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
NOBODY = 65534
USER = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
os.umask(int(sys.argv[1], 8))
from autotune.devices.lock import device_lock
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    with device_lock("cpu"):
        print("in", flush=True)
        sys.stdin.readline()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def user():
    """Start a process of a user with a umask that locks the device until it reads a line."""
    if os.getuid() != 0:
        pytest.skip("needs root to become other users")
    place = Path(tempfile.mkdtemp(prefix="autotune-locks-"))  # pytest's own folders are private
    place.chmod(0o1777)
    started = []

    def start(uid, umask="022", *, seconds=0.5):
        process = subprocess.Popen(
            [sys.executable, "-c", USER, umask, str(uid)],
            env={**os.environ, "AUTOTUNE_LOCKS": str(place), "AUTOTUNE_LOCK_SECONDS": str(seconds)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    start.place = place
    yield start
    for process in started:
        end(process)
    shutil.rmtree(place)


def end(process):
    process.stdin.close()
    process.wait(30)
    process.stdout.close()
    process.stderr.close()


def test_the_umask_of_the_first_user_shuts_out_nobody(user):
    first = user(0, "077")
    assert first.stdout.readline() == "in\n"
    end(first)
    second = user(NOBODY, "077")
    assert second.stdout.readline() == "in\n"
    third = user(1234)
    assert "DeviceBusyError cpu was not free" in (refused := third.stdout.readline())
    assert f"process {second.pid} of user nobody" in refused


def test_a_file_that_only_another_user_can_open_does_not_count(user):
    """Neither for root, who could open it: both lock the same file."""
    bad = user.place / "autotune-cpu.lock"
    bad.mkdir()
    os.chown(bad, 1234, 1234)
    first = user(NOBODY)
    assert first.stdout.readline() == "in\n"
    assert "DeviceBusyError" in user(0).stdout.readline()
    end(first)
    bad.rmdir()
    bad.touch(mode=0o200)
    os.chown(bad, 1234, 1234)
    assert user(NOBODY).stdout.readline() == "in\n"


def test_a_folder_that_refuses_new_files_is_one_sentence(user):
    user.place.chmod(0o555)
    assert "StorageError no lock can be made in" in user(NOBODY).stdout.readline()
