"""Two measurements on one device never overlap, and a killed one holds nobody up."""

import os
import pwd
import re
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from autotune.core.errors import StorageError, UsageError
from autotune.devices import lock, visible
from autotune.devices.detect import device_identity
from autotune.devices.lock import DeviceBusyError, device_lock, lock_file
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


def test_a_killed_holder_holds_nobody_up(monkeypatch):
    first = holder()
    assert first.stdout.readline() == "in\n"
    first.kill()
    first.communicate()
    monkeypatch.setenv("AUTOTUNE_LOCK_SECONDS", "60")
    with device_lock("cpu"):  # else it is busy after that time
        pass


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


@pytest.fixture
def locks(tmp_path, monkeypatch):
    """A folder of locks that every user may enter."""
    found = tmp_path / "locks"
    found.mkdir()
    found.chmod(0o1777)
    monkeypatch.setenv("AUTOTUNE_LOCKS", str(found))
    return found


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def a_hard_link(path):
    other = path.with_name("other")
    other.write_text("kept")
    path.hardlink_to(other)


OBSTACLES = {
    "fifo": os.mkfifo,
    "dangling link": lambda path: path.symlink_to(path.parent / "nowhere"),
    "link": lambda path: path.symlink_to("/etc/hostname"),
    "folder": lambda path: path.mkdir(),
    "socket": a_socket,
    "hard link": a_hard_link,
}


@pytest.mark.parametrize("kind", OBSTACLES)
def test_what_has_taken_the_locks_name_neither_blocks_nor_is_touched(kind, locks, monkeypatch):
    """And whoever else finds it there locks the same file."""
    monkeypatch.setenv("AUTOTUNE_LOCK_SECONDS", "0.2")
    OBSTACLES[kind](lock_file("cpu"))
    before = lock_file("cpu").lstat()
    first = holder()
    assert first.stdout.readline() == "in\n", first.stderr.read()
    with pytest.raises(DeviceBusyError), device_lock("cpu"):
        pass
    first.communicate("\n", timeout=30)
    assert lock_file("cpu").lstat() == before
    if kind == "hard link":
        assert (locks / "other").read_text() == "kept"


def test_further_names_of_a_lock_that_is_held_let_nobody_in(locks, monkeypatch):
    """Any user can make them, as any user can write the file."""
    monkeypatch.setenv("AUTOTUNE_LOCK_SECONDS", "0.2")
    first = holder()
    assert first.stdout.readline() == "in\n"
    (locks / "other").hardlink_to(lock_file("cpu"))
    with pytest.raises(DeviceBusyError), device_lock("cpu"):
        pass
    first.communicate("\n", timeout=30)
    with device_lock("cpu"):
        assert sorted(path.name for path in locks.iterdir()) == ["autotune-cpu.lock", "other"]


def test_a_device_that_stays_busy_is_an_error_that_names_its_holder(locks, monkeypatch):
    first = holder()
    assert first.stdout.readline() == "in\n"
    monkeypatch.setenv("AUTOTUNE_LOCK_SECONDS", "0.1")
    user = pwd.getpwuid(os.getuid()).pw_name
    for _ in range(2):  # one who gives up leaves the note of who holds it
        with pytest.raises(DeviceBusyError) as caught, device_lock("cpu"):
            pass
        assert f"process {first.pid} of user {user}, since 20" in str(caught.value)
        assert caught.value.exit_code == 75
    first.communicate("\n", timeout=30)
    with device_lock("cpu"):
        pass
    assert lock_file("cpu").read_text() == ""


def test_the_note_of_the_holder_may_hold_anything(locks, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_LOCK_SECONDS", "0")
    with device_lock("cpu"):
        for text, shown in (
            ("[]", "another process"),
            ("x" * 10_000, "another process"),
            ('{"pid": 1, "user": "\\u001b[31m", "since": 1e300}', "another process"),
            ('{"pid": 1, "user": "\\u001b[31m", "since": 0}', r"user \x1b[31m, since 1970"),
        ):
            lock_file("cpu").write_text(text)
            with pytest.raises(DeviceBusyError, match=re.escape(shown)), device_lock("cpu"):
                pass


@pytest.mark.parametrize("text", ["x", "-1", "nan", "inf"])
def test_a_time_limit_that_is_none_is_refused(text, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_LOCK_SECONDS", text)
    with pytest.raises(UsageError, match="AUTOTUNE_LOCK_SECONDS must be"), device_lock("cpu"):
        pass


def test_a_place_that_is_no_folder_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/autotune")):
        monkeypatch.setenv("AUTOTUNE_LOCKS", str(place))
        with pytest.raises(StorageError, match="AUTOTUNE_LOCKS"), device_lock("cpu"):
            pass


def test_the_folder_of_the_host_is_for_all_users_and_not_a_private_one(tmp_path, monkeypatch):
    """Two users with temp folders of their own (PrivateTmp, TMPDIR) have one lock."""
    monkeypatch.delenv("AUTOTUNE_LOCKS")
    (tmp_path / "run").mkdir()
    (tmp_path / "shm").mkdir()
    (tmp_path / "shm").chmod(0o1777)
    monkeypatch.setattr(lock, "_PLACES", (tmp_path / "run", tmp_path / "shm"))
    found = set()
    for private in ("one", "two"):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / private))
        found.add(lock.lock_folder())
    assert found == {tmp_path / "shm" / "autotune"}
    assert stat.S_IMODE(found.pop().stat().st_mode) == 0o1777
    assert list((tmp_path / "run").iterdir()) == []
    # What another user put there is no place for locks, for anybody.
    (tmp_path / "shm" / "autotune").rmdir()
    (tmp_path / "shm" / "autotune").symlink_to(tmp_path)
    assert lock.lock_folder() == tmp_path / "two"
