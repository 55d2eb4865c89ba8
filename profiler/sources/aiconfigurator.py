"""Matrix products that others measured: the tables inside the installed aiconfigurator-core.

The package (NVIDIA, Apache-2.0) carries, for every system and serving stack, seconds of single
GEMMs. They are read from the installed files and never copied into this project. Each stack's table
keeps its own fingerprint; what the stacks agree on is their median, shape by shape.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autotune.core.errors import UsageError, option_name
from autotune.core.layers import LayerShape
from autotune.core.types import Fingerprint
from autotune.profiler.database.records import Measurement, Origin, timestamp

if TYPE_CHECKING:
    import pandas as pd

    from autotune.profiler.database.latency import LatencyDatabase

PACKAGE = "aiconfigurator-core"
# Device → folder of the package.
SYSTEMS = {
    "a100-sxm": "a100_sxm", "h100-sxm": "h100_sxm", "h200-sxm": "h200_sxm", "b200-sxm": "b200_sxm",
    "b300-sxm": "b300_sxm", "gb200": "gb200", "gb300": "gb300", "l40s": "l40s",
    "rtx-pro-6000-server": "rtx_pro_6000_server",
}  # fmt: skip
# The names that a dtype has in their tables.
TABLE_DTYPES = {"bf16": ("bfloat16",), "fp16": ("float16",)}
_TABLE = "gemm_perf.parquet"
SHAPE = ["m", "k", "n"]
# Serving stacks time multiples of 32 only: an unaligned rank cannot be priced from them.
MULTIPLE = 32
# Two stacks on one device differ by 3 to 10 %; a table that is further off than this is no
# measurement of the device (two versions for one system differ by 38 %).
_DISAGREEMENT = 0.25


@dataclass(frozen=True, kw_only=True)
class ImportedTable:
    """One stack's GEMMs on one device: columns m, k, n and latency_s, one row a shape."""

    device: str
    stack: str
    stack_version: str
    dtype: str
    rows: pd.DataFrame

    @property
    def source(self) -> str:
        """Where the numbers come from, to print beside them."""
        return f"{PACKAGE} {version(PACKAGE)}: {self.stack} {self.stack_version} on {self.device}"


def package_folder() -> Path | None:
    """The installed package's tables, found without importing it; None where it is missing."""
    spec = importlib.util.find_spec("aiconfigurator_core")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "systems"


def imported_devices() -> tuple[str, ...]:
    """Devices that the installed package has tables of."""
    folder = package_folder()
    if folder is None:
        return ()
    return tuple(d for d, name in SYSTEMS.items() if (folder / "data" / name / "gemm").is_dir())


def read_tables(device: str, dtype: str = "bf16") -> list[ImportedTable]:
    """The newest table of every stack for `device`, cleaned, outliers among them left out.

    Raises:
        UsageError: the package is not installed, or has no such table.
    """
    folder = _folder_of_tables(device, dtype)
    tables = _tables(newest_files(folder, device, kind="gemm", name=_TABLE), device, dtype=dtype)
    if not tables:
        raise UsageError(
            f"{option_name('machine.dtype')}: {PACKAGE} has no {dtype} table of {device}; give "
            "another"
        )
    return _agreeing(tables)


def _folder_of_tables(device: str, dtype: str) -> Path:
    folder = package_folder()
    if folder is None:
        raise UsageError(
            f"tables of {device} come from {PACKAGE}, which is not installed (Linux, Python 3.11 "
            f"to 3.13): pip install {PACKAGE}"
        )
    if device not in imported_devices() or dtype not in TABLE_DTYPES:
        raise UsageError(
            f"{option_name('machine.dtype')}: {PACKAGE} has no {dtype} table of {device}; it has "
            f"{' and '.join(TABLE_DTYPES)} tables of {', '.join(imported_devices())}"
        )
    return folder


def _tables(files: Iterable[Path], device: str, *, dtype: str) -> list[ImportedTable]:
    import pandas as pd

    tables = []
    for file in files:
        rows = clean_products(pd.read_parquet(file), TABLE_DTYPES[dtype])
        if len(rows):
            tables.append(
                ImportedTable(
                    device=device,
                    stack=file.parts[-3],
                    stack_version=file.parts[-2],
                    dtype=dtype,
                    rows=rows,
                )
            )
    return tables


def read_versions(device: str, dtype: str = "bf16") -> list[ImportedTable]:
    """Every version of every stack's table for `device`, cleaned.

    Raises:
        UsageError: the package is not installed, or has no such table.
    """
    folder = _folder_of_tables(device, dtype)
    root = folder / "data" / SYSTEMS[device] / "gemm"
    return _tables(sorted(root.glob(f"*/*/{_TABLE}")), device, dtype=dtype)


def newest_files(folder: Path, device: str, *, kind: str, name: str) -> list[Path]:
    """The newest table `name` of every stack that has one of this kind."""
    from packaging.version import Version

    root, found = folder / "data" / SYSTEMS[device] / kind, []
    for stack in sorted(root.iterdir()) if root.is_dir() else []:
        # The folder of a version may hold no more than a note that another one's table serves it.
        files = sorted(stack.glob(f"*/{name}"), key=lambda path: Version(path.parent.name))
        found += files[-1:]
    return found


def clean_products(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows of a dtype as (m, k, n, latency_s): possible sizes and times, one row a shape."""
    rows = table[table["gemm_dtype"].isin(names)]
    sizes = (rows["m"] > 0) & (rows["n"] % MULTIPLE == 0) & (rows["k"] % MULTIPLE == 0)
    times = np.isfinite(rows["latency"]) & (rows["latency"] > 0)
    rows = rows[sizes & (rows["n"] > 0) & (rows["k"] > 0) & times]
    rows = rows.assign(latency_s=rows["latency"] * 1e-3)
    medians: pd.Series = rows.groupby(SHAPE)["latency_s"].median()
    return medians.reset_index()


def _agreeing(tables: list[ImportedTable]) -> list[ImportedTable]:
    """Those of three or more tables that are near the median of all."""
    if len(tables) < 3:
        return tables
    agreed = consensus(tables).set_index(SHAPE)["latency_s"]
    near = []
    for table in tables:
        own = table.rows.set_index(SHAPE)["latency_s"]
        ratios = (own / agreed.reindex(own.index)).to_numpy()
        if np.median(np.abs(np.log(ratios))) <= _DISAGREEMENT:
            near.append(table)
    return near


def consensus(tables: Sequence[ImportedTable]) -> pd.DataFrame:
    """(m, k, n, latency_s, stacks): the median over stacks, and how many timed the shape.

    Each stack's seconds are divided by its pace: where one stack alone timed some numbers of
    tokens, the median would jump between these and their neighbours.
    """
    import pandas as pd

    parts = [
        table.rows.assign(latency_s=table.rows["latency_s"] / pace)
        for table, pace in zip(tables, _paces(tables), strict=True)
    ]
    grouped = pd.concat(parts).groupby(SHAPE)["latency_s"]
    return grouped.agg(latency_s="median", stacks="size").reset_index()


def _paces(tables: Sequence[ImportedTable]) -> list[float]:
    """How much longer each stack takes than the median of those that timed a shape; 1 if alone."""
    import pandas as pd

    parts = [table.rows.assign(stack=i) for i, table in enumerate(tables)]
    rows = pd.concat(parts, ignore_index=True)
    grouped = rows.groupby(SHAPE)["latency_s"]
    shared = rows[grouped.transform("size") > 1]
    medians = grouped.transform("median")[shared.index]
    off = shared.assign(off=np.log(shared["latency_s"] / medians))
    paces = off.groupby("stack")["off"].median()
    return [float(np.exp(paces.get(i, 0.0))) for i in range(len(tables))]


def import_gemms(database: LatencyDatabase, device: str, *, dtype: str = "bf16") -> int:
    """Store every stack's GEMMs of `device` as dense layers, each stack under its own fingerprint.

    They were timed by others: no rounds, no intervals. Returns the number of rows read.

    Raises:
        UsageError: the package is not installed, or has no such table.
    """
    count = 0
    for table in read_tables(device, dtype):
        origin = Origin(kind="package", name=f"{PACKAGE}: {table.stack}", version=version(PACKAGE))
        run = database.start_run(fingerprint_of_table(table), table.source, origin=origin)
        rows, now = table.rows.to_numpy(), timestamp()
        database.add(run, [_measurement(row, dtype=dtype, now=now) for row in rows])
        count += len(table.rows)
    return count


def fingerprint_of_table(table: ImportedTable) -> Fingerprint:
    """The fingerprint that a stack's table is stored under; it is never mixed with others."""
    return Fingerprint(
        device=table.device,
        device_name=table.device,
        backend=f"imported:{table.stack}",
        dtype=table.dtype,
        threads=1,
        versions={table.stack: table.stack_version, PACKAGE: version(PACKAGE)},
        settings={"source": table.source},
    )


def _measurement(row: Iterable[float], *, dtype: str, now: str) -> Measurement:
    """One row of a table: M, K, N and seconds."""
    tokens, in_features, out_features, latency_s = row
    return Measurement(
        shape=LayerShape(
            tokens=int(tokens),
            in_features=int(in_features),
            out_features=int(out_features),
            dtype=dtype,
        ),
        latency_s=float(latency_s),
        dense_latency_s=float(latency_s),
        ratio=1.0,
        ratio_low=1.0,
        ratio_high=1.0,
        rounds=0,
        windows=0,
        disturbed_windows=0,
        converged=True,
        measured_at=now,
    )
