"""Products in other precisions that others measured, beside those in bf16 (aiconfigurator.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autotune.core.forms import INT4_WEIGHT_ONLY, INT8_STATIC, INT8_WEIGHT_ONLY
from autotune.profiler.sources.aiconfigurator import (
    SHAPE,
    SYSTEMS,
    TABLE_DTYPES,
    clean_products,
    newest_files,
    package_folder,
)

if TYPE_CHECKING:
    import pandas as pd

# Precision → its name in the tables: a scale for each tensor or for each block, integers for
# weights alone, or for weights and activations (SmoothQuant).
TABLE_PRECISIONS = {
    "fp8": "fp8",
    "fp8-block": "fp8_block",
    "nvfp4": "nvfp4",
    INT8_STATIC: "sq",
    INT8_WEIGHT_ONLY: "int8_wo",
    INT4_WEIGHT_ONLY: "int4_wo",
}
_COLUMNS = ["gemm_dtype", "m", "k", "n", "latency"]
_REFERENCE = "bf16"


@dataclass(frozen=True, kw_only=True)
class PrecisionTable:
    """One stack's products in a precision: columns m, k, n and ratio to the same one in bf16."""

    precision: str
    stack: str
    rows: pd.DataFrame


def read_precisions(device: str) -> list[PrecisionTable]:
    """Every precision that a stack timed on `device` beside bf16; none where nothing is known.

    A ratio is of one stack: stacks differ more in what surrounds such a product (rounding of the
    activations, launches) than in the product itself.
    """
    folder = package_folder()
    if folder is None or device not in SYSTEMS:
        return []
    import pandas as pd

    found = []
    for file in newest_files(folder, device, kind="gemm", name="gemm_perf.parquet"):
        table = pd.read_parquet(file, columns=_COLUMNS)
        reference = _seconds(table, TABLE_DTYPES[_REFERENCE])
        for precision, name in TABLE_PRECISIONS.items():
            ratio = (_seconds(table, (name,)) / reference).dropna()
            if len(ratio):
                rows = ratio.rename("ratio").reset_index()
                stack = f"{file.parts[-3]} {file.parts[-2]}"
                found.append(PrecisionTable(precision=precision, stack=stack, rows=rows))
    return found


def _seconds(table: pd.DataFrame, names: tuple[str, ...]) -> pd.Series[float]:
    found: pd.Series[float] = clean_products(table, names).set_index(SHAPE)["latency_s"]
    return found.astype(np.float64)
