"""Seconds of waiting for a core, as the scheduler counts them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autotune.devices.waiting import waited_s


def test_adds_up_the_threads(tmp_path):
    for number, text in (("1", "900 2500000000 7\n"), ("2", "1 500000000 1\n"), ("3", "gone")):
        (tmp_path / number).mkdir()
        (tmp_path / number / "schedstat").write_text(text)
    assert waited_s(tmp_path) == 3.0


def test_is_zero_where_the_system_does_not_tell(tmp_path):
    assert waited_s(tmp_path / "nowhere") == 0.0


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux with schedstats")
def test_a_process_on_the_same_core_is_noticed():
    before = os.sched_getaffinity(0)
    core = {min(before)}
    burn = "while True: pass"
    other = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {core!r})\n{burn}"]
    )
    try:
        os.sched_setaffinity(0, core)
        waited, until = waited_s(), time.monotonic() + 120.0
        while waited_s() - waited < 0.05:
            assert time.monotonic() < until, "it never had to wait for the other"
    finally:
        os.sched_setaffinity(0, before)
        other.kill()
        other.wait()
