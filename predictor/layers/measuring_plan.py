"""Which layers to measure of a device of which nothing is known: the standard pool, and its order.

The first layers are spread over the pool; the following are those of which the recovery learned so
far is least sure, chosen one after the other as if the ones before were measured already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.devices.alignment import saving_ranks
from autotune.devices.specs import DeviceSpec
from autotune.predictor.layers.recovery import RecoveryProcess
from autotune.predictor.learning.design import spread_design

TOKENS = {"cpu": (1, 16, 64, 256, 1024), "cuda": (1, 16, 128, 512, 2048, 8192)}
WIDTHS = {
    "cpu": (128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096),
    "cuda": (512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 11008, 14336),
}
# One layer of the pool takes a core of a processor at most so many operations.
_MOST_FLOPS = {"cpu": 6e9, "cuda": 2e12}
# Of the break-even rank: where ranks are chosen from.
_SHARES = (0.2, 0.45, 0.8)


def standard_pool(spec: DeviceSpec, dtype: str) -> list[LayerShape]:
    """Dense layers of common widths and token counts that have a rank to choose."""
    pool = [
        LayerShape(tokens=m, in_features=k, out_features=n, dtype=dtype)
        for m in TOKENS[spec.kind]
        for k in WIDTHS[spec.kind]
        for n in WIDTHS[spec.kind]
    ]
    return [s for s in pool if s.flops <= _MOST_FLOPS[spec.kind] and pairs_of(s, spec)]


def pairs_of(
    dense: LayerShape, spec: DeviceSpec, *, shares: Sequence[float] = _SHARES
) -> list[LayerShape]:
    """The layer at a few aligned ranks."""
    step = spec.rank_multiple(dense.dtype)
    ranks = saving_ranks(step, in_features=dense.in_features, out_features=dense.out_features)
    chosen = {ranks[round(share * (len(ranks) - 1))] for share in shares} if ranks else set()
    return [dense.with_form(low_rank(rank)) for rank in sorted(chosen)]


def first_layers(
    pool: Sequence[LayerShape], count: int, *, known: Iterable[LayerShape] = ()
) -> list[LayerShape]:
    """`count` of the pool, spread over log sizes, and away from those that are known."""
    return [pool[i] for i in spread_design(_sizes(pool), count, known=_sizes(known))]


def _sizes(layers: Iterable[LayerShape]) -> NDArray[np.float64]:
    sizes = [(s.tokens, s.in_features, s.out_features) for s in layers]
    return np.array(sizes, dtype=np.float64).reshape(-1, 3)


def next_layers(
    process: RecoveryProcess, pool: Sequence[LayerShape], *, spec: DeviceSpec, count: int
) -> list[LayerShape]:
    """The `count` layers of the pool whose ratios are least sure."""
    left = list(pool)
    chosen: list[LayerShape] = []
    measured: list[LayerShape] = []
    middle = {dense: pairs_of(dense, spec, shares=_SHARES[1:2]) for dense in left}
    for _ in range(min(count, len(left))):
        asked = [pair for dense in left for pair in middle[dense]]
        unsure = process.deviation_given(asked, measured)
        best = asked[int(np.argmax(unsure))].dense
        chosen.append(best)
        measured += pairs_of(best, spec)
        left.remove(best)
    return chosen
