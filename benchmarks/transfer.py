"""Tasks of latency.py: what is known of a device, held against another's measurement of it.

stack-out: a serving stack's table, predicted from those of the other stacks; every fifth (K, N)
group is hidden from the predictor too. version-out: an older version of a stack, from the device's
tables. between-m: one number of tokens, from the others. harness: this project's H200 and the
third-party tables of it, each predicted from the other. ratio: pair / dense of a stack that was
left out. Each row has the coverage of the 90 % interval and its median half width (in log, as %).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.imported import ImportedLatency
from autotune.predictor.layers.table import LatencyTable
from autotune.predictor.layers.transfer import Transfer, TransferredLatency
from autotune.profiler.sources.aiconfigurator import (
    SHAPE,
    ImportedTable,
    consensus,
    read_tables,
    read_versions,
)
from autotune.profiler.sources.shipped import shipped_tables

Row = dict[str, Any]
# Of each environment, so that a task takes minutes: numbers of tokens, and shapes of each.
_TOKENS, _SHAPES = 12, 200


def scores(device: str, what: str, *, truth: Iterable[float], found: Sequence[Estimate]) -> Row:
    """Seconds of `found` against the truth."""
    value, low, high = (
        np.array([getattr(one, name) for one in found]) for name in ("latency_s", "low_s", "high_s")
    )
    return _row(device, what, truth=np.array([*truth]), value=value, low=low, high=high)


def ratio_scores(
    device: str, what: str, *, truth: Iterable[float], found: Sequence[Estimate]
) -> Row:
    """Ratios of `found` against the truth."""
    value, low, high = (
        np.array([getattr(one, name) for one in found])
        for name in ("ratio", "ratio_low", "ratio_high")
    )
    return _row(device, what, truth=np.array([*truth]), value=value, low=low, high=high)


def _row(
    device: str,
    what: str,
    *,
    truth: np.ndarray,
    value: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> Row:
    errors = np.abs(value / truth - 1) * 100
    half_width = np.median(np.log(high / low)) / 2 * 100
    return {
        "device": device,
        "predictor": what,
        "mape": float(errors.mean()),
        "median": float(np.median(errors)),
        "p90": float(np.percentile(np.abs(np.log(value / truth)), 90) * 100),
        "decided": None,
        "coverage": float(((truth >= low) & (truth <= high)).mean()),
        "half_width": float(half_width),
        "count": len(truth),
    }


def sampled(rows: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Some numbers of tokens over the whole range, and some shapes of each."""
    tokens = np.unique(rows["m"])
    chosen = tokens[np.unique(np.linspace(0, len(tokens) - 1, _TOKENS).round().astype(int))]
    parts = [
        part.sample(min(_SHAPES, len(part)), random_state=seed)
        for _, part in rows[rows["m"].isin(chosen)].groupby("m")
    ]
    return pd.concat(parts)


def estimates(predictor: LatencyPredictor, shapes: Sequence[LayerShape]) -> list[Estimate]:
    """All at once."""
    predictor.prepare(shapes)
    return [predictor.estimate(shape) for shape in shapes]


def layers(rows: pd.DataFrame, dtype: str) -> list[LayerShape]:
    """Dense layers of rows (m, k, n)."""
    return [
        LayerShape(tokens=int(m), in_features=int(k), out_features=int(n), dtype=dtype)
        for m, k, n in rows[SHAPE].to_numpy()
    ]


def hidden(rows: pd.DataFrame) -> pd.Series:
    """Whether a row's (K, N) group is one of the fifth that is hidden."""
    groups, index = np.unique(rows[["n", "k"]].to_numpy(), axis=0, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(groups)) % 5
    return pd.Series(fold[index.ravel()] == 0, index=rows.index)


def without(tables: Sequence[ImportedTable], keep: Any) -> list[ImportedTable]:
    """The tables with the rows that `keep` accepts."""
    return [replace(table, rows=table.rows[keep(table.rows)]) for table in tables]


def ours(
    device: str, tables: Sequence[ImportedTable], *, without: str | None = None
) -> TransferredLatency:
    """What the program answers for a device; `without`: what its width must not know."""
    transfer = Transfer.of(device, without=None if without is None else (device, without))
    return TransferredLatency(ImportedLatency(find_device(device), tables), transfer)


def left_out(device: str, stack: str, *, dtype: str) -> list[Row]:
    """One stack, from the others: shapes that they timed, and shapes that nobody did."""
    tables = read_tables(device, dtype)
    (target,) = [table for table in tables if table.stack == stack]
    others, asked = [table for table in tables if table is not target], sampled(target.rows)
    known = others[0].rows[SHAPE].assign(known=True).drop_duplicates()
    asked = asked.merge(known, on=SHAPE)
    found = estimates(ours(device, others, without=stack), layers(asked, dtype))
    rows = [scores(device, f"timed, {stack}", truth=asked["latency_s"], found=found)]
    unseen = asked[hidden(asked)]
    blind = without(others, lambda table: ~_in_groups(table, unseen))
    found = estimates(ours(device, blind, without=stack), layers(unseen, dtype))
    return [*rows, scores(device, f"predicted, {stack}", truth=unseen["latency_s"], found=found)]


def _in_groups(rows: pd.DataFrame, groups: pd.DataFrame) -> pd.Series:
    index = pd.MultiIndex.from_frame(rows[["k", "n"]])
    return pd.Series(index.isin(pd.MultiIndex.from_frame(groups[["k", "n"]])), index=rows.index)


def stack_out(pool: ProcessPoolExecutor, devices: list[str], *, dtype: str) -> Iterator[Row]:
    """Every stack of every device."""
    yield from _each_stack(pool, left_out, devices=devices, dtype=dtype)


def ratio_out(device: str, stack: str, *, dtype: str) -> list[Row]:
    """Pair / dense of one stack, from the others."""
    tables = read_tables(device, dtype)
    (target,) = [table for table in tables if table.stack == stack]
    others, rows = [table for table in tables if table is not target], target.rows
    tokens = sampled(rows)["m"].unique()
    truth: list[float] = []
    shapes: list[LayerShape] = []
    timed = rows[rows["m"].isin(tokens)]
    seconds = {
        (int(m), int(k), int(n)): s for m, k, n, s in timed[[*SHAPE, "latency_s"]].to_numpy()
    }
    for i in np.random.default_rng(1).permutation(len(timed))[:6000]:
        m, k, n = (int(size) for size in timed[SHAPE].iloc[i])
        for rank in (64, 128, 256, 512, 1024, 2048):
            down, up = seconds.get((m, k, rank)), seconds.get((m, rank, n))
            if down and up and rank * (k + n) < k * n:
                shapes.append(_pair(m, k, n, rank=rank, dtype=dtype))
                truth.append((down + up) / seconds[m, k, n])
    chosen = np.random.default_rng(0).permutation(len(shapes))[: _TOKENS * _SHAPES]
    found = estimates(ours(device, others, without=stack), [shapes[i] for i in chosen])
    return [ratio_scores(device, stack, truth=[truth[i] for i in chosen], found=found)]


def _pair(m: int, k: int, n: int, *, rank: int, dtype: str) -> LayerShape:
    return LayerShape(tokens=m, in_features=k, out_features=n, form=low_rank(rank), dtype=dtype)


def ratio(pool: ProcessPoolExecutor, devices: list[str], *, dtype: str) -> Iterator[Row]:
    """Every stack of every device."""
    yield from _each_stack(pool, ratio_out, devices=devices, dtype=dtype)


def _each_stack(
    pool: ProcessPoolExecutor, task: Any, *, devices: list[str], dtype: str
) -> Iterator[Row]:
    jobs = [
        pool.submit(task, device, table.stack, dtype=dtype)
        for device in devices
        for table in read_tables(device, dtype)
    ]
    for job in jobs:
        yield from job.result()


def version_out(pool: ProcessPoolExecutor, devices: list[str], *, dtype: str) -> Iterator[Row]:
    """Older versions of a device's stacks, from its newest tables."""
    del pool
    for device in devices:
        tables = read_tables(device, dtype)
        newest = {(table.stack, table.stack_version) for table in tables}
        for old in read_versions(device, dtype):
            if (old.stack, old.stack_version) not in newest:
                asked = sampled(old.rows)
                name = f"{old.stack} {old.stack_version}"
                found = estimates(ours(device, tables, without=name), layers(asked, dtype))
                yield scores(device, name, truth=asked["latency_s"], found=found)


def tokens_out(device: str, dtype: str) -> Row:
    """Some numbers of tokens, each from a table without it."""
    tables = read_tables(device, dtype)
    rows = consensus(tables)
    asked = sampled(rows[(rows["m"] > rows["m"].min()) & (rows["m"] < rows["m"].max())])
    truth: list[float] = []
    found: list[Estimate] = []
    for m, part in asked.groupby("m"):
        blind = without(tables, lambda table, m=m: table["m"] != m)
        found += ImportedLatency(find_device(device), blind).estimates(layers(part, dtype))
        truth += [*part["latency_s"]]
    return scores(device, "one M left out", truth=truth, found=found)


def between_m(pool: ProcessPoolExecutor, devices: list[str], *, dtype: str) -> Iterator[Row]:
    """Every device."""
    yield from pool.map(tokens_out, devices, [dtype] * len(devices))


def harness(pool: ProcessPoolExecutor, devices: list[str], *, dtype: str) -> Iterator[Row]:
    """This project's H200 and others' of it, where `devices` names it."""
    del pool
    device = "h200-sxm"
    if device not in devices:
        return
    spec = find_device(device)
    (_, measured), *_ = shipped_tables(device, dtype)
    plain = [row for row in measured if not row.shape.parts and not row.shape.form.suffix]
    grid = [row for row in plain if not any(size % 32 for size in _sizes(row.shape))]
    theirs = ours(device, read_tables(device, dtype), without="autotune")
    found = estimates(theirs, [row.shape for row in grid])
    dense = [i for i, row in enumerate(grid) if row.shape.is_dense]
    pairs = [i for i, row in enumerate(grid) if not row.shape.is_dense]
    truth = [grid[i].latency_s for i in dense]
    yield scores(device, "ours, from theirs", truth=truth, found=[found[i] for i in dense])
    truth = [grid[i].ratio for i in pairs]
    yield ratio_scores(device, "ratios, from theirs", truth=truth, found=[found[i] for i in pairs])
    own = TransferredLatency(
        LatencyTable(measured, Roofline.of(spec, 1), cliff=spec.cliff(dtype)),
        Transfer.of(device, without=(device, "autotune")),
    )
    rows = consensus(read_tables(device, dtype))
    asked = sampled(rows[rows["m"].isin({row.shape.tokens for row in measured})])
    asked = asked[(asked["k"] <= 18944) & (asked["n"] <= 28672)]
    found = estimates(own, layers(asked, dtype))
    yield scores(device, "theirs, from ours", truth=asked["latency_s"], found=found)


def _sizes(shape: LayerShape) -> tuple[int, ...]:
    return (shape.in_features, shape.out_features, shape.rank)
