"""Runs that are killed or interrupted go on; another backend takes the same path."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.commands import flags
from tests.outcomes import assert_finished
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.duration(60)]


def test_kill_9_at_any_moment_then_the_same_command_finishes(cli, small, home, moments):
    """Killed again and again at random moments, the run ends with the same kind of result."""
    folder = home / "killed"
    lean = (*small, *flags(params_budget="0.8x", trials=2, rounds=2, output=folder))
    command = [sys.executable, "-m", "autotune", *map(str, lean)]
    for _ in range(2):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=moments.uniform(3, 12))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if (folder / "result.json").exists():
            json.loads((folder / "result.json").read_text())
    assert_finished(cli(*lean), folder)
    assert (folder / "model" / "model.safetensors").is_file()
    assert not list(folder.rglob(".*.part"))


def test_ctrl_c_keeps_the_state(small, home):
    folder = home / "interrupted"
    # The search goes on for longer than it takes to see that the graph is there.
    lean = (*small, *flags(params_budget="0.8x", trials=200, sensitivity_rounds=2, output=folder))
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", *map(str, lean)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C and hand that down, to these tests too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )

    def entries():
        found = (folder / ".cache").glob("dense-*")
        return [path for path in found if path.suffix != ".sha256"]  # which is there before

    wait_for(entries)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    # Python ends by the signal itself where it came within an `exec` of a library: 130 to a shell.
    assert process.returncode in (130, -signal.SIGINT), errors
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    assert entries()
    assert not list(folder.rglob(".*.part"))


def test_torch_eager_is_a_backend_too(cli, small, home):
    done = cli(
        *small,
        *flags(
            output=home / "eager",
            backend="torch-eager",
            params_budget="0.9x",
            targets="mlp",
            format="json",
        ),
    )
    record = assert_finished(done)
    assert record["backend"] == "torch-eager"
    assert not (home / "eager" / "model.onnx").exists()
    assert (home / "eager" / "model" / "model.safetensors").is_file()
