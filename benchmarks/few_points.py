"""What a few points of a device improve: our H200, from others' tables and from an H100's.

    python benchmarks/few_points.py [--draws 20] [--counts 0,10,25,50,100]

Truth are the dense layers and pairs of the shipped H200 database at aligned sizes. Known besides
are others' tables of the H200 ("imported"), or other devices' tables and the H200's sheet
("extrapolated", an H100 among the donors). Points are drawn at random, layers with their pairs;
errors are on layers (K, N) of which no point was drawn. Prints medians of the draws, and as its
last line one JSON document, a list of rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.extrapolated import ExtrapolatedLatency, unseen_device
from autotune.predictor.layers.imported import ImportedLatency
from autotune.predictor.layers.own_points import OwnPoints
from autotune.predictor.layers.transfer import Transfer, TransferredLatency
from autotune.profiler.database.records import Measurement
from autotune.profiler.sources.aiconfigurator import read_tables
from autotune.profiler.sources.shipped import shipped_tables

SPEC, DTYPE = find_device("h200-sxm"), "bf16"
LAYERS = 160  # (M, K, N) whose dense layer and pairs are the truth


class Answered(LatencyPredictor):
    """Another predictor's answers, asked once."""

    def __init__(self, predictor: LatencyPredictor, shapes: Sequence[LayerShape]) -> None:
        self.interval = predictor.interval
        self._known = dict(zip(shapes, estimates(predictor, shapes), strict=True))

    def estimate(self, shape: LayerShape) -> Estimate:
        """What was answered."""
        return self._known[shape]


def estimates(predictor: LatencyPredictor, shapes: Sequence[LayerShape]) -> list[Estimate]:
    """Of every shape, after all were announced."""
    predictor.prepare(shapes)
    return [predictor.estimate(shape) for shape in shapes]


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--counts", default="0,5,10,25,50,100")
    options = parser.parse_args()
    truth = layers()
    shapes = [row.shape for row in truth]
    imported = ImportedLatency(SPEC, read_tables(SPEC.name, DTYPE))
    known = Answered(TransferredLatency(imported, Transfer.of(SPEC.name)), shapes)
    rows = []
    for base in ("imported", "extrapolated"):
        for count in map(int, options.counts.split(",")):
            draws = range(options.draws if count else 1)
            found = [
                scored(truth, count, seed=seed, known=known if base == "imported" else None)
                for seed in draws
            ]
            row = {name: float(np.median([one[name] for one in found])) for name in found[0]}
            row["worst_ratio_mape"] = max(one["ratio_mape"] for one in found)
            rows.append({"base": base, "points": count, "draws": len(found), **row})
            print(line(rows[-1]), flush=True)
    print(json.dumps(rows))


def layers() -> list[Measurement]:
    """Dense layers that have pairs, and these, where others' tables may answer."""
    rows = [row for row in shipped_tables(SPEC.name, DTYPE)[0][1] if is_known(row.shape)]
    dense = {row.shape.dense for row in rows if row.shape.rank}
    order = sorted(dense, key=str)
    chosen = {order[i] for i in np.random.default_rng(0).permutation(len(order))[:LAYERS]}
    return [row for row in rows if row.shape.dense in chosen]


def is_known(shape: LayerShape) -> bool:
    """A single layer, dense or a plain pair, of sizes that are multiples of 32."""
    sizes = (shape.in_features, shape.out_features, shape.rank)
    return not shape.parts and not shape.form.suffix and not any(size % 32 for size in sizes)


def scored(
    truth: Sequence[Measurement], count: int, *, seed: int, known: LatencyPredictor | None
) -> dict[str, float]:
    """Errors (%) and coverage on layers of which no point was drawn."""
    draw = np.random.default_rng(seed)
    dense = sorted({row.shape.dense for row in truth}, key=str)
    own: list[Measurement] = []
    for i in draw.permutation(len(dense)):
        if len(own) >= count:
            break
        of_layer = [row for row in truth if row.shape.dense == dense[i]]
        own += [of_layer[j] for j in sorted(draw.permutation(len(of_layer))[:4])]
    own = own[:count]
    seen = {(row.shape.in_features, row.shape.out_features) for row in own}
    left = [r for r in truth if (r.shape.in_features, r.shape.out_features) not in seen]
    predictor = made(own, known)
    found = estimates(predictor, [row.shape for row in left])
    return scores(left, found)


def made(own: Sequence[Measurement], known: LatencyPredictor | None) -> LatencyPredictor:
    """What answers with these points."""
    roofline = Roofline.of(SPEC, 1)
    if known is not None:
        return OwnPoints(known, own, roofline=roofline) if own else known
    base = ExtrapolatedLatency(unseen_device(SPEC, DTYPE), own=own)
    return OwnPoints(base, own, roofline=roofline, known=base.adaptation) if own else base


def scores(left: Sequence[Measurement], found: Sequence[Estimate]) -> dict[str, float]:
    """Of seconds of dense layers, and of ratios of pairs."""
    result: dict[str, Any] = {}
    dense = [(r, e) for r, e in zip(left, found, strict=True) if not r.shape.rank]
    pairs = [(r, e) for r, e in zip(left, found, strict=True) if r.shape.rank]
    result["dense_mape"] = 100 * np.mean([abs(e.latency_s / r.latency_s - 1) for r, e in dense])
    result["dense_covered"] = np.mean([e.low_s <= r.latency_s <= e.high_s for r, e in dense])
    result["dense_half_width"] = 100 * np.median([e.log_half_width for _, e in dense])
    result["ratio_mape"] = 100 * np.mean([abs(e.ratio / r.ratio - 1) for r, e in pairs])
    result["ratio_covered"] = np.mean([e.ratio_low <= r.ratio <= e.ratio_high for r, e in pairs])
    result["ratio_half_width"] = 100 * np.median([np.log(e.ratio_high / e.ratio) for _, e in pairs])
    return {name: float(value) for name, value in result.items()}


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    return (
        f"{row['base']:12s} {row['points']:4d} points  dense MAPE {row['dense_mape']:5.2f} % "
        f"(covered {row['dense_covered']:.3f} within {row['dense_half_width']:4.1f} %)  ratio "
        f"{row['ratio_mape']:5.2f} % ({row['ratio_covered']:.3f}, {row['ratio_half_width']:4.1f} %)"
        f"  worst {row['worst_ratio_mape']:5.2f} %"
    )


if __name__ == "__main__":
    main()
