"""Others' ratios of a precision to bf16: of products that are left out, and of other stacks.

    python benchmarks/precision_ratios.py [--device a100-sxm ...]

`held out`: a fifth of the (K, N) of a stack's table from the others; `stacks`: how far the ratios
of two stacks are apart for the same product, which nothing here predicts: a prediction runs from
the lowest stack to the highest. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from autotune.predictor.layers.precisions import StackRatios, held_out_errors
from autotune.predictor.layers.transfer import SIZE_CLASSES, Transfer
from autotune.profiler.sources.aiconfigurator import SHAPE, imported_devices
from autotune.profiler.sources.aiconfigurator_precisions import PrecisionTable, read_precisions


def main() -> None:
    """Leave out, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", nargs="*", default=imported_devices())
    rows: list[dict[str, Any]] = []
    for device in parser.parse_args().device:
        tables = read_precisions(device)
        rows += [{"device": device, **held_out(device, table)} for table in tables]
        rows += [{"device": device, **row} for row in between_stacks(tables)]
        for row in rows:
            if row["device"] == device:
                print(" ".join(f"{name} {_shown(value)}" for name, value in row.items()))
    print(json.dumps(rows))


def held_out(device: str, table: PrecisionTable) -> dict[str, Any]:
    """Errors of products whose (K, N) was left out, and what the interval holds of them."""
    rows = table.rows[SHAPE].to_numpy(dtype=np.float64)
    logs = np.log(table.rows["ratio"].to_numpy(dtype=np.float64))
    errors, tokens = held_out_errors(rows, logs)
    classes = np.searchsorted(SIZE_CLASSES, tokens)
    between = np.array(StackRatios.of(table).half_widths)[classes]
    whole = np.hypot(between, np.array(Transfer.of(device).ratio)[classes])
    return {
        "precision": table.precision,
        "stack": table.stack,
        "held_out": len(errors),
        "median_error": float(np.median(errors)),
        "p90_error": float(np.quantile(errors, 0.9)),
        "without_a_model": float(np.median(np.abs(logs - np.median(logs)))),
        "median_half_width": float(np.median(whole)),
        "coverage": float((errors <= whole).mean()),
    }


def between_stacks(tables: Sequence[PrecisionTable]) -> list[dict[str, Any]]:
    """How far two stacks are apart where both timed a product."""
    found = []
    for one, other in itertools.combinations(tables, 2):
        both = one.rows.merge(other.rows, on=SHAPE)
        if one.precision == other.precision and len(both):
            apart = np.abs(np.log((both["ratio_x"] / both["ratio_y"]).to_numpy()))
            found.append(
                {
                    "precision": one.precision,
                    "stack": f"{one.stack} against {other.stack}",
                    "products": len(both),
                    "median_apart": float(np.median(apart)),
                    "p90_apart": float(np.quantile(apart, 0.9)),
                }
            )
    return found


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
