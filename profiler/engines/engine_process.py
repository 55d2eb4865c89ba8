"""Engines that run in a process of their own (run_engine.py)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from autotune.core.child_errors import ChildError, ChildStartError
from autotune.core.childprocess import ChildProcess
from autotune.core.errors import EngineError
from autotune.profiler.engines.python import tensorrt_python

SCRIPT = Path(__file__).with_name("run_engine.py")
_ANSWER_S = 600.0  # a large engine is loaded within minutes, or hangs


class EngineProcess:
    """Loads engines and runs them on fixed inputs. Use as a context manager.

    Raises (any method):
        EngineError: an engine of another TensorRT or GPU, or the process died or hangs.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        try:
            self._child = ChildProcess([tensorrt_python(), str(SCRIPT)])
        except ChildStartError as error:
            self._folder.cleanup()
            raise EngineError(str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process that holds the engines."""
        self._child.close()
        self._folder.cleanup()

    def load(self, engine: Path, inputs: Mapping[str, Any]) -> int:
        """Load an engine for these inputs; returns the number that the other methods take."""
        feeds = Path(self._folder.name) / "inputs.npz"
        np.savez(feeds, **inputs)
        return int(self._ask({"load": str(engine), "inputs": str(feeds)})["number"])

    def seconds(self, number: int) -> float:
        """The seconds that the GPU took for one pass, run as a CUDA graph."""
        return float(self._ask({"time": number})["seconds"])

    def outputs(self, number: int) -> dict[str, Any]:
        """The output arrays of one pass, by name."""
        file = str(Path(self._folder.name) / "outputs.npz")
        self._ask({"outputs": number, "file": file})
        with np.load(file) as arrays:
            return dict(arrays)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            self._child.send(request)
            answer = self._child.receive(_ANSWER_S)
        except ChildError as error:
            raise EngineError(f"running an engine failed: {error}") from error
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer
