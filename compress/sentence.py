"""What a sentence-transformers folder says about the model in it: pooling, heads, prompt, length.

The library itself is not needed: its files are read as it reads them, and what is not computed
here in the same way is refused by name. docs/quality.md lists both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.compress.companions import SENTENCE_SETTINGS
from autotune.compress.documents import read_json, read_object
from autotune.core.errors import ModelError

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# The flags of older versions, in the order in which combined modes are concatenated.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Modules that leave the direction of an embedding as it is, and that this package computes itself.
_WITHOUT_EFFECT = ("Normalize", "Dropout")
_POOLING_FOLDER = "1_Pooling"


@dataclass(frozen=True, kw_only=True)
class SentenceModel:
    """An embedding model as sentence-transformers runs it.

    `pooling` are the modes whose results are concatenated; `includes_prompt` says whether the
    tokens of the prompt are pooled. `prompt` is put before every text, `max_tokens` is the length
    to which texts are cut (None leaves it to the tokenizer), `lower_case` lowers them first.
    `heads` are the folders of the dense layers behind the pooling, in their order.
    """

    pooling: tuple[str, ...] = ("mean",)
    includes_prompt: bool = True
    prompt: str = ""
    max_tokens: int | None = None
    lower_case: bool = False
    heads: tuple[Path, ...] = ()


def read_sentence_model(folder: Path) -> SentenceModel | None:
    """The embedding model in `folder`; None where nothing there pools.

    Raises:
        ModelError: a damaged file, an unknown pooling mode, or a module that is not computed here.
    """
    modules = sentence_modules(folder)
    kinds = [kind for kind, _ in modules]
    sparse = next((kind for kind in kinds if kind.startswith(("Splade", "Sparse"))), None)
    if sparse is not None:
        raise _unsupported(folder, sparse)
    if "Pooling" not in kinds:
        return None
    place = kinds.index("Pooling")
    for kind in kinds[:place]:
        if kind != "Transformer":
            raise _unsupported(folder, kind)
    heads = []
    for kind, path in modules[place + 1 :]:
        if kind == "Dense":
            heads.append(path)
        elif kind not in _WITHOUT_EFFECT:
            raise _unsupported(folder, kind)
    pooling = read_object(modules[place][1] / "config.json")
    found = (folder / name for name in SENTENCE_SETTINGS)
    settings = next((read_object(path) for path in found if path.is_file()), {})
    return SentenceModel(
        pooling=_modes(pooling, modules[place][1]),
        includes_prompt=bool(pooling.get("include_prompt", True)),
        prompt=_prompt(folder),
        max_tokens=_max_tokens(settings, folder),
        lower_case=bool(settings.get("do_lower_case")),
        heads=tuple(heads),
    )


def sentence_modules(folder: Path) -> list[tuple[str, Path]]:
    """Class name and folder of every module of a sentence-transformers folder, in order.

    A folder without `modules.json` but with the usual folder of a pooling counts as one that pools.

    Raises:
        ModelError: a damaged `modules.json`, or a module outside of the folder.
    """
    path = folder / "modules.json"
    if not path.is_file():
        pools = (folder / _POOLING_FOLDER / "config.json").is_file()
        return [("Pooling", folder / _POOLING_FOLDER)] if pools else []
    found: list[tuple[str, Path]] = []
    modules = read_json(path)
    for module in modules if isinstance(modules, list) else [modules]:
        kind, place = (
            (module.get("type"), module.get("path", ""))
            if isinstance(module, Mapping)
            else (None, None)
        )
        if not isinstance(kind, str) or not isinstance(place, str):
            raise ModelError(f"{path} must hold a list of modules, each with its type and path")
        if place and (Path(place).name != place or place == ".."):
            raise ModelError(f"{path} names {place!r}, which is no folder beside it")
        found.append((kind.rpartition(".")[2], folder / place))
    return found


def _modes(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The pooling modes, from `pooling_mode` (version 5.4 and newer) or from the older flags."""
    named = config.get("pooling_mode")
    if named is None:
        return tuple(mode for flag, mode in _FLAGS.items() if config.get(flag)) or ("mean",)
    modes = tuple(named) if isinstance(named, Sequence) and not isinstance(named, str) else (named,)
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown or not modes:
        raise ModelError(
            f"{path} pools by {(unknown or [named])[0]!r}, which is not supported; supported are "
            f"{', '.join(POOLING_MODES)} and combinations of them"
        )
    return modes


def _prompt(folder: Path) -> str:
    """The prompt that `encode` puts before a text unless it is given another."""
    path = folder / "config_sentence_transformers.json"
    config = read_object(path) if path.is_file() else {}
    name, prompts = config.get("default_prompt_name"), config.get("prompts") or {}
    if name is None:
        return ""
    if not isinstance(prompts, Mapping) or not isinstance(prompts.get(name), str):
        raise ModelError(f"{path} has the default prompt {name!r}, which is not among its prompts")
    return str(prompts[name])


def _max_tokens(settings: Mapping[str, Any], folder: Path) -> int | None:
    found = settings.get("max_seq_length")
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ModelError(f"max_seq_length of {folder} must be 1 or more, got {found!r}")
    return found


def _unsupported(folder: Path, kind: str) -> ModelError:
    return ModelError(
        f"{folder} has the sentence-transformers module {kind}, which is not supported; supported "
        f"are Transformer, Pooling, Dense, {', '.join(_WITHOUT_EFFECT)}. Tune a folder that holds "
        "the transformer alone"
    )


def read_head_config(folder: Path) -> Mapping[str, Any]:
    """The configuration of a dense layer behind the pooling.

    Raises:
        ModelError: a damaged file.
    """
    return read_object(folder / "config.json")
