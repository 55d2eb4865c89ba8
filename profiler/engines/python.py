"""Which Python has TensorRT, and which TensorRT that is."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

VARIABLE = "AUTOTUNE_TENSORRT_PYTHON"
_LIMIT_S = 60.0
_ASK = "import tensorrt; print(tensorrt.__version__)"


def tensorrt_python() -> str:
    """The interpreter of `$AUTOTUNE_TENSORRT_PYTHON`, else this one."""
    return os.environ.get(VARIABLE) or sys.executable


def tensorrt_version() -> str | None:
    """What that interpreter imports; None where it has none."""
    return _version_in(tensorrt_python())


@functools.cache
def _version_in(interpreter: str) -> str | None:
    try:
        done = subprocess.run(
            [interpreter, "-c", _ASK], capture_output=True, text=True, timeout=_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def missing_tensorrt() -> str | None:
    """What to install, or None."""
    if tensorrt_version() is not None:
        return None
    return (
        "TensorRT needs the package tensorrt (8.5 or newer): pip install tensorrt, or name a "
        f"Python that has it in ${VARIABLE}"
    )
