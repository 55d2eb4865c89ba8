"""Whether an exported graph computes what the model does, at shapes it was not traced at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from autotune.compress.integer_layers import has_integer_layers
from autotune.compress.loading import LoadedModel
from autotune.core.errors import ParityError, foreign_code
from autotune.core.progress import Advance, no_progress
from autotune.export.manifest import ParityCase, ParityRecord
from autotune.export.references import Reference, make_reference

# Largest difference over the largest value: rounding of a whole network in the dtype.
# Where layers are of integers a value here and there is rounded to the neighbouring step, and that
# goes on through the network.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1}
SHAPES = ((1, 1), (1, 7), (3, 1), (3, 7), (1, 513), (3, 513))
Arrays = Mapping[str, Any]
Network = Callable[[Arrays], Arrays]


@torch.no_grad()
def check_parity(
    loaded: LoadedModel,
    phase: str,
    *,
    network: Network,
    dtype: str,
    what: str,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    progress: Advance = no_progress,
    reference: Network | None = None,
) -> ParityRecord:
    """Every shape's error; `network` maps named inputs to named outputs, "prefill" or "decode".

    Compared with the plain call of the checkpoint in transformers, or with what `reference` makes
    of the same inputs.

    Raises:
        ParityError: one of them is beyond the dtype's tolerance, not finite, or does not run.
    """
    kind = "int8" if has_integer_layers(loaded.model) else dtype
    cases = []
    for index, (batch, length) in enumerate(shapes):
        progress(index, len(shapes))
        right = _reference(loaded, phase, batch=batch, length=length)
        feeds = {name: tensor.numpy() for name, tensor in right.inputs.items()}
        outputs = network(feeds)
        error = (right.against(reference(feeds)) if reference else right).error(outputs)
        shape = {"batch_size": right.batch_size, "length": right.length}
        cases.append(ParityCase(**shape, error=error))
        if not error <= TOLERANCES[kind]:
            raise ParityError(
                f"{what} differs from the checkpoint by {error:.1e} of its largest value at batch "
                f"{right.batch_size}, length {right.length}; {TOLERANCES[kind]:.0e} is allowed in "
                f"{kind}"
            )
    return ParityRecord(tolerance=TOLERANCES[kind], cases=tuple(cases))


def _reference(loaded: LoadedModel, phase: str, *, batch: int, length: int) -> Reference:
    """What the model itself computes.

    Raises:
        ParityError: it does not run at this shape.
    """
    message = f"the model itself does not run at batch {batch}, length {length}: <why>"
    with foreign_code(message, ParityError):
        return make_reference(loaded, phase, batch_size=batch, length=length)


def onnx_network(path: Path, threads: int = 1) -> Network:
    """Open an ONNX file as a function that computes its named outputs on the CPU.

    Raises:
        ModelError: it is no model that onnxruntime opens.
    """
    from autotune.profiler.backends.onnxruntime_cpu import open_model

    session = open_model(path, threads)
    names = [output.name for output in session.get_outputs()]

    def network(feeds: Arrays) -> Arrays:
        return dict(zip(names, session.run(None, dict(feeds)), strict=True))

    return _explained(path, network)


def openvino_network(path: Path, threads: int = 1) -> Network:
    """The same in OpenVINO, in the dtype that the file names.

    Raises:
        ModelError: it is no model that OpenVINO opens.
    """
    from autotune.profiler.backends.openvino_cpu import open_model

    return _explained(path, open_model(path, threads))


def _explained(path: Path, network: Network) -> Network:
    """The network, whose failure says at which shape."""

    def run(feeds: Arrays) -> Arrays:
        shape = list(next(iter(feeds.values())).shape)
        with foreign_code(f"{path.name} does not run at {shape}: <why>", ParityError):
            return network(feeds)

    return run


# By the name of the runtime; onnxruntime is what is meant where none is named.
NETWORKS = {"": onnx_network, "OpenVINO": openvino_network}
