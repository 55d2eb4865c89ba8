"""Documents of a finished tuning as somebody may have edited them by hand."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.security.malformed import both, cut, file, keys

Change = Callable[[Path], None]
RESULT, CONFIG, STAMP = "result.json", "model/config.json", "model/autotune.json"


def result(edit: Callable[[dict[str, Any]], Any]) -> Change:
    """Another content of `result.json`; what `edit` returns replaces it, unless that is None."""

    def change(folder: Path) -> None:
        path = folder / RESULT
        values = json.loads(path.read_text())
        returned = edit(values)
        path.write_text(json.dumps(values if returned is None else returned))

    return change


def put(value: Any, *path: str | int) -> Change:
    """One value of `result.json` replaced."""

    def edit(values: Any) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    return result(edit)


def plan_of(form: str) -> Change:
    """One form for every site of the plan."""
    return result(lambda values: values["plan"].update(dict.fromkeys(values["plan"], form)))


def emptied(*path: str | int) -> Change:
    """One value of `result.json` replaced by the empty one of its type: 0, "", [], {} or false."""

    def edit(values: Any) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = type(values[path[-1]])()

    return result(edit)


def without(key: str) -> Change:
    return result(lambda values: {k: v for k, v in values.items() if k != key})


def lowrank(**values: Any) -> Change:
    """Other values in the entry of `config.json` that says which layers are low-rank."""

    def change(folder: Path) -> None:
        path = folder / CONFIG
        config = json.loads(path.read_text())
        config["quantization_config"].update(values)
        path.write_text(json.dumps(config))

    return change


def layer(**values: Any) -> Change:
    """Other values of the first layer in that entry."""

    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        layers = config["quantization_config"]["layers"]
        name = sorted(layers)[0]
        lowrank(layers={**layers, name: {**layers[name], **values}})(folder)

    return change


_RAW = {
    "null": "null", "a list": "[]", "a number": "7", "text": '"x"', "nothing": "", "cut": '{"a": ',
    "no UTF-8": b'{"a": "\xff"}', "nested deeply": "[" * 100_000, "NaN": "NaN", "empty": "{}",
}  # fmt: skip
_KEYS = (
    "workload", "passes", "files", "builds", "artefacts", "sites", "rounds", "budget", "device",
    "plan", "quality", "staircases", "verdict", "schema_version", "measured_ratio", "latency_s",
    "dense_latency_s", "backend", "dtype", "model",
)  # fmt: skip
_ABSENT = ("builds", "latency_s")  # of those keys, in every result
_TIMED = ("latency_s", "dense_latency_s", "ratio", "ratio_low", "predicted_ratio", "name", "count")

# What `bench` refuses, or does as if nothing had happened where the value does not matter to it.
IMPOSSIBLE: dict[str, Change] = {
    "dense_latency_s": put(-0.001, "dense_latency_s"),
    "measured_ratio_low": put(99.0, "measured_ratio_low"),
    "passes[0].ratio": put(-0.5, "passes", 0, "ratio"),
    "passes[0].count": put(-1, "passes", 0, "count"),
    "sites[0].in_features": put(-64, "sites", 0, "in_features"),
    "cost.seconds": put(-2.0, "cost", "seconds"),
    "rounds[0].predicted_ratio": put(-0.1, "rounds", 0, "predicted_ratio"),
}
# What `bench` would look up or divide by.
EMPTY: dict[str, Change] = {
    "passes": emptied("passes"),
    "passes with count 0": emptied("passes", 1, "count"),
    "passes of another phase": put("decode", "workload", "phase"),
    "passes[0].dense_latency_s": emptied("passes", 0, "dense_latency_s"),
    "dense_latency_s": emptied("dense_latency_s"),
    "artefacts": emptied("artefacts"),
    "artefacts without one phase": result(
        lambda values: values["artefacts"].pop("decode") and None
    ),
}
RESULTS: dict[str, Change] = {
    **IMPOSSIBLE,
    **{f"empty: {name}": change for name, change in EMPTY.items()},
    **{f"{key} is empty or 0": emptied(key) for key in _KEYS if key not in _ABSENT},
    **{f"passes[1].{key} is 0": emptied("passes", 1, key) for key in _TIMED},
    **{f"result is {name}": file(RESULT, text) for name, text in _RAW.items()},
    **{f"without {key}": without(key) for key in _KEYS},
    **{f"{key} is null": put(None, key) for key in _KEYS},
    **{f"{key} is a list": put([1], key) for key in ("files", "sites", "plan", "budget")},
    "of version 2": put(2, "schema_version"),
    "of version 99": put(99, "schema_version"),
    "of version '3'": put("3", "schema_version"),
    "of version true": put(True, "schema_version"),
    "a latency of NaN": put(math.nan, "latency_s"),
    "a latency beyond floats": put(10**400, "dense_latency_s"),
    "a ratio of text": put("0.9", "measured_ratio"),
    "an unknown key": put(1, "colour"),
    "a plan of unknown forms": plan_of("rank=x"),
    "a plan of negative ranks": plan_of("rank=-1"),
    "sites without names": result(lambda v: [s.pop("name") for s in v["sites"]] and None),
    "a budget of text": put("0.9x", "budget"),
    "an unknown backend": put("magic", "backend"),
    "an unknown dtype": put("fp7", "dtype"),
}  # fmt: skip
# What `verify` calls invalid or refuses.
CHECKPOINTS: dict[str, Change] = {
    **{f"config is {name}": file(CONFIG, text) for name, text in _RAW.items()},
    "layers are null": lowrank(layers=None),
    "layers are a list": lowrank(layers=[1]),
    "layers are text": lowrank(layers="x"),
    "a layer is null": lowrank(layers={"model.layers.0.mlp.down_proj": None}),
    "a layer that the model lacks": lowrank(layers={"no.such": {}}),
    "a rank of text": layer(rank="x"),
    "a negative rank": layer(rank=-1),
    "a huge rank": layer(rank=10**9),
    "another size": layer(in_features=7),
    "another storage": layer(storage="nosuch"),
    "a leader that is none": layer(leader="nosuch"),
    "a leader of a list": layer(leader=[1]),
    "format 99": lowrank(format_version=99),
    "format of text": lowrank(format_version="x"),
    "an unknown key of the format": lowrank(colour=1),
    "quantization is null": keys(CONFIG, quantization_config=None),
    "quantization is text": keys(CONFIG, quantization_config="x"),
    "another quantization": keys(CONFIG, quantization_config={"quant_method": "gptq"}),
    "weights are cut": cut("model/model.safetensors"),
    "weights are empty": file("model/model.safetensors", b""),
    "no tokenizer": both(
        file("model/tokenizer.json", None), file("model/tokenizer_config.json", None)
    ),
    "the tokenizer is null": file("model/tokenizer.json", "null"),
    "the graph is cut": cut("model.onnx"),
    "the graph is empty": file("model.onnx", b""),
    "the graph is text": file("model.onnx", "x"),
    "the stamp is null": file(STAMP, "null"),
    "no report": file("report.html", None),
}
