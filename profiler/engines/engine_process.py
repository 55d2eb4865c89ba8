"""Engines that run in a process of their own (run_engine.py)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from autotune.core.errors import EngineError
from autotune.profiler.engines.python import tensorrt_python

SCRIPT = Path(__file__).with_name("run_engine.py")


class EngineProcess:
    """Loads engines and runs them on fixed inputs. Use as a context manager.

    Raises:
        EngineError: an engine of another TensorRT or GPU, or the process died.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in close)
        try:
            self._process = subprocess.Popen(
                [tensorrt_python(), str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self._log, text=True,
            )  # fmt: skip
        except OSError as error:
            raise EngineError(f"{tensorrt_python()} does not run: {error}") from error

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def load(self, engine: Path, inputs: Mapping[str, Any]) -> int:
        """The number of an engine, ready to run on these arrays."""
        feeds = Path(self._folder.name) / "inputs.npz"
        np.savez(feeds, **inputs)
        return int(self._ask({"load": str(engine), "inputs": str(feeds)})["number"])

    def seconds(self, number: int) -> float:
        """What the GPU took for one pass, as a CUDA graph."""
        return float(self._ask({"time": number})["seconds"])

    def outputs(self, number: int) -> dict[str, Any]:
        """The arrays that one pass makes."""
        file = str(Path(self._folder.name) / "outputs.npz")
        self._ask({"outputs": number, "file": file})
        with np.load(file) as arrays:
            return dict(arrays)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            said = self._log.read().strip().splitlines()[-1:] or [f"exit code {code}"]
            raise EngineError(f"the process that runs engines ended: {said[0][:1000]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer
