"""The code that travels in a checkpoint, for `trust_remote_code=True` where nothing of ours is.

It is this package's own: the modules that the plug-in needs, joined to one file, and a class of
transformers' name for each of its auto-classes. Without that permission transformers runs none
of it, and meets a size mismatch (plugin.py).
"""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from autotune.compress import (
    integer_layers,
    integer_weights,
    lowrank,
    pivoted_layers,
    plugin,
    storage,
    storage_layouts,
)
from autotune.core import errors, forms
from autotune.core.version import __version__

AUTO_MAP_FILE = "modeling_lowrank.py"
# Each needs only those before it.
_MODULES = (
    errors,
    forms,
    storage_layouts,
    lowrank,
    pivoted_layers,
    integer_weights,
    integer_layers,
    storage,
    plugin,
)


def auto_classes(config: type[PretrainedConfig]) -> dict[str, str]:
    """`auto_map` of config.json: auto-class → class in the file."""
    module = AUTO_MAP_FILE.removesuffix(".py")
    return {auto: f"{module}.{name}" for auto, name in _classes(config).items()}


def remote_code(config: type[PretrainedConfig]) -> str:
    """The file's text, for models of this kind of configuration."""
    parts = [
        f'"""Loads low-rank layers; written by lowrank-autotune {__version__} (Apache-2.0)."""',
        "from __future__ import annotations",
        *(_without_own_imports(module) for module in _MODULES),
        "import transformers",
    ]
    for name in sorted(set(_classes(config).values())):
        parts.append(f"class {name}(transformers.{name}):\n    pass")
    return "\n\n\n".join(parts) + "\n"


def _classes(config: type[PretrainedConfig]) -> dict[str, str]:
    """The class that each auto-class makes of this configuration."""
    found: dict[str, str] = {}
    for name, auto in vars(modeling_auto).items():
        if inspect.isclass(auto) and issubclass(auto, _BaseAutoModelClass):
            mapping = getattr(auto, "_model_mapping", None)
            if name.startswith("AutoModel") and mapping is not None and config in mapping:
                kinds = mapping[config]
                found[name] = (kinds[0] if isinstance(kinds, tuple) else kinds).__name__
    return found


def _without_own_imports(module: ModuleType) -> str:
    """A module's text without its docstring and what the file has already."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        own = isinstance(node, ast.ImportFrom) and (
            node.module == "__future__" or str(node.module).partition(".")[0] == "autotune"
        )
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if own or docstring:
            end = node.end_lineno or node.lineno
            lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
    return "\n".join(lines).strip()
