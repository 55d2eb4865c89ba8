"""The dtype that a network is run in, where that is another than the dtype of its weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

# Models are loaded in it for everything that is computed here.
WEIGHTS = "fp32"
_REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def running_in(dtype: str) -> AbstractContextManager[Any]:
    """Models in fp32 compute what a runtime does that was told to run them in `dtype`.

    Matrix products take inputs rounded to that dtype, and round what they return; the rest keeps
    the dtype of its inputs. Runtimes also round between products; the squared error that this adds
    up to is 0.8 to 1.8 times as large in OpenVINO (docs/methods/dtypes.md).
    """
    reduced = _REDUCED.get(dtype)
    return torch.autocast("cpu", dtype=reduced) if reduced else nullcontext()
