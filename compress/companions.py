"""Files beside a model's weights that other libraries read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

_PROCESSORS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
_SENTENCE = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
_SUFFIXES = (".json", ".safetensors", ".txt")


def copy_companions(source: Path, folder: Path) -> None:
    """Copy processors' and sentence-transformers' files; pickled weights stay behind."""
    for name in (*_PROCESSORS, *_SENTENCE):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    for name in _module_folders(source):
        (folder / name).mkdir(exist_ok=True)
        for file in sorted((source / name).glob("*")):
            if file.suffix in _SUFFIXES:
                shutil.copyfile(file, folder / name / file.name)


def _module_folders(source: Path) -> list[str]:
    """The folders of sentence-transformers' modules: pooling, normalisation, dense heads."""
    path = source / "modules.json"
    modules = json.loads(path.read_text()) if path.is_file() else []
    names = [str(module.get("path", "")) for module in modules]
    return [name for name in names if name and Path(name).name == name]
