"""Whole networks of three configurations on a GPU, dense and at uniform ranks, and the predictions.

    python benchmarks/network_configs.py --measure > LOG          # on the GPU
    python benchmarks/network_configs.py --predict LOG --device h200

Llama-3-8B, Qwen2.5-0.5B and all-MiniLM-L6-v2 with random weights, in bf16: a pass over the prompt
and, of language models, one decode step halfway through the output, in CUDA graphs; every plan is
timed by turns with the dense model. `--predict` asks `autotune.predict_model` about the same
configurations, and prints both; the last line is one JSON list.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from model_configs import LLAMA, MINILM, QWEN
from network_gpu import low_rank_layers
from torch import nn

from autotune.compress.attention_masks import drop_attention_masks
from autotune.compress.checkpoint import TimedCheckpoint
from autotune.compress.lowrank import replaced
from autotune.core.forms import Plan, low_rank
from autotune.profiler.backends.torch_cudagraph import captured
from autotune.profiler.measure.timing import TimingPolicy, time_interleaved

KEEPS = (0.9, 0.7, 0.5, 0.3)
CONFIGS = {"llama-3-8b": LLAMA, "qwen2.5-0.5b": QWEN, "all-minilm-l6-v2": MINILM}
# Sequences, tokens of the prompt, tokens of the output.
WORKLOADS = {
    "llama-3-8b": ((1, 512, 128), (8, 512, 128), (4, 2048, 128)),
    "qwen2.5-0.5b": ((1, 512, 128), (32, 512, 128)),
    "all-minilm-l6-v2": ((8, 128, 0), (256, 128, 0)),
}


def main() -> None:
    """Measure, or predict and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--predict", type=Path, metavar="LOG")
    parser.add_argument("--device", default="h200")
    options = parser.parse_args()
    found = compared(options.predict, options.device) if options.predict else measured()
    rows = []
    for row in found:
        rows.append(row)
        print(json.dumps(row), flush=True)
    print(json.dumps(rows))


def measured() -> Iterator[dict[str, Any]]:
    """One row a configuration, workload, phase and plan."""
    for name, workloads in WORKLOADS.items():
        model = built(name)
        for batch, isl, osl in workloads:
            for phase, run in passes(model, batch, isl=isl, osl=osl).items():
                tokens = batch * isl if phase == "prefill" else batch
                case = {"model": name, "batch": batch, "isl": isl, "osl": osl, "phase": phase}
                for row in timed(model, run, tokens=tokens):
                    yield case | row
                torch.cuda.empty_cache()
        del model
        torch.cuda.empty_cache()


def config_of(name: str) -> Any:
    """The configuration as transformers knows it."""
    return transformers.AutoConfig.for_model(**CONFIGS[name])


def built(name: str) -> Any:
    """The model in bf16, random, on the GPU."""
    config = config_of(name)
    kind = getattr(transformers, config.architectures[0])
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = kind._from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


def passes(model: Any, batch: int, *, isl: int, osl: int) -> dict[str, Callable[[], None]]:
    """The phases of a workload."""
    vocabulary = model.config.vocab_size
    prompt = torch.randint(0, vocabulary, (batch, isl), device="cuda")
    step = torch.randint(0, vocabulary, (batch, 1), device="cuda")
    if osl:
        model.config.use_cache = False
    prefill = one_pass(model, {"input_ids": prompt})
    if not osl:
        return {"prefill": prefill}
    config, past = model.config, isl + osl // 2
    size = config.hidden_size // config.num_attention_heads
    shape = (batch, config.num_key_value_heads, past, size)
    inputs = {"input_ids": step, "position_ids": torch.full((batch, 1), past, device="cuda")}
    for layer in range(config.num_hidden_layers):
        for kind in ("key", "value"):
            past_states = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
            inputs[f"past_key_values.{layer}.{kind}"] = past_states
    return {"prefill": prefill, "decode": one_pass(model, inputs)}


def one_pass(model: Any, inputs: dict[str, torch.Tensor]) -> Callable[[], None]:
    """As a checkpoint is timed."""
    checkpoint = TimedCheckpoint(model, inputs)
    drop_attention_masks(model, checkpoint.run)

    def run() -> None:
        with torch.inference_mode():
            checkpoint.run()

    return run


def timed(model: Any, run: Callable[[], None], *, tokens: int) -> Iterator[dict[str, Any]]:
    """The dense model, and every plan by turns with it."""
    policy = TimingPolicy(max_seconds=4.0, target_relative_ci=0.005, rounds_per_window=3)
    dense = captured(run)
    for keep in KEEPS:
        plan = uniform(model, keep)
        with replaced(model, low_rank_layers(model, plan, dtype="bf16")):
            compressed = captured(run)
        timing = time_interleaved([dense, compressed], policy)
        yield {
            "keep": keep,
            "tokens": tokens,
            "dense_s": timing.latencies_s[0],
            "ratio": timing.ratios[1],
        }
        del compressed


def uniform(model: Any, keep: float) -> Plan:
    """Ranks of one share of the parameters in every layer of the blocks, in multiples of 64."""
    ranks = {
        name: int(keep * m.in_features * m.out_features / (m.in_features + m.out_features))
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and any(part.isdigit() for part in name.split("."))
    }
    return {name: low_rank(max(1, round(rank / 64)) * 64) for name, rank in ranks.items()}


def compared(log: Path, device: str) -> Iterator[dict[str, Any]]:
    """The rows of a log with what is predicted for them."""
    import autotune

    rows = json.loads(log.read_text().splitlines()[-1])
    with tempfile.TemporaryDirectory() as folder:
        asked: dict[tuple[Any, ...], Any] = {}
        for row in rows:
            key = tuple(row[name] for name in ("model", "batch", "isl", "osl"))
            if key not in asked:
                config_of(row["model"]).save_pretrained(folder)
                asked[key] = autotune.predict_model(
                    model=folder,
                    device=device,
                    batch_size=row["batch"],
                    isl=row["isl"],
                    osl=row["osl"],
                    allow_extrapolation=True,  # heads are wider than any layer of a table
                )
            (phase,) = [one for one in asked[key].phases if one.name == row["phase"]]
            dense = {"predicted_s": phase.latency_s, "low_s": phase.low_s, "high_s": phase.high_s}
            change = next((c for c in phase.changes if c.name == f"keep {row['keep']:g}"), None)
            found = {} if change is None else {"predicted": change.ratio}
            if change is not None:
                found |= {"ratio_low": change.ratio_low, "ratio_high": change.ratio_high}
            yield {**row, **dense, **found}


if __name__ == "__main__":
    main()
