"""All that a command may import, for the process that commands are forked from (commands.py)."""

import contextlib
import importlib
import pkgutil

import autotune
from tests import flushing

LIBRARIES = (
    "matplotlib.backends.backend_svg",
    "networkx",
    "onnxruntime",
    "onnxscript.function_libs.torch_lib.ops",
    "onnxscript.rewriter.onnx_fusions",
    "optuna",
    "pytest",
    "sklearn.ensemble",
    "sympy.tensor.tensor",
    "torch._export.non_strict_utils",
    "torch._functorch.aot_autograd",
    "torch.export._trace",
    "torch.onnx._internal.exporter._core",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
)

flushing.do_without()
for name in LIBRARIES:
    importlib.import_module(name)
for module in pkgutil.walk_packages(autotune.__path__, "autotune."):
    if not module.name.endswith("__main__"):
        with contextlib.suppress(ImportError):  # what only a GPU host has, such as TensorRT
            importlib.import_module(module.name)
