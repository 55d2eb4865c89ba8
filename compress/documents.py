"""The JSON documents of a model folder, checked before transformers reads them.

transformers trusts these files, and a wrong shape ends in whatever Python raises deep inside of it.
What is known of them is checked here; everything else that it raises while it reads a folder
becomes one sentence by `reading`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autotune.compress.companions import SENTENCE_SETTINGS
from autotune.core.errors import AutotuneError, ModelError, memory_refusal
from autotune.core.text import first_line

CONFIG = "config.json"
_OBJECTS = (
    CONFIG,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    *SENTENCE_SETTINGS,
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
_MODULES = "modules.json"
_AGAIN = "repair it, or save the model again with save_pretrained"
# Far more than any model has; transformers builds as many layers as it is told.
_MOST_LAYERS = 10_000


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a library raises while it reads a model's files into one sentence.

    Raises:
        ModelError: `what` cannot be read, with the first line of the reason.
    """
    try:
        yield
    except (AutotuneError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        if memory_refusal(error) is not None:
            raise
        why = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"{what} ({why}); {_AGAIN}") from error


def check_documents(folder: Path) -> Mapping[str, Any]:
    """The content of `config.json`, after it and the documents beside it were checked.

    Raises:
        ModelError: a document that is no JSON, is not of the right shape, or holds a NaN.
    """
    config = read_object(folder / CONFIG)
    for name in _OBJECTS[1:]:
        if (folder / name).is_file():
            read_object(folder / name)
    if (folder / _MODULES).is_file():
        _check_modules(folder / _MODULES)
    _check_config(folder / CONFIG, config)
    return config


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model folder.

    Raises:
        ModelError: the file cannot be read, or holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ModelError(f"{path} must hold a JSON object, not {_shown(found)}; {_AGAIN}")
    return found


def read_json(path: Path) -> Any:
    """The JSON value in a file of a model folder.

    Raises:
        ModelError: the file cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON ({first_line(error)}); {_AGAIN}") from error


def _check_modules(path: Path) -> None:
    modules = read_json(path)
    whole = isinstance(modules, list) and all(
        isinstance(each, dict) and isinstance(each.get("path", ""), str) for each in modules
    )
    if not whole:
        raise ModelError(
            f"{path} must hold a JSON list of modules with their paths, not {_shown(modules)}; "
            f"{_AGAIN}"
        )


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    where = _nan_in(config)
    if where:
        raise ModelError(f"{path} holds NaN in {where}; {_AGAIN}")
    model_type = config.get("model_type")
    if model_type is not None and not isinstance(model_type, str):
        raise _wrong(path, "model_type", allowed="text", value=model_type)
    architectures = config.get("architectures")
    listed = isinstance(architectures, list) and all(isinstance(a, str) for a in architectures)
    if architectures is not None and not listed:
        raise _wrong(path, "architectures", allowed="a list of names", value=architectures)
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > _MOST_LAYERS:
        raise _wrong(path, "num_hidden_layers", allowed=f"{_MOST_LAYERS:,} at most", value=layers)
    quantization = config.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise _wrong(path, "quantization_config", allowed="an object", value=quantization)


def _wrong(path: Path, key: str, *, allowed: str, value: Any) -> ModelError:
    return ModelError(f"{path}: {key} must be {allowed}, got {_shown(value)}; {_AGAIN}")


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]


def _nan_in(value: Any, where: str = "") -> str:
    """The place of the first NaN in a JSON value, such as `rope_parameters.rope_theta`."""
    if isinstance(value, dict):
        places = (_nan_in(v, f"{where}.{key}".lstrip(".")) for key, v in value.items())
        return next(filter(None, places), "")
    if isinstance(value, list):
        return next(filter(None, (_nan_in(v, f"{where}[{i}]") for i, v in enumerate(value))), "")
    return where if isinstance(value, float) and math.isnan(value) else ""
