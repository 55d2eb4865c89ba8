"""All-reduces that others measured: the tables beside those of GEMMs (aiconfigurator.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autotune.profiler.sources.aiconfigurator import SYSTEMS, newest_files, package_folder

if TYPE_CHECKING:
    import pandas as pd

_EAGER = "eager"
_NAMES = {"num_gpus": "devices", "message_size": "values"}
_COLUMNS = ["devices", "values", "latency_s", "stack"]


def read_all_reduces(device: str) -> pd.DataFrame:
    """Rows (devices, values, latency_s, stack) of sums over several of `device`, in half precision.

    `values` are the elements of one device's tensor. Of each stack the newest table counts, without
    what it launches call by call. Empty where there are none.
    """
    import pandas as pd

    folder = package_folder()
    found = []
    if folder is not None and device in SYSTEMS:
        name = "custom_allreduce_perf.parquet"
        for file in newest_files(folder, device, kind="comm", name=name):
            rows = _clean(pd.read_parquet(file)).rename(columns=_NAMES)
            seconds = rows["latency"] * 1e-3
            found.append(rows.assign(latency_s=seconds, stack=file.parts[-3])[_COLUMNS])
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=_COLUMNS)


def _clean(table: pd.DataFrame) -> pd.DataFrame:
    keep = (table["latency"] > 0) & np.isfinite(table["latency"])
    keep &= ~table["kernel_source"].str.contains(_EAGER, case=False)
    found: pd.DataFrame = table[keep]
    return found
