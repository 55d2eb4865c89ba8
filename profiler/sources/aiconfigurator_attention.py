"""Attention that others measured: the tables beside those of GEMMs (aiconfigurator.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from autotune.profiler.sources.aiconfigurator import (
    SYSTEMS,
    TABLE_DTYPES,
    newest_files,
    package_folder,
)

SHAPE = ["batch", "queries", "keys", "heads", "kv_heads", "head_dim", "causal"]
# File by kind: prompts, one new token against a cache, and towers without a causal mask.
_TABLES = {
    "context": ("attention", "context_attention_perf.parquet"),
    "generation": ("attention", "generation_attention_perf.parquet"),
    "encoder": ("encoder_attention", "encoder_attention_perf.parquet"),
}


def attention_files(device: str, dtype: str = "bf16") -> list[tuple[str, Path]]:
    """The newest table of every stack, with its kind; none where nothing is known in the dtype."""
    folder = package_folder()
    if folder is None or device not in SYSTEMS or dtype not in TABLE_DTYPES:
        return []
    return [
        (kind, file)
        for kind, (part, name) in _TABLES.items()
        for file in newest_files(folder, device, kind=part, name=name)
    ]


def read_attention(device: str, dtype: str = "bf16") -> pd.DataFrame:
    """Rows (`SHAPE`, latency_s) of `device`, the median over stacks; empty where there are none.

    Plain attention only: no window, cache in the same dtype, no prefix.
    """
    found = [
        _clean(pd.read_parquet(file), kind, names=TABLE_DTYPES[dtype])
        for kind, file in attention_files(device, dtype)
    ]
    rows = pd.concat(found) if found else pd.DataFrame(columns=[*SHAPE, "latency_s"])
    medians: pd.Series = rows.groupby(SHAPE)["latency_s"].median()
    return medians.reset_index()


def _clean(table: pd.DataFrame, kind: str, *, names: tuple[str, ...]) -> pd.DataFrame:
    keep = table["attn_dtype"].isin(names) & np.isfinite(table["latency"]) & (table["latency"] > 0)
    if "kv_cache_dtype" in table:
        keep &= table["kv_cache_dtype"].isin(names)
    if "window_size" in table:
        keep &= table["window_size"] == 0
    if kind == "context" and "step" in table:
        keep &= table["step"] == 0
    rows = table[keep]
    generation = kind == "generation"
    kv_heads = rows["num_heads"] if kind == "encoder" else rows["num_key_value_heads"]
    return pd.DataFrame(
        {
            "batch": rows["batch_size"],
            "queries": 1 if generation else rows["isl"],
            "keys": rows["isl"] + rows["step"] if generation else rows["isl"],
            "heads": rows["num_heads"],
            # Some stacks write 0 for as many as there are heads.
            "kv_heads": kv_heads.where(kv_heads > 0, rows["num_heads"]),
            "head_dim": rows["head_dim"],
            "causal": kind == "context",
            "latency_s": rows["latency"] * 1e-3,
        }
    )
