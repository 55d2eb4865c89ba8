"""The measuring process of this program: times layers, and networks of any backend.

It is `autotune.profiler.measure.worker` with the loader of checkpoints, which the profiler does not
know. Nothing heavy is imported before a backend needs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from autotune.profiler.backends.base import OpenNetwork
from autotune.profiler.measure.worker import serve

COMMAND = (sys.executable, "-m", "autotune.farm.measuring_process")


def load_network(checkpoint: Path, inputs: Path, *, device: str) -> OpenNetwork:
    """Open a checkpoint folder and a safetensors file of its inputs on a device."""
    from autotune.compress.checkpoint import load_for_timing  # imports torch

    return load_for_timing(checkpoint, inputs, device=device)


if __name__ == "__main__":
    serve(load_network)
