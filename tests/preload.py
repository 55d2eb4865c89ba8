"""All that a command may import, for the process that commands are forked from (commands.py)."""

import contextlib
import importlib
import pkgutil

import autotune

LIBRARIES = (
    "matplotlib.backends.backend_svg",
    "onnxruntime",
    "optuna",
    "pytest",
    "sklearn.ensemble",
    "torch.onnx._internal.exporter._core",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
)

for name in LIBRARIES:
    importlib.import_module(name)
for module in pkgutil.walk_packages(autotune.__path__, "autotune."):
    if not module.name.endswith("__main__"):
        with contextlib.suppress(ImportError):  # what only a GPU host has, such as TensorRT
            importlib.import_module(module.name)
