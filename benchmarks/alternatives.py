"""What a user of sentence-transformers would otherwise pick, and our results, by turns.

    python benchmarks/alternatives.py --model DIR --texts TEXTS --work WORK --ours NAME=OUT …

Runs in an environment of its own, without this package, as a user of those libraries has it:

    pip install sentence-transformers 'optimum-onnx[onnxruntime]' optimum-intel openvino nncf

DIR is a folder of sentence-transformers, TEXTS has one text a line: the first half calibrates
nncf.quantize, the rest is what embeddings are compared on. OUT is the folder of a tuning; its
`model/` is opened by sentence-transformers, in the runtime that result.json names. Everything is
opened first, then each model encodes the same tokens by turns. What was exported is kept in WORK.
Prints one table; the last line is one JSON list of {name, latency_s, ratio, cosine}, ratio to
onnxruntime in fp32, cosine to torch in fp32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.functional import cosine_similarity

Encode = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
_REFERENCE, _TORCH = "onnxruntime fp32", "torch fp32"
_ONNX, _IR = "onnx/model.onnx", "openvino/openvino_model.xml"


def main() -> None:
    """Open everything, time it by turns, compare what it computes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ours", action="append", default=[], metavar="NAME=OUT")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = [line for line in options.texts.read_text().splitlines() if line.strip()]
    batches = _batches(options, texts)
    opened = dict(_alternatives(options, batches[: len(batches) // 2]))
    opened |= dict(_ours(options))
    seconds = _by_turns(opened, batches[-1], rounds=options.rounds)
    embeddings = {
        name: torch.cat([encode(batch) for batch in batches[len(batches) // 2 :]])
        for name, encode in opened.items()
    }
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "latency_s": statistics.median(seconds[name]),
            "ratio": statistics.median(
                a / b for a, b in zip(seconds[name], seconds[_REFERENCE], strict=True)
            ),
            "cosine": float(cosine_similarity(embeddings[name], embeddings[_TORCH]).mean()),
        }
        for name in opened
    ]
    print("| | latency | / onnxruntime fp32 | cosine |\n|---|---|---|---|")
    for row in sorted(rows, key=lambda one: one["ratio"]):
        print(
            f"| {row['name']} | {1e3 * row['latency_s']:.1f} ms | {row['ratio']:.3f} | "
            f"{row['cosine']:.4f} |"
        )
    print(json.dumps(rows))


def _batches(options: argparse.Namespace, texts: Sequence[str]) -> list[dict[str, torch.Tensor]]:
    """Tokens of the texts, each sequence of the full length."""
    tokenizer = SentenceTransformer(str(options.model), device="cpu").tokenizer
    rows = tokenizer(" ".join(texts), truncation=False, add_special_tokens=False)["input_ids"]
    inner = options.length - 2
    count = len(rows) // inner // options.batch_size * options.batch_size
    whole = [
        [tokenizer.cls_token_id, *rows[i * inner : (i + 1) * inner], tokenizer.sep_token_id]
        for i in range(count)
    ]
    ids = torch.tensor(whole).split(options.batch_size)
    return [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in ids]


def _encoder(model: SentenceTransformer) -> Encode:
    """The embeddings of a batch of tokens, through all modules of the model."""

    @torch.no_grad()
    def encode(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = model.forward(dict(batch))["sentence_embedding"]
        return found.float()

    return encode


def _opened(folder: Path, backend: Any, *, threads: int, **given: Any) -> Encode:
    """A folder as sentence-transformers opens it in a backend, with so many threads."""
    arguments: dict[str, Any] = dict(given)
    if backend == "onnx":
        import onnxruntime

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = threads
        arguments |= {"session_options": session, "provider": "CPUExecutionProvider"}
    if backend == "openvino":
        config = {"INFERENCE_NUM_THREADS": str(threads), **arguments.pop("ov_config", {})}
        arguments |= {"ov_config": config}
    model = SentenceTransformer(str(folder), backend=backend, device="cpu", model_kwargs=arguments)
    return _encoder(model)


def _alternatives(
    options: argparse.Namespace, calibration: Sequence[Mapping[str, torch.Tensor]]
) -> Iterator[tuple[str, Encode]]:
    """What the libraries offer for the model, in a line or two each."""
    work, threads = _exported(options, calibration), options.threads
    yield _TORCH, _encoder(SentenceTransformer(str(options.model), device="cpu"))
    yield _REFERENCE, _opened(work, "onnx", threads=threads)
    yield (
        "onnxruntime dynamic int8",
        _opened(work, "onnx", threads=threads, file_name="onnx/model_qint8_avx512_vnni.onnx"),
    )
    for name, hint in (("fp32", "f32"), ("bf16", "bf16")):
        config = {"INFERENCE_PRECISION_HINT": hint}
        yield f"OpenVINO {name}", _opened(work, "openvino", threads=threads, ov_config=config)
        yield (
            f"OpenVINO int8 (nncf.quantize), {name} elsewhere",
            _opened(
                work,
                "openvino",
                threads=threads,
                ov_config=config,
                file_name="openvino/openvino_model_int8.xml",
            ),
        )


def _exported(
    options: argparse.Namespace, calibration: Sequence[Mapping[str, torch.Tensor]]
) -> Path:
    """The model with the graphs of every alternative, made once."""
    from sentence_transformers import export_dynamic_quantized_onnx_model

    work: Path = options.work
    if not (work / _ONNX).is_file():
        exported = SentenceTransformer(str(options.model), backend="onnx", device="cpu")
        exported.save_pretrained(str(work))
        export_dynamic_quantized_onnx_model(exported, "avx512_vnni", str(work))
    if not (work / _IR).is_file():
        exported = SentenceTransformer(str(options.model), backend="openvino", device="cpu")
        exported.save_pretrained(str(work))
    rounded = work / "openvino" / "openvino_model_int8.xml"
    if not rounded.is_file():
        import nncf
        import openvino

        model = openvino.Core().read_model(str(work / _IR))
        names = [one.get_any_name() for one in model.inputs]
        feeds = [{n: _input(batch, n) for n in names} for batch in calibration]
        quantized = nncf.quantize(model, nncf.Dataset(feeds), model_type=nncf.ModelType.TRANSFORMER)
        openvino.save_model(quantized, str(rounded), compress_to_fp16=False)
    return work


def _input(batch: Mapping[str, torch.Tensor], name: str) -> np.ndarray[Any, Any]:
    """An input of the graph; segments are all 0."""
    tensor = batch[name] if name in batch else torch.zeros_like(batch["input_ids"])
    return tensor.numpy()


def _ours(options: argparse.Namespace) -> Iterator[tuple[str, Encode]]:
    """Results of tunings, as sentence-transformers opens them."""
    for text in options.ours:
        name, _, folder = text.partition("=")
        record = json.loads((Path(folder) / "result.json").read_text())
        backend = "openvino" if record["backend"] == "openvino-cpu" else "onnx"
        given = {"ov_config": record["runtime_options"]} if backend == "openvino" else {}
        yield (
            f"ours: {name}",
            _opened(Path(folder) / "model", backend, threads=options.threads, **given),
        )


def _by_turns(
    opened: Mapping[str, Encode], batch: Mapping[str, torch.Tensor], *, rounds: int
) -> dict[str, list[float]]:
    """Seconds of one batch in every round."""
    for encode in opened.values():
        for _ in range(3):
            encode(batch)
    found: dict[str, list[float]] = {name: [] for name in opened}
    for _ in range(rounds):
        for name, encode in opened.items():
            started_s = time.perf_counter()
            encode(batch)
            found[name].append(time.perf_counter() - started_s)
    return found


if __name__ == "__main__":
    main()
