"""Which files hold a model's weights: what is checked and hashed is what transformers loads.

Where transformers would choose between files that may hold different weights, or take them from
elsewhere, the folder is refused instead.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from autotune.compress.companions import INDEX, SINGLE, is_weights
from autotune.core.errors import ModelError

_DISTRIBUTED = re.compile(r"shard-[0-9]{5}-model-[0-9]{5}-of-[0-9]{5}\.safetensors")
_ADAPTER = "adapter_config.json"
# Keys of config.json that make transformers read other files of the folder, or elsewhere.
_REDIRECTIONS = ("transformers_weights", "configuration_files")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from `folder`, sorted by name.

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
    config = _json(folder / "config.json")
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
    found = _json(index)
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


def _json(path: Path) -> Any:
    """A JSON value.

    Raises:
        ModelError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON ({error}); save the model again") from error
