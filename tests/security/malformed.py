"""Model folders that a user or a client of the service may give, each malformed in its own way."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.conftest import LLAMA

Change = Callable[[Path], None]
CONFIG, TOKENIZER, INDEX = "config.json", "tokenizer_config.json", "model.safetensors.index.json"
MODEL = "model.safetensors"
EVIL = "import pathlib\npathlib.Path(__file__).with_name('PWNED').write_text('x')\n"


def keys(name: str, **values: Any) -> Change:
    """Other values of some keys of a JSON document."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def config(**values: Any) -> Change:
    return keys(CONFIG, **values)


def file(name: str, content: str | bytes | None) -> Change:
    """Another content of a file; None removes it."""

    def change(folder: Path) -> None:
        path = folder / name
        if content is None:
            path.unlink()
            return
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def cut(name: str) -> Change:
    """The first half of a file."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return change


def weights(convert: Callable[[str, torch.Tensor], torch.Tensor]) -> Change:
    """Other weights."""

    def change(folder: Path) -> None:
        found = load_file(folder / MODEL)
        save_file({k: convert(k, v) for k, v in found.items()}, folder / MODEL, {"format": "pt"})

    return change


def with_infinite(value: float) -> Change:
    def convert(name: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return weights(convert)


def fp8(folder: Path) -> None:
    """As checkpoints in FP8 are published: scales beside, and a quantization_config."""
    weights(lambda _, t: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t)(folder)
    config(quantization_config={"quant_method": "fp8"})(folder)


def unquantized_fp8(folder: Path) -> None:
    weights(lambda _, t: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t)(folder)


def code(name: str, **values: Any) -> Change:
    return both(keys(name, **values), file("evil.py", EVIL))


def index(text: str) -> Change:
    return file(INDEX, text)


def make(folder: Path, change: Change) -> Path:
    """The small model of the tests with one change."""
    shutil.copytree(LLAMA, folder, ignore=shutil.ignore_patterns("heldout.txt"))
    change(folder)
    return folder


NAN = math.nan
_SHAPES = {"null": "null", "list": "[]", "text": '"x"', "number": "7", "nan": "NaN", "cut": "{"}
_LATIN = b'{"a": "\xff"}'
_DEEP = "[" * 100_000

# What ends in a sentence and exit code 2.
REFUSED: dict[str, Change] = {
    **{f"config is {k}": file(CONFIG, v) for k, v in _SHAPES.items()},
    **{f"tokenizer_config is {k}": file(TOKENIZER, v) for k, v in _SHAPES.items()},
    **{f"tokenizer is {k}": file("tokenizer.json", v) for k, v in _SHAPES.items()},
    **{f"generation_config is {k}": file("generation_config.json", v) for k, v in _SHAPES.items()},
    **{f"index is {k}": index(v) for k, v in _SHAPES.items()},
    **{
        f"special_tokens_map is {k}": file("special_tokens_map.json", v) for k, v in _SHAPES.items()
    },
    **{f"modules is {k}": file("modules.json", v) for k, v in _SHAPES.items() if k != "list"},
    **{f"pooling is {k}": file("1_Pooling/config.json", v) for k, v in _SHAPES.items()},
    "config is no UTF-8": file(CONFIG, _LATIN),
    "config is nested deeply": file(CONFIG, _DEEP),
    "config is empty": file(CONFIG, ""),
    "config has no model type": file(CONFIG, "{}"),
    "config is cut": cut(CONFIG),
    "tokenizer is empty": file("tokenizer.json", "{}"),
    "tokenizer is cut": cut("tokenizer.json"),
    "model type is a path": config(model_type="../../x", architectures=None),
    "model type is a list": config(model_type=["llama"]),
    "model type is a number": config(model_type=7),
    "no heads": config(num_attention_heads=0),
    "no key-value heads": config(num_key_value_heads=0),
    "heads do not divide": config(num_attention_heads=7),
    "layers are text": config(num_hidden_layers="4"),
    "layers are negative": config(num_hidden_layers=-1),
    "no layers": config(num_hidden_layers=0),
    "a million layers": config(num_hidden_layers=10**6),
    "features are a fraction": config(hidden_size=256.5),
    "features are null": config(hidden_size=None),
    "a million features": config(hidden_size=10**6),
    "a huge vocabulary": config(vocab_size=10**9),
    "the vocabulary is text": config(vocab_size="2048"),
    "the vocabulary is negative": config(vocab_size=-5),
    "unknown activation": config(hidden_act="os.system"),
    "activation is a number": config(hidden_act=3),
    "unknown rope": config(rope_parameters={"rope_type": "nosuch"}),
    "rope is a list": config(rope_parameters=[1]),
    "rope is text": config(rope_parameters="x"),
    "rope is NaN": config(rope_parameters={"rope_theta": NAN, "rope_type": "default"}),
    "rope is null": config(rope_parameters={"rope_theta": None, "rope_type": "default"}),
    "eps is NaN": config(rms_norm_eps=NAN),
    "eps is text": config(rms_norm_eps="x"),
    "eps is null": config(rms_norm_eps=None),
    "eps is negative": config(rms_norm_eps=-1e9),
    "architectures hold null": config(architectures=[None]),
    "architectures are text": config(architectures="x"),
    "architectures are a number": config(architectures=5),
    "labels are malformed": config(id2label={"a": "b"}),
    "labels are a list": config(id2label=[1]),
    "dtype is unknown": config(dtype="nonsense"),
    "quantized": config(quantization_config={"quant_method": "gptq", "bits": 4}),
    "quantization is text": config(quantization_config="x"),
    "quantization is a list": config(quantization_config=[1]),
    "factorized already": config(
        quantization_config={"quant_method": "lowrank-autotune", "layers": {}}
    ),
    "fp8": fp8,
    "fp8 without a configuration": unquantized_fp8,
    "a NaN weight": with_infinite(NAN),
    "an infinite weight": with_infinite(math.inf),
    "no weights": file(MODEL, None),
    "empty weights": file(MODEL, b""),
    "cut weights": cut(MODEL),
    "pickled weights": both(file(MODEL, None), file("pytorch_model.bin", b"\x80\x04.")),
    "weights with a huge header": file(MODEL, (2**62).to_bytes(8, "little") + b"{}"),
    "index names lists": index('{"weight_map": {"a": ["x"]}}'),
    "index names numbers": index('{"weight_map": {"a": 5}}'),
    "index leaves the folder": index('{"weight_map": {"a": "../../etc/passwd"}}'),
    "index names the parent": index('{"weight_map": {"a": ".."}}'),
    "index names nothing": index('{"weight_map": {}}'),
    "index has no map": index('{"metadata": {}}'),
    "tokenizer class is a number": keys(TOKENIZER, tokenizer_class=7),
    "modules hold numbers": file("modules.json", '[{"path": 5}, 7]'),
    "configuration with code": code(
        CONFIG, model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"}
    ),
    "configuration with code elsewhere": config(
        model_type="evil", auto_map={"AutoConfig": "org/evil--evil.Config"}
    ),
}
# What is harmless: it is refused, or runs and leaves nothing behind but a result.
HARMLESS: dict[str, Change] = {
    "unknown class": config(architectures=["NoSuchForCausalLM"]),
    "known type with code": code(
        CONFIG, auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    ),
    "tokenizer with code": code(
        TOKENIZER, auto_map={"AutoTokenizer": ["evil.Tok", None]}, tokenizer_class="EvilTok"
    ),
    "tokenizer class of a module": keys(TOKENIZER, tokenizer_class="os.system"),
    "tokenizer files elsewhere": keys(
        TOKENIZER, fast_tokenizer_files=["../../../etc/tokenizer.4.0.json"]
    ),
    "attention of a hub": config(attn_implementation="kernels-community/flash-attn"),
    "attention of a hub, privately": config(_attn_implementation="evil/evil@main"),
    "attention that does not exist": config(attn_implementation="nosuch"),
    "experts of a hub": config(experts_implementation="evil/x"),
    "dtype is a function": config(dtype="load"),
    "weights elsewhere": config(transformers_weights="../base.safetensors"),
    "weights are a number": config(transformers_weights=5),
    "an endless context": config(max_position_embeddings=10**12),
    "generation of the wrong types": file(
        "generation_config.json", '{"max_length": "x", "temperature": NaN}'
    ),
    "an adapter": file("adapter_config.json", '{"base_model_name_or_path": "/etc"}'),
    "modules leave the folder": file("modules.json", '[{"path": "../../x"}]'),
    "a stray file of weights": file("other.safetensors", b"x"),
    "eps of zero": config(rms_norm_eps=0.0),
    "eps of 1e30": config(rms_norm_eps=1e30),
    "weights of 1e36": weights(lambda _, t: t * 1e36),
    "weights of integers": weights(lambda _, t: t.to(torch.int8)),
    "the longest text is text": keys(TOKENIZER, model_max_length="x"),
    "weights of zero": weights(lambda _, t: t * 0),
    "weights of 1e-38": weights(lambda _, t: t * 1e-38),
    "added tokens are null": file("added_tokens.json", "null"),
    "processor is a list": file("preprocessor_config.json", "[]"),
    "a tied embedding is untied": config(tie_word_embeddings="x"),
    "special tokens are far away": config(bos_token_id=10**9, eos_token_id=-7, pad_token_id=10**9),
}
FOLDERS = {**REFUSED, **HARMLESS}
