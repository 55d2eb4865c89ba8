"""Copy an ONNX graph with the files that hold its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from autotune.core.errors import ModelError, foreign_code
from autotune.core.files import copy_whole, write_whole


def copy_graph(source: Path, target: Path) -> Path:
    """Copy a graph to `target`, with its external data beside it under the name of `target`.

    `model.onnx.data` of `model.onnx` becomes `other.onnx.data` of `other.onnx`, so that graphs of
    several tunings in one folder keep their own weights. The data come first: no graph is there
    without them.

    Raises:
        ModelError: the graph cannot be read, or its data are not beside it.
        StorageError: the target cannot be written.
    """
    with foreign_code(f"{source} is no ONNX graph: <why>", ModelError):
        model = onnx.load(source, load_external_data=False)
    entries = [
        entry
        for tensor in _tensors(model.graph)
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    places = sorted({entry.value for entry in entries})
    for place in places:
        if Path(place).name != place or not (source.parent / place).is_file():
            raise ModelError(
                f"{source} has its weights in {place!r}, and no such file lies beside it; run the "
                "tuning again"
            )
        copy_whole(source.parent / place, target.with_name(_renamed(place, source, target=target)))
    if source.name == target.name or not places:
        return copy_whole(source, target)
    for entry in entries:
        entry.value = _renamed(entry.value, source, target=target)

    def build(path: Path) -> None:
        path.write_bytes(model.SerializeToString())

    return write_whole(target, build)


def _renamed(place: str, source: Path, *, target: Path) -> str:
    """The name of external data when their graph `source` becomes `target`."""
    own = place.startswith(f"{source.name}.") or source.name == target.name
    return place.replace(source.name, target.name, 1) if own else f"{target.name}.{place}"


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All constants of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
