"""Kinds of damage to a file, and a tiny model whose tuning takes seconds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.conftest import LLAMA


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :] if data else b"\x10"


def _zeros(data: bytes) -> bytes:
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "other": lambda data: b'{"x": 1}',
    "null": lambda data: b"null",
    "bit": _flip,
    "nan": lambda data: re.sub(rb":-?\d+(\.\d+)?(e-?\d+)?", b":NaN", data, count=1),
    "zeros": _zeros,
}


def save_model(folder: Path, *, width: int = 64, positions: int = 64) -> None:
    """A tiny random Llama with a real tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2}
    vocabulary = transformers.AutoConfig.from_pretrained(
        LLAMA, trust_remote_code=False, attn_implementation=None
    ).vocab_size
    config = transformers.LlamaConfig(
        **sizes,
        vocab_size=vocabulary,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(LLAMA / name, folder / name)
