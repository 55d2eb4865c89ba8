"""Calibration data: text or tensors, split once into three parts that never overlap.

`statistics` feeds the Gram matrices, `search` is the fixed batch that the search looks at, and
`heldout` is only ever used to report quality.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.loading import LoadedModel
from autotune.compress.tasks.base import MASK, Batch
from autotune.core.errors import CalibrationError, option_name
from autotune.core.types import Workload

_MIN_SEQUENCES = 8
_TOKENS_PER_BATCH = 1024
# Sizes unless the plan says otherwise: (statistics, search, held-out), in tokens for language
# models, in sequences for others.
_DEFAULT_TOKENS = (32768, 8192, 131072)
_DEFAULT_SEQUENCES = (1024, 128, 256)


@dataclass(frozen=True, kw_only=True)
class CalibrationData:
    """The three parts as batches, and the hash of what they were made from."""

    statistics: tuple[Batch, ...] = field(repr=False)
    search: tuple[Batch, ...] = field(repr=False)
    heldout: tuple[Batch, ...] = field(repr=False)
    sha256: str
    origin: str


def load_calibration(
    loaded: LoadedModel, plan: CalibrationPlan, *, workload: Workload
) -> CalibrationData:
    """Read, tokenize and split.

    Raises:
        CalibrationError: no such file, wrong kind, or too little data.
    """
    sizes: tuple[int, ...] = _DEFAULT_SEQUENCES
    if loaded.kind.reads_windows:
        length = workload.sequence_length
        sizes = tuple(max(_MIN_SEQUENCES, tokens // length) for tokens in _DEFAULT_TOKENS)
    plan = replace(
        plan,
        statistics_samples=plan.statistics_samples or sizes[0],
        search_samples=plan.search_samples or sizes[1],
        heldout_samples=plan.heldout_samples or (None if plan.evaluation else sizes[2]),
    )
    if plan.calibration and plan.calibration.endswith(".safetensors"):
        tensors = _tensor_rows(Path(plan.calibration))
        others = _tensor_rows(Path(plan.evaluation)) if plan.evaluation else None
        return _pack(plan, tensors, held=others, shuffle=True)
    if loaded.tokenizer is None:
        raise CalibrationError(
            f"{loaded.name} has no tokenizer, so text cannot calibrate it; set "
            f"{option_name('calibration.calibration')} to a .safetensors file of its input tensors "
            "(first dimension = samples)"
        )
    rows = _text_rows(loaded, plan.calibration, workload=workload)
    held = _text_rows(loaded, plan.evaluation, workload=workload) if plan.evaluation else None
    return _pack(plan, rows, held=held, shuffle=not loaded.kind.reads_windows)


def _read_text(path: str | None) -> str:
    if path is None:
        return (files("autotune") / "data" / "default_text.txt").read_text(encoding="utf-8")
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CalibrationError(
            f"calibration file {path} cannot be read: {why}; give a text file with one document "
            "a line, or a .safetensors file of input tensors"
        ) from error


def _text_rows(loaded: LoadedModel, path: str | None, *, workload: Workload) -> list[Tensor]:
    text = _read_text(path)
    tokenizer: Any = loaded.tokenizer
    length = workload.sequence_length
    if loaded.kind.reads_windows:
        ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.long)
        rows = [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]
        found = f"{len(ids)} token{'' if len(ids) == 1 else 's'}"
    else:
        documents = list(dict.fromkeys(line for line in text.splitlines() if line.strip()))
        encoded = (
            tokenizer(documents, truncation=True, max_length=length)["input_ids"]
            if documents
            else []
        )
        rows = [torch.tensor(ids, dtype=torch.long) for ids in encoded]
        found = f"{sum(map(len, rows))} tokens in {len(rows)} documents"
    if len(rows) < _MIN_SEQUENCES:
        kind = f"windows of {length} tokens" if loaded.kind.reads_windows else "documents"
        raise CalibrationError(
            f"calibration text {path or '(default)'} has {found}, which is {len(rows)} {kind}; "
            f"at least {_MIN_SEQUENCES} are needed: give more text or a shorter sequence"
        )
    return rows


def _tensor_rows(path: Path) -> list[dict[str, Tensor]]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CalibrationError(f"calibration file {path} cannot be read: {error}") from error
    lengths = {tensor.shape[0] for tensor in tensors.values() if tensor.ndim}
    if len(lengths) != 1 or (count := lengths.pop()) < _MIN_SEQUENCES:
        raise CalibrationError(
            f"{path} must hold input tensors that share a first dimension of at least "
            f"{_MIN_SEQUENCES} samples"
        )
    return [{name: tensor[i] for name, tensor in tensors.items()} for i in range(count)]


Row = Tensor | dict[str, Tensor]


def _sha(rows: Sequence[Row]) -> str:
    sha = hashlib.sha256()
    for row in rows:
        for name, tensor in sorted(row.items()) if isinstance(row, dict) else [("", row)]:
            sha.update(name.encode() + str((tensor.dtype, tuple(tensor.shape))).encode())
            sha.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _pack(
    plan: CalibrationPlan, rows: Sequence[Row], *, held: Sequence[Row] | None, shuffle: bool
) -> CalibrationData:
    """Split rows 70 / 10 / 20 (80 / 20 with a held-out file), shuffled where order is chance."""
    order = list(range(len(rows)))
    if shuffle:
        random.Random(plan.seed or 0).shuffle(order)
    ordered = [rows[i] for i in order]
    if held is None:
        cut = max(1, len(ordered) // 5)
        ordered, held = ordered[:-cut], ordered[-cut:]
    cut = max(1, len(ordered) // 8)
    statistics = _spread(ordered[:-cut], plan.statistics_samples)
    search = _spread(ordered[-cut:], plan.search_samples)
    seen = {_sha([row]) for row in (*statistics, *search)}
    heldout = _spread([row for row in held if _sha([row]) not in seen], plan.heldout_samples)
    if not heldout:
        raise CalibrationError(
            "every held-out sample is also a calibration sample; give an evaluation file with "
            "other data"
        )
    return CalibrationData(
        statistics=_batches(statistics),
        search=_batches(search),
        heldout=_batches(heldout),
        sha256=hashlib.sha256(
            "".join(_sha(part) for part in (statistics, search, heldout)).encode()
        ).hexdigest(),
        origin=plan.calibration or "the default text of the package",
    )


def _spread(rows: Sequence[Row], count: int | None) -> list[Row]:
    """`count` of `rows`, evenly spaced: the start of a text alone would not stand for it."""
    if count is None or count >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // count] for i in range(count)]


def _batches(rows: Sequence[Row]) -> tuple[Batch, ...]:
    """Batches of about 1024 tokens, sorted by length so that little is padded."""
    mappings = [row for row in rows if isinstance(row, dict)]
    if mappings:
        groups = [mappings[i : i + 8] for i in range(0, len(mappings), 8)]
        return tuple(
            {name: torch.stack([row[name] for row in group]) for name in mappings[0]}
            for group in groups
        )
    tensors = sorted((row for row in rows if isinstance(row, Tensor)), key=len)
    batches: list[Batch] = []
    start = 0
    while start < len(tensors):
        stop = start + 1
        while stop < len(tensors) and len(tensors[stop]) * (stop + 1 - start) <= _TOKENS_PER_BATCH:
            stop += 1
        batches.append(_pad(tensors[start:stop]))
        start = stop
    return tuple(batches)


def _pad(rows: Sequence[Tensor]) -> Batch:
    width = len(rows[-1])
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return {"input_ids": ids, MASK: mask}
