"""Settings and fixtures of the runs on code-llama-3m."""

import shutil

import pytest

from tests.commands import flags
from tests.conftest import LLAMA
from tests.damage import save_model

BUDGET = "0.97x"
SMALL = (
    "--model",
    LLAMA,
    "--device",
    "cpu",
    "--latency-budget",
    BUDGET,
    "--batch-size",
    1,
    "--isl",
    128,
    "--calibration-samples",
    16,
    "--trials",
    2,
    "--rounds",
    2,
    "--precision",
    "native",
    "--factors",
    "plain",
    "--no-references",
    "--no-other-shapes",
    "--sensitivity-rounds",
    0,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the calibration text and one latency database for the whole module."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "text.txt").write_text((LLAMA / "heldout.txt").read_text()[:40_000])
    return folder


@pytest.fixture(scope="module")
def arguments(home):
    return (*SMALL, "--calibration", home / "text.txt", "--db", home / "latency.sqlite")


@pytest.fixture(scope="module")
def small(home):
    """A short tuning of a tiny model, for tests that need neither trained weights nor latencies.

    The plan is the solver's own: a reference point, which is handed out where it measures better,
    would depend on the machine.
    """
    save_model(home / "tiny", width=128)
    return (
        *flags(
            model=home / "tiny",
            device="cpu",
            batch_size=1,
            isl=32,
            calibration=home / "text.txt",
            db=home / "latency.sqlite",
            calibration_samples=8,
            trials=0,
            rounds=1,
            precision="native",
            factors="plain",
            sensitivity_rounds=0,
        ),
        "--no-references",
        "--no-other-shapes",
    )


@pytest.fixture(scope="module")
def wide(home):
    """Layers that a large GPU runs faster when factorized; a model of 3 M is all launches there."""
    return save_wide(home / "wide")


def save_wide(folder, *, layers=2):
    """A random Llama of layers as wide as those of real models."""
    import torch
    import transformers

    shutil.copytree(LLAMA, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    vocabulary = transformers.AutoConfig.from_pretrained(LLAMA).vocab_size
    config = transformers.LlamaConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=vocabulary,
        max_position_embeddings=512,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
