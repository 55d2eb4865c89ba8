"""onnxruntime's operator for weights in blocks, as graphs have it and layers are measured."""

from __future__ import annotations

from typing import Any

from autotune.core.forms import INT4_WEIGHT_ONLY, INT8_WEIGHT_ONLY, WEIGHT_BLOCK

OPERATOR = "MatMulNBits"
DOMAIN, DOMAIN_VERSION = "com.microsoft", 1
BITS = {INT8_WEIGHT_ONLY: 8, INT4_WEIGHT_ONLY: 4}
# The input is rounded to 8 bits. At other levels products take several times as long: without one
# 8 bits took 2 to 14 times the time of fp32.
_ACCURACY_LEVEL = 4


def attributes(*, in_features: int, out_features: int, bits: int) -> dict[str, Any]:
    """Those of a node."""
    return {
        "domain": DOMAIN,
        "K": in_features,
        "N": out_features,
        "bits": bits,
        "block_size": WEIGHT_BLOCK,
        "accuracy_level": _ACCURACY_LEVEL,
    }
