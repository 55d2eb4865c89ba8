"""The matrix of architectures, dtypes and ways to load: bit-equal, or a loud failure."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from autotune.compress.checkpoint import save_checkpoint
from autotune.compress.lowrank import replace_modules
from autotune.compress.sites import find_sites
from autotune.devices.specs import TORCH_NAMES
from autotune.types import Workload
from tests.conftest import random_layers, tiny_model, tiny_task

KINDS = ("bert", "gpt2", "llama", "qwen2", "vit", "clip")
DTYPES = ("fp32", "bf16")
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
    for kind in KINDS:
        for dtype in DTYPES:
            dense, task = tiny_model(kind), tiny_task(kind)
            dense.save_pretrained(base / "dense")
            # As a user loads it: `.to(bfloat16)` would also round the buffers of positions.
            model = type(dense).from_pretrained(base / "dense", dtype=TORCH_NAMES[dtype]).eval()
            replace_modules(model, random_layers(model, find_sites(model).sites, 8))
            folder = base / f"{kind}-{dtype}"
            save_checkpoint(model, None, folder, dtype=dtype)
            inputs = task.example_inputs(model, Workload(batch_size=2, sequence_length=9))
            inputs = {k: v.to(model.dtype) if v.is_floating_point() else v
                      for k, v in inputs.items()}  # fmt: skip
            save_file(inputs, folder.with_suffix(".in"))
            save_file(outputs(model, inputs), folder.with_suffix(".out"))
            folders[kind, dtype] = folder, inputs
    return folders


def stranger(saved, tmp_path, trust):
    cells = [(str(folder), AUTO[kind]) for (kind, _), (folder, _) in saved.items()]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, json.dumps(trust), json.dumps(cells)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    says = json.loads(done.stdout.splitlines()[-1])
    assert len(says) == len(KINDS) * len(DTYPES)
    return says


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_with_the_plug_in_outputs_are_bit_equal(saved, kind, dtype):
    import transformers

    folder, inputs = saved[kind, dtype]
    model = getattr(transformers, AUTO[kind]).from_pretrained(folder).eval()
    expected = outputs(model, inputs)
    assert expected
    from safetensors.torch import load_file

    stored = load_file(folder.with_suffix(".out"))
    assert expected.keys() == stored.keys()
    assert all(torch.equal(expected[name], stored[name]) for name in stored)


def test_with_the_code_of_the_folder_alone_outputs_are_bit_equal(saved, tmp_path):
    says = stranger(saved, tmp_path, True)
    assert {k: v for k, v in says.items() if v != "equal"} == {}


def test_with_neither_stock_transformers_fails_loudly(saved, tmp_path):
    says = stranger(saved, tmp_path, False)
    assert all(text.startswith("RuntimeError") and "mismatch" in text for text in says.values()), (
        says
    )
