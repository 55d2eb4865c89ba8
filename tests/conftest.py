"""Shared fixtures: tiny models of several architectures, recorded measurements, a private home."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import flushing, module_times, tiers
from tests.commands import run_command
from tests.postgres import postgres_server
from tests.seeds import (
    moments,
    pytest_runtest_makereport,
    pytest_terminal_summary,
    session_seed,
)

__all__ = ["moments", "postgres_server", "pytest_runtest_makereport", "pytest_terminal_summary"]

DATA = Path(__file__).parent / "data"
LLAMA = DATA / "code-llama-3m"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Worker processes share the cores: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("AUTOTUNE_THREADS", "1")
# Tests assert what is done, not how fast: short measurements serve.
os.environ.setdefault("AUTOTUNE_MEASURE_SECONDS", "0.2")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The tier to run, and what to list at its end."""
    tiers.add_option(parser)
    module_times.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    """One tier and one seed for all worker processes."""
    flushing.do_without()
    tiers.resolve(config)
    session_seed()
    if count := config.getoption("--module-times"):
        config.pluginmanager.register(module_times.ModuleTimes(count))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: one more than cores, since tests wait for servers and children that start."""
    from autotune.devices.detect import cpu_threads

    del config
    return cpu_threads() + 1


# Last, after -m and -k have chosen: what they deselected is of no interest here.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the tier, skip GPU tests where there is no GPU, start the longest modules first."""
    from autotune.devices.detect import gpu_names

    tiers.select(config, items)
    tiers.order(items)
    if not gpu_names():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip("needs an NVIDIA GPU"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Random weights of models that fixtures make are the same in every run and order of tests."""
    del item
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def arithmetic() -> Iterator[None]:
    """What a tuning sets for its process ends with its test: here they share one.

    Sessions that are timed flush denormals to zero for their thread. Two threads of torch in every
    worker process, on as many cores, take turns in spinning: the tests take twice as long.
    """
    yield
    if "torch" in sys.modules:
        import torch

        torch.set_flush_denormal(False)
        torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fits and engines are made here, and shared by the tests of a worker."""
    os.environ["AUTOTUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def private_locks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Workers do not wait for each other: what they measure is of no use but to the test."""
    os.environ["AUTOTUNE_LOCKS"] = str(tmp_path_factory.mktemp("locks"))


@pytest.fixture(autouse=True)
def private_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's own latency database."""
    path = tmp_path / "home" / "latency.sqlite"
    monkeypatch.setenv("AUTOTUNE_DB", str(path))
    return path


@pytest.fixture(scope="session")
def cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in a process of its own."""
    return run_command


TINY = ("bert", "gpt2", "llama", "vit")


def tiny_model(kind: str, seed: int = 0, *, layers: int = 2) -> Any:
    """A small random model with real architecture: gpt2 has Conv1D, llama GQA and tied weights."""
    import torch
    import transformers as t

    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }
    text = {"vocab_size": 101, "max_position_embeddings": 64, **sizes}
    torch.manual_seed(seed)
    if kind == "bert":
        model = t.BertModel(t.BertConfig(**text))
    elif kind == "gpt2":
        config = t.GPT2Config(vocab_size=101, n_embd=64, n_layer=layers, n_head=4, n_positions=64)
        model = t.GPT2LMHeadModel(config)
    elif kind == "llama":
        config = t.LlamaConfig(**text, num_key_value_heads=2, tie_word_embeddings=True)
        model = t.LlamaForCausalLM(config)
    elif kind == "qwen2":
        config = t.Qwen2Config(**text, num_key_value_heads=2, pad_token_id=0)
        model = t.Qwen2ForCausalLM(config)
    elif kind == "vit":
        model = t.ViTModel(t.ViTConfig(**sizes, image_size=32, patch_size=8))
    else:
        ends = {"bos_token_id": 0, "eos_token_id": 1}
        vision = {**sizes, "image_size": 32, "patch_size": 8}
        config = t.CLIPConfig(text_config={**text, **ends}, vision_config=vision, projection_dim=32)
        model = t.CLIPModel(config)
    return model.eval()


def random_layers(
    model: Any, sites: Any, rank: int, *, structures: Any = ("plain",)
) -> dict[str, Any]:
    """Low-rank layers of random small factors for all `sites`, of the structures in turn."""
    import torch

    from autotune.compress.lowrank import shared_low_rank_like
    from autotune.compress.pivoting import pivoted_like

    like = {"plain": shared_low_rank_like, "pivoted": pivoted_like}
    layers = {}
    for number, site in enumerate(sites):
        module = model.get_submodule(site.name)
        up = torch.randn(site.out_features, rank) * 0.1
        down = torch.randn(rank, site.in_features) * 0.1
        make = like[structures[number % len(structures)]]
        (layers[site.name],) = make([module], ups=[up], down=down)
    return layers


def tiny_task(kind: str) -> Any:
    """The task of `tiny_model(kind)`."""
    from autotune.compress.tasks import make_task

    name = {"gpt2": "causal-lm", "llama": "causal-lm", "qwen2": "causal-lm", "clip": "image-text"}
    return make_task(name.get(kind, "embedding"), Path("/nonexistent"))


@pytest.fixture(params=TINY)
def tiny(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    """(kind, model, task), one after the other; parameters frozen as the loader does."""
    model = tiny_model(request.param)
    model.requires_grad_(False)
    return request.param, model, tiny_task(request.param)
