"""How well latencies are predicted from third-party tables, beside simpler predictors.

    python benchmarks/latency.py [--devices a100-sxm,h200-sxm] [--task TASK] [--jobs N]

held-out: 5 folds by (N, K) group, seed 0. recovery: pair / dense of the held-out shapes, for all
ranks whose halves are in the table; a half that is held out too is predicted, the others are known
(`mape_halves_unseen`: every half predicted by a model that did not see it).
stack-out, version-out, between-m, harness, ratio: what others measure on the device (transfer.py).
unseen: the device's family left out, no measurement of its own; few-shot: 100 of its own besides.
Prints one table; the last line is one JSON document, a list of rows.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import transfer
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.layers.extrapolated import donors_of
from autotune.predictor.layers.flar import FlarForest
from autotune.predictor.products.donors import UnseenDevice
from autotune.predictor.products.features import Array, roofline_s
from autotune.predictor.products.regressor import ProductRegressor
from autotune.profiler.sources.aiconfigurator import consensus, read_tables

DEVICES = "a100-sxm,h100-sxm,h200-sxm,b200-sxm,l40s"
TASKS = (
    "held-out",
    "recovery",
    "unseen",
    "few-shot",
    "stack-out",
    "version-out",
    "between-m",
    "harness",
    "ratio",
)
FEW = 100
FEW_SEEDS = 4
Guess = tuple[Array, Array, Array]
Index = NDArray[np.int64]


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", default=DEVICES)
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    devices = options.devices.split(",")
    with ProcessPoolExecutor(options.jobs) as pool:
        for task in options.task or TASKS:
            for row in RUN[task](pool, devices, dtype=options.dtype):
                rows.append({"task": task, **row})
                print(line(rows[-1]), flush=True)
    print(json.dumps(rows))


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    decided = "" if row["decided"] is None else f"  decided {row['decided']:.2%}"
    covered = "" if row["coverage"] is None else f"  covered {row['coverage']:.3f}"
    width = f" within {row['half_width']:.1f} %" if "half_width" in row else ""
    return (
        f"{row['task']:11s} {row['device']:20s} {row['predictor']:18s} MAPE {row['mape']:6.2f} %  "
        f"median {row['median']:6.2f}  p90 {row['p90']:6.2f}{decided}{covered}{width}"
    )


def table_of(device: str, dtype: str) -> tuple[Array, Array]:
    """Products (n, 3) as (M, K, N), and seconds."""
    rows = consensus(read_tables(device, dtype))
    return rows[["m", "k", "n"]].to_numpy(dtype=np.float64), rows["latency_s"].to_numpy()


def folds_of(products: Array, count: int = 5) -> Index:
    """Fold of every product: whole (N, K) groups, seed 0."""
    groups, index = np.unique(products[:, [2, 1]], axis=0, return_inverse=True)
    return (np.random.default_rng(0).permutation(len(groups)) % count)[index.ravel()]


def scores(device: str, predictor: str, *, truth: Array, guess: Guess) -> dict[str, Any]:
    """One row; `guess` is (value, low, high), the ends NaN where there is no interval."""
    value, low, high = guess
    errors = np.abs(value / truth - 1) * 100
    inside = (truth >= low) & (truth <= high)
    return {
        "device": device,
        "predictor": predictor,
        "mape": float(errors.mean()),
        "median": float(np.median(errors)),
        "p90": float(np.percentile(errors, 90)),
        "decided": None,
        "coverage": float(inside.mean()) if np.isfinite(low).all() else None,
    }


def guess_fold(device: str, dtype: str, *, fold: int, predictor: str) -> tuple[Index, Guess]:
    """Indices of a fold and what a predictor that did not see it says."""
    products, seconds = table_of(device, dtype)
    held = folds_of(products) == fold
    with threadpool_limits(1):
        found = PREDICTORS[predictor](
            device, dtype, x=products[~held], y=seconds[~held], asked=products[held]
        )
    return np.flatnonzero(held), found


def no_interval(value: Array) -> Guess:
    """A predictor that does not know how sure it is."""
    return value, np.full(len(value), np.nan), np.full(len(value), np.nan)


def by_roofline(device: str, dtype: str, *, x: Array, y: Array, asked: Array) -> Guess:
    """The specification sheet."""
    del x, y
    return no_interval(roofline_s(asked, Roofline.of(find_device(device), 1), dtype=dtype))


def by_boosting(device: str, dtype: str, *, x: Array, y: Array, asked: Array) -> Guess:
    """Gradient boosting on raw sizes."""
    del device, dtype
    model = HistGradientBoostingRegressor(max_iter=400, learning_rate=0.08, random_state=0)
    return no_interval(np.exp(model.fit(x, np.log(y)).predict(asked)))


def by_flar(device: str, dtype: str, *, x: Array, y: Array, asked: Array) -> Guess:
    """FLAR's random forest."""
    del device, dtype
    return no_interval(FlarForest().fit(x, y).predict(asked))


def by_us(device: str, dtype: str, *, x: Array, y: Array, asked: Array) -> Guess:
    """ProductRegressor with its conformal interval."""
    model = ProductRegressor(find_device(device), dtype).fit(x, y)
    return model.predict(asked), *model.predict_interval(asked)


PREDICTORS: dict[str, Callable[..., Guess]] = {
    "roofline": by_roofline,
    "boosting, raw": by_boosting,
    "flar": by_flar,
    "autotune": by_us,
}


def out_of_fold(
    pool: ProcessPoolExecutor, devices: list[str], *, dtype: str
) -> Iterator[tuple[str, str, Array, Array, Guess]]:
    """(device, predictor, products, seconds, guesses) with every product held out once."""
    jobs = {
        (device, name, fold): pool.submit(guess_fold, device, dtype, fold=fold, predictor=name)
        for device in devices
        for name in PREDICTORS
        for fold in range(5)
    }
    for device in devices:
        products, seconds = table_of(device, dtype)
        for name in PREDICTORS:
            guess = tuple(np.empty(len(seconds)) for _ in range(3))
            for fold in range(5):
                index, found = jobs[device, name, fold].result()
                for whole, part in zip(guess, found, strict=True):
                    whole[index] = part
            yield device, name, products, seconds, (guess[0], guess[1], guess[2])


_KEPT: dict[tuple[str, ...], list[Any]] = {}


def kept_folds(pool: ProcessPoolExecutor, devices: list[str], *, dtype: str) -> list[Any]:
    """`out_of_fold`, once for both tasks that need it."""
    key = (*devices, dtype)
    if key not in _KEPT:
        _KEPT[key] = list(out_of_fold(pool, devices, dtype=dtype))
    return _KEPT[key]


def held_out(
    pool: ProcessPoolExecutor, devices: list[str], *, dtype: str
) -> Iterator[dict[str, Any]]:
    """Single products."""
    for device, name, _, seconds, guess in kept_folds(pool, devices, dtype=dtype):
        yield scores(device, name, truth=seconds, guess=guess)


def recovery(
    pool: ProcessPoolExecutor, devices: list[str], *, dtype: str
) -> Iterator[dict[str, Any]]:
    """Pair / dense of held-out shapes; halves of other shapes are in the table, exactly."""
    for device, name, products, seconds, (value, _, _) in kept_folds(pool, devices, dtype=dtype):
        fold = folds_of(products)
        down, up, dense = triples(products)
        truth = (seconds[down] + seconds[up]) / seconds[dense]
        blind = (value[down] + value[up]) / value[dense]

        halves = [np.where(fold[i] == fold[dense], value[i], seconds[i]) for i in (down, up)]
        guess = (halves[0] + halves[1]) / value[dense]
        row = scores(device, name, truth=truth, guess=no_interval(guess))
        clear = np.abs(np.log(truth)) > 0.1
        right = (truth < 1) == (guess < 1)
        yield row | {
            "decided": float(right.mean()),
            "decided_clear": float(right[clear].mean()),
            "pairs": len(truth),
            "mape_halves_unseen": float(np.abs(blind / truth - 1).mean() * 100),
            "decided_halves_unseen": float(((truth < 1) == (blind < 1)).mean()),
        }


def triples(products: Array) -> tuple[Index, Index, Index]:
    """Indices of (M, K, r), (M, r, N) and (M, K, N) for ranks r below break-even."""
    frame = pd.DataFrame(products, columns=["m", "k", "n"]).reset_index()
    down = frame.rename(columns={"n": "r", "index": "down"})
    up = frame.rename(columns={"k": "r", "index": "up"})
    dense = frame.rename(columns={"index": "dense"})
    found = down.merge(up, on=["m", "r"]).merge(dense, on=["m", "k", "n"])
    found = found[found["r"] * (found["k"] + found["n"]) < found["k"] * found["n"]]
    return tuple(found[name].to_numpy() for name in ("down", "up", "dense"))  # type: ignore[return-value]


def learned(device: str, dtype: str, *, seeds: int) -> list[Guess]:
    """Zero-shot (no seeds), or after FEW measurements chosen with each of the seeds."""
    spec = find_device(device)
    model = UnseenDevice(spec, dtype).fit(donors_of(spec, dtype, blind=True))
    products, seconds = table_of(device, dtype)
    if not seeds:
        return [(model.predict(products), *model.predict_interval(products))]
    found = []
    for seed in range(seeds):
        chosen = model.design(products, FEW, seed=seed)
        model.adapt(products[chosen], seconds[chosen])
        guess = np.array([model.predict(products), *model.predict_interval(products)])
        guess[:, chosen] = np.nan
        found.append((guess[0], guess[1], guess[2]))
    return found


def unseen(
    pool: ProcessPoolExecutor, devices: list[str], *, dtype: str
) -> Iterator[dict[str, Any]]:
    """From donors alone."""
    jobs = {device: pool.submit(learned, device, dtype, seeds=0) for device in devices}
    for device in devices:
        _, seconds = table_of(device, dtype)
        yield scores(device, "autotune", truth=seconds, guess=jobs[device].result()[0])


def few_shot(
    pool: ProcessPoolExecutor, devices: list[str], *, dtype: str
) -> Iterator[dict[str, Any]]:
    """From donors and 100 measurements, a row a seed of the choice."""
    jobs = {device: pool.submit(learned, device, dtype, seeds=FEW_SEEDS) for device in devices}
    for device in devices:
        _, seconds = table_of(device, dtype)
        for seed, guess in enumerate(jobs[device].result()):
            rest = np.isfinite(guess[0])
            left = (guess[0][rest], guess[1][rest], guess[2][rest])
            yield scores(device, "autotune", truth=seconds[rest], guess=left) | {"seed": seed}


RUN: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    "held-out": held_out,
    "recovery": recovery,
    "unseen": unseen,
    "few-shot": few_shot,
    "stack-out": transfer.stack_out,
    "version-out": transfer.version_out,
    "between-m": transfer.between_m,
    "harness": transfer.harness,
    "ratio": transfer.ratio,
}

if __name__ == "__main__":
    main()
