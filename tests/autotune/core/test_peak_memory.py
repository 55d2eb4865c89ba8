"""What processes held at most: of a child what its own program held, not what this one does."""

import subprocess
import sys

import pytest

from autotune.core.childprocess import ChildProcess
from autotune.core.peak_memory import largest_child_bytes, note_child, peak_bytes

MB = 1 << 20
ANSWER = "import sys\nsys.stdin.readline()\nprint('{}', flush=True)\nsys.stdin.readline()\n"


def answered(code):
    with ChildProcess([sys.executable, "-c", code + ANSWER]) as child:
        child.send({})
        child.receive(60.0)


def test_a_child_counts_with_what_it_held_before_it_answered():
    answered(f"data = b'x' * {300 * MB}\ndel data\n")
    assert largest_child_bytes() >= 300 * MB


def test_a_small_child_of_a_large_process_is_small():
    """`getrusage` counts the parent's memory for it."""
    code = f"""
from tests.autotune.core.test_peak_memory import answered
from autotune.core.peak_memory import largest_child_bytes, peak_bytes
data = b"x" * {400 * MB}
answered("")
print(peak_bytes(), largest_child_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own, child = map(int, done.stdout.split())
    assert own >= 400 * MB
    assert 0 < child < 100 * MB


def test_this_process_and_one_that_is_gone():
    data = bytearray(50 * MB)
    assert peak_bytes() > len(data)
    before = largest_child_bytes()
    note_child(2**22 + 1)  # beyond the largest id
    assert largest_child_bytes() == before


@pytest.mark.parametrize("status", ["", "VmHWM:\n", "VmHWM: many kB\n"])
def test_a_system_that_does_not_tell_is_asked_otherwise(monkeypatch, status):
    monkeypatch.setattr("pathlib.Path.read_text", lambda self: status)
    assert peak_bytes() > 10 * MB
