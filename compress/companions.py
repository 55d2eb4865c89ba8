"""The files of a model folder, by name: what is downloaded, uploaded, copied and replaced.

Light, nothing is loaded; names are relative to the folder, with slashes.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from autotune.core.errors import ModelError
from autotune.core.files import file_sha256

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MODULES = "modules.json"
# Of the model itself: a result has its own.
_OWN = frozenset({"config.json", "generation_config.json"})
_PROCESSORS = frozenset({
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
})  # fmt: skip
_TOKENIZERS = frozenset({
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.json", "vocab.json", "vocab.txt", "merges.txt", "dict.txt", "byte_maps.json",
    "entity_vocab.json", "emoji.json",
})  # fmt: skip
# Settings of sentence-transformers, of which a folder has one: the library reads all these names.
SENTENCE_SETTINGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
_SENTENCE_TRANSFORMERS = frozenset({
    MODULES, "config_sentence_transformers.json", *SENTENCE_SETTINGS,
})  # fmt: skip
NAMES = _OWN | _PROCESSORS | _TOKENIZERS | _SENTENCE_TRANSFORMERS
# Vocabularies and templates under whatever name.
SUFFIXES = (".jinja", ".model", ".tiktoken", ".spm")
MODULE_NAMES = ("config.json", SINGLE, "vocab.txt", "tokenizer_config.json", "tokenizer.json")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MODULE = re.compile(r"[0-9]{1,3}_[A-Za-z0-9_]{1,60}")
# What a licence asks to pass on with the model.
_LEGAL = re.compile(
    r"(LICEN[CS]E|NOTICE|COPYING|COPYRIGHT|USE_POLICY)([_-][A-Za-z0-9_-]{1,40})?(\.(txt|md|rst))?",
    re.IGNORECASE,
)
LEGAL_PATTERNS = ("LICEN[CS]E*", "NOTICE*", "Notice*", "COPYING*", "COPYRIGHT*", "USE_POLICY*")
# The model card, whose header is read and which a result replaces by its own.
CARD = "README.md"
_SHARD = re.compile(r"model(-[0-9]{5}-of-[0-9]{5})?\.safetensors")
TEMPLATES = "additional_chat_templates"
# Graphs for sentence-transformers' backends; a run folder lists them where a tuning wrote them.
BACKEND_ONNX, BACKEND_IR = "onnx/model.onnx", "openvino/openvino_model.xml"
# What a tuning adds to a checkpoint.
_ADDED = frozenset({CARD, "autotune.json", "modeling_lowrank.py"})


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights that transformers loads, as a whole or a shard."""
    return _SHARD.fullmatch(name) is not None


def is_companion(name: str) -> bool:
    """Whether a file of this name belongs to a model, beside its weights and their index."""
    folder, _, plain = name.rpartition("/")
    if not _PLAIN.fullmatch(plain):
        return False
    if folder == TEMPLATES:
        return plain.endswith(".jinja")
    if folder:  # a module of sentence-transformers: pooling, normalisation, dense heads
        return _MODULE.fullmatch(folder) is not None and plain in MODULE_NAMES
    return plain in NAMES or plain.endswith(SUFFIXES) or _LEGAL.fullmatch(plain) is not None


def is_checkpoint_file(name: str) -> bool:
    """Whether a tuning may have written a file of this name into its checkpoint."""
    return is_companion(name) or is_weights(name) or name == INDEX or name in _ADDED


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what belongs to the model in `source` and `folder` lacks; pickled weights stay behind.

    Raises:
        ModelError: `modules.json` is not what sentence-transformers writes.
    """
    for name in _companions(source):
        if name not in _OWN and not (folder / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)


def companion_hashes(source: Path) -> dict[str, str]:
    """sha256 by name of all that belongs to the model in `source`, beside its weights.

    Raises:
        ModelError: `modules.json` is not what sentence-transformers writes.
    """
    return {name: file_sha256(source / name) for name in _companions(source)}


def _companions(source: Path) -> list[str]:
    names = {path.name for path in source.iterdir() if is_companion(path.name)}
    names |= {f"{TEMPLATES}/{path.name}" for path in (source / TEMPLATES).glob("*.jinja")}
    for module in module_folders(source):
        names |= {f"{module}/{name}" for name in MODULE_NAMES}
    return sorted(name for name in names if (source / name).is_file())


def module_folders(source: Path) -> list[str]:
    """The folders of sentence-transformers' modules: pooling, normalisation, dense heads.

    Raises:
        ModelError: `modules.json` is not what sentence-transformers writes.
    """
    path = source / MODULES
    if not path.is_file():
        return []
    try:
        names = list(_paths(json.loads(path.read_bytes())))
    except (ValueError, RecursionError, TypeError) as error:
        raise ModelError(f"{path} is not a list of sentence-transformers' modules") from error
    return [name for name in names if name and Path(name).name == name and name != ".."]


def _paths(modules: object) -> Iterator[str]:
    """The folder of each module.

    Raises:
        TypeError: another form.
    """
    if not isinstance(modules, list):
        raise TypeError("no list")
    for module in modules:
        path = module.get("path", "") if isinstance(module, dict) else None
        if not isinstance(path, str):
            raise TypeError("no path")
        yield path
