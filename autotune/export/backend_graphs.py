"""Graphs where sentence-transformers looks for them, so that it opens a result by itself.

`SentenceTransformer(FOLDER, backend="onnx")` opens `onnx/model.onnx`, and `backend="openvino"`
`openvino/openvino_model.xml`, both without this package and without code of the folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autotune.compress.companions import BACKEND_IR, BACKEND_ONNX, MODULES
from autotune.core.errors import ModelError
from autotune.core.files import copy_whole
from autotune.profiler.backends.openvino_cpu import save_ir


def add_backend_graphs(graph: Path, folder: Path, *, note: Callable[[str], None]) -> None:
    """Put a graph into a checkpoint of sentence-transformers; other checkpoints stay as they are.

    OpenVINO's own format is written where OpenVINO is installed; `note` hears why it was not.

    Args:
        graph: The ONNX graph of whole sequences, with `.data` beside it where it has any.
        folder: The checkpoint.
        note: Receives one line.
    """
    if not (folder / MODULES).is_file():
        return
    target = folder / BACKEND_ONNX
    target.parent.mkdir()
    for suffix in ("", ".data"):
        source = graph.with_name(f"{graph.name}{suffix}")
        if source.is_file():
            copy_whole(source, target.with_name(f"{target.name}{suffix}"))
    ir = folder / BACKEND_IR
    try:
        save_ir(target, ir)
    except ImportError:
        note("OpenVINO is not installed: no graph for sentence-transformers' backend openvino")
    except ModelError as error:
        note(f"no graph for sentence-transformers' backend openvino: {error}")
