"""Runs that are killed or interrupted go on; another backend takes the same path."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.outcomes import assert_finished
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.duration(90)]


def test_kill_9_at_any_moment_then_the_same_command_finishes(cli, arguments, home, moments):
    """Killed again and again at random moments, the run ends with the same kind of result."""
    folder = home / "killed"
    lean = (*arguments, "--sensitivity-rounds", 0, "--output", folder)
    command = [sys.executable, "-m", "autotune", *map(str, lean)]
    for _ in range(2):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=moments.uniform(5, 20))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if (folder / "result.json").exists():
            json.loads((folder / "result.json").read_text())
    assert_finished(cli(*lean), folder)
    assert (folder / "model" / "model.safetensors").is_file()
    assert not list(folder.rglob(".*.part"))


def test_ctrl_c_keeps_the_state(arguments, home):
    folder = home / "interrupted"
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", *map(str, arguments), "--output", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C and hand that down, to these tests too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )

    def entries():
        found = (folder / ".cache").glob("dense-*")
        return [path for path in found if path.suffix != ".sha256"]  # which is there before

    wait_for(entries, 120)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # Python ends by the signal itself where it came within an `exec` of a library: 130 to a shell.
    assert process.returncode in (130, -signal.SIGINT), errors
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    assert entries()
    assert not list(folder.rglob(".*.part"))


def test_torch_eager_is_a_backend_too(cli, arguments, home):
    done = cli(
        *arguments,
        "--output",
        home / "eager",
        "--backend",
        "torch-eager",
        "--trials",
        0,
        "--latency-budget",
        "1x",
        "--targets",
        r"mlp",
        "--rounds",
        1,
        "--sensitivity-rounds",
        0,
        "--format",
        "json",
    )
    record = assert_finished(done)
    assert record["backend"] == "torch-eager"
    assert not (home / "eager" / "model.onnx").exists()
    assert (home / "eager" / "model" / "model.safetensors").is_file()
