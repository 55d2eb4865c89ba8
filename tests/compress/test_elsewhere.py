"""The matrix of architectures, forms and ways to load: bit-equal, or a loud failure."""

import ast
import inspect
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from autotune.compress.checkpoint import save_checkpoint
from autotune.compress.lowrank import replace_modules, shared_low_rank_like
from autotune.compress.pivoting import pivoted_like
from autotune.compress.remote_code import _MODULES
from autotune.compress.sites import find_sites
from autotune.core.types import Workload
from autotune.devices.specs import TORCH_NAMES
from tests.conftest import random_layers, tiny_model, tiny_task
from tests.integer_forms import random_integer_layers

KINDS = ("bert", "gpt2", "llama", "qwen2", "vit", "clip")
DTYPES = ("fp32", "bf16")
STORED = ("fp16", "remap8")
ROUNDED = ("int8-static", "int8-dynamic", "int8-weight-only", "int4-weight-only")
# A down factor that q, k and v share, plain or pivoted as all others are then, and factors stored
# in fewer bits.
FORMS = [(kind, form) for kind in ("bert", "llama") for form in ("joint", "pivoted", *STORED)]
FORMS += [(kind, form) for kind in ("bert", "gpt2", "llama") for form in ROUNDED]
JOINT = {"joint": shared_low_rank_like, "pivoted": pivoted_like}
CELLS = [*((kind, dtype) for kind in KINDS for dtype in DTYPES), *FORMS]
AUTO = {
    name: "AutoModelForCausalLM" if name in ("gpt2", "llama", "qwen2") else "AutoModel"
    for name in KINDS
}

# What a stranger runs: nothing of this package can be imported.
STRANGER = """
import json, sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "autotune":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import torch, transformers
from safetensors.torch import load_file
trust = json.loads(sys.argv[1])
says = {}
for folder, auto in json.loads(sys.argv[2]):
    try:
        kind = getattr(transformers, auto)
        model = kind.from_pretrained(folder, trust_remote_code=trust).eval()
        inputs = load_file(Path(folder).with_suffix(".in"))
        expected = load_file(Path(folder).with_suffix(".out"))
        with torch.no_grad():
            found = model(**inputs)
        apart = [n for n, tensor in expected.items() if not torch.equal(found[n], tensor)]
        says[folder] = f"differs in {apart}" if apart else "equal"
    except Exception as error:
        says[folder] = f"{type(error).__name__}: {error}"
print(json.dumps(says))
"""


def outputs(model, inputs):
    with torch.no_grad():
        found = model(**inputs)
    return {k: v.contiguous() for k, v in found.items() if isinstance(v, torch.Tensor)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Every cell's folder, with inputs and the outputs of the model that was saved beside it."""
    base = tmp_path_factory.mktemp("matrix")
    folders = {}
    for kind, form in CELLS:
        dtype = form if form in DTYPES else "fp32"
        dense, task = tiny_model(kind), tiny_task(kind)
        dense.save_pretrained(base / "dense")
        # As a user loads it: `.to(bfloat16)` would also round the buffers of positions.
        model = type(dense).from_pretrained(base / "dense", dtype=TORCH_NAMES[dtype]).eval()
        structures = ["pivoted" if form == "pivoted" else "plain"]
        sites = find_sites(model).sites
        if form in ROUNDED:
            layers = random_integer_layers(model, sites, form)
        else:
            layers = random_layers(model, sites, 8, structures=structures)
        if form in JOINT:
            layers |= joint_layers(kind, model, like=JOINT[form])
        replace_modules(model, layers)
        folder = base / f"{kind}-{form}"
        inputs = task.example_inputs(model, Workload(batch_size=2, sequence_length=9))
        inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        storage = form if form in STORED else "fp32"
        save_checkpoint(model, None, folder=folder, storage=storage, dtype=dtype)
        expected = outputs(model, inputs)
        if storage != "fp32":  # rounded by what is stored, and no further
            stored = outputs(type(dense).from_pretrained(folder).eval(), inputs)
            name = next(iter(expected))
            apart = (stored[name] - expected[name]).abs().max()
            assert 0 < apart < 0.05 * expected[name].abs().max()
            expected = stored
        save_file(inputs, folder.with_suffix(".in"))
        save_file(expected, folder.with_suffix(".out"))
        folders[kind, form] = folder, inputs
    return folders


def joint_layers(kind, model, *, like):
    """The first block's q, k and v with one down factor."""
    block = {"bert": "encoder.layer.0.attention.self.{}", "llama": "model.layers.0.self_attn.{}"}
    leaves = {"bert": ("query", "key", "value"), "llama": ("q_proj", "k_proj", "v_proj")}
    names = [block[kind].format(leaf) for leaf in leaves[kind]]
    modules = [model.get_submodule(name) for name in names]
    ups = [torch.randn(module.out_features, 8) * 0.1 for module in modules]
    down = torch.randn(8, modules[0].in_features) * 0.1
    return dict(zip(names, like(modules, ups=ups, down=down), strict=True))


def stranger(saved, tmp_path, trust):
    cells = [(str(folder), AUTO[kind]) for (kind, _), (folder, _) in saved.items()]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, json.dumps(trust), json.dumps(cells)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    says = json.loads(done.stdout.splitlines()[-1])
    assert len(says) == len(CELLS)
    return says


@pytest.mark.parametrize(("kind", "form"), CELLS)
def test_with_the_plug_in_outputs_are_bit_equal(saved, kind, form):
    import transformers

    folder, inputs = saved[kind, form]
    model = getattr(transformers, AUTO[kind]).from_pretrained(folder).eval()
    expected = outputs(model, inputs)
    assert expected
    from safetensors.torch import load_file

    stored = load_file(folder.with_suffix(".out"))
    assert expected.keys() == stored.keys()
    assert all(torch.equal(expected[name], stored[name]) for name in stored)


def test_scales_stay_in_fp32_in_a_model_that_is_loaded_in_half_precision(saved):
    import transformers

    folder, _ = saved["llama", "int8-static"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    kept = [t for n, t in model.state_dict().items() if "scale" in n or "quantizer" in n]
    assert kept
    assert {tensor.dtype for tensor in kept} == {torch.float32}


@pytest.mark.slow
def test_with_the_code_of_the_folder_alone_outputs_are_bit_equal(saved, tmp_path):
    says = stranger(saved, tmp_path, True)
    assert {k: v for k, v in says.items() if v != "equal"} == {}


@pytest.mark.slow
def test_with_neither_stock_transformers_fails_loudly(saved, tmp_path):
    says = stranger(saved, tmp_path, False)
    assert all(text.startswith("RuntimeError") and "mismatch" in text for text in says.values()), (
        says
    )


def test_no_two_modules_of_the_joined_file_use_one_name_for_different_things():
    """They become one file, where the later name would take the place of the earlier."""
    owners = {}
    for module in _MODULES:
        tree = ast.parse(inspect.getsource(module))
        for node in tree.body:
            for name in defined(node):
                assert owners.setdefault(name, module) is module, name


def defined(node):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [
        part.id
        for target in targets
        for part in (target.elts if isinstance(target, ast.Tuple) else [target])
        if isinstance(part, ast.Name)
    ]
