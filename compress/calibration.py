"""Calibration data: text or tensors, split once into three parts that never overlap.

`statistics` feeds the Gram matrices, `search` is the fixed batch that the search looks at, and
`heldout` is only ever used to report quality.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.calibration_tensors import tensor_rows
from autotune.compress.calibration_text import MIN_SEQUENCES, text_rows, window_length
from autotune.compress.loading import LoadedModel
from autotune.compress.tasks.base import MASK, Batch
from autotune.core.errors import CalibrationError
from autotune.core.types import Workload

_TOKENS_PER_BATCH = 1024
# Sizes for language models unless the plan says otherwise: (statistics, search, held-out).
_DEFAULT_TOKENS = (32768, 8192, 131072)


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
        CalibrationError: no such file, wrong kind, too little data, or data that the model does not
            take.
    """
    sizes: tuple[int, ...] = loaded.kind.default_samples
    if loaded.kind.reads_windows:
        length = window_length(workload)
        sizes = tuple(max(MIN_SEQUENCES, tokens // length) for tokens in _DEFAULT_TOKENS)
    plan = replace(
        plan,
        statistics_samples=plan.statistics_samples or sizes[0],
        search_samples=plan.search_samples or sizes[1],
        heldout_samples=plan.heldout_samples or (None if plan.evaluation else sizes[2]),
    )

    def read(path: str | None) -> Sequence[Row]:
        if path is not None and path.endswith(".safetensors"):
            return tensor_rows(loaded, Path(path).expanduser())
        return text_rows(loaded, path, workload=workload, seed=plan.seed or 0)

    tensors = (plan.calibration or "").endswith(".safetensors")
    return _pack(
        plan,
        read(plan.calibration),
        held=read(plan.evaluation) if plan.evaluation else None,
        padding=Padding.of(loaded),
        shuffle=tensors or not loaded.kind.reads_windows,
    )


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How the sequences of a batch become equally long: which token is added, and on which side."""

    token: int = 0
    left: bool = False

    @staticmethod
    def of(loaded: LoadedModel) -> Padding:
        """The model's own padding token, else the tokenizer's, on the tokenizer's side."""
        config: Any = loaded.config.get_text_config()
        tokens = (
            getattr(config, "pad_token_id", None),
            getattr(loaded.tokenizer, "pad_token_id", None),
        )
        token = next((each for each in tokens if each is not None and each >= 0), 0)
        return Padding(
            token=token, left=getattr(loaded.tokenizer, "padding_side", "right") == "left"
        )

    def pad(self, rows: Sequence[Tensor]) -> Batch:
        """One batch of `rows`, with a mask of what is no padding."""
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.token, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if self.left else slice(len(row))
            ids[i, place] = row
            mask[i, place] = 1
        return {"input_ids": ids, MASK: mask}


Row = Tensor | dict[str, Tensor]


def _sha(rows: Sequence[Row]) -> str:
    sha = hashlib.sha256()
    for row in rows:
        for name, tensor in sorted(row.items()) if isinstance(row, dict) else [("", row)]:
            sha.update(name.encode() + str((tensor.dtype, tuple(tensor.shape))).encode())
            sha.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _pack(
    plan: CalibrationPlan,
    rows: Sequence[Row],
    *,
    held: Sequence[Row] | None,
    padding: Padding,
    shuffle: bool,
) -> CalibrationData:
    """Split rows 70 / 10 / 20 (80 / 20 with a held-out file), shuffled where order is chance."""
    order = list(range(len(rows)))
    if shuffle:
        random.Random(plan.seed or 0).shuffle(order)
    ordered = [rows[i] for i in order]
    if held is None:
        cut = max(2, len(ordered) // 5)  # one alone would not show a constant output
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
    parts = (statistics, search, heldout)
    hashes = (*map(_sha, parts), _padding_key(padding, [row for part in parts for row in part]))
    return CalibrationData(
        statistics=_batches(statistics, padding),
        search=_batches(search, padding),
        heldout=_batches(heldout, padding),
        sha256=hashlib.sha256("".join(hashes).encode()).hexdigest(),
        origin=plan.calibration or "the default text of the package",
    )


def _padding_key(padding: Padding, rows: Sequence[Row]) -> str:
    """What the padding of `rows` adds to the hash: none where it is zeros on the right, as ever."""
    lengths = {len(row) for row in rows if isinstance(row, Tensor)}
    return "" if padding == Padding() or len(lengths) < 2 else repr(padding)


def _spread(rows: Sequence[Row], count: int | None) -> list[Row]:
    """`count` of `rows`, evenly spaced: the start of a text alone would not stand for it."""
    if count is None or count >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // count] for i in range(count)]


def _batches(rows: Sequence[Row], padding: Padding) -> tuple[Batch, ...]:
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
        batches.append(padding.pad(tensors[start:stop]))
        start = stop
    return tuple(batches)
