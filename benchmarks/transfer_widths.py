"""How far measurements of one device by different software differ: predictor/data/transfer.csv.

    python benchmarks/transfer_widths.py

An environment is a serving stack, an older version of one, or another harness (this project's
H200). Each is held against what the other tables of its device agree on: seconds of products that
both timed, and ratios pair / dense made of them. Written are the quantiles of |log(one / other)|
for each environment, by the number of tokens (predictor/layers/transfer.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from autotune.predictor.layers.transfer import QUANTILES, SIZE_CLASSES, TRANSFERS
from autotune.profiler.sources.aiconfigurator import (
    SHAPE,
    consensus,
    imported_devices,
    read_tables,
    read_versions,
)
from autotune.profiler.sources.shipped import shipped_tables

DTYPE = "bf16"
OURS = "h200-sxm"
# Ratios are made of every product with every other: so many numbers of tokens are enough.
_TOKENS = 12


def main() -> None:
    """Write the file, and print a line for each environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=TRANSFERS)
    options = parser.parse_args()
    rows = []
    for device, environment, what, off in differences():
        size = np.digitize(off["m"], np.array(SIZE_CLASSES) + 1)
        for number in range(len(SIZE_CLASSES) + 1):
            errors = off["error"].abs()[size == number]
            quantiles = np.quantile(errors, QUANTILES).round(4)
            keys = (device, environment, what, number, len(errors))
            rows.append((*keys, *quantiles))
            print(*keys, f"90 %: {np.quantile(errors, 0.9):.3f}", flush=True)
    names = ["device", "environment", "of", "size_class", "count"]
    names += [f"q{100 * level:.0f}" for level in QUANTILES]
    pd.DataFrame(rows, columns=names).to_csv(options.output, index=False)


def differences() -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """(device, environment, seconds or ratio, frame of m and error) of every environment."""
    for device in imported_devices():
        tables = read_tables(device, DTYPE)
        for table in tables:
            others = [other for other in tables if other is not table]
            if others:
                yield from _compared(device, table.stack, rows=table.rows, agreed=consensus(others))
        newest = {(table.stack, table.stack_version) for table in tables}
        for old in read_versions(device, DTYPE):
            if len(old.rows) and (old.stack, old.stack_version) not in newest:
                name = f"{old.stack} {old.stack_version}"
                yield from _compared(device, name, rows=old.rows, agreed=consensus(tables))
    yield from _harness()


def _compared(
    device: str, environment: str, *, rows: pd.DataFrame, agreed: pd.DataFrame
) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    found = rows.merge(agreed, on=SHAPE, suffixes=("", "_other"))
    found["error"] = np.log(found["latency_s"] / found["latency_s_other"])
    yield device, environment, "seconds", found
    tokens = np.unique(found["m"])[:: max(1, found["m"].nunique() // _TOKENS)]
    ratios = [ratios_of(each[each["m"].isin(tokens)]) for each in (rows, agreed)]
    found = ratios[0].merge(ratios[1], on=[*SHAPE, "r"], suffixes=("", "_other"))
    found["error"] = np.log(found["ratio"] / found["ratio_other"])
    yield device, environment, "ratio", found


def ratios_of(rows: pd.DataFrame) -> pd.DataFrame:
    """(m, k, n, r, ratio) of every pair below break-even whose three products are known."""
    rows = rows[[*SHAPE, "latency_s"]]
    down = rows.rename(columns={"n": "r", "latency_s": "down"})
    up = rows.rename(columns={"k": "r", "latency_s": "up"})
    parts = []
    for m, dense in rows.groupby("m"):
        pairs = down[down["m"] == m].merge(up[up["m"] == m], on=["m", "r"])
        found = pairs.merge(dense, on=SHAPE)
        parts.append(found[found["r"] * (found["k"] + found["n"]) < found["k"] * found["n"]])
    found = pd.concat(parts)
    found["ratio"] = (found["down"] + found["up"]) / found["latency_s"]
    return found[[*SHAPE, "r", "ratio"]]


def _harness() -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """This project's H200, in seconds of products and in ratios of pairs as they were measured."""
    (_, measured), *_ = shipped_tables(OURS, DTYPE)
    agreed = consensus(read_tables(OURS, DTYPE))
    plain = [row for row in measured if not row.shape.parts and not row.shape.form.suffix]
    columns = [
        (s.tokens, s.in_features, s.out_features, s.rank, row.latency_s, row.ratio)
        for row in plain
        for s in (row.shape,)
    ]
    ours = pd.DataFrame(columns, columns=[*SHAPE, "r", "latency_s", "ratio"])
    found = ours[ours["r"] == 0].merge(agreed, on=SHAPE, suffixes=("", "_other"))
    found["error"] = np.log(found["latency_s"] / found["latency_s_other"])
    yield OURS, "autotune", "seconds", found
    found = ours[ours["r"] > 0].merge(
        ratios_of(agreed[agreed["m"].isin(ours["m"])]), on=[*SHAPE, "r"], suffixes=("", "_other")
    )
    found["error"] = np.log(found["ratio"] / found["ratio_other"])
    yield OURS, "autotune", "ratio", found


if __name__ == "__main__":
    main()
