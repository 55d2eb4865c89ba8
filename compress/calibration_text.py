"""Calibration text as rows of token ids: windows for language models, else a row a document."""

from __future__ import annotations

import random
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotune.compress.loading import LoadedModel
from autotune.compress.sentence import SentenceModel, read_sentence_model
from autotune.compress.tasks import make_task
from autotune.compress.tasks.base import MASK
from autotune.core.errors import CalibrationError, foreign_code, option_name
from autotune.core.types import Workload

MIN_SEQUENCES = 8
_MASKED_SHARE = 0.15
_TEXT_INPUTS = frozenset({"input_ids", MASK})


def text_rows(
    loaded: LoadedModel, path: str | None, *, workload: Workload, seed: int = 0
) -> list[Tensor]:
    """Token ids of the text at `path` (None is the default text), a row for each sequence.

    Windows have the length of the workload, and at least two tokens, as the first predicts none.
    Documents are cut to it, and keep at least one token beside the special ones. `seed` chooses the
    tokens that a masked language model has to predict.

    Raises:
        ModelError: the tokenizer fails, as with a damaged configuration.
        CalibrationError: unreadable, too little text, a model that text alone cannot feed, or a
            tokenizer with tokens that the model has no embedding for.
    """
    tokenizer: Any = loaded.tokenizer
    _check_reads_text(loaded)
    text = _read_text(path)
    damaged = f"the tokenizer of {loaded.name} cannot read the text: <why>; its files are damaged"
    if loaded.kind.reads_windows:
        length = window_length(workload)
        with foreign_code(damaged):
            ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.long)
        rows = [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]
        found = f"{len(ids)} token{'' if len(ids) == 1 else 's'}"
        kind = f"windows of {length} tokens"
    else:
        with foreign_code(damaged):
            rows = _documents(loaded, text, workload=workload)
        found = f"{sum(map(len, rows))} tokens in {len(rows)} documents"
        kind = "documents"
    if len(rows) < MIN_SEQUENCES:
        raise CalibrationError(
            f"calibration text {path or '(default)'} has {found}, which is {len(rows)} {kind}; "
            f"at least {MIN_SEQUENCES} are needed: give more text or a shorter sequence"
        )
    _check_vocabulary(loaded, rows)
    if loaded.kind.masks_tokens:
        return [_masked(tokenizer, row, seed=seed + i) for i, row in enumerate(rows)]
    return rows


def window_length(workload: Workload) -> int:
    """Tokens of a window; the first of them is not predicted."""
    return max(2, workload.sequence_length)


def _documents(loaded: LoadedModel, text: str, *, workload: Workload) -> list[Tensor]:
    """A row for each distinct line, as sentence-transformers or a plain call tokenizes it."""
    tokenizer: Any = loaded.tokenizer
    sentence = read_sentence_model(loaded.folder) or SentenceModel()
    if sentence.lower_case:
        text = text.lower()
    lines = dict.fromkeys(line for line in text.splitlines() if line.strip())
    if not lines:
        return []
    documents = [sentence.prompt + line for line in lines]
    limits = (workload.sequence_length, sentence.max_tokens, tokenizer.model_max_length)
    length = min(int(limit) for limit in limits if limit is not None)
    length = max(length, tokenizer.num_special_tokens_to_add() + 1)
    encoded = tokenizer(documents, truncation=True, max_length=length)["input_ids"]
    return [torch.tensor(ids, dtype=torch.long) for ids in encoded if ids]


def _masked(tokenizer: Any, row: Tensor, *, seed: int) -> Tensor:
    """The row with the mask token in the place of 15 % of its tokens, at least one."""
    special = set(tokenizer.all_special_ids)
    places = [i for i, token in enumerate(row.tolist()) if token not in special]
    count = max(1, round(_MASKED_SHARE * len(places)))
    chosen = random.Random(seed).sample(places, min(count, len(places)))
    masked = row.clone()
    masked[chosen] = tokenizer.mask_token_id
    return masked


def _check_reads_text(loaded: LoadedModel) -> None:
    """Refuse a model without a tokenizer of words, or with inputs besides text."""
    shape = Workload(batch_size=1, sequence_length=2)
    inputs = make_task(loaded.task, loaded.folder).example_inputs(loaded.model, shape)
    others = sorted(set(inputs) - _TEXT_INPUTS)
    if others:
        why = f"takes {' and '.join(others)}"
    elif loaded.tokenizer is None:
        why = "has no tokenizer"
    elif not _has_words(loaded.tokenizer):
        why = f"has a tokenizer without a vocabulary (its files are not all in {loaded.folder})"
    else:
        return
    raise CalibrationError(
        f"{loaded.name} {why}, so text cannot calibrate it; set "
        f"{option_name('calibration.calibration')} to a .safetensors file of its input tensors, "
        f"{', '.join(sorted(inputs))} (first dimension = samples)"
    )


def _has_words(tokenizer: Any) -> bool:
    """Whether it has more than special tokens, all that is left where its vocabulary is missing."""
    return not set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens)


def _check_vocabulary(loaded: LoadedModel, rows: list[Tensor]) -> None:
    """Refuse token ids that the model has no embedding for."""
    tokenizer: Any = loaded.tokenizer
    size = embedding_size(loaded)
    largest = max(int(row.max()) for row in rows)
    if size is not None and largest >= size:
        raise CalibrationError(
            f"the tokenizer of {loaded.name} has {len(tokenizer)} tokens and the model's "
            f"embedding {size}, and the text has token {largest}; use the tokenizer that the model "
            "was trained with, or resize the embedding with resize_token_embeddings"
        )


def embedding_size(loaded: LoadedModel) -> int | None:
    """Rows of the model's token embedding; None where it has no such table."""
    try:
        table: Any = loaded.model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        table = None
    found: int | None = getattr(table, "num_embeddings", None)
    return found


def _read_text(path: str | None) -> str:
    if path is None:
        return (files("autotune") / "data" / "default_text.txt").read_text(encoding="utf-8")
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CalibrationError(
            f"calibration file {path} cannot be read: {why}; give a text file with one document "
            "per line, or a .safetensors file of input tensors"
        ) from error
